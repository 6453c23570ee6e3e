//! Owns the place of a mount in the tree of this mount namespace: what tells it from another there, and taking it away.
//! Does not know who serves it.

use std::io;
use std::path::{Path, PathBuf};

use crate::mounts::{self, Table, Whereabouts};

/// Where a mount is, and which one. Plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Absolute and without links.
    pub at: PathBuf,
    /// The number of its device, as [`mounts::Mount`] has it; none where it was gone at once.
    pub device: Option<String>,
    /// The number of the mount itself; none where it was not said.
    pub number: Option<u64>,
}

impl MountPoint {
    /// Whether the mount is what is to be seen at its place.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn is_ours(&self) -> io::Result<bool> {
        Ok(self.device.is_some() && mounts::device_at(&self.at)? == self.device)
    }

    /// Whether a path leads to the mount, or led there if nothing were mounted on it: at its place, or wherever somebody has moved it.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn is_in_tree(&self) -> io::Result<bool> {
        Ok(self.whereabouts()?.is_some())
    }

    /// A bind mount of the whole looks the same but for its number, and is somebody else's.
    fn whereabouts(&self) -> io::Result<Option<Whereabouts>> {
        if let (Some(number), Some(device)) = (self.number, &self.device)
            && let Some(found) = Table::read()?.whereabouts(number, device)
        {
            return Ok(Some(found));
        }
        Ok(self.is_ours()?.then(|| Whereabouts { at: self.at.clone(), is_covered: false }))
    }

    /// Takes the mount out of the tree: no path leads to it any more. Of one that somebody has taken away already nothing is left
    /// to do, whatever is mounted in its place by now. One that is in use lives on without a place.
    ///
    /// # Errors
    /// What umount(2) or fusermount3 said, or that something else is mounted on it.
    pub fn detach(&self) -> io::Result<()> {
        let Some(found) = self.whereabouts()? else { return Ok(()) };
        let result = match take_away(&found, false) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return self.detach_in_use(),
            result => result,
        };
        // Somebody else may have been faster.
        if self.is_in_tree()? { result } else { Ok(()) }
    }

    /// The same for a mount that may not answer: what asks it nothing.
    ///
    /// # Errors
    /// As [`Self::detach`].
    pub fn detach_in_use(&self) -> io::Result<()> {
        let Some(found) = self.whereabouts()? else { return Ok(()) };
        let result = take_away(&found, true);
        if self.is_in_tree()? { result } else { Ok(()) }
    }

    /// Where.
    pub fn at(&self) -> &Path {
        &self.at
    }
}

fn take_away(found: &Whereabouts, lazy: bool) -> io::Result<()> {
    if found.is_covered {
        // The path would take that away, and it is not ours.
        let why = format!("something else is mounted on {}: unmount that, and then this", found.at.display());
        return Err(io::Error::other(why));
    }
    mounts::unmount(&found.at, lazy)
}
