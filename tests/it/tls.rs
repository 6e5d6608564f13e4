//! Exports to receivers with TLS, including some that must not be trusted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tower_telemetry::{
    Config,
    config::{Exporter, InitError},
    stats::{Failure, SignalStats},
};

use crate::export::{Way, layer, request};
use crate::support::proxy::{Mode, Proxy};
use crate::support::receiver::Receiver;
use crate::support::{DEADLINE, eventually};

/// A certificate authority and the key to sign with.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("the list of names is empty");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be generated");
        Self(CertifiedIssuer::self_signed(params, key).expect("the certificate can be signed"))
    }

    /// Signs a certificate, and returns it with its key.
    fn sign(&self, name: &str, has_expired: bool) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a valid name");
        if has_expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().expect("a key can be generated");
        let certificate = params
            .signed_by(&key, &self.0)
            .expect("the certificate can be signed");
        (certificate, key)
    }

    /// Returns the TLS configuration of a server with such a certificate.
    pub(crate) fn server(&self, name: &str, has_expired: bool, wants_client: bool) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the protocol versions are supported");
        let builder = if wants_client {
            let mut roots = RootCertStore::empty();
            roots
                .add(self.0.der().clone())
                .expect("a valid certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().expect("the verifier can be built"))
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = self.sign(name, has_expired);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a valid key");
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the key belongs to the certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    pub(crate) fn file(&self) -> PathBuf {
        file(&self.0.pem())
    }
}

/// Writes text to a new file.
fn file(text: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};

    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{count}.pem", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("the file can be written");
    path
}

fn config(proxy: &Proxy, way: Way) -> Config {
    let config = Config::from_vars(|_| None)
        .with_exporters([Exporter::Otlp])
        .with_endpoint(format!("https://localhost:{}", proxy.address.port()))
        .with_export_timeout(Duration::from_secs(10));
    way.of(config)
}

/// Sends the telemetry of one request, and returns the counts of its span.
async fn export(config: Config) -> SignalStats {
    let telemetry = config.build().expect("the configuration is valid");
    request(layer(&telemetry), None).await;
    telemetry.shutdown().await.stats.traces
}

#[tokio::test]
async fn a_receiver_is_trusted_through_the_configured_certificate() {
    let authority = Authority::new();
    for way in Way::all() {
        let receiver = Receiver::start();
        let tls = authority.server("localhost", false, false);
        let proxy = Proxy::start_tls(receiver.address, Mode::Pass, Some(tls));
        let config = config(&proxy, way).with_ca_certificate(authority.file());
        let stats = export(config).await;
        assert_eq!(stats.exported, 1, "{way:?} {stats:?}");
        assert_eq!(receiver.received().spans().len(), 1);
    }
}

#[tokio::test]
async fn an_untrusted_receiver_gets_nothing() {
    let (trusted, other) = (Authority::new(), Authority::new());
    for way in Way::all() {
        for (case, tls) in [
            ("another authority", other.server("localhost", false, false)),
            (
                "another name",
                trusted.server("elsewhere.example", false, false),
            ),
            ("expired", trusted.server("localhost", true, false)),
        ] {
            let receiver = Receiver::start();
            let proxy = Proxy::start_tls(receiver.address, Mode::Pass, Some(tls));
            let config = config(&proxy, way)
                .with_ca_certificate(trusted.file())
                .with_shutdown_timeout(Duration::from_secs(1));
            let stats = export(config).await;
            assert_eq!((stats.exported, stats.dropped), (0, 1), "{case}");
            assert_eq!(stats.last_failure, Some(Failure::Tls), "{case}");
            assert!(receiver.arrivals().is_empty(), "{case}");
        }
    }
}

#[tokio::test]
async fn a_receiver_that_requires_a_client_certificate_gets_it() {
    let authority = Authority::new();
    let (certificate, key) = authority.sign("client.example", false);
    let (certificate, key) = (file(&certificate.pem()), file(&key.serialize_pem()));
    for way in Way::all() {
        let receiver = Receiver::start();
        let tls = authority.server("localhost", false, true);
        let proxy = Proxy::start_tls(receiver.address, Mode::Pass, Some(tls));
        let config = || config(&proxy, way).with_ca_certificate(authority.file());
        let stats = export(config().with_client_certificate(&certificate, &key)).await;
        assert_eq!(stats.exported, 1, "{way:?} {stats:?}");
        let stranger = config().with_shutdown_timeout(Duration::from_secs(1));
        let stats = export(stranger).await;
        assert_eq!(stats.exported, 0, "no client certificate, over {way:?}");
        assert_eq!(receiver.received().spans().len(), 1);
    }
}

