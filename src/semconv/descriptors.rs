//! The gRPC methods of a `FileDescriptorSet`, which `protoc` and the build of tonic write.
//!
//! Only the names of packages, services and methods are read (Protocol Buffers,
//! `descriptor.proto`).

/// Field numbers of the set, the file and the service. `NAME` is the same in all messages.
const FILE: u64 = 1;
const PACKAGE: u64 = 2;
const SERVICE: u64 = 6;
const METHOD: u64 = 2;
const NAME: u64 = 1;

/// Returns the methods of all services as `package.Service/Method`; `None` if the bytes are not a
/// `FileDescriptorSet`.
pub(crate) fn grpc_methods(set: &[u8]) -> Option<Vec<String>> {
    let mut methods = Vec::new();
    for file in Fields(set) {
        if let (FILE, file) = file? {
            read_file(file, &mut methods)?;
        }
    }
    Some(methods)
}

fn read_file(file: &[u8], methods: &mut Vec<String>) -> Option<()> {
    let package = field_text(file, PACKAGE)?.unwrap_or_default();
    for service in Fields(file) {
        let (SERVICE, service) = service? else {
            continue;
        };
        let name = field_text(service, NAME)?.unwrap_or_default();
        let dot = if package.is_empty() { "" } else { "." };
        for method in Fields(service) {
            if let (METHOD, method) = method? {
                let method = field_text(method, NAME)?.unwrap_or_default();
                methods.push(format!("{package}{dot}{name}/{method}"));
            }
        }
    }
    Some(())
}

/// Returns the text of a field. The outer `None` means invalid bytes, the inner `None` an absent
/// field.
fn field_text(message: &[u8], number: u64) -> Option<Option<&str>> {
    let mut found = None;
    for field in Fields(message) {
        let (field, value) = field?;
        if field == number {
            found = Some(str::from_utf8(value).ok()?);
        }
    }
    Some(found)
}

/// Iterates over the length-delimited fields of a message and their numbers. Other fields are
/// skipped. A `None` item means invalid bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.field() {
                Some(Some(field)) => return Some(Some(field)),
                Some(None) => {}
                None => {
                    self.0 = &[];
                    return Some(None);
                }
            }
        }
        None
    }
}

impl<'a> Fields<'a> {
    /// Reads one field. The inner `None` means a field that is not length-delimited.
    fn field(&mut self) -> Option<Option<(u64, &'a [u8])>> {
        let key = self.varint()?;
        match key & 0x07 {
            0 => self.varint().map(|_| None),
            1 => self.take(8).map(|_| None),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Some(Some((key >> 3, self.take(length)?)))
            }
            5 => self.take(4).map(|_| None),
            _ => None,
        }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.take(1)? else {
                return None;
            };
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Encodes a length-delimited field.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        assert!(value.len() < 128);
        [&[number << 3 | 2, value.len() as u8], value].concat()
    }

    fn method(name: &str) -> Vec<u8> {
        let input = field(2, b".a.In");
        // The last field is an option, which is a number.
        field(
            2,
            &[field(1, name.as_bytes()), input, vec![5 << 3, 1]].concat(),
        )
    }

    #[test]
    fn methods_are_named_by_package_service_and_method() {
        let service = [field(1, b"Users"), method("Get"), method("Delete")].concat();
        let other = [method("List"), field(1, b"Orders")].concat();
        let file = [
            field(1, b"users.proto"),
            field(6, &service),
            field(2, b"shop.v1"),
            field(4, b"\x0a\x01M"),
        ];
        let bare = field(6, &other);
        let set = [field(1, &file.concat()), field(1, &bare)].concat();
        let methods = grpc_methods(&set).expect("a valid descriptor set");
        assert_eq!(
            methods,
            ["shop.v1.Users/Get", "shop.v1.Users/Delete", "Orders/List"]
        );
        assert_eq!(grpc_methods(&[]), Some(Vec::new()));
        for end in 1..set.len() {
            // A truncated set is refused, or has fewer methods.
            let methods = grpc_methods(&set[..end]).unwrap_or_default();
            assert!(methods.len() < 3, "{end}");
        }
    }

    #[test]
    fn the_descriptors_of_a_real_service_are_read() {
        let methods = grpc_methods(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let expected = ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"];
        assert_eq!(methods.as_deref(), Some(&expected.map(String::from)[..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = grpc_methods(&bytes);
        }
    }
}
