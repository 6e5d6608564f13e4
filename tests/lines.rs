//! Tests the log lines of programs: at their end, and while nothing reads them. Each program is a
//! process with its own `main`, so there is no test harness.

#[cfg(all(feature = "init", feature = "logs"))]
#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

#[cfg(not(all(feature = "init", feature = "logs")))]
fn main() {}

#[cfg(all(feature = "init", feature = "logs"))]
fn main() {
    match std::env::var("PROGRAM") {
        Ok(program) => programs::run(&program),
        Err(_) => tests::run(),
    }
}

#[cfg(all(feature = "init", feature = "logs"))]
mod programs {
    use std::convert::Infallible;
    use std::io::{Read, stdin};
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use tower::{Layer, ServiceExt, service_fn};
    use tower_telemetry::{Config, TelemetryGuard, TelemetryLayer, config::Batch, stats::Report};

    pub(crate) const LINES: usize = 2000;
    pub(crate) const REQUESTS: usize = 10_000;
    pub(crate) const DEADLINE: Duration = Duration::from_secs(3);

    pub(crate) fn run(program: &str) {
        match program {
            "return" => {
                let _telemetry =
                    tower_telemetry::init().expect("no other telemetry is initialized");
                log_lines();
            }
            "return after shutdown" => {
                let telemetry = tower_telemetry::init().expect("no other telemetry is initialized");
                block_on(telemetry.shutdown());
                log_lines();
            }
            "exit" => {
                let _telemetry =
                    tower_telemetry::init().expect("no other telemetry is initialized");
                log_lines();
                std::process::exit(0);
            }
            "panic" => {
                let _telemetry =
                    tower_telemetry::init().expect("no other telemetry is initialized");
                log_lines();
                panic!("on purpose");
            }
            "panic elsewhere" => {
                let _telemetry =
                    tower_telemetry::init().expect("no other telemetry is initialized");
                let thread = std::thread::spawn(|| {
                    log_lines();
                    panic!("on purpose");
                });
                assert!(thread.join().is_err());
            }
            "requests" => requests(config()),
            "requests, with a subscriber that blocks" => {
                tracing_subscriber::fmt().init();
                requests(config().without_subscriber());
            }
            "lines that nobody reads" => {
                let telemetry = tower_telemetry::init().expect("no other telemetry is initialized");
                let long = "x".repeat(1000);
                for n in 0..8 * 1024 {
                    tracing::info!(n, long);
                }
                let lost = telemetry.stats().lost_lines;
                eprintln!("{lost}");
                // Wait until the parent has read the lines that were not lost.
                let _ = stdin().read(&mut [0]);
                tracing::info!("read again");
            }
            other => panic!("unknown program {other}"),
        }
    }

