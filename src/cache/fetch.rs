//! Owns one question to a backend: how it is asked, and which slot keeps what came back.
//! Does not know who shares the answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::gate::Priority;
use super::slot::{Answer, Asking, Slot};
use super::{Question, SecretCache, SecretRef, Snapshot, chance};
use crate::backend::{Error, Listing};
use crate::freshness::{Freshness, Life};
use crate::secret::{Secret, erase_stack_below};

impl SecretCache {
    /// The slot to keep for an answer: the one that is held, when the answer is the same, or is the lack of one.
    pub(super) fn kept_slot(
        &self,
        question: &Question,
        asker: Priority,
        held: Option<&Arc<Slot>>,
        answer: Answer,
        asking: Asking,
    ) -> Arc<Slot> {
        let now = self.clock.now();
        let freshness = self.freshness(question.of());
        let kept = held.filter(|held| held.is_kept());
        if let Some(held) = kept {
            if answer.is_outage() {
                held.excuse(now, chance());
                held.stay();
                return held.clone();
            }
            let refresh_at = freshness.next_refresh(asking.began, chance());
            if held.freshness() == *freshness
                && is_unchanged(held, &answer)
                && held.extend(asking, refresh_at)
            {
                held.stay();
                return held.clone();
            }
        }
        let answer = dated(answer, kept.is_some_and(|held| held.secret().is_some()));
        let life = match &answer {
            Answer::Secret(Ok(snapshot)) => freshness
                .life(snapshot.secret.expires.map(|end| end.duration_since(asking.wall).unwrap_or_default())),
            Answer::Listing(Ok(_)) => freshness.life(None),
            // For those who waited for it only; it must be there when they look.
            answer if answer.is_outage() => {
                Life { fresh: Duration::ZERO, served: now.since(asking.began) + Duration::from_secs(1) }
            }
            _ => freshness.negative_life(),
        };
        // A reader who joined somebody that nobody waits for asks for itself: its own question may be answered by now.
        let unheard = answer.is_outage() && asker >= Priority::Lease;
        let load = self.loads.get(question.of().source.index()).cloned().unwrap_or_default();
        let ahead = answer.is_kept() && question.of().version.is_none();
        let mut slot = Slot::new(answer, asking, now, (freshness.clone(), life), load);
        if asker != Priority::Reader
            && let Some(held) = held
        {
            slot = slot.used_like(held);
        }
        if unheard {
            slot.wipe();
        }
        Arc::new(match asker {
            _ if !ahead => slot,
            Priority::Reader | Priority::Operator => {
                slot.tended_from(freshness.first_refresh(asking.began, chance()))
            }
            _ => slot.tended_from(freshness.next_refresh(asking.began, chance())),
        })
    }

    /// How old an answer may be, in one place for all that may be as old.
    pub(super) fn freshness(&self, of: &SecretRef) -> Arc<Freshness> {
        let freshness = (self.policy)(of);
        let mut kinds = self.kinds.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = kinds.iter().find(|known| ***known == freshness) {
            return known.clone();
        }
        let kind = Arc::new(freshness);
        kinds.push(kind.clone());
        kind
    }

    pub(super) async fn fetch(&self, question: &Question, asker: Priority) -> (Answer, Asking) {
        let of = question.of();
        let lane = self.lanes.get(of.source.index());
        let mut asking = Asking { began: self.clock.now(), wall: SystemTime::now(), generation: None };
        let Some(lane) = lane else { return (negative(question, Error::NotFound), asking) };
        let backend = &lane.source.backend;
        let ask = || {
            asking =
                Asking { began: self.clock.now(), wall: SystemTime::now(), generation: backend.generation() };
            async {
                match (question, &of.version) {
                    (Question::Read(of), None) => backend.read(&of.path).await.map(Fetched::Secret),
                    (Question::Read(of), Some(version)) => {
                        backend.read_version(&of.path, version).await.map(Fetched::Secret)
                    }
                    (Question::List(of), _) => backend.list(&of.path).await.map(Fetched::Listing),
                }
            }
        };
        let result = lane.call(asker, ask).await;
        erase_stack_below();
        if asker == Priority::Reader { &self.counters.misses } else { &self.counters.refreshes }.count();
        let name = &lane.source.name;
        match &result {
            Err(error) if !error.is_answer() => {
                tracing::warn!(backend = %name, path = %of.path, "no answer: {error}");
            }
            // The caller sees a bare EACCES; the reason is ours, so we say it.
            Err(error @ Error::Refused(_)) => {
                tracing::warn!(backend = %name, path = %of.path, "refused: {error}");
            }
            _ => {}
        }
        let answer = match result {
            Ok(Fetched::Secret(mut secret)) => {
                // Held for long, and most have one field in a list that was made for four.
                secret.fields.shrink_to_fit();
                let life = (self.policy)(of)
                    .life(secret.expires.map(|end| end.duration_since(asking.wall).unwrap_or_default()));
                Answer::Secret(Ok(Arc::new(Snapshot::new(Arc::new(secret), asking, life))))
            }
            Ok(Fetched::Listing(listing)) => Answer::Listing(Ok(Arc::new(listing))),
            Err(error) => negative(question, error),
        };
        (answer, asking)
    }
}

enum Fetched {
    Secret(Secret),
    Listing(Listing),
}

fn negative(question: &Question, error: Error) -> Answer {
    match question {
        Question::Read(_) => Answer::Secret(Err(error)),
        Question::List(_) => Answer::Listing(Err(error)),
    }
}

/// Whether the backend gave what is held already: the same version of the same content.
fn is_unchanged(held: &Slot, answer: &Answer) -> bool {
    match (held.answer(), answer) {
        (Some(Answer::Secret(Ok(held))), Answer::Secret(Ok(new))) => held.secret.is_same_as(&new.secret),
        (Some(Answer::Listing(Ok(held))), Answer::Listing(Ok(new))) => held == *new,
        _ => false,
    }
}

/// A backend without versions does not say when its values were made: the first that differs from what was held is made now.
fn dated(answer: Answer, is_held: bool) -> Answer {
    match answer {
        Answer::Secret(Ok(mut snapshot)) if is_held && snapshot.secret.created.is_none() => {
            let fetched = snapshot.fetched;
            if let Some(secret) = Arc::get_mut(&mut snapshot).and_then(|new| Arc::get_mut(&mut new.secret)) {
                secret.created = Some(fetched);
            }
            Answer::Secret(Ok(snapshot))
        }
        answer => answer,
    }
}
