//! Owns `[[secret]]`: one secret that is made on demand, and where it stands in the mount.
//! Does not know how it is made, or what else stands in the mount (places.rs).

use super::keys::Table;
use super::notes::Notes;
use super::on_demand::{self, OnDemandSettings};
use super::places::{self, Stand};
use super::reader::Section;
use super::shape::{At, Tables};
use super::{FoundBackend, MountSettings};
use crate::path::BackendPath;

/// One secret that is made when a file of it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSettings {
    /// Its folder: names below the mountpoint; none is the mountpoint itself.
    pub path: Vec<String>,
    /// The name of its backend, which is one that makes secrets.
    pub backend: String,
    /// Where the backend makes it; never the root.
    pub source: BackendPath,
    /// How it is made.
    pub on_demand: OnDemandSettings,
    /// Permissions of its files; `[mount]` already counted in.
    pub mode: u32,
    /// Owner shown; `[mount]` already counted in, none is the user who mounts.
    pub owner: Option<u32>,
    /// Group shown; `[mount]` already counted in, none is that of the user who mounts.
    pub group: Option<u32>,
}

/// Every secret of the file that could be read, each with the place of its path; what is wrong is noted.
pub(super) fn read<'a>(
    notes: &'a Notes<'a>,
    tables: Tables<'a>,
    mount: &MountSettings,
    backends: &[FoundBackend],
) -> Vec<At<SecretSettings>> {
    let secrets = tables.into_iter().filter_map(|(at, table)| {
        let section = Section::new(notes, "[[secret]]".into(), at, table).knows(Table::Secret);
        secret(&section, mount, backends)
    });
    secrets.collect()
}

fn secret(
    section: &Section<'_>,
    mount: &MountSettings,
    backends: &[FoundBackend],
) -> Option<At<SecretSettings>> {
    section.refuse_unknown();
    for name in ["path", "backend", "source"] {
        section.require(name);
    }
    let stand = places::stand(section, mount);
    let backend = places::backend(section, backends);
    if let Some((named, Some(found))) = backend
        && found.makes_secrets() == Some(false)
    {
        section.refuse(
            "backend",
            named.at,
            "only a backend of type `vault` makes secrets on demand; name one, or write a [[tree]]",
        );
    }
    let source = source(section);
    let on_demand = on_demand::settings(section);
    let At { at, value: Stand { path, mode, owner, group } } = stand?;
    let (backend, source) = (backend?.0.value.to_owned(), source?);
    Some(At { at, value: SecretSettings { path, backend, source, on_demand, mode, owner, group } })
}

fn source(section: &Section<'_>) -> Option<BackendPath> {
    let At { at, value } = section.filled("source")?;
    // Vault cleans a path as a shell would (`path.Clean`), and answers at another one.
    let strange = |segment: &str| matches!(segment, "" | "." | "..");
    let parsed = BackendPath::parse(value).ok();
    let good = parsed.filter(|path| !path.is_root() && !path.segments().any(strange));
    if good.is_none() {
        section.refuse(
            "source",
            at,
            "expected the path of a role such as \"database/creds/app\", the engine first, without empty, `.` or `..` segments",
        );
    }
    good
}

#[cfg(test)]
mod tests;
