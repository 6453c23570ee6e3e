//! Owns the life of one hook: it is told of changes, waits for its time, runs, and keeps count.
//! Does not know how a run is done.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::news::News;
use super::schedule::Schedule;
use super::{Config, HookState, Surroundings};
use crate::hands::Outcome;
use crate::pattern::{Bad, Set};

/// One hook.
pub(super) struct Task {
    /// Its place in the configuration.
    pub(super) number: usize,
    config: Config,
    what: String,
    patterns: Set,
    pub(super) surroundings: Arc<Surroundings>,
    /// Guards what waits and what has been done; held for a note only.
    notes: Mutex<Notes>,
    pub(super) told: Notify,
}

pub(super) struct Notes {
    pub(super) schedule: Schedule,
    pub(super) news: News,
    runs: u64,
    failures: u64,
    last_run: Option<SystemTime>,
    last: Option<Outcome>,
}

impl Task {
    pub(super) fn new(number: usize, config: Config, surroundings: Arc<Surroundings>) -> Result<Self, Bad> {
        let schedule = Schedule::new(config.debounce, config.interval);
        let notes =
            Notes { schedule, news: News::default(), runs: 0, failures: 0, last_run: None, last: None };
        Ok(Self {
            number,
            what: config.action.to_string(),
            patterns: Set::new(&config.patterns)?,
            config,
            surroundings,
            notes: Mutex::new(notes),
            told: Notify::new(),
        })
    }

    /// Notes that a secret changed which is shown at `paths`, as far as the hook is about them.
    pub(super) fn tell(&self, paths: &[String], now: Instant) {
        let about = self.about(paths);
        if about.is_empty() {
            return;
        }
        self.surroundings.counters.hook_changes.count();
        {
            let mut notes = self.notes();
            notes.schedule.changed(now);
            for path in about {
                notes.news.add(path, &self.surroundings.mountpoint);
            }
        }
        self.told.notify_one();
    }

    /// Those of `paths` that the hook is about.
    pub(super) fn about(&self, paths: &[String]) -> Vec<String> {
        paths.iter().filter(|path| !self.patterns.covering(path).is_empty()).cloned().collect()
    }

    /// Runs the hook whenever it is due, until the mount ends.
    pub(super) async fn serve(self: Arc<Self>) {
        let mut stop = self.surroundings.stop.subscribe();
        let mut still = self.surroundings.still.subscribe();
        loop {
            let due = self.notes().schedule.due();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = self.told.notified() => continue,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            match self.begin(Instant::now()) {
                Some(run) => self.end(run.await),
                // The next worker runs it, or we do when there is none.
                None => tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return,
                    _ = still.wait_for(|still| !still) => {}
                },
            }
        }
    }

    /// For `status`.
    pub(super) fn state(&self) -> HookState {
        let notes = self.notes();
        HookState {
            what: self.what.clone(),
            patterns: self.config.patterns.iter().map(ToString::to_string).collect(),
            runs: notes.runs,
            failures: notes.failures,
            last_run: notes.last_run,
            last_outcome: notes.last.as_ref().map(|outcome| outcome.text.clone()),
            last_failed: notes.last.as_ref().is_some_and(|outcome| outcome.failed),
            running: notes.schedule.is_running(),
            waiting: notes.schedule.is_waiting(),
        }
    }

    /// Begins a run, unless hooks stand still; what comes of it.
    fn begin(&self, now: Instant) -> Option<impl Future<Output = Outcome> + use<>> {
        // Looked at for as long as it takes to give the order: a change is with the hands or with the next worker, and never with both.
        let still = self.surroundings.still.borrow();
        if *still {
            return None;
        }
        self.surroundings.counters.hook_runs.count();
        let news = {
            let mut notes = self.notes();
            notes.schedule.begin(now);
            notes.runs += 1;
            notes.last_run = Some(SystemTime::now());
            std::mem::take(&mut notes.news)
        };
        let (paths, truncated) = news.into_paths();
        Some(self.surroundings.hands.run(self.number, paths, truncated))
    }

    fn end(&self, outcome: Outcome) {
        let (what, text) = (&self.what, &outcome.text);
        if outcome.failed {
            self.surroundings.counters.hook_failures.count();
            tracing::warn!(hook = %what, "the hook failed: {text}");
        } else {
            tracing::info!(hook = %what, "the hook ran: {text}");
        }
        if outcome.late {
            self.surroundings.counters.hook_timeouts.count();
        }
        let mut notes = self.notes();
        notes.schedule.end();
        notes.failures += u64::from(outcome.failed);
        notes.last = Some(outcome);
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(|e| e.into_inner())
    }
}
