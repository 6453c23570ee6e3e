//! Owns the reading of .env files: lines of KEY=VALUE, as shells and dotenv libraries write them.
//! Does not know where the text came from or what its keys become.

use crate::secret::{Field, Form, SecretBytes};

/// Where a .env file stopped making sense. Never what stood there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub(super) struct BadLine {
    /// Counted from 1.
    pub(super) line: usize,
    /// In fixed words.
    pub(super) why: &'static str,
}

/// Reads `KEY=VALUE` lines into fields, in their order.
///
/// `export ` may stand before a key. A value in single quotes is taken as it is, one in double quotes knows the escapes
/// `\n` `\r` `\t` `\"` `\\` `\$`; both may span lines. A bare value ends at the line or at ` #`, without white space around it.
/// Variables are not expanded: a `$` is a `$`.
pub(super) fn parse(text: &str) -> Result<Vec<Field>, BadLine> {
    let mut reader = Reader { rest: text.strip_prefix('\u{feff}').unwrap_or(text), line: 1 };
    let mut fields: Vec<Field> = Vec::new();
    while reader.skip_to_key() {
        let line = reader.line;
        let name = reader.key()?;
        if fields.iter().any(|field| field.name == name) {
            return Err(BadLine { line, why: "this key stands twice" });
        }
        let value = SecretBytes::from(reader.value()?);
        fields.push(Field { name, value, form: Form::Text });
    }
    Ok(fields)
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn bad<T>(&self, why: &'static str) -> Result<T, BadLine> {
        Err(BadLine { line: self.line, why })
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next()?;
        self.rest = chars.as_str();
        self.line += usize::from(next == '\n');
        Some(next)
    }

    /// The rest of this line, without its end; the next line is not begun.
    fn rest_of_line(&mut self) -> &'a str {
        let (line, rest) = self.rest.split_at(self.rest.find('\n').unwrap_or(self.rest.len()));
        self.rest = rest;
        line.strip_suffix('\r').unwrap_or(line)
    }

    /// Skips empty lines and comments; says whether anything follows.
    fn skip_to_key(&mut self) -> bool {
        while let Some(first) = self.rest.chars().next() {
            match first {
                '#' => drop(self.rest_of_line()),
                _ if first.is_whitespace() => drop(self.next()),
                _ => return true,
            }
        }
        false
    }

    fn key(&mut self) -> Result<String, BadLine> {
        let line = self.rest.split('\n').next().unwrap_or_default();
        let Some((key, _)) = line.split_once('=') else { return self.bad("this is not KEY=VALUE") };
        self.rest = self.rest.get(key.len() + 1..).unwrap_or_default();
        let key =
            key.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).unwrap_or(key).trim();
        let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
        let goes_on = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !key.starts_with(begins) || !key.chars().all(goes_on) {
            return self.bad("a key is letters, digits, `_`, `.` and `-`, and begins with a letter or `_`");
        }
        Ok(key.to_owned())
    }

    fn value(&mut self) -> Result<String, BadLine> {
        while self.rest.starts_with([' ', '\t']) {
            self.next();
        }
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => {
                let value = self.quoted(quote)?;
                let after = self.rest_of_line().trim();
                if after.is_empty() || after.starts_with('#') {
                    Ok(value)
                } else {
                    self.bad("text after a closing quote")
                }
            }
            Some('#') => {
                self.rest_of_line();
                Ok(String::new())
            }
            _ => {
                let line = self.rest_of_line();
                let comment = line.find(" #").into_iter().chain(line.find("\t#")).min();
                Ok(line.get(..comment.unwrap_or(line.len())).unwrap_or_default().trim().to_owned())
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, BadLine> {
        let opened = self.line;
        self.next();
        let mut value = String::new();
        loop {
            match self.next() {
                None => {
                    return Err(BadLine { line: opened, why: "the quote that opens here is never closed" });
                }
                Some(c) if c == quote => return Ok(value),
                Some('\\') if quote == '"' => match self.next() {
                    Some('n') => value.push('\n'),
                    Some('r') => value.push('\r'),
                    Some('t') => value.push('\t'),
                    Some(c @ ('"' | '\\' | '$')) => value.push(c),
                    // An escape that nobody knows stays as it is.
                    Some(c) => value.extend(['\\', c]),
                    None => {}
                },
                Some(c) => value.push(c),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, String)> {
        let fields = parse(text).unwrap();
        fields.into_iter().map(|field| (field.name, field.value.expose_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn the_dialects_of_the_field_are_read() {
        let text = "# top\n\nA=1\nexport B = two words # note\r\nC='a # $b \\n'\nD=\"x\\ny\\\"\\q\" # note\n\
                    E=\nF=a#b\nG=\"two\nlines\"\nH.i-j=k=l\nexported=1\nI= # nothing\nJ='last'";
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a # $b \\n"),
            ("D", "x\ny\"\\q"),
            ("E", ""),
            ("F", "a#b"),
            ("G", "two\nlines"),
            ("H.i-j", "k=l"),
            ("exported", "1"),
            ("I", ""),
            ("J", "last"),
        ];
        let read = read(text);
        assert_eq!(read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
        assert!(parse("\u{feff}A=1").is_ok());
    }

    #[test]
    fn an_error_names_the_line_and_never_the_value() {
        let cases = [
            ("A=1\ncanary\n", 2),
            ("A=1\n\n1A=canary\n", 3),
            ("A='canary\n\n", 1),
            ("A=\"x\ny\" canary\n", 2),
            ("A=1\nB=2\nA=canary", 3),
            ("=canary", 1),
        ];
        for (text, line) in cases {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(!error.to_string().contains("canary"));
        }
    }

    fn double_quoted(value: &str) -> String {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\r', "\\r");
        format!("\"{escaped}\"")
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_back_as_it_was(
            pairs in proptest::collection::btree_map("[A-Za-z_][A-Za-z0-9_.-]{0,6}", any::<(String, bool)>(), 0..6),
        ) {
            let mut text = String::new();
            for (key, (value, single)) in &pairs {
                let quoted = if *single && !value.contains('\'') { format!("'{value}'") } else { double_quoted(value) };
                text.push_str(&format!("{key}={quoted}\n"));
            }
            let expected: Vec<_> = pairs.into_iter().map(|(key, (value, _))| (key, value)).collect();
            prop_assert_eq!(read(&text), expected);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[ -~\n\r\té='\"\\\\]{0,40}") {
            let _ = parse(&text);
        }
    }
}
