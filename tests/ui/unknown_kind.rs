use tower_telemetry::with_tracer;

#[with_tracer("test", kind = outbound)]
fn function() {}

fn main() {}
