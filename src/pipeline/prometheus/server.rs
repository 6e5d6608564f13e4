//! The HTTP server for Prometheus on its own port.

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

/// The maximum number of concurrent connections.
const MAX_CONNECTIONS: usize = 16;

/// The timeout of a connection, which serves one request.
const MAX_TIME: Duration = Duration::from_secs(60);

/// The timeout for reading the head of a request.
const MAX_HEAD_TIME: Duration = Duration::from_secs(5);

/// Opens the listening socket.
pub(crate) fn listen(host: &str, port: u16) -> io::Result<net::TcpListener> {
    let listener = net::TcpListener::bind((host, port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves metrics at `/metrics` until the future is dropped.
pub(crate) async fn serve(listener: TcpListener, service: PrometheusService) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // For example, no file descriptors are left.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = service.clone();
        tokio::spawn(async move {
            let respond = service_fn(move |request: Request<_>| {
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
                .serve_connection(TokioIo::new(stream), respond);
            let _ = timeout(MAX_TIME, connection).await;
            drop(permit);
        });
    }
}
