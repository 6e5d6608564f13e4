//! Expands a function into the same function with a span.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::token::Brace;
use syn::{
    Attribute, Block, Error, Expr, Ident, Result, ReturnType, Signature, Stmt, Type, Visibility,
    braced,
};

use crate::args::{Args, Form, Record, Value};
use crate::output::{error_borrows, future_output, is_future, is_result, writable_type};

/// A function or method with a body.
pub(crate) struct Function {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    defaultness: Option<syn::Token![default]>,
    signature: Signature,
    /// The attributes at the start of the body.
    inner_attributes: Vec<Attribute>,
    block: Block,
}

impl Parse for Function {
    fn parse(input: ParseStream) -> Result<Self> {
        const ONLY: &str = "`#[with_tracer]` supports only functions and methods";
        let attributes = input.call(Attribute::parse_outer)?;
        let start = input.span();
        let visibility = input.parse()?;
        let defaultness = input.parse()?;
        let signature: Signature = input.parse().map_err(|error| {
            // If the item is a function after all, the parser's error explains what is wrong.
            let mut error_of_kind = Error::new(start, ONLY);
            error_of_kind.combine(error);
            error_of_kind
        })?;
        if input.peek(syn::Token![;]) {
            let message = "`#[with_tracer]` requires a function with a body: put the attribute \
                           on the implementations of this method";
            return Err(Error::new_spanned(signature, message));
        }
        let body;
        let brace_token = braced!(body in input);
        let inner_attributes = body.call(Attribute::parse_inner)?;
        let stmts = body.call(Block::parse_within)?;
        Ok(Self {
            attributes,
            visibility,
            defaultness,
            signature,
            inner_attributes,
            block: Block {
                brace_token: quiet(brace_token),
                stmts,
            },
        })
    }
}

/// Gives the braces of a body the span of the macro. The body becomes a nested block, and the
/// compiler would warn about unnecessary braces if it were on one line.
fn quiet(braces: Brace) -> Brace {
    Brace(Span::mixed_site().located_at(braces.span.join()))
}

/// How a function's body runs.
enum Body {
    Sync,
    Async,
    /// The function ends with an `async` block and returns its future. `async-trait` expands
    /// methods to this form.
    ReturnsAsync,
}

