//! The application's metric readers.

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, Pipeline, Temporality};

use crate::concurrent::caught::catch_panic;
use crate::pipeline::export_thread::FlushHandle;
use crate::pipeline::parts::record::PartRecord;

const KINDS: [InstrumentKind; 7] = [
    InstrumentKind::Counter,
    InstrumentKind::UpDownCounter,
    InstrumentKind::Histogram,
    InstrumentKind::ObservableCounter,
    InstrumentKind::ObservableUpDownCounter,
    InstrumentKind::Gauge,
    InstrumentKind::ObservableGauge,
];

/// A metric reader in the meter provider. Any thread may call it and must not be blocked, so the
/// application's reader is flushed and shut down on its own thread.
#[derive(Debug)]
pub(crate) struct ReaderPart {
    reader: Arc<dyn MetricReader>,
    /// The temporality of each kind. It is read once, because instruments may be created on the
    /// request path.
    temporalities: [Temporality; KINDS.len()],
    flush: Option<FlushHandle>,
    record: Record,
}

/// A part's record that implements `Debug`.
struct Record(Arc<PartRecord>);

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.name)
    }
}

impl ReaderPart {
    pub(crate) fn new(
        reader: Arc<dyn MetricReader>,
        record: Arc<PartRecord>,
        flush: Option<FlushHandle>,
    ) -> Self {
        let temporality = |kind| {
            let returned = catch_panic(|| reader.temporality(kind));
            if returned.is_none() {
                record.log_panic();
            }
            returned.unwrap_or_default()
        };
        Self {
            temporalities: KINDS.map(temporality),
            reader,
            flush,
            record: Record(record),
        }
    }
}

impl MetricReader for ReaderPart {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        if catch_panic(|| self.reader.register_pipeline(pipeline)).is_none() {
            self.record.0.log_panic();
        }
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        catch_panic(|| self.reader.collect(metrics)).unwrap_or_else(|| {
            let reason = "the reader panicked".to_owned();
            Err(OTelSdkError::InternalFailure(reason))
        })
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.flush.as_ref().map_or(Ok(()), FlushHandle::flush)
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        let place = KINDS.iter().position(|one| *one == kind);
        place.map_or_else(Temporality::default, |place| self.temporalities[place])
    }
}
