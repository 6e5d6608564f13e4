//! The macro `attributes!` and the conversions of its values.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use opentelemetry::{Array, Key, KeyValue, Value};

/// Creates a list of attributes: `attributes! { "key" => value, .. }`.
///
/// A value has a type that implements [`IntoValue`], or is an `Option` of one; `None` omits the
/// attribute. A key is a string literal or a `String`. The list is an [`Attributes`] and needs
/// no allocation of its own. String literals are not copied.
///
/// ```
/// use tower_telemetry::attributes;
///
/// let name = String::from("Ada");
/// let plan: Option<&str> = None;
/// let attributes = attributes! {
///     "user.id" => "42",
///     "user.name" => name.as_str(),
///     "user.plan" => plan,
/// };
/// assert_eq!(attributes.len(), 2);
/// ```
#[macro_export]
macro_rules! attributes {
    ($($key:expr => $value:expr),* $(,)?) => {
        $crate::handler::Attributes::<{ $crate::attributes!(@count $($key),*) }>::from_values([$((
            ::core::convert::Into::into($key),
            $crate::attributes!(@value $value),
        )),*])
    };
    (@value $value:literal) => {{
        #[allow(unused_imports, reason = "literals that are texts do not need it")]
        use $crate::handler::LiteralValue as _;
        $crate::handler::Literal($value).into_optional_value()
    }};
    (@value $value:expr) => { $crate::handler::IntoOptionalValue::into_optional_value($value) };
    (@count $($key:expr),*) => { 0usize $(+ { let _ = stringify!($key); 1usize })* };
}

/// A list of at most `N` attributes, created by [`attributes!`](crate::attributes).
///
/// It dereferences to a slice of [`KeyValue`], iterates over them, and converts into a `Vec`.
#[derive(Clone)]
pub struct Attributes<const N: usize> {
    /// Only the first `len` are part of the list.
    attributes: [KeyValue; N],
    len: usize,
}

impl<const N: usize> Attributes<N> {
    /// Creates a list of the pairs that have a value.
    #[doc(hidden)]
    #[inline]
    pub fn from_values(values: [(Key, Option<Value>); N]) -> Self {
        if values.iter().any(|(_, value)| value.is_none()) {
            return Self::from_present(values);
        }
        let attribute = |(key, value): (Key, Option<Value>)| {
            KeyValue::new(key, value.unwrap_or(Value::Bool(false)))
        };
        Self {
            attributes: values.map(attribute),
            len: N,
        }
    }

    fn from_present(values: [(Key, Option<Value>); N]) -> Self {
        let mut len = 0;
        let mut present = values
            .into_iter()
            .filter_map(|(key, value)| Some(KeyValue::new(key, value?)));
        let attributes = std::array::from_fn(|_| match present.next() {
            Some(attribute) => {
                len += 1;
                attribute
            }
            None => KeyValue::new("", false),
        });
        Self { attributes, len }
    }
}

impl<const N: usize> Deref for Attributes<N> {
    type Target = [KeyValue];

    fn deref(&self) -> &[KeyValue] {
        &self.attributes[..self.len]
    }
}

impl<const N: usize> AsRef<[KeyValue]> for Attributes<N> {
    fn as_ref(&self) -> &[KeyValue] {
        self
    }
}

impl<const N: usize> IntoIterator for Attributes<N> {
    type Item = KeyValue;
    type IntoIter = std::iter::Take<std::array::IntoIter<KeyValue, N>>;

    fn into_iter(self) -> Self::IntoIter {
        self.attributes.into_iter().take(self.len)
    }
}

impl<'a, const N: usize> IntoIterator for &'a Attributes<N> {
    type Item = &'a KeyValue;
    type IntoIter = std::slice::Iter<'a, KeyValue>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<const N: usize> From<Attributes<N>> for Vec<KeyValue> {
    fn from(attributes: Attributes<N>) -> Self {
        let len = attributes.len;
        let mut list = Self::from(attributes.attributes);
        list.truncate(len);
        list
    }
}

