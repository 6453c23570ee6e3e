//! Owns the path of a secret inside a backend: a list of segments, never a string that is glued together.
//! Does not know file names or their encoding, and not how a backend spells a path in a request.

use std::fmt;
use std::sync::Arc;

/// A path inside a backend, from the backend's own root: `secret/team/api-key` is three segments.
///
/// Segments hold no `/` and no NUL. They may be empty (an AWS name may start with `/`) and may be `.` or `..`:
/// each backend refuses what its own protocol could misread before it sends anything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct BackendPath(Arc<[Box<str>]>);

/// The segment cannot be part of a path in any backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path segment cannot hold `/` or NUL")]
pub struct BadSegment;

impl BackendPath {
    /// The backend's root.
    pub fn root() -> Self {
        Self::default()
    }

    /// Splits at `/`; one trailing slash is dropped, other empty segments are kept.
    pub fn parse(text: &str) -> Result<Self, BadSegment> {
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Ok(Self::root());
        }
        if text.contains('\0') {
            return Err(BadSegment);
        }
        Ok(Self(text.split('/').map(Box::from).collect()))
    }

    /// The path of these segments, exactly.
    pub fn from_segments(segments: Vec<String>) -> Result<Self, BadSegment> {
        if segments.iter().any(|segment| segment.contains(['/', '\0'])) {
            return Err(BadSegment);
        }
        Ok(Self(segments.into_iter().map(String::into_boxed_str).collect()))
    }

    /// This path with one more segment.
    pub fn child(&self, segment: &str) -> Result<Self, BadSegment> {
        if segment.contains(['/', '\0']) {
            return Err(BadSegment);
        }
        Ok(Self(self.0.iter().cloned().chain([Box::from(segment)]).collect()))
    }

    /// All but the last segment, and the last; `None` at the root.
    pub fn split_last(&self) -> Option<(Self, Box<str>)> {
        self.0.split_last().map(|(last, rest)| (Self(rest.into()), last.clone()))
    }

    /// The segments, first to last.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Whether this is the backend's root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// What follows `prefix`, when this path lies at or below it.
    pub fn strip_prefix(&self, prefix: &BackendPath) -> Option<BackendPath> {
        self.0.strip_prefix(&*prefix.0).map(|rest| Self(rest.into()))
    }

    /// Joined with `/`, exactly: for backends whose names are such strings (AWS, the store).
    pub fn joined(&self) -> String {
        self.0.join("/")
    }

    /// What the names of all that lies below this path begin with, where names are such strings; empty at the root.
    pub fn name_prefix(&self) -> String {
        if self.is_root() { String::new() } else { self.joined() + "/" }
    }
}

/// For messages: control characters are escaped, so a hostile name cannot forge a log line.
impl fmt::Display for BackendPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            write!(f, "{}", segment.escape_debug())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_segments_survive_but_one_trailing_slash_does_not() {
        let path = BackendPath::parse("/prod//db/").unwrap();
        assert_eq!(path.segments().collect::<Vec<_>>(), ["", "prod", "", "db"]);
        assert_eq!(path.joined(), "/prod//db");
        assert_eq!(path.name_prefix(), "/prod//db/");
        assert_eq!(BackendPath::root().child("").unwrap().name_prefix(), "/");
        assert_eq!(BackendPath::root().name_prefix(), "");
    }

    #[test]
    fn a_child_cannot_smuggle_a_separator() {
        assert_eq!(BackendPath::root().child("a/b"), Err(BadSegment));
        assert_eq!(BackendPath::root().child("a\0b"), Err(BadSegment));
        assert_eq!(BackendPath::from_segments(vec!["a/b".into()]), Err(BadSegment));
        let exact = BackendPath::from_segments(vec!["".into(), "a".into(), "".into()]).unwrap();
        assert_eq!(exact.segments().collect::<Vec<_>>(), ["", "a", ""]);
    }

    #[test]
    fn a_message_cannot_be_forged_by_a_name() {
        let path = BackendPath::root().child("a\nERROR b").unwrap();
        assert_eq!(path.to_string(), "a\\nERROR b");
    }

    #[test]
    fn prefixes_match_whole_segments() {
        let path = BackendPath::parse("secret/team/app").unwrap();
        let rest = path.strip_prefix(&BackendPath::parse("secret").unwrap()).unwrap();
        assert_eq!(rest.joined(), "team/app");
        assert!(path.strip_prefix(&BackendPath::parse("sec").unwrap()).is_none());
    }
}
