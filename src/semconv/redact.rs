//! Bounds and redaction for text that comes from a request.

use std::borrow::Cow;

use ::http::HeaderName;
use percent_encoding::percent_decode_str;

pub(super) const REDACTED: &str = "REDACTED";

/// Query parameters that carry credentials (HTTP spans, `url.query`), and the two that older
/// versions of the conventions listed besides them.
const SENSITIVE_PARAMETERS: [&str; 7] = [
    "AWSAccessKeyId",
    "Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Goog-Signature",
    "sig",
];

/// Headers that are never captured, and parts of the names of more.
const SENSITIVE_HEADERS: [&str; 4] = [
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
];
const SENSITIVE_WORDS: [&str; 9] = [
    "api-key",
    "apikey",
    "credential",
    "jwt",
    "passwd",
    "password",
    "secret",
    "session",
    "token",
];

/// The query parameters whose values are redacted: the conventions' own, or others in their place.
#[derive(Clone, Debug, Default)]
pub(crate) struct SensitiveParameters(Option<Vec<String>>);

impl SensitiveParameters {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self(Some(names))
    }

    fn contains(&self, name: &str) -> bool {
        match &self.0 {
            Some(names) => names.iter().any(|one| one == name),
            None => SENSITIVE_PARAMETERS.contains(&name),
        }
    }
}

/// Whether a header is one that carries credentials by its name.
pub(crate) fn is_sensitive_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    SENSITIVE_HEADERS.contains(&name) || SENSITIVE_WORDS.iter().any(|word| name.contains(word))
}

/// Cuts `text` to at most `limit` bytes, at the end of a character, and marks the cut with `…`.
#[inline]
pub(crate) fn truncate(text: &str, limit: usize) -> Cow<'_, str> {
    const MARK: &str = "…";
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    let end = (0..=limit.saturating_sub(MARK.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    Cow::Owned([&text[..end], MARK].concat())
}

/// Replaces the values of parameters that carry credentials, then cuts to `limit` bytes.
pub(super) fn query<'a>(
    query: &'a str,
    limit: usize,
    sensitive: &SensitiveParameters,
) -> Cow<'a, str> {
    let is_sensitive = |parameter: &str| is_sensitive(parameter, sensitive);
    if !query.split('&').any(is_sensitive) {
        return truncate(query, limit);
    }
    let mut redacted = String::with_capacity(query.len().min(limit + 64));
    for (n, parameter) in query.split('&').enumerate() {
        if redacted.len() > limit {
            break;
        }
        if n > 0 {
            redacted.push('&');
        }
        if is_sensitive(parameter) {
            redacted.push_str(name_of(parameter));
            redacted.push('=');
            redacted.push_str(REDACTED);
        } else {
            redacted.push_str(parameter);
        }
    }
    Cow::Owned(truncate(&redacted, limit).into_owned())
}

fn is_sensitive(parameter: &str, sensitive: &SensitiveParameters) -> bool {
    let name = name_of(parameter);
    // A value needs `=`; an encoded name reaches the application decoded, so it counts as such.
    parameter.len() > name.len()
        && if name.contains('%') {
            sensitive.contains(&percent_decode_str(name).decode_utf8_lossy())
        } else {
            sensitive.contains(name)
        }
}

fn name_of(parameter: &str) -> &str {
    parameter
        .split_once('=')
        .map_or(parameter, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_the_end_of_a_character() {
        assert_eq!(truncate("short", 16), "short");
        assert_eq!(truncate("0123456789", 8), "01234…");
        assert_eq!(truncate("ääääääää", 9), "äää…");
        assert_eq!(truncate("🦀🦀🦀🦀", 3), "…");
    }

    #[test]
    fn credentials_in_a_query_are_redacted() {
        for (case, text, expected) in [
            ("nothing to hide", "a=1&b=2", "a=1&b=2"),
            ("a signature", "a=1&sig=secret&b=2", "a=1&sig=REDACTED&b=2"),
            ("case matters", "SIG=open", "SIG=open"),
            ("twice", "sig=x&sig=y", "sig=REDACTED&sig=REDACTED"),
            (
                "a value with =",
                "X-Amz-Signature=a=b",
                "X-Amz-Signature=REDACTED",
            ),
            ("an encoded name", "s%69g=secret", "s%69g=REDACTED"),
            ("a lone percent sign", "%=1&sig=secret", "%=1&sig=REDACTED"),
            ("no value", "sig", "sig"),
            ("empty", "", ""),
        ] {
            let found = query(text, 1024, &SensitiveParameters::default());
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn a_secret_behind_the_limit_does_not_appear() {
        let text = format!("{}&sig=secret", "a".repeat(1020));
        let cut = query(&text, 1024, &SensitiveParameters::default());
        assert!(cut.len() <= 1024 && !cut.contains("secret"), "{cut}");
    }

    #[test]
    fn a_list_of_parameters_replaces_that_of_the_conventions() {
        let list = SensitiveParameters::new(vec!["token".to_owned()]);
        assert_eq!(query("token=a&sig=b", 1024, &list), "token=REDACTED&sig=b");
    }

    #[test]
    fn headers_with_credentials_are_known_by_their_names() {
        for name in [
            "authorization",
            "Set-Cookie",
            "X-Api-Key",
            "x-auth-token",
            "x-session-id",
        ] {
            assert!(
                is_sensitive_header(&name.parse().expect("a legal name")),
                "{name}"
            );
        }
        for name in ["content-type", "x-request-id", "user-agent"] {
            assert!(
                !is_sensitive_header(&name.parse().expect("a legal name")),
                "{name}"
            );
        }
    }
}
