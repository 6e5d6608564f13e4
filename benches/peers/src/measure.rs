//! Measures the time, instructions and allocations of a request, each in a process of its own.

use std::future::Future;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{HeaderValue, Request, header};
use http_body::Body as _;
use tower::Service;

use crate::receiver::{Arrived, Receiver};
use crate::stacks::{self, STACKS, Stack};

/// Rounds of the clock. They alternate between the stacks, so that other load affects all of them alike.
const ROUNDS: usize = 5;
const BATCHES: usize = 60;
const REQUESTS: usize = 400;
/// Gives the exporter time to send the spans of a batch, as it has between the requests of a
/// service. Without it, each span would need new memory.
const PAUSE: Duration = Duration::from_millis(5);
/// More are not needed to count, because every request has the same count.
const COUNTED: usize = 256;

const INBOUND: [&str; 2] = ["sampled", "not sampled"];

struct Row {
    stack: &'static Stack,
    inbound: &'static str,
    nanoseconds: f64,
    instructions: f64,
    allocations: f64,
    /// The number of attributes of the span.
    attributes: f64,
}

/// Measures all stacks and prints a table.
pub fn table() {
    let receiver = Receiver::start();
    let mut rows = Vec::new();
    for stack in STACKS {
        for inbound in INBOUND {
            let (allocations, attributes) = run(&receiver, stack, inbound, "allocations");
            let (instructions, _) = run(&receiver, stack, inbound, "instructions");
            rows.push(Row {
                stack,
                inbound,
                nanoseconds: f64::INFINITY,
                instructions,
                allocations,
                attributes,
            });
        }
    }
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let (nanoseconds, _) = run(&receiver, row.stack, row.inbound, "time");
            row.nanoseconds = row.nanoseconds.min(nanoseconds);
        }
    }
    print(&rows);
}

/// Prints the difference between each stack and a layer that does nothing.
fn print(rows: &[Row]) {
    println!(
        "| | sampled: ns | instructions | allocations | attributes | not sampled: ns | instructions | allocations |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let row = |name: &str, inbound: &str| {
        let is = |row: &&Row| row.stack.name == name && row.inbound == inbound;
        rows.iter().find(is).expect("the row exists")
    };
    for stack in STACKS {
        let [sampled, not_sampled] = INBOUND.map(|inbound| {
            let (row, base) = (row(stack.name, inbound), row("pass-through", inbound));
            (
                row.nanoseconds - base.nanoseconds,
                row.instructions - base.instructions,
                row.allocations - base.allocations,
                row.attributes,
            )
        });
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            stack.name,
            sampled.0,
            sampled.1,
            sampled.2,
            sampled.3,
            not_sampled.0,
            not_sampled.1,
            not_sampled.2,
        );
    }
}

/// Measures one number in a process of its own. Returns it, and the number of attributes of a span.
///
/// Stacks are compared by the work they really do: each must have sent all spans and counted all requests.
fn run(receiver: &Receiver, stack: &Stack, inbound: &str, what: &str) -> (f64, f64) {
    receiver.take();
    let number = measured(receiver, stack, inbound, what);
    let Arrived {
        spans,
        span_attributes,
        requests,
    } = receiver.take();
    let sent = COUNTED
        + match what {
            "time" => BATCHES * REQUESTS,
            _ => COUNTED,
        };
    let expected = |is_recorded| if is_recorded { sent as u64 } else { 0 };
    let is_sampled = inbound == "sampled" && stack.traces;
    assert_eq!(
        spans,
        expected(is_sampled),
        "{} {inbound} {what}",
        stack.name
    );
    assert_eq!(
        requests,
        expected(stack.metrics),
        "{} {inbound} {what}",
        stack.name
    );
    (number, span_attributes as f64 / spans.max(1) as f64)
}

fn measured(receiver: &Receiver, stack: &Stack, inbound: &str, what: &str) -> f64 {
    let program = std::env::current_exe().expect("the program has a path");
    let mut command = match what {
        "instructions" => {
            let mut command = Command::new("valgrind");
            command.args([
                "--tool=callgrind",
                "--callgrind-out-file=/dev/null",
                "--collect-atstart=no",
                "--toggle-collect=*measure::send_counted*",
            ]);
            command.arg(program);
            command.args(["measure", stack.name, inbound, what]);
            command
        }
        "allocations" => {
            let mut command = Command::new(allocations());
            command.args([stack.name, inbound]);
            command
        }
        _ => {
            let mut command = Command::new(program);
            command.args(["measure", stack.name, inbound, what]);
            command
        }
    };
    command.envs(environment(receiver));
    if stack.name.ends_with("switched off") {
        command.env("ENABLE_TELEMETRY", "false");
    }
    let output = command
        .output()
        .expect("the program starts (valgrind has to be installed)");
    assert!(output.status.success(), "{}: {output:?}", stack.name);
    match what {
        "instructions" => {
            let collected = collected(&output);
            assert!(collected > 0.0, "{}: {output:?}", stack.name);
            collected / COUNTED as f64
        }
        _ => {
            let text = String::from_utf8_lossy(&output.stdout);
            let last = text.lines().last().and_then(|line| line.parse().ok());
            last.expect("the program prints a number")
        }
    }
}

