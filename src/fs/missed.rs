//! Owns what those who watch files may have missed while one worker was gone and the next not yet there: a version that came then
//! is nothing new to the next one, which has seen no other. Does not know how watchers are found, or told.

use std::collections::HashSet;

use super::SecretFs;
use crate::cache::{Changed, SecretRef, Snapshot};
use crate::tree::inode::{INodeNo, Place};

/// Secrets that somebody watched when this worker began, each with the directory of its files, as far as it is not settled
/// yet whether there is something to be told.
#[derive(Debug, Default)]
pub struct Unsettled(HashSet<(INodeNo, SecretRef)>);

impl Unsettled {
    /// Whether all is settled.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl SecretFs {
    /// Whether there was a worker before this one.
    pub fn is_successor(&self) -> bool {
        self.inodes.worker() > 1
    }

    /// The secrets shown by those of these inodes, which somebody watches, that a former worker has shown. Not what is made on demand,
    /// which does not change by itself, nor older versions, which never do.
    pub fn unsettled(&self, watched: impl IntoIterator<Item = INodeNo>) -> Unsettled {
        let mut found = HashSet::new();
        for node in watched.into_iter().filter_map(|ino| self.inodes.get(ino)) {
            let (directory, tree, of) = match &node.place {
                Place::Field { tree, of, .. } | Place::View { tree, of, .. } => (node.parent, *tree, of),
                // Without a file that somebody has looked up it may be no secret at all.
                Place::Directory { tree, of } if !self.inodes.files_in(node.ino).is_empty() => {
                    (node.ino, *tree, of)
                }
                _ => continue,
            };
            if self.inodes.is_inherited(node.ino) && of.version.is_none() && !self.is_known_on_demand(tree) {
                found.insert((directory, of.clone()));
            }
        }
        Unsettled(found)
    }

    /// What those who watch have missed, as far as that can be said by now; what is not held is fetched. Somebody who has seen the new
    /// version by himself is told of it too: that is better than never.
    pub fn settle(&self, unsettled: &mut Unsettled) -> Vec<Changed> {
        let mut news = Vec::new();
        unsettled.0.retain(|(directory, of)| {
            let Some(held) = self.cache.peek(of) else {
                self.cache.want(of);
                return true;
            };
            if self.is_news(*directory, held.as_deref().ok()) {
                let version = held.ok().map(|held| held.secret.version.clone());
                news.push(Changed { of: of.clone(), version });
            }
            false
        });
        news
    }

    /// Whether this is not what was opened last under the former worker. Where nobody knows it may well be.
    fn is_news(&self, directory: INodeNo, held: Option<&Snapshot>) -> bool {
        let files = self.inodes.files_in(directory);
        let left = files.iter().filter_map(|node| node.file.as_ref()?.editions.left());
        let (Some(last), Some(held)) = (left.max_by_key(|edition| edition.number), held) else { return true };
        last.version != held.secret.version || last.created != held.secret.created
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Caller;
    use super::super::inherited::tests::kept;
    use super::*;
    use crate::backend::faulty::Faulty;

    /// What a new worker tells who watched `path`, once it has asked the backend: whether there is a version. `opened`: somebody opens
    /// `all/a/k` before the kill and after it, else it is only looked up.
    async fn told(path: &str, opened: bool, then: impl AsyncFnOnce(&Faulty)) -> Vec<bool> {
        let mut mount = kept();
        mount.backend.put("a", &[("k", b"canary-1"), ("other", b"canary")]);
        mount.backend.put("b", &[("k", b"canary")]);
        let watched = mount.walk(path).await.unwrap();
        if opened {
            mount.open("all/a/k").await;
        } else {
            mount.walk("all/a/k").await.unwrap();
        }
        assert!(!mount.fs.is_successor());
        mount.kill();
        assert!(mount.fs.is_successor());
        then(&mount.backend).await;
        let mut unsettled = mount.fs.unsettled([watched, INodeNo(77)]);
        assert!(mount.fs.settle(&mut unsettled).is_empty(), "nobody has asked the backend yet");
        assert!(!unsettled.is_empty());
        if let (true, Ok(ino)) = (opened, mount.walk("all/a/k").await) {
            mount.fs.open(ino, Caller(0)).await.unwrap();
        }
        for (_, of) in &unsettled.0 {
            let _ = mount.fs.cache.secret(of).await;
        }
        let news = mount.fs.settle(&mut unsettled);
        assert!(unsettled.is_empty());
        assert!(mount.fs.settle(&mut unsettled).is_empty(), "told twice");
        news.iter().map(|news| news.version.is_some()).collect()
    }

    #[tokio::test]
    async fn a_version_that_came_while_no_worker_was_there_is_told_to_who_watches_though_others_have_opened_it()
     {
        for path in ["all/a/k", "all/a/other", "all/a/.json", "all/a"] {
            let new = async |backend: &Faulty| backend.put("a", &[("k", b"canary-2")]);
            assert_eq!(told(path, true, new).await, [true], "{path}");
            assert_eq!(told(path, true, async |_| ()).await, [false; 0], "nothing is new at {path}");
        }
    }

    #[tokio::test]
    async fn what_is_gone_meanwhile_is_told_as_gone() {
        let gone = async |backend: &Faulty| backend.delete("a");
        assert_eq!(told("all/a/k", true, gone).await, [false]);
    }

    #[tokio::test]
    async fn where_nobody_has_opened_a_file_it_may_be_new() {
        assert_eq!(told("all/a/k", false, async |_| ()).await, [true]);
    }

    #[tokio::test]
    async fn the_first_worker_and_folders_without_secrets_have_missed_nothing() {
        let mut mount = kept();
        mount.backend.put("team/db", &[("k", b"canary")]);
        let (file, folder) =
            (mount.walk("all/team/db/k").await.unwrap(), mount.walk("all/team").await.unwrap());
        mount.kill();
        assert!(mount.fs.unsettled([folder, INodeNo::ROOT]).is_empty());
        assert!(!mount.fs.unsettled([file]).is_empty());
    }
}
