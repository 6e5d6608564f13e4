//! Tables, counters and calls for concurrent use by many threads.

pub(crate) mod caught;
pub(crate) mod per_thread;
pub(crate) mod table;
