//! Runs the snippets of the documentation in their order, and checks the telemetry that they record.

use std::io;

use opentelemetry::KeyValue;
use opentelemetry::trace::Status;
use opentelemetry_sdk::trace::SpanData;
use tower_telemetry::{
    add_span_attributes, add_span_event, add_to_counter, async_with_tracer, attributes,
    get_span_id, get_trace_id, get_tracer, increment_counter, record_histogram_value, set_gauge,
    set_span_error, start_as_current_span, with_tracer,
};

use crate::functions::{block_on, in_request};
use crate::support::{
    Attributes, Point, TestTelemetry, Value, attributes as map, span_attributes, tree,
};

fn refused() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "there is no such user")
}

#[with_tracer("users", record(user.id = id))]
async fn load_user(id: &str) -> Result<String, io::Error> {
    let row = async_with_tracer("users", "query", async {
        if id == "42" {
            Ok(" Ada ")
        } else {
            Err(refused())
        }
    });
    let row = row.await?;
    Ok(with_tracer("users", "parse-row", || row.trim().to_owned()))
}

/// Makes a span by hand for a part of a function.
fn render(name: &str) -> Result<String, io::Error> {
    let tracer = get_tracer("users");
    let greeting = {
        let span = start_as_current_span(&tracer, "render-greeting");
        span.set_attribute("greeting.language", "en");
        add_span_event(
            "template-missed",
            attributes! { "template.name" => "greeting" },
        );
        let name = Some(name).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| io::Error::other("nobody to greet"));
        #[allow(clippy::redundant_closure, reason = "the guide shows it in this form")]
        let name = name.inspect_err(|error| set_span_error(error))?;
        format!("Hello, {name}!")
    };
    Ok(greeting)
}

async fn handler(id: &str) -> Result<String, io::Error> {
    add_span_attributes(attributes! { "user.id" => id, "user.plan" => None::<&str> });
    increment_counter(
        "http.requests",
        "Requests.",
        attributes! { "endpoint" => "/users" },
    );
    add_to_counter("users.rows", "Rows that were read.", 3, []);
    let name = load_user(id).await.inspect_err(set_span_error)?;
    record_histogram_value(
        "users.name.length",
        "Letters of a name.",
        name.len() as f64,
        [],
    );
    set_gauge("users.cached", "Users in the cache.", 1.0, []);
    assert!(get_trace_id().is_some() && get_span_id().is_some());
    render(&name)
}

fn spans(handler: impl Future<Output = ()>) -> (TestTelemetry, Vec<SpanData>) {
    let telemetry = TestTelemetry::new();
    block_on(in_request(&telemetry, handler));
    let spans = telemetry.spans();
    (telemetry, spans)
}

#[test]
fn a_successful_handler_records_a_tree_of_spans_and_its_metrics() {
    let (telemetry, spans) = spans(async {
        assert_eq!(handler("42").await.expect("the user exists"), "Hello, Ada!");
    });
    assert_eq!(
        tree(&spans),
        [
            "GET",
            "  load_user",
            "    query",
            "    parse-row",
            "  render-greeting"
        ]
    );
    let [query, parse, load, render, request] = &spans[..] else {
        unreachable!("the tree has five spans");
    };
    for span in [query, parse] {
        assert_eq!(span_attributes(span), Attributes::new());
    }
    assert_eq!(span_attributes(load), map([("user.id", "42")]));
    assert_eq!(span_attributes(render), map([("greeting.language", "en")]));
    assert_eq!(render.events.len(), 1);
    assert_eq!(render.events[0].name, "template-missed");
    assert_eq!(
        render.events[0].attributes,
        [KeyValue::new("template.name", "greeting")]
    );
    let found = span_attributes(request);
    assert_eq!(found["user.id"], "42");
    assert!(!found.contains_key("user.plan"));
    for span in &spans {
        assert_eq!(span.status, Status::Unset, "{}", span.name);
    }
    let mut metrics = telemetry.metrics_of_all_scopes();
    metrics.retain(|metric| metric.scope.name() == "tower-telemetry.handlers");
    metrics.sort_by(|a, b| a.name.cmp(&b.name));
    let points: Vec<_> = metrics
        .into_iter()
        .flat_map(|metric| {
            metric
                .points
                .into_iter()
                .map(move |one| (metric.name.clone(), one))
        })
        .map(|(name, Point { attributes, value })| match value {
            Value::Histogram { count, sum, .. } => (name, attributes, format!("{count} {sum}")),
            value => (name, attributes, format!("{value:?}")),
        })
        .collect();
    let point =
        |name: &str, attributes, value: &str| (name.to_owned(), attributes, value.to_owned());
    assert_eq!(
        points,
        [
            point("http.requests", map([("endpoint", "/users")]), "Count(1)"),
            point("users.cached", map([]), "F64(1.0)"),
            point("users.name.length", map([]), "1 3"),
            point("users.rows", map([]), "Count(3)"),
        ]
    );
}

#[test]
fn an_error_is_recorded_on_the_span_that_is_current_at_that_point() {
    let (_, spans) = spans(async {
        assert!(handler("7").await.is_err());
        assert!(render("").is_err());
    });
    assert_eq!(
        tree(&spans),
        ["GET", "  load_user", "    query", "  render-greeting"]
    );
    let [query, load, render, request] = &spans[..] else {
        unreachable!("the tree has four spans");
    };
    let missing = "there is no such user";
    assert_eq!(query.status, Status::Unset);
    assert_eq!(load.status, Status::error(missing));
    assert_eq!(
        span_attributes(load),
        map([("error.type", "std::io::Error"), ("user.id", "7")])
    );
    assert_eq!(render.status, Status::error("nobody to greet"));
    assert_eq!(request.status, Status::error(missing));
    let events = |span: &SpanData| -> Vec<_> {
        let events = span.events.iter();
        events.map(|event| event.name.to_string()).collect()
    };
    assert_eq!(events(render), ["template-missed", "exception"]);
    assert_eq!(events(request), ["exception"]);
}
