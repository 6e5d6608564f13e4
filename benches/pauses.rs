//! The longest pause of a request during a collection of metrics.
//!
//! `cargo bench --bench pauses` runs it. One thread collects 10,000 series of each metric in a loop.
//! Another thread sends requests of an existing series, and first requests of new series. It also
//! adds new series directly to an instrument of OpenTelemetry's SDK. A first request would wait as
//! long if it added its series itself.

#[path = "../tests/it/support/reader.rs"]
mod reader;
#[allow(unused_imports, reason = "other benchmarks use the rest of the module")]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use http::Request;
use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{ManualReader, SdkMeterProvider, Stream};
use tower::Layer;
use tower_telemetry::TelemetryLayer;

use reader::Reader;
use support::Answer;

const SERIES: usize = 10_000;
const NEW: usize = 2_000;

/// Measures the time of each of `NEW` steps, and prints the median, the 99th percentile and the
/// maximum.
fn measure(what: &str, mut step: impl FnMut(usize)) {
    let mut took: Vec<_> = (0..NEW)
        .map(|n| {
            // The pause spreads the steps over many collections.
            std::thread::sleep(Duration::from_micros(200));
            let start = Instant::now();
            step(n);
            start.elapsed()
        })
        .collect();
    took.sort_unstable();
    let at = |share: f64| took[((NEW - 1) as f64 * share) as usize];
    println!(
        "{what:<45} median {:>9.1?}, 99 % {:>9.1?}, longest {:>9.1?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn main() {
    let reader = Reader(Arc::new(ManualReader::default()));
    let view = |_: &_| {
        Stream::builder()
            .with_cardinality_limit(3 * SERIES)
            .build()
            .ok()
    };
    let provider = SdkMeterProvider::builder()
        .with_reader(reader.clone())
        .with_view(view)
        .build();
    let layer = TelemetryLayer::new()
        .with_meter_provider(provider.clone())
        .with_route(|request| Some(request.uri.path().to_owned().into()));
    let mut service = layer.layer(Answer);
    let mut send = |route: usize| {
        let request = Request::get(format!("/{route}")).body(Body::empty());
        support::send(&mut service, request.expect("a valid request"));
    };
    let histogram = provider.meter("direct").f64_histogram("direct").build();
    let direct = |n: usize| {
        let n = i64::try_from(n).expect("the number is small");
        histogram.record(1.0, &[KeyValue::new("route", n)]);
    };
    (0..SERIES).for_each(&mut send);
    (0..SERIES).for_each(direct);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut collections = 0_u32;
            let start = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                let mut collected = ResourceMetrics::default();
                reader
                    .collect(&mut collected)
                    .expect("the meter provider is running");
                collections += 1;
            }
            println!("a collection took {:.1?}", start.elapsed() / collections);
        });
        measure("a request of a series that exists", |_| send(0));
        measure("the first request of a series", |n| send(SERIES + n));
        measure("a new series of an instrument of the SDK", |n| {
            direct(SERIES + n);
        });
        ended.store(true, Ordering::Relaxed);
    });
}
