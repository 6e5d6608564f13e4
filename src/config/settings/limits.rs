//! Bounds of spans, log records and histograms.

/// What is left out of spans and log records.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    not(feature = "logs"),
    expect(dead_code, reason = "some are for log records")
)]
pub(crate) struct Limits {
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

impl Limits {
    /// How many attributes, events and links there are at most, unless it is said otherwise
    /// (specification, "SDK environment variables", span limits).
    pub(crate) const COUNT: u32 = 128;

    /// The most that can be asked for.
    pub(crate) const MAX_COUNT: u32 = 65_536;
    pub(crate) const MAX_LENGTH: usize = 1 << 30;
}
