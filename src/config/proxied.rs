//! The setters for proxies, and the proxy for each receiver.

use crate::config::Config;
use crate::config::endpoint::Target;
use crate::config::error::InitError;
use crate::config::proxy::{Proxy, ProxySettings};

impl Config {
    /// Sends all OTLP traffic through a proxy, including traffic to receivers on this machine,
    /// except over Unix sockets. Overrides `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    ///
    /// The scheme of the URL is `http`, `https` or `socks5`. The URL may contain a percent-encoded
    /// user and password, which are never shown. For an `http` endpoint that uses HTTP/1, the proxy
    /// forwards each request. gRPC and `https` go through a tunnel (`CONNECT`).
    /// [`init`](Self::init) fails if the URL is invalid.
    ///
    /// ```
    /// use tower_telemetry::Config;
    ///
    /// let config = Config::from_env().with_proxy("http://user:secret@proxy.example:3128");
    /// assert!(!format!("{config:?} {config}").contains("secret"));
    /// ```
    pub fn with_proxy(mut self, url: impl Into<String>) -> Self {
        self.proxies = ProxySettings::Always(url.into());
        self
    }

    /// Connects to all receivers directly. Overrides `HTTPS_PROXY` and the variables like it.
    pub fn without_proxy(mut self) -> Self {
        self.proxies = ProxySettings::Direct;
        self
    }

