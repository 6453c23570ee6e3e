//! Owns who may read what: the owner and the modes that the kernel enforces (`default_permissions`).
//! Does not know requests; it is pure.

/// Owner and mode of everything in one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// Owner of files and directories.
    pub uid: u32,
    /// Group of files and directories.
    pub gid: u32,
    /// Mode of files: read bits only.
    pub file_mode: u16,
}

impl Permissions {
    /// The mode of directories: readable and searchable for whoever may read files, and for nobody else.
    pub fn dir_mode(self) -> u16 {
        let read = self.file_mode & 0o444;
        read | read >> 2
    }

    /// The mode of a directory that can be passed through but whose listing nobody can have.
    pub fn unlisted_dir_mode(self) -> u16 {
        self.dir_mode() & 0o111
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searchable_for_whoever_may_read() {
        for (file_mode, dir_mode) in [(0o400, 0o500), (0o440, 0o550), (0o444, 0o555), (0o404, 0o505)] {
            assert_eq!(Permissions { uid: 0, gid: 0, file_mode }.dir_mode(), dir_mode);
        }
        assert_eq!(Permissions { uid: 0, gid: 0, file_mode: 0o440 }.unlisted_dir_mode(), 0o110);
    }
}
