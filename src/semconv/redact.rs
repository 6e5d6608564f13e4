//! Bounds and redaction for text that comes from a request.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

const REDACTED: &str = "REDACTED";

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

/// Cuts `text` to at most `limit` bytes, at the end of a character, and marks the cut with `…`.
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
pub(super) fn query(query: &str, limit: usize) -> Cow<'_, str> {
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

fn is_sensitive(parameter: &str) -> bool {
    let name = name_of(parameter);
    // A value needs `=`; an encoded name reaches the application decoded, so it counts as such.
    parameter.len() > name.len()
        && if name.contains('%') {
            let name = percent_decode_str(name).decode_utf8_lossy();
            SENSITIVE_PARAMETERS.contains(&name.as_ref())
        } else {
            SENSITIVE_PARAMETERS.contains(&name)
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
            assert_eq!(query(text, 1024), expected, "{case}");
        }
    }

    #[test]
    fn a_secret_behind_the_limit_does_not_appear() {
        let text = format!("{}&sig=secret", "a".repeat(1020));
        let cut = query(&text, 1024);
        assert!(cut.len() <= 1024 && !cut.contains("secret"), "{cut}");
    }
}
