//! Checks the order of the rooms in `src`: imports point down, files form no circle, and no file is long.
//! Also checks the words that comments begin with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// The rooms from top to bottom. A room imports only from the rooms that follow it.
const ROOMS: [&str; 21] = [
    "layers",
    "init",
    "request",
    "pipeline",
    "layer_state",
    "instruments",
    "messaging",
    "handler",
    "carriers",
    "otlp",
    "config",
    "bridge",
    "providers",
    "logs",
    "stats",
    "propagation",
    "semconv",
    "request_headers",
    "attribute_set",
    "current_context",
    "concurrent",
];

const MAX_LINES: usize = 400;

/// The words that no comment begins with, because they leave out the noun.
const PRONOUNS: [&str; 5] = ["What", "Who", "Whoever", "Those", "That"];

/// A module: the names on its path from the root of the crate.
type Module = Vec<String>;

/// The sources of a crate, keyed by module.
struct Sources(BTreeMap<Module, String>);

impl Sources {
    fn read(root: &Path) -> Self {
        let mut sources = BTreeMap::new();
        for file in rust_files(root) {
            let text = fs::read_to_string(&file).expect("the source is readable");
            let path = file
                .strip_prefix(root)
                .expect("the file is in the folder")
                .with_extension("");
            let mut module: Module = path
                .iter()
                .map(|name| name.to_str().expect("the path is UTF-8").to_owned())
                .collect();
            if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
                module.pop();
            }
            sources.insert(module, text);
        }
        Self(sources)
    }

    /// Returns the imports of each module, without those of its tests.
    fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let imports = self.0.iter().map(|(module, text)| {
            let tokens: TokenStream = text.parse().expect("the source is Rust");
            let mut paths = Paths {
                module,
                children: self.children(module),
                inline: 0,
                found: Vec::new(),
            };
            paths.read(tokens);
            let imported = paths.found.into_iter().map(|path| self.module_of(path));
            let imported = imported.filter(|imported| imported != module).collect();
            (module.clone(), imported)
        });
        imports.collect()
    }

    fn children(&self, module: &Module) -> Vec<String> {
        let is_child = |other: &&Module| {
            other.len() == module.len() + 1 && other.starts_with(module.as_slice())
        };
        let children = self.0.keys().filter(is_child);
        children.filter_map(|child| child.last().cloned()).collect()
    }

    /// Returns the module that an item is in.
    fn module_of(&self, mut path: Module) -> Module {
        while !self.0.contains_key(&path) {
            path.pop();
        }
        path
    }
}

/// Returns the Rust files in a folder, without the results of builds.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Collects the paths that begin at the crate, at the module or at one of its children.
struct Paths<'a> {
    module: &'a Module,
    children: Vec<String>,
    /// The number of inline modules around the tokens being read.
    inline: usize,
    found: Vec<Module>,
}

