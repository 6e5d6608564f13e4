//! Bounds and redaction for text that comes from a request.

use std::borrow::Cow;

use ::http::HeaderName;
use percent_encoding::percent_decode_str;

pub(crate) const REDACTED: &str = "REDACTED";

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

/// Words in the name of a header that tells of credentials. A word ends where another begins, at a
/// dash, an underscore or a dot.
const SENSITIVE_WORDS: [&str; 34] = [
    "2fa",
    "accesskey",
    "apikey",
    "assertion",
    "auth",
    "authenticate",
    "authentication",
    "authz",
    "bearer",
    "cert",
    "certificate",
    "csrf",
    "dpop",
    "hmac",
    "jwt",
    "key",
    "keys",
    "mfa",
    "oauth",
    "oauth2",
    "oidc",
    "otp",
    "pass",
    "passcode",
    "passphrase",
    "pin",
    "principal",
    "pwd",
    "saml",
    "sid",
    "sig",
    "sso",
    "totp",
    "xsrf",
];

/// Parts of words that tell of credentials, wherever they are in a name.
const SENSITIVE_PARTS: [&str; 12] = [
    "apikey",
    "authoriz",
    "clientcert",
    "cookie",
    "credential",
    "passw",
    "privatekey",
    "secret",
    "session",
    "signature",
    "subscriptionkey",
    "token",
];

/// Keys that open nothing: the word before `key` says so.
const OPEN_KEYS: [&str; 8] = [
    "cache",
    "correlation",
    "idempotency",
    "partition",
    "routing",
    "sort",
    "surrogate",
    "websocket",
];

/// The query parameters whose values are redacted: the conventions' own, or others in their place.
#[derive(Clone, Debug, Default)]
pub(crate) struct SensitiveParameters(Option<Vec<String>>);

impl SensitiveParameters {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self(Some(names))
    }

    /// Whether a parameter of this name is sensitive.
    pub(crate) fn has(&self, name: &str) -> bool {
        !name.is_empty() && self.contains(name)
    }

    fn contains(&self, name: &str) -> bool {
        match &self.0 {
            Some(names) => names.iter().any(|one| one == name),
            None => SENSITIVE_PARAMETERS.contains(&name),
        }
    }
}

/// Whether a header is one that carries credentials, by its name.
pub(crate) fn is_sensitive_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    if SENSITIVE_PARTS.iter().any(|part| name.contains(part)) {
        return true;
    }
    let mut before = "";
    for word in name.split(['-', '_', '.']) {
        let is_open = word.starts_with("key") && OPEN_KEYS.contains(&before);
        if SENSITIVE_WORDS.contains(&word) && !is_open {
            return true;
        }
        before = word;
    }
    false
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

/// The text of bytes that may be of another encoding, cut to at most `limit` bytes.
#[inline]
pub(crate) fn lossy_text(bytes: &[u8], limit: usize) -> Cow<'_, str> {
    // A few bytes more than are kept tell that it is cut, and are no cut character.
    const MORE: usize = 4;
    let bytes = bytes.get(..limit + MORE).unwrap_or(bytes);
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => truncate(text, limit),
        Cow::Owned(text) => Cow::Owned(truncate(&text, limit).into_owned()),
    }
}

/// Replaces the values of parameters that carry credentials, then cuts to `limit` bytes.
///
/// Of a long query no more is looked at than a few times what is kept.
pub(crate) fn query<'a>(
    query: &'a str,
    limit: usize,
    sensitive: &SensitiveParameters,
) -> Cow<'a, str> {
    let seen = prefix(query, 4 * limit);
    // What is cut off is replaced by the mark of a cut, whatever is before it.
    let is_whole = seen.len() == query.len();
    let mut redacted = String::new();
    // What needs no change is copied at once, or not at all.
    let (mut kept, mut at) = (0, 0);
    for parameter in seen.split('&') {
        if redacted.len() + (at - kept) > limit {
            break;
        }
        if is_sensitive(parameter, sensitive) {
            redacted.push_str(&seen[kept..at + name_of(parameter).len()]);
            redacted.push('=');
            redacted.push_str(REDACTED);
            kept = at + parameter.len();
        }
        at += parameter.len() + 1;
    }
    if kept == 0 && redacted.is_empty() {
        return truncate(query, limit);
    }
    redacted.push_str(prefix(&seen[kept..], limit + 1));
    if !is_whole && redacted.len() <= limit {
        redacted.push('…');
    }
    Cow::Owned(truncate(&redacted, limit).into_owned())
}

