//! The attribute macro of [`tower-telemetry`](https://docs.rs/tower-telemetry), which re-exports
//! and documents it.

mod args;
mod expand;
mod output;

use proc_macro::TokenStream;
use syn::parse_macro_input;

/// Runs a function in a span. `tower-telemetry` documents it where it re-exports it.
#[proc_macro_attribute]
pub fn with_tracer(args: TokenStream, item: TokenStream) -> TokenStream {
    let args = parse_macro_input!(args as args::Args);
    let function = parse_macro_input!(item as expand::Function);
    expand::expand(&args, function)
        .unwrap_or_else(syn::Error::into_compile_error)
        .into()
}
