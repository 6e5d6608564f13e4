//! Tests receivers that misbehave in every way. Requests stay fast, nothing hangs, every item is
//! counted, and export continues when the fault ends.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tower_telemetry::{
    Config, TelemetryGuard,
    config::{Batch, Exporter, Protocol},
    stats::Failure,
};

use crate::export::{layer, request};
use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::{Fault, Receiver, retry_info};
use crate::support::{DEADLINE, eventually};

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];
const TIMEOUT: Duration = Duration::from_secs(1);

fn telemetry(endpoint: &str, protocol: Protocol) -> TelemetryGuard {
    let batch = Batch::default()
        .with_schedule_delay(Duration::from_millis(5))
        .with_max_queue_size(64)
        .with_max_export_batch_size(16);
    Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(endpoint)
        .with_protocol(protocol)
        .with_export_timeout(TIMEOUT)
        .with_shutdown_timeout(DEADLINE)
        .with_span_batch(batch)
        .build()
        .expect("the configuration is valid")
}

/// Sends requests and checks that none waits for the exporter.
async fn requests(telemetry: &TelemetryGuard, count: usize) {
    let layer = layer(telemetry);
    let start = Instant::now();
    for _ in 0..count {
        request(layer.clone(), None).await;
    }
    let took = start.elapsed();
    assert!(took < 2 * TIMEOUT, "{count} requests took {took:?}");
}

/// Runs through a fault that no retry can overcome, until after its end.
async fn check_permanent_fault(
    case: String,
    telemetry: TelemetryGuard,
    receiver: Receiver,
    expected: Failure,
    end: impl FnOnce(&Receiver),
) {
    const BEFORE: usize = 40;
    const AFTER: usize = 10;

    requests(&telemetry, BEFORE).await;
    eventually(&format!("{case}: a failure is counted"), || {
        telemetry.stats().traces.failed > 0
    })
    .await;
    assert!(!telemetry.force_flush().await.timed_out, "{case}");
    let stats = telemetry.stats();
    for signal in [stats.traces, stats.metrics] {
        assert_eq!(signal.last_failure, Some(expected), "{case}: {signal:?}");
        assert_eq!(signal.exported, 0, "{case}");
    }

    end(&receiver);
    // After failed connections, new ones are delayed for some seconds.
    let mut after = 0;
    let recovery = Instant::now();
    while after < AFTER || telemetry.stats().traces.exported < AFTER as u64 {
        assert!(
            recovery.elapsed() < DEADLINE,
            "{case}: export does not recover"
        );
        requests(&telemetry, 1).await;
        after += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!telemetry.force_flush().await.timed_out, "{case}");
    // The queue is empty now, so the counts are final.
    let (received, stats) = (receiver.received(), telemetry.stats());
    assert_eq!(stats.traces.accepted, (BEFORE + after) as u64, "{case}");
    for (signal, received) in [
        (stats.traces, received.spans().len()),
        (stats.metrics, received.points()),
    ] {
        assert!(signal.exported > 0, "{case}");
        assert_eq!(signal.exported, received as u64, "{case}: {signal:?}");
        assert_eq!(signal.waiting, 0, "{case}: {signal:?}");
        assert_eq!(
            signal.accepted,
            signal.exported + signal.failed + signal.dropped,
            "{case}: {signal:?}"
        );
    }
    assert_eq!(telemetry.shutdown().await.stats.traces, stats.traces);
}

/// Runs through a temporary fault, until after its end, without any loss.
async fn check_temporary_fault(
    case: String,
    telemetry: TelemetryGuard,
    receiver: Receiver,
    expected: Failure,
    end: impl FnOnce(&Receiver),
) {
    const BEFORE: usize = 40;

    requests(&telemetry, BEFORE).await;
    let ended = async {
        eventually(&format!("{case}: both signals fail"), || {
            let stats = telemetry.stats();
            let failures = [stats.traces, stats.metrics].map(|signal| signal.last_failure);
            failures == [Some(expected); 2]
        })
        .await;
        let stats = telemetry.stats();
        assert_eq!(stats.traces.waiting, BEFORE as u64, "{case}: {stats:?}");
        end(&receiver);
    };
    // The flush retries immediately, and continues after a failed attempt.
    let (report, ()) = tokio::join!(telemetry.force_flush(), ended);
    assert!(!report.timed_out, "{case}: {report:?}");
    let report = telemetry.shutdown().await;
    assert_eq!(report.lost(), 0, "{case}: {report:?}");
    let traces = report.stats.traces;
    assert_eq!(traces.exported, BEFORE as u64, "{case}: {traces:?}");
    // A receiver may get a message twice if its response was lost.
    let spans = receiver.received().spans();
    let unique: HashSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
    assert_eq!(unique.len(), BEFORE, "{case}");
    let points = receiver.received().points() as u64;
    assert!(points >= report.stats.metrics.exported, "{case}");
}

