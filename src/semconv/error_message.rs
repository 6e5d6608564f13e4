//! The message of an error, with secrets redacted.

use std::fmt::Display;

use percent_encoding::percent_decode;

use crate::semconv::redact::{self, REDACTED, SensitiveParameters};
use crate::semconv::text::{display_prefix, truncate};

/// The maximum length of a message in bytes.
pub(crate) const MAX_MESSAGE: usize = 256;

/// The maximum length of the text that is read from one error, in bytes. It is larger than a
/// message because redaction shortens URLs.
pub(crate) const MAX_TEXT: usize = 2048;

/// The depth to which nested URLs are redacted part by part. Deeper URLs are replaced entirely.
const MAX_NESTED: usize = 3;

/// Joins the messages of errors with `: ` and omits repetitions.
///
/// In URLs, the user, the password and the values of sensitive parameters are redacted, and the
/// fragment is removed. Without `sensitive`, the whole query is removed.
pub(crate) fn redacted_message<'a>(
    errors: impl IntoIterator<Item = &'a dyn Display>,
    sensitive: Option<&SensitiveParameters>,
) -> String {
    let mut message = String::new();
    for error in errors {
        if message.len() > MAX_MESSAGE {
            break;
        }
        let (text, is_cut) = display_prefix(error, MAX_TEXT);
        let mut redacted = String::new();
        Urls { sensitive, is_cut }.redact(&text, 0, &mut redacted);
        if let Some(sensitive) = sensitive {
            redacted = redact_parameters(&redacted, sensitive);
        }
        if redacted.is_empty() || contains(&message, &redacted) {
            continue;
        }
        if !message.is_empty() {
            message.push_str(": ");
        }
        message.push_str(&redacted);
    }
    truncate(&message, MAX_MESSAGE).into_owned()
}

/// Decodes and redacts a percent-encoded `grpc-message`.
pub(crate) fn grpc_message(raw: &[u8], sensitive: Option<&SensitiveParameters>) -> String {
    // Percent-encoding takes up to three bytes for each byte of the message.
    let raw = &raw[..raw.len().min(3 * MAX_TEXT)];
    let decoded = percent_decode(raw).decode_utf8_lossy();
    redacted_message([&decoded as &dyn Display], sensitive)
}

/// Returns whether `message` contains `text`, and not only as a part of longer words.
fn contains(message: &str, text: &str) -> bool {
    let mut found = message.match_indices(text);
    found.any(|(start, _)| {
        let before = message[..start].chars().next_back();
        let after = message[start + text.len()..].chars().next();
        ![before, after]
            .into_iter()
            .flatten()
            .any(char::is_alphanumeric)
    })
}

struct Urls<'a> {
    sensitive: Option<&'a SensitiveParameters>,
    /// Whether the text was truncated.
    is_cut: bool,
}

impl Urls<'_> {
    /// Writes a text with its URLs redacted.
    fn redact(&self, text: &str, depth: usize, out: &mut String) {
        let mut rest = text;
        while let Some(start) = rest.find("://") {
            let (before, url) = rest.split_at(start + "://".len());
            out.push_str(before);
            let end = url.find(is_after_url).unwrap_or(url.len());
            // Trailing punctuation belongs to the text around the URL.
            let end = url[..end].trim_end_matches(is_punctuation).len();
            let (url, after) = url.split_at(end);
            if depth < MAX_NESTED {
                self.redact_url(url, self.is_cut && after.is_empty(), depth, out);
            } else {
                out.push_str(REDACTED);
            }
            rest = after;
        }
        out.push_str(rest);
    }

    /// Writes a URL without its scheme, redacted.
    fn redact_url(&self, url: &str, is_cut: bool, depth: usize, out: &mut String) {
        let authority = url.find(['/', '\\', '?', '#']);
        if authority.is_none() && is_cut {
            // A truncated authority may be the start of a password.
            out.push_str(REDACTED);
            return;
        }
        let authority = &url[..authority.unwrap_or(url.len())];
        let user = match authority.rfind('@') {
            None => end_of_password(url, authority),
            user => user,
        };
        let url = match user {
            Some(end) => {
                out.push_str("REDACTED:REDACTED@");
                &url[end + 1..]
            }
            None => url,
        };
        let url = url.split_once('#').map_or(url, |(url, _)| url);
        let (path, query) = match url.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (url, None),
        };
        self.redact(path, depth + 1, out);
        let Some((query, sensitive)) = query.zip(self.sensitive) else {
            return;
        };
        let mut separator = '?';
        for parameter in query.split('&') {
            out.push(separator);
            separator = '&';
            let redacted = redact::query(parameter, MAX_TEXT, sensitive);
            if redacted == parameter {
                self.redact(parameter, depth + 1, out);
            } else {
                out.push_str(&redacted);
            }
        }
    }
}

