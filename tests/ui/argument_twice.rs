use tower_telemetry::with_tracer;

#[with_tracer("test", metrics, name = "a", metrics)]
fn function() {}

fn main() {}
