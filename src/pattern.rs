//! Owns patterns over the paths in a mount: how one is spelled, and which directories and files it is about.
//! Does not know secrets, trees or what a pattern is for; it is pure.

use std::fmt;

use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// PATH_MAX (limits.h): no longer path can be looked up, so no longer pattern is needed.
const LONGEST: usize = 4096;

/// Why a text is no pattern. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Empty segments and the like.
    #[error("expected a pattern such as \"/team/*/db\" or \"/prod/**\", without empty, `.` or `..` segments")]
    Path,
    /// `a**` or `**b`.
    #[error("`**` stands for whole segments: write \"/a/**\" or \"/a/**/b\"")]
    Stars,
    /// An open bracket, also one whose other half comes after a `/`.
    #[error("`[` and `{{` need their other half in the same segment; write `\\[` for the sign itself")]
    Unclosed,
    /// `[z-a]`.
    #[error("a range in `[...]` goes from the lower to the higher sign, such as `[a-z]`")]
    Range,
    /// More than any path can need, or more than can be worked with.
    #[error("the pattern is too large; write a shorter one")]
    TooLarge,
}

/// One pattern, checked. Equal when spelled the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// What of a directory a pattern is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// The directory itself, or whatever file may be in it.
    Whole,
    /// Files of a certain name, if there are any.
    SomeFiles,
}

impl Pattern {
    /// Reads a pattern. A first `/` may be left out. `*`, `?`, `[a-z]`, `[!a]` and `{a,b}` stay within a segment, `**` is any
    /// number of segments, `\` takes a sign's meaning away.
    ///
    /// # Errors
    /// See [`Bad`].
    pub fn parse(text: &str) -> Result<Self, Bad> {
        if text.len() > LONGEST {
            return Err(Bad::TooLarge);
        }
        if text.is_empty() {
            return Err(Bad::Path);
        }
        let pattern = Self(text.strip_prefix('/').unwrap_or(text).to_owned());
        // Each segment by itself: a bracket that is closed behind a `/` is not closed in its own.
        for segment in pattern.segments() {
            if matches!(segment, "" | "." | "..") || segment.chars().any(char::is_control) {
                return Err(Bad::Path);
            }
            if segment != "**" && has_wildcard(segment) && segment.contains("**") {
                return Err(Bad::Stars);
            }
            glob(segment)?;
        }
        Set::new(std::slice::from_ref(&pattern))?;
        Ok(pattern)
    }

    /// The segments of the one path that a pattern without wildcards matches.
    pub fn path(&self) -> Option<Vec<String>> {
        let leading = self.leading();
        (leading.len() == self.segments().count()).then_some(leading)
    }

    /// The segments before the first that holds a wildcard: every path that matches begins with them.
    pub fn leading(&self) -> Vec<String> {
        self.segments().take_while(|segment| !has_wildcard(segment)).map(unescaped).collect()
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|_| !self.0.is_empty())
    }

    /// What matches every file of a directory that may hold one that this pattern matches.
    fn siblings(&self) -> String {
        match self.0.rsplit_once('/') {
            _ if self.0.is_empty() || self.last() == "**" => self.0.clone(),
            Some((above, _)) => format!("{above}/*"),
            None => "*".to_owned(),
        }
    }

    fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

/// As one would write it into a configuration, with the first slash.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0)
    }
}

/// Many patterns, asked at once.
#[derive(Debug, Clone)]
pub struct Set {
    whole: GlobSet,
    siblings: GlobSet,
    /// Whether the last segment takes any name.
    any_file: Vec<bool>,
}

