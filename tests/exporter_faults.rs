//! Runs the exporters under the same faults. It prints the table of `docs/exporters.md` and fails
//! if the page has another one:
//!
//! ```sh
//! cargo test --all-features --test exporter_faults
//! ```
//!
//! Each cell runs in its own process. There are no threads of a test harness, because one of the cells forks.

#[path = "it/support/proxy.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod proxy;
#[path = "it/support/receiver.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod receiver;
#[path = "it/support/refused.rs"]
mod refused;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry::trace::{Tracer, TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower_telemetry::config::{Exporter, Protocol};
use tower_telemetry::{Config, TelemetryGuard};

use proxy::{Mode, Proxy};
use receiver::{Fault, Receiver, retry_info};

const PAGE: &str = include_str!("../docs/exporters.md");
const HEAD: &str = "| fault | tower-telemetry | `with_reference_exporter`, HTTP | `with_reference_exporter`, gRPC | \
                    `opentelemetry-otlp` with the SDK's processor, gRPC |\n|---|---|---|---|---|\n";

const SPANS: usize = 20;
const REJECTED: usize = 5;
/// The time limit of one attempt. For `opentelemetry-otlp`, the limit of all attempts together.
const ATTEMPT: Duration = Duration::from_secs(4);
const SLOW: Duration = Duration::from_millis(500);
const SHUTDOWN: Duration = Duration::from_secs(2);
/// How much later than its deadline a shutdown may end on a busy machine.
const SLACK: Duration = Duration::from_millis(1500);
/// How long the receiver is away in an outage. The retries of `opentelemetry-otlp` end earlier.
const OUTAGE: Duration = Duration::from_secs(3);
/// How long spans may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(20);

const WAYS: [&str; 5] = [
    "own-http",
    "own-grpc",
    "reference-http",
    "reference-grpc",
    "sdk-grpc",
];

const FAULTS: [&str; 12] = [
    "connection refused",
    "TCP connection accepted, no response",
    "TCP connection accepted, no TLS handshake",
    "each response takes 0.5 s",
    "429 or `RESOURCE_EXHAUSTED`, for a second",
    "503 or `UNAVAILABLE`, for a second",
    "partial success: 5 of 20 are rejected",
    "a restart of the receiver, 3 s",
    "no tokio runtime",
    "a flush on a single-threaded runtime, which it blocks",
    "a fork, then spans in the child process",
    "immediate shutdown",
];

/// The address to send to, with the receiver and the proxy behind it.
struct Place {
    url: String,
    receiver: Option<Receiver>,
    proxy: Option<Proxy>,
}

impl Place {
    fn of(fault: &str, is_grpc: bool) -> Self {
        let quiet = |http, grpc| match is_grpc {
            true => Fault::Grpc(grpc, Some(retry_info(Duration::from_secs(1)))),
            false => Fault::Status(http, Some("1")),
        };
        let mut place = match fault {
            "connection refused" => Self {
                url: format!("http://{}", refused::refused_address()),
                receiver: None,
                proxy: None,
            },
            "TCP connection accepted, no response" => Self::behind(Mode::Mute),
            "TCP connection accepted, no TLS handshake" => Self::behind(Mode::Mute),
            "a restart of the receiver, 3 s" => Self::behind(Mode::Refuse),
            _ => {
                let receiver = Receiver::start();
                receiver.set_fault(match fault {
                    "each response takes 0.5 s" => Fault::Slow(SLOW),
                    "429 or `RESOURCE_EXHAUSTED`, for a second" => quiet(429, 8),
                    "503 or `UNAVAILABLE`, for a second" => quiet(503, 14),
                    "partial success: 5 of 20 are rejected" => Fault::Partial(REJECTED as i64),
                    _ => Fault::None,
                });
                Self {
                    url: receiver.endpoint(),
                    receiver: Some(receiver),
                    proxy: None,
                }
            }
        };
        if fault == "TCP connection accepted, no TLS handshake" {
            place.url = place.url.replace("http:", "https:");
        }
        place
    }

    fn behind(mode: Mode) -> Self {
        let receiver = Receiver::start();
        let proxy = Proxy::start(receiver.address, mode);
        Self {
            url: format!("http://{}", proxy.address),
            receiver: Some(receiver),
            proxy: Some(proxy),
        }
    }

    /// Ends a temporary fault when its time is over.
    fn recover(&self) {
        let Some(receiver) = &self.receiver else {
            return;
        };
        if let Some(proxy) = &self.proxy {
            thread::sleep(OUTAGE);
            proxy.set(Mode::Pass);
            return;
        }
        let start = Instant::now();
        while receiver.arrivals().is_empty() && start.elapsed() < ARRIVAL {
            thread::sleep(Duration::from_millis(5));
        }
        receiver.set_fault(Fault::None);
    }

