//! Tests shutdown, flush and drop: on every runtime and on none, whatever the receiver
//! does, within one deadline.

use std::time::{Duration, Instant};

use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::{Builder, Runtime};
use tower_telemetry::{
    Config, TelemetryGuard,
    config::{Exporter, Protocol},
    stats::Report,
};

use crate::export::{layer, request};
use crate::support::block_on;
use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::Receiver;

const TIMEOUT: Duration = Duration::from_millis(400);
const TOLERANCE: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug)]
enum End {
    Shutdown,
    Flush,
    Drop,
}

const ENDS: [End; 3] = [End::Shutdown, End::Flush, End::Drop];

/// Records a request and ends telemetry. Returns the duration of the end and the report.
async fn scenario(
    endpoint: String,
    protocol: Protocol,
    timeout: Duration,
    end: End,
) -> (Duration, Option<Report>) {
    let telemetry = recorded(endpoint, protocol, timeout).await;
    finish(telemetry, end).await
}

/// A healthy receiver needs no timeout, but the machine may be busy.
const NO_TIMEOUT: Duration = Duration::from_secs(20);

async fn recorded(endpoint: String, protocol: Protocol, timeout: Duration) -> TelemetryGuard {
    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(endpoint)
        .with_protocol(protocol)
        .with_shutdown_timeout(timeout)
        .build()
        .expect("the configuration is valid");
    request(layer(&telemetry), None).await;
    telemetry
}

async fn finish(telemetry: TelemetryGuard, end: End) -> (Duration, Option<Report>) {
    let start = Instant::now();
    match end {
        End::Shutdown => {
            let report = telemetry.shutdown().await;
            (start.elapsed(), Some(report))
        }
        End::Flush => {
            let report = telemetry.force_flush().await;
            (start.elapsed(), Some(report))
        }
        End::Drop => {
            drop(telemetry);
            (start.elapsed(), None)
        }
    }
}

fn current_thread() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("the runtime can be built")
}

fn workers(count: usize) -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(count).build();
    runtime.expect("the runtime can be built")
}

type Run = fn(String, Protocol, Duration, End) -> (Duration, Option<Report>);

const PLACES: [(&str, Run); 7] = [
    ("current thread", |endpoint, protocol, timeout, end| {
        current_thread().block_on(scenario(endpoint, protocol, timeout, end))
    }),
    ("one worker", |endpoint, protocol, timeout, end| {
        let task = scenario(endpoint, protocol, timeout, end);
        let runtime = workers(1);
        let task = runtime.spawn(task);
        runtime.block_on(task).expect("the task does not panic")
    }),
    ("four workers", |endpoint, protocol, timeout, end| {
        workers(4).block_on(scenario(endpoint, protocol, timeout, end))
    }),
    (
        "a spawned task of four workers",
        |endpoint, protocol, timeout, end| {
            let runtime = workers(4);
            let task = runtime.spawn(scenario(endpoint, protocol, timeout, end));
            runtime.block_on(task).expect("the task does not panic")
        },
    ),
    ("spawn_blocking", |endpoint, protocol, timeout, end| {
        let runtime = workers(1);
        let task =
            runtime.spawn_blocking(move || block_on(scenario(endpoint, protocol, timeout, end)));
        runtime.block_on(task).expect("the task does not panic")
    }),
    ("no runtime", |endpoint, protocol, timeout, end| {
        block_on(scenario(endpoint, protocol, timeout, end))
    }),
    ("the runtime is gone", |endpoint, protocol, timeout, end| {
        let runtime = workers(1);
        let telemetry = runtime.block_on(recorded(endpoint, protocol, timeout));
        drop(runtime);
        block_on(finish(telemetry, end))
    }),
];

/// Runs every way to end in every place, and passes the reports to `check`.
fn everywhere(
    timeout: Duration,
    mut endpoint: impl FnMut() -> String,
    mut check: impl FnMut(&str, Option<Report>),
) {
    for (place, run) in PLACES {
        for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
            for end in ENDS {
                let case = format!("{end:?} over {protocol:?} in {place}");
                // Another process may delay this one, so a case may try again. A real hang shows each time.
                let mut late = Vec::new();
                while late.len() < 3 {
                    let (took, report) = run(endpoint(), protocol, timeout, end);
                    check(&case, report);
                    if took <= timeout + TOLERANCE {
                        break;
                    }
                    late.push(took);
                }
                assert!(late.len() < 3, "{case} took {late:?}");
            }
        }
    }
}

#[test]
fn a_healthy_receiver_gets_everything() {
    let receiver = Receiver::start();
    let mut sent = 0;
    everywhere(
        NO_TIMEOUT,
        || receiver.endpoint(),
        |case, report| {
            sent += 1;
            if let Some(report) = report {
                assert!(!report.timed_out, "{case}");
                assert_eq!(report.lost(), 0, "{case}");
            }
            let received = receiver.received();
            assert_eq!(received.spans().len(), sent, "{case}");
            assert!(received.points() >= 4 * sent, "{case}");
        },
    );
}

