//! Names of metrics about the process (conventions, "OS Process Metrics").

pub(crate) use opentelemetry_semantic_conventions::attribute::{
    CPU_MODE, DISK_IO_DIRECTION, PROCESS_CONTEXT_SWITCH_TYPE,
};
pub(crate) use opentelemetry_semantic_conventions::metric::{
    PROCESS_CONTEXT_SWITCHES, PROCESS_CPU_TIME, PROCESS_DISK_IO, PROCESS_MEMORY_USAGE,
    PROCESS_MEMORY_VIRTUAL, PROCESS_THREAD_COUNT, PROCESS_UNIX_FILE_DESCRIPTOR_COUNT,
    PROCESS_UPTIME,
};
