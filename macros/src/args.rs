//! The arguments of the attribute.

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Expr, Ident, LitBool, LitStr, Path, Result, Token, parenthesized};

const ARGUMENTS: &str =
    "expected one of `name`, `kind`, `record`, `err`, `metrics`, `crate` after the component";

/// The values of `kind`, and the variants of `SpanKind`.
const KINDS: [(&str, &str); 5] = [
    ("internal", "Internal"),
    ("client", "Client"),
    ("server", "Server"),
    ("producer", "Producer"),
    ("consumer", "Consumer"),
];

pub(crate) struct Args {
    pub(crate) component: Expr,
    pub(crate) name: Option<LitStr>,
    /// A variant of `SpanKind`.
    pub(crate) kind: Option<Ident>,
    pub(crate) record: Vec<Record>,
    /// `None` means that the return type decides.
    pub(crate) err: Option<bool>,
    pub(crate) metrics: bool,
    pub(crate) krate: Option<Path>,
}

/// An attribute of the span.
pub(crate) struct Record {
    pub(crate) key: LitStr,
    pub(crate) form: Form,
    pub(crate) value: Value,
}

/// The format of an attribute's value.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    AsItIs,
    /// `%`
    Display,
    /// `?`
    Debug,
}

pub(crate) enum Value {
    /// An argument of the function. It is recorded by reference.
    Argument(Ident),
    Expr(Box<Expr>),
}

impl Parse for Args {
    fn parse(input: ParseStream) -> Result<Self> {
        const COMPONENT: &str = "expected the component whose tracer starts the span: \
                                 `#[with_tracer(\"component\")]`";

        if input.is_empty() {
            return Err(Error::new(Span::call_site(), COMPONENT));
        }
        let words = input.fork();
        if let Ok(word) = Ident::parse_any(&words)
            && ["name", "kind", "record", "err", "metrics", "crate"].contains(&&*word.to_string())
            && !words.peek(Token![::])
        {
            return Err(Error::new(word.span(), COMPONENT));
        }
        let mut args = Self {
            component: input.parse()?,
            name: None,
            kind: None,
            record: Vec::new(),
            err: None,
            metrics: false,
            krate: None,
        };
        let mut seen = Vec::new();
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let argument =
                Ident::parse_any(input).map_err(|error| Error::new(error.span(), ARGUMENTS))?;
            if seen.contains(&argument) {
                let message = format!("duplicate argument `{argument}`");
                return Err(Error::new(argument.span(), message));
            }
            args.parse_argument(&argument, input)?;
            seen.push(argument);
        }
        Ok(args)
    }
}

impl Args {
    fn parse_argument(&mut self, argument: &Ident, input: ParseStream) -> Result<()> {
        match argument.to_string().as_str() {
            "name" => {
                input.parse::<Token![=]>()?;
                self.name = Some(input.parse()?);
            }
            "kind" => {
                input.parse::<Token![=]>()?;
                self.kind = Some(kind(&input.parse()?)?);
            }
            "record" => {
                let list;
                parenthesized!(list in input);
                let list = Punctuated::<Record, Token![,]>::parse_terminated(&list)?;
                self.record = list.into_iter().collect();
            }
            "err" => {
                let given = input.parse::<Option<Token![=]>>()?;
                self.err = Some(match given {
                    Some(_) => input.parse::<LitBool>()?.value,
                    None => true,
                });
            }
            "metrics" => self.metrics = true,
            "crate" => {
                input.parse::<Token![=]>()?;
                self.krate = Some(input.call(Path::parse_mod_style)?);
            }
            _ => return Err(Error::new(argument.span(), ARGUMENTS)),
        }
        Ok(())
    }
}

fn kind(word: &Ident) -> Result<Ident> {
    let found = KINDS.iter().find(|(known, _)| word == known);
    let Some((_, variant)) = found else {
        let words = KINDS.map(|(word, _)| format!("`{word}`")).join(", ");
        return Err(Error::new(word.span(), format!("expected one of {words}")));
    };
    Ok(Ident::new(variant, word.span()))
}

/// Parses `argument`, or `key = expression` with a key of words and dots or a string. `%` and `?`
/// precede the argument or the expression, as in `tracing`.
impl Parse for Record {
    fn parse(input: ParseStream) -> Result<Self> {
        if input.peek(LitStr) {
            let key = input.parse()?;
            input.parse::<Token![=]>()?;
            return Self::parse_value(key, input);
        }
        let form = Form::parse(input)?;
        let first: Ident = input.call(Ident::parse_any)?;
        let mut key = first.unraw().to_string();
        while input.peek(Token![.]) {
            input.parse::<Token![.]>()?;
            let part: Ident = input.call(Ident::parse_any)?;
            key = format!("{key}.{}", part.unraw());
        }
        let has_dots = key.contains('.');
        let key = LitStr::new(&key, first.span());
        match form {
            Form::AsItIs if input.peek(Token![=]) => {
                input.parse::<Token![=]>()?;
                Self::parse_value(key, input)
            }
            Form::AsItIs if has_dots => {
                Err(input.error("expected `=` and the value of the attribute"))
            }
            Form::Display | Form::Debug if has_dots || input.peek(Token![=]) => {
                let message = "expected one argument after `%` or `?`; with a key, they precede \
                               the value: `key = %value`";
                Err(Error::new(first.span(), message))
            }
            _ => Ok(Self {
                key,
                form,
                value: Value::Argument(first),
            }),
        }
    }
}

impl Record {
    /// Parses the value after `=`.
    fn parse_value(key: LitStr, input: ParseStream) -> Result<Self> {
        let form = Form::parse(input)?;
        let value = Value::Expr(input.parse()?);
        Ok(Self { key, form, value })
    }
}

impl Parse for Form {
    fn parse(input: ParseStream) -> Result<Self> {
        if input.parse::<Option<Token![%]>>()?.is_some() {
            Ok(Self::Display)
        } else if input.parse::<Option<Token![?]>>()?.is_some() {
            Ok(Self::Debug)
        } else {
            Ok(Self::AsItIs)
        }
    }
}
