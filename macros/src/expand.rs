//! A function to the same function in a span.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::spanned::Spanned;
use syn::token::Brace;
use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{
    Attribute, Block, Error, Expr, GenericArgument, Ident, Lifetime, PathArguments, PathSegment,
    Result, ReturnType, Signature, Stmt, Type, TypeReference, Visibility, braced, parse_quote,
};

use crate::args::{Args, Form, Record, Value};

/// A function or method with a body.
pub(crate) struct Function {
    attributes: Vec<Attribute>,
    visibility: Visibility,
    defaultness: Option<syn::Token![default]>,
    signature: Signature,
    /// Those at the beginning of the body.
    inner_attributes: Vec<Attribute>,
    block: Block,
}

impl Parse for Function {
    fn parse(input: ParseStream) -> Result<Self> {
        const ONLY: &str = "`#[with_tracer]` is for functions and methods";
        let attributes = input.call(Attribute::parse_outer)?;
        let start = input.span();
        let visibility = input.parse()?;
        let defaultness = input.parse()?;
        let signature: Signature = input.parse().map_err(|error| {
            // Of what is a function all the same, the compiler says what is wrong with it.
            let mut error_of_kind = Error::new(start, ONLY);
            error_of_kind.combine(error);
            error_of_kind
        })?;
        if input.peek(syn::Token![;]) {
            let message = "`#[with_tracer]` is for functions with a body: put it on the \
                           implementations";
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

/// Gives the braces of a body the span of the macro. The body becomes a block in another body, where
/// the compiler would warn of unnecessary braces if all of it is on one line.
fn quiet(braces: Brace) -> Brace {
    Brace(Span::mixed_site().located_at(braces.span.join()))
}

/// How the body of a function runs.
enum Body {
    Sync,
    Async,
    /// The function returns a future, made by the `async` block at its end: what `async-trait`
    /// makes of a method, or what somebody has written so.
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
        let message = "the span would end before this future runs: make it an `async fn`, or have \
                       the function end with an `async` block, by itself or in `Box::pin`";
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
            say_output(&mut block, &krate, output.as_ref());
            let future = in_future(&krate, &quote!(async move #block), observe.as_ref(), span);
            quote_spanned! {span=>
                let call = #start;
                #future.await
            }
        }
        Body::ReturnsAsync => {
            let Some(future) = tail_future(&mut block) else {
                return Err(Error::new(span, "the future at the end has gone"));
            };
            if let Expr::Async(future) = &mut *future {
                say_output(&mut future.block, &krate, output.as_ref());
            }
            let inner = in_future(&krate, &future.to_token_stream(), observe.as_ref(), span);
            // The span starts when the future is polled, as that of an `async fn`.
            *future = Expr::Verbatim(quote_spanned! {span=>
                async move {
                    let call = #start;
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

/// The expression that starts the span.
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
        // Methods of several types may have one name.
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
            // A place is looked at, and not taken.
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

/// The closure that looks at a `Result`, or at what is one by its name alone.
fn observer(
    krate: &TokenStream,
    output: Option<&Type>,
    is_certain: bool,
    span: Span,
) -> TokenStream {
    // A type that borrows cannot be asked for what only holds for ever.
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

/// Synchronous code in a span. Its body stays what it is, unless its result is looked at.
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
            let output = output.and_then(named).map(|output| quote!(-> #output));
            quote_spanned! {span=>
                let guard = #start.enter();
                guard.run(move || #output #block, #observe)
            }
        }
    }
}

/// A future in the span of `call`.
fn in_future(
    krate: &TokenStream,
    future: &TokenStream,
    observe: Option<&TokenStream>,
    span: Span,
) -> TokenStream {
    match observe {
        Some(observe) => quote_spanned! {span=>
            #krate::__private::observed(call, #future, #observe)
        },
        None => quote_spanned! {span=>
            #krate::__private::in_span(call, #future)
        },
    }
}

/// Has an `async` block begin with a return that is never run, of what the function returns: else
/// the compiler would not know, and its errors would point at nothing.
fn say_output(block: &mut Block, krate: &TokenStream, output: Option<&Type>) {
    if let Some(output) = output.and_then(named) {
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

/// The `async` block that the function ends with, by itself or in `Box::pin(..)`.
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

/// Whether a type is seen to be a future.
fn is_future(output: &Type) -> bool {
    struct Find(bool);
    impl<'a> Visit<'a> for Find {
        fn visit_path_segment(&mut self, segment: &'a PathSegment) {
            self.0 |= ["Future", "BoxFuture", "LocalBoxFuture"]
                .iter()
                .any(|name| segment.ident == name);
            visit::visit_path_segment(self, segment);
        }
    }
    let mut find = Find(false);
    find.visit_type(output);
    find.0
}

/// `T` of `Pin<Box<dyn Future<Output = T> + Send>>`, of `impl Future<Output = T>` or of
/// `BoxFuture<T>`.
fn future_output(output: &Type) -> Option<Type> {
    if let Type::Path(path) = output
        && let Some(last) = path.path.segments.last()
        && (last.ident == "BoxFuture" || last.ident == "LocalBoxFuture")
        && let PathArguments::AngleBracketed(arguments) = &last.arguments
    {
        return arguments.args.iter().find_map(|argument| match argument {
            GenericArgument::Type(output) => Some(output.clone()),
            _ => None,
        });
    }
    struct Find(Option<Type>);
    impl<'a> Visit<'a> for Find {
        fn visit_generic_argument(&mut self, argument: &'a GenericArgument) {
            match argument {
                GenericArgument::AssocType(assoc) if assoc.ident == "Output" => {
                    self.0.get_or_insert_with(|| assoc.ty.clone());
                }
                _ => visit::visit_generic_argument(self, argument),
            }
        }
    }
    let mut find = Find(None);
    find.visit_type(output);
    find.0
}

/// Whether a type is called `Result`, or by a name that ends so, as aliases are.
fn is_result(output: &Type) -> bool {
    match output {
        Type::Path(path) => path.path.segments.last().is_some_and(|last| {
            last.ident.to_string().ends_with("Result")
                && !matches!(last.arguments, PathArguments::Parenthesized(_))
        }),
        Type::Paren(inner) => is_result(&inner.elem),
        Type::Group(inner) => is_result(&inner.elem),
        _ => false,
    }
}

/// Whether the error of a `Result` is seen to borrow for less than ever: its last argument of two, or
/// an argument of an alias that is a lifetime.
fn error_borrows(output: &Type) -> bool {
    struct Find(bool);
    impl<'a> Visit<'a> for Find {
        fn visit_lifetime(&mut self, lifetime: &'a Lifetime) {
            self.0 |= lifetime.ident != "static";
        }

        fn visit_type_reference(&mut self, reference: &'a TypeReference) {
            self.0 |= reference.lifetime.is_none();
            visit::visit_type_reference(self, reference);
        }
    }
    let arguments = match output {
        Type::Path(path) => path.path.segments.last().map(|last| &last.arguments),
        Type::Paren(inner) => return error_borrows(&inner.elem),
        Type::Group(inner) => return error_borrows(&inner.elem),
        _ => None,
    };
    let Some(PathArguments::AngleBracketed(arguments)) = arguments else {
        return false;
    };
    let mut find = Find(false);
    let mut types = Vec::new();
    for argument in &arguments.args {
        match argument {
            GenericArgument::Type(one) => types.push(one),
            argument => find.visit_generic_argument(argument),
        }
    }
    if let [_, .., error] = types[..] {
        find.visit_type(error);
    }
    find.0
}

/// A type as it can be written outside of a signature: what only a signature can say is left to
/// the compiler. `None` where there would be nothing to say.
fn named(output: &Type) -> Option<Type> {
    struct Infer;
    impl VisitMut for Infer {
        fn visit_type_mut(&mut self, output: &mut Type) {
            if matches!(output, Type::ImplTrait(_)) {
                *output = parse_quote!(_);
            } else {
                visit_mut::visit_type_mut(self, output);
            }
        }
    }
    let mut output = output.clone();
    Infer.visit_type_mut(&mut output);
    (!matches!(output, Type::Never(_) | Type::Infer(_))).then_some(output)
}
