//! Conventions of messaging spans and metrics. `error.type`, `server.address` and `server.port` are
//! stable; all other names are in development.

use std::borrow::Cow;

use opentelemetry::trace::SpanKind;
use opentelemetry::{KeyValue, StringValue};

use crate::semconv::names::{
    ERROR_TYPE, MESSAGING_CLIENT_OPERATION_DURATION, MESSAGING_CONSUMER_GROUP_NAME,
    MESSAGING_DESTINATION_NAME, MESSAGING_DESTINATION_TEMPLATE, MESSAGING_OPERATION_NAME,
    MESSAGING_OPERATION_TYPE, MESSAGING_PROCESS_DURATION, MESSAGING_SYSTEM, OTHER, SERVER_ADDRESS,
    SERVER_PORT,
};
use crate::semconv::text::{MAX_HOST, truncate};

/// The operation on messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Send,
    Process,
}

impl Operation {
    /// Returns the kind of the operation's spans (messaging spans, "Span kind").
    pub(crate) fn kind(self) -> SpanKind {
        match self {
            Self::Send => SpanKind::Producer,
            Self::Process => SpanKind::Consumer,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Process => "process",
        }
    }

    /// Returns the name and the description of the metric of the operation's duration.
    pub(crate) fn metric(self) -> (&'static str, &'static str) {
        match self {
            Self::Send => (
                MESSAGING_CLIENT_OPERATION_DURATION,
                "Duration of messaging operation initiated by a producer or consumer client.",
            ),
            Self::Process => (
                MESSAGING_PROCESS_DURATION,
                "Duration of processing operation.",
            ),
        }
    }
}

/// A queue, a topic or a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    system: StringValue,
    name: StringValue,
    pub(crate) template: Option<StringValue>,
    pub(crate) consumer_group: Option<StringValue>,
    pub(crate) server: Option<(StringValue, u16)>,
}

impl Destination {
    pub(crate) fn new(system: Cow<'static, str>, name: Cow<'static, str>) -> Self {
        Self {
            system: destination_text(system),
            name: destination_text(name),
            template: None,
            consumer_group: None,
            server: None,
        }
    }

    /// Returns the destination that represents all destinations beyond the cardinality limit.
    pub(crate) fn other(&self) -> Self {
        Self {
            system: self.system.clone(),
            ..Self::new(OTHER.into(), OTHER.into())
        }
    }

    /// Returns the name of a span (messaging spans, "Span name").
    pub(crate) fn span_name(&self, operation: Operation) -> String {
        let destination = self.template.as_ref().unwrap_or(&self.name);
        format!("{} {destination}", operation.name())
    }

    /// Returns the attributes of a span.
    pub(crate) fn span_attributes(&self, operation: Operation) -> Vec<KeyValue> {
        let mut attributes = self.metric_attributes(operation, None);
        if self.template.is_some() {
            attributes.push(KeyValue::new(MESSAGING_DESTINATION_NAME, self.name.clone()));
        }
        attributes
    }

    /// Returns the attributes of a duration. Their cardinality is low.
    pub(crate) fn metric_attributes(
        &self,
        operation: Operation,
        error: Option<&'static str>,
    ) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new(MESSAGING_OPERATION_NAME, operation.name()),
            KeyValue::new(MESSAGING_OPERATION_TYPE, operation.name()),
            KeyValue::new(MESSAGING_SYSTEM, self.system.clone()),
            match &self.template {
                Some(template) => KeyValue::new(MESSAGING_DESTINATION_TEMPLATE, template.clone()),
                None => KeyValue::new(MESSAGING_DESTINATION_NAME, self.name.clone()),
            },
        ];
        if let Some(group) = &self.consumer_group
            && operation == Operation::Process
        {
            attributes.push(KeyValue::new(MESSAGING_CONSUMER_GROUP_NAME, group.clone()));
        }
        if let Some((address, port)) = &self.server {
            attributes.push(KeyValue::new(SERVER_ADDRESS, address.clone()));
            attributes.push(KeyValue::new(SERVER_PORT, i64::from(*port)));
        }
        attributes.extend(error.map(|error| KeyValue::new(ERROR_TYPE, error)));
        attributes
    }
}

/// Returns a part of a destination's name, truncated, and cheap to clone.
pub(crate) fn destination_text(text: Cow<'static, str>) -> StringValue {
    match text {
        Cow::Borrowed(text) if text.len() <= MAX_HOST => text.into(),
        text => std::sync::Arc::<str>::from(truncate(&text, MAX_HOST)).into(),
    }
}