#[tokio::test]
async fn the_certificate_variables_of_one_signal_apply_only_to_it() {
    let authority = Authority::new();
    let receiver = Receiver::start();
    let tls = authority.server("localhost", false, true);
    let proxy = Proxy::start_tls(receiver.address, Mode::Pass, Some(tls));
    let (certificate, key) = authority.sign("client.example", false);
    let endpoint = format!("https://localhost:{}", proxy.address.port());
    let path = |path: PathBuf| {
        path.into_os_string()
            .into_string()
            .expect("the text is UTF-8")
    };
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_METRICS_EXPORTER", "none".to_owned()),
        ("OTEL_LOGS_EXPORTER", "none".to_owned()),
        ("OTEL_TRACES_EXPORTER", "otlp".to_owned()),
        // This authority is not trusted. The next variable has priority.
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            path(Authority::new().file()),
        ),
        (
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
            path(authority.file()),
        ),
        (
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
            path(file(&certificate.pem())),
        ),
        (
            "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            path(file(&key.serialize_pem())),
        ),
    ];
    let config = Config::from_vars(|name| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.clone())
    });
    assert!(config.warnings().is_empty(), "{:?}", config.warnings());
    assert_eq!(export(config).await.exported, 1);
}

#[tokio::test]
async fn a_receiver_that_hangs_in_the_tls_handshake_delays_nothing() {
    let receiver = Receiver::start();
    let authority = Authority::new();
    for way in Way::all() {
        let tls = authority.server("localhost", false, false);
        let proxy = Proxy::start_tls(receiver.address, Mode::Mute, Some(tls));
        let config = config(&proxy, way)
            .with_ca_certificate(authority.file())
            .with_export_timeout(Duration::from_secs(1))
            .with_shutdown_timeout(DEADLINE);
        let telemetry = config.build().expect("the configuration is valid");
        request(layer(&telemetry), None).await;
        let (report, ()) = tokio::join!(telemetry.force_flush(), async {
            eventually("the handshake times out", || {
                telemetry.stats().traces.last_failure == Some(Failure::Timeout)
            })
            .await;
            proxy.set(Mode::Pass);
        });
        assert!(!report.timed_out, "export recovers over {way:?}");
        assert_eq!((report.stats.traces.exported, report.lost()), (1, 0));
    }
}

#[test]
fn an_unusable_certificate_file_is_an_error_that_names_it() {
    let authority = Authority::new();
    let empty = file("");
    let (certificate, key) = authority.sign("client.example", false);
    let (certificate, key) = (file(&certificate.pem()), file(&key.serialize_pem()));
    let config = || Config::from_vars(|_| None).with_endpoint("https://localhost:4318");
    let config = || config().with_exporters([Exporter::Otlp]);
    for (config, expected) in [
        (
            config().with_ca_certificate("/no/such/file"),
            "Config::with_ca_certificate=\"/no/such/file\" cannot be used: ",
        ),
        (
            config().with_ca_certificate(&empty),
            "cannot be used: the file contains no certificate",
        ),
        (
            config().with_client_certificate(&certificate, &empty),
            "Config::with_client_certificate=",
        ),
        (
            config().with_client_certificate(&key, &key),
            "cannot be used: the file contains no certificate",
        ),
    ] {
        let error = config.build().expect_err("the configuration is invalid");
        assert!(matches!(error, InitError::Certificate { .. }));
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("BEGIN"), "{text}");
    }
    let name = "OTEL_EXPORTER_OTLP_CLIENT_KEY";
    let config = Config::from_vars(|variable| match variable {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("https://localhost:4318".to_owned()),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY" => key.to_str().map(str::to_owned),
        _ => None,
    });
    let error = config
        .build()
        .expect_err("the configuration is invalid")
        .to_string();
    assert!(error.starts_with(name), "{error}");
    assert!(error.ends_with("must be configured together"), "{error}");
}

/// `SSL_CERT_FILE` replaces the roots of the platform if it is set.
#[cfg(all(feature = "axum", feature = "logs", target_os = "linux"))]
#[test]
fn without_a_certificate_the_roots_of_the_platform_are_trusted() {
    use crate::support::process::Process;

    let authority = Authority::new();
    let roots = authority.file();
    let others = Authority::new().file();
    for (protocol, roots, arrives) in [
        ("grpc", &roots, true),
        ("http/protobuf", &roots, true),
        ("grpc", &others, false),
        ("http/protobuf", &others, false),
    ] {
        let receiver = Receiver::start();
        let tls = authority.server("localhost", false, false);
        let proxy = Proxy::start_tls(receiver.address, Mode::Pass, Some(tls));
        let endpoint = format!("https://localhost:{}", proxy.address.port());
        let mut server = Process::example(
            "server",
            &[
                ("ENVIRONMENT", "staging"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("SSL_CERT_FILE", roots.to_str().expect("the text is UTF-8")),
            ],
        );
        server.url();
        server.terminate();
        assert!(server.wait().success());
        let logs = receiver.received().log_records().len();
        assert_eq!(logs > 0, arrives, "{protocol} {:#?}", server.lines());
    }
}
