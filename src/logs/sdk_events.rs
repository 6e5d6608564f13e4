//! Events of the OpenTelemetry SDK.

/// Returns whether the event comes from OpenTelemetry's SDK.
pub(crate) fn is_of_sdk(metadata: &tracing::Metadata) -> bool {
    // A cheap check first: it runs for every event, and most events come from elsewhere.
    if !metadata.target().starts_with("opentelemetry") {
        return false;
    }
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