/// Builds the program that counts allocations and returns its path.
fn allocations() -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        built(package, ["--bin", "allocations"]).join("allocations")
    });
    BUILT.clone()
}

/// Builds a program of a package with optimization, and returns the folder that it is in.
pub fn built(package: &Path, program: [&str; 2]) -> PathBuf {
    let target = package.join("target");
    let mut build = Command::new("cargo");
    build.args(["build", "--release"]).args(program);
    let build = build.arg("--target-dir").arg(&target);
    let status = build.current_dir(package).status();
    assert!(status.expect("cargo runs").success());
    target.join("release")
}

/// Returns the variables that all stacks read.
pub fn environment(receiver: &Receiver) -> [(&'static str, String); 7] {
    [
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://{}", receiver.address),
        ),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_on".to_owned()),
        // Room for all spans. A dropped span would cost less.
        ("OTEL_BSP_MAX_QUEUE_SIZE", "65536".to_owned()),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "500".to_owned()),
        ("OTEL_LOGS_EXPORTER", "none".to_owned()),
        ("ENVIRONMENT", "production".to_owned()),
    ]
}

/// Reads the number of collected events that Callgrind prints.
fn collected(output: &Output) -> f64 {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = line.expect("Callgrind prints a count");
    count.trim().parse().expect("the text is a number")
}

/// Measures the instructions or the time of one stack, and prints the time.
pub fn measure_in_process(stack: &str, inbound: &str, what: &str) {
    one(stack, inbound, |app, counted| {
        if what == "instructions" {
            send_counted(app, counted);
            return 0.0;
        }
        let batches = (0..BATCHES).map(|_| {
            std::thread::sleep(PAUSE);
            let requests = requests(inbound, REQUESTS);
            let start = Instant::now();
            send_all(app, requests);
            start.elapsed().as_nanos() as f64 / REQUESTS as f64
        });
        batches.fold(f64::INFINITY, f64::min)
    });
}

/// Measures one number and prints it. `measure` gets requests to send, and may send others.
pub fn one(
    stack: &str,
    inbound: &str,
    measure: impl FnOnce(&mut Router, Vec<Request<Body>>) -> f64,
) {
    let stack = stacks::named(stack);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the runtime can be built");
    let started = runtime.block_on(async {
        let routes = Router::new().route("/users/{id}", get(async || "Ada"));
        (stack.start)(routes)
    });
    let mut app = started.router;
    send_all(&mut app, requests(inbound, COUNTED));
    let number = measure(&mut app, requests(inbound, COUNTED));
    (started.stop)();
    println!("{number}");
}

/// Returns requests as `curl` sends them.
fn requests(inbound: &str, count: usize) -> Vec<Request<Body>> {
    let traceparent = match inbound {
        "sampled" => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        _ => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    };
    let one = || {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/users/42".parse().expect("a valid path");
        let headers = request.headers_mut();
        headers.insert(header::HOST, HeaderValue::from_static("localhost:3000"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("curl/8.5.0"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert("traceparent", HeaderValue::from_static(traceparent));
        request
    };
    (0..count).map(|_| one()).collect()
}

/// The function whose instructions Callgrind counts.
#[inline(never)]
fn send_counted(app: &mut Router, requests: Vec<Request<Body>>) {
    send_all(app, requests);
}

/// Sends requests and reads the responses to their ends.
pub fn send_all(app: &mut Router, requests: Vec<Request<Body>>) {
    let mut cx = Context::from_waker(Waker::noop());
    for request in requests {
        let Poll::Ready(response) = pin!(app.call(request)).poll(&mut cx) else {
            panic!("the service responds at once");
        };
        let Ok(response) = black_box(response);
        let mut body = pin!(response.into_body());
        while let Poll::Ready(Some(_)) = body.as_mut().poll_frame(&mut cx) {
            if body.is_end_stream() {
                break;
            }
        }
    }
}
