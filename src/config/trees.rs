//! Owns `[[tree]]`: where each tree stands, which backend serves it, and that none lies inside another.
//! Does not know what is in a backend.

use toml_edit::{Document, Item, TableLike, Value};

use super::keys::Table;
use super::reader::{At, Section, hint, place, start, type_name};
use super::{FoundBackend, MountSettings, Reading, units};
use crate::path::BackendPath;

/// One tree of secrets in the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeSettings {
    /// Folders below the mountpoint; none is the mountpoint itself.
    pub path: Vec<String>,
    /// The name of its backend.
    pub backend: String,
    /// Where the tree begins in the backend.
    pub source: BackendPath,
    /// Permissions of files; `[mount]` already counted in.
    pub mode: u32,
    /// Owner shown; `[mount]` already counted in, none is the user who mounts.
    pub owner: Option<u32>,
    /// Group shown; `[mount]` already counted in, none is that of the user who mounts.
    pub group: Option<u32>,
}

/// Every tree of the file that could be read; what is wrong is noted.
pub(super) fn read<'a>(
    reading: &Reading<'a>,
    document: &'a Document<&str>,
    mount: &MountSettings,
    backends: &[FoundBackend],
) -> Vec<TreeSettings> {
    let found: Vec<_> = tables(reading, document)
        .into_iter()
        .filter_map(|(at, table)| {
            let section = Section::new(reading.notes, "[[tree]]".into(), at, table).knows(Table::Tree);
            tree(&section, mount, backends)
        })
        .collect();
    refuse_overlaps(reading, &found);
    found.into_iter().map(|found| found.value).collect()
}

/// The tables of `[[tree]]`, or of `tree = [{...}]`, which is the same to TOML.
fn tables<'a>(reading: &Reading<'a>, document: &'a Document<&str>) -> Vec<(usize, &'a dyn TableLike)> {
    let notes = reading.notes;
    let Some((key, item)) = document.get_key_value("tree") else {
        notes.add(0, "missing table [[tree]]; add one with `path` and `backend`".into());
        return Vec::new();
    };
    let at = place(key, item);
    match item {
        Item::ArrayOfTables(array) => {
            array.iter().map(|table| (start(table.span()), table as &dyn TableLike)).collect()
        }
        Item::Value(Value::Array(array)) if array.is_empty() => {
            notes.add(at, "`tree` is empty; add a [[tree]] with `path` and `backend`".into());
            Vec::new()
        }
        Item::Value(Value::Array(array)) if array.iter().all(Value::is_inline_table) => {
            let tables = array.iter().filter_map(|value| {
                value.as_inline_table().map(|table| (start(value.span()), table as &dyn TableLike))
            });
            tables.collect()
        }
        other => {
            let text =
                format!("`tree`: expected [[tree]] (two brackets on each side), found {}", type_name(other));
            notes.add(at, text);
            Vec::new()
        }
    }
}

fn tree(section: &Section<'_>, mount: &MountSettings, backends: &[FoundBackend]) -> Option<At<TreeSettings>> {
    section.refuse_unknown();
    section.require("path");
    section.require("backend");
    let path = section.parsed("path", units::tree_path);
    let backend = section.filled("backend");
    if let Some(found) = backend
        && !backends.iter().any(|backend| backend.name == found.value)
    {
        let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
        let hint = if names.is_empty() { "add one".to_owned() } else { hint(found.value, &names) };
        section.refuse("backend", found.at, format!("the file has no [backend.NAME] of this name; {hint}"));
    }
    // `text` has refused NUL, the only thing that a path cannot be parsed from
    let source = section.text("source").and_then(|found| BackendPath::parse(found.value).ok());
    let mode = section.parsed("mode", units::mode).map_or(mount.mode, |found| found.value);
    let owner = section.owner("owner", units::user).or(mount.uid);
    let group = section.owner("group", units::group).or(mount.gid);
    let At { at, value: path } = path?;
    let (backend, source) = (backend?.value.to_owned(), source.unwrap_or_default());
    Some(At { at, value: TreeSettings { path, backend, source, mode, owner, group } })
}

/// A path must belong to one tree only. The later of two is the one to change.
fn refuse_overlaps(reading: &Reading<'_>, trees: &[At<TreeSettings>]) {
    for (i, later) in trees.iter().enumerate() {
        for earlier in trees.iter().take(i) {
            let (above, below) = (&earlier.value.path, &later.value.path);
            let relation = if above == below {
                "is the same as"
            } else if below.starts_with(above) {
                "lies inside"
            } else if above.starts_with(below) {
                "contains"
            } else {
                continue;
            };
            let line = reading.notes.line(earlier.at);
            let text = format!(
                "`path` in [[tree]]: this {relation} the path of the tree in line {line}; choose another"
            );
            reading.notes.add(later.at, text);
        }
    }
}
