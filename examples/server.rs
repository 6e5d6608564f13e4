//! A server to copy: axum, telemetry in two lines, and a shutdown that loses nothing.
//!
//! ```sh
//! cargo run --example server
//! curl -i localhost:3000/users/42
//! ```
//!
//! It listens on `LISTEN_ADDR` (default: `127.0.0.1:3000`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query};
use axum::http::{Request, Response, StatusCode};
use axum::routing::{get, post};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_telemetry::messaging::Destination;
use tower_telemetry::{
    ClientTelemetryLayer, Config, TelemetryLayer, add_span_attributes, add_span_event, attributes,
    carriers, increment_counter, set_span_error, start_timer, with_tracer,
};

const INDEX: &str = "\
GET /users/{id}        child spans, attributes, an event, metrics, a log line
GET /slow?ms=N         a response after N milliseconds
GET /stream?parts=N    a body in N parts, ten a second
GET /proxy/{path}      fetches /{path} from the server at PROXY_TO
POST /orders/{id}      a message in the queue of examples/worker.rs
GET /error             an error that the handler records
GET /panic             a handler that panics
GET /healthz           always 200
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let telemetry = Config::from_env()
        .with_service_version(env!("CARGO_PKG_VERSION"))
        .init()?;

    let app = Router::new()
        .route("/", get(async || INDEX))
        .route("/users/{id}", get(user))
        .route("/slow", get(slow))
        .route("/stream", get(stream))
        .route("/proxy/{*path}", get(proxy))
        .route("/orders/{id}", post(order))
        .route("/error", get(error))
        .route("/panic", get(panic))
        .route("/healthz", get(async || "ok"))
        // Below the telemetry layer, so that a panic is recorded with its status 500.
        .layer(CatchPanicLayer::new())
        .layer(TelemetryLayer::new());

    let address = std::env::var("LISTEN_ADDR");
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:3000")).await?;
    let shutdown = shutdown_signal()?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service)
        .with_graceful_shutdown(shutdown)
        .await?;

    // All requests have ended. The rest of their telemetry is exported now.
    let report = telemetry.shutdown().await;
    if report.lost() > 0 {
        eprintln!("telemetry was lost: {report}");
    }
    Ok(())
}

async fn user(Path(id): Path<u32>) -> String {
    add_span_attributes(attributes! { "user.id" => id.to_string() });
    let name = load_user(id).await;
    let greeting = with_tracer("users", "render-greeting", || format!("Hello, {name}!\n"));
    tracing::info!(user = id, "greeted");
    greeting
}

#[with_tracer("users", name = "load-user")]
async fn load_user(id: u32) -> &'static str {
    let _timer = start_timer("users.load.duration", "Time to load a user.", []);
    add_span_event(
        "cache-miss",
        attributes! { "cache.key" => format!("user:{id}") },
    );
    increment_counter(
        "users.loaded",
        "Users loaded from the database.",
        attributes! { "cache.hit" => false },
    );
    tokio::time::sleep(Duration::from_millis(5)).await;
    if id == 42 { "Arthur" } else { "stranger" }
}

#[derive(Deserialize)]
struct Slow {
    #[serde(default)]
    ms: u64,
}

async fn slow(Query(Slow { ms }): Query<Slow>) -> String {
    tokio::time::sleep(Duration::from_millis(ms.min(60_000))).await;
    format!("That took {ms} ms.\n")
}

#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    parts: u32,
}

/// Streams a body. The span of the request ends with the last part.
async fn stream(Query(Parts { parts }): Query<Parts>) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(1);
    tokio::spawn(async move {
        for part in 1..=parts.min(10_000) {
            let text = Bytes::from(format!("part {part}\n"));
            if sender.send(Ok(text)).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

/// Calls another server. The spans of that server are in the trace of this request.
async fn proxy(Path(path): Path<String>) -> Result<Response<Body>, (StatusCode, String)> {
    let Ok(server) = std::env::var("PROXY_TO") else {
        let hint = "Set PROXY_TO=http://127.0.0.1:3001 and start another server there.\n";
        return Err((StatusCode::SERVICE_UNAVAILABLE, hint.to_owned()));
    };
    let request = Request::get(format!("{server}/{path}")).body(Body::empty());
    let request = request.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let client = ClientTelemetryLayer::new().layer(client);
    match client.oneshot(request).await {
        Ok(response) => Ok(response.map(Body::new)),
        Err(error) => {
            set_span_error(&error);
            Err((StatusCode::BAD_GATEWAY, format!("{error}\n")))
        }
    }
}

/// Puts a message into a queue, which is a folder of files. The worker handles it in the
/// trace of this request.
async fn order(Path(id): Path<u32>) -> Result<&'static str, (StatusCode, String)> {
    let queue = match std::env::var_os("QUEUE_DIR") {
        Some(queue) => PathBuf::from(queue),
        None => std::env::temp_dir().join("tower-telemetry-queue"),
    };
    let send = async {
        let mut headers = HashMap::new();
        carriers::inject(|name, value| {
            headers.insert(name.to_owned(), value.to_owned());
        });
        let message = serde_json::json!({ "headers": headers, "order": id });
        let path = queue.join(format!("{id}.part"));
        tokio::fs::create_dir_all(&queue).await?;
        tokio::fs::write(&path, message.to_string()).await?;
        // The rename makes the message visible to the worker only when it is complete.
        tokio::fs::rename(&path, path.with_extension("json")).await
    };
    let orders = Destination::new("files", "orders");
    let sent = orders.send().try_run_future(send).await;
    match sent {
        Ok(()) => Ok("The order is queued.\n"),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"))),
    }
}

#[derive(Debug)]
struct OutOfTea;

impl fmt::Display for OutOfTea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no tea left")
    }
}

impl Error for OutOfTea {}

async fn error() -> (StatusCode, &'static str) {
    set_span_error(&OutOfTea);
    tracing::error!("{OutOfTea}");
    (StatusCode::INTERNAL_SERVER_ERROR, "There is no tea left.\n")
}

async fn panic() {
    panic!("this handler panics on purpose");
}

/// Starts to listen for Ctrl-C and SIGTERM. The future completes when the process is asked to end.
fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?
    };
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    })
}
