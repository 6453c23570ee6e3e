//! Owns the order in which slots need something done: erased, or asked for again.
//! Does not know what a slot holds or how a backend is asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use super::Question;
use super::slot::{Due, Slot};
use crate::clock::Moment;

/// Something held that is to be asked for again ahead of its end, or something to be fetched because somebody watches it.
#[derive(Debug)]
pub struct Job {
    pub(super) question: Question,
    /// What is held; none where it is not known to be.
    pub(super) slot: Option<Weak<Slot>>,
    /// Whether to fetch what is not held.
    pub(super) fetch: bool,
}

/// Slots by their next deadline, each once. One that was dropped before costs a little room until then.
#[derive(Default)]
pub(super) struct Schedule {
    /// The number is a slot's address: it tells slots with one deadline apart.
    due: BTreeMap<(Moment, usize), (Question, Weak<Slot>)>,
    /// Jobs whose time has come, until somebody takes them.
    ready: Vec<Job>,
    /// Questions of slots that were emptied: moka still has their keys.
    gone: Vec<Question>,
    /// In use though nobody opens it; whether to fetch it where it is not held.
    wanted: HashMap<Question, bool>,
}

/// More wishes than this are not noted at a time.
const MOST_WANTED: usize = 10_000;

impl Schedule {
    /// Puts a slot where it belongs now; whether it is the first.
    pub(super) fn put(&mut self, question: Question, slot: &Arc<Slot>) -> bool {
        let number = Arc::as_ptr(slot).addr();
        let (before, at) = slot.reschedule();
        if before == Some(at) {
            return false;
        }
        if let Some(before) = before {
            self.due.remove(&(before, number));
        }
        let first = self.due.first_key_value().is_none_or(|((first, _), _)| at < *first);
        self.due.insert((at, number), (question, Arc::downgrade(slot)));
        first
    }

    /// Notes a wish; whether it is news.
    pub(super) fn want(&mut self, job: Job) -> bool {
        if self.wanted.len() >= MOST_WANTED {
            return false;
        }
        let fetch = self.wanted.get(&job.question).is_some_and(|fetch| *fetch) || job.fetch;
        self.wanted.insert(job.question, fetch) != Some(fetch)
    }

    /// Does what is due at `now`; the next deadline. `erased` is told of each value that was erased.
    pub(super) fn advance(
        &mut self,
        now: Moment,
        generation: impl Fn(&Question) -> Option<u64>,
        chance: impl Fn() -> f64,
        mut erased: impl FnMut(),
    ) -> Option<Moment> {
        while let Some(entry) = self.due.first_entry() {
            let (at, _) = *entry.key();
            if at > now {
                return Some(at);
            }
            let (question, weak) = entry.remove();
            let Some(slot) = weak.upgrade() else { continue };
            let held = slot.is_kept();
            match slot.due(now, generation(&question), chance()) {
                Due::Later => {}
                Due::Refresh => {
                    self.ready.push(Job { question: question.clone(), slot: Some(weak), fetch: false });
                }
                Due::Gone => {
                    if held {
                        erased();
                    }
                    self.gone.push(question);
                    continue;
                }
            }
            self.put(question, &slot);
        }
        None
    }

    /// The jobs whose time has come.
    pub(super) fn take_ready(&mut self) -> Vec<Job> {
        let wanted = self.wanted.drain().map(|(question, fetch)| Job { question, slot: None, fetch });
        let mut jobs: Vec<Job> = wanted.collect();
        jobs.append(&mut self.ready);
        jobs
    }

    /// Questions whose slots may be empty by now.
    pub(super) fn take_gone(&mut self) -> Vec<Question> {
        std::mem::take(&mut self.gone)
    }
}
