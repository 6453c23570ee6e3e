//! Owns inode numbers: which number stands for what, and for how long the kernel remembers it.
//! Does not know attributes or values.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, RwLock};

use super::TreeId;
use super::shown::Shown;
use crate::cache::{Bookmark, SecretRef};
use crate::clock::Moment;
use crate::number_hash::BuildNumberHash;
use crate::render::View;

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
}

impl Node {
    fn new(ino: INodeNo, parent: INodeNo, place: Place, key: &RandomState) -> Self {
        let secret = key.hash_one(place.of());
        let file = place.is_file().then(Box::default);
        Self { ino, parent, place, secret, file }
    }

    /// Notes that the kernel is told attributes ([`Shown::tell`]); a directory's it may always keep.
    pub fn tell(&self, mark: u64, size: u64, now: Moment) -> bool {
        self.file.as_ref().is_none_or(|file| file.shown.tell(mark, size, now))
    }
}

/// All inodes that the kernel knows. Numbers are a keyed hash of the place, so one place keeps its number while the
/// process lives, however often it is forgotten, and nobody outside can make two places collide on purpose.
pub struct INodeTable {
    key: RandomState,
    /// Guards the maps of known inodes; held for map operations only.
    known: RwLock<KnownINodes>,
}

#[derive(Default)]
struct KnownINodes {
    by_number: HashMap<INodeNo, Known, BuildNumberHash>,
    /// The files (fields, views) among them, each after the number of its directory.
    files: BTreeSet<(INodeNo, INodeNo)>,
}

struct Known {
    node: Arc<Node>,
    lookups: u64,
}

impl INodeTable {
    /// A table that knows the root only.
    pub fn new(root: Place) -> Self {
        let key = RandomState::new();
        let node = Arc::new(Node::new(INodeNo::ROOT, INodeNo::ROOT, root, &key));
        let mut known = KnownINodes::default();
        known.by_number.insert(INodeNo::ROOT, Known { node, lookups: 1 });
        Self { key, known: RwLock::new(known) }
    }

    /// The node of a number that the kernel holds.
    pub fn get(&self, ino: INodeNo) -> Option<Arc<Node>> {
        let known = self.known.read().unwrap_or_else(|e| e.into_inner());
        known.by_number.get(&ino).map(|known| known.node.clone())
    }

    /// The files (fields, views) that the kernel holds and that were found in this directory, which it need not hold.
    pub fn files_in(&self, directory: INodeNo) -> Vec<Arc<Node>> {
        let known = self.known.read().unwrap_or_else(|e| e.into_inner());
        let files = known.files.range((directory, INodeNo(0))..=(directory, INodeNo(u64::MAX)));
        files.filter_map(|(_, ino)| known.by_number.get(ino).map(|known| known.node.clone())).collect()
    }

    /// The number that `place` has or would get, without remembering it: for readdir(3), which is not a lookup.
    pub fn number(&self, place: &Place) -> INodeNo {
        // 0 means "no inode" and 1 is the root.
        INodeNo(self.key.hash_one(place).max(2))
    }

    /// Counts one lookup of `place` and returns its node; the kernel gives the count back with forget.
    pub fn look_up(&self, parent: INodeNo, place: Place) -> Arc<Node> {
        let mut ino = self.number(&place);
        let mut known = self.known.write().unwrap_or_else(|e| e.into_inner());
        let KnownINodes { by_number, files } = &mut *known;
        loop {
            let slot = by_number.entry(ino).or_insert_with(|| {
                if place.is_file() {
                    files.insert((parent, ino));
                }
                Known { node: Arc::new(Node::new(ino, parent, place.clone(), &self.key)), lookups: 0 }
            });
            if slot.node.place == place {
                slot.lookups += 1;
                return slot.node.clone();
            }
            // Two places with one hash: the later one moves on.
            ino = INodeNo(ino.0.wrapping_add(1).max(2));
        }
    }

    /// The kernel dropped `lookups` of its references.
    pub fn forget(&self, ino: INodeNo, lookups: u64) {
        if ino == INodeNo::ROOT {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(|e| e.into_inner());
        let KnownINodes { by_number, files } = &mut *known;
        let Some(slot) = by_number.get_mut(&ino) else { return };
        slot.lookups = slot.lookups.saturating_sub(lookups);
        if slot.lookups > 0 {
            return;
        }
        files.remove(&(slot.node.parent, ino));
        by_number.remove(&ino);
    }

    /// How many inodes the kernel holds, the root included.
    pub fn len(&self) -> usize {
        self.known.read().unwrap_or_else(|e| e.into_inner()).by_number.len()
    }

    /// Never: the root is always known.
    pub fn is_empty(&self) -> bool {
        false
    }
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
