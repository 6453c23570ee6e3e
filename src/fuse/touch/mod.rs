//! Owns the telling of programs: a thread that makes the kernel forget what has changed, and touches it, so that whoever watches
//! it with inotify(7) gets the events of a write. Does not know how a change is found.
//!
//! No notification of FUSE's fires such an event; an operation on the file does, in every mount namespace. Programs may do
//! none, so the thread makes a clone of the mount that can be written through, for a moment ([`writable`]), and the requests that
//! come of it are told from others' by the thread that caused them ([`own`]).

mod own;
mod writable;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fuser::Notifier;

use super::theirs;
use crate::cache::{Changed, SecretRef};
use crate::fs::{SecretFs, Touch};
pub(super) use own::Own;
use writable::Clone;

/// A clone lives at most about this long: an unmount meanwhile ends the mount that much later.
const CLONE_LIVES: Duration = Duration::from_millis(100);
/// Between two clones. Making one takes a lock of the kernel's mount tables, and keeps whoever unmounts in that moment from it.
const PAUSE: Duration = Duration::from_millis(10);
/// How long [`Teller::stop`] waits for the thread: many times what it needs.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells programs of changes. Cheap to clone.
#[derive(Clone)]
pub struct Teller(Arc<Shared>);

struct Shared {
    /// Guards what is to be told and how it goes; held for a look or a change, never while something is touched.
    state: Mutex<State>,
    /// Signalled at every change of the state.
    news: Condvar,
}

struct State {
    due: Due,
    /// Why watchers are not told, in words; none while they are.
    problem: Option<String>,
    stopped: bool,
    ended: bool,
}

/// The latest change of each secret, in the order in which the first of each came.
#[derive(Default)]
struct Due {
    order: Vec<SecretRef>,
    changes: HashMap<SecretRef, Changed>,
}

impl Due {
    fn add(&mut self, changed: Changed) {
        let of = changed.of.clone();
        if self.changes.insert(of.clone(), changed).is_none() {
            self.order.push(of);
        }
    }

    fn take(&mut self) -> Vec<Changed> {
        let Self { order, mut changes } = std::mem::take(self);
        order.iter().filter_map(|of| changes.remove(of)).collect()
    }
}

/// How the mount can be reached by the thread: where it is, and the number of its device.
pub(super) struct Place {
    pub(super) at: PathBuf,
    pub(super) device: String,
}

impl Teller {
    /// Starts the thread. Where `place` is a reason why nothing can be touched, the kernel is only made to forget: then stat(2) and
    /// programs that look again and again are right at once.
    pub(super) fn start(
        fs: Arc<SecretFs>,
        notifier: Notifier,
        own: Arc<Own>,
        place: Result<Place, String>,
    ) -> io::Result<Self> {
        let problem = place.as_ref().err().cloned();
        let state = State { due: Due::default(), problem, stopped: false, ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), news: Condvar::new() });
        let thread = Thread { fs, notifier, own, place: place.ok(), shared: shared.clone() };
        std::thread::Builder::new().name("touch".into()).spawn(move || thread.run())?;
        Ok(Self(shared))
    }

    /// Hands a change over; never waits. The cache must serve the new version already.
    pub fn tell(&self, changed: Changed) {
        self.0.lock().due.add(changed);
        self.0.news.notify_all();
    }

    /// Why programs that watch files are not told of changes, in words; `None` when they are.
    pub fn problem(&self) -> Option<String> {
        self.0.lock().problem.clone()
    }

    /// Ends the telling, and returns when no clone is left; after a second at the latest.
    pub(super) fn stop(&self) {
        let mut state = self.0.lock();
        state.stopped = true;
        self.0.news.notify_all();
        let _ = self.0.news.wait_timeout_while(state, PATIENCE, |state| !state.ended);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Waits for changes and takes them all; none when it is over.
    fn next(&self) -> Option<Vec<Changed>> {
        let idle = |state: &mut State| state.due.order.is_empty() && !state.stopped;
        let mut state = self.news.wait_while(self.lock(), idle).unwrap_or_else(|e| e.into_inner());
        if state.stopped { None } else { Some(state.due.take()) }
    }

    fn pause(&self) {
        let _ = self.news.wait_timeout_while(self.lock(), PAUSE, |state| !state.stopped);
    }
}

struct Thread {
    fs: Arc<SecretFs>,
    notifier: Notifier,
    own: Arc<Own>,
    place: Option<Place>,
    shared: Arc<Shared>,
}

impl Thread {
    fn run(self) {
        let registered = self.own.register();
        while let Some(changes) = self.shared.next() {
            let touches = changes.iter().flat_map(|changed| self.fs.touches(changed)).map(Arc::new);
            let touches: Vec<_> = touches.collect();
            // Before the first event: who gets one may look at any of them.
            for ino in touches.iter().flat_map(|touch| &touch.known) {
                // An error means that the kernel holds nothing of it, or that the mount is gone.
                let _ = self.notifier.inval_inode(theirs(*ino), 0, 0);
            }
            if let Some(place) = &self.place
                && !touches.is_empty()
            {
                self.note(self.touch_all(place, &touches));
                self.shared.pause();
            }
        }
        drop(registered);
        self.shared.lock().ended = true;
        self.shared.news.notify_all();
    }

    fn touch_all(&self, place: &Place, touches: &[Arc<Touch>]) -> io::Result<()> {
        let mut clone: Option<(Clone, Instant)> = None;
        let mut result = Ok(());
        for touch in touches {
            if self.shared.lock().stopped {
                break;
            }
            if clone.as_ref().is_some_and(|(_, made)| made.elapsed() > CLONE_LIVES) {
                drop(clone.take());
                self.shared.pause();
            }
            let (clone, _) = match &mut clone {
                Some(clone) => clone,
                none => none.insert((Clone::of(&place.at, &place.device)?, Instant::now())),
            };
            self.own.begin(touch.clone());
            result = self.touch(clone, touch).and(result);
        }
        result
    }

    /// Touches every file of it, whatever becomes of the others; the last failure.
    fn touch(&self, clone: &Clone, touch: &Touch) -> io::Result<()> {
        let directory = clone.directory(&touch.path)?;
        let changed = touch.changed.iter().map(|name| writable::changed(&directory, name));
        let gone = touch.gone.iter().map(|name| writable::gone(&directory, name));
        let mut result = Ok(());
        for one in changed.chain(gone) {
            result = one.and(result);
        }
        result
    }

    /// Says it when telling begins to fail, once.
    fn note(&self, result: io::Result<()>) {
        let mut state = self.shared.lock();
        if state.stopped {
            return;
        }
        let (result, over) = match result {
            // Unmounted by somebody else, and the end of the session is on its way.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Err(error), true),
            result => (result, false),
        };
        let problem = result.err().map(|error| format!("touching a file failed: {error}"));
        if let Some(problem) = problem.as_ref().filter(|_| state.problem.is_none() && !over) {
            tracing::warn!("programs that watch files are not told of a change: {problem}");
        }
        state.problem = problem;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cache::SourceId;
    use crate::path::BackendPath;
    use crate::secret::Version;

    #[test]
    fn of_many_changes_of_one_secret_the_last_is_told_at_the_place_of_the_first() {
        let changed = |path: &str, version: &str| Changed {
            of: SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap()),
            version: Some(Version::new(version)),
        };
        let mut due = Due::default();
        for (path, version) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("a", "3")] {
            due.add(changed(path, version));
        }
        assert_eq!(due.take(), [changed("a", "3"), changed("b", "1"), changed("c", "1")]);
        assert!(due.take().is_empty());
    }
}
