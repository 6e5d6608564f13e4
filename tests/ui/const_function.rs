use tower_telemetry::with_tracer;

#[with_tracer("test")]
const fn function() -> u32 {
    1
}

fn main() {}
