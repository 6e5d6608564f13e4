//! Forks a process after `init`: the parent keeps exporting, and the child exits without delay.
//!
//! There is no test harness, because its threads could hold locks at the time of the fork.

#[cfg(all(feature = "init", unix))]
#[path = "it/support/refused.rs"]
mod refused;

#[cfg(not(all(feature = "init", unix)))]
fn main() {}

#[cfg(all(feature = "init", unix))]
fn main() {
    for with_thread in [true, false] {
        check(with_thread);
    }
    println!("a forked child is left alone, and its parent goes on: ok");
}

#[cfg(all(feature = "init", unix))]
fn check(with_thread: bool) {
    use std::time::{Duration, Instant};

    use fork::{Fork, fork, waitpid};
    use opentelemetry::trace::{Tracer, TracerProvider};
    use tower_telemetry::{Config, config::Exporter};

    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(format!("http://{}", refused::refused_address()))
        .with_shutdown_timeout(Duration::from_secs(3))
        .with_export_timeout(Duration::from_millis(100))
        .with_export_thread(with_thread)
        .build()
        .expect("the configuration is valid");
    let provider = telemetry
        .tracer_provider()
        .expect("traces are enabled")
        .clone();
    drop(provider.tracer("test").start("before"));

    let shutdown = move || {
        let start = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let report = runtime
            .expect("the runtime can be built")
            .block_on(telemetry.shutdown());
        (report, start.elapsed())
    };
    match fork().expect("the process can fork") {
        Fork::Child => {
            drop(provider.tracer("test").start("in the child"));
            let (report, took) = shutdown();
            let is_left_alone = report.timed_out && report.stats.traces.dropped == 2;
            let is_quick = took < Duration::from_secs(1);
            std::process::exit(if is_left_alone && is_quick { 7 } else { 1 });
        }
        Fork::Parent(child) => {
            let status = waitpid(child).expect("the child can be awaited");
            assert_eq!(status >> 8 & 0xff, 7, "the child did not end well");
            let (report, _) = shutdown();
            // The export thread of the parent has tried until the deadline.
            let traces = report.stats.traces;
            assert_eq!((traces.accepted, traces.dropped), (1, 1), "{report:?}");
            assert!(traces.last_failure.is_some(), "{report:?}");
        }
    }
    println!("a forked child exits without delay, and its parent keeps exporting: ok");
}