#[test]
fn a_receiver_that_refuses_connections_delays_no_shutdown() {
    let proxy = Proxy::start(
        "127.0.0.1:1".parse().expect("a valid address"),
        Mode::Refuse,
    );
    everywhere(TIMEOUT, || format!("http://{}", proxy.address), lost);
}

#[test]
fn a_receiver_that_never_responds_delays_no_shutdown() {
    let proxy = Proxy::start("127.0.0.1:1".parse().expect("a valid address"), Mode::Mute);
    everywhere(TIMEOUT, || format!("http://{}", proxy.address), lost);
}

fn lost(case: &str, report: Option<Report>) {
    let Some(report) = report else {
        return;
    };
    let traces = report.stats.traces;
    assert_eq!((traces.accepted, traces.exported), (1, 0), "{case}");
    assert!(
        report.timed_out || traces.failed + traces.dropped == 1,
        "{case}: {report:?}"
    );
}

#[test]
fn a_guard_can_be_shared_by_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<TelemetryGuard>();
}

#[tokio::test]
async fn spans_that_end_during_a_shutdown_are_sent_or_counted_as_dropped() {
    let receiver = Receiver::start();
    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        .build()
        .expect("the configuration is valid");
    let provider =
        SdkTracerProvider::clone(telemetry.tracer_provider().expect("traces are enabled"));
    let recorder = std::thread::spawn(move || {
        use opentelemetry::trace::{Tracer, TracerProvider};

        let tracer = provider.tracer("test");
        for _ in 0..10_000 {
            drop(tracer.start("span"));
        }
    });
    let stats = telemetry.shutdown().await.stats.traces;
    recorder.join().expect("the thread does not panic");
    assert_eq!(stats.accepted, stats.exported + stats.dropped);
    assert_eq!(receiver.received().spans().len() as u64, stats.exported);
}

#[tokio::test]
async fn a_shutdown_that_is_dropped_midway_returns_at_once() {
    let proxy = Proxy::start("127.0.0.1:1".parse().expect("a valid address"), Mode::Mute);
    let telemetry = recorded(format!("http://{}", proxy.address), Protocol::Grpc, TIMEOUT).await;
    let start = Instant::now();
    let shutdown = tokio::time::timeout(Duration::from_millis(10), telemetry.shutdown());
    assert!(shutdown.await.is_err());
    assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
}

#[tokio::test]
async fn providers_flush_within_the_shutdown_timeout() {
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry::trace::{Tracer, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkError;

    let build = |endpoint: String| {
        Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(endpoint)
            .with_shutdown_timeout(TIMEOUT)
            .build()
            .expect("the configuration is valid")
    };
    let receiver = Receiver::start();
    let telemetry = build(receiver.endpoint());
    let tracers = telemetry
        .tracer_provider()
        .expect("traces are enabled")
        .clone();
    drop(tracers.tracer("test").start("span"));
    tracers.force_flush().expect("the receiver accepts it");
    assert_eq!(receiver.received().spans().len(), 1);

    let meters = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .clone();
    let meter = meters.meter("test");
    meter.u64_counter("count").build().add(1, &[]);
    meters.force_flush().expect("the receiver accepts it");
    assert!(receiver.received().metric("count").is_some());
    #[cfg(feature = "logs")]
    {
        use opentelemetry::logs::{Logger, LoggerProvider};

        let loggers = telemetry.logger_provider().expect("logs are enabled");
        let logger = loggers.logger("test");
        logger.emit(logger.create_log_record());
        loggers.force_flush().expect("the receiver accepts it");
        assert_eq!(receiver.received().log_records().len(), 1);
    }

    // A flush on the export thread would wait for itself.
    let (sender, result) = std::sync::mpsc::channel();
    let inside = tracers.clone();
    let _gauge = meter
        .u64_observable_gauge("gauge")
        .with_callback(move |_| {
            let _ = sender.send(inside.force_flush());
        })
        .build();
    meters.force_flush().expect("the flush does not wait");
    let result = result.recv().expect("the callback was called");
    assert!(
        matches!(result, Err(OTelSdkError::InternalFailure(_))),
        "{result:?}"
    );

    let proxy = Proxy::start("127.0.0.1:1".parse().expect("a valid address"), Mode::Mute);
    let mute = build(format!("http://{}", proxy.address));
    let tracers = mute.tracer_provider().expect("traces are enabled");
    drop(tracers.tracer("test").start("span"));
    let error = tracers
        .force_flush()
        .expect_err("the receiver does not respond");
    assert!(error.to_string().contains("Timeout(400ms)"), "{error}");

    assert!(!telemetry.shutdown().await.timed_out);
    let result = meters.force_flush();
    assert!(
        matches!(result, Err(OTelSdkError::AlreadyShutdown)),
        "{result:?}"
    );
}
