use tower_telemetry::with_tracer;

struct User;

#[with_tracer("test", record(user))]
fn function(user: User) {
    drop(user);
}

fn main() {}
