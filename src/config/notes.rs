//! Owns remarks about a file: their place, their order, and how they are shown.
//! Does not know what is remarked upon.

use std::cell::RefCell;
use std::fmt;

/// A remark about one line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file as it was named; control characters escaped.
    pub file: String,
    /// The line, counted from one; none when it is about the file as a whole.
    pub line: Option<usize>,
    /// The column in characters, counted from one, where the text is no TOML.
    pub column: Option<usize>,
    /// What is wrong with which key, and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Collects remarks by their place in a text.
pub(super) struct Notes<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
    found: RefCell<Vec<(usize, String)>>,
}

impl<'a> Notes<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let after_newlines =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, line_starts: [0].into_iter().chain(after_newlines).collect(), found: RefCell::default() }
    }

    /// Remembers `text` about the byte at `at`.
    pub(super) fn add(&self, at: usize, text: String) {
        self.found.borrow_mut().push((at, text));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// The line of the byte at `at`, counted from one.
    pub(super) fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at).max(1)
    }

    /// The character of the byte at `at` in its line, counted from one.
    pub(super) fn column(&self, at: usize) -> usize {
        let start = self.line_starts.get(self.line(at) - 1).copied().unwrap_or(0);
        self.text.char_indices().skip_while(|(i, _)| *i < start).take_while(|(i, _)| *i < at).count() + 1
    }

    /// All remarks in the order of the file.
    pub(super) fn into_problems(self, file: &str) -> Vec<Problem> {
        let mut found = self.found.take();
        found.sort_by_key(|(at, _)| *at);
        let problem =
            |(at, text)| Problem { file: file.to_owned(), line: Some(self.line(at)), column: None, text };
        found.into_iter().map(problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_in_characters() {
        let notes = Notes::new("ä = 1\nb = 2\n");
        assert_eq!((notes.line(0), notes.column(0)), (1, 1));
        assert_eq!((notes.line(3), notes.column(3)), (1, 3));
        assert_eq!((notes.line(7), notes.column(7)), (2, 1));
        assert_eq!((notes.line(13), notes.column(13)), (3, 1));
    }
}
