use tower_telemetry::with_tracer;

#[with_tracer("test", skip_all)]
fn function() {}

fn main() {}
