//! Limits of spans and log records.

/// Limits of spans and log records. Data beyond a limit is dropped and counted on the span or
/// record.
///
/// Counts default to 128 and are at most 65,536. The length of attribute values is unlimited by
/// default (specification, "SDK environment variables", span limits).
///
/// ```
/// use tower_telemetry::{Config, config::Limits};
///
/// let limits = Limits::default().with_span_attributes(64).with_span_value_length(1024);
/// let config = Config::from_env().with_limits(limits);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub(crate) span_attributes: u32,
    pub(crate) span_events: u32,
    pub(crate) span_links: u32,
    pub(crate) event_attributes: u32,
    pub(crate) link_attributes: u32,
    pub(crate) log_attributes: u32,
    /// The maximum length of a text in characters; `None` means no limit.
    pub(crate) span_value_length: Option<usize>,
    pub(crate) log_value_length: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            span_attributes: Self::COUNT,
            span_events: Self::COUNT,
            span_links: Self::COUNT,
            event_attributes: Self::COUNT,
            link_attributes: Self::COUNT,
            log_attributes: Self::COUNT,
            span_value_length: None,
            log_value_length: None,
        }
    }
}

/// Implements the setters of counts.
macro_rules! counts {
    ($($(#[$doc:meta])* $setter:ident: $field:ident,)+) => {
        impl Limits {
            $(
                $(#[$doc])*
                pub fn $setter(mut self, count: u32) -> Self {
                    self.$field = count.min(Self::MAX_COUNT);
                    self
                }
            )+
        }
    };
}

counts! {
    /// Sets the maximum number of attributes of a span. Overrides
    /// `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`.
    with_span_attributes: span_attributes,
    /// Sets the maximum number of events of a span. Overrides `OTEL_SPAN_EVENT_COUNT_LIMIT`.
    with_span_events: span_events,
    /// Sets the maximum number of links of a span. Overrides `OTEL_SPAN_LINK_COUNT_LIMIT`.
    with_span_links: span_links,
    /// Sets the maximum number of attributes of an event. Overrides
    /// `OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT`.
    with_event_attributes: event_attributes,
    /// Sets the maximum number of attributes of a link. Overrides
    /// `OTEL_LINK_ATTRIBUTE_COUNT_LIMIT`.
    with_link_attributes: link_attributes,
    /// Sets the maximum number of attributes of a log record. Overrides
    /// `OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT`.
    with_log_attributes: log_attributes,
}

impl Limits {
    /// The default of all counts.
    pub(crate) const COUNT: u32 = 128;

    /// The maximum of all counts.
    pub(crate) const MAX_COUNT: u32 = 65_536;
    pub(crate) const MAX_LENGTH: usize = 1 << 30;

    /// Sets the maximum length of a text in a span, in characters. Overrides
    /// `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`.
    pub fn with_span_value_length(mut self, length: usize) -> Self {
        self.span_value_length = Some(length.min(Self::MAX_LENGTH));
        self
    }

    /// Sets the maximum length of a text in a log record, in characters. Overrides
    /// `OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT`.
    pub fn with_log_value_length(mut self, length: usize) -> Self {
        self.log_value_length = Some(length.min(Self::MAX_LENGTH));
        self
    }
}
