//! Runs a service with `#[tracing::instrument]`, spawned tasks and fields on the current span,
//! under `init` and this crate's layer. `init` applies to the whole process, so this test is a
//! process of its own.

#![cfg(all(
    feature = "axum",
    feature = "init",
    feature = "logs",
    feature = "tracing"
))]

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

#[allow(dead_code, reason = "the other tests use the rest of it")]
#[path = "it/support/receiver.rs"]
mod receiver;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::get;
use http::Request;
use http_body_util::BodyExt;
use receiver::Receiver;
use tower::ServiceExt;
use tower_http::trace::TraceLayer;
use tower_telemetry::tracing_opentelemetry::OpenTelemetrySpanExt;
use tower_telemetry::{Config, TelemetryLayer, config::Exporter};
use tracing::field::Empty;
use tracing::{Instrument, Span, error, info_span};

static FORMATTED: AtomicUsize = AtomicUsize::new(0);

/// Counts how often it is formatted.
struct Order;

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        FORMATTED.fetch_add(1, Ordering::Relaxed);
        f.write_str("order 7")
    }
}

#[tracing::instrument(skip_all, fields(tenant = Empty, order = ?order))]
async fn place(order: Order) {
    Span::current().record("tenant", "acme");
    query().await;
    let task = async { notify().await };
    tokio::spawn(task.in_current_span())
        .await
        .expect("the task does not panic");
}

/// Makes a span as database libraries do.
async fn query() {
    let span = info_span!(
        target: "sqlx::query",
        "query",
        otel.kind = "client",
        otel.name = "SELECT orders",
        db.system.name = "sqlite",
        db.rows = Empty
    );
    async {
        tokio::task::yield_now().await;
        Span::current().record("db.rows", 3);
    }
    .instrument(span)
    .await;
}

#[tracing::instrument]
async fn notify() {
    tokio::task::yield_now().await;
}

async fn handler(Path(_): Path<u32>) -> &'static str {
    Span::current().record("tenant", "acme");
    Span::current().set_attribute("plan", "free");
    error!("no harm is done");
    place(Order).await;
    let late = async { notify().await };
    tokio::spawn(late.in_current_span())
        .await
        .expect("the task does not panic");
    "ok"
}

async fn send(app: &Router, traceparent: &str) {
    let request = Request::get("/orders/7").header("traceparent", traceparent);
    let request = request.body(Body::empty()).expect("a valid request");
    let response = app
        .clone()
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    response
        .into_body()
        .collect()
        .await
        .expect("the body is complete");
}

#[tokio::test]
async fn a_service_of_tracing_spans_loses_no_span_parent_or_field() {
    let receiver = Receiver::start();
    let telemetry = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(receiver.endpoint())
        // The filter of log lines does not apply to spans.
        .with_log_filter("error")
        .init()
        .expect("no other telemetry is initialized");
    let make = tower_http::trace::DefaultMakeSpan::new().level(tracing::Level::INFO);
    let app = Router::new()
        .route("/orders/{id}", get(handler))
        .layer(TraceLayer::new_for_http().make_span_with(make))
        .layer(TelemetryLayer::new());

    let trace = "0af7651916cd43dd8448eb211c80319c";
    send(&app, &format!("00-{trace}-b7ad6b7169203331-00")).await;
    assert_eq!(
        FORMATTED.load(Ordering::Relaxed),
        0,
        "no attribute is built for an unsampled request"
    );
    send(&app, &format!("00-{trace}-b7ad6b7169203331-01")).await;
    telemetry.shutdown().await;

    let received = receiver.received();
    let spans = received.spans();
    let path = |span: &opentelemetry_proto::tonic::trace::v1::Span| {
        let mut path = vec![span.name.clone()];
        let mut parent = span.parent_span_id.clone();
        while let Some(above) = spans.iter().find(|one| one.span_id == parent) {
            path.push(above.name.clone());
            parent = above.parent_span_id.clone();
        }
        path.reverse();
        path.join(" > ")
    };
    let mut paths: Vec<_> = spans.iter().map(path).collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "GET /orders/{id}",
            "GET /orders/{id} > notify",
            "GET /orders/{id} > place",
            "GET /orders/{id} > place > SELECT orders",
            "GET /orders/{id} > place > notify",
        ]
    );
    let named = |name: &str| {
        let span = spans.iter().find(|span| span.name == name);
        span.expect("the span was received")
    };
    let attribute = |name: &str, key: &str| {
        let attributes = receiver::attributes_of(&named(name).attributes);
        attributes.get(key).cloned()
    };
    let expected = |value: &str| Some(value.to_owned());
    assert_eq!(attribute("GET /orders/{id}", "tenant"), expected("acme"));
    assert_eq!(attribute("GET /orders/{id}", "plan"), expected("free"));
    assert_eq!(attribute("place", "tenant"), expected("acme"));
    assert_eq!(attribute("place", "order"), expected("order 7"));
    assert_eq!(attribute("SELECT orders", "db.rows"), expected("3"));
    assert_eq!(
        attribute("SELECT orders", "db.system.name"),
        expected("sqlite")
    );
    for span in &spans {
        assert_eq!(span.events.len(), 0, "{}", span.name);
        let code = span.status.as_ref().map_or(0, |status| status.code);
        assert_eq!(code, 0, "{}", span.name);
    }
    // The event is a log record of the request span, once per request.
    let records = received.log_records();
    let record = records
        .iter()
        .filter(|one| one.span_id == named("GET /orders/{id}").span_id);
    assert_eq!(record.count(), 1);
}
