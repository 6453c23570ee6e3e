//! Owns inode numbers: which number stands for what, and for how long the kernel remembers it.
//! Does not know attributes or values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use siphasher::sip::SipHasher13;

use super::TreeId;
use super::edition::{Edition, Editions};
use super::journal::{Inherited, Journal};
use super::shown::Shown;
use crate::cache::{Bookmark, SecretRef};
use crate::clock::Moment;
use crate::number_hash::BuildNumberHash;
use crate::render::View;
use crate::secret::Version;

/// An inode number. The root is 1 (FUSE_ROOT_ID, linux/fuse.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct INodeNo(pub u64);

impl INodeNo {
    /// The root of the mount.
    pub const ROOT: Self = Self(1);
}

/// What an inode stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// A directory of the configuration that only leads to trees.
    Junction(Vec<String>),
    /// A folder, a secret, or both under one name; where `of` names a version, the secret at that version alone.
    Directory {
        /// In which tree.
        tree: TreeId,
        /// What it shows.
        of: SecretRef,
    },
    /// `.versions`: where the versions of a secret are found by name.
    Versions {
        /// In which tree.
        tree: TreeId,
        /// The secret.
        of: SecretRef,
    },
    /// One field of a secret.
    Field {
        /// In which tree.
        tree: TreeId,
        /// The secret.
        of: SecretRef,
        /// The backend's name for the field.
        field: Box<str>,
    },
    /// A reserved name of a secret.
    View {
        /// In which tree.
        tree: TreeId,
        /// The secret.
        of: SecretRef,
        /// Which one.
        view: View,
    },
}

impl Place {
    /// Whether it has bytes: a field or a view.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::Field { .. } | Self::View { .. })
    }

    /// The secret or folder that it shows or is a part of; none for a directory of the configuration.
    pub fn shown(&self) -> Option<(TreeId, &SecretRef)> {
        match self {
            Self::Junction(_) => None,
            Self::Directory { tree, of }
            | Self::Versions { tree, of }
            | Self::Field { tree, of, .. }
            | Self::View { tree, of, .. } => Some((*tree, of)),
        }
    }

    /// The secret or folder that it belongs to; none for what the configuration alone made.
    pub fn of(&self) -> Option<&SecretRef> {
        self.shown().map(|(_, of)| of)
    }
}

/// A place that has an inode number.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub ino: INodeNo,
    /// The directory it was found in; the root is its own.
    pub parent: INodeNo,
    /// What it stands for.
    pub place: Place,
    /// A keyed hash of [`Place::of`]: the same for all that belongs to one secret.
    pub secret: u64,
    /// What is remembered of a file; none of a directory, of which there are as many.
    pub file: Option<Box<FileNode>>,
}

/// What is remembered of a file that the kernel holds.
#[derive(Debug, Default)]
pub struct FileNode {
    /// Where the cache had its secret the last time.
    pub bookmark: Bookmark,
    /// What the kernel knows of it.
    pub shown: Shown,
    /// Which versions of it were opened.
    pub editions: Editions,
}

impl Node {
    fn new(ino: INodeNo, parent: INodeNo, place: Place, key: &SipHasher13) -> Self {
        let mut hasher = *key;
        place.of().hash(&mut hasher);
        let secret = hasher.finish();
        let file = place.is_file().then(Box::default);
        Self { ino, parent, place, secret, file }
    }

    /// Notes that the kernel is told attributes ([`Shown::tell`]); a directory's it may always keep.
    pub fn tell(&self, mark: u64, size: u64, now: Moment) -> bool {
        self.file.as_ref().is_none_or(|file| file.shown.tell(mark, size, now))
    }
}

/// All inodes that the kernel knows. Numbers are a keyed hash of the place, so one place keeps its number while the
/// mount lives, however often it is forgotten, and nobody outside can make two places collide on purpose. With a journal the
/// next worker knows the same.
pub struct INodeTable {
    key: SipHasher13,
    /// Written to under the lock below: an entry for writing, an edition for reading, which keeps a new snapshot away.
    journal: Option<Journal>,
    /// Guards the maps of known inodes; held for map operations, and while the journal is written.
    known: RwLock<KnownINodes>,
}

