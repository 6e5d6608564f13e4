//! Counts the allocations of a request with one kind of telemetry. It is a program of its own,
//! because the counting allocator is slow.

use std::env;

use allocation_counter::measure;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [stack, inbound] = &arguments[..] else {
        panic!("usage: allocations STACK INBOUND");
    };
    peers::measure::one(stack, inbound, |app, requests| {
        let count = requests.len();
        let counted = measure(|| peers::measure::send_all(app, requests));
        counted.count_total as f64 / count as f64
    });
}
