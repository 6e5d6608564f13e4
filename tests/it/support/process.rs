//! Runs programs as child processes: their output and their end.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::DEADLINE;

/// A child process that ends with the test.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program exists");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().expect("the stream is piped");
        let stderr = child.stderr.take().expect("the stream is piped");
        collect(stdout, lines.clone());
        collect(stderr, lines.clone());
        Self { child, lines }
    }

    /// Builds an example of this package with the features of this test, and starts it.
    pub(crate) fn example(name: &str, variables: &[(&str, &str)]) -> Self {
        Self::example_with(name, &features(), variables)
    }

    /// Does the same with other features of this package.
    pub(crate) fn example_with(name: &str, features: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(built_example(name, features));
        for (name, _) in std::env::vars() {
            let others = [
                "ENABLE_TELEMETRY",
                "ENVIRONMENT",
                "RUST_LOG",
                "SERVICE_NAME",
            ];
            if name.starts_with("OTEL_") || others.contains(&&*name) {
                command.env_remove(name);
            }
        }
        command.env("LISTEN_ADDR", "127.0.0.1:0");
        Self::start(command.envs(variables.iter().copied()))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns all lines of both outputs so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("the lock is not poisoned").clone()
    }

    /// Waits for a line that contains `text`.
    pub(crate) fn line(&self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(line) = self.lines().into_iter().find(|line| line.contains(text)) {
                return line;
            }
            let lines = self.lines();
            assert!(start.elapsed() < DEADLINE, "missing {text:?} in {lines:#?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns the base URL of a server, from the line in which it prints its address.
    pub(crate) fn url(&self) -> String {
        let line = self.line("listening on ");
        let (_, url) = line
            .split_once("listening on ")
            .expect("the line contains the text");
        // The line may be JSON.
        url.split('"').next().unwrap_or(url).to_owned()
    }

    /// Asks the process to end, as an orchestrator does.
    #[cfg(unix)]
    pub(crate) fn terminate(&self) {
        let status = Command::new("kill")
            .args(["-TERM", &self.id().to_string()])
            .status();
        assert!(status.is_ok_and(|status| status.success()));
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be awaited") {
                return status;
            }
            assert!(
                start.elapsed() < DEADLINE,
                "the process does not end: {:#?}",
                self.lines()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the program of an example. The first call in a test process builds it.
fn built_example(name: &str, features: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<[String; 2], PathBuf>> = Mutex::new(BTreeMap::new());

    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let key = [name, features].map(str::to_owned);
    if let Some(path) = built.get(&key) {
        return path.clone();
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args([
            "build",
            // The flags are those of the tests, so that nothing is built a second time.
            "--workspace",
            "--quiet",
            "--message-format=json",
            "--example",
            name,
        ])
        .args(["--no-default-features", "--features", features])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().expect("cargo runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} does not build: {words}");
    let messages = String::from_utf8(output.stdout).expect("the text is JSON");
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let path = messages
        .filter(|message: &serde_json::Value| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the program");
    built.insert(key, path.clone());
    path
}

/// Returns the features of this package that this test was built with.
fn features() -> String {
    macro_rules! features {
        ($($name:literal)*) => {
            [$(cfg!(feature = $name).then_some($name)),*]
        };
    }
    let features = features!("default" "axum" "http-json" "init" "logs" "macros" "prometheus" "reqwest" "runtime-metrics" "tls" "tokio" "tonic" "tracing");
    Vec::from_iter(features.into_iter().flatten()).join(",")
}

fn collect(output: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            lines.lock().expect("the lock is not poisoned").push(line);
        }
    });
}
