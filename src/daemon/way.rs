//! Owns the way of the kernel to a file: the folders that it looks into and the links that it follows (path_resolution(7)).
//! Does not know why somebody wants to know.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// Links that are followed on the way to one file; the kernel follows no more (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// What is met on the way to a file.
#[derive(Debug)]
pub(crate) struct Way {
    /// Every folder, and the end, each without links.
    pub(crate) folders: Vec<PathBuf>,
    /// Every link that was followed.
    pub(crate) links: Vec<Link>,
}

/// A link on the way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// What it lies in, without links.
    pub(crate) folder: PathBuf,
    /// Whether it leads to something below the same folder, as links do that are there to be turned: `current`, `..data`.
    pub(crate) inward: bool,
}

/// The way of the kernel to `path`. What is not there yet is taken for what it will be, a folder or a file.
pub(crate) fn way(path: &Path) -> Way {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ahead = reversed(&absolute);
    let mut here = PathBuf::from("/");
    let mut way = Way { folders: vec![here.clone()], links: Vec::new() };
    while let Some(name) = ahead.pop() {
        match Path::new(&name).components().next() {
            Some(Component::RootDir) => here = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(here.pop()),
            Some(Component::Normal(name)) => match std::fs::read_link(here.join(name)) {
                Ok(_) if way.links.len() == MOST_LINKS => break,
                Ok(target) => {
                    let inward = target.components().all(|part| matches!(part, Component::Normal(_)));
                    way.links.push(Link { folder: here.clone(), inward });
                    ahead.extend(reversed(&target));
                }
                // No link, or not there.
                Err(_) => {
                    here.push(name);
                    way.folders.push(here.clone());
                }
            },
            _ => {}
        }
    }
    way
}

fn reversed(path: &Path) -> Vec<OsString> {
    path.components().rev().map(|component| OsStr::to_owned(component.as_os_str())).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn folders_and_links_are_told_without_links() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().canonicalize().unwrap();
        std::fs::create_dir_all(folder.join("real/deep")).unwrap();
        std::fs::create_dir(folder.join("names")).unwrap();
        symlink("../real", folder.join("names/link")).unwrap();
        symlink("deep/end", folder.join("real/file")).unwrap();
        let way = way(&folder.join("names/link/file"));
        assert_eq!(way.folders.last().unwrap(), &folder.join("real/deep/end"), "which is not there yet");
        let outward = Link { folder: folder.join("names"), inward: false };
        assert_eq!(way.links, [outward, Link { folder: folder.join("real"), inward: true }]);
    }
}
