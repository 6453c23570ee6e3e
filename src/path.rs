//! Owns the path of a secret inside a backend: a list of segments, never a string that is glued together.
//! Does not know file names or their encoding, and not how a backend spells a path in a request.

use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A path inside a backend, from the backend's own root: `secret/team/api-key` is three segments.
///
/// Segments hold no `/` and no NUL. They may be empty (an AWS name may start with `/`) and may be `.` or `..`:
/// each backend refuses what its own protocol could misread before it sends anything.
///
/// A path is part of everything that is held, so it is one block of memory: each segment and a NUL after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct BackendPath(#[serde(serialize_with = "as_text")] Arc<str>);

fn as_text<S: serde::Serializer>(path: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(path)
}

impl<'de> Deserialize<'de> for BackendPath {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let is_path = (text.is_empty() || text.ends_with(END)) && !text.contains('/');
        if is_path { Ok(Self(text.into())) } else { Err(D::Error::custom("no path")) }
    }
}

/// Ends a segment. It sorts before every character that a segment may hold, so paths sort by segments.
const END: char = '\0';

/// The segment cannot be part of a path in any backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a path segment cannot hold `/` or NUL")]
pub struct BadSegment;

impl BackendPath {
    /// The backend's root.
    pub fn root() -> Self {
        Self("".into())
    }

    /// Splits at `/`; one trailing slash is dropped, other empty segments are kept.
    pub fn parse(text: &str) -> Result<Self, BadSegment> {
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Ok(Self::root());
        }
        Self::of(text.split('/'))
    }

    /// The path of these segments, exactly.
    pub fn from_segments(segments: Vec<String>) -> Result<Self, BadSegment> {
        Self::of(segments.iter().map(String::as_str))
    }

    fn of<'a>(segments: impl Iterator<Item = &'a str>) -> Result<Self, BadSegment> {
        let mut path = String::new();
        for segment in segments {
            if segment.contains(['/', END]) {
                return Err(BadSegment);
            }
            path.push_str(segment);
            path.push(END);
        }
        Ok(Self(path.into()))
    }

    /// This path with one more segment.
    pub fn child(&self, segment: &str) -> Result<Self, BadSegment> {
        Self::of(self.segments().chain([segment]))
    }

    /// All but the last segment, and the last; `None` at the root.
    pub fn split_last(&self) -> Option<(Self, Box<str>)> {
        let segments = self.0.strip_suffix(END)?;
        let (rest, last) = segments.split_at(segments.rfind(END).map_or(0, |end| end + END.len_utf8()));
        Some((Self(rest.into()), last.into()))
    }

    /// The segments, first to last.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split_terminator(END)
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
        self.0.strip_suffix(END).unwrap_or_default().replace(END, "/")
    }

    /// What the names of all that lies below this path begin with, where names are such strings; empty at the root.
    pub fn name_prefix(&self) -> String {
        self.0.replace(END, "/")
    }
}

impl Default for BackendPath {
    fn default() -> Self {
        Self::root()
    }
}

/// For messages: control characters are escaped, so a hostile name cannot forge a log line.
impl fmt::Display for BackendPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.segments().enumerate() {
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
    fn segments_are_what_they_were_made_of() {
        for segments in [&[][..], &[""], &["", ""], &["a"], &["a", ""], &["", "a"], &["a", "ä", ".."]] {
            let path =
                BackendPath::from_segments(segments.iter().map(|s| (*s).to_owned()).collect()).unwrap();
            assert_eq!(path.segments().collect::<Vec<_>>(), segments);
            assert_eq!((path.joined(), path.is_root()), (segments.join("/"), segments.is_empty()));
            let split = segments.split_last().map(|(last, rest)| (rest.to_vec(), *last));
            let found = path.split_last();
            let found = found.as_ref().map(|(rest, last)| (rest.segments().collect::<Vec<_>>(), &**last));
            assert_eq!(found, split);
        }
    }

    #[test]
    fn paths_sort_by_segments() {
        let path = |text| BackendPath::parse(text).unwrap();
        let sorted = [BackendPath::root(), path("a"), path("a/b"), path("a!"), path("ab")];
        assert!(sorted.is_sorted());
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
