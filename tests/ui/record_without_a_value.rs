use tower_telemetry::with_tracer;

#[with_tracer("test", record(user.id))]
fn function() {}

fn main() {}
