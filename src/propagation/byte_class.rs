//! Classes of bytes in the headers that carry context.

/// A byte that is allowed in a `token` (RFC 9110, 5.6.2), such as a baggage key.
pub(crate) const TOKEN: u8 = 0x01;
/// A `baggage-octet` (W3C Baggage, 3.3.1.3).
pub(crate) const BAGGAGE_OCTET: u8 = 0x02;
/// A byte that is allowed in a `tracestate` key (Trace Context Level 2, 3.3.1.3.1).
pub(crate) const STATE_KEY: u8 = 0x04;
/// A byte that is allowed in a `tracestate` value (Trace Context Level 2, 3.3.1.3.2).
pub(crate) const STATE_VALUE: u8 = 0x08;
/// Optional whitespace (RFC 9110, 5.6.3).
pub(crate) const SPACE: u8 = 0x10;

/// The classes of each byte. Each byte of a header is looked up here. A lookup takes fewer
/// instructions than comparisons with ranges.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = classes_of(byte as u8);
        byte += 1;
    }
    classes
};

const fn classes_of(byte: u8) -> u8 {
    let mut classes = 0;
    if matches!(
        byte,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'|' | b'~'
    ) || matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z')
    {
        classes |= TOKEN;
    }
    if matches!(byte, b'!'..=b'~') && !matches!(byte, b'"' | b',' | b';' | b'\\') {
        classes |= BAGGAGE_OCTET;
    }
    if matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@') {
        classes |= STATE_KEY;
    }
    if matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=') {
        classes |= STATE_VALUE;
    }
    if matches!(byte, b' ' | b'\t') {
        classes |= SPACE;
    }
    classes
}

/// Returns whether `byte` belongs to `class`.
#[inline]
pub(crate) fn is_in(class: u8, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Returns the position of the first byte from `start` on that is not in `class`, or the end.
#[inline]
pub(crate) fn end_of(class: u8, bytes: &[u8], start: usize) -> usize {
    find(bytes, start, |byte| !is_in(class, byte))
}

/// Returns the position of the first byte from `start` on that matches `is_found`, or the end.
#[inline]
pub(crate) fn find(bytes: &[u8], start: usize, is_found: impl Fn(u8) -> bool) -> usize {
    let mut at = start;
    while let Some(&byte) = bytes.get(at)
        && !is_found(byte)
    {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_the_classes_of_its_grammar() {
        for byte in 0..=255_u8 {
            let is_token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let is_octet =
                matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
            let is_key =
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
            let is_value = matches!(byte, 0x20..=0x2b | 0x2d..=0x3c | 0x3e..=0x7e);
            for (class, expected) in [
                (TOKEN, is_token),
                (BAGGAGE_OCTET, is_octet),
                (STATE_KEY, is_key),
                (STATE_VALUE, is_value),
                (SPACE, b" \t".contains(&byte)),
            ] {
                assert_eq!(is_in(class, byte), expected, "{byte:#x} in {class:#x}");
            }
        }
    }

    #[test]
    fn a_class_ends_at_the_first_other_byte_or_at_the_end_of_the_text() {
        for (text, start, expected) in [("", 0, 0), ("ab c", 0, 2), ("ab c", 2, 2), ("ab c", 3, 4)]
        {
            assert_eq!(
                end_of(TOKEN, text.as_bytes(), start),
                expected,
                "{text} {start}"
            );
        }
    }
}