/// Returns the position of the `@` after a password with an unencoded delimiter, which seems to end
/// the authority.
fn end_of_password(url: &str, authority: &str) -> Option<usize> {
    if !has_port_or_none(authority) {
        return url.rfind('@');
    }
    if !authority.contains(':') {
        return None;
    }
    // The text after the colon may be a port, and `/@scope` in a path is a name.
    let create_with_exemplars = &url[authority.len()..];
    let at = match create_with_exemplars.as_bytes().first() {
        Some(b'?' | b'#') => create_with_exemplars.rfind('@'),
        _ => {
            let path = create_with_exemplars
                .split(['?', '#'])
                .next()
                .unwrap_or(create_with_exemplars);
            path.rfind('@').filter(|at| !path[..*at].ends_with('/'))
        }
    };
    at.map(|at| authority.len() + at)
}

/// Redacts the values of sensitive parameters anywhere in a text: outside of URLs, with other
/// separators, or percent-encoded.
fn redact_parameters(text: &str, sensitive: &SensitiveParameters) -> String {
    const ENCODED: [&str; 2] = ["%3D", "%3d"];
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    loop {
        let signs = ["=", ENCODED[0], ENCODED[1]];
        let sign = signs
            .into_iter()
            .filter_map(|sign| Some((rest.find(sign)?, sign)))
            .min();
        let Some((at, sign)) = sign else {
            redacted.push_str(rest);
            return redacted;
        };
        let (before, value) = rest.split_at(at + sign.len());
        redacted.push_str(before);
        rest = value;
        if sensitive.has(name_at_end(&before[..at])) {
            let end = value.find(is_after_value).unwrap_or(value.len());
            let end = ["%26", "%23"]
                .into_iter()
                .filter_map(|encoded| value.find(encoded))
                .fold(end, usize::min);
            let is_done = &value[..end] == REDACTED;
            redacted.push_str(REDACTED);
            // A quote ends the value, unless a letter or a digit follows.
            let quoted = value[end..].starts_with('\'')
                && value[end + 1..].starts_with(char::is_alphanumeric);
            rest = if is_done && quoted {
                let more = &value[end..];
                &more[more.find([' ', '&', '"']).unwrap_or(more.len())..]
            } else {
                &value[end..]
            };
        }
    }
}

/// Returns the parameter name at the end of a text.
fn name_at_end(text: &str) -> &str {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~');
    let start = text.rfind(|c| !is_of_name(c)).map_or(0, |at| at + 1);
    let name = text.get(start..).unwrap_or_default();
    // The name may follow a percent-encoded `?` or `&`, whose two digits are not part of it.
    let is_encoded = text
        .get(..start)
        .is_some_and(|before| before.ends_with('%'));
    let name = if is_encoded {
        name.get(2..)
    } else {
        Some(name)
    };
    name.unwrap_or_default()
}

fn is_after_value(c: char) -> bool {
    is_after_url(c)
        || matches!(
            c,
            '&' | ';' | '<' | '>' | '#' | '\\' | ')' | ']' | '}' | ','
        )
}

