//! Patterns of hosts that may receive context from clients.

use crate::semconv::{Server, split_authority};

/// A pattern that matches servers by host and port.
#[derive(Clone, Debug)]
pub(crate) struct HostPattern {
    hosts: Hosts,
    /// `None` matches every port.
    port: Option<u16>,
}

#[derive(Clone, Debug)]
enum Hosts {
    All,
    One(String),
    /// All subdomains of a domain, which is stored with a leading dot.
    Subdomains(String),
}

impl HostPattern {
    /// Parses `example.com`, `*.example.com` for its subdomains, or `*`, each with an optional
    /// port.
    pub(crate) fn new(pattern: &str) -> Self {
        let pattern = pattern.to_ascii_lowercase();
        // Text with several colons and no brackets is an IPv6 address without a port.
        let is_address = pattern.parse::<std::net::Ipv6Addr>().is_ok();
        let split = split_authority(&pattern).filter(|_| !is_address);
        let (host, port) = split.unwrap_or((&pattern, None));
        let hosts = match host.strip_prefix('*') {
            Some("") => Hosts::All,
            Some(domain) if domain.starts_with('.') => Hosts::Subdomains(domain.to_owned()),
            _ => Hosts::One(host.to_owned()),
        };
        Self { hosts, port }
    }

    pub(crate) fn matches(&self, server: Server<'_>) -> bool {
        let host = server.host.to_ascii_lowercase();
        let is_host = match &self.hosts {
            Hosts::All => true,
            Hosts::One(name) => host == *name,
            Hosts::Subdomains(domain) => host.len() > domain.len() && host.ends_with(&**domain),
        };
        is_host && self.port.is_none_or(|port| port == server.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_host_or_the_subdomains_of_a_domain() {
        for (pattern, host, expected) in [
            ("example.com", "example.com", true),
            ("Example.com", "EXAMPLE.COM", true),
            ("example.com", "a.example.com", false),
            ("example.com", "badexample.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "badexample.com", false),
            ("*.example.com", ".example.com", false),
            ("*", "example.com", true),
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("[::1]:80", "::1", true),
            ("example.com:80", "example.com", true),
            ("example.com:81", "example.com", false),
            ("*:81", "example.com", false),
        ] {
            let server = Server { host, port: 80 };
            assert_eq!(
                HostPattern::new(pattern).matches(server),
                expected,
                "{pattern} {host}"
            );
        }
    }
}
