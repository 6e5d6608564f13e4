//! Tests other routes to a receiver than a direct TCP connection: proxies and Unix sockets.

use std::time::Duration;

use tower_telemetry::{
    Config,
    config::Protocol,
    stats::{Failure, SignalStats},
};

use crate::export::{Way, layer, request};
use crate::support::eventually;
use crate::support::http_proxy::HttpProxy;
use crate::support::receiver::Receiver;

fn config(variables: &[(&str, String)]) -> Config {
    let config = Config::from_vars(|name| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.clone())
    });
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    config
}

/// Returns variables that export only traces, to a host name that only the proxy can reach.
fn variables(scheme: &str, variable: &'static str, proxy: String) -> Vec<(&'static str, String)> {
    let endpoint = format!("{scheme}://receiver.invalid:4321");
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_TRACES_EXPORTER", "otlp".to_owned()),
        ("OTEL_METRICS_EXPORTER", "none".to_owned()),
        ("OTEL_LOGS_EXPORTER", "none".to_owned()),
        (variable, proxy),
    ]
}

async fn export(config: Config) -> SignalStats {
    let telemetry = config.build().expect("the configuration is valid");
    request(layer(&telemetry), None).await;
    telemetry.shutdown().await.stats.traces
}

#[tokio::test]
async fn a_proxy_with_a_password_forwards_grpc_and_http() {
    for (variable, scheme) in [
        ("HTTP_PROXY", "http"),
        ("http_proxy", "http"),
        ("ALL_PROXY", "http"),
        ("all_proxy", "socks5"),
        ("HTTP_PROXY", "socks5h"),
    ] {
        for way in Way::all() {
            let receiver = Receiver::start();
            let proxy = HttpProxy::start(receiver.address);
            let config = config(&variables("http", variable, proxy.url(scheme)));
            let config = way.of(config);
            let shown = format!("{config} {config:?}");
            let named = format!("proxy={scheme}://{}", proxy.address);
            assert!(shown.contains(&named), "{shown}");
            assert!(!shown.contains("cret"), "{shown}");

            let stats = export(config).await;
            let case = format!("{variable} {scheme} {way:?} {:?}", proxy.requested());
            assert_eq!((stats.exported, stats.failed), (1, 0), "{case}");
            assert_eq!(receiver.received().spans().len(), 1, "{case}");
            let headers = &receiver.received().headers[0];
            assert!(!headers.contains_key("proxy-authorization"), "{case}");
            let expected = match (scheme, way.protocol) {
                ("http", Protocol::Grpc) => "CONNECT receiver.invalid:4321 HTTP/1.1",
                ("http", _) => "POST http://receiver.invalid:4321/v1/traces HTTP/1.1",
                _ => "receiver.invalid:4321",
            };
            assert_eq!(proxy.requested(), [expected], "{case}");
        }
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_proxy_forwards_tls_and_sees_only_the_name_of_the_receiver() {
    use crate::support::proxy::{Mode, Proxy};

    let authority = crate::tls::Authority::new();
    for (variable, scheme) in [("HTTPS_PROXY", "http"), ("https_proxy", "socks5")] {
        for way in Way::all() {
            let receiver = Receiver::start();
            let tls = authority.server("receiver.invalid", false, false);
            let front = Proxy::start_tls(receiver.address, Mode::Pass, Some(tls));
            let proxy = HttpProxy::start(front.address);
            let config = config(&variables("https", variable, proxy.url(scheme)));
            let config = config.with_ca_certificate(authority.file());
            let stats = export(way.of(config)).await;
            let case = format!("{variable} {scheme} {way:?} {:?}", proxy.requested());
            assert_eq!((stats.exported, stats.failed), (1, 0), "{case}");
            assert_eq!(receiver.received().spans().len(), 1, "{case}");
            assert!(
                proxy.requested()[0].contains("receiver.invalid:4321"),
                "{case}"
            );
            assert!(!proxy.requested()[0].contains("POST"), "{case}");
        }
    }
}

#[tokio::test]
async fn a_proxy_that_rejects_is_a_failure_and_a_bypassed_proxy_is_not() {
    for way in Way::all() {
        let receiver = Receiver::start();
        let proxy = HttpProxy::start(receiver.address);
        let without_password = format!("http://{}", proxy.address);
        let refused = config(&variables("http", "HTTP_PROXY", without_password));
        let stats = export(way.of(refused)).await;
        assert_eq!((stats.exported, stats.failed), (0, 1), "{way:?}");
        assert_eq!(stats.last_failure, Some(Failure::HttpStatus(407)));
        assert!(receiver.arrivals().is_empty());

        // Loopback addresses bypass the proxy, and `without_proxy` disables it.
        let asked = proxy.requested().len();
        let mut variables = variables("http", "HTTP_PROXY", proxy.url("http"));
        variables[0].1 = receiver.endpoint();
        for config in [config(&variables), config(&variables).without_proxy()] {
            assert_eq!(export(way.of(config)).await.exported, 1);
        }
        assert_eq!(proxy.requested().len(), asked);
        // `with_proxy` enables it for all receivers.
        let config = config(&variables).with_proxy(proxy.url("http"));
        assert_eq!(export(way.of(config)).await.exported, 1);
        assert_eq!(proxy.requested().len(), asked + 1);
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_forwards_grpc_and_http_and_may_appear_later() {
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::io::copy_bidirectional;

    static COUNT: AtomicU32 = AtomicU32::new(0);
    let variables = |endpoint: &str| {
        let mut variables = variables("http", "HTTP_PROXY", "http://nowhere.invalid".to_owned());
        variables[0].1 = endpoint.to_owned();
        variables
    };
    for way in Way::all() {
        let receiver = Receiver::start();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("otlp-{}-{count}", std::process::id()));
        let endpoint = format!("unix://{}", path.display());
        let config = way.of(config(&variables(&endpoint)));
        assert!(config.to_string().contains(&endpoint), "{config}");
        let telemetry = config
            .with_export_timeout(Duration::from_secs(10))
            .with_shutdown_timeout(crate::support::DEADLINE)
            .build()
            .expect("the configuration is valid");
        request(layer(&telemetry), None).await;
        let flush = tokio::time::timeout(Duration::from_millis(200), telemetry.force_flush());
        let _ = flush.await;
        eventually("the missing socket is a failure", || {
            telemetry.stats().traces.last_failure == Some(Failure::Refused)
        })
        .await;

        let listener = tokio::net::UnixListener::bind(&path).expect("the path is new");
        let address = receiver.address;
        let sidecar = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let server = tokio::net::TcpStream::connect(address).await;
                let mut server = server.expect("the server listens");
                tokio::spawn(async move {
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        request(layer(&telemetry), None).await;
        let stats = telemetry.shutdown().await.stats.traces;
        assert_eq!((stats.exported, stats.accepted), (2, 2), "{way:?}");
        assert_eq!(receiver.received().spans().len() as u64, stats.exported);
        sidecar.abort();
        let _ = std::fs::remove_file(&path);
    }
}

#[test]
fn the_path_of_a_unix_socket_must_be_absolute_and_not_too_long() {
    let long = format!("unix:///{}", "a".repeat(200));
    for endpoint in ["unix://", "unix://relative/path", &long] {
        let config = Config::from_vars(|_| None).with_endpoint(endpoint);
        let config = config.with_exporters([tower_telemetry::config::Exporter::Otlp]);
        let error = config
            .build()
            .expect_err("the configuration is invalid")
            .to_string();
        let start = "Config::with_endpoint=\"unix://";
        assert!(error.starts_with(start), "{error}");
        let says = ["is longer than", "is not the absolute path"];
        assert!(says.iter().any(|words| error.contains(words)), "{error}");
    }
}
