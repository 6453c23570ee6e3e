//! Owns what is done about leases: finds what is due, does it, and takes note of what came of it.
//! Does not know who waits, and decides nothing about times: `crate::lease` does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::entry::{Doing, Entry, Failed, Held};
use super::ledger::{BackendRef, Made};
use super::left::LeftBehind;
use super::{Book, Leases};
use crate::backend::Error;
use crate::backend::issuer::{Issued, LeaseId, Parent};
use crate::cache::{Changed, Priority, SecretRef, chance, is_about_one_thing};
use crate::clock::Moment;
use crate::freshness;
use crate::lease::{Action, FLOOR, Lease};
use crate::secret::Version;

/// The longest pause between tries to make what there is none of.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What could not be made, and what nobody has asked for since, is forgotten after this.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Something that is to be done about one lease.
#[derive(Debug)]
pub struct Errand {
    of: SecretRef,
    task: Task,
}

#[derive(Debug)]
enum Task {
    Make {
        asker: Priority,
    },
    Renew {
        id: LeaseId,
        /// It is given up then: its successor is due.
        until: Moment,
        /// What it may be granted for.
        life: Option<Duration>,
    },
    Revoke(LeaseId),
    /// What is not shown any more.
    GiveBack(LeaseId),
    /// A token that nobody has any more.
    EndToken(String),
}

impl Errand {
    /// Which secret it is about.
    pub fn of(&self) -> &SecretRef {
        &self.of
    }
}

/// What one look at an entry found.
enum Found {
    Now { task: Task, urgent: bool, due: Moment },
    Later(Moment),
    Gone,
}

impl Leases {
    /// Erases what has ended by `now`; what is to be done now, and when to look again. Whoever takes an errand does it.
    pub fn due(&self, now: Moment) -> (Vec<Errand>, Option<Moment>) {
        let mut book = self.book();
        if !book.changed && book.next.is_none_or(|next| now < next) {
            return (vec![], book.next);
        }
        book.changed = false;
        let Book { entries, left, tokens, pace, closing, paused, .. } = &mut *book;
        let stands_still = *closing || *paused;
        let mut found = Vec::new();
        let (unwanted, mut next) = if stands_still { (vec![], None) } else { left.due(now) };
        let needed = |accessor: &str| self.hangs_on(left, accessor, now);
        let (lost, again) = if stands_still { (vec![], None) } else { tokens.due(now, needed) };
        next = next.into_iter().chain(again).min();
        entries.retain(|of, entry| match self.look(of, entry, left, now, stands_still) {
            Found::Now { task, urgent, due } => {
                found.push((due, urgent, of.clone(), task));
                true
            }
            Found::Later(at) => {
                next = next.into_iter().chain([at]).min();
                true
            }
            Found::Gone => {
                for held in [entry.current.take(), entry.previous.take()].into_iter().flatten() {
                    left.keep(of, held, None);
                }
                false
            }
        });
        // What is nearest to its end first.
        found.sort_by_key(|(due, urgent, ..)| (!urgent, *due));
        let unwanted = unwanted.into_iter().map(|(of, id)| Errand { of, task: Task::GiveBack(id) });
        let lost = lost.into_iter().map(|(of, accessor)| Errand { of, task: Task::EndToken(accessor) });
        let mut errands: Vec<Errand> = unwanted.chain(lost).collect();
        for (_, urgent, of, task) in found {
            if !urgent {
                let paced = pace.entry(of.source).or_insert(Moment::START);
                if now < *paced {
                    next = next.into_iter().chain([*paced]).min();
                    continue;
                }
                *paced = now.plus(freshness::gap(self.load(entries, &of)));
            }
            if let Some(entry) = entries.get_mut(&of) {
                entry.doing = match task {
                    Task::Make { .. } => Doing::Making,
                    Task::Renew { .. } => Doing::Renewing,
                    Task::Revoke(_) | Task::GiveBack(_) | Task::EndToken(_) => Doing::Revoking,
                };
            }
            errands.push(Errand { of, task });
        }
        book.next = next;
        (errands, next)
    }

