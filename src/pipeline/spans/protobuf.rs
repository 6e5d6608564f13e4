//! The encoding of protobuf fields whose numbers are below 16.

use prost::{encode_length_delimiter, length_delimiter_len};

/// The length of a field key.
pub(crate) const KEY: usize = 1;

/// The wire types of fields.
pub(crate) const VARINT: u8 = 0;
pub(crate) const LENGTH: u8 = 2;

/// Returns the key of a field whose number is below 16.
pub(crate) const fn key_of(number: u8, kind: u8) -> u8 {
    number << 3 | kind
}

/// Returns the length of a value with its length prefix.
pub(crate) fn delimited_length(length: usize) -> usize {
    length_delimiter_len(length) + length
}

/// Encodes the key and the length of a field.
pub(crate) fn begin(number: u8, length: usize, message: &mut Vec<u8>) {
    message.push(key_of(number, LENGTH));
    // Encoding fails only if there is no room, and a `Vec` grows.
    let _ = encode_length_delimiter(length, message);
}

/// Encodes a length-delimited field.
pub(crate) fn bytes(number: u8, bytes: &[u8], message: &mut Vec<u8>) {
    begin(number, bytes.len(), message);
    message.extend_from_slice(bytes);
}

/// Returns the length of a varint: seven bits per byte (Protocol Buffers, "Base 128 Varints").
pub(crate) fn varint_length(number: i64) -> usize {
    let bits = 64 - (number | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

pub(crate) fn varint(number: i64, message: &mut Vec<u8>) {
    let mut rest = number.cast_unsigned();
    while rest >= 0x80 {
        message.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    message.push(rest as u8);
}
