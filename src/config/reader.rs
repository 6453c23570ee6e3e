//! Owns strict reading of TOML: every key is known, has the right type, and whatever is wrong is noted with its line.
//! Does not know what the keys mean, and puts no value of the file into a message: it may be a pasted secret.

use std::fmt;
use std::ops::Range;

use toml_edit::{Item, Key as TomlKey, TableLike};

use super::keys::{self, Key};
use super::notes::Notes;
use super::units::{self, Bad};

/// A value and where its key stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<T> {
    pub(super) at: usize,
    pub(super) value: T,
}

/// One table of the file, with the keys it may have.
pub(super) struct Section<'a> {
    pub(super) notes: &'a Notes<'a>,
    /// The byte where the table begins.
    pub(super) at: usize,
    label: String,
    table: &'a dyn TableLike,
    known: Vec<&'static Key>,
}

impl<'a> Section<'a> {
    /// `label` is what messages call it: `[mount]`.
    pub(super) fn new(notes: &'a Notes<'a>, label: String, at: usize, table: &'a dyn TableLike) -> Self {
        Self { notes, at, label, table, known: Vec::new() }
    }

    /// Lets the keys of `table` be in this section.
    pub(super) fn knows(mut self, table: keys::Table) -> Self {
        self.known.extend(keys::of(table));
        self
    }

    /// Notes every key that is not known here.
    pub(super) fn refuse_unknown(&self) {
        let names: Vec<&str> = self.known.iter().map(|key| key.name).collect();
        for (key, item) in entries(self.table) {
            if !names.contains(&key.get()) {
                let hint = hint(key.get(), &names);
                let text = format!("unknown key `{}` in {}; {hint}", shown(key.get()), self.label);
                self.notes.add(place(key, item), text);
            }
        }
    }

    /// Notes each of `names` that is not there.
    pub(super) fn require(&self, name: &str) {
        if !self.table.contains_key(name) {
            self.notes.add(self.at, format!("missing key `{name}` in {}; add it", self.label));
        }
    }

    /// Notes `text` about the key `name`.
    pub(super) fn refuse(&self, name: &str, at: usize, text: impl fmt::Display) {
        self.notes.add(at, format!("`{name}` in {}: {text}", self.label));
    }

    /// A string, possibly empty, without control characters.
    pub(super) fn text(&self, name: &str) -> Option<At<&'a str>> {
        let (key, at, item) = self.find(name)?;
        match item.as_str() {
            Some(value) if value.chars().any(char::is_control) => {
                self.refuse(
                    name,
                    at,
                    "control characters (such as a line break) are not allowed; remove them",
                );
                None
            }
            Some(value) => Some(At { at, value }),
            None => self.wrong_type(key, at, item),
        }
    }

    /// A string that is not empty.
    pub(super) fn filled(&self, name: &str) -> Option<At<&'a str>> {
        let found = self.text(name)?;
        if found.value.is_empty() {
            self.refuse(name, found.at, "this is empty; give a value, or remove the key");
            return None;
        }
        Some(found)
    }

    /// A string that `parse` understands.
    pub(super) fn parsed<T>(&self, name: &str, parse: fn(&str) -> Result<T, Bad>) -> Option<At<T>> {
        let At { at, value } = self.text(name)?;
        match parse(value) {
            Ok(value) => Some(At { at, value }),
            Err(bad) => {
                self.refuse(name, at, bad);
                None
            }
        }
    }

    /// A user's or group's number, or a name that `parse` looks up.
    pub(super) fn owner(&self, name: &str, parse: fn(&str) -> Result<u32, Bad>) -> Option<u32> {
        let (key, at, item) = self.find(name)?;
        match item.as_integer().map(units::owner_number) {
            Some(Some(number)) => Some(number),
            None if item.is_str() => self.parsed(name, parse).map(|found| found.value),
            _ => self.wrong_type(key, at, item),
        }
    }

    /// `true` or `false`.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let (key, at, item) = self.find(name)?;
        item.as_bool().or_else(|| self.wrong_type(key, at, item))
    }

    /// A whole number from 1 to [`keys::MOST`].
    pub(super) fn count(&self, name: &str) -> Option<u32> {
        let (key, at, item) = self.find(name)?;
        let number = item.as_integer().and_then(|number| u32::try_from(number).ok());
        number.filter(|number| (1..=keys::MOST).contains(number)).or_else(|| self.wrong_type(key, at, item))
    }

    /// An `http` or `https` URL with a host and without a user or password, which would show in logs.
    pub(super) fn address(&self, name: &str) -> Option<String> {
        let (key, at, item) = self.find(name)?;
        let value = self.filled(name)?.value;
        let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://")).unwrap_or("");
        let host = rest.split('/').next().unwrap_or("");
        if host.is_empty() || host.contains('@') || value.contains(char::is_whitespace) {
            return self.wrong_type(key, at, item);
        }
        Some(value.to_owned())
    }

    fn find(&self, name: &str) -> Option<(&'static Key, usize, &'a Item)> {
        let known = self.known.iter().find(|key| key.name == name)?;
        let (key, item) = self.table.get_key_value(name)?;
        Some((known, place(key, item), item))
    }

    fn wrong_type<T>(&self, key: &Key, at: usize, item: &Item) -> Option<T> {
        let expected = key.kind.expected();
        let text = if is_right_type(key, item) {
            expected
        } else {
            format!("{expected}, found {}", type_name(item))
        };
        self.refuse(key.name, at, text);
        None
    }
}