#[derive(Default)]
struct KnownINodes {
    by_number: HashMap<INodeNo, Known, BuildNumberHash>,
    /// The files (fields, views) among them, each after the number of its directory.
    files: BTreeSet<(INodeNo, INodeNo)>,
    /// Of which trees it was recorded whether their secrets are made on demand.
    trees: BTreeMap<usize, bool>,
}

struct Known {
    node: Arc<Node>,
    /// As counted by this worker.
    lookups: u64,
    /// Whether a former worker has counted more, nobody knows how many.
    inherited: bool,
}

impl INodeTable {
    /// A table that knows the root only.
    pub fn new(root: Place) -> Self {
        let half = || RandomState::new().hash_one(());
        Self::of(root, SipHasher13::new_with_keys(half(), half()), None, Inherited::default())
    }

    /// A table that knows the root and what former workers knew, and tells the next one.
    pub fn with_journal(root: Place, mut journal: Journal) -> Self {
        let (key, inherited) = (SipHasher13::new_with_key(&journal.key()), journal.take_inherited());
        Self::of(root, key, Some(journal), inherited)
    }

    fn of(root: Place, key: SipHasher13, journal: Option<Journal>, inherited: Inherited) -> Self {
        let node = Arc::new(Node::new(INodeNo::ROOT, INodeNo::ROOT, root, &key));
        let mut known = KnownINodes::default();
        known.by_number.insert(INodeNo::ROOT, Known { node, lookups: 1, inherited: false });
        known.by_number.reserve(inherited.nodes.len());
        for left in inherited.nodes {
            let mut node = Node::new(left.ino, left.parent, left.place, &key);
            if let Some(file) = &mut node.file {
                file.shown = Shown::inherited(left.editions.iter().map(|edition| edition.size).max());
                file.editions = Editions::inherited(left.editions);
                known.files.insert((left.parent, left.ino));
            }
            known.by_number.insert(left.ino, Known { node: Arc::new(node), lookups: 0, inherited: true });
        }
        known.trees = inherited.trees.into_iter().map(|(tree, on_demand)| (tree.0, on_demand)).collect();
        Self { key, journal, known: RwLock::new(known) }
    }

    /// Of which trees former workers knew whether their secrets are made on demand.
    pub fn trees(&self) -> Vec<(TreeId, bool)> {
        self.read().trees.iter().map(|(tree, on_demand)| (TreeId(*tree), *on_demand)).collect()
    }

    /// Tells the next worker whether the secrets of a tree are made on demand.
    pub fn note_on_demand(&self, tree: TreeId, on_demand: bool) {
        let Some(journal) = &self.journal else { return };
        let mut known = self.write();
        if known.trees.insert(tree.0, on_demand) != Some(on_demand) {
            journal.tree(tree, on_demand);
        }
    }

    /// The version of each secret that was opened last, of those whose files are known to have been opened.
    pub fn opened_last(&self) -> HashMap<SecretRef, Version> {
        let mut last: HashMap<SecretRef, Edition> = HashMap::new();
        for known in self.read().by_number.values() {
            let editions = known.node.file.iter().filter_map(|file| file.editions.last());
            let Some(of) = known.node.place.of() else { continue };
            for edition in editions {
                if last.get(of).is_none_or(|before| before.number < edition.number) {
                    last.insert(of.clone(), edition);
                }
            }
        }
        last.into_iter().map(|(of, edition)| (of, edition.version)).collect()
    }

    /// The how-manieth worker of the journal this is; 1 where there is none.
    pub fn worker(&self) -> u32 {
        self.journal.as_ref().map_or(1, Journal::worker)
    }

