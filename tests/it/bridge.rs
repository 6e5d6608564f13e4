//! Compares `tracing` spans in the traces of requests with those of a plain set-up of
//! `tracing-opentelemetry`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::SpanData;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::trace::TraceLayer;
use tower_telemetry::tracing_opentelemetry::OpenTelemetrySpanExt;
use tower_telemetry::{TelemetryLayer, get_span_id, get_trace_id, span_layer};
use tracing::field::Empty as NoValue;
use tracing::span::{Attributes, Id};
use tracing::{Dispatch, Instrument, Level, Span, info_span};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, layer, reload};

use crate::support::{TRACE_ID, TRACEPARENT, TestTelemetry, tree};

const NOT_SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

type Work = Pin<Box<dyn Future<Output = ()>>>;
type Shape = (&'static str, fn() -> Work);

/// Names each shape after its identifier.
macro_rules! shapes {
    ($($name:ident => $body:block)+) => {
        vec![$((stringify!($name), || -> Work { Box::pin(async $body) })),+]
    };
}

async fn pause() {
    tokio::task::yield_now().await;
}

#[tracing::instrument]
async fn leaf(id: u32) {
    pause().await;
}

#[tracing::instrument(skip_all, fields(kind = "branch"))]
async fn branch() {
    leaf(1).await;
    pause().await;
    leaf(2).await;
}

#[tracing::instrument(err)]
fn fails() -> Result<(), String> {
    Err("broken".to_owned())
}

fn remote() -> SpanContext {
    SpanContext::new(
        TraceId::from(7),
        SpanId::from(9),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    )
}

fn shapes() -> Vec<Shape> {
    shapes! {
        nothing => {}
        one_span => { leaf(1).await }
        nested => { branch().await }
        deeply_nested => { async { branch().await }.instrument(info_span!("a")).instrument(info_span!("b")).await }
        sync_guard => { let _entered = info_span!("sync").entered(); let _inner = info_span!("inner").entered(); }
        in_scope => { info_span!("scope").in_scope(|| info_span!("inside").in_scope(|| {})) }
        parallel => { let _ = tokio::join!(leaf(1), leaf(2)); }
        parallel_branches => { let _ = tokio::join!(branch(), branch()); }
        spawned_in_current_span => { tokio::spawn(leaf(3).in_current_span()).await.expect("the task does not panic") }
        spawned_in_a_child => {
            async { tokio::spawn(leaf(4).in_current_span()).await.expect("the task does not panic") }.instrument(info_span!("parent")).await;
        }
        spawned_with_a_span => { tokio::spawn(leaf(5).instrument(info_span!("task"))).await.expect("the task does not panic") }
        a_task_that_outlives_its_parent => {
            let task = { let span = info_span!("short"); span.in_scope(|| tokio::spawn(leaf(6).in_current_span())) };
            task.await.expect("the task does not panic");
        }
        a_thread => {
            let span = Span::current();
            let dispatch = tracing::dispatcher::get_default(Clone::clone);
            std::thread::spawn(move || tracing::dispatcher::with_default(&dispatch, || {
                span.in_scope(|| info_span!("on_thread").in_scope(|| {}));
            })).join().expect("the thread does not panic");
        }
        closed_on_another_thread => {
            let span = info_span!("moved");
            span.in_scope(|| {});
            let dispatch = tracing::dispatcher::get_default(Clone::clone);
            std::thread::spawn(move || tracing::dispatcher::with_default(&dispatch, || drop(span))).join().expect("the thread does not panic");
        }
        blocking => {
            let span = Span::current();
            tokio::task::spawn_blocking(move || span.in_scope(|| {})).await.expect("the task does not panic");
        }
        explicit_parent => {
            let parent = info_span!("parent");
            info_span!(parent: &parent, "child").in_scope(|| {});
        }
        explicit_parent_of_the_request => {
            let request = Span::current();
            async { info_span!(parent: &request, "beside").in_scope(|| {}) }.instrument(info_span!("other")).await;
        }
        request_in_scope_below_a_child => {
            let request = Span::current();
            info_span!("child").in_scope(|| request.in_scope(|| info_span!("of_request").in_scope(|| {})));
        }
        follows_from => {
            let first = info_span!("first");
            first.in_scope(|| {});
            let second = info_span!("second");
            second.follows_from(&first);
            second.in_scope(|| {});
        }
        set_parent => {
            let span = info_span!("elsewhere");
            let _ = span.set_parent(Context::current().with_remote_span_context(remote()));
            span.in_scope(|| info_span!("below").in_scope(|| {}));
        }
        add_link => { let span = info_span!("linked"); span.add_link(remote()); span.in_scope(|| {}); }
        recorded_later => { let span = info_span!("later", id = NoValue); span.in_scope(|| {}); span.record("id", 5); }
        otel_fields => {
            info_span!("plain", otel.name = "named", otel.kind = "client", otel.status_code = "error").in_scope(|| {});
        }
        otel_status_description => { info_span!("failed", otel.status_description = "why").in_scope(|| {}) }
        values_of_all_kinds => {
            info_span!("values", a = 1, b = -2_i64, c = 1.5, d = true, e = "text", f = ?Some(1), g = %2, h = u64::MAX).in_scope(|| {});
        }
        an_error_as_a_value => {
            let error = std::io::Error::other("disk");
            info_span!("with_error", error = &error as &dyn std::error::Error).in_scope(|| {});
        }
        attributes_by_extension => {
            let span = info_span!("extended");
            span.set_attribute("late", 1);
            span.set_status(Status::error("failed"));
            span.in_scope(|| {});
        }
        cancelled => {
            let work = async { std::future::pending::<()>().await }.instrument(info_span!("cancelled"));
            let _ = tokio::time::timeout(Duration::from_millis(1), work).await;
        }
        never_entered => { drop(info_span!("idle")); }
        entered_twice => { let span = info_span!("twice"); span.in_scope(|| {}); span.in_scope(|| info_span!("second").in_scope(|| {})); }
        entered_within_itself => { let span = info_span!("self"); span.in_scope(|| { span.in_scope(|| {}); info_span!("after").in_scope(|| {}); }); }
        entered_out_of_order => {
            let (a, b) = (info_span!("a").entered(), info_span!("b").entered());
            drop(a);
            info_span!("c").in_scope(|| {});
            drop(b);
        }
        below_a_level => { tracing::debug_span!("hidden").in_scope(|| info_span!("shown").in_scope(|| {})) }
        attribute_of_the_request => { Span::current().set_attribute("tenant.id", "acme") }
        a_panic => {
            let span = info_span!("panics");
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| span.in_scope(|| std::panic::resume_unwind(Box::new(())))));
        }
    }
}

