//! Attributes, written short.

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry::Value;

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
/// Attributes know one kind of integer, `i64`. A larger one becomes a string of its digits.
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
    &String => |value| value.clone().into();
    Cow<'_, str> => |value| value.into_owned().into();
}
