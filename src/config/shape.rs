//! Owns the shape of TOML: tables, their entries and places, and how a message calls what is there.
//! Does not know which keys there may be, and puts no value of the file into a message: it may be a pasted secret.

use std::ops::Range;

use toml_edit::{Document, Item, Key as TomlKey, TableLike, Value};

use super::notes::Notes;

/// A value and where its key stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<T> {
    pub(super) at: usize,
    pub(super) value: T,
}

/// Tables, each with its place.
pub(super) type Tables<'a> = Vec<(usize, &'a dyn TableLike)>;

/// The tables of `[[name]]`, or of `name = [{...}]`, which is the same to TOML, each with its place; none where the file has
/// no such name. Anything else is noted.
pub(super) fn tables<'a>(
    notes: &Notes<'_>,
    document: &'a Document<&str>,
    name: &str,
) -> Option<At<Tables<'a>>> {
    let (key, item) = document.get_key_value(name)?;
    let at = place(key, item);
    let value = match item {
        Item::ArrayOfTables(array) => {
            array.iter().map(|table| (start(table.span()), table as &dyn TableLike)).collect()
        }
        Item::Value(Value::Array(array)) if array.iter().all(Value::is_inline_table) => {
            let tables = array.iter().filter_map(|value| {
                value.as_inline_table().map(|table| (start(value.span()), table as &dyn TableLike))
            });
            tables.collect()
        }
        other => {
            let found = type_name(other);
            notes
                .add(at, format!("`{name}`: expected [[{name}]] (two brackets on each side), found {found}"));
            return None;
        }
    };
    Some(At { at, value })
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
    type_name_of(item.type_name())
}

/// The same, of what TOML calls it.
pub(super) fn type_name_of(name: &str) -> String {
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
