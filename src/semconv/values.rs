//! Attribute values, and the rules for HTTP values.

use std::borrow::Cow;

use ::http::{StatusCode, Version};
use opentelemetry::KeyValue;

use crate::semconv::names::HTTP_RESPONSE_STATUS_CODE;

/// The value of an attribute before it is stored.
pub(crate) enum AttributeValue<'a> {
    /// A static text, or a text that was allocated for this request.
    Name(Cow<'static, str>),
    Text(&'a str),
    Number(i64),
}

impl AttributeValue<'_> {
    #[inline]
    pub(crate) fn name(name: &'static str) -> Self {
        Self::Name(Cow::Borrowed(name))
    }

    // Inlined everywhere: the kind of value is then known, and the attribute is written in place.
    #[inline(always)]
    pub(crate) fn attribute(self, key: &'static str) -> KeyValue {
        match self {
            Self::Name(Cow::Borrowed(name)) => KeyValue::new(key, name),
            Self::Name(Cow::Owned(name)) => KeyValue::new(key, name),
            Self::Text(text) => KeyValue::new(key, text.to_owned()),
            Self::Number(number) => KeyValue::new(key, number),
        }
    }
}

/// Takes attributes one by one.
pub(crate) trait AddAttribute {
    fn add(&mut self, key: &'static str, value: AttributeValue<'_>);
}

impl<F: FnMut(&'static str, AttributeValue<'_>)> AddAttribute for F {
    #[inline]
    fn add(&mut self, key: &'static str, value: AttributeValue<'_>) {
        self(key, value);
    }
}

impl AddAttribute for Vec<KeyValue> {
    // Inlined everywhere, like the function that it calls.
    #[inline(always)]
    fn add(&mut self, key: &'static str, value: AttributeValue<'_>) {
        self.push(value.attribute(key));
    }
}

/// The side of a request that is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Side {
    #[default]
    Server,
    Client,
}

/// Returns `http.response.status_code` as an attribute.
#[inline]
pub(crate) fn status_attribute(status: StatusCode) -> KeyValue {
    KeyValue::new(HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()))
}

/// Returns whether a status is an error: 500 and above for a server, 400 and above for a client.
/// Statuses of 600 and above, which no RFC defines, are errors too.
pub(crate) fn is_error(side: Side, status: StatusCode) -> bool {
    status.as_u16() >= if side == Side::Client { 400 } else { 500 }
}

/// Returns whether a status belongs to a bounded set, as metrics require.
#[inline]
pub(crate) fn is_defined(status: StatusCode) -> bool {
    status.as_u16() < 600
}

/// Returns `network.protocol.version`.
pub(crate) fn protocol_version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_09 => Some("0.9"),
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        Version::HTTP_3 => Some("3"),
        _ => None,
    }
}
