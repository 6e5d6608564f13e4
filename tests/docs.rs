//! The README and the pages in `docs`: their links, names and figures are correct.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Component, Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the files with an extension in a folder, as paths below the root.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("the folder is readable");
    let names = entries.map(|entry| entry.expect("the entry is readable").file_name());
    let paths = names.map(|name| Path::new(folder).join(name));
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    paths.sort();
    paths
}

/// Returns the pages that are also in rustdoc, the README first.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![PathBuf::from("README.md")];
    pages.extend(files("docs", "md"));
    pages
}

/// Returns the lines of a page that are not in a code block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// Returns a line with its inline code replaced by blanks.
fn without_code(line: &str) -> String {
    let parts = line.split('`').enumerate();
    parts
        .map(|(index, part)| if index % 2 == 0 { part } else { "" })
        .collect()
}

/// Returns the label and the target of a link definition such as `[label]: target`.
fn definition(line: &str) -> Option<(&str, &str)> {
    let (label, target) = line.strip_prefix('[')?.split_once("]: ")?;
    Some((label, target.trim()))
}

fn definitions(text: &str) -> BTreeMap<&str, &str> {
    prose(text).filter_map(definition).collect()
}

/// Returns the targets of inline links, `[text](target)`.
fn inline_targets(text: &str) -> Vec<String> {
    let lines = prose(text).map(without_code).collect::<Vec<_>>().join("\n");
    let rest = lines.split("](").skip(1);
    let targets = rest.filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// Returns the labels of links that need a definition: `[text][label]`, and `[label]` alone.
fn labels(text: &str) -> Vec<String> {
    let mut labels = Vec::new();
    let lines = prose(text).filter(|line| definition(line).is_none());
    let text = lines.map(without_code).collect::<Vec<_>>().join(" ");
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once('[') {
        let Some((label, after)) = after.split_once(']') else {
            break;
        };
        if let Some(explicit) = after.strip_prefix('[') {
            let (label, after) = explicit.split_once(']').expect("the bracket is closed");
            labels.push(label.to_owned());
            rest = after;
        } else {
            if !after.starts_with('(') {
                labels.push(label.to_owned());
            }
            rest = after;
        }
    }
    labels
}

/// Returns the anchors of a page, in the form of GitHub and rustdoc.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let anchors = headings.map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|one| one.is_alphanumeric() || matches!(one, ' ' | '-' | '_'));
        kept.map(|one| if one == ' ' { '-' } else { one }).collect()
    });
    anchors.collect()
}

/// Returns the target of a relative link on a page, as a path below the root.
fn resolve(page: &Path, target: &str) -> PathBuf {
    let mut path = page.parent().expect("the page is a file").to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{target} leads out of the repository"),
            part => path.push(part),
        }
    }
    path
}

fn is_relative(target: &str) -> bool {
    !target.contains("://") && !target.starts_with("mailto:")
}

fn assert_target_exists(page: &Path, target: &str) {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match path {
        "" => page.to_owned(),
        path => resolve(page, path),
    };
    let shown = page.display();
    assert!(root().join(&path).exists(), "{shown} links to {target}");
    if !anchor.is_empty() {
        let anchors = anchors(&read(&path));
        let known = anchors.contains(anchor);
        assert!(known, "{shown} links to {target}, of {anchors:#?}");
    }
}

#[test]
fn every_relative_link_and_anchor_resolves() {
    let mut checked = 0;
    let more = ["CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from);
    for page in pages().into_iter().chain(more) {
        let text = read(&page);
        let definitions = definitions(&text);
        let defined = definitions.values().map(|target| (*target).to_owned());
        for target in inline_targets(&text).into_iter().chain(defined) {
            if is_relative(&target) {
                assert_target_exists(&page, &target);
                checked += 1;
            }
        }
        if page != Path::new("CHANGELOG.md") {
            for label in labels(&text) {
                let known = definitions.contains_key(label.as_str());
                assert!(known, "{} has no link [{label}]", page.display());
            }
        }
    }
    assert!(checked > 50, "too few links were found");
}

/// Relative links do not work in rustdoc. There, the first definition of a label applies, which is
/// in `src/docs_links.md`.
#[test]
fn every_relative_link_leads_to_the_same_place_in_rustdoc() {
    let text = read("src/docs_links.md");
    let mut unused = definitions(&text);
    let in_rustdoc = unused.clone();
    for page in pages() {
        let text = read(&page);
        for target in inline_targets(&text) {
            let is_anchor = target.starts_with('#');
            let shown = page.display();
            assert!(
                is_anchor || !is_relative(&target),
                "{shown}: {target} needs a definition at the end of the page"
            );
        }
        for (label, target) in definitions(&text) {
            if !is_relative(target) {
                continue;
            }
            let (path, anchor) = match target.split_once('#') {
                Some((path, anchor)) => (path, format!("#{anchor}")),
                None => (target, String::new()),
            };
            let path = resolve(&page, path);
            let path = path.to_str().expect("the path is UTF-8").replace('\\', "/");
            let name = path
                .strip_prefix("docs/")
                .and_then(|name| name.strip_suffix(".md"));
            let expected = match name {
                Some(name) => format!("crate::docs::{name}{anchor}"),
                None if path == "README.md" => format!("crate{anchor}"),
                None => {
                    format!("https://docs.rs/crate/tower-telemetry/latest/source/{path}{anchor}")
                }
            };
            let found = in_rustdoc.get(label).copied();
            assert_eq!(found, Some(expected.as_str()), "[{label}]");
            unused.remove(label);
        }
    }
    assert!(unused.is_empty(), "no page uses {unused:#?}");
}

#[test]
fn every_page_is_in_rustdoc() {
    let source = read("src/lib.rs");
    for page in files("docs", "md") {
        let path = format!("\"../{}\"", page.display()).replace('\\', "/");
        assert!(source.contains(&path), "{path}");
    }
}

#[test]
fn the_readme_has_at_most_900_words() {
    let words = read("README.md").split_whitespace().count();
    assert!(words <= 900, "{words} words; move some to a page of docs");
}

/// Returns the rows of all tables of a page that have the header `head`, as cells.
fn tables(text: &str, head: &str) -> Vec<Vec<String>> {
    let head = format!("{head}\n");
    let tables = text.split(&head).skip(1);
    let tables = tables.map(|rest| rest.split("\n\n").next().unwrap_or_default());
    let lines = tables.flat_map(|table| table.lines().skip(1));
    let rows = lines.map(|line| {
        let line = line.replace("\\|", "¦");
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().to_owned()).collect()
    });
    rows.collect()
}

