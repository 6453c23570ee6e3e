//! Owns hooks: which change makes which program run, and what came of it.
//! Does not know TOML, or how a change was found.
//!
//! Each hook has a task of its own that waits for its next run. Telling it of a change is a note under a lock, so no hook
//! can hold up another, or whoever reads the changes. The run itself is done by the hands ([`crate::hands`]).

mod config;
mod hand_over;
mod in_use;
mod news;
mod schedule;
mod seen;
mod task;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cache::{Changed, SecretCache, SecretRef};
use crate::counters::HookCounters;
use crate::hands::Client;
pub use crate::hands::{Action, Signal, User};
use crate::leases::Leases;
use crate::pattern::{Bad, Pattern, Set};
use crate::tree::Trees;
pub use config::{Config, DEFAULT_DEBOUNCE, DEFAULT_INTERVAL, DEFAULT_TIMEOUT};
use seen::Seen;
use task::Task;

/// The hooks of a mount.
pub struct Hooks {
    tasks: Vec<Arc<Task>>,
    /// The patterns of all hooks together.
    patterns: Set,
    /// What patterns without wildcards may mean: for each the secret of that path, and the secret with such a field.
    named: Vec<Vec<SecretRef>>,
    /// Guards the versions that hooks know of; held for a look, and until hooks are told of what was seen.
    seen: Mutex<Seen>,
    /// Guards the changes that come; held until hooks are told of them. None before they run and after.
    changes: Mutex<Option<UnboundedReceiver<Changed>>>,
    trees: Trees,
    cache: Arc<SecretCache>,
    leases: Arc<Leases>,
    surroundings: Arc<Surroundings>,
}

/// What all hooks of a mount share.
struct Surroundings {
    mountpoint: OsString,
    hands: Client,
    counters: HookCounters,
    stop: watch::Sender<bool>,
    /// The next worker takes over: no run begins.
    still: watch::Sender<bool>,
}

/// One hook, for `status`. Never anything that a program printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookState {
    /// What it does, without arguments: `reload nginx.service`.
    pub what: String,
    /// What it is about, as in the configuration.
    pub patterns: Vec<String>,
    /// How often it ran.
    pub runs: u64,
    /// How many of these failed.
    pub failures: u64,
    /// When the last run began.
    pub last_run: Option<SystemTime>,
    /// What came of the last run that is over, in words.
    pub last_outcome: Option<String>,
    /// Whether that was a failure.
    pub last_failed: bool,
    /// Whether it runs now.
    pub running: bool,
    /// Whether something changed that no run knows yet.
    pub waiting: bool,
}

impl Hooks {
    /// Hooks about secrets of `cache` and `leases`, as `trees` show them below `mountpoint`, which is absolute. `hands` run them:
    /// they know the same hooks, in the same order ([`Config::job`]).
    ///
    /// # Errors
    /// The patterns are too many or too large to be worked with.
    pub fn new(
        hooks: Vec<Config>,
        trees: Trees,
        cache: Arc<SecretCache>,
        leases: Arc<Leases>,
        mountpoint: PathBuf,
        hands: Client,
    ) -> Result<Self, Bad> {
        let patterns: Vec<Pattern> = hooks.iter().flat_map(|hook| &hook.patterns).cloned().collect();
        let named = patterns.iter().filter_map(Pattern::path).map(|path| meanings(&trees, &path)).collect();
        let surroundings = Arc::new(Surroundings {
            mountpoint: mountpoint.into_os_string(),
            hands,
            counters: HookCounters::default(),
            stop: watch::Sender::new(false),
            still: watch::Sender::new(false),
        });
        let task = |(number, hook)| Task::new(number, hook, surroundings.clone()).map(Arc::new);
        let tasks = hooks.into_iter().enumerate().map(task).collect::<Result<_, _>>()?;
        let (patterns, seen) = (Set::new(&patterns)?, Mutex::default());
        let changes = Mutex::default();
        Ok(Self { tasks, patterns, named, seen, changes, trees, cache, leases, surroundings })
    }

    /// What each hook has done, in the order of the configuration.
    pub fn states(&self) -> Vec<HookState> {
        self.tasks.iter().map(|task| task.state()).collect()
    }

    /// What all of them have done.
    pub fn counters(&self) -> &HookCounters {
        &self.surroundings.counters
    }

    /// Runs hooks as `changes` come, until [`Hooks::stop`] or the last of the changes.
    pub async fn run(self: Arc<Self>, changes: UnboundedReceiver<Changed>) {
        if self.tasks.is_empty() {
            return;
        }
        *self.changes() = Some(changes);
        let mut tasks = JoinSet::new();
        for task in &self.tasks {
            tasks.spawn(task.clone().serve());
        }
        let mut stop = self.surroundings.stop.subscribe();
        let mut in_use = pin!(self.keep_in_use());
        tokio::select! {
            () = poll_fn(|context| self.hear(context)) => {}
            _ = stop.wait_for(|stop| *stop) => {}
            never = &mut in_use => match never {},
        }
        self.stop();
        *self.changes() = None;
        while tasks.join_next().await.is_some() {}
    }

    /// Lets [`Hooks::run`] end: what waits is dropped, a program that runs is told to end and killed a second later.
    pub fn stop(&self) {
        // First: no run begins after it.
        self.surroundings.stop.send_replace(true);
        self.surroundings.hands.end_runs();
    }

    /// Notes every change that has come; ready after the last one ever.
    fn hear(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut changes = self.changes();
        let Some(changes) = changes.as_mut() else { return Poll::Ready(()) };
        while let Some(changed) = ready!(changes.poll_recv(context)) {
            self.notice(&changed);
        }
        Poll::Ready(())
    }

    /// The cache has news.
    fn notice(&self, changed: &Changed) {
        let paths = self.paths_of(&changed.of);
        if !self.is_any_about(&paths) {
            return;
        }
        let mut seen = self.seen();
        if seen.changed(&changed.of, changed.version.as_ref()) {
            self.tell(&paths);
        }
    }

    /// Tells every hook that is about one of these paths of a change.
    fn tell(&self, paths: &[String]) {
        let now = Instant::now();
        for task in &self.tasks {
            task.tell(paths, now);
        }
    }

    /// Where a secret is shown. Of an older version nowhere: it is not what is served, so nothing about it is news.
    fn paths_of(&self, of: &SecretRef) -> Vec<String> {
        let places = if of.version.is_none() { self.trees.paths_of(of) } else { Vec::new() };
        places.into_iter().map(|(_, path)| path.join("/")).collect()
    }

    fn is_any_about(&self, paths: &[String]) -> bool {
        paths.iter().any(|path| !self.patterns.covering(path).is_empty())
    }

    fn changes(&self) -> MutexGuard<'_, Option<UnboundedReceiver<Changed>>> {
        self.changes.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// The secrets that a path without wildcards may be about: the one whose folder it is, and the one whose file it is.
fn meanings(trees: &Trees, path: &[String]) -> Vec<SecretRef> {
    let above = path.split_last().map(|(_, above)| above);
    [Some(path), above].into_iter().flatten().filter_map(|path| trees.secret_at(path)).collect()
}