    /// Returns the proxy for a receiver.
    pub(crate) fn proxy(&self, target: &Target) -> Result<Option<Proxy>, InitError> {
        if target.socket.is_some() {
            return Ok(None);
        }
        let found = self.proxies.proxy_for(&target.uri, target.is_local());
        found.map_err(|reason| InitError::Endpoint {
            origin: "Config::with_proxy".to_owned(),
            // A malformed URL may contain a password anywhere.
            endpoint: "(not shown)".to_owned(),
            reason,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Signal;

    fn config(variables: &[(&str, &str)]) -> Config {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name);
        Config::from_vars(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    fn proxy(config: Config, endpoint: &str) -> Option<String> {
        let config = config.with_endpoint(endpoint);
        let target = config
            .target(Signal::Traces)
            .expect("the endpoint is valid");
        let proxy = config.proxy(&target).expect("the proxy is valid");
        proxy.map(|proxy| proxy.to_string())
    }

    const HTTP: &str = "http://receiver.example:4318";
    #[cfg(feature = "tls")]
    const HTTPS: &str = "https://receiver.example:4318";

    #[test]
    fn the_endpoints_scheme_selects_the_variable_in_either_case() {
        let (a, b) = (("HTTP_PROXY", "http://a:1"), ("ALL_PROXY", "socks5://b:2"));
        let lower = [("http_proxy", "a:1"), ("all_proxy", "socks5h://b:2")];
        for (variables, expected) in [
            (&[a][..], Some("http://a:1")),
            (&[b], Some("socks5://b:2")),
            (&[a, b], Some("http://a:1")),
            (&lower[..1], Some("http://a:1")),
            (&lower[1..], Some("socks5h://b:2")),
            (&[("HTTP_PROXY", ""), lower[0]], Some("http://a:1")),
            (&[a, ("http_proxy", "http://c:3")], Some("http://a:1")),
            (&[("HTTPS_PROXY", "http://c:3")], None),
            (&[("HTTP_PROXY", "http://a")], Some("http://a:80")),
            (
                &[("HTTP_PROXY", "http://[::1]:3128/")],
                Some("http://[::1]:3128"),
            ),
            (&[("HTTP_PROXY", "socks5://a")], Some("socks5://a:1080")),
            (&[a, ("REQUEST_METHOD", "GET")], None),
            (&[lower[0], ("REQUEST_METHOD", "GET")], Some("http://a:1")),
        ] {
            let found = proxy(config(variables), HTTP);
            assert_eq!(found.as_deref(), expected, "{variables:?}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn https_has_its_own_variables() {
        for (variables, expected) in [
            (&[("HTTPS_PROXY", "https://a")][..], Some("https://a:443")),
            (&[("https_proxy", "a:1")], Some("http://a:1")),
            (&[("ALL_PROXY", "a:1")], Some("http://a:1")),
            (&[("HTTP_PROXY", "a:1")], None),
        ] {
            let found = proxy(config(variables), HTTPS);
            assert_eq!(found.as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn no_proxy_exempts_hosts_and_this_machine_is_always_exempt() {
        for (no_proxy, endpoint, is_direct) in [
            ("", HTTP, false),
            ("*", HTTP, true),
            ("receiver.example", HTTP, true),
            ("RECEIVER.example", HTTP, true),
            ("example", HTTP, true),
            (".example", HTTP, true),
            ("*.example", HTTP, true),
            ("other, receiver.example", HTTP, true),
            ("other receiver.example", HTTP, true),
            ("receiver.example:4318", HTTP, true),
            ("receiver.example:4317", HTTP, false),
            ("ceiver.example", HTTP, false),
            ("10.0.0.0/8", "http://10.1.2.3:4318", true),
            ("10.0.0.0/8", "http://11.1.2.3:4318", false),
            ("10.1.2.3", "http://10.1.2.3:4318", true),
            ("fd00::/8", "http://[fd00::1]:4318", true),
            ("[fd00::1]:4318", "http://[fd00::1]:4318", true),
            ("fd00::1", "http://[fd00::2]:4318", false),
            ("", "http://localhost:4318", true),
            ("", "http://127.0.0.1:4318", true),
            ("", "http://[::1]:4318", true),
        ] {
            for name in ["NO_PROXY", "no_proxy"] {
                let variables = [("HTTP_PROXY", "a:1"), (name, no_proxy)];
                let found = proxy(config(&variables), endpoint);
                assert_eq!(found.is_none(), is_direct, "{no_proxy} {endpoint}");
            }
        }
    }

    #[test]
    fn code_overrides_variables_and_applies_to_this_machine_too() {
        let variables = [("HTTP_PROXY", "a:1"), ("NO_PROXY", "*")];
        let set = || config(&variables).with_proxy("b:2");
        for endpoint in [HTTP, "http://localhost:4318"] {
            assert_eq!(proxy(set(), endpoint).as_deref(), Some("http://b:2"));
        }
        let variables = &variables[..1];
        assert_eq!(proxy(config(variables).without_proxy(), HTTP), None);
    }

    #[test]
    fn an_invalid_value_is_reported_once_and_never_shown() {
        for text in [
            "http://user:se#cret@proxy:3128",
            "http://user:se/cret@proxy:3128",
            "http://user:se?cret@proxy:3128",
            "http://user:12/cret@proxy:3128",
            "http://user:se@cret@proxy:3128",
            "user:cret:proxy:3128",
            "socks4://user:cret@proxy",
            "ftp://user:cret@proxy",
            "http://cret proxy",
            "http://",
            "http://cret:port",
            "http://user:cret@",
        ] {
            for name in ["HTTP_PROXY", "https_proxy", "ALL_PROXY"] {
                let config = config(&[(name, text)]);
                let warnings = config.warnings();
                assert_eq!(warnings.len(), 1, "{text} {warnings:?}");
                let line = warnings[0].to_string();
                assert!(line.starts_with(name), "{line}");
                assert!(line.ends_with("; it is ignored"), "{line}");
                let all = format!("{line} {config:?} {config}");
                assert!(!all.contains("cret"), "{all}");
                assert_eq!(proxy(config, HTTP), None, "{text}");
            }
            let config = config(&[]).with_proxy(text).with_endpoint(HTTP);
            let target = config
                .target(Signal::Traces)
                .expect("the endpoint is valid");
            let error = config.proxy(&target).expect_err(text);
            let all = format!("{error} {error:?} {config:?} {config}");
            assert!(all.contains("Config::with_proxy"), "{all}");
            assert!(!all.contains("cret"), "{all}");
        }
        let variables = [
            ("HTTP_PROXY", "http://c:ret@proxy"),
            ("REQUEST_METHOD", "GET"),
        ];
        let warnings = config(&variables).warnings().to_vec();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(!warnings[0].to_string().contains("ret@"), "{warnings:?}");
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        for (text, basic, user) in [
            ("http://me:s%40cret@p:1", Some("Basic bWU6c0BjcmV0"), None),
            ("http://me@p:1", Some("Basic bWU6"), None),
            ("socks5://me:s%40cret@p:1", None, Some(("me", "s@cret"))),
            ("http://p:1", None, None),
        ] {
            let proxy = Proxy::parse(text).expect("the URL is valid");
            let found = proxy
                .basic
                .as_ref()
                .map(|value| value.to_str().expect("the value is ASCII"));
            assert_eq!(found, basic);
            let found = proxy.user.as_ref().map(|(name, word)| (&**name, &**word));
            assert_eq!(found, user);
            let shown = format!("{proxy} {proxy:?}");
            assert!(!shown.contains("cret") && !shown.contains("me"), "{shown}");
            let config = config(&[]).with_proxy(text).with_endpoint(HTTP);
            let shown = format!("{config:?} {config}");
            assert!(shown.contains("://p:1"), "{shown}");
            assert!(
                !shown.contains("cret") && !shown.contains("bWU6"),
                "{shown}"
            );
        }
    }
}
