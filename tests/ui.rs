//! Checks the errors for wrong uses of `#[with_tracer]` and the places they point to.

#![cfg(feature = "macros")]

use std::process::Command;

/// The compiler whose messages are in `tests/ui/compiler`.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn wrong_use_of_with_tracer_is_reported_where_it_is() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    let compiler = Command::new("rustc").arg("--version").output();
    let compiler = compiler.expect("rustc runs").stdout;
    if String::from_utf8_lossy(&compiler).starts_with(COMPILER) {
        cases.compile_fail("tests/ui/compiler/*.rs");
    } else {
        println!("tests/ui/compiler is skipped: it needs the messages of {COMPILER}");
    }
}
