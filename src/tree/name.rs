//! Owns the mapping between a backend's names and file names: injective, reversible, at most 255 bytes.
//! Does not know paths, inodes or what a name leads to.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use sha2::{Digest, Sha256};

/// Longest file name, in bytes (NAME_MAX, limits.h).
pub const NAME_MAX: usize = 255;

/// Names inside a secret's directory that are ours, found by lookup and never listed. A backend's own name that is
/// spelled like one is percent-encoded.
pub const RESERVED: [&str; 6] = [".json", ".env", ".docker-env", ".meta", VERSIONS, PREVIOUS];

/// The directory of a secret's older versions.
pub const VERSIONS: &str = ".versions";

/// The directory of the predecessor of a secret that is made on demand.
pub const PREVIOUS: &str = ".previous";

/// Marks a shortened name, and alone an empty one. Cannot begin an escape, so no encoded name holds it otherwise.
const SHORT_MARK: &str = "%~";
/// Hex digits of SHA-256 that a shortened name ends in: 128 bits, so a collision is not to be had even on purpose.
const SHORT_DIGITS: usize = 32;

/// What a file name says about the backend's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// The backend's name.
    Exact(String),
    /// The name was too long for a file: find it by encoding the names in a listing.
    Shortened,
}

/// The file name for a backend's name.
///
/// Encoded as `%XX` (upper case): `/`, control characters (C0, DEL, and C1 in UTF-8), a `%` that would otherwise read as
/// an escape, the first dot of `.`, `..` and of [`RESERVED`] names. Everything else stands for itself.
/// Over [`NAME_MAX`] bytes the tail gives way to `%~` and a hash.
pub fn encode(name: &str) -> String {
    if name.is_empty() {
        return SHORT_MARK.to_owned();
    }
    let escape_dot = name == "." || name == ".." || RESERVED.contains(&name);
    let mut file = String::with_capacity(name.len());
    for (at, c) in name.char_indices() {
        let rest = name.get(at + c.len_utf8()..).unwrap_or_default();
        let escape = match c {
            '/' => true,
            '%' => reads_as_escape(rest),
            '.' => escape_dot && at == 0,
            _ => c.is_control(),
        };
        if escape {
            let mut utf8 = [0; 4];
            for byte in c.encode_utf8(&mut utf8).bytes() {
                push_escaped(&mut file, byte);
            }
        } else {
            file.push(c);
        }
    }
    if file.len() > NAME_MAX { shorten(name, &file) } else { file }
}

/// The backend's name for a file name, or `None` when no name is encoded like this (so there is one file name only).
pub fn decode(file: &OsStr) -> Option<Decoded> {
    let file = file.to_str()?;
    if file == SHORT_MARK {
        return Some(Decoded::Exact(String::new()));
    }
    if let Some((_, digits)) = file.rsplit_once(SHORT_MARK)
        && digits.len() == SHORT_DIGITS
        && digits.bytes().all(|b| b.is_ascii_hexdigit())
    {
        return Some(Decoded::Shortened);
    }
    let mut bytes = Vec::with_capacity(file.len());
    let mut rest = file.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                bytes.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (encode(&name) == file).then_some(Decoded::Exact(name))
}

/// The one of `names` that `file` stands for: by decoding, or by encoding each when it was shortened.
pub fn find<'a>(file: &OsStr, mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    match decode(file)? {
        Decoded::Exact(name) => names.find(|candidate| *candidate == name),
        Decoded::Shortened => names.find(|candidate| encode(candidate).as_bytes() == file.as_bytes()),
    }
}

/// Whether `%` followed by `rest` would be taken for an escape or for the mark of a short name.
fn reads_as_escape(rest: &str) -> bool {
    match rest.as_bytes() {
        [b'~', ..] => true,
        [high, low, ..] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        _ => false,
    }
}

fn push_escaped(file: &mut String, byte: u8) {
    file.push('%');
    for digit in [byte >> 4, byte & 15] {
        file.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
    }
}

fn hex(digit: u8) -> u8 {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()).unwrap_or(0)
}

