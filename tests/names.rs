//! Tests memory use with an endless number of metric names. The allocator counts for the whole
//! process, so this test is a process of its own.

#![cfg(feature = "init")]

#[path = "it/support/refused.rs"]
mod refused;

use std::alloc::System;

use cap::Cap;
use refused::refused_address;
use tower_telemetry::{
    Config, config::Exporter, increment_counter, record_histogram_value, set_gauge,
};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const MIB: usize = 1024 * 1024;

#[test]
fn a_million_metric_names_take_no_more_memory_than_the_first_256() {
    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(format!("http://{}", refused_address()))
        .init()
        .expect("no other telemetry is initialized");
    let name = |n: u32| {
        let name = format!("test.name{n}");
        match n % 3 {
            0 => increment_counter(&name, "Counted.", []),
            1 => record_histogram_value(&name, "Values.", 1.0, []),
            _ => set_gauge(&name, "Level.", 1.0, []),
        }
    };
    for n in 0..1000 {
        name(n);
    }
    let before = HEAP.allocated();
    for n in 0..1_000_000 {
        name(n);
    }
    let grown = HEAP.allocated().saturating_sub(before);
    assert!(grown < MIB, "{grown}");
    drop(telemetry);
}
