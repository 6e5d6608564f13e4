//! The server on a port of its own.

use std::convert::Infallible;
use std::io;
use std::net;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tower_service::Service;

use crate::pipeline::prometheus::service::{PrometheusService, status};

const PATH: &str = "/metrics";

/// The most connections at a time.
const MAX_CONNECTIONS: usize = 16;

/// How long a connection may take for its one request.
const MAX_TIME: Duration = Duration::from_secs(60);

/// How long a client may take for the head of its request.
const MAX_HEAD_TIME: Duration = Duration::from_secs(5);

/// Listens where metrics are to be had.
pub(crate) fn listen(host: &str, port: u16) -> io::Result<net::TcpListener> {
    let listener = net::TcpListener::bind((host, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers at `/metrics`, for as long as it is polled.
pub(crate) async fn serve(listener: TcpListener, service: PrometheusService) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // There are no file descriptors, for instance.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<_>| {
                let mut service = service.clone();
                async move {
                    match request.uri().path() {
                        PATH => service.call(request).await,
                        _ => Ok::<_, Infallible>(status(StatusCode::NOT_FOUND)),
                    }
                }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(MAX_HEAD_TIME)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            let _ = timeout(MAX_TIME, connection).await;
            drop(permit);
        });
    }
}
