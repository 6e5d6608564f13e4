//! Lower-case hexadecimal digits, eight at a time.
//!
//! An id is read and written with every request. Eight digits are one word, whose bytes are worked
//! on at once.

/// Every byte 1.
const ONES: u64 = 0x0101_0101_0101_0101;
const ZERO: u64 = ONES * b'0' as u64;
/// From what would be the digit after `9` to `a`.
const TO_LETTERS: u64 = (b'a' - b'9' - 1) as u64;

/// The digits of four bytes.
fn digits_of(bytes: [u8; 4]) -> [u8; 8] {
    let mut nibbles = u64::from(u32::from_be_bytes(bytes));
    nibbles = (nibbles | nibbles << 16) & 0x0000_ffff_0000_ffff;
    nibbles = (nibbles | nibbles << 8) & 0x00ff_00ff_00ff_00ff;
    nibbles = (nibbles | nibbles << 4) & (ONES * 0x0f);
    digits_of_nibbles(nibbles).to_be_bytes()
}

fn digits_of_nibbles(nibbles: u64) -> u64 {
    let is_letter = (nibbles + ONES * 6) >> 4 & ONES;
    nibbles + ZERO + is_letter * TO_LETTERS
}

/// What eight digits stand for; `None` where one of them is none.
fn bytes_of(digits: [u8; 8]) -> Option<[u8; 4]> {
    let digits = u64::from_be_bytes(digits);
    // Of letters the low half counts from 1, and this bit is set.
    let is_letter = digits >> 6 & ONES;
    let nibbles = (digits & (ONES * 0x0f)) + is_letter * 9;
    let mut bytes = nibbles & (ONES * 0x0f);
    // What these would be written as is what was read, or it was something else.
    if digits_of_nibbles(bytes) != digits {
        return None;
    }
    bytes = (bytes | bytes >> 4) & 0x00ff_00ff_00ff_00ff;
    bytes = (bytes | bytes >> 8) & 0x0000_ffff_0000_ffff;
    bytes = (bytes | bytes >> 16) & 0xffff_ffff;
    u32::try_from(bytes).ok().map(u32::to_be_bytes)
}

/// Decodes exactly `8 * N` digits to `4 * N` bytes.
pub(super) fn decode<const N: usize>(digits: &[u8]) -> Option<[[u8; 4]; N]> {
    let (digits, []) = digits.as_chunks::<8>() else {
        return None;
    };
    let digits: &[[u8; 8]; N] = digits.try_into().ok()?;
    let mut bytes = [[0; 4]; N];
    for (bytes, digits) in bytes.iter_mut().zip(digits) {
        *bytes = bytes_of(*digits)?;
    }
    Some(bytes)
}

/// Decodes two digits.
#[inline]
pub(super) fn decode_byte(digits: [u8; 2]) -> Option<u8> {
    let nibble = |digit| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    Some(nibble(digits[0])? << 4 | nibble(digits[1])?)
}

/// Writes the digits of whole words to `text`.
pub(super) fn encode(bytes: &[u8], text: &mut [u8]) {
    let (text, _) = text.as_chunks_mut::<8>();
    for (bytes, text) in bytes.as_chunks::<4>().0.iter().zip(text) {
        *text = digits_of(*bytes);
    }
}

/// The two digits of a byte.
pub(super) fn encode_byte(byte: u8) -> [u8; 2] {
    let [.., high, low] = digits_of([0, 0, 0, byte]);
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_written_and_read_as_the_standard_library_has_it() {
        for byte in 0..=255 {
            let text = encode_byte(byte);
            assert_eq!(text, format!("{byte:02x}").as_bytes());
            assert_eq!(decode_byte(text), Some(byte));
        }
        let bytes: [[u8; 4]; 4] =
            std::array::from_fn(|word| std::array::from_fn(|n| (word * 67 + n * 29) as u8));
        let mut text = [0; 32];
        encode(bytes.as_flattened(), &mut text);
        assert_eq!(decode(&text), Some(bytes));
    }

    #[test]
    fn what_is_no_digit_is_told_in_every_place() {
        for place in 0..8 {
            for byte in 0..=255 {
                let mut digits = *b"09afbe12";
                digits[place] = byte;
                let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
                assert_eq!(bytes_of(digits).is_some(), is_digit, "{byte} at {place}");
            }
        }
        for length in [0, 7, 9, 24] {
            assert_eq!(decode::<2>(&vec![b'0'; length]), None);
        }
    }
}