impl Set {
    /// All of `patterns`; they keep their numbers.
    ///
    /// # Errors
    /// [`Bad::TooLarge`]: too many, or too large ones.
    pub fn new(patterns: &[Pattern]) -> Result<Self, Bad> {
        let (mut whole, mut siblings) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            whole.add(glob(&pattern.0)?);
            siblings.add(glob(&pattern.siblings())?);
        }
        Ok(Self {
            whole: whole.build().map_err(|_| Bad::TooLarge)?,
            siblings: siblings.build().map_err(|_| Bad::TooLarge)?,
            any_file: patterns.iter().map(|pattern| matches!(pattern.last(), "*" | "**")).collect(),
        })
    }

    /// Every pattern that is about a directory, or about a file that may be in it: its number, and what of it. The path
    /// is one of file names, without a slash in front; empty is the root of the mount.
    pub fn covering(&self, directory: &str) -> Vec<(usize, Coverage)> {
        let any = if directory.is_empty() { "x".to_owned() } else { format!("{directory}/x") };
        let whole = self.whole.matches_candidate(&Candidate::new(directory));
        let mut found: Vec<_> = whole.into_iter().map(|number| (number, Coverage::Whole)).collect();
        for number in self.siblings.matches_candidate(&Candidate::new(&any)) {
            if !found.iter().any(|(known, _)| *known == number) {
                let any_file = self.any_file.get(number).copied().unwrap_or_default();
                found.push((number, if any_file { Coverage::Whole } else { Coverage::SomeFiles }));
            }
        }
        found
    }
}

fn glob(text: &str) -> Result<Glob, Bad> {
    let built = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
    built.map_err(|error| match error.kind() {
        globset::ErrorKind::InvalidRange(..) => Bad::Range,
        globset::ErrorKind::Regex(_) => Bad::TooLarge,
        _ => Bad::Unclosed,
    })
}

/// The signs of a segment, each with whether a backslash took its meaning away.
fn signs(segment: &str) -> impl Iterator<Item = (char, bool)> {
    let mut rest = segment.chars();
    std::iter::from_fn(move || match rest.next()? {
        '\\' => Some((rest.next()?, true)),
        sign => Some((sign, false)),
    })
}

fn has_wildcard(segment: &str) -> bool {
    signs(segment).any(|(sign, escaped)| !escaped && matches!(sign, '*' | '?' | '[' | '{'))
}

