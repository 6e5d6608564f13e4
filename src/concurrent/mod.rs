//! Tables, counters and calls that many threads use at once.

pub(crate) mod caught;
#[cfg_attr(
    not(feature = "init"),
    allow(dead_code, reason = "only the exporter of `init` reads exemplars")
)]
pub(crate) mod latest;
pub(crate) mod per_thread;
pub(crate) mod table;