pub(crate) fn expand(args: &Args, function: Function) -> Result<TokenStream> {
    let Function {
        attributes,
        visibility,
        defaultness,
        signature,
        inner_attributes,
        mut block,
    } = function;
    if let Some(token) = signature.constness {
        let message = "a `const fn` cannot start a span";
        return Err(Error::new(token.span, message));
    }
    let krate = match &args.krate {
        Some(path) => path.to_token_stream(),
        None => quote!(::tower_telemetry),
    };
    let kind = match (&signature.asyncness, tail_future(&mut block)) {
        (Some(_), _) => Body::Async,
        (None, Some(_)) => Body::ReturnsAsync,
        (None, None) => Body::Sync,
    };
    if let (Body::Sync, ReturnType::Type(_, output)) = (&kind, &signature.output)
        && is_future(output)
    {
        let message = "the span would end before this future runs: make it an `async fn`, or end the \
                       function with an `async` block, alone or in `Box::pin`";
        return Err(Error::new_spanned(output, message));
    }
    let output = match (&signature.output, &kind) {
        (ReturnType::Default, _) => None,
        (ReturnType::Type(_, output), Body::ReturnsAsync) => future_output(output),
        (ReturnType::Type(_, output), _) => Some((**output).clone()),
    };
    let span = Span::mixed_site().located_at(signature.ident.span());
    let observe = match args.err {
        Some(false) => None,
        Some(true) => Some(observer(&krate, output.as_ref(), true, span)),
        None => output
            .as_ref()
            .filter(|output| is_result(output))
            .map(|output| observer(&krate, Some(output), false, span)),
    };
    let start = start(args, &krate, &signature, span);
    let body = match kind {
        Body::Sync => in_guard(&start, output.as_ref(), &block, observe.as_ref(), span),
        Body::Async => {
            name_output(&mut block, &krate, output.as_ref());
            let future = in_future(&krate, &quote!(async move #block), observe.as_ref(), span);
            quote_spanned! {span=>
                let run = #start;
                #future.await
            }
        }
        Body::ReturnsAsync => {
            let Some(future) = tail_future(&mut block) else {
                return Err(Error::new(span, "the `async` block at the end is missing"));
            };
            if let Expr::Async(future) = &mut *future {
                name_output(&mut future.block, &krate, output.as_ref());
            }
            let inner = in_future(&krate, &future.to_token_stream(), observe.as_ref(), span);
            // The span starts when the future is first polled, as with an `async fn`.
            *future = Expr::Verbatim(quote_spanned! {span=>
                async move {
                    let run = #start;
                    #inner.await
                }
            });
            block.stmts.iter().map(ToTokens::to_token_stream).collect()
        }
    };
    Ok(quote! {
        #(#attributes)*
        #visibility #defaultness #signature {
            #(#inner_attributes)*
            #body
        }
    })
}

/// Returns the expression that starts the span.
fn start(args: &Args, krate: &TokenStream, signature: &Signature, span: Span) -> TokenStream {
    let component = &args.component;
    let function = syn::ext::IdentExt::unraw(&signature.ident).to_string();
    let name = match &args.name {
        Some(name) => name.value(),
        None => function.clone(),
    };
    let kind = match &args.kind {
        Some(kind) => kind.clone(),
        None => Ident::new("Internal", span),
    };
    let metrics = match (args.metrics, signature.receiver()) {
        (false, _) => quote_spanned!(span=> ::core::option::Option::None),
        // Methods of different types may have the same name.
        (true, Some(_)) => quote_spanned! {span=>
            ::core::option::Option::Some((::core::any::type_name::<Self>(), #function))
        },
        (true, None) => quote_spanned! {span=>
            ::core::option::Option::Some((::core::module_path!(), #function))
        },
    };
    let attributes = args.record.iter().map(|Record { key, form, value }| {
        let record = match form {
            Form::AsItIs => quote_spanned!(span=> record),
            Form::Display => quote_spanned!(span=> record_display),
            Form::Debug => quote_spanned!(span=> record_debug),
        };
        let value = match value {
            Value::Argument(argument) => quote_spanned!(argument.span()=> &#argument),
            // A variable or a field is recorded by reference, so that it is not moved.
            Value::Expr(expr)
                if !matches!(form, Form::AsItIs)
                    || matches!(**expr, Expr::Path(_) | Expr::Field(_)) =>
            {
                quote_spanned!(expr.span()=> &#expr)
            }
            Value::Expr(expr) => expr.to_token_stream(),
        };
        let at = span.located_at(value.span());
        quote_spanned! {at=>
            #krate::__private::#record(attributes, #key, #value);
        }
    });
    quote_spanned! {span=>
        #krate::__private::start(
            #component,
            #name,
            #krate::__private::SpanKind::#kind,
            #metrics,
            &|attributes| {
                let _ = &attributes;
                #(#attributes)*
            },
        )
    }
}

/// Returns the closure that records the error of a `Result`, or of a type whose name ends with it.
fn observer(
    krate: &TokenStream,
    output: Option<&Type>,
    is_certain: bool,
    span: Span,
) -> TokenStream {
    // A type that borrows cannot be checked for traits that require `'static`.
    let asks_all = if output.is_some_and(error_borrows) {
        None
    } else {
        Some(quote_spanned!(span=> use #krate::__private::{FailAsDyn as _, FailAsKnown as _};))
    };
    let failed = quote_spanned! {span=>
        #asks_all
        use #krate::__private::{
            FailWithMessage as _, FailWithSources as _, FailWithType as _,
        };
        (&&&&&#krate::__private::Failed(error)).fail(run);
    };
    if is_certain {
        return quote_spanned! {span=>
            |result: &_, run: &mut #krate::__private::Run| {
                if let ::core::result::Result::Err(error) = result {
                    #failed
                }
            }
        };
    }
    quote_spanned! {span=>
        |result: &_, run: &mut #krate::__private::Run| {
            use #krate::__private::{IsNoResult as _, IsResult as _};
            if let ::core::option::Option::Some(error) =
                (&#krate::__private::Returned(result)).error()
            {
                #failed
            }
        }
    }
}

/// Returns synchronous code in a span. The body is unchanged unless its result is recorded.
fn in_guard(
    start: &TokenStream,
    output: Option<&Type>,
    block: &Block,
    observe: Option<&TokenStream>,
    span: Span,
) -> TokenStream {
    match observe {
        None => quote_spanned! {span=>
            let _guard = #start.enter();
            #block
        },
        Some(observe) => {
            let output = output
                .and_then(writable_type)
                .map(|output| quote!(-> #output));
            quote_spanned! {span=>
                let guard = #start.enter();
                guard.run(move || #output #block, #observe)
            }
        }
    }
}

/// Returns a future that runs in the span that the variable `run` starts.
fn in_future(
    krate: &TokenStream,
    future: &TokenStream,
    observe: Option<&TokenStream>,
    span: Span,
) -> TokenStream {
    match observe {
        Some(observe) => quote_spanned! {span=>
            #krate::__private::observed(run, #future, #observe)
        },
        None => quote_spanned! {span=>
            #krate::__private::in_span(run, #future)
        },
    }
}

/// Inserts an unreachable `return` of the output type at the start of an `async` block. Without it,
/// the compiler could not infer the type, and its errors would have no location.
fn name_output(block: &mut Block, krate: &TokenStream, output: Option<&Type>) {
    if let Some(output) = output.and_then(writable_type) {
        let statement = quote_spanned! {output.span()=>
            if false {
                return #krate::__private::never::<#output>();
            }
        };
        block
            .stmts
            .insert(0, Stmt::Expr(Expr::Verbatim(statement), None));
    }
}

/// Returns the `async` block at the end of the function, alone or in `Box::pin(..)`.
fn tail_future(block: &mut Block) -> Option<&mut Expr> {
    fn find(expr: &mut Expr) -> Option<&mut Expr> {
        match expr {
            Expr::Async(_) => Some(expr),
            Expr::Call(call) if is_box_pin(&call.func) && call.args.len() == 1 => {
                find(call.args.first_mut()?)
            }
            Expr::MethodCall(call) if call.method == "boxed" || call.method == "boxed_local" => {
                find(&mut call.receiver)
            }
            _ => None,
        }
    }
    match block.stmts.last_mut()? {
        Stmt::Expr(expr, None) => find(expr),
        _ => None,
    }
}

fn is_box_pin(function: &Expr) -> bool {
    let Expr::Path(function) = function else {
        return false;
    };
    let mut segments = function.path.segments.iter().rev();
    segments.next().is_some_and(|last| last.ident == "pin")
        && segments.next().is_some_and(|before| before.ident == "Box")
}
