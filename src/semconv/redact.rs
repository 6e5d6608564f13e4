//! Redaction of credentials in requests.

use std::borrow::Cow;

use ::http::HeaderName;
use percent_encoding::percent_decode_str;

use crate::semconv::text::{prefix, truncate};

pub(crate) const REDACTED: &str = "REDACTED";

/// Query parameters that contain credentials (HTTP spans, `url.query`). Two of them are only in
/// older versions of the conventions.
const SENSITIVE_PARAMETERS: [&str; 7] = [
    "AWSAccessKeyId",
    "Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Goog-Signature",
    "sig",
];

/// Words that mark a header as containing credentials. Dashes, underscores and dots separate words.
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

/// Substrings that mark a header as containing credentials, anywhere in its name.
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

/// Words that mark a following `key` as harmless.
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

/// The query parameters whose values are redacted: the list of the conventions or a configured list
/// that replaces it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SensitiveParameters(Option<Vec<String>>);

impl SensitiveParameters {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self(Some(names))
    }

    /// Returns whether a parameter of this name is sensitive.
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

/// Returns whether a header's name shows that it contains credentials.
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

/// Redacts the values of sensitive parameters, and truncates the query to `limit` bytes.
///
/// Reads at most `4 * limit` bytes of a long query.
pub(crate) fn query<'a>(
    query: &'a str,
    limit: usize,
    sensitive: &SensitiveParameters,
) -> Cow<'a, str> {
    let seen = prefix(query, 4 * limit);
    // A truncated query ends with the truncation mark, even if redaction makes it short enough.
    let is_whole = seen.len() == query.len();
    let mut redacted = String::new();
    // Unchanged text is copied in one piece, or not at all.
    let (mut kept, mut at) = (0, 0);
    let bytes = seen.as_bytes();
    while at <= bytes.len() && redacted.len() + (at - kept) <= limit {
        let name_end = find(bytes, at, |byte| matches!(byte, b'=' | b'&'));
        let end = find(bytes, name_end, |byte| byte == b'&');
        // A value follows `=`.
        if name_end < end && is_sensitive(&seen[at..name_end], sensitive) {
            if kept == 0 {
                redacted.reserve(query.len().min(limit) + REDACTED.len());
            }
            redacted.push_str(&seen[kept..=name_end]);
            redacted.push_str(REDACTED);
            kept = end;
        }
        at = end + 1;
    }
    if redacted.is_empty() {
        return truncate(query, limit);
    }
    redacted.push_str(prefix(&seen[kept..], limit + 1));
    if !is_whole && redacted.len() <= limit {
        redacted.push('…');
    }
    match truncate(&redacted, limit) {
        Cow::Borrowed(_) => Cow::Owned(redacted),
        Cow::Owned(cut) => Cow::Owned(cut),
    }
}

/// Returns whether the value of a parameter is redacted. The application decodes names, so the decoded
/// name is compared.
fn is_sensitive(name: &str, sensitive: &SensitiveParameters) -> bool {
    if name.as_bytes().contains(&b'%') {
        sensitive.contains(&percent_decode_str(name).decode_utf8_lossy())
    } else {
        sensitive.contains(name)
    }
}

/// Returns the position of the first byte from `start` on that `is_found`, or the end.
#[inline]
fn find(bytes: &[u8], start: usize, is_found: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    let found = rest.iter().position(|&byte| is_found(byte));
    found.map_or(bytes.len(), |found| start + found)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Redacts a query parameter by parameter, and truncates the whole.
    fn split_and_redacted(query: &str, limit: usize, sensitive: &SensitiveParameters) -> String {
        let redacted = query.split('&').map(|parameter| {
            let name = parameter.split_once('=').map(|(name, _)| name);
            let is_sensitive = |name: &&str| {
                let decoded = percent_decode_str(name).decode_utf8_lossy();
                sensitive.contains(&decoded)
            };
            match name.filter(is_sensitive) {
                Some(name) => format!("{name}={REDACTED}"),
                None => parameter.to_owned(),
            }
        });
        truncate(&redacted.collect::<Vec<_>>().join("&"), limit).into_owned()
    }

    proptest! {
        #[test]
        fn a_query_is_redacted_parameter_by_parameter(
            parameters in vec("(sig|s%69g|SIG|sigs|Signature|a|ä|%|)(=|==|)(secret|x=1|é|%26|){0,3}", 0..9),
            limit in 40..200_usize,
        ) {
            let text = parameters.join("&");
            // A longer query is not read to its end.
            let limit = limit.max(text.len() / 4);
            let sensitive = SensitiveParameters::default();
            let found = query(&text, limit, &sensitive);
            prop_assert_eq!(&*found, split_and_redacted(&text, limit, &sensitive));
            let is_changed = *found != *text;
            prop_assert_eq!(matches!(found, Cow::Owned(_)), is_changed);
        }
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
    fn a_secret_beyond_the_limit_does_not_appear() {
        let text = format!("{}&sig=secret", "a".repeat(1020));
        let cut = query(&text, 1024, &SensitiveParameters::default());
        assert!(cut.len() <= 1024 && !cut.contains("secret"), "{cut}");
    }

    #[test]
    fn the_work_for_a_query_is_bounded_by_the_limit() {
        // The number of parameters that are read stands for the time.
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
        // Text after a long redacted value is kept, within the bound.
        let long = format!("sig={}&b=2", "s".repeat(2000));
        let found = query(&long, 1024, &SensitiveParameters::default());
        assert_eq!(found, "sig=REDACTED&b=2");
        let longer = format!("a=1&sig={}&b=2", "s".repeat(20_000));
        let found = query(&longer, 1024, &SensitiveParameters::default());
        assert_eq!(found, "a=1&sig=REDACTED…");
    }

    #[test]
    fn sensitive_values_are_redacted_at_any_position() {
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
    fn a_configured_list_replaces_the_list_of_the_conventions() {
        let list = SensitiveParameters::new(vec!["token".to_owned()]);
        assert_eq!(query("token=a&sig=b", 1024, &list), "token=REDACTED&sig=b");
    }

    #[test]
    fn headers_with_credentials_are_recognised_by_name() {
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
