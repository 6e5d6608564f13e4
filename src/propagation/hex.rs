//! Lower-case hexadecimal digits.
//!
//! Every request reads and writes ids. The loops have a constant length and no branch, so that the
//! compiler can process many digits at once.

/// Returns the value of a digit; 16 or more for another character.
#[inline]
fn nibble(digit: u8) -> u8 {
    let (number, letter) = (digit.wrapping_sub(b'0'), digit.wrapping_sub(b'a'));
    let of_letter = if letter < 6 { letter + 10 } else { 0xff };
    if number < 10 { number } else { of_letter }
}

/// Returns the digit of a value below 16.
#[inline]
fn digit(nibble: u8) -> u8 {
    nibble + if nibble < 10 { b'0' } else { b'a' - 10 }
}

/// Decodes exactly `D` digits to `N` bytes, half as many.
#[inline]
pub(crate) fn decode<const D: usize, const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    const { assert!(D == 2 * N) };
    let digits: &[u8; D] = digits.try_into().ok()?;
    let mut nibbles = [0; D];
    let mut all = 0;
    for (value, digit) in nibbles.iter_mut().zip(digits) {
        *value = nibble(*digit);
        all |= *value;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(nibbles.as_chunks().0) {
        *byte = high << 4 | low;
    }
    (all < 16).then_some(bytes)
}

/// Encodes `N` bytes as `D` digits, twice as many.
#[inline]
pub(crate) fn encode<const N: usize, const D: usize>(bytes: [u8; N]) -> [u8; D] {
    const { assert!(D == 2 * N) };
    let mut text = [0; D];
    for (pair, byte) in text.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 0x0f)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_written_and_read_as_by_the_standard_library() {
        for byte in 0..=255 {
            let text: [u8; 2] = encode([byte]);
            assert_eq!(text, format!("{byte:02x}").as_bytes());
            assert_eq!(decode::<2, 1>(&text), Some([byte]));
        }
        let bytes: [u8; 16] = std::array::from_fn(|n| (n * 67) as u8);
        let text: [u8; 32] = encode(bytes);
        assert_eq!(text[..6], *b"004386");
        assert_eq!(decode::<32, 16>(&text), Some(bytes));
    }

    #[test]
    fn a_character_that_is_not_a_digit_is_rejected_at_every_position() {
        for place in 0..8 {
            for byte in 0..=255 {
                let mut digits = *b"09afbe12";
                digits[place] = byte;
                let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                assert_eq!(
                    decode::<8, 4>(&digits).is_some(),
                    is_digit,
                    "{byte} at {place}"
                );
            }
        }
        for length in [0, 7, 9, 24] {
            assert_eq!(decode::<8, 4>(&vec![b'0'; length]), None);
        }
    }
}
