//! Owns the reading of KEY=VALUE arguments in the spelling of `vault kv put`.
//! Does not know where the fields go.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::failure::Failure;
use crate::backend::store::{LIMIT, parse_fields};
use crate::secret::{Field, Form, SecretBytes};

/// Reads the fields that the arguments describe; standard input is read when an argument asks for it, once.
///
/// `KEY=VALUE`, `KEY=@FILE`, `KEY=-` (standard input), `KEY=\@TEXT` (a value that begins with `@`);
/// alone: `@FILE` or `-`, a JSON object of fields. Messages count arguments and never show one: it may be a value.
pub(super) fn fields(arguments: &[impl AsRef<OsStr>]) -> Result<Vec<Field>, Failure> {
    let mut fields: Vec<Field> = Vec::new();
    let mut input = Input { read: false };
    for (at, argument) in arguments.iter().enumerate() {
        let argument = argument.as_ref().as_bytes();
        let more = match (argument, argument.strip_prefix(b"@")) {
            (b"-", _) => object(&input.take()?, "standard input")?,
            (_, Some(file)) if !argument.contains(&b'=') => {
                let file = Path::new(OsStr::from_bytes(file));
                object(&read_file(file)?, &file.to_string_lossy())?
            }
            _ => vec![key_value(argument, at + 1, &mut input)?],
        };
        for field in more {
            if fields.iter().any(|known| known.name == field.name) {
                return Err(Failure::usage(format!("the key {} is given twice", field.name.escape_debug())));
            }
            fields.push(field);
        }
    }
    if fields.is_empty() {
        return Err(Failure::usage("a secret has at least one KEY=VALUE"));
    }
    Ok(fields)
}

fn key_value(argument: &[u8], number: usize, input: &mut Input) -> Result<Field, Failure> {
    let not_key_value =
        || Failure::usage(format!("value {number} is not KEY=VALUE: write KEY=VALUE, KEY=@FILE or KEY=-"));
    let at = argument.iter().position(|byte| *byte == b'=').ok_or_else(not_key_value)?;
    let (key, value) = argument.split_at(at);
    let value = value.get(1..).unwrap_or_default();
    let key = std::str::from_utf8(key).ok().filter(|key| !key.is_empty()).ok_or_else(not_key_value)?;
    let value = match (value, value.first()) {
        (b"-", _) => input.take()?,
        (_, Some(b'@')) => read_file(Path::new(OsStr::from_bytes(value.get(1..).unwrap_or_default())))?,
        (_, Some(b'\\')) if value.get(1) == Some(&b'@') => {
            SecretBytes::new(value.get(1..).unwrap_or_default().to_vec())
        }
        _ => SecretBytes::new(value.to_vec()),
    };
    Ok(Field { name: key.to_owned(), value, form: Form::Text })
}

fn object(json: &SecretBytes, from: &str) -> Result<Vec<Field>, Failure> {
    parse_fields(json.expose()).map_err(|bad| Failure::data(format!("{}: {bad}", from.escape_debug())))
}

struct Input {
    read: bool,
}

impl Input {
    fn take(&mut self) -> Result<SecretBytes, Failure> {
        if std::mem::replace(&mut self.read, true) {
            return Err(Failure::usage("standard input (`-`) can be read for one key only"));
        }
        read_standard_input()
    }
}

/// All of standard input, up to the limit of a store.
pub(super) fn read_standard_input() -> Result<SecretBytes, Failure> {
    read_all(std::io::stdin().lock(), Path::new("standard input"))
}

/// A whole file, up to the limit of a store.
pub(super) fn read_file(file: &Path) -> Result<SecretBytes, Failure> {
    read_all(File::open(file).map_err(|error| Failure::cannot("read", file, &error))?, file)
}

fn read_all(from: impl Read, name: &Path) -> Result<SecretBytes, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| Failure::cannot("read", name, &error))?;
    if bytes.len() as u64 > LIMIT {
        return Err(Failure::data(format!("{} is larger than a store can be", name.display())));
    }
    Ok(bytes.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Vec<(String, Vec<u8>)> {
        fields(arguments).unwrap().into_iter().map(|f| (f.name, f.value.expose().to_vec())).collect()
    }

    #[test]
    fn values_are_what_stands_after_the_first_equals_sign() {
        let values = read(&["a=1", "b=x=y", "c=", "d=\\@at", "e=\\x", "é=-1"]);
        let expected: [(&str, &[u8]); 6] =
            [("a", b"1"), ("b", b"x=y"), ("c", b""), ("d", b"@at"), ("e", b"\\x"), ("é", b"-1")];
        assert_eq!(values.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_message_never_shows_an_argument() {
        for wrong in [&["canary"][..], &["=canary"], &["a=canary", "a=canary"], &[]] {
            let failure = fields(wrong).unwrap_err();
            assert_eq!(failure.code(), 64);
            assert!(!failure.to_string().contains("canary"), "{failure}");
        }
    }
}
