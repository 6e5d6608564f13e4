//! Expands `#[with_tracer]` where other items have the usual names.

#![cfg(feature = "macros")]
#![no_implicit_prelude]
#![deny(warnings, clippy::all)]

mod renamed {
    pub(crate) mod telemetry {
        pub(crate) use ::tower_telemetry::*;
    }
}

/// Names that the expansion must not use by accident.
#[allow(dead_code, reason = "they only shadow the usual names")]
mod shadowing_names {
    pub(crate) fn start() {}
    pub(crate) struct Call;
    pub(crate) struct Option;
    pub(crate) struct Result;
    pub(crate) struct Some;
    pub(crate) struct Box;
}

#[allow(unused_imports, reason = "they only shadow the usual names")]
use shadowing_names::*;

#[::tower_telemetry::with_tracer("test", record(call, add = add), metrics, kind = client)]
fn function(call: u32, add: u32, guard: u32) -> ::core::result::Result<u32, u32> {
    let span = guard;
    ::core::result::Result::Ok(call + add + span)
}

#[::tower_telemetry::with_tracer("test", crate = renamed::telemetry, record(call))]
async fn async_function(call: u32) -> ::core::result::Result<u32, u32> {
    ::core::future::ready(()).await;
    ::core::result::Result::Err(call)
}

#[::tower_telemetry::with_tracer("test")]
fn boxed() -> ::core::pin::Pin<::std::boxed::Box<dyn ::core::future::Future<Output = u32>>> {
    ::std::boxed::Box::pin(async move { 1 })
}

#[test]
fn the_expansion_is_hygienic() {
    ::core::assert_eq!(function(1, 2, 3), ::core::result::Result::Ok(6));
    let runtime = ::tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("the runtime can be built");
    let output = runtime.block_on(async_function(4));
    ::core::assert_eq!(output, ::core::result::Result::Err(4));
    ::core::assert_eq!(runtime.block_on(boxed()), 1);
}
