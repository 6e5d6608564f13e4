use tower_telemetry::with_tracer;

#[with_tracer("test")]
fn function() -> Result<u32, String> {
    Ok("one")
}

#[with_tracer("test")]
async fn async_function() -> u32 {
    "one"
}

fn main() {}
