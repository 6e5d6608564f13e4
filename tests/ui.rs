//! What is said of misuse of `#[with_tracer]`, and where.

#![cfg(feature = "macros")]

use std::process::Command;

/// The compiler whose words are in `tests/ui/compiler`.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn misuse_is_told_where_it_is() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
    let compiler = Command::new("rustc").arg("--version").output();
    let compiler = compiler.expect("there is a compiler").stdout;
    if String::from_utf8_lossy(&compiler).starts_with(COMPILER) {
        cases.compile_fail("tests/ui/compiler/*.rs");
    } else {
        println!("another compiler has other words; left out: tests/ui/compiler");
    }
}
