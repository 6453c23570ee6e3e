//! Owns the question whether the store's file has changed, which every open asks: by inotify(7), and now and then by stat(2).
//! Does not know what is in the file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::file;
use crate::clock::{Clock, Moment};

/// A change that inotify does not tell of (another machine's on a network filesystem, a mount over a folder on the way) is
/// seen after this long.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// So many times events are taken away by one who asks: 64 KiB of them, two thousand or so.
const MOST_READS: usize = 16;

/// The generation of one file.
pub(super) struct Watch {
    file: PathBuf,
    clock: Clock,
    /// None where the system gives none: then every question is a stat.
    events: Option<OwnedFd>,
    /// Set before events are taken away and until `seen` is true again.
    looking: AtomicBool,
    /// Guards what was seen; held for a copy only.
    seen: RwLock<Option<(u64, Moment)>>,
    /// Held by the one who looks.
    alone: Mutex<()>,
    #[cfg(test)]
    looks: std::sync::atomic::AtomicUsize,
}

impl Watch {
    pub(super) fn new(file: PathBuf, clock: Clock) -> Self {
        let events = events();
        let (looking, seen, alone) = (AtomicBool::new(false), RwLock::default(), Mutex::default());
        Self {
            file,
            clock,
            events,
            looking,
            seen,
            alone,
            #[cfg(test)]
            looks: Default::default(),
        }
    }

    /// The generation of the file as [`file::generation`] has it. A write is seen by whoever asks after it: the kernel
    /// queues the event before rename(2) or write(2) returns.
    pub(super) fn generation(&self) -> u64 {
        let now = self.clock.now();
        if self.is_quiet()
            && let Some((generation, looked)) = *self.seen.read().unwrap_or_else(|e| e.into_inner())
            && now.since(looked) < LOOK
        {
            return generation;
        }
        self.look(now)
    }

    /// The generation as the file has it now, whether or not anything told of a change.
    pub(super) fn look_now(&self) -> u64 {
        self.look(self.clock.now())
    }

    /// How often the file was looked at.
    #[cfg(test)]
    pub(super) fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }

    /// The file that is watched, as it was named.
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Where events come from.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// Whether nothing happened since `seen` was written. Asked in this order: who finds no event because another thread
    /// has just taken it finds that thread looking, or done.
    fn is_quiet(&self) -> bool {
        let waiting = self.events.as_ref().map(rustix::io::ioctl_fionread);
        waiting == Some(Ok(0)) && !self.looking.load(Ordering::SeqCst)
    }

    fn look(&self, now: Moment) -> u64 {
        let _alone = self.alone.lock().unwrap_or_else(|e| e.into_inner());
        self.looking.store(true, Ordering::SeqCst);
        #[cfg(test)]
        self.looks.fetch_add(1, Ordering::SeqCst);
        // Watched first and looked at then: what changes in between is an event.
        let watched = self.events.as_ref();
        let watched =
            watched.is_some_and(|events| forget(events) != Left::Broken && watch(events, &self.file));
        let generation = file::generation(&self.file);
        *self.seen.write().unwrap_or_else(|e| e.into_inner()) = watched.then_some((generation, now));
        self.looking.store(false, Ordering::SeqCst);
        generation
    }
}

/// A descriptor that events can be read from without waiting; none where the system gives none (inotify(7), `/proc/sys/fs/inotify`).
pub(super) fn events() -> Option<OwnedFd> {
    let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
    let why = "there is no more inotify for this user (fs.inotify.max_user_instances)";
    made.inspect_err(|error| {
        tracing::warn!("a store is looked at again and again, and not watched: {why}: {error}")
    })
    .ok()
}

/// What is left of events that were taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// Others write in the folder all the time, faster than events can be taken away perhaps: who asks next goes on.
    Some,
    /// There are none, and will be none.
    Broken,
}

/// Takes events away: what happened does not matter, the file is looked at anew. Not for as long as there are any: a program waits.
pub(super) fn forget(events: &OwnedFd) -> Left {
    let mut buffer = [0; 4096];
    for _ in 0..MOST_READS {
        match rustix::io::read(events, &mut buffer) {
            Err(Errno::AGAIN) => return Left::Nothing,
            Ok(length) if length > 0 => {}
            Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return Left::Broken,
        }
    }
    Left::Some
}