    /// Does it. Not to be dropped before it is done: what is made would be lost.
    pub async fn act(&self, errand: Errand) {
        let of = errand.of;
        match errand.task {
            Task::Make { asker } => self.make(&of, asker).await,
            Task::Renew { id, until, life } => self.renew(&of, &id, until, life).await,
            Task::Revoke(id) => {
                // Also where this worker ends here, or hears of no answer.
                self.write_unwanted(std::slice::from_ref(&id));
                let is_gone = self.give_back(&of, &id, Priority::Lease).await.is_ok();
                let now = self.cache.clock().now();
                self.take_note(&of, |_, entry, left| {
                    let Some(held) = entry.current.take_if(|held| held.id.as_ref() == Some(&id)) else {
                        return;
                    };
                    // An open may have come between: what it waits for is made anew. What could not be given back may be dead all
                    // the same, or without its rights: nobody is given it again.
                    entry.doing = Doing::Nothing;
                    left.keep(&of, held, Some(now));
                    left.tried(&id, is_gone, now);
                });
            }
            Task::EndToken(accessor) => {
                self.end_token(&of, &accessor, Priority::Lease).await;
            }
            Task::GiveBack(id) => {
                let is_gone = self.give_back(&of, &id, Priority::Lease).await.is_ok();
                let mut book = self.book();
                book.left.tried(&id, is_gone, self.cache.clock().now());
                book.changed = true;
            }
        }
    }

    fn look(
        &self,
        of: &SecretRef,
        entry: &mut Entry,
        left: &mut LeftBehind,
        now: Moment,
        stands_still: bool,
    ) -> Found {
        for held in [&mut entry.current, &mut entry.previous].into_iter().flatten() {
            let is_orphan = match self.parent(of.source, held.parent) {
                Parent::Current(end) | Parent::Superseded(end) => end.is_some_and(|end| now >= end),
                Parent::Dead => true,
            };
            if is_orphan && held.secret.is_some() {
                held.lease.died(now);
            }
            if held.lease.ends().is_some_and(|end| now >= end) {
                held.secret = None;
                // Of no use without its value, should the backend still have it.
                held.lease.cannot_grow();
            }
        }
        if let Some(ended) = entry.previous.take_if(|held| held.secret.is_none()) {
            left.keep(of, ended, None);
        }
        if entry.doing != Doing::Nothing || stands_still {
            return Found::Later(self.next_end(of, entry));
        }
        // What an older worker has left goes first, or there would be one more.
        if entry.wanted && left.is_to_go_first(of, now) {
            return Found::Later(self.next_end(of, entry));
        }
        if entry.wanted {
            let task = Task::Make { asker: Priority::Reader };
            return Found::Now { task, urgent: true, due: now };
        }
        let Some(held) = &entry.current else {
            let forgotten = entry.failed.as_ref().map(|failed| failed.ended.plus(REMEMBERED));
            let kept = forgotten.filter(|at| now < *at || entry.done.receiver_count() > 0);
            return match (kept, &entry.previous) {
                (Some(at), _) => Found::Later(at),
                (None, Some(_)) => Found::Later(self.next_end(of, entry)),
                (None, None) => Found::Gone,
            };
        };
        let step = self.next(of, entry, held, now);
        if now < step.at {
            return Found::Later(self.next_end(of, entry).min(step.at));
        }
        let end = self.end(of, held).unwrap_or(Moment::END);
        let last = end.minus(end.since(held.lease.made()) / 20);
        let due = |task| Found::Now { task, urgent: now >= last, due: step.at };
        match (step.action, &held.id) {
            (Action::Renew, Some(id)) => {
                let until = held.lease.renewal_until(&(self.terms)(of), now);
                due(Task::Renew { id: id.clone(), until, life: held.lease.life() })
            }
            (Action::Revoke, Some(id)) => due(Task::Revoke(id.clone())),
            (Action::Renew | Action::Replace, _) => due(Task::Make { asker: Priority::Lease }),
            (Action::Revoke | Action::Forget, _) => Found::Gone,
        }
    }