/// Runs cases concurrently, because they mostly wait.
async fn all(cases: JoinSet<()>) {
    cases.join_all().await;
}

#[tokio::test]
async fn broken_connections_lose_nothing() {
    let mut cases = JoinSet::new();
    for (mode, expected) in [
        (Mode::Refuse, Failure::Refused),
        (Mode::Mute, Failure::Timeout),
        (Mode::Freeze, Failure::Timeout),
        (Mode::Drip, Failure::Timeout),
        (Mode::Reset, Failure::Connection),
    ] {
        for protocol in PROTOCOLS {
            let receiver = Receiver::start();
            let proxy = Proxy::start(receiver.address, mode);
            let endpoint = format!("http://{}", proxy.address);
            cases.spawn(async move {
                let case = format!("{mode:?} {protocol:?}");
                let telemetry = telemetry(&endpoint, protocol);
                let end = |_: &Receiver| proxy.set(Mode::Pass);
                check_temporary_fault(case, telemetry, receiver, expected, end).await;
            });
        }
    }
    all(cases).await;
}

#[tokio::test]
async fn a_receiver_with_an_unknown_host_name_is_reported_as_a_dns_failure() {
    // A name this long is invalid, so no DNS server is asked.
    let endpoint = format!("http://{}:4318", "a".repeat(64));
    let telemetry = telemetry(&endpoint, Protocol::HttpProtobuf);
    requests(&telemetry, 1).await;
    eventually("the export fails", || {
        telemetry.stats().traces.last_failure == Some(Failure::Dns)
    })
    .await;
}

#[tokio::test]
async fn a_temporary_failure_loses_nothing() {
    for (protocol, fault) in [
        (Protocol::HttpProtobuf, Fault::Status(503, None)),
        (Protocol::Grpc, Fault::Grpc(14, None)),
    ] {
        let receiver = Receiver::start_with(fault.clone());
        let telemetry = telemetry(&receiver.endpoint(), protocol);
        requests(&telemetry, 1).await;
        eventually("an attempt arrives", || !receiver.arrivals().is_empty()).await;
        receiver.set_fault(Fault::None);
        eventually("another attempt succeeds", || {
            !receiver.received().ways.is_empty()
        })
        .await;
        let report = telemetry.shutdown().await;
        assert_eq!(report.lost(), 0, "{fault:?} {report:?}");
        assert_eq!(receiver.received().spans().len(), 1);
    }
}

#[tokio::test]
async fn spans_that_do_not_fit_the_queue_are_dropped_and_counted() {
    let receiver = Receiver::start();
    let proxy = Proxy::start(receiver.address, Mode::Refuse);
    let endpoint = format!("http://{}", proxy.address);
    let batch = Batch::default()
        .with_max_queue_size(8)
        .with_schedule_delay(DEADLINE);
    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(endpoint)
        .with_span_batch(batch)
        .with_export_timeout(DEADLINE)
        .build()
        .expect("the configuration is valid");
    requests(&telemetry, 100).await;
    eventually("the failed batch is counted", || {
        telemetry.stats().traces.waiting <= 8
    })
    .await;
    let stats = telemetry.stats().traces;
    assert_eq!((stats.accepted, stats.failed), (100, 0));
    assert!((1..=8).contains(&stats.waiting), "{stats:?}");
    assert_eq!(stats.dropped, 100 - stats.waiting);
    proxy.set(Mode::Pass);
    assert!(!telemetry.force_flush().await.timed_out);
    let after = telemetry.stats().traces;
    assert_eq!((after.dropped, after.failed), (stats.dropped, 0));
    assert_eq!(after.exported, stats.waiting);
    assert_eq!(receiver.received().spans().len() as u64, after.exported);
}

#[tokio::test]
async fn a_connection_that_freezes_while_in_use_loses_nothing() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        let proxy = Proxy::start(receiver.address, Mode::Pass);
        let telemetry = telemetry(&format!("http://{}", proxy.address), protocol);
        requests(&telemetry, 1).await;
        assert!(!telemetry.force_flush().await.timed_out);
        proxy.set(Mode::Freeze);
        requests(&telemetry, 1).await;
        eventually("the attempt times out", || {
            telemetry.stats().traces.last_failure == Some(Failure::Timeout)
        })
        .await;
        // The old connection stays frozen, and the client opens a new one at once.
        proxy.set(Mode::Pass);
        requests(&telemetry, 1).await;
        let report = telemetry.shutdown().await;
        assert!(!report.timed_out);
        assert_eq!(report.lost(), 0, "{report:?}");
        assert_eq!(receiver.received().spans().len(), 3);
    }
}

