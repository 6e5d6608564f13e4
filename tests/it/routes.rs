//! Tests the routes of routers other than axum.

use tower_telemetry::TelemetryLayer;

use crate::support::{TestTelemetry, get, send_through, span_attributes};

/// Returns a layer that takes routes from a `matchit` router.
fn with_router(layer: TelemetryLayer) -> TelemetryLayer {
    let mut router = matchit::Router::new();
    for route in ["/users/{id}", "/files/{*path}", "/panic"] {
        router.insert(route, route).expect("a valid route");
    }
    layer.with_route(move |request| {
        let matched = router.at(request.uri.path()).ok()?;
        assert_ne!(*matched.value, "/panic");
        Some((*matched.value).into())
    })
}

#[tokio::test]
async fn a_route_hook_sets_the_route_of_spans_and_metrics() {
    for (path, route) in [
        ("/users/42", Some("/users/{id}")),
        ("/files/a/b?c=d", Some("/files/{*path}")),
        ("/nowhere", None),
        // A panicking hook sets no route.
        ("/panic", None),
    ] {
        let telemetry = TestTelemetry::new();
        let layer = with_router(telemetry.layer());
        send_through(&layer, get(path)).await;
        let span = telemetry.only_span().await;
        let name = route.map_or("GET".to_owned(), |route| format!("GET {route}"));
        assert_eq!(span.name, name);
        let found = span_attributes(&span).remove("http.route");
        assert_eq!(found.as_deref(), route, "{path}");
        for metric in ["http.requests", "http.server.request.duration"] {
            let found = telemetry.point(metric).attributes.remove("http.route");
            assert_eq!(found.as_deref(), route, "{path}");
        }
    }
}

#[tokio::test]
async fn endless_routes_are_truncated_and_share_one_series_beyond_the_limit() {
    const BYTES: usize = 1024;
    const SERIES: usize = 2000;
    let telemetry = TestTelemetry::new();
    let layer = telemetry
        .layer()
        .with_route(|request| Some(request.uri.path().to_owned().into()));
    let long = format!("/{}", "x".repeat(5000));
    send_through(&layer, get(&long)).await;
    let span = telemetry.only_span().await;
    assert_eq!(span_attributes(&span)["http.route"].len(), BYTES);
    for n in 0..3000 {
        send_through(&layer, get(&format!("/{n}"))).await;
    }
    let points = telemetry.points("http.requests");
    // One more series is for the routes beyond the limit.
    assert_eq!(points.len(), SERIES + 1);
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_route_hook_has_priority_over_the_route_of_axum() {
    use tower::ServiceExt;

    let telemetry = TestTelemetry::new();
    let layer = telemetry.layer().with_route(|request| {
        let is_own = request.uri.path() == "/users/1";
        is_own.then(|| "/own".into())
    });
    let app = axum::Router::new()
        .route("/users/{id}", axum::routing::get(async || "Ada"))
        .layer(layer);
    for path in ["/users/1", "/users/2"] {
        let request = get(path).body(axum::body::Body::empty());
        let response = app.clone().oneshot(request.expect("a valid request")).await;
        let body = response.expect("the service cannot fail").into_body();
        http_body_util::BodyExt::collect(body)
            .await
            .expect("the body is complete");
    }
    let spans = telemetry.wait_for_spans(2).await;
    let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["GET /own", "GET /users/{id}"]);
}
