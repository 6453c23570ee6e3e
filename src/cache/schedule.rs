//! Owns the order in which slots need something done: erased, or asked for again.
//! Does not know what a slot holds or how a backend is asked.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
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

/// Slots by their next deadline. An entry that was overtaken costs a little room until its time.
#[derive(Default)]
pub(super) struct Schedule {
    heap: BinaryHeap<Reverse<Entry>>,
    /// Jobs whose time has come, until somebody takes them.
    ready: Vec<Job>,
    /// Questions of slots that were emptied: moka still has their keys.
    gone: Vec<Question>,
    /// In use though nobody opens it; whether to fetch it where it is not held.
    wanted: HashMap<Question, bool>,
}

/// More wishes than this are not noted at a time.
const MOST_WANTED: usize = 10_000;

struct Entry {
    at: Moment,
    question: Question,
    slot: Weak<Slot>,
}

impl Schedule {
    /// Puts a slot on the schedule; whether it is now the first.
    pub(super) fn push(&mut self, question: Question, slot: &Arc<Slot>, at: Moment) -> bool {
        if !slot.schedule(at) {
            return false;
        }
        let first = self.heap.peek().is_none_or(|Reverse(entry)| at < entry.at);
        self.heap.push(Reverse(Entry { at, question, slot: Arc::downgrade(slot) }));
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
        while let Some(Reverse(entry)) = self.heap.peek() {
            if entry.at > now {
                return Some(entry.at);
            }
            let Some(Reverse(Entry { at, question, slot: weak })) = self.heap.pop() else { break };
            let Some(slot) = weak.upgrade() else { continue };
            let held = slot.is_kept();
            match slot.due(at, now, generation(&question), chance()) {
                None => {}
                Some(Due::At(next)) => {
                    self.push(question, &slot, next);
                }
                Some(Due::Refresh(next)) => {
                    self.ready.push(Job { question: question.clone(), slot: Some(weak), fetch: false });
                    self.push(question, &slot, next);
                }
                Some(Due::Gone) => {
                    if held {
                        erased();
                    }
                    self.gone.push(question);
                }
            }
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

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}
