//! Owns what a path of the mount means to whoever asks the cache about it: which secret and which listing of a backend.
//! Does not know inodes, values or what is asked.

use std::ffi::OsString;

use super::SecretFs;
use super::resolve::Part;
use crate::cache::SecretRef;
use crate::errno::Failure;
use crate::tree::inode::{INodeNo, Place};
use crate::tree::{Shows, TreeId};

/// What lies behind a path of the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefsAt {
    /// A directory of the configuration, with the roots of the trees below it that are folders.
    Junction(Vec<SecretRef>),
    /// A directory: a folder, a secret, or both.
    Directory {
        /// Both have this place in the backend.
        of: SecretRef,
        /// Whether it is a secret; `None` where no listing says. At the root of a tree `false`: that is a folder first.
        secret: Option<bool>,
        /// Whether it is a folder; `None` where no listing says.
        folder: Option<bool>,
    },
    /// A file of this secret.
    File(SecretRef),
    /// A secret that is made on demand, a file of it or its predecessor: no question to the cache, but to the book of leases.
    /// That it can be made is not certain.
    OnDemand(SecretRef),
}

impl SecretFs {
    /// What `names`, counted from the root of the mount, leads to: found as the kernel's lookups find it, but for no inode.
    /// Asks a backend where the cache has no answer, so the caller bounds the time.
    ///
    /// # Errors
    /// Those of a lookup.
    pub async fn refs_at(&self, names: &[OsString]) -> Result<RefsAt, Failure> {
        let mut place = self.node(INodeNo::ROOT)?.place.clone();
        for name in names {
            place = self.resolve(&place, name).await?;
        }
        let (tree, of) = match place {
            Place::Junction(path) => return Ok(RefsAt::Junction(self.roots_below(&path))),
            Place::Field { tree, of, .. } | Place::View { tree, of, .. } if self.is_known_on_demand(tree) => {
                return Ok(RefsAt::OnDemand(of.newest()));
            }
            Place::Field { of, .. } | Place::View { of, .. } | Place::Versions { of, .. } => {
                return Ok(RefsAt::File(of));
            }
            Place::Directory { tree, of } if self.is_on_demand(tree).await? => {
                return self.refs_on_demand(tree, of).await;
            }
            Place::Directory { of, .. } if of.version.is_some() => return Ok(RefsAt::File(of)),
            Place::Directory { tree, of } => (tree, of),
        };
        if self.trees.get(tree).is_some_and(|tree| tree.root == of) {
            return Ok(RefsAt::Directory { of, secret: Some(false), folder: Some(true) });
        }
        let known = |part| match part {
            Part::Yes => Some(true),
            Part::No => Some(false),
            Part::Unknown => None,
        };
        let parts = self.parts(tree, &of).await?;
        Ok(RefsAt::Directory { of, secret: known(parts.secret), folder: known(parts.folder) })
    }

    /// Of a directory in a tree whose secrets are made on demand: what a listing shows as a folder is one.
    async fn refs_on_demand(&self, tree: TreeId, of: SecretRef) -> Result<RefsAt, Failure> {
        let parts = self.parts(tree, &of).await?;
        Ok(match (parts.secret, parts.folder) {
            (Part::No, _) => RefsAt::Directory { of, secret: Some(false), folder: Some(true) },
            _ => RefsAt::OnDemand(of.newest()),
        })
    }

    fn roots_below(&self, path: &[String]) -> Vec<SecretRef> {
        self.trees_below(path, Shows::Place)
    }

    /// The secrets of the configuration that are made on demand and hang at or below `names`, counted from the root of the mount.
    pub fn secrets_on_demand_below(&self, names: &[String]) -> Vec<SecretRef> {
        self.trees_below(names, Shows::Secret)
    }

    fn trees_below(&self, path: &[String], shows: Shows) -> Vec<SecretRef> {
        let trees = (0..).map(TreeId).map_while(|id| self.trees.get(id));
        let below = trees.filter(|tree| tree.at.starts_with(path) && tree.shows == shows);
        below.map(|tree| tree.root.clone()).collect()
    }
}
