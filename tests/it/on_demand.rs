//! Export without an export thread: threads exist only during flushes. The rest works as with the
//! thread.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::{Tracer, TracerProvider};
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
use tokio::runtime::{Builder, Runtime};
use tower_telemetry::config::{Batch, Exporter, Protocol, Temporality};
use tower_telemetry::stats::{Report, SignalStats};
use tower_telemetry::{Config, TelemetryGuard};

use crate::support::DEADLINE;
use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::{Fault, Received, Receiver};

const PROTOCOLS: [Protocol; 2] = [Protocol::Grpc, Protocol::HttpProtobuf];

fn config(endpoint: String, protocol: Protocol) -> Config {
    Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(endpoint)
        .with_protocol(protocol)
        .with_temporality(Temporality::Delta)
        .with_export_thread(false)
        .with_shutdown_timeout(DEADLINE)
}

/// Records one span per number, with the number as its name, and adds 1 to a counter for each span.
fn record(telemetry: &TelemetryGuard, numbers: impl IntoIterator<Item = usize>) {
    let tracers = telemetry.tracer_provider().expect("traces are enabled");
    let meters = telemetry.meter_provider().expect("metrics are enabled");
    let counter = meters.meter("test").u64_counter("numbers").build();
    for number in numbers {
        drop(tracers.tracer("test").start(number.to_string()));
        counter.add(1, &[]);
    }
}