impl Paths<'_> {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Punct(punct)
                    if punct.as_char() == '#' && is_left_out(tokens.get(at + 1)) =>
                {
                    at += 2;
                    while !ends_item(tokens.get(at)) {
                        at += 1;
                    }
                }
                TokenTree::Group(group) => {
                    let is_module = matches!(&tokens[..at], [.., TokenTree::Ident(word), TokenTree::Ident(_)] if word == "mod");
                    self.inline += usize::from(is_module);
                    self.read(group.stream());
                    self.inline -= usize::from(is_module);
                }
                TokenTree::Ident(ident) if !is_path_sep(&tokens[..at]) => {
                    let name = ident.to_string();
                    let above = |levels| self.module[..self.module.len() - levels].to_vec();
                    let start = match &*name {
                        "crate" => Some(Vec::new()),
                        "self" => Some(above(0)),
                        "super" => Some(above(usize::from(self.inline == 0))),
                        _ if self.children.contains(&name) => Some([above(0), vec![name]].concat()),
                        _ => None,
                    };
                    if let Some(start) = start
                        && is_path_sep(tokens.get(..at + 3).unwrap_or_default())
                    {
                        self.follow(start, &tokens[at + 3..]);
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// Follows a path past its `::`, into each branch of a group.
    fn follow(&mut self, mut path: Module, tokens: &[TokenTree]) {
        match tokens.first() {
            Some(TokenTree::Ident(ident)) => {
                path.push(ident.to_string());
                if is_path_sep(tokens.get(..3).unwrap_or_default()) {
                    self.follow(path, &tokens[3..]);
                } else {
                    self.found.push(path);
                }
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let tokens: Vec<_> = group.stream().into_iter().collect();
                let is_comma =
                    |token: &TokenTree| matches!(token, TokenTree::Punct(p) if p.as_char() == ',');
                for branch in tokens.split(is_comma) {
                    self.follow(path.clone(), branch);
                }
            }
            _ => self.found.push(path),
        }
    }
}

/// Returns whether tokens end with `::`.
fn is_path_sep(tokens: &[TokenTree]) -> bool {
    let [.., TokenTree::Punct(first), TokenTree::Punct(second)] = tokens else {
        return false;
    };
    (first.as_char(), first.spacing(), second.as_char()) == (':', Spacing::Joint, ':')
}

/// Returns whether an attribute marks tests, or a macro for users (which names public paths).
fn is_left_out(attribute: Option<&TokenTree>) -> bool {
    attribute.is_some_and(|attribute| {
        let text = attribute.to_string().replace(' ', "");
        let is_test = text == "[cfg(test)]" || text.starts_with("[cfg(all(test,");
        is_test || text == "[macro_export]"
    })
}

fn ends_item(token: Option<&TokenTree>) -> bool {
    match token {
        Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Brace,
        Some(TokenTree::Punct(punct)) => punct.as_char() == ';',
        Some(_) => false,
        None => true,
    }
}

/// Returns the imports that do not point down and the modules that are in no known room.
fn misplaced(sources: &Sources) -> Vec<String> {
    let floor = |module: &Module| match module.first() {
        Some(room) => ROOMS
            .iter()
            .position(|known| known == room)
            .map(|floor| floor + 1),
        None => Some(0),
    };
    let mut misplaced = Vec::new();
    for (module, imports) in sources.imports() {
        let Some(own) = floor(&module) else {
            misplaced.push(format!("{} is in no known room", module.join("::")));
            continue;
        };
        for imported in imports {
            let is_own_room = module.first() == imported.first();
            if !is_own_room && floor(&imported).is_some_and(|below| below <= own) {
                misplaced.push(format!(
                    "{} imports from crate::{}",
                    module.join("::"),
                    imported.join("::")
                ));
            }
        }
    }
    misplaced
}

/// Returns the modules that import themselves through others.
fn circles(sources: &Sources) -> Vec<String> {
    let imports = sources.imports();
    let returns = |start: &Module| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<_> = imports[start].iter().collect();
        while let Some(module) = next.pop() {
            if module == start {
                return true;
            }
            if seen.insert(module) {
                next.extend(&imports[module]);
            }
        }
        false
    };
    let circles = imports.keys().filter(|module| returns(module));
    circles.map(|module| module.join("::")).collect()
}

/// Returns whether a line is a comment that begins with a pronoun in place of a noun. Questions are allowed.
fn begins_with_pronoun(line: &str) -> bool {
    let Some(comment) = line.trim_start().strip_prefix("//") else {
        return false;
    };
    let words = comment.trim_start_matches(['/', '!']).trim();
    let first = words.split(|char: char| !char.is_alphanumeric()).next();
    let is_pronoun = first.is_some_and(|word| PRONOUNS.contains(&word));
    is_pronoun && !words.ends_with('?')
}

fn source_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn sources_of<const N: usize>(sources: [(&str, &str); N]) -> Sources {
    let sources = sources.map(|(module, text)| {
        let names = module.split("::").filter(|name| !name.is_empty());
        (names.map(str::to_owned).collect(), text.to_owned())
    });
    Sources(sources.into())
}

