use std::rc::Rc;

use tower_telemetry::with_tracer;

#[with_tracer("test")]
async fn function() {
    let count = Rc::new(1);
    std::future::ready(()).await;
    drop(count);
}

fn is_send(_: impl Send) {}

fn main() {
    is_send(function());
}
