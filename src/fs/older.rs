//! Owns which open files are of an older version than their names show, and which threads opened them.
//! Does not know versions or bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::{Caller, HandleNo};
use crate::tree::inode::INodeNo;

/// Open files of an older version. There are none but for a short while after a rotation.
#[derive(Default)]
pub(super) struct OlderOpens {
    /// How many, so that asking costs nothing where there are none.
    count: AtomicUsize,
    /// Guards the handles by file; held for a map operation only.
    by_file: Mutex<HashMap<INodeNo, Vec<(Caller, HandleNo)>>>,
}

impl OlderOpens {
    /// Notes that `caller` has opened `handle` at the file `ino`.
    pub(super) fn add(&self, ino: INodeNo, caller: Caller, handle: HandleNo) {
        self.files().entry(ino).or_default().push((caller, handle));
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that the handle is closed.
    pub(super) fn remove(&self, ino: INodeNo, handle: HandleNo) {
        let mut files = self.files();
        let Some(opens) = files.get_mut(&ino) else { return };
        let before = opens.len();
        opens.retain(|(_, known)| *known != handle);
        self.count.fetch_sub(before - opens.len(), Ordering::SeqCst);
        if opens.is_empty() {
            files.remove(&ino);
        }
    }

    /// Notes that `caller` has opened the newest version since: that is what it sees from now on.
    pub(super) fn moved_on(&self, ino: INodeNo, caller: Caller) {
        if self.are_none() {
            return;
        }
        for (known, _) in self.files().get_mut(&ino).into_iter().flatten() {
            if *known == caller {
                *known = Caller(0);
            }
        }
    }

    /// Whether some thread has an older version of this file open.
    pub(super) fn are_at(&self, ino: INodeNo) -> bool {
        !self.are_none() && self.files().contains_key(&ino)
    }

    /// The older version of this file that `caller` opened last.
    pub(super) fn of(&self, ino: INodeNo, caller: Caller) -> Option<HandleNo> {
        if self.are_none() || caller == Caller(0) {
            return None;
        }
        let files = self.files();
        let own = files.get(&ino)?.iter().rev().find(|(known, _)| *known == caller);
        own.map(|(_, handle)| *handle)
    }

    fn are_none(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn files(&self) -> MutexGuard<'_, HashMap<INodeNo, Vec<(Caller, HandleNo)>>> {
        self.by_file.lock().unwrap_or_else(|e| e.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_sees_what_it_opened_last_and_others_do_not() {
        let older = OlderOpens::default();
        let (file, other) = (INodeNo(7), INodeNo(8));
        older.add(file, Caller(1), HandleNo(10));
        older.add(file, Caller(1), HandleNo(11));
        assert_eq!(older.of(file, Caller(1)), Some(HandleNo(11)));
        assert_eq!(older.of(file, Caller(2)), None);
        assert_eq!(older.of(other, Caller(1)), None);
        assert!(older.are_at(file) && !older.are_at(other));
        older.remove(file, HandleNo(11));
        assert_eq!(older.of(file, Caller(1)), Some(HandleNo(10)));
        older.moved_on(file, Caller(1));
        assert_eq!(older.of(file, Caller(1)), None);
        assert!(older.are_at(file), "it is still open");
        older.remove(file, HandleNo(10));
        older.remove(file, HandleNo(10));
        assert!(!older.are_at(file) && older.are_none());
    }
}
