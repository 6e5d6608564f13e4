use tower_telemetry::with_tracer;

#[with_tracer("test", record(%user.id))]
fn dotted() {}

#[with_tracer("test", record(?user = id))]
fn with_a_key(id: u32) {}

#[with_tracer("test", record(%"user"))]
fn quoted(id: u32) {}

fn main() {}
