//! Metrics about the process, read from `/proc` on Linux.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use procfs::process::Process;
use procfs::{Current, ProcResult, Uptime};

use crate::semconv::process::*;

/// Registers observable instruments for the process. A value that cannot be read, for example
/// because of missing permissions, has no point.
pub(crate) fn register(meter: &Meter) -> ProcResult<()> {
    let process = Arc::new(Process::myself()?);
    register_cpu_time(meter, process.clone());
    register_context_switches(meter, process.clone());
    register_disk_io(meter, process.clone());
    register_uptime(meter, process.clone());
    let page = procfs::page_size();
    for (name, unit, description, read) in [
        (
            PROCESS_MEMORY_USAGE,
            "By",
            "The amount of physical memory in use.",
            Box::new(move |process: &Process| Ok(process.stat()?.rss.saturating_mul(page)))
                as Box<dyn Fn(&Process) -> ProcResult<u64> + Send + Sync>,
        ),
        (
            PROCESS_MEMORY_VIRTUAL,
            "By",
            "The amount of committed virtual memory.",
            Box::new(|process| Ok(process.stat()?.vsize)),
        ),
        (
            PROCESS_THREAD_COUNT,
            "{thread}",
            "Process threads count.",
            Box::new(|process| Ok(process.stat()?.num_threads.unsigned_abs())),
        ),
        (
            PROCESS_UNIX_FILE_DESCRIPTOR_COUNT,
            "{file_descriptor}",
            "Number of unix file descriptors in use by the process.",
            Box::new(|process| Ok(process.fd_count()? as u64)),
        ),
    ] {
        let process = process.clone();
        meter
            .i64_observable_up_down_counter(name)
            .with_unit(unit)
            .with_description(description)
            .with_callback(move |observer| {
                if let Ok(value) = read(&process) {
                    observer.observe(i64::try_from(value).unwrap_or(i64::MAX), &[]);
                }
            })
            .build();
    }
    Ok(())
}

/// Converts kernel clock ticks to seconds.
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / procfs::ticks_per_second() as f64
}

fn register_cpu_time(meter: &Meter, process: Arc<Process>) {
    let [user, system] = ["user", "system"].map(|mode| [KeyValue::new(CPU_MODE, mode)]);
    meter
        .f64_observable_counter(PROCESS_CPU_TIME)
        .with_unit("s")
        .with_description("Total CPU seconds broken down by different CPU modes.")
        .with_callback(move |observer| {
            if let Ok(stat) = process.stat() {
                observer.observe(seconds(stat.utime), &user);
                observer.observe(seconds(stat.stime), &system);
            }
        })
        .build();
}

fn register_context_switches(meter: &Meter, process: Arc<Process>) {
    let kind = |kind| [KeyValue::new(PROCESS_CONTEXT_SWITCH_TYPE, kind)];
    let (voluntary, involuntary) = (kind("voluntary"), kind("involuntary"));
    meter
        .u64_observable_counter(PROCESS_CONTEXT_SWITCHES)
        .with_unit("{context_switch}")
        .with_description("Number of times the process has been context switched.")
        .with_callback(move |observer| {
            let Ok(status) = process.status() else {
                return;
            };
            for (count, kind) in [
                (status.voluntary_ctxt_switches, &voluntary),
                (status.nonvoluntary_ctxt_switches, &involuntary),
            ] {
                if let Some(count) = count {
                    observer.observe(count, kind);
                }
            }
        })
        .build();
}

fn register_disk_io(meter: &Meter, process: Arc<Process>) {
    let direction = |direction| [KeyValue::new(DISK_IO_DIRECTION, direction)];
    let (read, write) = (direction("read"), direction("write"));
    meter
        .u64_observable_counter(PROCESS_DISK_IO)
        .with_unit("By")
        .with_description("Disk bytes transferred.")
        .with_callback(move |observer| {
            if let Ok(io) = process.io() {
                observer.observe(io.read_bytes, &read);
                observer.observe(io.write_bytes, &write);
            }
        })
        .build();
}

fn register_uptime(meter: &Meter, process: Arc<Process>) {
    meter
        .f64_observable_gauge(PROCESS_UPTIME)
        .with_unit("s")
        .with_description("The time the process has been running.")
        .with_callback(move |observer| {
            if let (Ok(uptime), Ok(stat)) = (Uptime::current(), process.stat()) {
                observer.observe((uptime.uptime - seconds(stat.starttime)).max(0.0), &[]);
            }
        })
        .build();
}
