//! Tests meter providers that are not the SDK.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use opentelemetry::metrics::{
    Counter, Gauge, Histogram, HistogramBuilder, InstrumentBuilder, InstrumentProvider, Meter,
    MeterProvider, SyncInstrument, UpDownCounter,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use tower::{Layer, ServiceExt, service_fn};
use tower_telemetry::{TelemetryLayer, bind_counter, bind_gauge, bind_histogram};

/// The number of measurements and of attributes, by instrument.
type Measured = Arc<Mutex<BTreeMap<String, (usize, usize)>>>;

/// A meter provider of the application without bound instruments.
#[derive(Clone, Default)]
struct Own(Measured);

struct Instrument {
    name: String,
    measured: Measured,
}

impl<T> SyncInstrument<T> for Instrument {
    fn measure(&self, _: T, attributes: &[KeyValue]) {
        let mut measured = self.measured.lock().expect("the lock is not poisoned");
        let entry = measured.entry(self.name.clone()).or_default();
        *entry = (entry.0 + 1, attributes.len());
    }
}

impl MeterProvider for Own {
    fn meter_with_scope(&self, _: InstrumentationScope) -> Meter {
        Meter::new(Arc::new(self.clone()))
    }
}

macro_rules! instruments {
    ($($method:ident($builder:ident) -> $instrument:ident<$value:ty>;)*) => {
        impl InstrumentProvider for Own {
            $(fn $method(&self, builder: $builder<'_, $instrument<$value>>) -> $instrument<$value> {
                $instrument::new(Arc::new(Instrument {
                    name: builder.name.into_owned(),
                    measured: self.0.clone(),
                }))
            })*
        }
    };
}

instruments! {
    u64_counter(InstrumentBuilder) -> Counter<u64>;
    i64_up_down_counter(InstrumentBuilder) -> UpDownCounter<i64>;
    f64_gauge(InstrumentBuilder) -> Gauge<f64>;
    f64_histogram(HistogramBuilder) -> Histogram<f64>;
    u64_histogram(HistogramBuilder) -> Histogram<u64>;
}

#[tokio::test]
async fn a_provider_without_bound_instruments_gets_every_measurement() {
    let own = Own::default();
    let layer = TelemetryLayer::new().with_meter_provider(own.clone());
    let service = layer.layer(service_fn(|_: Request<()>| async {
        let attributes = || vec![KeyValue::new("key", "value")];
        bind_counter("handle.count", "", attributes()).add(1);
        bind_gauge("handle.gauge", "", attributes()).set(1.0);
        bind_histogram("handle.histogram", "", attributes()).record(1.0);
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("body")))
    }));
    for _ in 0..2 {
        let response = service.clone().oneshot(Request::new(())).await;
        drop(response.expect("the service cannot fail"));
    }
    let measured = own.0.lock().expect("the lock is not poisoned").clone();
    let expected = [
        ("handle.count", (2, 1)),
        ("handle.gauge", (2, 1)),
        ("handle.histogram", (2, 1)),
        ("http.duration", (2, 3)),
        ("http.requests", (2, 3)),
        // One increment and one decrement per request.
        ("http.server.active_requests", (4, 2)),
        ("http.server.request.duration", (2, 5)),
    ];
    let expected = expected.map(|(name, measured)| (name.to_owned(), measured));
    assert_eq!(measured, expected.into());
}
