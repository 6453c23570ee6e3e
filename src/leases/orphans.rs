//! Owns what a worker that crashed has left: leases whose values are lost, and tokens that nobody has any more.
//! Does not know how they are given back, or how they were written down.
//!
//! Programs may still use what they read before the crash, so the newest lease of each secret is kept until what follows it is
//! replaced as well, as a predecessor is. Older ones, and those that somebody has revoked, are given back at once, and before another one
//! is made: however often a worker crashes, there is one lease for each secret beside the one in use.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Leases;
use super::ledger::{BackendRef, Ledger, LedgerEntry, Made, OfBackend, Written};
use crate::backend::Error;
use crate::backend::issuer::{LeaseId, ParentId};
use crate::cache::{Priority, SecretRef, SourceId};
use crate::clock::Moment;
use crate::lease::FLOOR;
use crate::path::BackendPath;
use crate::record::Opening;

/// The longest pause between tries to end a token.
const LONGEST_PAUSE: std::time::Duration = std::time::Duration::from_secs(10);

/// What was found of a worker that has crashed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orphans {
    /// Leases that are kept for those who use them still.
    pub kept: usize,
    /// Leases that are given back at once: older ones, and those that somebody has revoked.
    pub given_back: usize,
    /// Tokens of logins.
    pub tokens: usize,
    /// Leases and tokens of backends that the configuration does not have any more, or that ask another server by now.
    pub of_nobody: usize,
}

/// A token that nobody has any more.
#[derive(Debug)]
pub(super) struct OrphanToken {
    source: SourceId,
    accessor: String,
    until: Option<Moment>,
    again: Moment,
    failures: u32,
    trying: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct OrphanTokens(Vec<OrphanToken>);

impl OrphanTokens {
    /// Forgets what has ended by `now`; what is to be ended now, each once, and when to look again. What is `needed` is left alone.
    pub(super) fn due(
        &mut self,
        now: Moment,
        needed: impl Fn(&str) -> bool,
    ) -> (Vec<(SecretRef, String)>, Option<Moment>) {
        self.0.retain(|token| token.trying || token.until.is_none_or(|until| now < until));
        let (mut due, mut next) = (Vec::new(), None::<Moment>);
        for token in self.0.iter_mut().filter(|token| !token.trying && !needed(&token.accessor)) {
            if token.again <= now {
                token.trying = true;
                due.push((place_of(token.source), token.accessor.clone()));
            } else {
                next = next.into_iter().chain([token.again]).min();
            }
        }
        (due, next)
    }

    fn tried(&mut self, accessor: &str, is_over: bool, now: Moment) {
        if is_over {
            self.0.retain(|token| token.accessor != accessor);
        }
        for token in self.0.iter_mut().filter(|token| token.accessor == accessor) {
            let pause = FLOOR.saturating_mul(1 << token.failures.min(16)).min(LONGEST_PAUSE);
            token.failures = token.failures.saturating_add(1);
            token.again = now.plus(pause);
            token.trying = false;
        }
    }

    /// Whether one is being ended.
    pub(super) fn is_trying(&self) -> bool {
        self.0.iter().any(|token| token.trying)
    }