    /// The number of the edition of a file that is being opened, for its handle; 0 where the next worker could not have it
    /// again. The first open of a version writes, all others only look.
    pub fn edition(&self, node: &Node, version: &Version, created: Option<SystemTime>, size: u64) -> u32 {
        let (Some(journal), Some(file)) = (&self.journal, &node.file) else { return 0 };
        // What is known of a secret tells times, so it is never the same again.
        if version.as_str().is_empty() || matches!(node.place, Place::View { view: View::Meta, .. }) {
            return 0;
        }
        let number = file.editions.number(version, created, size);
        if number != 0 {
            return number;
        }
        let opened = Edition { number: 0, version: version.clone(), created, size };
        let known = self.read();
        let number = file.editions.number_or(opened, |edition| journal.edition(node.ino, edition));
        drop(known);
        if journal.has_grown() {
            self.compact(&self.write());
        }
        number
    }

    /// Writes the journal anew, where that is due still.
    fn compact(&self, known: &KnownINodes) {
        if let Some(journal) = self.journal.as_ref().filter(|journal| journal.has_grown()) {
            let trees = known.trees.iter().map(|(tree, on_demand)| (TreeId(*tree), *on_demand));
            journal.compact(known.by_number.values().map(|known| &*known.node), trees);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, KnownINodes> {
        self.known.read().unwrap_or_else(|e| e.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, KnownINodes> {
        self.known.write().unwrap_or_else(|e| e.into_inner())
    }

    /// The node of a number that the kernel holds.
    pub fn get(&self, ino: INodeNo) -> Option<Arc<Node>> {
        let known = self.read();
        known.by_number.get(&ino).map(|known| known.node.clone())
    }

    /// The files (fields, views) that the kernel holds and that were found in this directory, which it need not hold.
    pub fn files_in(&self, directory: INodeNo) -> Vec<Arc<Node>> {
        let known = self.read();
        let files = known.files.range((directory, INodeNo(0))..=(directory, INodeNo(u64::MAX)));
        files.filter_map(|(_, ino)| known.by_number.get(ino).map(|known| known.node.clone())).collect()
    }

    /// The number that `place` has or would get, without remembering it: for readdir(3), which is not a lookup.
    pub fn number(&self, place: &Place) -> INodeNo {
        // 0 means "no inode" and 1 is the root.
        let mut hasher = self.key;
        feed(place, &mut hasher);
        INodeNo(hasher.finish().max(2))
    }

    /// Counts one lookup of `place` and returns its node; the kernel gives the count back with forget.
    pub fn look_up(&self, parent: INodeNo, place: Place) -> Arc<Node> {
        let mut ino = self.number(&place);
        let mut known = self.write();
        let KnownINodes { by_number, files, .. } = &mut *known;
        while let Some(slot) = by_number.get_mut(&ino) {
            if slot.node.place == place {
                slot.lookups += 1;
                return slot.node.clone();
            }
            // Two places with one hash: the later one moves on.
            ino = INodeNo(ino.0.wrapping_add(1).max(2));
        }
        let node = Arc::new(Node::new(ino, parent, place, &self.key));
        // Before anybody can know of it.
        if let Some(journal) = &self.journal {
            journal.node(&node);
        }
        if node.file.is_some() {
            files.insert((parent, ino));
        }
        by_number.insert(ino, Known { node: node.clone(), lookups: 1, inherited: false });
        self.compact(&known);
        node
    }

    /// The kernel dropped `lookups` of its references. Those that a former worker was given are not counted: the kernel drops
    /// all at once, so it has forgotten the inode when it drops more than this worker gave. One that it might hold still is
    /// kept.
    pub fn forget(&self, ino: INodeNo, lookups: u64) {
        if ino == INodeNo::ROOT {
            return;
        }
        let mut known = self.write();
        let KnownINodes { by_number, files, .. } = &mut *known;
        let Some(slot) = by_number.get_mut(&ino) else { return };
        let is_held = if slot.inherited { lookups <= slot.lookups } else { lookups < slot.lookups };
        if is_held {
            slot.lookups -= lookups;
            return;
        }
        files.remove(&(slot.node.parent, ino));
        by_number.remove(&ino);
        if let Some(journal) = &self.journal {
            journal.gone(ino);
        }
        self.compact(&known);
    }

    /// How many inodes the kernel holds, the root included.
    pub fn len(&self) -> usize {
        self.read().by_number.len()
    }

    /// Never: the root is always known.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// A place in bytes, each different from all others: what the numbers are a hash of in this and all later programs.
fn feed(place: &Place, hasher: &mut SipHasher13) {
    let mut text = |text: &str| {
        hasher.write(&(text.len() as u64).to_le_bytes());
        hasher.write(text.as_bytes());
    };
    let (kind, own): (u8, &str) = match place {
        Place::Junction(names) => {
            names.iter().for_each(|name| text(name));
            (0, "")
        }
        Place::Directory { .. } => (1, ""),
        Place::Versions { .. } => (2, ""),
        Place::Field { field, .. } => (3, field),
        Place::View { view, .. } => (4, view.name()),
    };
    text(own);
    if let Some((tree, of)) = place.shown() {
        for segment in of.path.segments() {
            text(segment);
        }
        text(of.version.as_ref().map_or("", |version| version.as_str()));
        let numbers = [u64::from(of.version.is_some()), tree.0 as u64];
        let numbers = numbers.into_iter().chain([of.source.0.into(), of.demand.0.into()]);
        numbers.for_each(|number| hasher.write(&number.to_le_bytes()));
    }
    hasher.write_u8(kind);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::SourceId;
    use crate::path::BackendPath;

    fn junction(name: &str) -> Place {
        Place::Junction(vec![name.to_owned()])
    }

    #[test]
    fn a_place_keeps_its_number_through_forget() {
        let table = INodeTable::new(Place::Junction(vec![]));
        let first = table.look_up(INodeNo::ROOT, junction("a")).ino;
        table.look_up(INodeNo::ROOT, junction("a"));
        table.forget(first, 1);
        assert!(table.get(first).is_some());
        table.forget(first, 1);
        assert!(table.get(first).is_none());
        assert_eq!(table.look_up(INodeNo::ROOT, junction("a")).ino, first);
        assert_eq!(table.number(&junction("a")), first);
    }

    #[test]
    fn the_root_is_never_forgotten_and_a_wrong_count_does_no_harm() {
        let table = INodeTable::new(Place::Junction(vec![]));
        table.forget(INodeNo::ROOT, u64::MAX);
        table.forget(INodeNo(77), 1);
        let a = table.look_up(INodeNo::ROOT, junction("a")).ino;
        table.forget(a, u64::MAX);
        assert_eq!(table.len(), 1);
        assert!(table.get(INodeNo::ROOT).is_some());
    }

    #[test]
    fn the_files_of_a_directory_are_known_until_they_are_forgotten() {
        let of = SecretRef::current(SourceId(0), BackendPath::root());
        let tree = TreeId(0);
        let field = |name: &str| Place::Field { tree, of: of.clone(), field: name.into() };
        let table = INodeTable::new(Place::Junction(vec![]));
        let directory = table.look_up(INodeNo::ROOT, Place::Directory { tree, of: of.clone() }).ino;
        let a = table.look_up(directory, field("a")).ino;
        table.look_up(directory, field("a"));
        let view = table.look_up(directory, Place::View { tree, of: of.clone(), view: View::Env }).ino;
        let files = || table.files_in(directory).iter().map(|node| node.ino).collect::<BTreeSet<_>>();
        assert_eq!(files(), [a, view].into());
        assert!(table.files_in(INodeNo::ROOT).is_empty(), "a directory is no file");
        table.forget(a, 1);
        table.forget(directory, 1);
        assert_eq!(files(), [a, view].into());
        table.forget(a, 1);
        assert_eq!(files(), [view].into());
        table.forget(view, 1);
        assert!(files().is_empty());
    }
}