/// Returns the texts in backticks of a cell.
fn codes(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Returns the public functions in `files` whose names begin with `with` or `without`.
fn setters(files: &[PathBuf]) -> BTreeSet<String> {
    let mut setters = BTreeSet::new();
    for file in files {
        for rest in read(file).split("pub fn with").skip(1) {
            let is_end = |one: char| !(one.is_alphanumeric() || one == '_');
            let name = rest.split(is_end).next().unwrap_or_default();
            setters.insert(format!("with{name}"));
        }
    }
    setters
}

/// Returns the setters in a column of a table. No setter may be listed twice.
fn listed(rows: &[Vec<String>], column: usize) -> BTreeSet<String> {
    let mut listed = BTreeSet::new();
    for name in rows.iter().flat_map(|row| codes(&row[column])) {
        assert!(listed.insert(name.to_owned()), "{name} is listed twice");
    }
    listed
}

#[test]
fn the_configuration_page_lists_exactly_the_setters_of_config() {
    let rows = tables(
        &read("docs/configuration.md"),
        "| variable | setter | meaning |",
    );
    let setters = setters(&files("src/config", "rs"));
    assert!(setters.len() > 50, "too few setters were found");
    assert_eq!(listed(&rows, 1), setters);
}

#[test]
fn the_layers_page_lists_exactly_the_setters_of_the_layers() {
    let rows = tables(&read("docs/layers.md"), "| setter | what it changes |");
    let files = ["setters", "server", "client"].map(|name| format!("src/layers/{name}.rs").into());
    assert_eq!(listed(&rows, 0), setters(&files));
}

#[test]
fn every_test_that_the_compliance_page_names_exists() {
    let text = read("docs/compliance.md");
    let mut named = 0;
    for head in ["variable", "feature"] {
        let head = format!("| {head} | opentelemetry 0.33 | this crate | test |");
        for row in tables(&text, &head) {
            let cell = &row[3];
            // A feature that this crate lacks needs no test.
            assert!(!cell.is_empty() || row[2] == "no", "{row:?} has no test");
            for name in codes(cell) {
                let (file, test) = name.split_once("::").expect("the name is `file::test`");
                let path = format!("tests/it/{file}.rs");
                let path = match root().join(&path).exists() {
                    true => path,
                    false => format!("tests/{file}.rs"),
                };
                let has_test = read(&path).contains(&format!("fn {test}()"));
                assert!(has_test, "{path} has no test {test}");
                named += 1;
            }
        }
    }
    assert!(named > 40, "too few tests were found");
}

/// Returns the text of all sources, with each string literal on one line.
fn all_sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() {
            all_sources(&path, text);
        } else {
            let source = fs::read_to_string(&path).expect("the source is UTF-8");
            let mut lines = source.split("\\\n");
            text.push_str(lines.next().unwrap_or_default());
            lines.for_each(|line| text.push_str(line.trim_start()));
        }
    }
}

#[test]
fn every_message_on_the_troubleshooting_page_is_in_the_sources() {
    let mut sources = String::new();
    all_sources(&root().join("src"), &mut sources);
    let rows = tables(&read("docs/troubleshooting.md"), "| message | what to do |");
    assert!(rows.len() > 10, "too few rows were found");
    for row in rows {
        for message in codes(&row[0]) {
            assert!(sources.contains(message), "no source has {message:?}");
        }
    }
}

