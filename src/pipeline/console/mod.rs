//! The exporter for development: spans and metrics as text on the standard output.

mod metrics;
mod spans;
mod style;

pub(crate) use metrics::print_metrics;
pub(crate) use spans::SpanPrinter;