    async fn make(&self, of: &SecretRef, asker: Priority) {
        let (path, demand) = (of.path.clone(), self.demand(of));
        let mut asked = (self.cache.clock().now(), SystemTime::now());
        let asking = async |backend: Arc<dyn crate::backend::Backend>| {
            asked = (self.cache.clock().now(), SystemTime::now());
            match backend.issuer() {
                Some(issuer) => issuer.issue(&path, &demand).await,
                None => Err(Error::NotFound),
            }
        };
        let made = self.cache.ask(of.source, asker, asking).await;
        let counters = self.cache.counters();
        let (mut changed, mut outlived) = (None, vec![]);
        match made {
            Ok(issued) => {
                // Before anybody is given it.
                self.write_down(of, &issued, asked.0);
                counters.leases_made.count();
                self.take_note(of, |closing, entry, left| {
                    let held = held(issued, asked, entry.current.is_none());
                    entry.made();
                    if closing {
                        left.keep(of, held, None);
                        return;
                    }
                    let version = held.secret.as_ref().map(|secret| secret.version.clone());
                    if let Some(before) = entry.current.replace(held) {
                        changed = Some(Changed { of: of.clone(), version });
                        outlived = left.outlived(of, self.cache.clock().now());
                        if let Some(older) = entry.previous.replace(before) {
                            left.keep(of, older, None);
                        }
                    }
                });
                self.write_unwanted(&outlived);
                let what = if changed.is_some() { "a lease is replaced" } else { "a lease is made" };
                tracing::info!(backend = %self.name(of), path = %of.path, "{what}");
            }
            Err(error) => {
                counters.leases_failed.count();
                tracing::warn!(backend = %self.name(of), path = %of.path, "no lease: {error}");
                self.take_note(of, |_, entry, left| {
                    let now = self.cache.clock().now();
                    self.note_failure(of, entry);
                    entry.failures = entry.failures.saturating_add(1);
                    // A backend that does not answer at all is left alone by its breaker, for all leases together: as soon as
                    // it is well again somebody finds out.
                    let doubled = if is_about_one_thing(&error) { entry.failures - 1 } else { 0 };
                    let pause = FLOOR.saturating_mul(1 << doubled.min(16)).min(LONGEST_PAUSE);
                    // The backend says no, and what there was has ended: the next open finds out whether it still does.
                    if error.is_answer()
                        && let Some(ended) = entry.current.take_if(|held| held.secret.is_none())
                    {
                        left.keep(of, ended, None);
                    }
                    entry.failed = Some(Failed { error, ended: now, not_before: now.plus(pause) });
                    entry.wanted = false;
                    entry.doing = Doing::Nothing;
                });
            }
        }
        if let Some(changed) = changed {
            self.cache.announce(&changed);
        }
    }

    /// Writes down what was made.
    fn write_down(&self, of: &SecretRef, issued: &Issued, asked: Moment) {
        let (Some(ledger), Some(id)) = (self.ledger.get(), &issued.lease) else { return };
        let Some(source) = self.cache.source(of.source) else { return };
        let accessor = source.backend.issuer().and_then(|issuer| issuer.accessor(issued.parent?));
        ledger.made(Made {
            backend: BackendRef::of(source),
            path: of.path.clone(),
            demand: of.demand,
            id: id.clone(),
            until: issued.grant.life.map(|life| asked.plus(life)),
            accessor,
        });
    }

    /// Writes down that these should be gone, so that a crash does not make anybody keep them.
    pub(super) fn write_unwanted(&self, ids: &[LeaseId]) {
        if let Some(ledger) = self.ledger.get() {
            ledger.unwanted(ids);
        }
    }

