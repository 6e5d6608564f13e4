use tower_telemetry::with_tracer;

#[with_tracer]
fn nameless() {}

fn main() {}
