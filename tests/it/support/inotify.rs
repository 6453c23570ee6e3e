//! Owns a program that watches files, inside the test: inotify(7), with every event kept in words.
//! Does not know mounts.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::mount::HANG;

/// What a change of a file is: all but what readers cause (OPEN, ACCESS, CLOSE_NOWRITE).
const CHANGES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE);

/// What somebody who watches is told.
pub struct Watcher {
    events: OwnedFd,
    watched: HashMap<i32, String>,
}

impl Watcher {
    /// Watches these, each under the name that its events are to carry.
    pub fn on<'a>(watched: impl IntoIterator<Item = (&'a str, &'a Path)>) -> Self {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        let add = |(name, path): (&str, &Path)| {
            (inotify::add_watch(&events, path, CHANGES).unwrap(), name.to_owned())
        };
        let watched = watched.into_iter().map(add).collect();
        Self { events, watched }
    }

    /// The events that are there: `NAME EVENT`, and of a directory's `NAME/FILE EVENT`.
    pub fn take(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        let mut taken = Vec::new();
        while let Ok(event) = reader.next() {
            let mask = event.events();
            assert!(!mask.contains(ReadFlags::QUEUE_OVERFLOW), "events were lost");
            let at = &self.watched[&event.wd()];
            let file = event.file_name().map(|name| format!("/{}", name.to_str().unwrap()));
            for (name, _) in mask.iter_names() {
                taken.push(format!("{at}{} {name}", file.as_deref().unwrap_or_default()));
            }
        }
        taken
    }

    /// Waits until each of `wanted` has come; everything that came. Fails when that never is.
    pub fn wait(&self, wanted: &[&str]) -> Vec<String> {
        let start = Instant::now();
        let mut came = Vec::new();
        while !wanted.iter().all(|wanted| came.iter().any(|event| event == wanted)) {
            assert!(start.elapsed() < HANG, "{wanted:?} did not all come: {came:?}");
            self.sleep(Duration::from_millis(100));
            came.extend(self.take());
        }
        came
    }

    /// Sleeps until there is an event, at most so long.
    pub fn sleep(&self, at_most: Duration) {
        let mut waiting = [PollFd::new(&self.events, PollFlags::IN)];
        let time = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
        let _ = poll(&mut waiting, Some(&time));
    }
}