    fn arrived(&self) -> usize {
        let Some(receiver) = &self.receiver else {
            return 0;
        };
        let spans = receiver.received().spans();
        let ids: BTreeSet<_> = spans.into_iter().map(|span| span.span_id).collect();
        ids.len()
    }

    /// Returns whether the second message came earlier than the receiver had asked for.
    fn retried_early(&self) -> bool {
        let arrivals = self.receiver.as_ref().map(Receiver::arrivals);
        let arrivals = arrivals.unwrap_or_default();
        let pauses = arrivals.windows(2);
        let mut pauses = pauses.map(|two| two[1] - two[0]);
        // The response takes a moment to arrive, so the pause may look shorter.
        pauses.any(|pause| pause < Duration::from_millis(900))
    }
}

/// A pipeline of this crate or of the SDK.
enum Pipeline {
    Crate(Box<TelemetryGuard>),
    Sdk(SdkTracerProvider),
}

impl Pipeline {
    fn start(way: &str, url: &str) -> Self {
        if way == "sdk-grpc" {
            let exporter = SpanExporter::builder()
                .with_tonic()
                .with_endpoint(url)
                .with_timeout(ATTEMPT)
                .build()
                .expect("the exporter can be built");
            let provider = SdkTracerProvider::builder().with_batch_exporter(exporter);
            return Self::Sdk(provider.build());
        }
        let protocol = match way.ends_with("grpc") {
            true => Protocol::Grpc,
            false => Protocol::HttpProtobuf,
        };
        let mut config = Config::from_vars(|_| None)
            .with_exporters([])
            .with_traces_exporters([Exporter::Otlp])
            .with_endpoint(url)
            .with_protocol(protocol)
            .with_export_timeout(ATTEMPT)
            .with_shutdown_timeout(SHUTDOWN);
        if way.starts_with("reference") {
            config = config.with_reference_exporter();
        }
        Self::Crate(Box::new(
            config.build().expect("the configuration is valid"),
        ))
    }

    fn tracers(&self) -> SdkTracerProvider {
        match self {
            Self::Crate(telemetry) => telemetry
                .tracer_provider()
                .expect("traces are enabled")
                .clone(),
            Self::Sdk(provider) => provider.clone(),
        }
    }

    fn make_spans(&self) {
        let tracer = self.tracers().tracer("faults");
        for _ in 0..SPANS {
            drop(tracer.start("span"));
        }
    }

    /// Shuts down within `SHUTDOWN` and describes the losses that are reported.
    async fn end(self) -> String {
        match self {
            Self::Crate(telemetry) => {
                let traces = telemetry.shutdown().await.stats.traces;
                let rejected = traces
                    .rejected
                    .map_or("unknown".to_owned(), |n| n.to_string());
                match traces.lost() {
                    0 if rejected == "0" || traces.exported == 0 => "none lost".to_owned(),
                    0 => format!("none lost, rejected: {rejected}"),
                    lost => format!("{lost} counted as lost"),
                }
            }
            Self::Sdk(provider) => match provider.shutdown_with_timeout(SHUTDOWN) {
                Ok(()) => "no count".to_owned(),
                Err(_) => "no count, the shutdown fails".to_owned(),
            },
        }
    }
}

/// Runs one cell of the table and describes its outcome.
fn run(fault: &str, way: &str) -> String {
    let place = Arc::new(Place::of(fault, way.ends_with("grpc")));
    let url = place.url.clone();
    match fault {
        "no tokio runtime" => {
            let started = std::panic::catch_unwind(|| Pipeline::start(way, &url));
            match started {
                Ok(pipeline) => block_on(outcome(fault, pipeline, &place)),
                Err(_) => "the builder panics".to_owned(),
            }
        }
        "a flush on a single-threaded runtime, which it blocks" => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("the runtime can be built").block_on(async {
                let pipeline = Pipeline::start(way, &url);
                pipeline.make_spans();
                // A blocking call, as handlers of signals and panics make it.
                let flushed = pipeline.tracers().force_flush().is_ok();
                let flushed = if flushed { "" } else { ", the flush fails" };
                outcome(fault, pipeline, &place).await + flushed
            })
        }
        #[cfg(unix)]
        "a fork, then spans in the child process" => forked(way, &url, &place),
        _ => {
            let runtime = tokio::runtime::Runtime::new().expect("the runtime can be built");
            runtime.block_on(async { outcome(fault, Pipeline::start(way, &url), &place).await })
        }
    }
}

