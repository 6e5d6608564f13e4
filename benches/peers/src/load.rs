//! Measures whole servers under load: requests per second, latency, and the cost of export.
//!
//! The server and its export threads run on one processor, the client and the receiver on another.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::measure::{built, environment};
use crate::receiver::Receiver;
use crate::stacks::{self, STACKS};

const SECONDS: u64 = 4;
const ROUNDS: usize = 3;
/// The time to export what is left. Longer than the delay of a batch.
const PAUSE: Duration = Duration::from_millis(1_500);
const CONNECTIONS: &str = "16";

/// The share of requests that is sampled.
#[derive(Clone, Copy, PartialEq)]
enum Sampled {
    All,
    Tenth,
    Off,
}

impl Sampled {
    fn variables(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::All => [
                ("OTEL_TRACES_SAMPLER", "parentbased_always_on"),
                ("OTEL_TRACES_SAMPLER_ARG", ""),
            ],
            Self::Tenth => [
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0.1"),
            ],
            Self::Off => [
                ("ENABLE_TELEMETRY", "false"),
                ("OTEL_TRACES_SAMPLER_ARG", ""),
            ],
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::All => "100 %",
            Self::Tenth => "10 %",
            Self::Off => "none",
        }
    }
}

/// A server and its measurements.
struct Row {
    name: &'static str,
    /// `None` for the example server.
    stack: Option<&'static str>,
    sampled: Sampled,
    requests_per_second: f64,
    p99: f64,
    /// The spans that arrived, divided by the requests that should be sampled.
    arrived: f64,
    /// Microseconds of processor time in the export threads, per span.
    export: f64,
}

/// Measures all servers, or the servers of one name, and prints a table.
pub fn table(only: Option<&str>) {
    let receiver = Receiver::start();
    // This pins the thread of the receiver, and the programs that are started from here by default.
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["-a", "-c", "-p", "1", &own])
        .output();
    assert!(
        pinned
            .expect("taskset runs (it has to be installed)")
            .status
            .success()
    );
    let mut rows = vec![
        Row::new("example server", None, Sampled::Off),
        Row::new("example server", None, Sampled::Tenth),
        Row::new("example server", None, Sampled::All),
    ];
    for stack in STACKS {
        let name = Some(stack.name);
        if stack.name.ends_with("switched off") {
            rows.push(Row::new(stack.name, name, Sampled::Off));
        } else if stack.traces {
            rows.push(Row::new(stack.name, name, Sampled::Tenth));
            rows.push(Row::new(stack.name, name, Sampled::All));
        } else {
            rows.push(Row::new(stack.name, name, Sampled::Off));
        }
    }
    let is_baseline = |row: &Row| row.stack == Some("bare") || row.is_example_without_telemetry();
    rows.retain(|row| only.is_none_or(|name| row.name == name) || is_baseline(row));
    for _ in 0..ROUNDS {
        for row in &mut rows {
            row.measure(&receiver);
        }
    }
    println!(
        "| server | sampled | requests/s | relative to no telemetry | p99 | spans that arrived | export, µs/span |"
    );
    println!("|---|---|---|---|---|---|---|");
    for row in &rows {
        let is_baseline = |one: &&Row| match row.stack {
            None => one.is_example_without_telemetry(),
            Some(_) => one.stack == Some("bare"),
        };
        let baseline = rows.iter().find(is_baseline).expect("the row exists");
        println!(
            "| {} | {} | {:.0} | {:.1} % | {:.2} ms | {:.0} % | {:.1} |",
            row.name,
            row.sampled.text(),
            row.requests_per_second,
            100.0 * row.requests_per_second / baseline.requests_per_second,
            row.p99,
            100.0 * row.arrived,
            row.export,
        );
    }
}

impl Row {
    fn new(name: &'static str, stack: Option<&'static str>, sampled: Sampled) -> Self {
        Self {
            name,
            stack,
            sampled,
            requests_per_second: 0.0,
            p99: f64::INFINITY,
            arrived: f64::INFINITY,
            export: f64::INFINITY,
        }
    }

    fn is_example_without_telemetry(&self) -> bool {
        self.stack.is_none() && self.sampled == Sampled::Off
    }