    /// Takes all of them.
    pub(super) fn take(&mut self) -> Vec<(SecretRef, String)> {
        let all = std::mem::take(&mut self.0);
        all.into_iter().map(|token| (place_of(token.source), token.accessor)).collect()
    }
}

/// What is said of a backend as a whole.
fn place_of(source: SourceId) -> SecretRef {
    SecretRef::current(source, BackendPath::root())
}

impl Leases {
    /// Writes down from now on what is made and what has ended, beginning with what a worker before wrote and this one does not
    /// know: that is of one that has crashed. To be called once, before anything is made and after [`Leases::import`].
    pub fn keep_ledger(&self, opening: Opening<LedgerEntry>) -> Orphans {
        let clock = self.cache.clock().clone();
        let now = clock.now();
        let (ledger, living) = Ledger::open(opening, clock);
        let ledger = Arc::new(ledger);
        let issuers = (0..).map(SourceId::new).map_while(|id| Some((id, self.cache.source(id)?)));
        let issuers: HashMap<BackendRef, SourceId> = issuers
            .filter(|(_, source)| source.backend.issuer().is_some())
            .map(|(id, source)| (BackendRef::of(source), id))
            .collect();
        let mut found = Orphans::default();
        let mut book = self.book();
        let known: HashSet<LeaseId> = book.all().map(|(_, id, ..)| id.clone()).collect();
        let mut followed: HashSet<SecretRef> = book
            .entries
            .iter()
            .filter(|(_, entry)| entry.current.is_some())
            .map(|(of, _)| of.clone())
            .collect();
        followed.extend(book.left.orphans().cloned());
        // Of a worker whose own ledger could not be gone on with.
        let written: HashSet<LeaseId> = living.leases().into_iter().map(|written| written.made.id).collect();
        for (of, id, until, parent) in book.all().filter(|(_, id, ..)| !written.contains(id)) {
            let Some(source) = self.cache.source(of.source) else { continue };
            let accessor = source.backend.issuer().and_then(|issuer| issuer.accessor(parent?));
            let (backend, path, id) = (BackendRef::of(source), of.path.clone(), id.clone());
            ledger.made(Made { backend, path, demand: of.demand, id, until, accessor });
        }
        let mut older = Vec::new();
        for Written { made, is_unwanted, .. } in living.leases().into_iter().rev() {
            if known.contains(&made.id) {
                continue;
            }
            let Some(source) = issuers.get(&made.backend) else {
                found.of_nobody += 1;
                continue;
            };
            let of = SecretRef { demand: made.demand, ..SecretRef::current(*source, made.path) };
            // What should be gone is the newest of nothing.
            let is_kept = !is_unwanted && followed.insert(of.clone());
            if !is_kept {
                older.push(made.id.clone());
            }
            book.left.adopt(of, made.id, made.until, (!is_kept).then_some(now));
            if is_kept { found.kept += 1 } else { found.given_back += 1 }
        }
        ledger.unwanted(&older);
        for token in living.tokens() {
            let Some(source) = issuers.get(&token.backend) else {
                found.of_nobody += 1;
                continue;
            };
            let backend = self.cache.source(*source).map(|source| &source.backend);
            if backend.is_none_or(|backend| backend.knows_token(&token.accessor)) {
                continue;
            }
            found.tokens += 1;
            let (accessor, until) = (token.accessor, token.until);
            let (failures, trying) = (0, false);
            book.tokens.0.push(OrphanToken {
                source: *source,
                accessor,
                until,
                again: now,
                failures,
                trying,
            });
        }
        drop(book);
        for (backend, source) in issuers {
            if let Some(source) = self.cache.source(source) {
                let ledger = ledger.clone();
                source.backend.note_tokens(Arc::new(OfBackend { ledger, backend }));
            }
        }
        let _ = self.ledger.set(ledger);
        found.tell();
        self.look_again();
        found
    }

    /// Ends a token that nobody has any more, and with it all that was made with it. Whether there is nothing more to be done.
    pub(super) async fn end_token(&self, of: &SecretRef, accessor: &str, asker: Priority) -> bool {
        let asked = self.cache.ask(of.source, asker, async |backend| backend.revoke_token(accessor).await);
        let outcome = asked.await;
        let is_over = match &outcome {
            Ok(()) | Err(Error::NotFound) => {
                tracing::info!(backend = %self.name(of), "the token of a worker that crashed is revoked");
                true
            }
            Err(why @ (Error::Forbidden | Error::Refused(_))) => {
                let what = "the token of a worker that crashed is not revoked, and lives to its end";
                tracing::warn!(
                    backend = %self.name(of),
                    "{what}: {why} (its policy needs `update` on `auth/token/revoke-accessor`)"
                );
                true
            }
            Err(_) => false,
        };
        if is_over && let (Some(ledger), Some(source)) = (self.ledger.get(), self.cache.source(of.source)) {
            ledger.token_gone(&BackendRef::of(source), accessor);
        }
        let mut book = self.book();
        book.tokens.tried(accessor, is_over, self.cache.clock().now());
        book.changed = true;
        is_over
    }
}

impl super::Book {
    /// Every lease that is known here: of what, the latest end that it may have, and what it was made with, where that is known.
    fn all(&self) -> impl Iterator<Item = (&SecretRef, &LeaseId, Option<Moment>, Option<ParentId>)> {
        let held = self.entries.iter().flat_map(|(of, entry)| {
            let held = [&entry.current, &entry.previous].into_iter().flatten();
            held.filter_map(move |held| Some((of, held.id.as_ref()?, held.until, held.parent)))
        });
        held.chain(self.left.all().map(|(of, id, until)| (of, id, until, None)))
    }
}

impl Orphans {
    fn tell(&self) {
        let Self { kept, given_back, tokens, of_nobody } = *self;
        if kept + given_back + tokens > 0 {
            tracing::warn!(
                "a worker has crashed before: {kept} of its leases are kept for those who use them, {given_back} older or revoked ones are \
                 given back, {tokens} tokens of its logins are revoked when nothing hangs on them"
            );
        }
        if of_nobody > 0 {
            tracing::error!(
                "{of_nobody} leases and tokens are of backends that the configuration has no more, or that have another address or \
                 namespace by now: they live to their ends"
            );
        }
    }
}
