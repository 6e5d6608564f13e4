use tower_telemetry::with_tracer;

#[with_tracer(name = "a")]
fn named() {}

#[with_tracer(err)]
fn fails() -> Result<(), String> {
    Ok(())
}

fn main() {}