#[test]
fn imports_point_down() {
    let sources = Sources::read(&source_folder("src"));
    assert!(sources.0.len() > ROOMS.len(), "the sources are found");
    assert_eq!(misplaced(&sources), [""; 0]);
}

#[test]
fn files_import_each_other_in_no_circle() {
    let sources = Sources::read(&source_folder("src"));
    assert_eq!(circles(&sources), [""; 0]);
}

#[test]
fn no_file_is_longer_than_400_lines_without_its_tests() {
    for folder in ["src", "macros/src"] {
        for file in rust_files(&source_folder(folder)) {
            let text = fs::read_to_string(&file).expect("the source is readable");
            let code = text.split("\nmod tests {").next();
            let lines = code.unwrap_or_default().lines().count();
            assert!(lines <= MAX_LINES, "{}: {lines} lines", file.display());
        }
    }
}

#[test]
fn every_log_line_names_its_target() {
    for (module, text) in Sources::read(&source_folder("src")).0 {
        for level in ["trace", "debug", "info", "warn", "error"] {
            for call in text.split(&format!("tracing::{level}!(")).skip(1) {
                let named = call.trim_start().starts_with("target:");
                assert!(named, "{}: {level}!({call:.60}", module.join("::"));
            }
        }
    }
}

#[test]
fn no_comment_begins_with_a_pronoun_in_place_of_a_noun() {
    for folder in ["src", "macros/src", "tests", "examples", "benches"] {
        for file in rust_files(&source_folder(folder)) {
            let text = fs::read_to_string(&file).expect("the source is readable");
            let found: Vec<_> = text
                .lines()
                .filter(|line| begins_with_pronoun(line))
                .collect();
            assert_eq!(found, [""; 0], "{}", file.display());
        }
    }
}

#[test]
fn a_pronoun_is_found_at_the_start_of_every_kind_of_comment() {
    for line in [
        "//! What is measured: requests.",
        "    /// Who is not trusted is ignored.",
        "// Those that were added later.",
        "//That of the parent.",
        "// Whoever waits for it.",
    ] {
        assert!(begins_with_pronoun(line), "{line}");
    }
    for line in [
        "/// Whatever the status is, the body is read.",
        "/// The span of the request, and that of its parent.",
        "// What happens if the queue is full?",
        "let text = \"What\"; // What",
        "/// # What is recorded",
    ] {
        assert!(!begins_with_pronoun(line), "{line}");
    }
}

#[test]
fn an_upward_import_is_found_in_each_of_its_forms() {
    for import in [
        "use crate::layers::server::Telemetry;",
        "use crate::{concurrent::table, layers::server};",
        "use super::super::layers;",
        "fn f() { crate::layers::server::f() }",
        "macro_rules! m { () => { $crate::layers::server::f() } }",
        "use crate::Config;",
    ] {
        let sources = sources_of([
            ("", ""),
            ("layers", ""),
            ("layers::server", ""),
            ("concurrent", ""),
            ("semconv::http", import),
        ]);
        assert_eq!(misplaced(&sources).len(), 1, "{import}");
    }
    for import in [
        "use crate::concurrent::table;",
        "#[cfg(test)] mod tests { use crate::layers::server; }",
        "// crate::layers::server\n",
        "/// [x](crate::layers::server)\nfn f() {}",
        "use other::layers::server;",
    ] {
        let sources = sources_of([
            ("", ""),
            ("layers::server", ""),
            ("concurrent", ""),
            ("semconv::http", import),
        ]);
        assert_eq!(misplaced(&sources), [""; 0], "{import}");
    }
    let unknown = sources_of([("", ""), ("attic", "")]);
    assert_eq!(misplaced(&unknown), ["attic is in no known room"]);
}

#[test]
fn a_circle_is_found_through_the_mod_file_of_a_folder_too() {
    let sources = sources_of([
        ("", ""),
        (
            "otlp",
            "mod client; pub(crate) use client::Client; const N: u8 = 0;",
        ),
        ("otlp::client", "use super::N;"),
        ("otlp::json", ""),
    ]);
    assert_eq!(circles(&sources), ["otlp", "otlp::client"]);
}
