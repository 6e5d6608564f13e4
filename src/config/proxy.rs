//! The proxies for OTLP receivers.

use std::fmt;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;

use crate::config::settings::shown;
use crate::providers::variables::Variables;

/// The configured proxies.
#[derive(Clone, Default)]
pub(crate) enum ProxySettings {
    /// No proxy.
    #[default]
    Direct,
    Environment(Box<ProxyVariables>),
    /// The proxy for all receivers, as set in code. The URL may be invalid.
    Always(String),
}

/// The proxies for each scheme of endpoints, and the exempt hosts.
#[derive(Clone, Debug)]
pub(crate) struct ProxyVariables {
    http: Option<Proxy>,
    https: Option<Proxy>,
    no_proxy: String,
}

/// A proxy.
#[derive(Clone, PartialEq)]
pub(crate) struct Proxy {
    /// Scheme, host and port, without credentials.
    pub(crate) uri: Uri,
    /// `Proxy-Authorization`, for an HTTP proxy.
    pub(crate) basic: Option<HeaderValue>,
    /// User and password, for a SOCKS proxy.
    pub(crate) user: Option<(String, String)>,
}

impl ProxySettings {
    /// Returns the proxy for a receiver. Fails if the URL that was set in code is invalid.
    pub(crate) fn proxy_for(
        &self,
        uri: &Uri,
        is_local: bool,
    ) -> Result<Option<Proxy>, &'static str> {
        match self {
            Self::Direct => Ok(None),
            Self::Always(text) => Proxy::parse(text).map(Some),
            // As in Go, no proxy is used for the loopback interface, where the default endpoint is.
            Self::Environment(_) if is_local => Ok(None),
            Self::Environment(variables) => {
                let proxy = match uri.scheme_str() {
                    Some("https") => &variables.https,
                    _ => &variables.http,
                };
                let is_used = |_: &Proxy| !is_exempt(uri, &variables.no_proxy);
                Ok(proxy.clone().filter(is_used))
            }
        }
    }
}

/// Returns whether `NO_PROXY` contains the host. The syntax is curl's, with `*.example.com` and
/// ports as in Go.
fn is_exempt(uri: &Uri, no_proxy: &str) -> bool {
    let is_https = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    let entries = no_proxy
        .split([',', ' ', '\t'])
        .filter(|one| !one.is_empty());
    let entries = entries.filter_map(|entry| {
        let (host, of_port) = match entry.rsplit_once(':') {
            Some((host, number)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(number))
            }
            _ => (entry, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = host
            .strip_prefix('*')
            .filter(|rest| !rest.is_empty())
            .unwrap_or(host);
        of_port
            .is_none_or(|number| number.parse() == Ok(port))
            .then_some(host)
    });
    let list = entries.collect::<Vec<_>>().join(",");
    let all = Matcher::builder().all("http://proxy").no(list).build();
    all.intercept(uri).is_none()
}

impl Proxy {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        const NOT_A_URL: &str = "is not the URL of a proxy; write one such as http://user:password@proxy:3128, \
             percent-encoded";

        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let host = authority.rsplit('@').next().unwrap_or("");
        // An unencoded delimiter may end the host early, so a password would be used as the host.
        if authority.contains(['/', '?', '#', '\\']) || authority.matches('@').count() > 1 {
            return Err(NOT_A_URL);
        }
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "http" => 80,
            "https" if cfg!(feature = "tls") => 443,
            "https" => return Err("requires TLS; enable the feature `tls` of tower-telemetry"),
            "socks5" | "socks5h" => 1080,
            _ => return Err("has a scheme other than http, https and socks5"),
        };
        let matcher = Matcher::builder().all(text).build();
        let found = matcher.intercept(&Uri::from_static("http://receiver"));
        let found = found.ok_or(NOT_A_URL)?;
        let uri = found.uri();
        let after_host = host.rsplit(']').next().unwrap_or(host);
        let has_bad_port = after_host.contains(':') && uri.port_u16().is_none();
        let name = uri.host().filter(|host| !host.is_empty());
        let (Some(name), false) = (name, has_bad_port) else {
            return Err(NOT_A_URL);
        };
        let user = found.raw_auth();
        if user.is_some_and(|(name, password)| name.len().max(password.len()) > 255) {
            return Err("has a user or a password that is too long for SOCKS");
        }
        let port = uri.port_u16().unwrap_or(default_port);
        Ok(Self {
            uri: Uri::builder()
                .scheme(uri.scheme_str().unwrap_or("http"))
                .authority(format!("{name}:{port}"))
                .path_and_query("/")
                .build()
                .map_err(|_| NOT_A_URL)?,
            basic: found.basic_auth().cloned(),
            user: user.map(|(name, password)| (name.to_owned(), password.to_owned())),
        })
    }

    pub(crate) fn is_socks(&self) -> bool {
        self.uri
            .scheme_str()
            .is_some_and(|scheme| scheme.starts_with("socks"))
    }
}

/// Writes the proxy without credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.uri.authority().map_or("", |one| one.as_str());
        let scheme = self.uri.scheme_str().unwrap_or("");
        f.write_str(&shown::endpoint(&format!("{scheme}://{authority}")))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for ProxySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("Direct"),
            Self::Environment(variables) => fmt::Debug::fmt(variables, f),
            Self::Always(text) => match Proxy::parse(text) {
                Ok(proxy) => write!(f, "Always({proxy})"),
                Err(_) => f.write_str("Always(not shown)"),
            },
        }
    }
}

impl Variables<'_> {
    pub(crate) fn proxies(&mut self) -> ProxySettings {
        // In CGI, the request header `Proxy` becomes this variable.
        let is_cgi = self.text("REQUEST_METHOD").is_some();
        if is_cgi && self.text("HTTP_PROXY").is_some() {
            let consequence =
                "is ignored because REQUEST_METHOD is set: a CGI request may have set it";
            self.warn("HTTP_PROXY", None, consequence);
        }
        let names: &[_] = match is_cgi {
            true => &["http_proxy"],
            false => &["HTTP_PROXY", "http_proxy"],
        };
        let http = self.proxy(names);
        let https = self.proxy(&["HTTPS_PROXY", "https_proxy"]);
        let all = self.proxy(&["ALL_PROXY", "all_proxy"]);
        let (http, https) = (http.or_else(|| all.clone()), https.or(all));
        let no_proxy = self.text("NO_PROXY").or_else(|| self.text("no_proxy"));
        if http.is_none() && https.is_none() {
            return ProxySettings::Direct;
        }
        ProxySettings::Environment(Box::new(ProxyVariables {
            http,
            https,
            no_proxy: no_proxy.unwrap_or_default(),
        }))
    }

    /// Reads the proxy from the first of these variables that is set.
    fn proxy(&mut self, names: &[&str]) -> Option<Proxy> {
        let mut found = names.iter().map(|name| (name, self.text(name)));
        let (name, text) = found.find_map(|(name, text)| Some((*name, text?)))?;
        match Proxy::parse(&text) {
            Ok(proxy) => Some(proxy),
            Err(reason) => {
                // The value is not shown, because a malformed URL may contain a password anywhere.
                self.warn(name, None, format!("{reason}; it is ignored"));
                None
            }
        }
    }
}