    fn log_lines() {
        for n in 0..LINES {
            tracing::info!(n, "line");
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("the runtime can be built").block_on(future)
    }

    fn config() -> Config {
        let room = Batch::default().with_max_queue_size(2 * REQUESTS);
        Config::from_env()
            .with_span_batch(room)
            .with_log_batch(room)
            .with_shutdown_timeout(DEADLINE)
    }

    /// Serves requests, then prints the outcome of their spans and the duration of the shutdown.
    fn requests(config: Config) {
        let telemetry: TelemetryGuard = config.init().expect("no other telemetry is initialized");
        let logs = !std::env::var("PROGRAM").is_ok_and(|program| program.contains("blocks"));
        if !logs {
            // The lines start after `init`, which logs through the subscriber of the application.
            std::thread::spawn(|| {
                loop {
                    log_lines();
                }
            });
        }
        let service = TelemetryLayer::new().layer(service_fn(move |_: Request<()>| async move {
            if logs {
                tracing::info!("a line of a request, which is long enough to fill a pipe soon");
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }));
        block_on(async {
            for _ in 0..REQUESTS {
                let response = service.clone().oneshot(Request::new(())).await;
                drop(response.expect("the service cannot fail"));
            }
            let begin = Instant::now();
            let report: Report = telemetry.shutdown().await;
            let traces = report.stats.traces;
            eprintln!(
                "{} {} {} {}",
                begin.elapsed().as_millis(),
                traces.accepted,
                traces.exported,
                report.timed_out,
            );
        });
    }
}

#[cfg(all(feature = "init", feature = "logs"))]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::process::{Child, Command, Stdio};

    use super::programs::{DEADLINE, LINES, REQUESTS};
    use super::receiver::{Fault, Receiver};

    pub(crate) fn run() {
        let tests: [(&str, fn()); 4] = [
            (
                "log lines appear however the program ends",
                log_lines_appear_however_the_program_ends,
            ),
            (
                "a service keeps running while nothing reads its lines",
                a_service_keeps_running_while_nothing_reads_its_lines,
            ),
            (
                "a blocking subscriber delays neither export nor shutdown",
                a_blocking_subscriber_delays_neither_export_nor_shutdown,
            ),
            (
                "lost lines are counted, and logged once the output is read again",
                lost_lines_are_counted_and_logged_once_the_output_is_read_again,
            ),
        ];
        for (name, test) in tests {
            test();
            println!("{name}: ok");
        }
    }

    fn start(program: &str, variables: &[(&str, &str)]) -> Child {
        let mut command = Command::new(std::env::current_exe().expect("the test has a path"));
        command
            .env_clear()
            .env("PROGRAM", program)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    }

    /// Returns the numbers of the printed lines, in their order.
    fn numbers(output: &str) -> Vec<usize> {
        let numbers = output.lines().filter_map(|line| {
            let (_, rest) = line.split_once("n=")?;
            rest.split(' ').next()?.parse().ok()
        });
        numbers.collect()
    }

    fn log_lines_appear_however_the_program_ends() {
        let programs = [
            "return",
            "return after shutdown",
            "exit",
            "panic",
            "panic elsewhere",
        ];
        for program in programs {
            let output = start(program, &[])
                .wait_with_output()
                .expect("the process ends");
            let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
            let all: Vec<_> = (0..LINES).collect();
            assert!(numbers(&text) == all, "{program}: {text}");
        }
    }

    /// Runs a program whose standard output is not read. Returns the words of its last
    /// line on standard error.
    fn unread(program: &str, fault: Fault, console: bool) -> (Receiver, Vec<String>) {
        let receiver = Receiver::start_with(fault);
        let exporters = if console { "console,otlp" } else { "otlp" };
        let mut child = start(
            program,
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.endpoint()),
                ("OTEL_TRACES_EXPORTER", exporters),
                ("OTEL_METRICS_EXPORTER", exporters),
            ],
        );
        let mut text = String::new();
        let mut printed = child.stderr.take().expect("the stream is piped");
        printed
            .read_to_string(&mut text)
            .expect("the output is UTF-8");
        assert!(child.wait().expect("the process ends").success(), "{text}");
        let last = text.lines().last().unwrap_or_default();
        (receiver, last.split(' ').map(str::to_owned).collect())
    }

    fn a_service_keeps_running_while_nothing_reads_its_lines() {
        let (receiver, printed) = unread("requests", Fault::None, true);
        assert_eq!(receiver.received().spans().len(), REQUESTS, "{printed:?}");
        let all = REQUESTS.to_string();
        assert_eq!(printed[1..], [all.as_str(), all.as_str(), "false"]);
        assert_in_time(&printed[0]);
    }

    /// The application has its own subscriber, and a loss of spans has to be logged.
    fn a_blocking_subscriber_delays_neither_export_nor_shutdown() {
        let program = "requests, with a subscriber that blocks";
        let (_, printed) = unread(program, Fault::Status(400, None), false);
        let all = REQUESTS.to_string();
        assert_eq!(printed[1..], [all.as_str(), "0", "false"]);
        assert_in_time(&printed[0]);
    }

    fn assert_in_time(milliseconds: &str) {
        let took: u128 = milliseconds.parse().expect("the text is a number");
        assert!(took <= DEADLINE.as_millis() + 500, "{took} ms");
    }

    fn lost_lines_are_counted_and_logged_once_the_output_is_read_again() {
        let mut child = start("lines that nobody reads", &[]);
        let mut printed = BufReader::new(child.stderr.take().expect("the stream is piped"));
        let mut lost = String::new();
        printed.read_line(&mut lost).expect("the output is UTF-8");
        let lost: usize = lost.trim().parse().expect("the text is a number");
        assert!(lost > 0);
        let mut output = BufReader::new(child.stdout.take().expect("the stream is piped"));
        let (mut text, mut line) = (String::new(), String::new());
        while !line.contains("log lines were lost") {
            line.clear();
            let read = output.read_line(&mut line).expect("the output is UTF-8");
            text.push_str(&line);
            assert!(read > 0, "{}", numbers(&text).len());
        }
        let mut input = child.stdin.take().expect("the stream is piped");
        input.write_all(b"\n").expect("the program reads its input");
        output
            .read_to_string(&mut text)
            .expect("the output is UTF-8");
        assert!(child.wait().expect("the process ends").success());
        let numbers = numbers(&text);
        assert_eq!(numbers.len() + lost, 8 * 1024);
        assert!(numbers.is_sorted());
        let warnings: Vec<_> = text
            .lines()
            .filter(|line| line.contains("were lost"))
            .collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains(&format!("lost={lost}")),
            "{warnings:?}"
        );
        assert!(text.contains("read again"));
    }
}
