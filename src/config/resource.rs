//! The resource: the attributes that describe the service in all telemetry.

use std::fs;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{ResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

use crate::config::builder::Config;
use crate::semconv::resource as names;

/// Returns the resource. Attributes come from, highest precedence first: setters, dedicated
/// variables, `OTEL_RESOURCE_ATTRIBUTES`, the application's detectors, and this crate's detection.
pub(crate) fn resource(config: &Config) -> Resource {
    let environment = |name: &'static str| KeyValue::new(names::DEPLOYMENT_ENVIRONMENT_NAME, name);
    // The last attribute with a key applies.
    let mut attributes = found();
    attributes.extend(config.parts.detected.iter().cloned());
    attributes.push(environment(config.environment().as_str()));
    let listed = config.env_attributes.iter().cloned();
    attributes.extend(listed.map(|(key, value)| KeyValue::new(key, value)));
    attributes.extend(config.environment.map(|given| environment(given.as_str())));
    let version = config.service_version.clone();
    attributes.extend(version.map(|version| KeyValue::new(names::SERVICE_VERSION, version)));
    let name = config.service_name.clone();
    attributes.extend(name.map(|name| KeyValue::new(names::SERVICE_NAME, name)));
    attributes.extend(config.attributes.iter().cloned());
    Resource::builder_empty()
        .with_attributes(attributes)
        .build()
}

/// Returns the default name of the service (resource conventions, "Service").
fn unknown_service() -> String {
    format!("unknown_service:{}", program().as_deref().unwrap_or("rust"))
}

fn program() -> Option<String> {
    let path = std::env::current_exe().ok()?;
    Some(path.file_name()?.to_str()?.to_owned())
}

/// Detects attributes of the process and its host. Command-line arguments are omitted, because they
/// may contain secrets.
fn found() -> Vec<KeyValue> {
    let mut found = vec![
        KeyValue::new(names::SERVICE_NAME, unknown_service()),
        KeyValue::new(names::SERVICE_INSTANCE_ID, instance_id()),
        KeyValue::new(names::PROCESS_PID, i64::from(std::process::id())),
        KeyValue::new(names::HOST_ARCH, names::arch(std::env::consts::ARCH)),
        KeyValue::new(names::OS_TYPE, names::os(std::env::consts::OS)),
        KeyValue::new(names::TELEMETRY_DISTRO_NAME, env!("CARGO_PKG_NAME")),
        KeyValue::new(names::TELEMETRY_DISTRO_VERSION, env!("CARGO_PKG_VERSION")),
    ];
    let program = program().map(|name| KeyValue::new(names::PROCESS_EXECUTABLE_NAME, name));
    found.extend(program);
    let host = gethostname::gethostname().into_string().ok();
    let host = host.filter(|host| !host.is_empty());
    found.extend(host.map(|host| KeyValue::new(names::HOST_NAME, host)));
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let container = container_in_cgroup(&read("/proc/self/cgroup"))
        .or_else(|| container_in_mounts(&read("/proc/self/mountinfo")));
    found.extend(container.map(|id| KeyValue::new(names::CONTAINER_ID, id)));
    let sdk = TelemetryResourceDetector.detect();
    found.extend(
        sdk.iter()
            .map(|(key, value)| KeyValue::new(key.clone(), value.clone())),
    );
    found
}

/// Returns a random UUID (version 4), as the conventions recommend.
fn instance_id() -> String {
    let mut bytes = RandomIdGenerator::default().new_trace_id().to_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = |bytes: &[u8]| {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<String>()
    };
    let [a, b, c, d, e] = [
        &bytes[..4],
        &bytes[4..6],
        &bytes[6..8],
        &bytes[8..10],
        &bytes[10..],
    ]
    .map(hex);
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Returns the container id with cgroups version 1: the last segment of a path, which a runtime may
/// wrap in its name and `.scope`.
fn container_in_cgroup(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let last = line.rsplit(['/', ':']).next()?;
        let last = last.strip_suffix(".scope").unwrap_or(last);
        container_id(last.rsplit('-').next()?)
    })
}

/// Returns the container id with cgroups version 2, where files from the container's directory are
/// mounted.
fn container_in_mounts(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        // The mounted directory is read, not the mount point: a host sees the mount points of all
        // its containers.
        let (_, path) = line.split(' ').nth(3)?.split_once("/containers/")?;
        container_id(path.split('/').next()?)
    })
}

fn container_id(text: &str) -> Option<String> {
    let is_id = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f1c1e0ab27d1b5ee0f1d0aee6ae5e1bd5ce7a4cf6a9a7be2fe1a7d9b0c3d2e1";

    #[test]
    fn a_container_id_is_found_in_its_cgroup_or_its_mounts() {
        for cgroup in [
            format!("12:cpu:/docker/{ID}\n"),
            format!("0::/\n1:name=systemd:/kubepods/burstable/pod2c48/{ID}"),
            format!("3:pids:/system.slice/cri-containerd-{ID}.scope"),
            format!("4:x:/kubepods-pod5.slice:cri-containerd:{ID}"),
        ] {
            assert_eq!(
                container_in_cgroup(&cgroup).as_deref(),
                Some(ID),
                "{cgroup}"
            );
        }
        let mounts = format!(
            "472 462 0:87 / /proc rw\n\
             473 462 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/sda"
        );
        assert_eq!(container_in_mounts(&mounts).as_deref(), Some(ID));
        for text in ["", "0::/", "0::/user.slice/user-1000.slice", &mounts] {
            assert_eq!(container_in_cgroup(text), None, "{text}");
        }
        assert_eq!(container_in_mounts("1 2 8:1 /containers/short/x /y"), None);
        let host = format!("9 8 0:5 / /var/lib/docker/containers/{ID}/mounts/shm rw");
        assert_eq!(container_in_mounts(&host), None);
    }

    #[test]
    fn the_instance_id_is_a_random_uuid() {
        let id = instance_id();
        let lengths: Vec<_> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]));
        assert_ne!(id, instance_id());
    }
}
