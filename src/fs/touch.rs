//! Owns what a change of a secret means for the files that show it: which of them somebody may watch, and what is said of
//! them to the one who touches them. Does not know how a file is touched.
//!
//! Nothing in here asks a backend or waits: what is held is enough, however old it is. None of it counts as use of a secret.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::iter;

use super::{Attributes, Kind, SecretFs};
use crate::cache::{Changed, SecretRef, Snapshot};
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
        let made = || self.on_demand.leases.current(&changed.of);
        let held = || made().or_else(|| self.cache.peek(&changed.of)?.ok());
        let snapshot = changed.version.as_ref().and_then(|_| held());
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
                Place::Junction(_) | Place::Directory { .. } | Place::Versions { .. } => continue,
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
            Some(Place::Directory { tree, of: of.at(path.clone()) })
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
        let node = self.inodes.look_up(parent, place.clone());
        let known = self.known_of(&node);
        if known.is_none() {
            // The kernel is told of no node, and will not give it back.
            self.inodes.forget(node.ino, 1);
        }
        known
    }

    /// The attributes of an inode that the kernel holds: of the version that is held, else as it was told before; none where nobody
    /// knows what that was.
    pub fn known(&self, ino: INodeNo) -> Option<Known> {
        self.known_of(&*self.node(ino).ok()?)
    }

    fn known_of(&self, node: &Node) -> Option<Known> {
        let ino = node.ino;
        let (Place::Field { tree, of, .. } | Place::View { tree, of, .. }) = &node.place else {
            let attributes = Attributes { ino, ..self.describe_directory(&node.place) };
            return Some(Known { attributes, current: true });
        };
        let held = self.held_now(*tree, of);
        if let Some(Ok((attributes, mark))) = held.map(|held| self.describe_file(&node.place, &held)) {
            let lasting = node.tell(mark, attributes.size, self.cache.clock().now());
            return Some(Known { attributes: Attributes { ino, lasting, ..attributes }, current: true });
        }
        // The size that the kernel has already: another one would cut what programs have mapped.
        let size = node.file.as_ref().map_or(Some(0), |file| file.shown.told_size())?;
        let (mtime, permissions) = (self.mounted, self.permissions(*tree));
        let (uid, gid, mode) = (permissions.uid, permissions.gid, permissions.file_mode);
        let attributes = Attributes { ino, kind: Kind::File, size, mode, uid, gid, mtime, lasting: false };
        Some(Known { attributes, current: false })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::time::Duration;

    use super::super::tests::{World, world};
    use super::*;
    use crate::backend::Error;
    use crate::secret::Version;

    /// That the secret at `path` has changed, found out by the cache.
    async fn changed(world: &World, path: &str) -> Changed {
        world.clock.advance(Duration::from_nanos(1));
        let version = world.fs.cache.refresh(&world.of(path)).await.ok();
        Changed { of: world.of(path), version: version.map(|held| held.secret.version.clone()) }
    }

    fn names(mut names: Vec<String>) -> Vec<String> {
        names.sort();
        names
    }

    #[tokio::test]
    async fn in_a_directory_that_is_known_every_field_is_touched_and_views_that_are_known() {
        let world = world(&[(&["apps", "x"], "")]);
        world.backend.put("team/db", &[("k", b"canary"), ("long", b"canary")]);
        world.walk("apps/x/team/db/.env").await.unwrap();
        let known = world.walk("apps/x/team/db/k").await.unwrap().ino;
        world.backend.put("team/db", &[("k", b"canary-2"), ("a/b", b"canary")]);
        let [touch] = &world.fs.touches(&changed(&world, "team/db").await)[..] else { panic!() };
        assert_eq!(touch.path, ["apps", "x", "team", "db"]);
        assert_eq!(names(touch.changed.clone()), [".env", "a%2Fb", "k"]);
        assert!(touch.gone.is_empty(), "nobody looked `long` up");
        assert_eq!(touch.known.len(), 2);
        assert!(touch.known.contains(&known));
        // Every name on the way leads where a program's lookup leads.
        let mut at = INodeNo::ROOT;
        for (depth, name) in touch.path.iter().chain([&"k".to_owned()]).enumerate() {
            let found = world.fs.look_up_step(touch, at, name.as_ref()).unwrap();
            let path = touch.path.iter().map(String::as_str).chain(["k"]).take(depth + 1).collect::<Vec<_>>();
            assert_eq!(found.attributes, world.walk(&path.join("/")).await.unwrap());
            assert!(found.current);
            at = found.attributes.ino;
        }
        assert_eq!(world.fs.look_up_step(touch, INodeNo::ROOT, "other".as_ref()), None);
    }

    #[tokio::test]
    async fn without_its_directory_only_files_that_are_known_are_touched_and_nothing_else() {
        let world = world(&[(&[], "")]);
        world.backend.put("a", &[("k", b"canary"), ("other", b"canary"), ("old", b"canary")]);
        let (k, old) = (world.walk("a/k").await.unwrap(), world.walk("a/old").await.unwrap());
        let directory = world.walk("a").await.unwrap().ino;
        world.fs.forget(directory, u64::MAX);
        world.backend.put("a", &[("k", b"canary-2"), ("other", b"canary-2")]);
        let [touch] = &world.fs.touches(&changed(&world, "a").await)[..] else { panic!() };
        assert_eq!((&touch.changed[..], &touch.gone[..]), (&["k".to_owned()][..], &["old".to_owned()][..]));
        world.fs.forget(k.ino, u64::MAX);
        world.fs.forget(old.ino, u64::MAX);
        assert!(world.fs.touches(&changed(&world, "a").await).is_empty());
        world.backend.put("b", &[("k", b"canary")]);
        assert!(world.fs.touches(&changed(&world, "b").await).is_empty());
        let old =
            Changed { of: SecretRef { version: Some(Version::new("1")), ..world.of("a") }, version: None };
        assert!(world.fs.touches(&old).is_empty(), "an older version does not change");
    }

    #[tokio::test]
    async fn a_secret_shown_twice_is_touched_twice() {
        let world = world(&[(&["all"], ""), (&["db"], "team/db")]);
        world.backend.put("team/db", &[("k", b"canary")]);
        world.walk("all/team/db/k").await.unwrap();
        world.walk("db/k").await.unwrap();
        let touches = world.fs.touches(&changed(&world, "team/db").await);
        let paths: Vec<_> = touches.iter().map(|touch| touch.path.join("/")).collect();
        assert_eq!(paths, ["all/team/db", "db"]);
    }

    #[tokio::test]
    async fn a_field_behind_a_folder_is_not_touched() {
        let world = world(&[(&[], "")]);
        world.backend.put("foo", &[("bar", b"canary-field"), ("baz", b"canary")]);
        world.backend.put("foo/bar", &[("k", b"canary-child")]);
        world.walk("foo/bar/k").await.unwrap();
        let [touch] = &world.fs.touches(&changed(&world, "foo").await)[..] else { panic!() };
        assert_eq!(touch.changed, ["baz"]);
    }

    #[tokio::test]
    async fn of_a_secret_that_is_gone_the_kernel_is_told_the_size_that_it_knows_and_nobody_is_asked() {
        let world = world(&[(&[], "")]);
        world.backend.put("a", &[("k", b"canary-value")]);
        let before = world.walk("a/k").await.unwrap();
        world.backend.delete("a");
        let gone = changed(&world, "a").await;
        world.backend.fail_with(Some(Error::Status(503)));
        world.clock.advance(Duration::from_secs(3600));
        let (reads, lists) = (world.backend.reads(), world.backend.lists());
        let [touch] = &world.fs.touches(&gone)[..] else { panic!() };
        assert_eq!((touch.changed.len(), &touch.gone[..]), (0, &["k".to_owned()][..]));
        let known = world.fs.known(before.ino).unwrap();
        assert!(!known.current);
        assert_eq!((known.attributes.ino, known.attributes.size), (before.ino, 12));
        assert_eq!((known.attributes.mode, known.attributes.uid), (before.mode, before.uid));
        assert_eq!((world.backend.reads(), world.backend.lists()), (reads, lists));
    }
}