/// The entries of a table with their keys.
pub(super) fn entries(table: &dyn TableLike) -> impl Iterator<Item = (&TomlKey, &Item)> {
    table.iter().filter_map(|(name, _)| table.get_key_value(name))
}

/// Where a key stands.
pub(super) fn place(key: &TomlKey, item: &Item) -> usize {
    start(key.span().or_else(|| item.span()))
}

/// The first byte of a span; the file's first where there is none.
pub(super) fn start(span: Option<Range<usize>>) -> usize {
    span.map_or(0, |span| span.start)
}

/// With an article, for "found ...".
pub(super) fn type_name(item: &Item) -> String {
    let name = item.type_name();
    let article = if name.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {name}")
}

/// A key as a message shows it: no control characters, and not a screenful.
pub(super) fn shown(key: &str) -> String {
    let mut short: String = key.chars().take(64).flat_map(char::escape_debug).collect();
    if key.chars().nth(64).is_some() {
        short.push_str("...");
    }
    short
}

/// The nearest of `valid` when `given` looks like a slip of it, else all of them.
pub(super) fn hint(given: &str, valid: &[&str]) -> String {
    let given = given.to_lowercase().replace('-', "_");
    let near = valid.iter().map(|name| (strsim::damerau_levenshtein(&given, &name.to_lowercase()), name));
    match near.min_by_key(|(distance, _)| *distance) {
        // one slip in a short word, one in three letters of a longer one
        Some((distance, name)) if distance <= (name.chars().count() / 3).max(1) => {
            format!("did you mean `{}`?", shown(name))
        }
        _ => format!("valid here: {}", list(valid)),
    }
}

/// `a`, `b`, `c`.
pub(super) fn list(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{}`", shown(name))).collect::<Vec<_>>().join(", ")
}

fn is_right_type(key: &Key, item: &Item) -> bool {
    match key.kind {
        keys::Kind::Switch => item.is_bool(),
        keys::Kind::Count => item.is_integer(),
        keys::Kind::User | keys::Kind::Group => item.is_str() || item.is_integer(),
        _ => item.is_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_word() {
        let valid = ["address", "namespace", "ttl"];
        assert_eq!(hint("adress", &valid), "did you mean `address`?");
        assert_eq!(hint("Address", &valid), "did you mean `address`?");
        assert_eq!(hint("tll", &valid), "did you mean `ttl`?");
        assert_eq!(hint("region", &valid), "valid here: `address`, `namespace`, `ttl`");
        assert_eq!(hint("", &[]), "valid here: ");
    }

    #[test]
    fn a_key_cannot_forge_a_line_or_fill_the_screen() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"k".repeat(70)), format!("{}...", "k".repeat(64)));
    }
}
