//! Owns the whole of a secret as environment variables, in the two spellings that readers of such files have.
//! Does not know where the secret came from or who reads; it is pure.
//!
//! One text cannot serve all: a shell needs quotes around what is special to it, and Docker takes quotes for a part of the
//! value.

use zeroize::Zeroizing;

use crate::secret::{Field, Secret, SecretBytes};

/// Longest line that Docker reads, its end included: `bufio.MaxScanTokenSize`; one longer line costs it the whole file.
const DOCKER_LINE: usize = 64 << 10;
/// As much of a name as a comment shows, in bytes.
const SHOWN_NAME: usize = 200;

/// `.env`: lines of `NAME=value` for a POSIX shell (`. file`). Values of plain characters stand bare, so that readers
/// without quoting rules see them right. All others are quoted, and where there is a choice in the way that systemd
/// (`EnvironmentFile=`) and Docker Compose (`env_file:`) read as a shell does: in single quotes, or in double quotes when
/// the value has single ones and nothing that is special within double ones.
///
/// A field whose name is no variable name, or whose value holds NUL or is no UTF-8, cannot be a variable: a comment says
/// that it was left out.
pub fn shell(secret: &Secret) -> SecretBytes {
    render(secret, |field, out| {
        let text = variable(field)?;
        push_shell_word(out, text);
        Some(())
    })
}

/// `.docker-env`: lines of `NAME=value` for `docker run --env-file`, which takes everything behind the `=` as it is
/// (docker/cli, pkg/kvfile/kvfile.go). What cannot stand in such a line is left out, and a comment says so: beside what
/// no variable can be, a value with a line break in it or 64 KiB long.
pub fn docker(secret: &Secret) -> SecretBytes {
    render(secret, |field, out| {
        // A CR before the line's end would be taken for a part of that end.
        let is_line = |text: &&str| !text.contains('\n') && !text.ends_with('\r');
        let text = variable(field).filter(is_line)?;
        if field.name.len() + "=\n".len() + text.len() > DOCKER_LINE {
            return None;
        }
        out.extend_from_slice(text.as_bytes());
        Some(())
    })
}

/// `NAME=` and what `push` adds for each field; a comment where that is nothing.
fn render(secret: &Secret, push: impl Fn(&Field, &mut Vec<u8>) -> Option<()>) -> SecretBytes {
    let mut out = Zeroizing::new(Vec::with_capacity(secret.weight() * 2 + 16));
    for field in &secret.fields {
        let start = out.len();
        out.extend_from_slice(field.name.as_bytes());
        out.push(b'=');
        if push(field, &mut out).is_none() {
            out.truncate(start);
            out.extend_from_slice(b"# left out, cannot stand here: ");
            push_shown(&mut out, &field.name);
        }
        out.push(b'\n');
    }
    SecretBytes::from(out)
}

/// The text of a field that can be a variable (POSIX, Base Definitions 8.1 and 3.216).
fn variable(field: &Field) -> Option<&str> {
    let mut letters = field.name.bytes();
    let starts = letters.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let goes_on = letters.all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let text = field.value.expose_str()?;
    (starts && goes_on && !text.contains('\0')).then_some(text)
}

fn push_shell_word(out: &mut Vec<u8>, text: &str) {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:@%+,=".contains(&b);
    if text.bytes().all(plain) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    // POSIX, Shell Command Language 2.2.3: what keeps its meaning within double quotes.
    if text.contains('\'') && !text.contains(['"', '$', '`', '\\']) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    out.push(b'\'');
    for byte in text.bytes() {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            _ => out.push(byte),
        }
    }
    out.push(b'\'');
}

