//! Owns what it means that somebody watches an inode: its secret is in use, though nobody may ever open it before it changes.
//! Does not know how watchers are found.

use std::collections::HashSet;

use super::SecretFs;
use crate::cache::SecretRef;
use crate::tree::inode::{INodeNo, Place};

impl SecretFs {
    /// Notes that somebody watches these inodes: what they show, and the folders that it lies in, are in use. The secret of a
    /// watched file is fetched where it is not held, so that its watcher learns what it has missed, and so is that of a watched
    /// directory after a crash, if somebody had read it; one that is made on demand is not, since to watch is to look.
    pub fn note_watched(&self, inodes: impl IntoIterator<Item = INodeNo> + Clone) {
        for node in inodes.clone().into_iter().filter_map(|ino| self.inodes.get(ino)) {
            let (tree, of) = match &node.place {
                Place::Field { tree, of, .. } | Place::View { tree, of, .. } => (tree, of),
                // Whoever watches the directory is told as long as its secret is held, which it was before a crash.
                Place::Directory { tree, of } if self.cache.is_unsaid(of) => (tree, of),
                _ => continue,
            };
            if !self.is_known_on_demand(*tree) {
                self.cache.want(of);
            }
        }
        for of in self.shown_by(inodes) {
            self.cache.note_use(&of);
        }
    }

    /// The secrets and folders that are shown by these inodes, and the folder of each; of directories of the configuration, of
    /// secrets that are made on demand and of numbers that are not known, nothing.
    fn shown_by(&self, inodes: impl IntoIterator<Item = INodeNo>) -> HashSet<SecretRef> {
        let mut shown = HashSet::new();
        for node in inodes.into_iter().filter_map(|ino| self.inodes.get(ino)) {
            if let Some((tree, of)) = node.place.shown()
                && !self.is_known_on_demand(tree)
            {
                shown.extend(self.above(tree, of).map(|(folder, _)| folder));
                shown.insert(of.clone());
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::tests::world;
    use super::*;

    #[tokio::test]
    async fn a_watched_file_or_directory_is_use_of_its_secret_and_folder() {
        let world = world(&[(&["all"], "")]);
        world.backend.put("team/db", &[("k", b"canary")]);
        let of = |paths: &[&str]| paths.iter().map(|path| world.of(path)).collect::<HashSet<_>>();
        for (path, shown) in [
            ("all/team/db/k", &["team/db", "team"][..]),
            ("all/team/db/.env", &["team/db", "team"]),
            ("all/team/db", &["team/db", "team"]),
            ("all/team", &["team", ""]),
            ("all", &[""]),
            ("", &[]),
        ] {
            let ino = world.walk(path).await.unwrap().ino;
            assert_eq!(world.fs.shown_by([ino, INodeNo(77)]), of(shown), "{path}");
            world.fs.note_watched([ino]);
        }
    }
}
