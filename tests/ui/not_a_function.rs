use tower_telemetry::with_tracer;

#[with_tracer("test")]
struct Thing;

fn main() {}
