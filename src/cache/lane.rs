//! Owns the way to one backend: every call of it passes the breaker and the gate here, and its outcome is noted here.
//! Does not know what is kept of an answer.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

use super::breaker::{Admission, Breaker, Outcome, UNANSWERED};
use super::gate::{Gate, Priority};
use super::{Limits, Source, SourceState, chance};
use crate::backend::Error;
use crate::clock::{Clock, Moment};
use crate::counters::Counters;

/// What nobody waits for is given up after this, however long the deadline of readers: one of them who joins it must not
/// wait for an answer that was lost long ago.
const LONGEST_AHEAD: Duration = Duration::from_secs(5);

/// The same for the versions of a large folder, in many requests; nobody can join that.
const LONGEST_FOR_MANY: Duration = Duration::from_secs(60);

/// What may take as long as it likes (a database makes a user) gives its place at the gate back after this, and is no probe any
/// more: others have questions that are answered at once.
const LONGEST_PLACE: Duration = Duration::from_secs(1);

/// One backend, its door and its health.
pub(super) struct Lane {
    pub(super) source: Source,
    gate: Arc<Gate>,
    /// Guards the backend's health; held for arithmetic only.
    breaker: Mutex<Breaker>,
    /// Told when a probe has ended.
    verdict: Notify,
    /// On this machine: to find out that it still fails costs nothing, so it never rests.
    local: bool,
    clock: Clock,
    counters: Arc<Counters>,
}

impl Lane {
    pub(super) fn new(source: Source, limits: &Limits, clock: Clock, counters: Arc<Counters>) -> Self {
        let gate = Arc::new(Gate::new(limits.max_in_flight, limits.max_rate, clock.clone()));
        let local = source.backend.generation().is_some();
        Self { source, gate, local, breaker: Mutex::default(), verdict: Notify::new(), clock, counters }
    }

    /// Asks, once the gate and the breaker let it. Where the backend rests, an error comes at once that says so and why;
    /// [`Priority::Reader`] and above wait for a probe that is on its way.
    pub(super) async fn call<T, F>(&self, asker: Priority, ask: impl FnOnce() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let limit = (asker >= Priority::Lease).then_some(LONGEST_AHEAD);
        self.call_within(asker, limit, ask).await
    }

    /// As [`Self::call`], ahead of need, for what takes several requests.
    pub(super) async fn call_for_many<T, F>(&self, ask: impl FnOnce() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.call_within(Priority::Ahead, Some(LONGEST_FOR_MANY), ask).await
    }

    /// As [`Self::call`], however long the answer takes; one that is slow counts no more as one of so many at once.
    pub(super) async fn call_to_its_end<T, F>(
        &self,
        asker: Priority,
        ask: impl FnOnce() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.call_within(asker, None, ask).await
    }

    async fn call_within<T, F>(
        &self,
        asker: Priority,
        limit: Option<Duration>,
        ask: impl FnOnce() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let came = self.clock.now();
        loop {
            let verdict = self.verdict.notified();
            tokio::pin!(verdict);
            // From here on a verdict is not missed.
            verdict.as_mut().enable();
            match self.admits(asker) {
                Admission::No { until } => return Err(self.withheld(came, until)),
                Admission::Wait => {
                    verdict.await;
                    continue;
                }
                Admission::Go { .. } => {}
            }
            let pass = self.gate.enter(asker).await;
            // Asked again: a queue before the gate must not go on when the first of it find that nobody answers.
            let now = self.clock.now();
            let admission = self.breaker().admit(now, asker);
            match admission {
                Admission::No { until } => return Err(self.withheld(came, until)),
                Admission::Wait => continue,
                Admission::Go { probe } => {
                    let mut question = Asked { lane: self, probe, began: now, ended: false };
                    let result = match limit {
                        Some(limit) => {
                            let answer = tokio::time::timeout(limit, ask()).await;
                            answer.unwrap_or(Err(Error::TimedOut(limit)))
                        }
                        None => {
                            let asking = ask();
                            tokio::pin!(asking);
                            match tokio::time::timeout(LONGEST_PLACE, &mut asking).await {
                                Ok(answer) => answer,
                                Err(_) => {
                                    drop(pass);
                                    question.is_no_probe();
                                    asking.await
                                }
                            }
                        }
                    };
                    question.ended(&result);
                    return result;
                }
            }
        }
    }

