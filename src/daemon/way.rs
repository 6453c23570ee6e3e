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
    /// Where it ends; none where it was not followed so far.
    end: Option<PathBuf>,
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
    walk(path, None)
}

/// Where the way to `path` ends, without links; none where it leads on below `unasked`: of that nothing is asked, so nobody waits for one
/// who could answer.
pub(crate) fn end(path: &Path, unasked: &Path) -> Option<PathBuf> {
    walk(path, Some(unasked)).end
}

fn walk(path: &Path, unasked: Option<&Path>) -> Way {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ahead = reversed(&absolute);
    let mut here = PathBuf::from("/");
    let mut way = Way { folders: vec![here.clone()], links: Vec::new(), end: None };
    while let Some(name) = ahead.pop() {
        match Path::new(&name).components().next() {
            Some(Component::RootDir) => here = PathBuf::from("/"),
            Some(Component::ParentDir) => drop(here.pop()),
            Some(Component::Normal(_)) if unasked == Some(&here) => return way,
            // Also of the place of a mount: only whoever goes on from there asks it.
            Some(Component::Normal(name)) => match std::fs::read_link(here.join(name)) {
                Ok(_) if way.links.len() == MOST_LINKS => return way,
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
    way.end = Some(here);
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

    #[test]
    fn a_way_ends_without_links_and_is_not_followed_below_what_is_not_to_be_asked() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().canonicalize().unwrap();
        let mount = folder.join("mount");
        std::fs::create_dir_all(mount.join("below")).unwrap();
        symlink("mount", folder.join("link")).unwrap();
        symlink("loop", folder.join("loop")).unwrap();
        let ends = |path: &str| end(&folder.join(path), &mount);
        for path in ["mount", "link", "link/.", "link/", "nowhere/../link", "mount/../link"] {
            assert_eq!(ends(path).as_ref(), Some(&mount), "{path}");
        }
        assert_eq!(ends("elsewhere/mount"), Some(folder.join("elsewhere/mount")));
        for path in ["mount/below", "link/below", "link/below/deeper", "loop"] {
            assert_eq!(ends(path), None, "{path}");
        }
    }
}
