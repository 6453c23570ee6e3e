//! Owns what a worker may say to the hands: names that are names, paths that stay in the mount, no more than fits.
//! Does not know what is done with them.

use std::ffi::{OsStr, OsString};

/// Bytes of all paths together that a program is told of. One variable of the environment may have 128 KiB (MAX_ARG_STRLEN,
/// execve(2)).
pub const MOST_NEWS: usize = 32 << 10;
/// Files of one order to touch; a worker that has more gives more orders.
pub(super) const MOST_FILES: usize = 100;
/// Bytes of a path that open(2) takes, with its end (PATH_MAX).
const LONGEST_PATH: usize = 4096;
/// Bytes of a name (NAME_MAX).
const LONGEST_NAME: usize = 255;

/// Why an order is not carried out. Never anything of what the worker said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Empty, `.`, `..`, too long, or with a sign that ends a name.
    #[error("this is no name of a file")]
    NoName,
    /// More than one order may have.
    #[error("these are too many names or paths")]
    TooMany,
    /// No hook of the configuration has this number.
    #[error("there is no such hook")]
    NoHook,
    /// The order before it is not done yet, or there are too many that wait.
    #[error("this is being done already")]
    Busy,
    /// This mount has no files that can be touched or watched.
    #[error("this cannot be done for this mount")]
    Impossible,
}

/// The way to a directory, from the root of the mount.
pub(super) fn directory(path: &[String]) -> Result<String, Refusal> {
    path.iter().try_for_each(|name| one(name))?;
    // The root itself.
    let way = if path.is_empty() { ".".to_owned() } else { path.join("/") };
    if way.len() < LONGEST_PATH { Ok(way) } else { Err(Refusal::TooMany) }
}

/// Names of files in one directory.
pub(super) fn files<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> Result<(), Refusal> {
    if names.len() > MOST_FILES {
        return Err(Refusal::TooMany);
    }
    names.into_iter().try_for_each(|name| one(name))
}

/// Whole paths, one a line, of folders that are given as file names from the root of the mount at `mountpoint`.
pub(super) fn lines(paths: &[String], mountpoint: &OsStr) -> Result<OsString, Refusal> {
    if paths.iter().map(|path| news_size(path, mountpoint)).sum::<usize>() > MOST_NEWS {
        return Err(Refusal::TooMany);
    }
    let mut lines = OsString::new();
    for (at, path) in paths.iter().enumerate() {
        if at > 0 {
            lines.push("\n");
        }
        lines.push(mountpoint);
        // The mount itself, where a secret is the whole of it.
        if path.is_empty() {
            continue;
        }
        if path.contains('\n') {
            return Err(Refusal::NoName);
        }
        path.split('/').try_for_each(one)?;
        lines.push("/");
        lines.push(path);
    }
    Ok(lines)
}

/// What a path counts of [`MOST_NEWS`].
pub fn news_size(path: &str, mountpoint: &OsStr) -> usize {
    mountpoint.len() + path.len() + 2
}

fn one(name: &str) -> Result<(), Refusal> {
    let is_name = !["", ".", ".."].contains(&name) && name.len() <= LONGEST_NAME;
    if is_name && !name.contains(['/', '\0']) { Ok(()) } else { Err(Refusal::NoName) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_way_is_made_of_plain_names() {
        assert_eq!(directory(&[]).unwrap(), ".");
        assert_eq!(directory(&owned(&["a", "..b", "c\nd"])).unwrap(), "a/..b/c\nd");
        for bad in ["", ".", "..", "/", "a/b", "/etc", "a\0b", &"x".repeat(256)] {
            assert_eq!(directory(&owned(&["a", bad])), Err(Refusal::NoName), "{bad:?}");
            assert_eq!(files(owned(&["a", bad]).iter()), Err(Refusal::NoName), "{bad:?}");
        }
        assert!(directory(&vec!["x".repeat(255); 16]).is_ok());
        assert_eq!(directory(&vec!["x".repeat(255); 17]), Err(Refusal::TooMany));
        assert!(files(vec!["x".repeat(255); MOST_FILES].iter()).is_ok());
        assert_eq!(files(vec!["x".to_owned(); MOST_FILES + 1].iter()), Err(Refusal::TooMany));
    }

    #[test]
    fn lines_are_whole_paths_below_the_mountpoint() {
        let at = OsStr::new("/mnt");
        assert_eq!(lines(&owned(&["", "a", "b/c"]), at).unwrap(), "/mnt\n/mnt/a\n/mnt/b/c");
        assert_eq!(lines(&[], at).unwrap(), "");
        for bad in ["a/..", "..", "../etc", "/etc", "a/", "a//b", "./a", "a\n/etc/shadow", "a\0b"] {
            assert_eq!(lines(&owned(&["a", bad]), at), Err(Refusal::NoName), "{bad:?}");
        }
        let room = MOST_NEWS / news_size("a", at);
        assert!(lines(&vec!["a".to_owned(); room], at).is_ok());
        assert_eq!(lines(&vec!["a".to_owned(); room + 1], at), Err(Refusal::TooMany));
        assert_eq!(lines(&vec![String::new(); MOST_NEWS], at), Err(Refusal::TooMany));
    }
}