    /// Whether `asker` would be let through now.
    pub(super) fn admits(&self, asker: Priority) -> Admission {
        self.breaker().admits(self.clock.now(), asker)
    }

    /// Whether the backend rests because it did not answer.
    pub(super) fn rests(&self) -> bool {
        self.breaker().rests(self.clock.now())
    }

    /// For `status`.
    pub(super) fn state(&self) -> SourceState {
        let breaker = self.breaker();
        SourceState {
            name: self.source.name.clone(),
            kind: self.source.backend.kind(),
            answers: breaker.last_error().is_none(),
            silent_since: breaker
                .failing_since()
                .and_then(|since| SystemTime::now().checked_sub(self.clock.now().since(since))),
            last_error: breaker.last_error().cloned(),
            asked_again_in: breaker.until().map(|until| until.since(self.clock.now())),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The error of somebody who came at `came` and may not ask. Who has waited, behind others that had no answer, has had none.
    fn withheld(&self, came: Moment, until: Moment) -> Error {
        self.counters.calls_withheld.count();
        let last = self.breaker().last_error().cloned();
        let waited = self.clock.now().since(came);
        if waited >= UNANSWERED && matches!(last, Some(Error::TimedOut(_))) {
            return Error::TimedOut(Duration::from_secs(waited.as_secs()));
        }
        let last = last.as_ref().map(ToString::to_string).unwrap_or_default();
        let wait = Duration::from_millis(until.since(self.clock.now()).as_millis().try_into().unwrap_or(0));
        Error::Unreachable(format!(
            "asked again in {}; the last time: {last}",
            humantime::format_duration(wait)
        ))
    }

    fn end(&self, probe: bool, outcome: Outcome) {
        let was_open = {
            let mut breaker = self.breaker();
            let was_open = breaker.is_open();
            breaker.ended(self.clock.now(), probe, outcome, chance());
            if self.local {
                breaker.close();
            }
            (was_open, breaker.is_open())
        };
        let name = &self.source.name;
        match was_open {
            (false, true) => {
                tracing::warn!(backend = %name, "it does not answer: resting, with a probe now and then")
            }
            (true, false) => tracing::info!(backend = %name, "it answers again"),
            _ => {}
        }
        if was_open.0 {
            self.verdict.notify_waiters();
        }
    }
}

/// A question on its way; one that is dropped says so to the breaker.
struct Asked<'a> {
    lane: &'a Lane,
    probe: bool,
    began: Moment,
    ended: bool,
}

impl Asked<'_> {
    /// Others need not wait for its answer, which counts when it comes.
    fn is_no_probe(&mut self) {
        if std::mem::take(&mut self.probe) {
            self.lane.end(true, Outcome::Abandoned);
        }
    }

    fn ended<T>(mut self, result: &Result<T, Error>) {
        self.ended = true;
        let counters = &self.lane.counters;
        match result {
            Ok(_) => counters.calls_ok.count(),
            Err(Error::NotFound) => counters.calls_not_found.count(),
            Err(Error::Forbidden | Error::Refused(_)) => counters.calls_forbidden.count(),
            Err(_) => counters.calls_failed.count(),
        }
        self.lane.end(self.probe, Outcome::of(result));
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The one who asked gave up. A backend that had this long to answer is not well.
        let waited = self.lane.clock.now().since(self.began);
        self.lane.counters.calls_failed.count();
        let outcome = if waited >= UNANSWERED {
            Outcome::Failed(Error::TimedOut(Duration::from_secs(waited.as_secs())))
        } else {
            Outcome::Abandoned
        };
        self.lane.end(self.probe, outcome);
    }
}
