//! Paths whose requests are not recorded.

use crate::providers::variables::ConfigWarning;

/// Path patterns, grouped by the signals from which requests are excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExcludedPaths {
    pub(crate) from_all: Vec<PathPattern>,
    pub(crate) from_traces: Vec<PathPattern>,
    pub(crate) from_metrics: Vec<PathPattern>,
}

impl ExcludedPaths {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.from_all.is_empty() && self.from_traces.is_empty() && self.from_metrics.is_empty()
    }

    /// Returns whether a request is recorded in traces and in metrics.
    pub(crate) fn allow(&self, path: &str) -> (bool, bool) {
        let matches = |patterns: &[PathPattern]| patterns.iter().any(|one| one.matches(path));
        let from_all = matches(&self.from_all);
        (
            !from_all && !matches(&self.from_traces),
            !from_all && !matches(&self.from_metrics),
        )
    }
}

/// A path, or a prefix of paths if the pattern ends with `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathPattern {
    path: String,
    is_prefix: bool,
}

impl PathPattern {
    fn matches(&self, path: &str) -> bool {
        match self.is_prefix {
            true => path.starts_with(&self.path),
            false => path == self.path,
        }
    }
}

/// Returns the valid patterns. Adds a warning that names `origin` for each of the others.
pub(crate) fn path_patterns<'a>(
    origin: &str,
    patterns: impl IntoIterator<Item = &'a str>,
    warnings: &mut Vec<ConfigWarning>,
) -> Vec<PathPattern> {
    let mut usable = Vec::new();
    for pattern in patterns {
        let (path, is_prefix) = match pattern.strip_suffix('*') {
            Some(path) => (path, true),
            None => (pattern, false),
        };
        if path.starts_with('/') && !path.contains(['*', '?', '#']) {
            usable.push(PathPattern {
                path: path.to_owned(),
                is_prefix,
            });
        } else {
            let consequence = "is not a path that starts with /, optionally with * at its end; it \
                               is ignored";
            warnings.push(ConfigWarning::new(origin, Some(pattern), consequence));
        }
    }
    usable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_path_or_the_start_of_a_path() {
        for (pattern, path, expected) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/", false),
            ("/healthz", "/HEALTHZ", false),
            ("/internal/*", "/internal/x/y", true),
            ("/internal/*", "/internal", false),
            ("/internal*", "/internals", true),
            ("/*", "/", true),
            ("/a,b", "/a,b", true),
        ] {
            let mut warnings = Vec::new();
            let excluded = ExcludedPaths {
                from_all: path_patterns("PATHS", [pattern], &mut warnings),
                ..ExcludedPaths::default()
            };
            assert_eq!(warnings.len(), 0, "{pattern}");
            let allowed = (!expected, !expected);
            assert_eq!(excluded.allow(path), allowed, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_that_matches_no_path_is_ignored_with_a_warning() {
        for pattern in [
            "healthz",
            "*",
            "",
            "/a*b",
            "/a**",
            "/a?b=c",
            "/a#b",
            "http://h/",
        ] {
            let mut warnings = Vec::new();
            let usable = path_patterns("PATHS", [pattern], &mut warnings);
            assert_eq!((usable.len(), warnings.len()), (0, 1), "{pattern}");
        }
    }
}
