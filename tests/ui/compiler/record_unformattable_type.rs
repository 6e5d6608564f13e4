use tower_telemetry::with_tracer;

struct User;

#[with_tracer("test", record(%user))]
fn displayed(user: User) {
    drop(user);
}

#[with_tracer("test", record(user.debug = ?user))]
fn debugged(user: User) {
    drop(user);
}

fn main() {}
