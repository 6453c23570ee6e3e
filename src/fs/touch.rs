//! Owns what a change of a secret means for the files that show it: which of them somebody may watch, and what is said of
//! them to the one who touches them. Does not know how a file is touched.
//!
//! Nothing in here asks a backend or waits: what is held is enough, however old it is. None of it counts as use of a secret.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::iter;

use super::{Attributes, Kind, SecretFs};
use crate::cache::{Changed, SecretRef, Snapshot};
use crate::errno::Failure;
use crate::tree::inode::{INodeNo, Node, Place};
use crate::tree::{TreeId, name};

/// A directory of the mount that shows a secret which has changed, and what is to be touched in it.
#[derive(Debug, Default)]
pub struct Touch {
    /// The names that lead to it from the root of the mount.
    pub path: Vec<String>,
    /// Files that show a new version.
    pub changed: Vec<String>,
    /// Files that are not there any more and that somebody may still watch.
    pub gone: Vec<String>,
    /// The inodes of these files that the kernel holds: what it remembers of them is out of date.
    pub known: Vec<INodeNo>,
    /// Where each name on the way leads, and each file.
    steps: HashMap<(INodeNo, String), Place>,
}

/// Attributes of what the kernel may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// What stat(2) shows.
    pub attributes: Attributes,
    /// Whether they are of the version that is held; if not, of one that the kernel was told of before.
    pub current: bool,
}

impl SecretFs {
    /// What is to be touched because of a change: where the kernel holds a directory, each file in it; else the files that it
    /// holds. Nobody can watch anything else. Nothing where it holds neither.
    pub fn touches(&self, changed: &Changed) -> Vec<Touch> {
        // An older version never changes.
        if changed.of.version.is_some() {
            return vec![];
        }
        let snapshot = changed.version.as_ref().and_then(|_| self.cache.peek(&changed.of)?.ok());
        let shown = self.trees.paths_of(&changed.of).into_iter();
        shown.filter_map(|(tree, path)| self.touch(changed, snapshot.as_deref(), tree, path)).collect()
    }

    fn touch(
        &self,
        changed: &Changed,
        snapshot: Option<&Snapshot>,
        tree: TreeId,
        path: Vec<String>,
    ) -> Option<Touch> {
        let of = &changed.of;
        let mut touch = Touch { path, ..Touch::default() };
        let directory = self.note_way(&mut touch, tree, of)?;
        for node in self.inodes.files_in(directory) {
            let (name, there) = match &node.place {
                Place::Field { field, .. } => {
                    (name::encode(field), snapshot.is_none_or(|held| held.secret.field(field).is_some()))
                }
                Place::View { view, .. } => (view.name().to_owned(), true),
                Place::Junction(_) | Place::Directory { .. } => continue,
            };
            let files = if there && changed.version.is_some() { &mut touch.changed } else { &mut touch.gone };
            files.push(name.clone());
            touch.known.push(node.ino);
            touch.steps.insert((directory, name), node.place.clone());
        }
        if self.inodes.get(directory).is_some() {
            for field in snapshot.iter().flat_map(|held| &held.secret.fields) {
                let name = name::encode(&field.name);
                let place = Place::Field { tree, of: of.clone(), field: field.name.as_str().into() };
                let key = (directory, name.clone());
                if !touch.steps.contains_key(&key) && !self.is_covered(tree, of, &field.name) {
                    touch.steps.insert(key, place);
                    touch.changed.push(name);
                }
            }
        }
        (!touch.changed.is_empty() || !touch.gone.is_empty()).then_some(touch)
    }

    /// Notes the names from the root of the mount to the directory of `of`; returns its number.
    fn note_way(&self, touch: &mut Touch, tree: TreeId, of: &SecretRef) -> Option<INodeNo> {
        let shown = self.trees.get(tree)?;
        let below = of.path.strip_prefix(&shown.root.path)?;
        let junctions = (1..shown.at.len()).filter_map(|depth| shown.at.get(..depth));
        let junctions = junctions.map(|at| Place::Junction(at.to_vec()));
        // The root of the mount has no name; where the tree is the root, it is the tree's.
        let root = (!shown.at.is_empty()).then(|| Place::Directory { tree, of: shown.root.clone() });
        let mut path = shown.root.path.clone();
        let folders = below.segments().map_while(|segment| {
            path = path.child(segment).ok()?;
            Some(Place::Directory { tree, of: SecretRef::current(of.source, path.clone()) })
        });
        let mut at = INodeNo::ROOT;
        for (name, place) in iter::zip(&touch.path, junctions.chain(root).chain(folders)) {
            let next = self.inodes.number(&place);
            touch.steps.insert((at, name.clone()), place);
            at = next;
        }
        Some(at)
    }

    /// Whether the kernel knows a folder in the place of this field.
    fn is_covered(&self, tree: TreeId, of: &SecretRef, field: &str) -> bool {
        let folder = self.child(of, field).map(|of| Place::Directory { tree, of });
        folder.is_ok_and(|folder| self.inodes.get(self.inodes.number(&folder)).is_some())
    }

    /// Counts a lookup of a name on the way of a touch, as [`Self::lookup`] does; none for a name that is not on it.
    pub fn look_up_step(&self, touch: &Touch, parent: INodeNo, name: &OsStr) -> Option<Known> {
        let place = touch.steps.get(&(parent, name.to_str()?.to_owned()))?;
        Some(self.known_of(&self.inodes.look_up(parent, place.clone())))
    }

    /// The attributes of an inode that the kernel holds: of the version that is held, else as it was told before.
    pub fn known(&self, ino: INodeNo) -> Result<Known, Failure> {
        Ok(self.known_of(&*self.node(ino)?))
    }

    fn known_of(&self, node: &Node) -> Known {
        let ino = node.ino;
        let (Place::Field { tree, of, .. } | Place::View { tree, of, .. }) = &node.place else {
            return Known {
                attributes: Attributes { ino, ..self.describe_directory(&node.place) },
                current: true,
            };
        };
        let held = self.cache.peek(of).and_then(Result::ok);
        if let Some(Ok((attributes, mark))) = held.map(|held| self.describe_file(&node.place, &held)) {
            node.tell(mark, attributes.size);
            return Known { attributes: Attributes { ino, ..attributes }, current: true };
        }
        // The size that the kernel has already: another one would cut what programs have mapped.
        let (size, mtime, permissions) = (node.told_size(), self.mounted, self.permissions(*tree));
        let (uid, gid, mode) = (permissions.uid, permissions.gid, permissions.file_mode);
        Known {
            attributes: Attributes { ino, kind: Kind::File, size, mode, uid, gid, mtime },
            current: false,
        }
    }
}
