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
