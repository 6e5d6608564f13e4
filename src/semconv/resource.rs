//! Resource conventions: names and values for a service, its host and its process.

pub(crate) use opentelemetry_semantic_conventions::attribute::{
    CONTAINER_ID, DEPLOYMENT_ENVIRONMENT_NAME, HOST_ARCH, HOST_NAME, OS_TYPE,
    PROCESS_EXECUTABLE_NAME, PROCESS_PID, SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION,
    TELEMETRY_DISTRO_NAME, TELEMETRY_DISTRO_VERSION,
};

/// Returns `host.arch` for Rust's name of an architecture.
pub(crate) fn arch(name: &'static str) -> &'static str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "arm" => "arm32",
        "powerpc" => "ppc32",
        "powerpc64" => "ppc64",
        other => other,
    }
}

/// Returns `os.type` for Rust's name of an operating system.
pub(crate) fn os(name: &'static str) -> &'static str {
    match name {
        "macos" => "darwin",
        "dragonfly" => "dragonflybsd",
        other => other,
    }
}
