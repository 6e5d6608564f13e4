use std::future::Future;
use std::pin::Pin;

use tower_telemetry::with_tracer;

async fn work() {}

#[with_tracer("test")]
fn function() -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(work())
}

#[with_tracer("test")]
fn other() -> impl Future<Output = ()> {
    work()
}

fn main() {}
