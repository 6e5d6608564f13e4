//! Lines on their way to an output.

use std::io::{self, ErrorKind, Write};
use std::thread;
use std::time::Duration;

/// Returns how many lines there are, the last of which may be open.
pub(crate) fn count(lines: &[u8]) -> u64 {
    let ends = lines.iter().filter(|byte| **byte == b'\n').count();
    let open = lines.last().is_some_and(|byte| *byte != b'\n');
    ends as u64 + u64::from(open)
}

/// As [`Write::write_all`], also to an output that was made not to block.
pub(crate) fn write_all(output: &mut dyn Write, mut lines: &[u8]) -> io::Result<()> {
    const PAUSE: Duration = Duration::from_millis(10);

    while !lines.is_empty() {
        match output.write(lines) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    output.flush()
}