/// The beginning of a text, up to `limit` bytes, that ends with a character.
pub(crate) fn prefix(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    let end = (0..=limit).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
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
    fn the_work_for_a_query_is_bounded_by_what_is_kept() {
        // The time is that of the parameters that are looked at, which are counted.
        let looked_at = |text: &str| {
            let names = SensitiveParameters::default();
            let seen = query(text, 1024, &names);
            assert!(seen.len() <= 1024, "{}", seen.len());
            prefix(text, 4 * 1024).split('&').count()
        };
        for text in [
            "&".repeat(65_000),
            "a=b&".repeat(20_000),
            "%61=1&".repeat(10_000),
        ] {
            assert!(looked_at(&text) <= 4 * 1024 + 1);
        }
        // A long value that is redacted hides nothing of what is behind it, within the bound.
        let long = format!("sig={}&b=2", "s".repeat(2000));
        let found = query(&long, 1024, &SensitiveParameters::default());
        assert_eq!(found, "sig=REDACTED&b=2");
        let longer = format!("a=1&sig={}&b=2", "s".repeat(20_000));
        let found = query(&longer, 1024, &SensitiveParameters::default());
        assert_eq!(found, "a=1&sig=REDACTED…");
    }

    #[test]
    fn no_value_of_a_sensitive_parameter_is_shown_wherever_it_is() {
        let sensitive = SensitiveParameters::default();
        for before in (0..1100).chain(4000..4200) {
            for value in ["secret", &"secret".repeat(300)] {
                let text = format!("{}&sig={value}&x=1", "a".repeat(before));
                let found = query(&text, 1024, &sensitive);
                assert!(!found.contains("secret") && found.len() <= 1024, "{found}");
            }
        }
    }

    #[test]
    fn a_list_of_parameters_replaces_that_of_the_conventions() {
        let list = SensitiveParameters::new(vec!["token".to_owned()]);
        assert_eq!(query("token=a&sig=b", 1024, &list), "token=REDACTED&sig=b");
    }

    #[test]
    fn headers_with_credentials_are_known_by_their_names() {
        for name in [
            "api_key",
            "apikey",
            "authentication-info",
            "authorization",
            "ocp-apim-subscription-key",
            "private-token",
            "proxy-authenticate",
            "Set-Cookie",
            "set-cookie2",
            "stripe-signature",
            "x-access-key",
            "x-amz-security-token",
            "x-amzn-oidc-data",
            "X-Api-Key",
            "x-auth-key",
            "x-auth-token",
            "x-authorization",
            "x-client-cert",
            "x-csrf-token",
            "x-forwarded-client-cert",
            "x-functions-key",
            "x-goog-iap-jwt-assertion",
            "x-hub-signature-256",
            "x-ms-client-principal",
            "x-original-cookie",
            "x-otp",
            "x-session-id",
            "x-user.password",
        ] {
            assert!(
                is_sensitive_header(&name.parse().expect("a legal name")),
                "{name}"
            );
        }
        for name in [
            "accept",
            "cache-control",
            "content-type",
            "etag",
            "idempotency-key",
            "keep-alive",
            "sec-websocket-key",
            "user-agent",
            "x-author",
            "x-forwarded-for",
            "x-monkey",
            "x-passenger-id",
            "x-request-id",
        ] {
            assert!(
                !is_sensitive_header(&name.parse().expect("a legal name")),
                "{name}"
            );
        }
    }
}
