//! Syntactic analysis of a function's output type.

use syn::visit::{self, Visit};
use syn::visit_mut::{self, VisitMut};
use syn::{
    GenericArgument, Lifetime, PathArguments, PathSegment, Type, TypeReference, parse_quote,
};

/// Returns whether a type is written as a future.
pub(crate) fn is_future(output: &Type) -> bool {
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

/// Returns `T` of `Pin<Box<dyn Future<Output = T> + Send>>`, `impl Future<Output = T>` or
/// `BoxFuture<T>`.
pub(crate) fn future_output(output: &Type) -> Option<Type> {
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

/// Returns whether the name of a type is `Result` or ends with it, as aliases usually do.
pub(crate) fn is_result(output: &Type) -> bool {
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

/// Returns whether the error of a `Result` visibly borrows for less than `'static`: in the last of
/// two type arguments, or in a lifetime argument of an alias.
pub(crate) fn error_borrows(output: &Type) -> bool {
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

/// Returns a type that can be written outside of a signature, with `_` for parts that only a
/// signature can name. Returns `None` if the type would not help inference.
pub(crate) fn writable_type(output: &Type) -> Option<Type> {
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
