//! Attributes, written short.

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry::{Array, Value};

/// Makes an array of attributes: `attributes! { "key" => value, .. }`.
///
/// A value is anything that is [`IntoValue`]; a key is a string literal or a `String`.
///
/// ```
/// use tower_telemetry::attributes;
///
/// let id: u64 = 42;
/// let name = String::from("Ada");
/// let attributes = attributes! { "user.id" => id, "user.name" => name.as_str() };
/// assert_eq!(attributes.len(), 2);
/// ```
#[macro_export]
macro_rules! attributes {
    ($($key:expr => $value:expr),* $(,)?) => {
        [$($crate::opentelemetry::KeyValue::new($key, $crate::IntoValue::into_value($value))),*]
            as [$crate::opentelemetry::KeyValue; $crate::attributes!(@count $($key),*)]
    };
    (@count $($key:expr),*) => { 0usize $(+ { let _ = stringify!($key); 1usize })* };
}

/// What can be the value of an attribute, in [`attributes!`](crate::attributes).
///
/// That are truth values, numbers, texts, lists of them, and references to all of these. Attributes
/// know one kind of integer, `i64`; a larger one becomes a text of its digits.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of an attribute",
    label = "not a truth value, a number, a text, or a list of these",
    note = "make one of it, with `to_string()` for instance"
)]
pub trait IntoValue {
    /// Converts into OpenTelemetry's value.
    fn into_value(self) -> Value;
}

macro_rules! into_value {
    ($($from:ty => |$value:ident| $into:expr;)*) => {
        $(impl IntoValue for $from {
            fn into_value(self) -> Value {
                let $value = self;
                $into
            }
        })*
    };
}

into_value! {
    Value => |value| value;
    bool => |value| Value::Bool(value);
    i8 => |value| Value::I64(value.into());
    i16 => |value| Value::I64(value.into());
    i32 => |value| Value::I64(value.into());
    i64 => |value| Value::I64(value);
    i128 => |value| i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::I64);
    u128 => |value| i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::I64);
    char => |value| value.to_string().into();
    u8 => |value| Value::I64(value.into());
    u16 => |value| Value::I64(value.into());
    u32 => |value| Value::I64(value.into());
    u64 => |value| i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::I64);
    usize => |value| i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::I64);
    isize => |value| i64::try_from(value).map_or_else(|_| value.to_string().into(), Value::I64);
    f32 => |value| Value::F64(value.into());
    f64 => |value| Value::F64(value);
    String => |value| value.into();
    Arc<str> => |value| value.into();
    &str => |value| value.to_owned().into();
    Cow<'_, str> => |value| value.into_owned().into();
}

/// A reference to a value is as good as the value.
impl<T: IntoValue + Clone> IntoValue for &T {
    fn into_value(self) -> Value {
        self.clone().into_value()
    }
}

/// A list: of texts, unless all of it is of another one kind.
impl<T: IntoValue> IntoValue for Vec<T> {
    fn into_value(self) -> Value {
        let values: Vec<_> = self.into_iter().map(IntoValue::into_value).collect();
        Value::Array(array(&values))
    }
}

impl<T: IntoValue, const N: usize> IntoValue for [T; N] {
    fn into_value(self) -> Value {
        Vec::from(self).into_value()
    }
}

impl<T: IntoValue + Clone> IntoValue for &[T] {
    fn into_value(self) -> Value {
        self.to_vec().into_value()
    }
}

fn array(values: &[Value]) -> Array {
    fn all<T>(values: &[Value], get: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        values.iter().map(get).collect()
    }
    let first = values.first();
    let list = match first {
        Some(Value::Bool(_)) => all(values, |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
        .map(Array::Bool),
        Some(Value::I64(_)) => all(values, |value| match value {
            Value::I64(value) => Some(*value),
            _ => None,
        })
        .map(Array::I64),
        Some(Value::F64(_)) => all(values, |value| match value {
            Value::F64(value) => Some(*value),
            _ => None,
        })
        .map(Array::F64),
        _ => None,
    };
    let texts = || {
        values
            .iter()
            .map(|value| value.to_string().into())
            .collect()
    };
    list.unwrap_or_else(|| Array::String(texts()))
}