async fn outcome(fault: &str, pipeline: Pipeline, place: &Arc<Place>) -> String {
    let is_flushed_already = fault.starts_with("a flush on");
    if !is_flushed_already {
        pipeline.make_spans();
    }
    let passes = fault.ends_with("for a second") || fault.starts_with("a restart");
    let is_awaited = passes || fault.starts_with("each response");
    if is_awaited {
        let for_recovery = place.clone();
        let recovery = thread::spawn(move || {
            if passes {
                for_recovery.recover();
            }
        });
        let tracers = pipeline.tracers();
        let flush = thread::spawn(move || tracers.force_flush());
        let start = Instant::now();
        let is_lost =
            || flush.is_finished() && recovery.is_finished() && start.elapsed() > OUTAGE * 2;
        while place.arrived() < SPANS && start.elapsed() < ARRIVAL && !is_lost() {
            // Blocks one worker of a runtime that has several.
            thread::sleep(Duration::from_millis(10));
        }
    }
    let start = Instant::now();
    let reported = pipeline.end().await;
    let late = start.elapsed().saturating_sub(SHUTDOWN + SLACK);
    let late = if late.is_zero() { "" } else { ", late" };
    let early = if fault.ends_with("for a second") && place.retried_early() {
        ", retried too early"
    } else {
        ""
    };
    let rejected = if fault.starts_with("partial") {
        REJECTED
    } else {
        0
    };
    let arrived = place.arrived().saturating_sub(rejected);
    let arrived = match arrived {
        SPANS => "all arrive".to_owned(),
        0 => "none arrives".to_owned(),
        some => format!("{some} of {SPANS} arrive"),
    };
    format!("{arrived}{early}; {reported}{late}")
}

/// Runs a future without a runtime.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let waker = std::task::Waker::noop();
    let mut cx = std::task::Context::from_waker(waker);
    loop {
        if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Describes the outcome in a forked child whose parent has started the pipeline.
#[cfg(unix)]
fn forked(way: &str, url: &str, place: &Arc<Place>) -> String {
    use fork::{Fork, fork, waitpid};

    let runtime = tokio::runtime::Runtime::new().expect("the runtime can be built");
    let pipeline = runtime.block_on(async { Pipeline::start(way, url) });
    match fork().expect("the process can fork") {
        Fork::Child => {
            pipeline.make_spans();
            let start = Instant::now();
            let reported = block_on(pipeline.end());
            let waited = start.elapsed() > SHUTDOWN / 2;
            let waited = if waited {
                ", after the full timeout"
            } else {
                ", immediately"
            };
            println!("CELL the child: {reported}{waited}; ");
            std::process::exit(0);
        }
        Fork::Parent(child) => {
            waitpid(child).expect("the child can be awaited");
            let reported = runtime.block_on(outcome("a fork", pipeline, place));
            format!("the parent: {reported}")
        }
    }
}

fn cell(fault: &str, way: &str) -> String {
    let program = std::env::current_exe().expect("the test has a path");
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    let output = command.args(["--cell", fault, way]).output();
    let output = output.expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let cell: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("CELL "))
        .collect();
    match cell.is_empty() {
        true => format!("FAILED: {}", String::from_utf8_lossy(&output.stderr)),
        false => cell,
    }
}

fn table() -> String {
    let jobs: Vec<_> = FAULTS
        .iter()
        .flat_map(|fault| WAYS.map(|way| (*fault, way)))
        .collect();
    let next = AtomicUsize::new(0);
    let (sender, cells) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..8 {
            let (next, jobs, sender) = (&next, &jobs, sender.clone());
            scope.spawn(move || {
                while let Some((fault, way)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _ = sender.send(((*fault, *way), cell(fault, way)));
                }
            });
        }
    });
    drop(sender);
    let cells: BTreeMap<_, _> = cells.iter().collect();
    let mut table = HEAD.to_owned();
    for fault in FAULTS {
        let [own, own_grpc, others @ ..] = WAYS.map(|way| cells[&(fault, way)].as_str());
        let own = match own == own_grpc {
            true => own.to_owned(),
            false => format!("HTTP: {own}; gRPC: {own_grpc}"),
        };
        table.push_str(&format!("| {fault} | {own} | {} |\n", others.join(" | ")));
    }
    table
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, flag, fault, way] = &arguments[..]
        && flag == "--cell"
    {
        println!("CELL {}", run(fault, way));
        return ExitCode::SUCCESS;
    }
    let table = table();
    println!("{table}");
    // Other systems have no fork, so their table differs.
    if cfg!(not(unix)) || PAGE.contains(&table) {
        return ExitCode::SUCCESS;
    }
    eprintln!("docs/exporters.md has a different table");
    ExitCode::FAILURE
}