/// Returns the sorted numbers of the received spans.
fn numbers(received: &Received) -> Vec<usize> {
    let spans = received.spans();
    let names = spans.iter().map(|span| span.name.parse());
    let mut numbers: Vec<_> = names
        .map(|name| name.expect("the name is a number"))
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Returns the values of a counter in the order in which they were received.
fn values(received: &Received, name: &str) -> Vec<i64> {
    let resources = received
        .metrics
        .iter()
        .flat_map(|request| &request.resource_metrics);
    let scopes = resources.flat_map(|resource| &resource.scope_metrics);
    let metrics = scopes.flat_map(|scope| &scope.metrics);
    let sums = metrics.filter(|metric| metric.name == name).map(|metric| {
        let Some(Data::Sum(sum)) = &metric.data else {
            panic!("{metric:?} is no sum");
        };
        let values = sum.data_points.iter().map(|point| match point.value {
            Some(Value::AsInt(value)) => value,
            other => panic!("{other:?} is no integer"),
        });
        values.sum()
    });
    sums.collect()
}

fn assert_accounts(stats: SignalStats) {
    let settled = stats.exported + stats.failed + stats.dropped;
    assert_eq!(stats.accepted, settled + stats.waiting, "{stats:?}");
}

/// The places from which a flush is called.
#[derive(Clone, Copy, Debug)]
enum From {
    NoRuntime,
    CurrentThread,
    MultiThread,
    BlockingInCurrentThread,
    BlockingInMultiThread,
}

const PLACES: [From; 5] = [
    From::NoRuntime,
    From::CurrentThread,
    From::MultiThread,
    From::BlockingInCurrentThread,
    From::BlockingInMultiThread,
];

impl From {
    fn runtime(self) -> Runtime {
        let mut builder = match self {
            Self::MultiThread | Self::BlockingInMultiThread => Builder::new_multi_thread(),
            // This runtime has no timer and no sockets.
            _ => Builder::new_current_thread(),
        };
        builder.build().expect("the runtime can be built")
    }

    fn flush(self, telemetry: &TelemetryGuard) -> Report {
        match self {
            Self::NoRuntime => telemetry.force_flush_blocking(),
            Self::CurrentThread | Self::MultiThread => {
                self.runtime().block_on(telemetry.force_flush())
            }
            Self::BlockingInCurrentThread | Self::BlockingInMultiThread => self
                .runtime()
                .block_on(async { telemetry.force_flush_blocking() }),
        }
    }
}

#[test]
fn each_flush_sends_everything_once_from_any_place() {
    const FLUSHES: usize = 20;

    for protocol in PROTOCOLS {
        let receiver = Receiver::start();
        let telemetry = config(receiver.endpoint(), protocol).build();
        let telemetry = telemetry.expect("the configuration is valid");
        let places = PLACES.into_iter().cycle();
        for (number, from) in (0..FLUSHES).zip(places) {
            record(&telemetry, [number]);
            assert_eq!(numbers(&receiver.received()).len(), number);
            let report = from.flush(&telemetry);
            assert!(!report.timed_out, "{from:?}: {report:?}");
            let received = receiver.received();
            assert_eq!(numbers(&received), Vec::from_iter(0..=number), "{from:?}");
            // Each flush makes one collection of the points since the previous flush.
            assert_eq!(
                values(&received, "numbers"),
                vec![1; number + 1],
                "{from:?}"
            );
            assert_eq!(report.stats.traces.exported, number as u64 + 1);
            assert_accounts(report.stats.traces);
            assert_accounts(report.stats.metrics);
        }
        drop(telemetry);
        assert_eq!(numbers(&receiver.received()).len(), FLUSHES);
    }
}

#[test]
fn a_full_batch_or_an_elapsed_interval_sends_nothing_before_a_flush() {
    let receiver = Receiver::start();
    let batch = Batch::default()
        .with_max_export_batch_size(4)
        .with_schedule_delay(Duration::from_millis(1));
    let start = |receiver: &Receiver, has_thread| {
        let telemetry = config(receiver.endpoint(), Protocol::Grpc)
            .with_export_thread(has_thread)
            .with_span_batch(batch)
            .with_metric_interval(Duration::from_millis(1))
            .build()
            .expect("the configuration is valid");
        record(&telemetry, 0..10);
        telemetry
    };
    let telemetry = start(&receiver, false);
    // With a thread and the same settings, both intervals have passed when everything has arrived.
    let control = Receiver::start();
    let _with_thread = start(&control, true);
    let begin = Instant::now();
    while numbers(&control.received()).len() < 10
        || values(&control.received(), "numbers").is_empty()
    {
        assert!(begin.elapsed() < DEADLINE, "the thread exports");
        std::thread::yield_now();
    }
    assert_eq!(receiver.arrivals().len(), 0);
    let report = telemetry.force_flush_blocking();
    assert!(!report.timed_out, "{report:?}");
    assert_eq!(numbers(&receiver.received()), Vec::from_iter(0..10));
    assert_eq!(values(&receiver.received(), "numbers"), [10]);
}

#[test]
fn a_flush_ends_at_its_deadline_under_any_fault_and_the_next_flush_delivers() {
    /// A longer time than a flush takes on a busy machine.
    const TIMEOUT: Duration = Duration::from_secs(4);

    let faults = [
        (Mode::Mute, Fault::None),
        (Mode::Refuse, Fault::None),
        (Mode::Freeze, Fault::None),
        (Mode::Pass, Fault::Slow(DEADLINE)),
        (Mode::Pass, Fault::Status(503, None)),
        (Mode::Pass, Fault::Status(429, Some("1"))),
    ];
    let check = |protocol, mode, fault: Fault| {
        let receiver = Receiver::start_with(fault.clone());
        let proxy = Proxy::start(receiver.address, mode);
        let telemetry = config(format!("http://{}", proxy.address), protocol)
            .with_temporality(Temporality::Cumulative)
            .with_shutdown_timeout(TIMEOUT)
            .build()
            .expect("the configuration is valid");
        record(&telemetry, 0..3);
        let start = Instant::now();
        let report = telemetry.force_flush_blocking();
        let case = format!("{protocol:?} {mode:?} {fault:?}");
        assert!(report.timed_out, "{case}: {report:?}");
        assert!(start.elapsed() < TIMEOUT + DEADLINE / 2, "{case}");
        let traces = report.stats.traces;
        assert_eq!((traces.accepted, traces.waiting), (3, 3), "{case}");
        proxy.set(Mode::Pass);
        receiver.set_fault(Fault::None);
        record(&telemetry, 3..5);
        let report = telemetry.force_flush_blocking();
        assert!(!report.timed_out, "{case}: {report:?}");
        assert_eq!(report.lost(), 0, "{case}: {report:?}");
        let received = receiver.received();
        assert_eq!(numbers(&received), Vec::from_iter(0..5), "{case}");
        assert_eq!(values(&received, "numbers").last(), Some(&5), "{case}");
        assert_accounts(report.stats.traces);
        assert_accounts(report.stats.metrics);
    };
    std::thread::scope(|scope| {
        for protocol in PROTOCOLS {
            for (mode, fault) in faults.clone() {
                scope.spawn(move || check(protocol, mode, fault));
            }
        }
    });
}

#[test]
fn a_full_queue_drops_exactly_its_oldest_items() {
    const QUEUE: usize = 16;

    for is_down_before in [false, true] {
        let receiver = Receiver::start();
        let mode = if is_down_before {
            Mode::Refuse
        } else {
            Mode::Pass
        };
        let proxy = Proxy::start(receiver.address, mode);
        let batch = Batch::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(4);
        let telemetry = config(format!("http://{}", proxy.address), Protocol::Grpc)
            .with_shutdown_timeout(Duration::from_secs(2))
            .with_span_batch(batch)
            .build()
            .expect("the configuration is valid");
        let mut count = 0;
        if is_down_before {
            record(&telemetry, 0..QUEUE);
            count = QUEUE;
            // From now on, the oldest spans wait for another attempt.
            assert!(telemetry.force_flush_blocking().timed_out);
            proxy.set(Mode::Pass);
        }
        for _ in 0..100 {
            record(&telemetry, [count]);
            count += 1;
            assert_accounts(telemetry.stats().traces);
        }
        let report = telemetry.force_flush_blocking();
        assert!(!report.timed_out, "{report:?}");
        let traces = report.stats.traces;
        assert_accounts(traces);
        let kept = numbers(&receiver.received());
        assert_eq!(kept, Vec::from_iter(count - QUEUE..count));
        let expected = ((count - QUEUE) as u64, QUEUE as u64, 0);
        assert_eq!((traces.dropped, traces.exported, traces.waiting), expected);
    }
}

#[test]
fn a_guard_that_is_dropped_in_async_code_sends_everything() {
    for from in PLACES {
        let receiver = Receiver::start();
        let telemetry = config(receiver.endpoint(), Protocol::Grpc).build();
        let telemetry = telemetry.expect("the configuration is valid");
        record(&telemetry, 0..3);
        from.runtime().block_on(async { drop(telemetry) });
        assert_eq!(numbers(&receiver.received()), [0, 1, 2], "{from:?}");
    }
}

#[tokio::test]
async fn a_shutdown_sends_everything_and_counts_what_it_cannot_send() {
    let receiver = Receiver::start();
    let telemetry = config(receiver.endpoint(), Protocol::Grpc).build();
    let telemetry = telemetry.expect("the configuration is valid");
    record(&telemetry, 0..3);
    let report = telemetry.shutdown().await;
    assert_eq!((report.timed_out, report.lost()), (false, 0), "{report:?}");
    assert_eq!(numbers(&receiver.received()), [0, 1, 2]);

    let proxy = Proxy::start(receiver.address, Mode::Mute);
    let telemetry = config(format!("http://{}", proxy.address), Protocol::Grpc)
        .with_shutdown_timeout(Duration::from_secs(1))
        .build()
        .expect("the configuration is valid");
    record(&telemetry, 0..3);
    let report = telemetry.shutdown().await;
    let traces = report.stats.traces;
    assert!(report.timed_out, "{report:?}");
    assert_eq!((traces.accepted, traces.dropped), (3, 3), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_flushes_all_end_and_a_cancelled_flush_affects_no_other() {
    let receiver = Receiver::start();
    let telemetry = config(receiver.endpoint(), Protocol::HttpProtobuf).build();
    let telemetry = Arc::new(telemetry.expect("the configuration is valid"));
    for round in 0..10 {
        record(&telemetry, [round]);
        tokio::select! {
            biased;
            _ = telemetry.force_flush() => {}
            () = std::future::ready(()) => {}
        }
        let flushes = (0..8).map(|_| {
            let telemetry = telemetry.clone();
            tokio::spawn(async move { telemetry.force_flush().await })
        });
        for flush in flushes.collect::<Vec<_>>() {
            let report = flush.await.expect("the task does not panic");
            assert!(!report.timed_out, "{report:?}");
        }
        assert_eq!(numbers(&receiver.received()), Vec::from_iter(0..=round));
    }
}

#[test]
fn a_hanging_callback_delays_no_flush_beyond_its_deadline() {
    let receiver = Receiver::start();
    let telemetry = config(receiver.endpoint(), Protocol::Grpc)
        .with_shutdown_timeout(Duration::from_secs(1))
        .build()
        .expect("the configuration is valid");
    let (release, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let provider = telemetry
        .meter_provider()
        .expect("metrics are enabled")
        .clone();
    let asked = provider.clone();
    let (told, flushed) = mpsc::channel();
    provider
        .meter("test")
        .u64_observable_gauge("held")
        .with_callback(move |observer| {
            let _ = told.send(asked.force_flush().is_err());
            let _ = held.lock().expect("the lock is not poisoned").recv();
            observer.observe(1, &[]);
        })
        .build();
    for _ in 0..3 {
        let start = Instant::now();
        assert!(telemetry.force_flush_blocking().timed_out);
        assert!(start.elapsed() < DEADLINE);
    }
    drop(release);
    let delivered = || !telemetry.force_flush_blocking().timed_out;
    let start = Instant::now();
    while !delivered() {
        assert!(start.elapsed() < DEADLINE);
    }
    assert!(
        flushed.recv().expect("the callback was called"),
        "a flush in a callback would wait for itself"
    );
    assert!(receiver.received().metric("held").is_some());
}

#[test]
fn a_flush_also_exports_through_parts_of_the_application() {
    use opentelemetry_sdk::trace::InMemorySpanExporter;

    let receiver = Receiver::start();
    let exporter = InMemorySpanExporter::default();
    let telemetry = config(receiver.endpoint(), Protocol::Grpc)
        .with_span_exporter(exporter.clone())
        .build()
        .expect("the configuration is valid");
    for count in 1..=3 {
        record(&telemetry, [count - 1]);
        let report = telemetry.force_flush_blocking();
        assert!(!report.timed_out, "{report:?}");
        let spans = exporter
            .get_finished_spans()
            .expect("the lock is not poisoned");
        assert_eq!(spans.len(), count);
        assert_eq!(numbers(&receiver.received()).len(), count);
    }
}

#[cfg(target_os = "linux")]
mod processes {
    use std::fs;
    use std::process::Command;

    use tower_telemetry::{increment_counter, with_tracer};

    use super::*;
    use crate::support::process::Process;

    const PROGRAM: &str = "ON_DEMAND_PROGRAM";
    const INVOCATIONS: usize = 20;

    /// Returns the names of the threads of this process.
    fn threads() -> Vec<String> {
        let tasks = fs::read_dir("/proc/self/task").expect("the test runs on Linux");
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.collect()
    }

    /// Waits until the process has this number of threads: an ended thread may still be listed.
    fn expect_threads(expected: usize, when: &str) {
        let start = Instant::now();
        while threads().len() != expected {
            let threads = threads();
            assert!(start.elapsed() < DEADLINE, "{when}: {threads:?}");
            std::thread::yield_now();
        }
    }

    fn record(number: usize) {
        with_tracer("test", number.to_string(), || {
            tracing::info!("invocation {number}");
            increment_counter("invocations", "", []);
        });
    }

    /// Runs the program of the tests below. Without its variable, it does nothing.
    #[test]
    fn program() {
        let Ok(program) = std::env::var(PROGRAM) else {
            return;
        };
        let runtime = match &*program {
            "current-thread" => Builder::new_current_thread().enable_all().build().ok(),
            "multi-thread" => Builder::new_multi_thread().enable_all().build().ok(),
            _ => None,
        };
        let before = threads().len();
        let _entered = runtime.as_ref().map(Runtime::enter);
        let telemetry = Config::from_env()
            .with_shutdown_timeout(DEADLINE)
            .init()
            .expect("the configuration is valid");
        expect_threads(before, "after init");
        for number in 0..INVOCATIONS {
            record(number);
            expect_threads(before, "before a flush");
            let report = match &runtime {
                Some(runtime) => runtime.block_on(telemetry.force_flush()),
                None => telemetry.force_flush_blocking(),
            };
            assert!(!report.timed_out, "{report:?}");
            expect_threads(before, "after a flush");
            println!("FLUSHED {number}");
            if program == "frozen" {
                let id = std::process::id().to_string();
                let stopped = Command::new("kill").args(["-STOP", &id]).status();
                assert!(stopped.is_ok_and(|status| status.success()));
                println!("GOES ON {number}");
            }
        }
        match &runtime {
            Some(runtime) => drop(runtime.block_on(telemetry.shutdown())),
            None => drop(telemetry),
        }
        tracing::info!("after the end");
        expect_threads(before, "after the end");
    }

    fn start(program: &str, endpoint: &str, protocol: &str) -> Process {
        let mut command = Command::new(std::env::current_exe().expect("the test has a path"));
        command
            .args(["on_demand::processes::program", "--exact", "--nocapture"])
            .arg("--test-threads=1")
            .env(PROGRAM, program)
            .env("ENVIRONMENT", "staging")
            .env("RUST_LOG", "info")
            .env("TELEMETRY_EXPORT_THREAD", "false")
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta");
        Process::start(&mut command)
    }

    fn assert_all_arrived_once(receiver: &Receiver, invocations: usize) {
        let received = receiver.received();
        assert_eq!(numbers(&received), Vec::from_iter(0..invocations));
        assert_eq!(values(&received, "invocations"), vec![1; invocations]);
        let records = received.log_records();
        for number in 0..invocations {
            let body = format!("invocation {number}\"");
            let found = records
                .iter()
                .filter(|record| format!("{:?}", record.body).contains(&body));
            assert_eq!(found.count(), 1, "{body}");
        }
    }

    #[test]
    fn a_process_has_no_thread_of_this_crate_between_flushes_and_loses_nothing() {
        for program in ["no-runtime", "current-thread", "multi-thread"] {
            for protocol in ["grpc", "http/protobuf"] {
                let receiver = Receiver::start();
                // A thread resolves the host name.
                let endpoint = format!("http://localhost:{}", receiver.address.port());
                let mut process = start(program, &endpoint, protocol);
                let status = process.wait();
                let lines = process.lines();
                assert!(status.success(), "{program}: {lines:#?}");
                assert_all_arrived_once(&receiver, INVOCATIONS);
                let written = |text: &str| lines.iter().any(|line| line.contains(text));
                // The log has the start line, the line of an invocation, and a line after the end.
                for text in ["environment=staging", "invocation 19", "after the end"] {
                    assert!(written(text), "{program}: no {text:?} in {lines:#?}");
                }
            }
        }
    }

    /// Sends a signal to a process.
    fn signal(process: &Process, signal: &str) {
        let id = process.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    fn wait_until_stopped(process: &Process) {
        let start = Instant::now();
        loop {
            let stat = fs::read_to_string(format!("/proc/{}/stat", process.id()));
            let stat = stat.expect("the process exists");
            let (_, state) = stat.rsplit_once(") ").expect("the process has a state");
            if state.starts_with('T') {
                return;
            }
            assert!(start.elapsed() < DEADLINE, "{stat}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_process_that_is_frozen_between_flushes_loses_nothing_when_its_connections_die() {
        for protocol in ["grpc", "http/protobuf"] {
            let receiver = Receiver::start();
            let proxy = Proxy::start(receiver.address, Mode::Pass);
            let mut process = start("frozen", &format!("http://{}", proxy.address), protocol);
            for number in 0..INVOCATIONS {
                process.line(&format!("FLUSHED {number}"));
                wait_until_stopped(&process);
                assert_all_arrived_once(&receiver, number + 1);
                // This closes all connections.
                proxy.set(Mode::Refuse);
                let address = proxy.address;
                let start = Instant::now();
                while std::net::TcpStream::connect(address).is_ok() {
                    assert!(start.elapsed() < DEADLINE);
                }
                proxy.set(Mode::Pass);
                while std::net::TcpStream::connect(address).is_err() {
                    assert!(start.elapsed() < DEADLINE);
                }
                signal(&process, "-CONT");
            }
            assert!(process.wait().success(), "{:#?}", process.lines());
            assert_all_arrived_once(&receiver, INVOCATIONS);
        }
    }

    #[test]
    fn a_process_that_is_frozen_during_a_flush_loses_nothing() {
        let receiver =
            Receiver::start_with(Fault::On("traces", Box::new(Fault::Slow(DEADLINE * 3))));
        let proxy = Proxy::start(receiver.address, Mode::Pass);
        let endpoint = format!("http://{}", proxy.address);
        let mut process = start("no-runtime", &endpoint, "http/protobuf");
        let start = Instant::now();
        let has_arrived = || {
            let received = receiver.received();
            !received.log_records().is_empty()
                && !received.metrics.is_empty()
                && receiver.arrivals().len() >= 3
        };
        while !has_arrived() {
            assert!(start.elapsed() < DEADLINE, "{:#?}", process.lines());
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(&process, "-STOP");
        wait_until_stopped(&process);
        proxy.set(Mode::Refuse);
        while std::net::TcpStream::connect(proxy.address).is_ok() {
            assert!(start.elapsed() < DEADLINE);
        }
        receiver.set_fault(Fault::None);
        proxy.set(Mode::Pass);
        signal(&process, "-CONT");
        assert!(process.wait().success(), "{:#?}", process.lines());
        assert_all_arrived_once(&receiver, INVOCATIONS);
    }
}