impl<const N: usize> fmt::Debug for Attributes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<const N: usize, T: AsRef<[KeyValue]> + ?Sized> PartialEq<T> for Attributes<N> {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

/// A conversion into the value of an attribute, for [`attributes!`](crate::attributes).
///
/// Implemented for booleans, numbers, strings, lists of them, and references to all of these.
/// OpenTelemetry has one integer type, `i64`. A larger integer becomes a string of its digits.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of an attribute",
    label = "not a truth value, a number, a text, or a list of these",
    note = "make one of it, with `to_string()` for instance; `#[with_tracer(.., record(%value))]` \
            records what can be displayed, `record(?value)` what has `Debug`"
)]
pub trait IntoValue {
    /// Converts into a value of OpenTelemetry.
    fn into_value(self) -> Value;
}

/// A conversion into the value of an attribute that may be missing.
///
/// Implemented for every [`IntoValue`] and for an [`Option`] of one. To use your own type,
/// implement [`IntoValue`] for it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the value of an attribute",
    label = "not a truth value, a number, a text, a list of these, or an `Option` of one",
    note = "make one of it, with `to_string()` for instance; `#[with_tracer(.., record(%value))]` \
            records what can be displayed, `record(?value)` what has `Debug`"
)]
pub trait IntoOptionalValue {
    /// Converts into a value of OpenTelemetry; `None` omits the attribute.
    fn into_optional_value(self) -> Option<Value>;
}

impl<T: IntoValue> IntoOptionalValue for T {
    fn into_optional_value(self) -> Option<Value> {
        Some(self.into_value())
    }
}

impl<T: IntoOptionalValue> IntoOptionalValue for Option<T> {
    fn into_optional_value(self) -> Option<Value> {
        self?.into_optional_value()
    }
}

impl<T: IntoOptionalValue + Clone> IntoOptionalValue for &Option<T> {
    fn into_optional_value(self) -> Option<Value> {
        self.clone()?.into_optional_value()
    }
}

/// For `#[with_tracer(.., record(argument))]`, which takes a reference to each argument, and the
/// argument may be a reference itself.
impl<T: IntoOptionalValue + Clone> IntoOptionalValue for &&Option<T> {
    fn into_optional_value(self) -> Option<Value> {
        (*self).into_optional_value()
    }
}

/// A literal in [`attributes!`](crate::attributes).
#[doc(hidden)]
#[derive(Debug)]
pub struct Literal<T>(pub T);

impl Literal<&'static str> {
    /// Converts into a value of OpenTelemetry, without a copy of the string.
    pub fn into_optional_value(self) -> Option<Value> {
        Some(Value::String(self.0.into()))
    }
}

/// A conversion of literals other than strings. For strings, the method of [`Literal`] itself takes
/// precedence over the method of this trait.
#[doc(hidden)]
pub trait LiteralValue {
    /// Converts into a value of OpenTelemetry.
    fn into_optional_value(self) -> Option<Value>;
}

impl<T: IntoOptionalValue> LiteralValue for Literal<T> {
    fn into_optional_value(self) -> Option<Value> {
        self.0.into_optional_value()
    }
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

impl<T: IntoValue + Clone> IntoValue for &T {
    fn into_value(self) -> Value {
        self.clone().into_value()
    }
}

/// A list becomes an array of booleans, integers or floats if all of its values have that type, or
/// else an array of strings.
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

#[cfg(test)]
mod tests {
    macro_rules! compare {
        ($($literal:expr),*) => {
            $({
                let (literal, value) = ($literal, $literal);
                let variable = attributes! { "k" => value };
                assert_eq!(attributes! { "k" => $literal }, variable, "{literal:?}");
            })*
        };
    }

    #[test]
    fn a_literal_becomes_the_same_value_as_a_variable() {
        compare!("", "text", "ä", r#"raw " text"#, b"bytes", 'c', true, false);
        compare!(
            0,
            42,
            -1,
            7_u8,
            -7_i64,
            1.5,
            -1.5,
            1.5_f32,
            u64::MAX,
            3_000_000_000_i64
        );
        let (number, absent) = (5, None::<i64>);
        let list = attributes! {
            "negative" => -number, "length" => "text".len(), "sum" => 1 + number, "absent" => absent,
            "some" => Some("text"), "text" => "text",
        };
        let values: Vec<_> = list.iter().map(|one| one.value.to_string()).collect();
        assert_eq!(values, ["-5", "4", "6", "text", "text"]);
    }
}
