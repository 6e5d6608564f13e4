use tower_telemetry::with_tracer;

async fn work() {}

#[with_tracer("test")]
fn function() -> std::pin::Pin<Box<dyn std::future::Future<Output = ()>>> {
    Box::pin(work())
}

#[with_tracer("test")]
fn other() -> impl std::future::Future<Output = ()> {
    work()
}

fn main() {}
