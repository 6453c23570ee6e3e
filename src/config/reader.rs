//! Owns strict reading of TOML: every key is known, has the right type, and whatever is wrong is noted with its line.
//! Does not know what the keys mean, and puts no value of the file into a message: it may be a pasted secret.

use std::fmt;

use toml_edit::{Item, TableLike, Value};

use super::keys::{self, Key};
use super::notes::Notes;
use super::shape::{At, entries, hint, place, shown, type_name, type_name_of};
use super::units::{self, Bad};

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

    /// Notes `text` about the section as a whole.
    pub(super) fn note(&self, text: &str) {
        self.notes.add(self.at, format!("{}: {text}", self.label));
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

    /// An array of strings without NUL.
    pub(super) fn texts(&self, name: &str) -> Option<At<Vec<&'a str>>> {
        let (key, at, item) = self.find(name)?;
        let Some(array) = item.as_array() else { return self.wrong_type(key, at, item) };
        if let Some(other) = array.iter().find(|value| !value.is_str()) {
            let expected = key.kind.expected();
            self.refuse(
                name,
                at,
                format_args!("{expected}; found {} in it", type_name_of(other.type_name())),
            );
            return None;
        }
        let value: Vec<_> = array.iter().filter_map(Value::as_str).collect();
        if value.iter().any(|text| text.contains('\0')) {
            self.refuse(name, at, "a NUL is not allowed; remove it");
            return None;
        }
        Some(At { at, value })
    }

    /// A string, or an array of them.
    pub(super) fn text_or_texts(&self, name: &str) -> Option<At<Vec<&'a str>>> {
        let (_, at, item) = self.find(name)?;
        match item.as_str() {
            Some(text) => Some(At { at, value: vec![text] }),
            None => self.texts(name),
        }
    }

    /// A table, inline or with a heading of its own.
    pub(super) fn table(&self, name: &str) -> Option<&'a dyn TableLike> {
        let (key, at, item) = self.find(name)?;
        item.as_table_like().or_else(|| self.wrong_type(key, at, item))
    }

    /// Whether the key `name` is there, right or wrong.
    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Where the key `name` stands, if it is there.
    pub(super) fn place_of(&self, name: &str) -> Option<usize> {
        self.table.get_key_value(name).map(|(key, item)| place(key, item))
    }

    /// A string that `parse` understands; a bare `0` where a duration may be zero.
    pub(super) fn parsed<T, E: fmt::Display>(
        &self,
        name: &str,
        parse: fn(&str) -> Result<T, E>,
    ) -> Option<At<T>> {
        let (key, at, item) = self.find(name)?;
        if key.kind == keys::Kind::DurationOrZero && item.is_integer() {
            let zero = item.as_integer().filter(|number| *number == 0).and_then(|_| parse("0").ok());
            return zero.map(|value| At { at, value }).or_else(|| self.wrong_type(key, at, item));
        }
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

fn is_right_type(key: &Key, item: &Item) -> bool {
    match key.kind {
        keys::Kind::Switch => item.is_bool(),
        keys::Kind::Count => item.is_integer(),
        keys::Kind::User | keys::Kind::Group | keys::Kind::DurationOrZero => {
            item.is_str() || item.is_integer()
        }
        keys::Kind::Patterns => item.is_str() || item.is_array(),
        keys::Kind::Command | keys::Kind::Names => item.is_array(),
        keys::Kind::Parameters => item.is_table_like(),
        _ => item.is_str(),
    }
}
