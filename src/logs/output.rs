//! Functions that write lines to an output.

use std::io::{self, ErrorKind, Write};
use std::thread;
use std::time::Duration;

/// Returns the number of lines. The last line may lack its line break.
pub(crate) fn count_lines(lines: &[u8]) -> u64 {
    let line_breaks = lines.iter().filter(|byte| **byte == b'\n').count();
    let has_open_line = lines.last().is_some_and(|byte| *byte != b'\n');
    line_breaks as u64 + u64::from(has_open_line)
}

/// Writes all lines, also to a non-blocking output, for which [`Write::write_all`] fails.
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
