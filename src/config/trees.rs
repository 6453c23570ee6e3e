//! Owns `[[tree]]`: what of a backend is shown as a tree of files, and how.
//! Does not know what is in a backend, or what else stands in the mount (places.rs).

use super::keys::Table;
use super::notes::Notes;
use super::on_demand::{self, OnDemandSettings};
use super::places::{self, Stand};
use super::reader::Section;
use super::shape::{At, Tables};
use super::{FoundBackend, MountSettings, freshness};
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
    /// How secrets in it are made, where the backend makes them on demand; the default for all backends but Vault.
    pub on_demand: OnDemandSettings,
    /// Permissions of files; `[mount]` already counted in.
    pub mode: u32,
    /// Owner shown; `[mount]` already counted in, none is the user who mounts.
    pub owner: Option<u32>,
    /// Group shown; `[mount]` already counted in, none is that of the user who mounts.
    pub group: Option<u32>,
}

/// Every tree of the file that could be read, each with the place of its path; what is wrong is noted.
pub(super) fn read<'a>(
    notes: &'a Notes<'a>,
    tables: Tables<'a>,
    mount: &MountSettings,
    backends: &[FoundBackend],
) -> Vec<At<TreeSettings>> {
    let trees = tables.into_iter().filter_map(|(at, table)| {
        let section = Section::new(notes, "[[tree]]".into(), at, table).knows(Table::Tree);
        tree(&section, mount, backends)
    });
    trees.collect()
}

fn tree(section: &Section<'_>, mount: &MountSettings, backends: &[FoundBackend]) -> Option<At<TreeSettings>> {
    section.refuse_unknown();
    section.require("path");
    section.require("backend");
    let stand = places::stand(section, mount);
    let backend = places::backend(section, backends);
    // `text` has refused NUL, the only thing that a path cannot be parsed from
    let source = section.text("source").and_then(|found| BackendPath::parse(found.value).ok());
    let promise = freshness::promise(section);
    let on_demand = on_demand::settings(section);
    if backend.and_then(|(_, found)| found?.makes_secrets()) == Some(false) {
        for name in on_demand::KEYS {
            if let Some(at) = section.place_of(name) {
                section.refuse(name, at, "only a backend of type `vault` makes secrets on demand; remove it");
            }
        }
    }
    let At { at, value: Stand { path, mode, owner, group } } = stand?;
    let (backend, source) = (backend?.0.value.to_owned(), source.unwrap_or_default());
    Some(At { at, value: TreeSettings { path, backend, source, promise, on_demand, mode, owner, group } })
}
