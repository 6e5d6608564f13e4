//! `url.scheme`.

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    /// Parses a scheme. A WebSocket begins as an HTTP request, so `ws` and `wss` count as `http`
    /// and `https`. Returns `None` for any other scheme.
    pub(crate) fn parse(scheme: &str) -> Option<Self> {
        let is_one_of =
            |names: [&str; 2]| names.iter().any(|name| scheme.eq_ignore_ascii_case(name));
        if is_one_of(["https", "wss"]) {
            Some(Self::Https)
        } else if is_one_of(["http", "ws"]) {
            Some(Self::Http)
        } else {
            None
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_websocket_scheme_equals_the_scheme_of_its_request() {
        for (proto, expected) in [
            ("https", Some(Scheme::Https)),
            ("WSS", Some(Scheme::Https)),
            ("http", Some(Scheme::Http)),
            ("ws", Some(Scheme::Http)),
            ("gopher", None),
            ("", None),
        ] {
            assert_eq!(Scheme::parse(proto), expected, "{proto}");
        }
    }
}