#[tokio::test]
async fn invalid_responses_are_survived_and_counted() {
    let elsewhere = Receiver::start();
    let away = format!("{}/v1/traces", elsewhere.endpoint());
    let both = |failure| [Some(failure); 2];
    // A gRPC-only fault: over HTTP, a 2xx response without a body is a success.
    let grpc = |name| [Some(Failure::GrpcStatus(name)), None];
    let cases = [
        (Fault::Status(404, None), both(Failure::HttpStatus(404))),
        (Fault::Status(500, None), both(Failure::HttpStatus(500))),
        (Fault::Grpc(16, None), grpc("UNAUTHENTICATED")),
        (Fault::Grpc(8, None), grpc("RESOURCE_EXHAUSTED")),
        (
            Fault::Grpc(8, Some("not base64".to_owned())),
            grpc("RESOURCE_EXHAUSTED"),
        ),
        (Fault::Html, both(Failure::NoReceiver)),
        (Fault::Endless, both(Failure::NoReceiver)),
        (Fault::Redirect(away), both(Failure::HttpStatus(307))),
        (
            Fault::Garbage,
            [
                Some(Failure::GrpcStatus("UNKNOWN")),
                Some(Failure::NoReceiver),
            ],
        ),
    ];
    let mut running = JoinSet::new();
    for (fault, expected) in cases {
        for (protocol, expected) in PROTOCOLS.into_iter().zip(expected) {
            let Some(expected) = expected else {
                continue;
            };
            let fault = fault.clone();
            running.spawn(async move {
                let case = format!("{fault:?} {protocol:?}");
                let receiver = Receiver::start_with(fault);
                let telemetry = telemetry(&receiver.endpoint(), protocol);
                let end = |receiver: &Receiver| receiver.set_fault(Fault::None);
                check_permanent_fault(case, telemetry, receiver, expected, end).await;
            });
        }
    }
    all(running).await;
    assert!(elsewhere.arrivals().is_empty(), "no redirect is followed");
}

#[tokio::test]
async fn retryable_responses_lose_nothing() {
    let mut cases = JoinSet::new();
    for code in [429, 502, 503, 504] {
        cases.spawn(retryable(
            Fault::Status(code, None),
            Protocol::HttpProtobuf,
            Failure::HttpStatus(code),
        ));
    }
    for (code, name) in [
        (1, "CANCELLED"),
        (4, "DEADLINE_EXCEEDED"),
        (10, "ABORTED"),
        (11, "OUT_OF_RANGE"),
        (14, "UNAVAILABLE"),
        (15, "DATA_LOSS"),
    ] {
        let failure = Failure::GrpcStatus(name);
        cases.spawn(retryable(Fault::Grpc(code, None), Protocol::Grpc, failure));
    }
    let exhausted = Fault::Grpc(8, Some(retry_info(Duration::from_millis(1))));
    let failure = Failure::GrpcStatus("RESOURCE_EXHAUSTED");
    cases.spawn(retryable(exhausted, Protocol::Grpc, failure));
    all(cases).await;
}

async fn retryable(fault: Fault, protocol: Protocol, expected: Failure) {
    let case = format!("{fault:?}");
    let receiver = Receiver::start_with(fault);
    let telemetry = telemetry(&receiver.endpoint(), protocol);
    let end = |receiver: &Receiver| receiver.set_fault(Fault::None);
    check_temporary_fault(case, telemetry, receiver, expected, end).await;
}

#[tokio::test]
async fn rejected_items_are_counted_and_not_sent_again() {
    for protocol in PROTOCOLS {
        let receiver = Receiver::start_with(Fault::Partial(3));
        let telemetry = telemetry(&receiver.endpoint(), protocol);
        requests(&telemetry, 10).await;
        let stats = telemetry.shutdown().await.stats;
        let received = receiver.received();
        // The receiver rejects three items of each message, or all of a smaller one.
        let messages = received.traces.iter().map(|message| {
            let scopes = message
                .resource_spans
                .iter()
                .flat_map(|one| &one.scope_spans);
            scopes.map(|scope| scope.spans.len() as u64).sum::<u64>()
        });
        assert_eq!(received.spans().len(), 10);
        assert_eq!(
            stats.traces.failed,
            messages.map(|count| count.min(3)).sum::<u64>()
        );
        assert_eq!(stats.traces.exported, 10 - stats.traces.failed);
        assert_eq!(stats.traces.last_failure, Some(Failure::Rejected));
        assert_eq!((stats.metrics.exported, stats.metrics.failed), (1, 3));
    }
}

