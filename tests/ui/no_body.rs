use tower_telemetry::with_tracer;

trait Thing {
    #[with_tracer("test")]
    fn method(&self);
}

fn main() {}