#[test]
fn every_hint_about_failed_exports_is_on_the_troubleshooting_page() {
    let source = read("src/pipeline/hints.rs");
    let (_, source) = source.split_once("fn hint(").expect("the function exists");
    let page = read("docs/troubleshooting.md");
    let literals = source.split('"').skip(1).step_by(2);
    let hints: Vec<_> = literals.filter(|literal| literal.contains(' ')).collect();
    assert!(hints.len() > 10, "too few hints were found");
    for hint in hints {
        assert!(
            page.contains(&format!("`{hint}`")),
            "the page lacks {hint:?}"
        );
    }
}

/// The name and the value of a bar in a chart.
type Bar = (String, u64);

fn number(cell: &str) -> u64 {
    cell.replace(',', "")
        .parse()
        .expect("the cell is a whole number")
}

/// Returns the instructions of a sampled request, for the stacks that record spans.
fn instructions(page: &str) -> Vec<Bar> {
    let head = "| | sampled: ns | instructions | allocations | attributes | not sampled: ns | \
                instructions | allocations |";
    let rows = tables(page, head).into_iter();
    let with_spans = rows.filter(|row| !row[4].is_empty());
    let mut bars: Vec<_> = with_spans
        .map(|row| (row[0].clone(), number(&row[2])))
        .collect();
    bars.sort_by_key(|(_, value)| *value);
    bars
}

/// Returns the requests per second of whole servers: with all requests sampled, and without a
/// layer.
fn throughput(page: &str) -> Vec<Bar> {
    let head = "| server | sampled | requests/s | relative to no telemetry | p99 | spans that arrived | \
                export, µs/span |";
    let rows = tables(page, head).into_iter();
    let wanted =
        rows.filter(|row| row[0] == "bare" || row[1] == "100 %" && row[0] != "example server");
    let mut bars: Vec<_> = wanted
        .map(|row| (row[0].replace("bare", "no layer"), number(&row[2])))
        .collect();
    bars.sort_by_key(|(_, value)| std::cmp::Reverse(*value));
    bars
}

fn with_commas(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Draws the charts as an SVG that follows the light or dark mode of the browser.
fn draw(charts: &[(&str, Vec<Bar>)]) -> String {
    const NAMES: u64 = 350;
    const BARS: u64 = 320;
    let mut body = String::new();
    let mut y = 14;
    for (title, bars) in charts {
        y += 18;
        let _ = writeln!(
            body,
            "<text class=\"title\" x=\"16\" y=\"{y}\">{title}</text>"
        );
        y += 10;
        let longest = bars.iter().map(|(_, value)| *value).max().unwrap_or(1);
        for (name, value) in bars {
            let class = match name.starts_with("tower-telemetry") {
                true => "ours",
                false => "other",
            };
            let (width, middle) = (BARS * value / longest, y + 15);
            let (end, value) = (NAMES + width + 6, with_commas(*value));
            let _ = writeln!(
                body,
                "<text class=\"name\" x=\"{}\" y=\"{middle}\">{name}</text>\
                 <rect class=\"{class}\" x=\"{NAMES}\" y=\"{}\" width=\"{width}\" height=\"14\"/>\
                 <text x=\"{end}\" y=\"{middle}\">{value}</text>",
                NAMES - 8,
                y + 4,
            );
            y += 22;
        }
        y += 14;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 {y}\" width=\"760\" height=\"{y}\" \
         role=\"img\">\n\
         <style>\n\
         text {{ font: 12px sans-serif; fill: #1f2328 }}\n\
         .title {{ font-weight: bold }} .name {{ text-anchor: end }}\n\
         .page {{ fill: #ffffff }} .ours {{ fill: #0969da }} .other {{ fill: #8c959f }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         text {{ fill: #e6edf3 }} .page {{ fill: #0d1117 }} .ours {{ fill: #4493f8 }} .other {{ fill: #6e7681 }}\n\
         }}\n\
         </style>\n\
         <rect class=\"page\" width=\"760\" height=\"{y}\" rx=\"6\"/>\n\
         {body}</svg>\n"
    )
}

/// `UPDATE_CHART=1 cargo test --test docs chart` updates the chart.
#[test]
fn the_chart_shows_the_figures_of_the_tables() {
    let page = read("docs/benchmarks.md");
    let (instructions, throughput) = (instructions(&page), throughput(&page));
    // The alternative text of the picture has the figures, too.
    let alternative = page.lines().find(|line| line.starts_with("!["));
    let alternative = alternative.expect("the page has a picture");
    for bars in [&instructions, &throughput] {
        let ours = bars.iter().find(|(name, _)| name == "tower-telemetry");
        let ours = with_commas(ours.expect("the chart has this crate").1);
        assert!(alternative.contains(&ours), "{ours}");
    }
    let chart = draw(&[
        (
            "Instructions per sampled request; less is better",
            instructions,
        ),
        (
            "Requests per second, all sampled; more is better",
            throughput,
        ),
    ]);
    if std::env::var_os("UPDATE_CHART").is_some() {
        fs::write(root().join("docs/benchmarks.svg"), &chart).expect("the file is writable");
    }
    assert_eq!(read("docs/benchmarks.svg"), chart);
}