#[tokio::test]
async fn a_throttling_receiver_gets_no_early_retry_and_loses_nothing() {
    // The pause is longer than the export timeout, and is not part of it.
    let quiet = Duration::from_secs(1);
    for (protocol, fault) in [
        (Protocol::HttpProtobuf, Fault::Status(429, Some("1"))),
        (Protocol::HttpProtobuf, Fault::Status(503, Some("1"))),
        (Protocol::Grpc, Fault::Grpc(8, Some(retry_info(quiet)))),
        (Protocol::Grpc, Fault::Grpc(14, Some(retry_info(quiet)))),
    ] {
        let receiver = Receiver::start_with(fault.clone());
        let telemetry = Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(receiver.endpoint())
            .with_protocol(protocol)
            .with_metrics_exporters([])
            .with_export_timeout(quiet / 2)
            .with_shutdown_timeout(DEADLINE)
            .with_span_batch(Batch::default().with_schedule_delay(Duration::from_millis(5)))
            .build()
            .expect("the configuration is valid");
        requests(&telemetry, 10).await;
        eventually("the receiver throttles", || !receiver.arrivals().is_empty()).await;
        receiver.set_fault(Fault::None);
        requests(&telemetry, 10).await;
        let report = telemetry.shutdown().await;
        assert!(!report.timed_out, "{fault:?}");
        assert_eq!(report.lost(), 0, "{fault:?}: {report:?}");
        assert_eq!(receiver.received().spans().len(), 20);
        let arrivals = receiver.arrivals();
        let after = arrivals.iter().map(|one| one.duration_since(arrivals[0]));
        // Messages that were already in flight may arrive earlier.
        let after: Vec<_> = after.filter(|after| *after > quiet / 4).collect();
        assert!(!after.is_empty(), "{fault:?}");
        let early = after.iter().find(|after| **after < quiet);
        assert!(early.is_none(), "{fault:?}: retried after {early:?}");
    }
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_the_end_of_throttling() {
    for after in ["3600", "Fri, 31 Dec 2100 23:59:59 GMT"] {
        let receiver = Receiver::start_with(Fault::Status(429, Some(after)));
        let telemetry = Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(receiver.endpoint())
            .with_shutdown_timeout(Duration::from_millis(200))
            .build()
            .expect("the configuration is valid");
        requests(&telemetry, 10).await;
        let start = Instant::now();
        let report = telemetry.shutdown().await;
        assert!(start.elapsed() < DEADLINE / 2);
        assert!(report.timed_out);
        assert_eq!(report.stats.traces.dropped, 10);
        // At most one message per signal arrives, because they are sent at the same time.
        assert!(receiver.arrivals().len() <= 2, "{:?}", receiver.arrivals());
    }
}

#[cfg(feature = "logs")]
#[tokio::test]
async fn throttling_of_one_signal_does_not_delay_another() {
    use opentelemetry::logs::{Logger, LoggerProvider};

    for (protocol, fault) in [
        (Protocol::HttpProtobuf, Fault::Status(429, Some("30"))),
        (
            Protocol::Grpc,
            Fault::Grpc(8, Some(retry_info(Duration::from_secs(30)))),
        ),
    ] {
        let receiver = Receiver::start_with(Fault::On("logs", Box::new(fault)));
        let batch = Batch::default()
            .with_schedule_delay(Duration::from_millis(5))
            .with_max_queue_size(64);
        let telemetry = Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(receiver.endpoint())
            .with_protocol(protocol)
            .with_span_batch(batch)
            .with_log_batch(batch)
            .with_metric_interval(Duration::from_millis(20))
            .with_shutdown_timeout(Duration::from_secs(2))
            .build()
            .expect("the configuration is valid");
        let loggers = telemetry.logger_provider().expect("logs are enabled");
        let logger = loggers.logger("test");
        let log = || logger.emit(logger.create_log_record());
        log();
        eventually("logs are throttled", || {
            telemetry.stats().logs.last_failure.is_some()
        })
        .await;
        let throttled = receiver.arrivals().len();
        // Send more of each signal than its queue holds.
        for count in 1..=200 {
            log();
            requests(&telemetry, 1).await;
            if count % 20 == 0 {
                eventually("spans are exported", || {
                    telemetry.stats().traces.exported == count
                })
                .await;
            }
        }
        let metrics = telemetry.stats().metrics.exported;
        eventually("metrics are exported", || {
            telemetry.stats().metrics.exported > metrics
        })
        .await;
        assert!(receiver.arrivals().len() > throttled);
        let stats = telemetry.shutdown().await.stats;
        for signal in [stats.traces, stats.metrics] {
            assert_eq!((signal.failed, signal.dropped), (0, 0), "{signal:?}");
        }
        assert_eq!((stats.traces.exported, stats.logs.dropped), (200, 201));
        let received = receiver.received();
        assert_eq!(
            (received.spans().len(), received.log_records().len()),
            (200, 0)
        );
    }
}
