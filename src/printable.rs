//! Owns making a text from outside fit to be shown: no control character in it forges a line or drives a terminal.
//! Does not know what the text is.

use std::path::Path;

/// `text` with its control characters escaped.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

/// A file as messages call it: the way it was given, but printable.
pub fn printable_path(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_character_is_escaped_and_all_else_stays() {
        assert_eq!(printable("größe \"a\\b\"\n\x1b[2J\u{85}"), "größe \"a\\b\"\\n\\u{1b}[2J\\u{85}");
        assert_eq!(printable_path(Path::new("/a b/\r")), "/a b/\\r");
    }
}
