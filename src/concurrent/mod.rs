//! Tables, counters and calls for concurrent use by many threads.

pub(crate) mod caught;
#[cfg_attr(
    not(feature = "init"),
    allow(dead_code, reason = "only the exporter of `init` reads exemplars")
)]
pub(crate) mod latest;
pub(crate) mod per_thread;
pub(crate) mod table;
