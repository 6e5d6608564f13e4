//! Bounds of spans and log records.

/// Bounds spans and log records. What is beyond is left out, and counted on them.
///
/// Counts are 128 by default and at most 65,536; values of attributes are as long as they are
/// (specification, "SDK environment variables", span limits).
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
    /// Characters of a text; `None` for as long as it is.
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

/// Implements setters of counts.
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
    /// Sets the attributes of a span, in place of `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`.
    with_span_attributes: span_attributes,
    /// Sets the events of a span, in place of `OTEL_SPAN_EVENT_COUNT_LIMIT`.
    with_span_events: span_events,
    /// Sets the links of a span, in place of `OTEL_SPAN_LINK_COUNT_LIMIT`.
    with_span_links: span_links,
    /// Sets the attributes of an event, in place of `OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT`.
    with_event_attributes: event_attributes,
    /// Sets the attributes of a link, in place of `OTEL_LINK_ATTRIBUTE_COUNT_LIMIT`.
    with_link_attributes: link_attributes,
    /// Sets the attributes of a log record, in place of `OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT`.
    with_log_attributes: log_attributes,
}

impl Limits {
    /// The default of all counts.
    pub(crate) const COUNT: u32 = 128;

    /// The most that can be asked for.
    pub(crate) const MAX_COUNT: u32 = 65_536;
    pub(crate) const MAX_LENGTH: usize = 1 << 30;

    /// Sets the length of a text in a span, in characters, in place of
    /// `OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT`.
    pub fn with_span_value_length(mut self, length: usize) -> Self {
        self.span_value_length = Some(length.min(Self::MAX_LENGTH));
        self
    }

    /// Sets the length of a text in a log record, in characters, in place of
    /// `OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT`.
    pub fn with_log_value_length(mut self, length: usize) -> Self {
        self.log_value_length = Some(length.min(Self::MAX_LENGTH));
        self
    }
}