fn shorten(name: &str, encoded: &str) -> String {
    let mut keep = NAME_MAX - SHORT_MARK.len() - SHORT_DIGITS;
    while !encoded.is_char_boundary(keep) {
        keep -= 1;
    }
    let mut short = encoded.get(..keep).unwrap_or_default().to_owned();
    // Half an escape at the cut is left as it is: the name is recognised by its end, never decoded.
    short.push_str(SHORT_MARK);
    for byte in Sha256::digest(name.as_bytes()).iter().take(SHORT_DIGITS / 2) {
        short.push_str(&format!("{byte:02x}"));
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn back(file: &str) -> Option<Decoded> {
        decode(OsStr::new(file))
    }

    #[test]
    fn ordinary_names_are_themselves() {
        for name in ["api-key", "a b", "ключ", "100%", "...", "a.json", ".hidden", "%zz", "x%~"] {
            let plain = name != "x%~";
            assert_eq!(encode(name) == name, plain, "{name}");
            assert_eq!(back(&encode(name)), Some(Decoded::Exact(name.into())), "{name}");
        }
    }

    #[test]
    fn what_a_file_cannot_be_called_is_encoded() {
        for (name, file) in [
            ("a/b", "a%2Fb"),
            (".", "%2E"),
            ("..", "%2E."),
            (".json", "%2Ejson"),
            (".meta", "%2Emeta"),
            ("a\nb", "a%0Ab"),
            ("\0", "%00"),
            ("%2F", "%252F"),
            ("", "%~"),
            ("%~", "%25~"),
            ("\u{85}", "%C2%85"),
        ] {
            assert_eq!(encode(name), file);
            assert_eq!(back(file), Some(Decoded::Exact(name.into())));
        }
    }

    #[test]
    fn a_name_has_one_spelling_only() {
        for file in ["%2e", "%61", "a%2fb", "%2E%2E", "%FF", "%252f%41"] {
            assert_eq!(back(file), None, "{file}");
        }
    }

    #[test]
    fn long_names_fit_and_are_found_again() {
        let long = "é/".repeat(200);
        let file = encode(&long);
        assert!(file.len() <= NAME_MAX);
        assert_eq!(back(&file), Some(Decoded::Shortened));
        let other = format!("{long}x");
        assert_ne!(encode(&other), file);
        let names = [other.as_str(), long.as_str()];
        assert_eq!(find(OsStr::new(&file), names.into_iter()), Some(long.as_str()));
    }

    #[test]
    fn invalid_utf8_is_no_name() {
        assert_eq!(decode(OsStr::from_bytes(b"\xff\xfe")), None);
    }

    fn nasty() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![
                Just("%".to_owned()),
                Just("%~".to_owned()),
                Just("%2F".to_owned()),
                Just(".".to_owned()),
                Just("/".to_owned()),
                Just("\u{0}".to_owned()),
                Just("é".repeat(60)),
                any::<char>().prop_map(String::from),
            ],
            0..12,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn every_name_is_a_file_name_and_comes_back(name in nasty()) {
            let file = encode(&name);
            prop_assert!(!file.is_empty() && file.len() <= NAME_MAX);
            prop_assert!(!file.contains('/') && !file.chars().any(char::is_control));
            prop_assert!(file != "." && file != ".." && !RESERVED.contains(&file.as_str()));
            match back(&file) {
                Some(Decoded::Exact(same)) => prop_assert_eq!(same, name),
                Some(Decoded::Shortened) => prop_assert!(name.len() > 80),
                None => prop_assert!(false, "{file} does not decode"),
            }
        }

        #[test]
        fn two_names_never_share_a_file(a in nasty(), b in nasty()) {
            prop_assert_eq!(encode(&a) == encode(&b), a == b);
        }

        #[test]
        fn any_file_name_is_refused_or_is_the_one_spelling(file in "\\PC{0,40}") {
            if let Some(Decoded::Exact(name)) = back(&file) {
                prop_assert_eq!(encode(&name), file);
            }
        }
    }
}
