//! Whether the standard output shows colours.

use std::env;
use std::io::{IsTerminal, stdout};

/// Returns whether the standard output is a terminal, and `NO_COLOR` is not set.
pub(crate) fn stdout_has_colors() -> bool {
    let wants_colors = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    wants_colors && stdout().is_terminal()
}
