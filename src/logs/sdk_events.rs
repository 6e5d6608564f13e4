//! Events of OpenTelemetry itself.

/// Returns whether an event of the crate `opentelemetry-otlp` says that telemetry is lost because an attempt
/// failed. Another attempt may follow, and the counts tell of losses.
pub(crate) fn tells_of_an_attempt(metadata: &tracing::Metadata) -> bool {
    metadata.target() == "opentelemetry-otlp" && metadata.name().starts_with("Export.Failed.")
}

/// Returns whether the event comes from OpenTelemetry's SDK.
pub(crate) fn is_of_sdk(metadata: &tracing::Metadata) -> bool {
    let name = metadata.target().split("::").next().unwrap_or("");
    let part = name
        .strip_prefix("opentelemetry")
        .map(|rest| rest.trim_start_matches(['-', '_']));
    part.is_some_and(|part| {
        [
            "",
            "sdk",
            "http",
            "otlp",
            "proto",
            "appender-tracing",
            "appender_tracing",
        ]
        .contains(&part)
    })
}
