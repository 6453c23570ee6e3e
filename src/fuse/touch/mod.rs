//! Owns the telling of programs: a thread that makes the kernel forget what has changed, and has it touched, so that whoever watches
//! it with inotify(7) gets the events of a write. Does not know how a change is found.
//!
//! No notification of FUSE's fires such an event; an operation on the file does, in every mount namespace. Programs may do
//! none. The hands do, which have the right to, through a clone of the mount ([`crate::hands`]); the requests that come of it
//! are told from others' by the thread of theirs that caused them ([`own`]).

mod own;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use fuser::Notifier;

use super::theirs;
use crate::cache::{Changed, SecretRef};
use crate::fs::{SecretFs, Touch};
use crate::hands::{Client, Trouble};
pub(super) use own::Own;

/// Between two batches; as long the hands keep their clones of the mount apart. What changes meanwhile goes together.
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

impl Teller {
    /// Starts the thread. Where there is a reason why `hands` can touch nothing, the kernel is only made to forget: then stat(2)
    /// and programs that look again and again are right at once.
    pub(super) fn start(
        fs: Arc<SecretFs>,
        notifier: Notifier,
        own: Arc<Own>,
        hands: Client,
    ) -> io::Result<Self> {
        let problem = hands.touching().err();
        let can_touch = problem.is_none();
        let state = State { due: Due::default(), problem, stopped: false, ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), news: Condvar::new() });
        let thread = Thread { fs, notifier, own, hands, can_touch, shared: shared.clone() };
        std::thread::Builder::new().name("tell".into()).spawn(move || thread.run())?;
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
    hands: Client,
    can_touch: bool,
    shared: Arc<Shared>,
}

impl Thread {
    fn run(self) {
        while let Some(changes) = self.shared.next() {
            let touches = changes.iter().flat_map(|changed| self.fs.touches(changed)).map(Arc::new);
            let touches: Vec<_> = touches.collect();
            // Before the first event: who gets one may look at any of them.
            for ino in touches.iter().flat_map(|touch| &touch.known) {
                // An error means that the kernel holds nothing of it, or that the mount is gone.
                let _ = self.notifier.inval_inode(theirs(*ino), 0, 0);
            }
            if self.can_touch && !touches.is_empty() {
                self.note(self.touch_all(&touches));
                self.shared.pause();
            }
        }
        if self.can_touch {
            // Without hands no clone is left either.
            let _ = self.hands.rest();
        }
        self.own.end();
        self.shared.lock().ended = true;
        self.shared.news.notify_all();
    }

    /// Has every file touched, whatever becomes of the others; the last failure.
    fn touch_all(&self, touches: &[Arc<Touch>]) -> Result<(), Trouble> {
        let mut result = Ok(());
        let mut touches = touches.iter().peekable();
        while let Some(touch) = touches.next() {
            if self.shared.lock().stopped {
                break;
            }
            // Before the first request that it causes.
            self.own.begin(touch.clone());
            let Touch { path, changed, gone, .. } = &**touch;
            result = self.hands.touch(path, changed, gone, touches.peek().is_some()).and(result);
        }
        result
    }

    /// Says it when telling begins to fail, once.
    fn note(&self, result: Result<(), Trouble>) {
        let mut state = self.shared.lock();
        if state.stopped {
            return;
        }
        let (result, over) = match result {
            // Unmounted by somebody else, and the end of the session is on its way.
            Err(trouble) if trouble.not_found => (Err(trouble), true),
            result => (result, false),
        };
        let problem = result.err().map(|trouble| format!("touching a file failed: {trouble}"));
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
