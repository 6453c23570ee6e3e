//! Owns the place of a mount in the tree of this mount namespace: what tells it from another there, and taking it away.
//! Does not know who serves it.

use std::io;
use std::path::{Path, PathBuf};

use crate::mounts;

/// Where a mount is, and which one. Plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Absolute and without links.
    pub at: PathBuf,
    /// The number of its device, as [`mounts::Mount`] has it; none where it was gone at once.
    pub device: Option<String>,
}

impl MountPoint {
    /// Whether the mount is what is to be seen at its place.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn is_ours(&self) -> io::Result<bool> {
        Ok(self.device.is_some() && mounts::device_at(&self.at)? == self.device)
    }

    /// Takes the mount out of the tree: no path leads to it any more. Of one that somebody has taken away already nothing is left
    /// to do, whatever is mounted in its place by now. One that is in use lives on without a place.
    ///
    /// # Errors
    /// What umount(2) or fusermount3 said.
    pub fn detach(&self) -> io::Result<()> {
        if !self.is_ours()? {
            return Ok(());
        }
        let result = match mounts::unmount(&self.at, false) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => self.detach_in_use(),
            result => result,
        };
        // Somebody else may have been faster.
        if self.is_ours()? { result } else { Ok(()) }
    }

    /// The same for a mount that may not answer: what asks it nothing.
    ///
    /// # Errors
    /// As [`Self::detach`].
    pub fn detach_in_use(&self) -> io::Result<()> {
        if self.is_ours()? { mounts::unmount(&self.at, true) } else { Ok(()) }
    }

    /// Where.
    pub fn at(&self) -> &Path {
        &self.at
    }
}
