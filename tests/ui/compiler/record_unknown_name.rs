use tower_telemetry::with_tracer;

#[with_tracer("test", record(user))]
fn function(id: u64) {
    let _ = id;
}

fn main() {}
