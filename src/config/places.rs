//! Owns what `[[tree]]` and `[[secret]]` share: where each stands, which backend serves it, and that none lies inside another.
//! Does not know what is in a backend.

use toml_edit::Document;

use super::notes::Notes;
use super::reader::Section;
use super::shape::{self, At, Tables, hint};
use super::{FoundBackend, MountSettings, Reading, SecretSettings, TreeSettings, secrets, trees, units};

/// Everything that stands in the mount.
pub(super) struct Places {
    pub(super) trees: Vec<TreeSettings>,
    pub(super) secrets: Vec<SecretSettings>,
}

/// Every tree and secret of the file that could be read; what is wrong is noted.
pub(super) fn read<'a>(
    reading: &Reading<'a>,
    document: &'a Document<&str>,
    mount: &MountSettings,
    backends: &[FoundBackend],
) -> Places {
    let notes = reading.notes;
    let [of_trees, of_secrets] = ["tree", "secret"].map(|name| shape::tables(notes, document, name));
    require_one(notes, document, [("tree", &of_trees), ("secret", &of_secrets)]);
    let tables = |found: Option<At<Tables<'a>>>| found.map(|found| found.value).unwrap_or_default();
    let trees = trees::read(notes, tables(of_trees), mount, backends);
    let secrets = secrets::read(notes, tables(of_secrets), mount, backends);
    let of_trees = trees.iter().map(|found| ("tree", found.at, &*found.value.path));
    let of_secrets = secrets.iter().map(|found| ("secret", found.at, &*found.value.path));
    refuse_overlaps(notes, of_trees.chain(of_secrets).collect());
    Places {
        trees: trees.into_iter().map(|found| found.value).collect(),
        secrets: secrets.into_iter().map(|found| found.value).collect(),
    }
}

impl Places {
    /// The path of each.
    pub(super) fn paths(&self) -> impl Iterator<Item = &[String]> {
        let of_trees = self.trees.iter().map(|tree| &*tree.path);
        of_trees.chain(self.secrets.iter().map(|secret| &*secret.path))
    }

    /// The name of the backend of each.
    pub(super) fn backends(&self) -> impl Iterator<Item = &str> {
        let of_trees = self.trees.iter().map(|tree| &*tree.backend);
        of_trees.chain(self.secrets.iter().map(|secret| &*secret.backend))
    }
}

/// Where something stands in the mount, and who may see it.
pub(super) struct Stand {
    pub(super) path: Vec<String>,
    pub(super) mode: u32,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
}

/// `path`, `mode`, `owner` and `group` of a section; none without a good path.
pub(super) fn stand(section: &Section<'_>, mount: &MountSettings) -> Option<At<Stand>> {
    let path = section.parsed("path", units::tree_path);
    let mode = section.parsed("mode", units::mode).map_or(mount.mode, |found| found.value);
    let owner = section.owner("owner", units::user).or(mount.uid);
    let group = section.owner("group", units::group).or(mount.gid);
    path.map(|At { at, value: path }| At { at, value: Stand { path, mode, owner, group } })
}

/// The name in `backend` of a section, and the backend of that name; that there is none is noted.
pub(super) fn backend<'a, 'b>(
    section: &Section<'a>,
    backends: &'b [FoundBackend],
) -> Option<(At<&'a str>, Option<&'b FoundBackend>)> {
    let named = section.filled("backend")?;
    let found = backends.iter().find(|backend| backend.name == named.value);
    if found.is_none() {
        let names: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
        let hint = if names.is_empty() { "add one".to_owned() } else { hint(named.value, &names) };
        section.refuse("backend", named.at, format!("the file has no [backend.NAME] of this name; {hint}"));
    }
    Some((named, found))
}

/// A mount shows something. What has the wrong shape is noted already.
fn require_one(notes: &Notes<'_>, document: &Document<&str>, found: [(&str, &Option<At<Tables<'_>>>); 2]) {
    if found.iter().all(|(name, _)| !document.contains_key(name)) {
        notes.add(0, "missing table [[tree]] or [[secret]]; add one with `path` and `backend`".into());
    }
    let tables = || found.iter().filter_map(|(name, found)| Some((name, found.as_ref()?)));
    if tables().all(|(_, found)| found.value.is_empty()) {
        for (name, found) in tables() {
            notes.add(found.at, format!("`{name}` is empty; add a [[{name}]] with `path` and `backend`"));
        }
    }
}

/// A path must belong to one place only. The later of two is the one to change. Each is what it is called, the byte where its
/// path stands, and the path.
fn refuse_overlaps(notes: &Notes<'_>, mut places: Vec<(&str, usize, &[String])>) {
    places.sort_by_key(|(_, at, _)| *at);
    for (i, (label, at, below)) in places.iter().enumerate() {
        for (what, earlier, above) in places.iter().take(i) {
            let relation = if above == below {
                "is the same as"
            } else if below.starts_with(above) {
                "lies inside"
            } else if above.starts_with(below) {
                "contains"
            } else {
                continue;
            };
            let line = notes.line(*earlier);
            let text = format!(
                "`path` in [[{label}]]: this {relation} the path of the {what} in line {line}; choose another"
            );
            notes.add(*at, text);
        }
    }
}