    /// Whether a lease that is kept for those who use it was made with this token.
    fn hangs_on(&self, left: &LeftBehind, accessor: &str, now: Moment) -> bool {
        let Some(ledger) = self.ledger.get() else { return false };
        left.orphans_alive(now).any(|id| ledger.accessor_of(id).as_deref() == Some(accessor))
    }

    /// The name of the backend of a secret.
    pub(super) fn name(&self, of: &SecretRef) -> &str {
        self.cache.source(of.source).map_or("", |source| &source.name)
    }

    /// When a lease ends, by itself or with what it was made with.
    pub(super) fn end(&self, of: &SecretRef, held: &Held) -> Option<Moment> {
        let parent = match self.parent(of.source, held.parent) {
            Parent::Current(end) | Parent::Superseded(end) => end,
            Parent::Dead => Some(Moment::START),
        };
        held.lease.good_until(parent)
    }

    /// When the next of what is held ends.
    fn next_end(&self, of: &SecretRef, entry: &Entry) -> Moment {
        let held = [&entry.current, &entry.previous].into_iter().flatten();
        let ends = held.filter(|held| held.secret.is_some()).filter_map(|held| self.end(of, held));
        ends.min().unwrap_or(Moment::END)
    }

    fn note_failure(&self, of: &SecretRef, entry: &mut Entry) {
        if let Some(held) = &mut entry.current {
            held.lease.failed(&(self.terms)(of), self.cache.clock().now(), chance());
        }
    }

    /// Changes an entry, tells those who wait for it, and has the book looked through again.
    fn take_note(&self, of: &SecretRef, note: impl FnOnce(bool, &mut Entry, &mut LeftBehind)) {
        {
            let mut book = self.book();
            let now = self.cache.clock().now();
            let Book { entries, left, changed, closing, .. } = &mut *book;
            note(*closing, entries.entry(of.clone()).or_insert_with(|| Entry::new(now)), left);
            *changed = true;
            if let Some(entry) = book.entries.get(of) {
                entry.done.send_replace(());
            }
        }
        self.earlier.notify_one();
    }

    /// What came of an errand about a lease that is held. It does nothing where that was taken out of the book meanwhile: what is
    /// held by then is another one, and what is being done about that is none of this errand's business.
    pub(super) fn take_note_of(&self, of: &SecretRef, id: &LeaseId, note: impl FnOnce(&mut Entry)) {
        self.take_note(of, |_, entry, _| {
            if entry.current.as_ref().is_some_and(|held| held.id.as_ref() == Some(id)) {
                entry.doing = Doing::Nothing;
                note(entry);
            }
        });
    }

    /// The load that keeping the leases of a backend is, as `freshness::load` counts it: each is renewed after two thirds of
    /// its life.
    fn load(&self, entries: &std::collections::HashMap<SecretRef, Entry>, like: &SecretRef) -> u64 {
        let held = entries.iter().filter(|(of, _)| of.source == like.source);
        let lives = held.filter_map(|(_, entry)| entry.current.as_ref()?.lease.life());
        lives.map(|life| freshness::load(life * 2 / 3)).sum()
    }
}

impl Entry {
    fn made(&mut self) {
        self.failed = None;
        self.failures = 0;
        self.wanted = false;
        self.doing = Doing::Nothing;
    }
}

fn held(issued: Issued, asked: (Moment, SystemTime), first: bool) -> Held {
    let Issued { mut secret, lease: id, grant, parent } = issued;
    // A backend has no name for it; when it was made is one, and tells something.
    secret.version = Version::new(humantime::format_rfc3339_micros(asked.1).to_string());
    secret.created = Some(asked.1);
    secret.fields.shrink_to_fit();
    let lease = Lease::new(asked.0, grant, first, chance());
    let until = lease.ends();
    Held { lease, id, parent, made: asked.1, granted: asked, until, secret: Some(Arc::new(secret)) }
}
