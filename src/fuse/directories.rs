//! Owns the directories that are open: each keeps the listing that it was opened with, line by line.
//! Does not know how a listing is had.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::hash::Hasher;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};

use fuser::FileHandle;
use siphasher::sip::SipHasher13;

use crate::errno::Failure;
use crate::fs::{DirEntry, DirListing, Epoch, HandleNo, Numbers};
use crate::tree::inode;

/// Open directories by handle. A handle carries a hash of the names, so that the next worker can tell whether a listing of its
/// own has the same lines.
#[derive(Clone)]
pub(super) struct Directories {
    numbers: Arc<Numbers>,
    /// Guards the map of open directories; held for a map operation only.
    open: Arc<Mutex<HashMap<u64, Arc<DirListing>>>>,
}

impl Directories {
    pub(super) fn of(epoch: Epoch) -> Self {
        Self { numbers: Arc::new(Numbers::of(epoch)), open: Arc::default() }
    }

    pub(super) fn insert(&self, listing: DirListing) -> FileHandle {
        let names = names(&listing);
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            let number = self.numbers.next(names).0;
            if let Entry::Vacant(free) = open.entry(number) {
                free.insert(Arc::new(listing));
                return FileHandle(number);
            }
        }
    }

    /// The listing of a directory that is open; none, where another worker opened it and it was not [kept](Self::keep) yet.
    pub(super) fn get(&self, handle: FileHandle) -> Option<Result<Arc<DirListing>, Failure>> {
        let found = self.open.lock().unwrap_or_else(|e| e.into_inner()).get(&handle.0).cloned();
        match found {
            None if self.is_inherited(handle) => None,
            found => Some(found.ok_or(Failure::BadHandle)),
        }
    }

    /// Keeps a listing for a directory that another worker opened. Who has read some of it already (`offset`) can go on only
    /// where the names are the same.
    pub(super) fn keep(
        &self,
        handle: FileHandle,
        listing: DirListing,
        offset: u64,
    ) -> Result<Arc<DirListing>, Failure> {
        if offset > 0 && names(&listing) != HandleNo(handle.0).content() {
            return Err(Failure::Stale);
        }
        let mut open = self.open.lock().unwrap_or_else(|e| e.into_inner());
        Ok(open.entry(handle.0).or_insert_with(|| Arc::new(listing)).clone())
    }

    pub(super) fn remove(&self, handle: FileHandle) {
        self.open.lock().unwrap_or_else(|e| e.into_inner()).remove(&handle.0);
    }

    fn is_inherited(&self, handle: FileHandle) -> bool {
        self.numbers.epoch().may_inherit_from(HandleNo(handle.0).epoch())
    }
}

/// A hash of all names in their order, in 24 bits; the same in every program.
fn names(listing: &DirListing) -> u32 {
    let mut hasher = SipHasher13::new();
    for entry in &listing.entries {
        hasher.write(entry.name.as_bytes());
        // No name has this.
        hasher.write_u8(b'/');
    }
    u32::try_from(hasher.finish() >> 40).unwrap_or(0)
}

/// One line of a directory as the kernel reads it.
pub(super) enum Line<'a> {
    Dots(&'static OsStr, inode::INodeNo),
    Entry(&'a DirEntry),
}

/// `.`, `..` and the names: the position of each is its number, which stays while the directory is open.
pub(super) fn lines(listing: &DirListing) -> impl Iterator<Item = Line<'_>> {
    let dots = [(&b"."[..], listing.ino), (&b".."[..], listing.parent)];
    let dots = dots.into_iter().map(|(name, ino)| Line::Dots(OsStr::from_bytes(name), ino));
    dots.chain(listing.entries.iter().map(Line::Entry))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::access::Permissions;
    use crate::backend::faulty::Faulty;
    use crate::cache::{Limits, SecretCache, SecretRef, Source, SourceId};
    use crate::clock::Clock;
    use crate::fs::SecretFs;
    use crate::path::BackendPath;
    use crate::tree::{Tree, Trees};

    fn count(listing: &DirListing) -> usize {
        lines(listing).count()
    }

    #[tokio::test]
    async fn the_next_worker_goes_on_where_the_names_are_the_same_and_begins_anew_anywhere() {
        let (backend, clock) = (Arc::new(Faulty::new()), Clock::manual());
        let source = Source { name: "test".into(), backend: backend.clone() };
        let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), clock.clone()));
        let root = SecretRef::current(SourceId(0), BackendPath::root());
        let tree = Tree::of_place(vec![], root, Permissions { uid: 7, gid: 8, file_mode: 0o400 });
        let fs = SecretFs::new(Trees::new(vec![tree]), cache, 1024);
        let list = || fs.list(inode::INodeNo::ROOT);
        backend.put("a", &[("k", b"canary")]);
        backend.put("b", &[("k", b"canary")]);

        let old = Directories::of(Epoch::of(1));
        let handle = old.insert(list().await.unwrap());
        assert_eq!(count(&old.get(handle).unwrap().unwrap()), 4);
        let new = Directories::of(Epoch::of(2));
        assert!(new.get(handle).is_none(), "it is to be listed again");
        assert_eq!(count(&new.keep(handle, list().await.unwrap(), 3).unwrap()), 4);
        assert_eq!(count(&new.get(handle).unwrap().unwrap()), 4);
        new.remove(handle);

        backend.put("c", &[("k", b"canary")]);
        clock.advance(Duration::from_secs(3600));
        assert_eq!(new.keep(handle, list().await.unwrap(), 3).err(), Some(Failure::Stale));
        assert!(new.get(handle).is_none(), "what is stale is not kept");
        assert_eq!(count(&new.keep(handle, list().await.unwrap(), 0).unwrap()), 5);

        assert!(matches!(old.get(FileHandle(handle.0 + 1)), Some(Err(Failure::BadHandle))));
        assert!(matches!(new.get(FileHandle(0)), Some(Err(Failure::BadHandle))));
    }
}
