//! Owns finding the mount that a path lies in, and what the path is called there.
//! Does not know what is wanted of it. Never touches the mount, which may not answer.

use std::path::{Component, Path, PathBuf};

use super::failure::Failure;
use crate::mounts::{self, Mount};

/// A path in a mount of ours.
#[derive(Debug)]
pub(super) struct InMount {
    /// The mount.
    pub(super) mount: Mount,
    /// The path from where it is mounted.
    pub(super) below: PathBuf,
}

impl InMount {
    /// Where `path` lies, whether it is there or not.
    pub(super) fn of(path: &Path) -> Result<Self, Failure> {
        let absolute = plain(path)?;
        let mount = mounts::containing(&absolute).map_err(unreadable)?;
        let outside = || Failure::no_input(format!("{} is not in a mount of secretfs", path.display()));
        let mount = mount.ok_or_else(outside)?;
        let below = absolute.strip_prefix(&mount.at).unwrap_or(Path::new("")).to_owned();
        Ok(Self { mount, below })
    }

    /// File names from the root of what the program serves, joined by `/`; a bind mount may begin below that.
    pub(super) fn path_in_mount(&self) -> PathBuf {
        let root = self.mount.root.strip_prefix("/").unwrap_or(&self.mount.root);
        if self.below.as_os_str().is_empty() { root.to_owned() } else { root.join(&self.below) }
    }
}

/// Where this process sees a path that a program calls `path` from the root of what it serves; that itself where a bind
/// mount does not show it.
pub(super) fn seen(mount: &Mount, path: &str) -> PathBuf {
    let root = mount.root.strip_prefix("/").unwrap_or(&mount.root);
    match Path::new(path).strip_prefix(root) {
        Ok(below) if below.as_os_str().is_empty() => mount.at.clone(),
        Ok(below) => mount.at.join(below),
        Err(_) => PathBuf::from(path),
    }
}

pub(super) fn unreadable(error: std::io::Error) -> Failure {
    Failure::io(format!("cannot read the mount table: {error}"))
}

/// Absolute and without `.`, `..` and links, as far as that needs nothing of the mount: what is not there is kept as it is.
fn plain(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path).map_err(|error| Failure::cannot("find", path, &error))?;
    let mut done = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                done.pop();
            }
            part => done.push(part),
        }
        let inside = mounts::containing(&done).ok().flatten().is_some();
        if !inside && let Ok(real) = done.canonicalize() {
            done = real;
        }
    }
    Ok(done)
}
