//! TLS: the trusted certificates and the client certificate.

#[cfg(feature = "tls")]
use std::io;
#[cfg(feature = "tls")]
use std::sync::Arc;

#[cfg(feature = "tls")]
use hyper_rustls::ConfigBuilderExt;
#[cfg(feature = "tls")]
use rustls::{ClientConfig, crypto::ring};

use crate::config::error::InitError;
use crate::config::settings::PemFile;
use crate::otlp::dial::Dial;

#[cfg(feature = "tls")]
pub(crate) type Secured = hyper_rustls::HttpsConnector<Dial>;
#[cfg(not(feature = "tls"))]
pub(crate) type Secured = Dial;

/// The trusted certificates and the client certificate.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tls {
    /// Replaces the platform's root certificates.
    pub(crate) certificate: Option<PemFile>,
    pub(crate) client_certificate: Option<PemFile>,
    pub(crate) client_key: Option<PemFile>,
}

#[cfg(not(feature = "tls"))]
pub(crate) fn secured(_: &Tls, _: bool, _: bool, dial: Dial) -> Result<Secured, InitError> {
    Ok(dial)
}

#[cfg(feature = "tls")]
pub(crate) fn secured(
    settings: &Tls,
    is_https: bool,
    is_grpc: bool,
    dial: Dial,
) -> Result<Secured, InitError> {
    use rustls::RootCertStore;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    fn certificates(file: &PemFile) -> Result<Vec<CertificateDer<'static>>, InitError> {
        let read = CertificateDer::pem_file_iter(&file.path).and_then(Iterator::collect);
        let read: Vec<_> = read.map_err(|error| InitError::pem(file, &error.to_string()))?;
        if read.is_empty() {
            return Err(InitError::pem(file, "the file contains no certificate"));
        }
        Ok(read)
    }

    let tls = client_config()?;
    let tls = match &settings.certificate {
        _ if !is_https => tls.with_root_certificates(RootCertStore::empty()),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .map_err(|error| InitError::pem(file, &error.to_string()))?;
            }
            tls.with_root_certificates(roots)
        }
        None => tls
            .with_native_roots()
            .map_err(InitError::RootCertificates)?,
    };
    let tls = match (&settings.client_certificate, &settings.client_key) {
        _ if !is_https => tls.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(&key.path)
                .map_err(|error| InitError::pem(key, &error.to_string()))?;
            tls.with_client_auth_cert(certificates(certificate)?, private)
                .map_err(|error| InitError::pem(key, &error.to_string()))?
        }
        (None, None) => tls.with_no_client_auth(),
        (Some(one), None) | (None, Some(one)) => {
            let reason = "a client certificate and its key must be configured together";
            return Err(InitError::pem(one, reason));
        }
    };
    let mut tls = tls;
    let protocols: &[&[u8]] = if is_grpc {
        &[b"h2"]
    } else {
        &[b"h2", b"http/1.1"]
    };
    tls.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(Secured::from((dial, tls)))
}

/// Returns the TLS configuration for a connection to a proxy, with the platform's root
/// certificates.
#[cfg(feature = "tls")]
pub(crate) fn proxy_tls_config() -> Result<Arc<ClientConfig>, InitError> {
    let tls = client_config()?
        .with_native_roots()
        .map_err(InitError::RootCertificates)?;
    Ok(Arc::new(tls.with_no_client_auth()))
}

#[cfg(feature = "tls")]
fn client_config() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, InitError>
{
    // The provider is explicit, because a program may contain several.
    ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| InitError::RootCertificates(io::Error::other(error)))
}