/// The beginning of a name, on one line: whole escapes only, since a backslash at the end of a comment would make systemd
/// before 254 take the next line for a part of it.
fn push_shown(out: &mut Vec<u8>, name: &str) {
    let end = out.len() + SHOWN_NAME;
    for c in name.chars() {
        if out.len() >= end {
            out.extend_from_slice(b"...");
            return;
        }
        out.extend(c.escape_debug().to_string().bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::secret::{Form, Version};
    use proptest::prelude::*;

    fn secret(fields: &[(&str, &[u8])]) -> Secret {
        let fields = fields.iter().map(|(name, value)| Field {
            name: (*name).into(),
            value: SecretBytes::new(value.to_vec()),
            form: Form::Text,
        });
        Secret { fields: fields.collect(), version: Version::default(), created: None, expires: None }
    }

    fn text(bytes: &SecretBytes) -> &str {
        bytes.expose_str().unwrap()
    }

    #[test]
    fn a_shell_gets_quotes_and_is_told_what_was_left_out() {
        let secret = secret(&[
            ("USER", b"app"),
            ("PASS", b"it's $HOME"),
            ("NOTE", b"it's"),
            ("TWO", b"a\nb"),
            ("api-key", b"x"),
            ("BLOB", b"\xff"),
        ]);
        let lines = [
            "USER=app",
            "PASS='it'\\''s $HOME'",
            "NOTE=\"it's\"",
            "TWO='a\nb'",
            "# left out, cannot stand here: api-key",
            "# left out, cannot stand here: BLOB\n",
        ];
        assert_eq!(text(&shell(&secret)), lines.join("\n"));
    }

    #[test]
    fn docker_gets_values_as_they_are_and_is_told_what_was_left_out() {
        let fits = "x".repeat(DOCKER_LINE - "FITS=\n".len());
        let long = "x".repeat(DOCKER_LINE - "LONG=\n".len() + 1);
        let secret = secret(&[
            ("USER", b"app"),
            ("PASS", b" \"it's\" $HOME # "),
            ("TWO", b"a\nb"),
            ("CR", b"a\r"),
            ("FITS", fits.as_bytes()),
            ("LONG", long.as_bytes()),
            ("api-key", b"x"),
        ]);
        let left_out = |name: &str| format!("# left out, cannot stand here: {name}\n");
        let expected = format!(
            "USER=app\nPASS= \"it's\" $HOME # \n{}{}FITS={fits}\n{}{}",
            left_out("TWO"),
            left_out("CR"),
            left_out("LONG"),
            left_out("api-key")
        );
        assert_eq!(text(&docker(&secret)), expected);
        let read = read_by_docker(expected.as_bytes()).unwrap();
        assert_eq!(read.len(), 3);
    }

    #[test]
    fn no_name_makes_a_comment_longer_than_a_reader_takes() {
        let name = "\\\n".repeat(100_000);
        let secret = secret(&[(&name, b"x"), ("K", b"v")]);
        for rendered in [shell(&secret), docker(&secret)] {
            let (comment, rest) = text(&rendered).split_once('\n').unwrap();
            assert!(comment.len() < 300 && comment.ends_with("..."), "{comment}");
            assert_eq!(rest, "K=v\n");
        }
    }

    /// What `docker run --env-file` reads: docker/cli, pkg/kvfile/kvfile.go (`parseKeyValueFile`), and Go's bufio.Scanner
    /// with its limit and its `ScanLines`, which drops a CR before the line's end.
    fn read_by_docker(file: &[u8]) -> Result<Vec<(String, String)>, &'static str> {
        let mut read = Vec::new();
        for (number, line) in file.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if line.len() > 64 * 1024 {
                return Err("bufio.Scanner: token too long");
            }
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let line = std::str::from_utf8(line).map_err(|_| "invalid utf8 bytes")?;
            let line = if number == 0 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((name, value)) = line.split_once('=') else { continue };
            if name.is_empty() {
                return Err("no variable name");
            }
            if name.contains([' ', '\t']) {
                return Err("variable contains whitespaces");
            }
            read.push((name.to_owned(), value.to_owned()));
        }
        Ok(read)
    }

    /// What `EnvironmentFile=` reads, but for names: systemd, src/basic/env-file.c (`parse_env_file_internal`).
    fn read_by_systemd(file: &str) -> Vec<(String, String)> {
        let mut read = Vec::new();
        let mut rest = file.chars().peekable();
        while rest.peek().is_some() {
            let name: String = rest.by_ref().take_while(|c| *c != '=' && *c != '\n').collect();
            if name.starts_with('#') {
                continue;
            }
            let mut value = String::new();
            // Within a value that began bare a quote is a character like others.
            let mut bare = false;
            while let Some(c) = rest.next().filter(|c| *c != '\n') {
                match c {
                    '\'' if !bare => value.extend(rest.by_ref().take_while(|c| *c != '\'')),
                    '"' if !bare => {
                        while let Some(c) = rest.next().filter(|c| *c != '"') {
                            if c == '\\' {
                                let escaped = rest.next().unwrap();
                                if !"\"\\`$".contains(escaped) {
                                    value.push('\\');
                                }
                                value.push(escaped);
                            } else {
                                value.push(c);
                            }
                        }
                    }
                    '\\' => {
                        bare = true;
                        value.extend(rest.next());
                    }
                    c if c.is_ascii_whitespace() && !bare => {}
                    c => {
                        bare = true;
                        value.push(c);
                    }
                }
            }
            read.push((name, value));
        }
        read
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof!["[^\\x00]{0,30}", "[ a'\"$`\\\\#=\n\r]{0,12}", "[a-zA-Z0-9_./:@%+,=-]{0,20}"]
    }

    proptest! {
        #[test]
        fn a_shell_reads_back_what_it_is_shown(value in value()) {
            let secret = secret(&[("V", value.as_bytes())]);
            let script = [shell(&secret).expose(), b"printf %s \"$V\""].concat();
            let shell = std::process::Command::new("sh").arg("-c").arg(std::ffi::OsStr::new(
                std::str::from_utf8(&script).unwrap())).output().unwrap();
            prop_assert_eq!(shell.stdout, value.as_bytes());
        }

        #[test]
        fn docker_reads_the_value_or_nothing_and_the_next_in_any_case(value in value()) {
            let secret = secret(&[("V", value.as_bytes()), ("NEXT", b"n")]);
            let read = read_by_docker(docker(&secret).expose()).unwrap();
            let next = ("NEXT".to_owned(), "n".to_owned());
            if value.contains('\n') || value.ends_with('\r') {
                prop_assert_eq!(read, [next]);
            } else {
                prop_assert_eq!(read, [("V".to_owned(), value), next]);
            }
        }

        #[test]
        fn what_stands_bare_is_the_same_to_all(value in "[a-zA-Z0-9_./:@%+,=-]{0,20}") {
            let secret = secret(&[("V", value.as_bytes())]);
            let (shell, docker) = (shell(&secret), docker(&secret));
            prop_assert_eq!(text(&shell), text(&docker));
        }

        #[test]
        fn systemd_reads_what_a_shell_does_unless_a_value_has_both_kinds_of_quote(value in value()) {
            prop_assume!(!value.contains('\'') || !value.contains(['"', '$', '`', '\\']));
            let secret = secret(&[("V", value.as_bytes()), ("NEXT", b"n")]);
            let expected = [("V".to_owned(), value), ("NEXT".to_owned(), "n".to_owned())];
            prop_assert_eq!(read_by_systemd(text(&shell(&secret))), expected);
        }
    }
}
