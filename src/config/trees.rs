//! Owns `[[tree]]`: where each tree stands, which backend serves it, and that none lies inside another.
//! Does not know what is in a backend.

use toml_edit::Document;

use super::keys::Table;
use super::reader::Section;
use super::shape::{self, At, Tables, hint};
use super::{FoundBackend, MountSettings, Reading, freshness, units};
use crate::path::BackendPath;
use crate::tree::promises::Promise;

/// One tree of secrets in the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeSettings {
    /// Folders below the mountpoint; none is the mountpoint itself.
    pub path: Vec<String>,
    /// The name of its backend.
    pub backend: String,
    /// Where the tree begins in the backend.
    pub source: BackendPath,
    /// How old its answers may be; `[mount]` not counted in.
    pub promise: Promise,
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

/// The tables of `[[tree]]`; there must be one.
fn tables<'a>(reading: &Reading<'a>, document: &'a Document<&str>) -> Tables<'a> {
    let notes = reading.notes;
    match shape::tables(notes, document, "tree") {
        None if !document.contains_key("tree") => {
            notes.add(0, "missing table [[tree]]; add one with `path` and `backend`".into());
        }
        Some(found) if found.value.is_empty() => {
            notes.add(found.at, "`tree` is empty; add a [[tree]] with `path` and `backend`".into());
        }
        None => {}
        Some(found) => return found.value,
    }
    Vec::new()
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
    let promise = freshness::promise(section);
    let mode = section.parsed("mode", units::mode).map_or(mount.mode, |found| found.value);
    let owner = section.owner("owner", units::user).or(mount.uid);
    let group = section.owner("group", units::group).or(mount.gid);
    let At { at, value: path } = path?;
    let (backend, source) = (backend?.value.to_owned(), source.unwrap_or_default());
    Some(At { at, value: TreeSettings { path, backend, source, promise, mode, owner, group } })
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