fn on_a_runtime(work: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build();
    runtime.expect("the runtime can be built").block_on(work);
}

/// Runs a shape in a request of the telemetry layer, with the span layer of this crate.
fn ours(shape: fn() -> Work, traceparent: &str) -> Vec<SpanData> {
    in_a_request(shape, traceparent, span_layer(), |layer| layer)
}

/// Runs a shape in a request, with the given span layer and options of the telemetry layer.
fn in_a_request(
    shape: fn() -> Work,
    traceparent: &str,
    spans: impl Layer<Registry> + Send + Sync,
    with: impl FnOnce(TelemetryLayer) -> TelemetryLayer,
) -> Vec<SpanData> {
    let subscriber = tracing_subscriber::registry().with(spans);
    in_a_request_of(&subscriber.into(), shape, traceparent, with)
}

fn in_a_request_of(
    subscriber: &Dispatch,
    shape: fn() -> Work,
    traceparent: &str,
    with: impl FnOnce(TelemetryLayer) -> TelemetryLayer,
) -> Vec<SpanData> {
    let telemetry = TestTelemetry::new();
    let _subscriber = tracing::dispatcher::set_default(subscriber);
    on_a_runtime(async {
        let service = ServiceBuilder::new()
            .layer(with(telemetry.layer()))
            .service_fn(|_: Request<Empty<Bytes>>| async move {
                shape().await;
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
        respond(service, traceparent).await;
    });
    telemetry.spans()
}

/// Sends a request and reads the whole response.
async fn respond<S, B>(service: S, traceparent: &str)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body,
{
    let request = Request::get("/").header("traceparent", traceparent);
    let request = request.body(Empty::new()).expect("a valid request");
    let response = service
        .oneshot(request)
        .await
        .expect("the service cannot fail");
    let _ = response.into_body().collect().await;
}

/// Runs a shape below a span of a plain set-up of `tracing-opentelemetry`.
fn plain(shape: fn() -> Work) -> Vec<SpanData> {
    let telemetry = TestTelemetry::new();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(telemetry.tracer_provider().tracer("tracing"))
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_filter(LevelFilter::INFO);
    let subscriber = tracing_subscriber::registry().with(layer);
    let _subscriber = tracing::subscriber::set_default(subscriber);
    on_a_runtime(async {
        let request = info_span!("GET", otel.kind = "server");
        let remote = TraceId::from_hex(TRACE_ID).expect("a valid trace id");
        let parent = SpanContext::new(
            remote,
            SpanId::from(1),
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        let _ = request.set_parent(Context::new().with_remote_span_context(parent));
        shape().instrument(request).await;
    });
    telemetry.spans()
}

/// Describes spans without their ids and times. For the request span, only the application's
/// attributes are included.
fn described(spans: &[SpanData]) -> Vec<String> {
    let names: HashMap<_, _> = spans
        .iter()
        .map(|span| (span.span_context.span_id(), &*span.name))
        .collect();
    let path = |span: &SpanData| {
        let mut path = vec![span.name.to_string()];
        let mut parent = span.parent_span_id;
        while let Some(above) = spans
            .iter()
            .find(|one| one.span_context.span_id() == parent)
        {
            path.push(above.name.to_string());
            parent = above.parent_span_id;
        }
        path.reverse();
        path.join(" > ")
    };
    let mut described: Vec<_> = spans
        .iter()
        .map(|span| {
            let is_request = span.span_kind == SpanKind::Server;
            let mut attributes: Vec<_> = span
                .attributes
                .iter()
                .filter(|one| !is_request || one.key.as_str().starts_with("tenant"))
                .map(|KeyValue { key, value, .. }| format!("{key}={value:?}"))
                .collect();
            attributes.sort();
            let links: Vec<_> = span
                .links
                .iter()
                .map(|link| names.get(&link.span_context.span_id()).unwrap_or(&"remote"))
                .collect();
            let trace = span.span_context.trace_id();
            format!(
                "{trace} {}: {:?} {:?} {attributes:?} {links:?} {}",
                path(span),
                span.span_kind,
                span.status,
                span.events.len()
            )
        })
        .collect();
    described.sort();
    described
}

#[test]
fn spans_below_a_request_equal_those_of_a_plain_tracing_opentelemetry_set_up() {
    for (name, shape) in shapes() {
        let (ours, plain) = (
            described(&ours(shape, TRACEPARENT)),
            described(&plain(shape)),
        );
        assert_eq!(ours, plain, "{name}");
    }
}

#[test]
fn below_an_unsampled_request_no_span_is_exported() {
    for (name, shape) in shapes() {
        let mut spans = ours(shape, NOT_SAMPLED);
        // One shape sets a remote, sampled parent. Its spans are exported.
        spans.retain(|span| span.span_context.trace_id() != TraceId::from(7));
        assert_eq!(described(&spans), <[String; 0]>::default(), "{name}");
    }
}

#[test]
fn the_error_of_an_instrumented_function_is_only_a_log_record() {
    let spans = ours(
        || Box::pin(async { assert!(fails().is_err()) }),
        TRACEPARENT,
    );
    for span in &spans {
        assert_eq!(span.status, Status::Unset, "{}", span.name);
        assert_eq!(span.events.len(), 0, "{}", span.name);
    }
    assert_eq!(tree(&spans), ["GET", "  fails"]);
}

#[test]
fn a_task_in_a_request_span_has_the_context_of_the_request_sampled_or_not() {
    fn shape() -> Work {
        Box::pin(async {
            let ids = (get_trace_id(), get_span_id());
            assert_eq!(ids.0, TraceId::from_hex(TRACE_ID).ok());
            let cx = Span::current().context();
            let of_span = cx.span().span_context().span_id();
            assert_eq!(Some(of_span), ids.1);
            let in_task = async { (get_trace_id(), get_span_id()) };
            let in_task = tokio::spawn(in_task.in_current_span()).await;
            assert_eq!(in_task.expect("the task does not panic"), ids);
            let below = async { Span::current().context().span().span_context().trace_id() };
            let below = tokio::spawn(below.instrument(info_span!("below"))).await;
            assert_eq!(
                below.expect("the task does not panic").to_string(),
                TRACE_ID
            );
            assert_eq!((get_trace_id(), get_span_id()), ids);
        })
    }
    assert_eq!(tree(&ours(shape, TRACEPARENT)), ["GET", "  below"]);
    assert_eq!(ours(shape, NOT_SAMPLED).len(), 0);
}

#[test]
fn fields_recorded_on_the_tracing_span_of_a_request_are_on_the_exported_span() {
    fn shape() -> Work {
        Box::pin(async {
            Span::current().record("tenant", "acme");
            Span::current().set_attribute("plan", "free");
            let task = async { Span::current().set_attribute("in.task", true) };
            tokio::spawn(task.in_current_span())
                .await
                .expect("the task does not panic");
        })
    }
    let spans = ours(shape, TRACEPARENT);
    let [span] = &spans[..] else {
        panic!("{:?}", tree(&spans))
    };
    for expected in [
        KeyValue::new("tenant", "acme"),
        KeyValue::new("plan", "free"),
        KeyValue::new("in.task", true),
    ] {
        assert!(span.attributes.contains(&expected), "{expected:?}");
    }
    // The fields for log lines do not become attributes.
    let is_line_field = |one: &&KeyValue| ["method", "route", "status"].contains(&one.key.as_str());
    assert_eq!(span.attributes.iter().find(is_line_field), None);
}

#[test]
fn a_trace_layer_of_tower_http_adds_no_span() {
    for is_outside in [false, true] {
        let telemetry = TestTelemetry::new();
        let subscriber = tracing_subscriber::registry().with(span_layer());
        let _subscriber = tracing::subscriber::set_default(subscriber);
        let make = tower_http::trace::DefaultMakeSpan::new().level(tracing::Level::INFO);
        let other = TraceLayer::new_for_http().make_span_with(make);
        on_a_runtime(async {
            let handle = |_: Request<Empty<Bytes>>| async {
                leaf(1).await;
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            };
            let services = ServiceBuilder::new();
            if is_outside {
                let services = services.layer(other).layer(telemetry.layer());
                respond(services.service_fn(handle), TRACEPARENT).await;
            } else {
                let services = services.layer(telemetry.layer()).layer(other);
                respond(services.service_fn(handle), TRACEPARENT).await;
            }
        });
        let spans = telemetry.spans();
        assert_eq!(tree(&spans), ["GET", "  leaf"], "outside: {is_outside}");
        assert_eq!(spans[0].span_context.trace_id().to_string(), TRACE_ID);
    }
}

#[test]
fn the_bridge_does_nothing_beside_another_tracing_opentelemetry_layer() {
    for ours_is_first in [true, false] {
        let telemetry = TestTelemetry::new();
        let tracer = telemetry.tracer_provider().tracer("theirs");
        let dispatch: Dispatch = if ours_is_first {
            let subscriber = tracing_subscriber::registry().with(span_layer());
            let theirs = tracing_opentelemetry::layer().with_tracer(tracer);
            subscriber.with(theirs).into()
        } else {
            let theirs = tracing_opentelemetry::layer().with_tracer(tracer);
            let subscriber = tracing_subscriber::registry().with(theirs);
            subscriber.with(span_layer()).into()
        };
        tracing::dispatcher::with_default(&dispatch, || {
            info_span!("first").in_scope(|| {});
            info_span!("one").in_scope(|| info_span!("two").in_scope(|| {}));
        });
        let spans = telemetry.spans();
        let count = |name: &str| spans.iter().filter(|span| span.name == name).count();
        assert_eq!((count("one"), count("two")), (1, 1), "{ours_is_first}");
    }
}

#[test]
fn without_a_tracing_span_a_request_passes_no_context_to_spawned_tasks() {
    fn shape() -> Work {
        Box::pin(async {
            assert!(Span::current().is_none());
            let in_task = async { get_trace_id() };
            let in_task = tokio::spawn(in_task.in_current_span()).await;
            assert_eq!(in_task.expect("the task does not panic"), None);
            leaf(1).await;
        })
    }
    let spans = in_a_request(shape, TRACEPARENT, span_layer(), |layer| {
        layer.without_tracing_span()
    });
    assert_eq!(tree(&spans), ["GET", "  leaf"]);
}

#[test]
fn an_outgoing_request_has_a_tracing_span_of_its_own() {
    let telemetry = TestTelemetry::new();
    let subscriber = tracing_subscriber::registry().with(span_layer());
    let _subscriber = tracing::subscriber::set_default(subscriber);
    on_a_runtime(async {
        let service = ServiceBuilder::new()
            .layer(telemetry.client_layer())
            .service_fn(|request: Request<Empty<Bytes>>| async move {
                let ids = (get_trace_id(), get_span_id());
                let in_task = async { (get_trace_id(), get_span_id()) };
                let in_task = tokio::spawn(in_task.in_current_span()).await;
                assert_eq!(in_task.expect("the task does not panic"), ids);
                assert!(request.headers().contains_key("traceparent"));
                Span::current().set_attribute("attempt", 1);
                leaf(1).await;
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
        let work = respond(service, TRACEPARENT);
        work.instrument(info_span!("work")).await;
    });
    let mut spans = telemetry.spans();
    spans.retain(|span| span.name == "GET");
    let [span] = &spans[..] else {
        panic!("{:?}", tree(&spans))
    };
    assert_eq!(span.span_kind, SpanKind::Client);
    let expected = KeyValue::new("attempt", 1);
    assert!(span.attributes.contains(&expected), "{span:?}");
}

/// Collects the output of a layer of log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("the lock is not poisoned")
            .extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("the lock is not poisoned").clone())
            .expect("the text is UTF-8")
    }

    fn layer(&self) -> impl Layer<Registry> + Send + Sync + use<> {
        let lines = self.clone();
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_span_events(FmtSpan::CLOSE)
            .with_writer(move || lines.clone())
    }
}

#[test]
fn log_lines_of_another_layer_show_the_request_span() {
    fn shape() -> Work {
        Box::pin(async { tracing::info!("in the handler") })
    }
    let lines = Lines::default();
    let spans = lines.layer().and_then(span_layer());
    in_a_request(shape, TRACEPARENT, spans, |layer| layer);
    let text = lines.text();
    assert!(
        text.contains("request{method=GET}: it::bridge: in the handler"),
        "{text}"
    );
    assert!(text.contains("request{method=GET status=200}: "), "{text}");
}

#[test]
fn a_filter_that_hides_request_spans_is_warned_about() {
    let telemetry = TestTelemetry::new();
    let lines = Lines::default();
    let subscriber = tracing_subscriber::registry()
        .with(lines.layer().and_then(span_layer()))
        .with(LevelFilter::WARN);
    let _subscriber = tracing::subscriber::set_default(subscriber);
    on_a_runtime(async {
        let service = ServiceBuilder::new().layer(telemetry.layer()).service_fn(
            |_: Request<Empty<Bytes>>| async {
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            },
        );
        respond(service, TRACEPARENT).await;
    });
    let text = lines.text();
    let warning = "WARN tower_telemetry: the filter of the `tracing` subscriber disables the spans \
                   of requests";
    assert!(text.contains(warning), "{text}");
    assert_eq!(tree(&telemetry.spans()), ["GET"]);
}

/// Collects the names of spans, like the console of tokio's tasks.
struct Tasks(Arc<Mutex<Vec<&'static str>>>);

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Tasks {
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, cx: layer::Context<'_, S>) {
        let name = cx.span(id).expect("the span is open").name();
        self.0.lock().expect("the lock is not poisoned").push(name);
    }
}

#[test]
fn other_layers_with_their_own_filters_change_no_span_and_see_their_spans() {
    fn shape() -> Work {
        Box::pin(async {
            tracing::trace_span!(target: "tokio::task", "runtime.spawn").in_scope(|| {});
            branch().await;
            tracing::debug!("a detail");
        })
    }
    let (seen, lines) = (Arc::default(), Lines::default());
    let tasks = || Tasks(Arc::clone(&seen));
    let of_tasks = Targets::new().with_target("tokio", Level::TRACE);
    let (reloaded, handle) = reload::Layer::new(EnvFilter::new("error"));
    let of_fields = EnvFilter::new("[leaf{id=2}]=trace");
    let new = tracing_subscriber::registry;
    let none = Lines::default().layer().with_filter(LevelFilter::OFF);
    let subscribers: Vec<(&str, Dispatch)> = vec![
        (
            "outside of tasks",
            new()
                .with(tasks().with_filter(of_tasks.clone()))
                .with(span_layer())
                .into(),
        ),
        (
            "inside of tasks",
            new()
                .with(span_layer())
                .with(tasks().with_filter(of_tasks.clone()))
                .into(),
        ),
        (
            "a filter that is reloaded",
            new()
                .with(lines.layer().with_filter(reloaded))
                .with(span_layer())
                .into(),
        ),
        (
            "a filter of fields",
            new()
                .with(Lines::default().layer().with_filter(of_fields))
                .with(span_layer())
                .into(),
        ),
        (
            "a list",
            new().with(vec![none.boxed(), span_layer()]).into(),
        ),
        ("an option", new().with(Some(span_layer())).into()),
    ];
    handle
        .reload(EnvFilter::new("debug"))
        .expect("the layer is in a subscriber");
    for (name, subscriber) in subscribers {
        let spans = in_a_request_of(&subscriber, shape, TRACEPARENT, |layer| layer);
        let expected = ["GET", "  branch", "    leaf", "    leaf"];
        assert_eq!(tree(&spans), expected, "{name}");
    }
    assert_eq!(
        *seen.lock().expect("the lock is not poisoned"),
        ["runtime.spawn"; 2]
    );
    let text = lines.text();
    assert!(
        text.contains("request{method=GET}: it::bridge: a detail"),
        "{text}"
    );
}

#[test]
fn a_span_layer_that_its_subscriber_hides_is_warned_about() {
    let lines = Lines::default();
    let (hidden, _handle) = reload::Layer::new(lines.layer().and_then(span_layer()));
    let shape = || -> Work { Box::pin(leaf(1)) };
    let spans = in_a_request(shape, TRACEPARENT, hidden, |layer| layer);
    assert_eq!(tree(&spans), ["GET", "  leaf"]);
    let text = lines.text();
    let warning = "WARN tower_telemetry: the span layer of tower-telemetry is inside a layer that \
                   hides it, such as `tracing_subscriber::reload::Layer`";
    assert!(text.contains(warning), "{text}");
}

#[cfg(feature = "init")]
mod with_a_guard {
    use std::fmt::{self, Debug};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use opentelemetry::ContextGuard;
    use tower_telemetry::config::Exporter;
    use tower_telemetry::{Config, TelemetryGuard};

    use super::*;
    use crate::support::receiver::Receiver;

    fn guard(receiver: &Receiver, with: impl FnOnce(Config) -> Config) -> TelemetryGuard {
        let config = Config::from_vars(|_| None)
            .with_exporters([Exporter::Otlp])
            .with_endpoint(receiver.endpoint());
        with(config).build().expect("the configuration is valid")
    }

    fn attached(flags: TraceFlags) -> ContextGuard {
        let trace_id = TraceId::from_hex(TRACE_ID).expect("a valid trace id");
        let parent = SpanContext::new(
            trace_id,
            SpanId::from(1),
            flags,
            true,
            TraceState::default(),
        );
        Context::new().with_remote_span_context(parent).attach()
    }

    #[tokio::test]
    async fn the_directives_choose_the_spans_that_are_exported() {
        for (directives, expected) in [
            ("info", &["of_info", "of_warn"][..]),
            ("debug", &["of_debug", "of_info", "of_warn"]),
            ("warn", &["of_warn"]),
            ("off", &[]),
            ("off,it::bridge=info", &["of_info", "of_warn"]),
            ("info,it::bridge=off", &[]),
            // This directive names a span.
            ("off,[of_debug]=debug", &["of_debug"]),
        ] {
            let receiver = Receiver::start();
            let telemetry = guard(&receiver, |config| config.with_tracing_spans(directives));
            let subscriber = tracing_subscriber::registry().with(telemetry.span_layer());
            tracing::subscriber::with_default(subscriber, || {
                tracing::debug_span!("of_debug").in_scope(|| {});
                info_span!("of_info", field = 1).in_scope(|| {});
                tracing::warn_span!("of_warn").in_scope(|| {});
            });
            telemetry.shutdown().await;
            let spans = receiver.received().spans();
            let mut names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
            names.sort_unstable();
            assert_eq!(names, expected, "{directives}");
        }
    }

    #[tokio::test]
    async fn events_are_recorded_on_spans_if_configured_and_mark_no_request_as_failed() {
        fn shape() -> Work {
            Box::pin(async {
                tracing::error!(code = 5, "event");
                info_span!("child").in_scope(|| tracing::error!("below"));
                assert!(fails().is_err());
            })
        }
        let receiver = Receiver::start();
        let telemetry = guard(&receiver, |config| config.with_tracing_events(true));
        let layer = telemetry.span_layer();
        let spans =
            tokio::task::spawn_blocking(|| in_a_request(shape, TRACEPARENT, layer, |layer| layer));
        let spans = spans.await.expect("the task does not panic");
        let of = |name: &str| {
            let span = spans.iter().find(|span| span.name == name);
            let span = span.expect("the span has ended");
            let events: Vec<_> = span.events.iter().map(|event| &*event.name).collect();
            (span.status.clone(), events)
        };
        assert_eq!(of("GET"), (Status::Unset, vec!["event"]));
        assert_eq!(of("child"), (Status::Unset, vec!["below"]));
        let (status, events) = of("fails");
        assert_eq!(status, Status::error("broken"));
        assert_eq!(events, ["exception"]);
        telemetry.shutdown().await;
    }

    #[tokio::test]
    async fn a_span_older_than_a_request_keeps_its_own_trace() {
        let receiver = Receiver::start();
        let telemetry = guard(&receiver, |config| config);
        let subscriber = tracing_subscriber::registry().with(telemetry.span_layer());
        let default = tracing::subscriber::set_default(subscriber);
        let never_entered = info_span!("older");
        let entered = info_span!("older_entered");
        entered.in_scope(|| {});
        let layer = TelemetryLayer::new().with_tracer_provider(
            telemetry
                .tracer_provider()
                .expect("traces are enabled")
                .clone(),
        );
        let service =
            ServiceBuilder::new()
                .layer(layer)
                .service_fn(|_: Request<Empty<Bytes>>| async {
                    for span in [&never_entered, &entered] {
                        async {
                            pause().await;
                            info_span!("below").in_scope(|| {});
                        }
                        .instrument(span.clone())
                        .await;
                    }
                    info_span!("after").in_scope(|| {});
                    Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
                });
        respond(service, TRACEPARENT).await;
        drop((never_entered, entered, default));
        telemetry.shutdown().await;
        let spans = receiver.received().spans();
        let of_request = TraceId::from_hex(TRACE_ID)
            .expect("a valid trace id")
            .to_bytes();
        for span in &spans {
            let parent = spans.iter().find(|one| one.span_id == span.parent_span_id);
            let parent = parent.map(|parent| &*parent.name);
            let is_in_request = span.trace_id == of_request;
            match &*span.name {
                "older" | "older_entered" => assert_eq!((parent, is_in_request), (None, false)),
                "below" => assert!(
                    parent.is_some_and(|name| name.starts_with("older")),
                    "{parent:?}"
                ),
                "after" => assert_eq!((parent, is_in_request), (Some("GET"), true)),
                _ => assert_eq!((&*span.name, is_in_request), ("GET", true)),
            }
        }
        assert_eq!(spans.len(), 6, "{spans:?}");
    }

    static FORMATTED: AtomicUsize = AtomicUsize::new(0);

    /// Counts how often it is formatted.
    struct Counting;

    impl Debug for Counting {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            FORMATTED.fetch_add(1, Ordering::Relaxed);
            f.write_str("counted")
        }
    }

    #[tokio::test]
    async fn below_an_unsampled_span_fields_are_not_formatted() {
        let receiver = Receiver::start();
        let telemetry = guard(&receiver, |config| config);
        let subscriber = tracing_subscriber::registry().with(telemetry.span_layer());
        tracing::subscriber::with_default(subscriber, || {
            let run = || {
                let span = info_span!("fields", a = ?Counting, b = NoValue);
                span.record("b", tracing::field::debug(Counting));
                info_span!(parent: &span, "explicit", a = ?Counting).in_scope(|| {});
                span.in_scope(|| info_span!("inner", a = ?Counting).in_scope(|| {}));
            };
            let attached_not_sampled = attached(TraceFlags::default());
            run();
            drop(attached_not_sampled);
            assert_eq!(FORMATTED.load(Ordering::Relaxed), 0);
            let _attached = attached(TraceFlags::SAMPLED);
            run();
            assert_eq!(FORMATTED.load(Ordering::Relaxed), 4);
        });
        telemetry.shutdown().await;
        let spans = receiver.received().spans();
        let mut names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["explicit", "fields", "inner"]);
    }
}
