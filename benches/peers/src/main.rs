//! Compares the cost of a request with each kind of telemetry around an axum route, in one run.
//!
//! `cargo run --release` prints the tables of `docs/benchmarks.md`. It needs `valgrind`, `wrk` and
//! `taskset`, and a machine with two processors.

use std::env;

use peers::{load, measure};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {
            measure::table();
            println!();
            load::table(None);
        }
        // The tables start this for each of their numbers.
        ["measure", stack, inbound, what] => measure::measure_in_process(stack, inbound, what),
        ["serve", stack] => load::serve(stack),
        ["requests"] => measure::table(),
        ["load"] => load::table(None),
        ["load", server] => load::table(Some(server)),
        _ => panic!("usage: [requests|load [SERVER]]; without an argument, both"),
    }
}
