//! Tables, counters and calls that many threads use at once.

pub(crate) mod caught;
pub(crate) mod per_thread;
pub(crate) mod table;