fn is_after_url(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`')
}

fn is_punctuation(c: char) -> bool {
    matches!(c, ')' | '>' | ']' | '}' | ',' | ';' | '.' | ':')
}

/// Returns whether an authority has no colon, or only digits after its last colon.
fn has_port_or_none(authority: &str) -> bool {
    let after_address = authority.rsplit(']').next().unwrap_or(authority);
    after_address
        .rsplit_once(':')
        .is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    fn redacted(text: &str) -> String {
        redacted_message(
            [&text as &dyn Display],
            Some(&SensitiveParameters::default()),
        )
    }

    #[test]
    fn secrets_in_unusual_texts_are_redacted() {
        for text in [
            "postgres://user:12/CANARY@host/db: refused",
            "postgres://user:9?CANARY@host/db",
            r"https:\/\/a\/?sig=CANARY",
            "redirect to https%3A%2F%2Fa%2F%3Fsig%3DCANARY",
            "http://a/?next=https%3A%2F%2Fb%2F%3Fx%26sig%3DCANARY%26y",
            "/v1/blob?sig=CANARY refused",
            "host/c?sv=1&sig=CANARY",
            "https://a/?x=1&amp;sig=CANARY",
            "https://a/?x=1;sig=CANARY",
            "https://a/?x=b?sig=CANARY",
            "http://a/?sig=ab'CANARY",
            "(sig=CANARY)",
            "X-Amz-Signature=CANARY",
        ] {
            let found = redacted(text);
            assert!(
                !found.contains("CANARY") && found.contains("REDACTED"),
                "{found}"
            );
        }
        for text in [
            "http://host:8080/@scope/package",
            "https://unpkg.com/@scope/package",
            "design=1 and signature: 2",
            "x=1&y=2",
        ] {
            assert_eq!(redacted(text), text);
        }
    }

    #[test]
    fn secrets_in_urls_are_redacted() {
        for (text, expected) in [
            ("no URL, a: b // c", "no URL, a: b // c"),
            ("get http://a/b?c=d now", "get http://a/b?c=d now"),
            (
                "error sending request for url (https://a/b?q=1&sig=secret)",
                "error sending request for url (https://a/b?q=1&sig=REDACTED)",
            ),
            (
                "<http://a/?sig=s>, or not",
                "<http://a/?sig=REDACTED>, or not",
            ),
            (
                "see \"http://a/?sig=s\".",
                "see \"http://a/?sig=REDACTED\".",
            ),
            (
                "[http://[::1]:80/?sig=s]",
                "[http://[::1]:80/?sig=REDACTED]",
            ),
            ("http://[::1]", "http://[::1]"),
            (
                "at http://a?sig=a)b]c>d, so",
                "at http://a?sig=REDACTED, so",
            ),
            (
                "postgres://user:secret@db:5432/name: refused",
                "postgres://REDACTED:REDACTED@db:5432/name: refused",
            ),
            ("redis://secret@db", "redis://REDACTED:REDACTED@db"),
            ("http://a@b@c/", "http://REDACTED:REDACTED@c/"),
            (
                "invalid port: amqp://user:se/cr?e#t@queue/x",
                "invalid port: amqp://REDACTED:REDACTED@queue/x",
            ),
            ("https://a.b/@user/post", "https://a.b/@user/post"),
            ("https://a.b:80/@user", "https://a.b:80/@user"),
            ("http://a/b#token=secret", "http://a/b"),
            ("http://a/b?c#sig=secret", "http://a/b?c"),
            (
                "http://a/?sig=x,http://b/?q=1&sig=y",
                "http://a/?sig=REDACTED&sig=REDACTED",
            ),
            (
                "http://a/?q=1,http://b/?sig=y",
                "http://a/?q=1,http://b/?sig=REDACTED",
            ),
            (
                "http://a/x,http://u:p@b/?sig=y",
                "http://a/x,http://REDACTED:REDACTED@b/?sig=REDACTED",
            ),
            (
                "http://a/?to=https://u:p@b/c&d=e",
                "http://a/?to=https://REDACTED:REDACTED@b/c&d=e",
            ),
            (
                "http://a/?sig=https://secret/c&d=e",
                "http://a/?sig=REDACTED&d=e",
            ),
            ("http://a http://u@b", "http://a http://REDACTED:REDACTED@b"),
            ("://u:p@b", "://REDACTED:REDACTED@b"),
            ("://", "://"),
        ] {
            assert_eq!(redacted(text), expected, "{text}");
        }
    }

    #[test]
    fn the_configured_list_of_parameters_is_used() {
        let text = "http://u@a/b?token=secret&sig=open";
        let list = SensitiveParameters::new(vec!["token".to_owned()]);
        let errors = || [&text as &dyn Display];
        assert_eq!(
            redacted_message(errors(), Some(&list)),
            "http://REDACTED:REDACTED@a/b?token=REDACTED&sig=open"
        );
        // Without a list the whole query is removed.
        assert_eq!(
            redacted_message(errors(), None),
            "http://REDACTED:REDACTED@a/b"
        );
    }

    #[test]
    fn a_truncated_text_contains_no_secret_wherever_it_is_cut() {
        for length in [100, 200, 250, 256, 2000, 2040, 2048, 3000, 100_000] {
            for secret in [
                format!(
                    "{}http://user:secret{}@a/",
                    "x".repeat(length % 251),
                    "y".repeat(length)
                ),
                format!("{}http://a/?sig=secret", "x".repeat(length)),
                format!(
                    "http://a/?q={}&sig=secret{}",
                    "x".repeat(length),
                    "y".repeat(length)
                ),
                format!("http://a/?sig=secret{}", "y".repeat(length)),
                format!("http://secret{}@a/", "y".repeat(length)),
            ] {
                let message = redacted(&secret);
                assert!(message.len() <= MAX_MESSAGE, "{message}");
                assert!(!message.contains("secret"), "{message}");
            }
        }
    }

    #[test]
    fn messages_are_joined_without_repetitions() {
        for (errors, expected) in [
            (&["outer", "inner"][..], "outer: inner"),
            (&["same", "same", "same"], "same"),
            (&["outer: inner", "inner"], "outer: inner"),
            (&["outer: inner", "inner", "root"], "outer: inner: root"),
            (&["refusedly", "refused"], "refusedly: refused"),
            (&["", "inner", ""], "inner"),
            (&["a", "b", "a"], "a: b"),
            (&[], ""),
        ] {
            let errors = errors.iter().map(|error| error as &dyn Display);
            assert_eq!(redacted_message(errors, None), expected);
        }
    }

    #[test]
    fn formatting_an_error_stops_at_the_limit() {
        struct Endless<'a>(&'a std::cell::Cell<usize>);
        impl Display for Endless<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    self.0.set(self.0.get() + 1);
                    f.write_str("äöü")?;
                }
            }
        }
        let written = std::cell::Cell::new(0);
        let error = Endless(&written);
        let message = redacted_message([&error as &dyn Display; 20], None);
        assert!(message.len() <= MAX_MESSAGE && message.ends_with('…'));
        assert!(written.get() < MAX_TEXT, "{}", written.get());
    }

    #[test]
    fn a_grpc_message_is_decoded_and_bounded() {
        let sensitive = SensitiveParameters::default();
        for (raw, expected) in [
            (&b"not%20found"[..], "not found"),
            (b"caf%C3%A9: 100%25", "café: 100%"),
            (b"a lone % and %zz", "a lone % and %zz"),
            (b"no text: %FF\xff", "no text: \u{fffd}\u{fffd}"),
            (
                b"http://u%40b/?sig=s",
                "http://REDACTED:REDACTED@b/?sig=REDACTED",
            ),
            (b"", ""),
        ] {
            assert_eq!(grpc_message(raw, Some(&sensitive)), expected);
        }
        let long = "%C3%A9".repeat(100_000);
        let message = grpc_message(long.as_bytes(), None);
        assert!(message.len() <= MAX_MESSAGE);
        assert!(message.starts_with("éé") && message.ends_with("é…"));
    }

    proptest::proptest! {
        #[test]
        fn the_message_of_any_text_is_bounded(text in ".*", cut in 0..3000usize) {
            let text = [&*text, "://a:b@c?sig=x ", &"é".repeat(cut), &*text].concat();
            let message = redacted(&text);
            assert!(message.len() <= MAX_MESSAGE);
        }

        #[test]
        fn text_around_a_url_does_not_reveal_its_secrets(
            before in "[a-z:/@?#&= ]{0,40}",
            path in "[a-z:/@?&=]{0,40}",
            after in ".{0,40}",
        ) {
            let url = format!("://user:canary@a/{path}?b=c&sig=canary&d=e");
            let message = redacted(&[&*before, "http", &url, &*after].concat());
            assert!(!message.contains("canary"), "{message}");
        }
    }
}