    /// Keeps the best of all rounds, because other load on the machine only makes a round worse. Of
    /// `arrived`, it keeps the lowest, which shows a loss in any round.
    fn measure(&mut self, receiver: &Receiver) {
        let program = match self.stack {
            Some(_) => std::env::current_exe().expect("the program has a path"),
            None => example(),
        };
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program);
        if let Some(stack) = self.stack {
            command.args(["serve", stack]);
        }
        for (name, value) in environment(receiver) {
            command.env(name, value);
        }
        let variables = self.sampled.variables();
        let variables = variables.iter().filter(|(_, value)| !value.is_empty());
        command.envs(variables.copied());
        command.env("LISTEN_ADDR", "127.0.0.1:0");
        let mut server = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts (taskset has to be installed)");
        let address = address(&mut server);
        receiver.take();
        wrk(address, 1);
        std::thread::sleep(PAUSE);
        let (spans, cpu) = (receiver.take().spans, export_time(server.id()));
        assert!(self.sampled != Sampled::All || spans > 0, "{}", self.name);
        let (requests, p99) = wrk(address, SECONDS);
        std::thread::sleep(PAUSE);
        let cpu = export_time(server.id()) - cpu;
        let spans = receiver.take().spans;
        server.kill().expect("the process runs");
        server.wait().expect("the process ends");
        let share = if self.sampled == Sampled::Tenth {
            0.1
        } else {
            1.0
        };
        self.requests_per_second = self.requests_per_second.max(requests / SECONDS as f64);
        self.p99 = self.p99.min(p99);
        self.arrived = self.arrived.min(spans as f64 / (requests * share));
        if spans > 0 {
            self.export = self.export.min(cpu * 1e6 / spans as f64);
        } else {
            self.export = 0.0;
        }
    }
}

/// Builds the example server of the crate and returns its path.
fn example() -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        built(&package, ["--example", "server"]).join("examples/server")
    });
    BUILT.clone()
}

/// Reads the line in which a server prints its address.
fn address(server: &mut Child) -> SocketAddr {
    let output = server.stdout.take().expect("the stream is piped");
    let mut lines = BufReader::new(output).lines();
    let address = lines.find_map(|line| {
        let line = line.ok()?;
        let (_, address) = line.split_once("listening on http://")?;
        let end = address.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
        address[..end.unwrap_or(address.len())].parse().ok()
    });
    std::thread::spawn(move || lines.for_each(drop));
    address.expect("the server prints its address")
}

/// Sends requests for a while. Returns their number and the 99th percentile in milliseconds.
fn wrk(address: SocketAddr, seconds: u64) -> (f64, f64) {
    let mut command = Command::new("taskset");
    command.args([
        "-c",
        "1",
        "wrk",
        "--threads",
        "1",
        "--connections",
        CONNECTIONS,
    ]);
    command.args(["--latency", "--duration", &seconds.to_string()]);
    command.arg(format!("http://{address}/"));
    let output = command.output().expect("wrk runs (it has to be installed)");
    let text = String::from_utf8_lossy(&output.stdout);
    let word = |line: &str, place: usize| line.split_whitespace().nth(place).map(str::to_owned);
    let requests = text.lines().find(|line| line.contains(" requests in "));
    let requests = requests.and_then(|line| word(line, 0)?.parse().ok());
    let p99 = text.lines().find(|line| line.trim().starts_with("99%"));
    let p99 = p99.and_then(|line| milliseconds(&word(line, 1)?));
    (
        requests.expect("wrk prints a count"),
        p99.expect("wrk prints a percentile"),
    )
}

fn milliseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let number: f64 = text[..unit].parse().ok()?;
    Some(match &text[unit..] {
        "us" => number / 1000.0,
        "ms" => number,
        _ => number * 1000.0,
    })
}

/// Returns the processor time of the export threads of a process, in seconds. These are all threads
/// but the main thread and the threads of tokio.
fn export_time(process: u32) -> f64 {
    /// The unit of `/proc`, the same on every Linux.
    const TICKS: f64 = 100.0;
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs");
    let time = |thread: std::io::Result<fs::DirEntry>| {
        let thread = thread.ok()?;
        if thread.file_name().to_str()? == process.to_string() {
            return None;
        }
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        let (name, fields) = stat.rsplit_once(')')?;
        if name.contains("(tokio") {
            return None;
        }
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let (user, system): (f64, f64) = (fields[11].parse().ok()?, fields[12].parse().ok()?);
        Some((user + system) / TICKS)
    };
    threads.filter_map(time).sum()
}

/// Serves with one stack.
pub fn serve(stack: &str) {
    let stack = stacks::named(stack);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("the runtime can be built");
    runtime.block_on(async {
        let routes = Router::new().route("/", get(async || "Ada"));
        let started = (stack.start)(routes);
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("the socket is bound");
        println!("listening on http://{address}");
        axum::serve(listener, started.router)
            .await
            .expect("the server runs");
    });
}