/// Watches the folder that the file's name is in, and where the name is a link, the folder it leads to. Watching twice
/// is watching once. Whether all of it is watched.
pub(super) fn watch(events: &OwnedFd, file: &Path) -> bool {
    let changes = WatchFlags::MODIFY
        | WatchFlags::ATTRIB
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF;
    let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    [file, &real].into_iter().all(|file| {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        inotify::add_watch(events, folder.unwrap_or(Path::new(".")), changes).is_ok()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::os::unix::fs::symlink;

    use super::*;

    /// A clock that stands still: only an event can show a change.
    fn watch(file: &Path) -> Watch {
        Watch::new(file.to_owned(), Clock::manual())
    }

    #[test]
    fn every_kind_of_change_is_seen_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("store"), folder.path().join("new"));
        let watch = watch(&file);
        assert_eq!(watch.generation(), 0);
        let mut last = 0;
        let mut changed = |what: &str| {
            let now = watch.generation();
            assert_ne!(now, last, "{what}");
            assert_eq!(now, watch.generation(), "{what}, and then nothing");
            last = now;
        };
        std::fs::write(&file, "one").unwrap();
        changed("made");
        std::fs::write(&file, "two, longer").unwrap();
        changed("written in place");
        std::fs::write(&new, "three").unwrap();
        std::fs::rename(&new, &file).unwrap();
        changed("replaced");
        std::fs::remove_file(&file).unwrap();
        changed("removed");
    }

    #[test]
    fn what_a_link_leads_to_is_watched_and_a_link_that_moves_too() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, two) = (other.path().join("one"), folder.path().join("two"));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&two, "22").unwrap();
        let link = folder.path().join("link");
        symlink(&one, &link).unwrap();
        let watch = watch(&link);
        let first = watch.generation();
        std::fs::write(&one, "changed").unwrap();
        let second = watch.generation();
        assert_ne!(first, second);
        symlink(&two, folder.path().join("next")).unwrap();
        std::fs::rename(folder.path().join("next"), &link).unwrap();
        assert_ne!(watch.generation(), second);
    }

    #[test]
    fn without_an_event_it_is_looked_at_once_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store");
        std::fs::write(&file, "1").unwrap();
        let clock = Clock::manual();
        let watch = Watch::new(file, clock.clone());
        let truth = watch.generation();
        // As if another machine had written: what was seen is not what is there.
        *watch.seen.write().unwrap() = Some((truth + 1, clock.now()));
        assert_eq!(watch.generation(), truth + 1);
        clock.advance(LOOK);
        assert_eq!(watch.generation(), truth);
    }

    #[test]
    fn no_thread_misses_a_change_that_another_has_taken_note_of() {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("store"), folder.path().join("new"));
        std::fs::write(&file, "0").unwrap();
        let watch = watch(&file);
        let written = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let round = written.load(Ordering::SeqCst);
                            let seen = watch.generation();
                            // Only when nobody wrote meanwhile is there one right answer.
                            let truth = file::generation(&watch.file);
                            if written.load(Ordering::SeqCst) == round && round.is_multiple_of(2) {
                                assert_eq!(seen, truth, "round {round}");
                            }
                            if round >= 2000 {
                                return;
                            }
                        }
                    })
                })
                .collect();
            for round in 0..1000 {
                written.fetch_add(1, Ordering::SeqCst);
                std::fs::write(&new, format!("{round}")).unwrap();
                std::fs::rename(&new, &file).unwrap();
                written.fetch_add(1, Ordering::SeqCst);
                std::thread::yield_now();
            }
            for reader in readers {
                reader.join().unwrap();
            }
        });
    }

    #[test]
    fn whoever_writes_beside_the_file_without_end_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store");
        std::fs::write(&file, "1").unwrap();
        let watch = watch(&file);
        let before = watch.generation();
        // More than one who asks takes away, less than the kernel keeps (fs.inotify.max_queued_events, 16384).
        let names = ["one", "another"].map(|name| folder.path().join(name));
        for number in 0..2_000 {
            std::fs::write(&names[number % 2], "beside").unwrap();
        }
        assert_eq!(forget(watch.events.as_ref().unwrap()), Left::Some);
        std::fs::write(&file, "changed").unwrap();
        let after = watch.generation();
        assert_ne!(after, before, "what is asked while events are left is as true");
        for _ in 0..100 {
            assert_eq!(watch.generation(), after);
        }
        assert!(watch.is_quiet(), "they are gone after a while");
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_looked_for_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("later/store");
        let watch = watch(&file);
        assert_eq!(watch.generation(), 0);
        std::fs::create_dir(folder.path().join("later")).unwrap();
        std::fs::write(&file, "1").unwrap();
        assert_ne!(watch.generation(), 0);
    }
}
