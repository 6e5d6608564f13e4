//! The address at which metrics are served to Prometheus.

use std::fmt;

use crate::config::settings::shown;

/// The address of the Prometheus server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PrometheusServer {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for PrometheusServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        };
        f.write_str(&shown::endpoint(&place))
    }
}

impl fmt::Debug for PrometheusServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