fn unescaped(segment: &str) -> String {
    signs(segment).map(|(sign, _)| sign).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn coverage(pattern: &str, directory: &str) -> Option<Coverage> {
        let set = Set::new(&[Pattern::parse(pattern).unwrap()]).unwrap();
        set.covering(directory).first().map(|(_, coverage)| *coverage)
    }

    #[test]
    fn a_pattern_is_about_a_directory_or_about_files_in_it() {
        let (whole, some) = (Some(Coverage::Whole), Some(Coverage::SomeFiles));
        for (pattern, directory, expected) in [
            ("/team/db", "team/db", whole),
            ("team/db", "team/db", whole),
            ("/team/db", "team", some),
            ("/team/db", "", None),
            ("/team/db", "team/db/x", None),
            ("/team/db", "team/dbx", None),
            ("/team/db/password", "team/db", some),
            ("/team/db/.env", "team/db", some),
            ("/team/*/db", "team/a/db", whole),
            ("/team/*/db", "team/a/b/db", None),
            ("/team/*/db", "team/a", some),
            ("/team/*", "team/.hidden", whole),
            ("/team/*", "team", whole),
            ("/team/*", "team/a/b", None),
            ("/prod/**", "prod", whole),
            ("/prod/**", "prod/a/b/c", whole),
            ("/prod/**", "production", None),
            ("/prod/**", "", None),
            ("/prod/**/db", "prod/db", whole),
            ("/prod/**/db", "prod/a/b/db", whole),
            ("/prod/**/db", "prod", some),
            ("**/db", "db", whole),
            ("**/db", "a/b/db", whole),
            ("/**", "", whole),
            ("/**", "a/b", whole),
            ("/*", "", whole),
            ("/*", "a", whole),
            ("/*", "a/b", None),
            ("/", "", whole),
            ("/", "a", None),
            ("/db-?", "db-1", whole),
            ("/db-?", "db-12", None),
            ("/{a,b}/c", "b/c", whole),
            ("/[a-c]", "b", whole),
            ("/[!a-c]", "b", None),
            (r"/a\*", "a*", whole),
            (r"/a\*", "ab", None),
            ("/größe", "größe", whole),
            ("/a%2Fb", "a%2Fb", whole),
        ] {
            // The parent of anything holds it as a file: that is not what these lines are about.
            let found = coverage(pattern, directory);
            if expected.is_some() || found != some {
                assert_eq!(found, expected, "{pattern} of {directory:?}");
            }
        }
        assert_eq!(coverage("/team/db", "other"), None);
        assert_eq!(coverage("/team/db/x/y", "team/db"), None);
    }

    #[test]
    fn what_is_no_pattern_is_told_why() {
        for (text, bad) in [
            ("", Bad::Path),
            ("//a", Bad::Path),
            ("/a/", Bad::Path),
            ("/a/../b", Bad::Path),
            ("/./a", Bad::Path),
            ("/a\nb", Bad::Path),
            ("/a**", Bad::Stars),
            ("/**b/c", Bad::Stars),
            ("/[a", Bad::Unclosed),
            ("/{a,b/c}", Bad::Unclosed),
            ("/[a/b]", Bad::Unclosed),
            ("/{a", Bad::Unclosed),
            ("/a}", Bad::Unclosed),
            ("/a\\", Bad::Unclosed),
            ("/a\\/b", Bad::Unclosed),
            ("/[z-a]", Bad::Range),
        ] {
            assert_eq!(Pattern::parse(text), Err(bad), "{text}");
            assert!(text.len() < 2 || !bad.to_string().contains(text));
        }
        assert_eq!(Pattern::parse(&"a".repeat(LONGEST + 1)), Err(Bad::TooLarge));
        assert_eq!(Pattern::parse(&"{a,b}{".repeat(600)), Err(Bad::Unclosed));
        assert_eq!(Bad::Unclosed.to_string().split(' ').nth(2), Some("`{`"));
    }

    #[test]
    fn a_pattern_shows_its_path_and_where_it_leads() {
        let of = |text: &str| Pattern::parse(text).unwrap();
        assert_eq!(of(r"a/b\*").path().unwrap(), ["a", "b*"]);
        assert_eq!(of("/").path().unwrap(), [""; 0]);
        assert_eq!(of("/a/*").path(), None);
        assert_eq!(of("/a/b/{c,d}/e").leading(), ["a", "b"]);
        assert_eq!(of("**").leading(), [""; 0]);
        assert_eq!(of("a/**").to_string(), "/a/**");
    }

    #[test]
    fn patterns_of_a_set_keep_their_numbers() {
        let patterns = ["/a/**", "/b", "/a/b/c", "/a/b"].map(|text| Pattern::parse(text).unwrap());
        let mut found = Set::new(&patterns).unwrap().covering("a/b");
        found.sort_by_key(|(number, _)| *number);
        assert_eq!(found, [(0, Coverage::Whole), (2, Coverage::SomeFiles), (3, Coverage::Whole)]);
        assert_eq!(Set::new(&[]).unwrap().covering("a"), []);
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "([\\[\\]{}!^,*?\\\\/a-c.-]|\\*\\*|\\PC){0,30}") {
            if let Ok(pattern) = Pattern::parse(&text) {
                let again = Pattern::parse(&pattern.to_string());
                prop_assert_eq!(again.as_ref(), Ok(&pattern));
                let _ = coverage(&text, "a/b");
            }
        }

        #[test]
        fn an_escaped_path_matches_itself_and_no_other(path in "[a*?{}\\[\\]\\\\]{1,8}(/[a*?{}\\[\\]\\\\]{1,8}){0,2}", other in "[a*?{}]{1,8}") {
            let escaped: String = path.chars().flat_map(|sign| {
                let escape = (sign != '/').then_some('\\');
                escape.into_iter().chain([sign])
            }).collect();
            prop_assert_eq!(coverage(&escaped, &path), Some(Coverage::Whole));
            if other != path {
                prop_assert_ne!(coverage(&escaped, &other), Some(Coverage::Whole));
            }
            prop_assert_eq!(Pattern::parse(&escaped).unwrap().path().unwrap().join("/"), path);
        }
    }
}
