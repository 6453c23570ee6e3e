//! Owns what a path of the mount means to whoever asks the cache about it: which secret and which listing of a backend.
//! Does not know inodes, values or what is asked.

use std::ffi::OsString;

use super::SecretFs;
use super::resolve::Part;
use crate::cache::SecretRef;
use crate::errno::Failure;
use crate::tree::TreeId;
use crate::tree::inode::{INodeNo, Place};

/// What lies behind a path of the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefsAt {
    /// A directory of the configuration, with the roots of the trees below it.
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
            Place::Field { of, .. } | Place::View { of, .. } | Place::Versions { of, .. } => {
                return Ok(RefsAt::File(of));
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

    fn roots_below(&self, path: &[String]) -> Vec<SecretRef> {
        let trees = (0..).map(TreeId).map_while(|id| self.trees.get(id));
        trees.filter(|tree| tree.at.starts_with(path)).map(|tree| tree.root.clone()).collect()
    }
}
