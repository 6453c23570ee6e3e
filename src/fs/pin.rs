//! Owns the rule of pairs for one thread and one secret: which version the next field comes from.
//! Does not know threads, locks or time; it is told all three.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Snapshot;
use crate::clock::Moment;
use crate::render::View;
use crate::secret::Secret;

/// What of a secret is opened.
#[derive(Debug, Clone, Copy)]
pub(super) enum What<'a> {
    /// The field of this name.
    Field(&'a str),
    /// The whole of it, seen in this way.
    Whole(View),
}

/// The version that a thread reads, and what of it the thread has opened.
pub(super) struct Pin {
    snapshot: Arc<Snapshot>,
    opened: Positions,
    last: usize,
    /// When the thread last got this version as the newest there was.
    since: Moment,
}

impl Pin {
    /// The pin of a thread that opens something of `newest`; none where nothing can be mixed, for there is one field.
    pub(super) fn first(what: What<'_>, newest: &Arc<Snapshot>, now: Moment) -> Option<Self> {
        let at = what.position(&newest.secret).filter(|_| newest.secret.fields.len() > 1)?;
        let mut opened = Positions::default();
        opened.add(at);
        Some(Self { snapshot: newest.clone(), opened, last: at, since: now })
    }

    /// Whether this is the version of `secret`.
    pub(super) fn is_of(&self, secret: &Arc<Secret>) -> bool {
        is_same(&self.snapshot.secret, secret)
    }

    /// Notes that something of the pinned version was opened while it is the newest; gives back the snapshot held so far.
    ///
    /// What was opened already begins another round: the rest may be opened once more from this version. But one file
    /// that is opened twice in a row begins none. Programs that wait for changes do that (one change is several events);
    /// what such a program opened before must not be served from this version when the next change comes.
    pub(super) fn open_newest(
        &mut self,
        what: What<'_>,
        newest: &Arc<Snapshot>,
        now: Moment,
    ) -> Option<Arc<Snapshot>> {
        let at = what.position(&newest.secret)?;
        if self.opened.has(at) && self.last != at {
            self.opened = Positions::default();
        }
        self.opened.add(at);
        self.last = at;
        self.since = now;
        Some(std::mem::replace(&mut self.snapshot, newest.clone()))
    }

    /// Where in the pinned version `what` is, if it is to be served from there though a newer one is held.
    pub(super) fn position_of_older(&self, what: What<'_>) -> Option<usize> {
        what.position(&self.snapshot.secret).filter(|at| !self.opened.has(*at))
    }

    /// Notes that what stands at this position was opened, and gives the version.
    pub(super) fn open_older(&mut self, at: usize) -> Arc<Snapshot> {
        self.opened.add(at);
        self.last = at;
        self.snapshot.clone()
    }

    /// From when on it binds nobody: at the end of the window, unless a handle of the secret's directory covers it, and
    /// when the version expires in any case.
    pub(super) fn end(&self, window: Duration, covered: bool) -> Moment {
        let expires = self.snapshot.served_until;
        if covered { expires } else { expires.min(self.since.plus(window)) }
    }

    /// When the thread last got this version as the newest there was.
    pub(super) fn since(&self) -> Moment {
        self.since
    }

    /// Lets go of the version.
    pub(super) fn into_snapshot(self) -> Arc<Snapshot> {
        self.snapshot
    }
}

impl What<'_> {
    /// Whether there is such a thing in this version.
    pub(super) fn is_in(self, secret: &Secret) -> bool {
        self.position(secret).is_some()
    }

    /// Its number among all that can be opened of this version.
    fn position(self, secret: &Secret) -> Option<usize> {
        /// Views come first; there are fewer.
        const FIELDS: usize = 8;
        match self {
            Self::Whole(view) => Some(view as usize % FIELDS),
            Self::Field(name) => secret.fields.iter().position(|f| f.name == name).map(|at| at + FIELDS),
        }
    }
}

/// Whether two secrets are one version. KV v1 has no versions: then only what was fetched at once is the same.
fn is_same(a: &Arc<Secret>, b: &Arc<Secret>) -> bool {
    Arc::ptr_eq(a, b) || (!a.version.as_str().is_empty() && a.version == b.version && a.created == b.created)
}

/// A set of small numbers. Most secrets have few fields, and then it needs no memory of its own.
#[derive(Debug, Default)]
struct Positions {
    few: u64,
    more: Vec<u64>,
}

impl Positions {
    fn add(&mut self, at: usize) {
        let (word, bit) = (at / 64, 1 << (at % 64));
        let Some(beyond) = word.checked_sub(1) else {
            self.few |= bit;
            return;
        };
        if self.more.len() <= beyond {
            self.more.resize(beyond + 1, 0);
        }
        if let Some(word) = self.more.get_mut(beyond) {
            *word |= bit;
        }
    }

    fn has(&self, at: usize) -> bool {
        let word = match (at / 64).checked_sub(1) {
            None => self.few,
            Some(beyond) => self.more.get(beyond).copied().unwrap_or(0),
        };
        word >> (at % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::clock::Clock;
    use crate::secret::{Field, Form, SecretBytes, Version};

    const WINDOW: Duration = Duration::from_secs(2);
    const U: What<'_> = What::Field("user");
    const P: What<'_> = What::Field("password");

    /// A version of the secret, served for a minute from the beginning of the clock.
    fn snapshot(version: &str, fields: &[&str]) -> Arc<Snapshot> {
        let fields = fields.iter().map(|name| Field {
            name: (*name).into(),
            value: SecretBytes::from(format!("canary-{name}-{version}")),
            form: Form::Text,
        });
        let version = Version::new(version);
        let secret = Secret { fields: fields.collect(), version, created: Some(UNIX_EPOCH), expires: None };
        let (now, end) = (SystemTime::now(), at(60_000));
        Arc::new(Snapshot {
            secret: Arc::new(secret),
            fetched: now,
            expires: now,
            fresh_until: end,
            served_until: end,
        })
    }

    fn at(millis: u64) -> Moment {
        Clock::manual().now().plus(Duration::from_millis(millis))
    }

    #[test]
    fn what_was_not_opened_yet_is_served_from_there() {
        let pin = Pin::first(U, &snapshot("1", &["user", "password"]), at(0)).unwrap();
        assert!(pin.position_of_older(P).is_some());
        assert!(pin.position_of_older(U).is_none(), "it was opened");
        assert!(pin.position_of_older(What::Whole(View::Json)).is_some());
        assert!(pin.position_of_older(What::Field("other")).is_none());
    }

    #[test]
    fn it_ends_with_the_window_or_under_a_directory_when_the_version_expires() {
        let pin = |since| Pin::first(U, &snapshot("1", &["user", "password"]), at(since)).unwrap();
        assert_eq!(pin(0).end(WINDOW, false), at(2000));
        assert_eq!(pin(0).end(WINDOW, true), at(60_000));
        assert_eq!(pin(0).end(Duration::ZERO, false), at(0));
        assert_eq!(pin(59_000).end(WINDOW, false), at(60_000), "not past the version's end");
    }

    #[test]
    fn the_window_begins_anew_while_the_version_is_the_newest_and_not_after() {
        let one = snapshot("1", &["user", "password", "host"]);
        let mut pin = Pin::first(U, &one, at(0)).unwrap();
        pin.open_newest(P, &one, at(1500)).unwrap();
        assert_eq!(pin.end(WINDOW, false), at(3500));
        let host = pin.position_of_older(What::Field("host")).unwrap();
        assert!(Arc::ptr_eq(&pin.open_older(host), &one));
        assert_eq!(pin.end(WINDOW, false), at(3500));
    }

    #[test]
    fn another_round_binds_again_and_the_same_file_twice_is_none() {
        let one = snapshot("1", &["user", "password"]);
        let mut pin = Pin::first(U, &one, at(0)).unwrap();
        for what in [P, U] {
            pin.open_newest(what, &one, at(0)).unwrap();
        }
        assert!(pin.position_of_older(P).is_some(), "user, password, user: and password");
        for what in [P, P, P] {
            pin.open_newest(what, &one, at(1)).unwrap();
        }
        assert!(pin.position_of_older(U).is_none(), "user was opened in this round");
    }

    #[test]
    fn a_secret_of_one_field_needs_no_pin() {
        assert!(Pin::first(U, &snapshot("1", &["user"]), at(0)).is_none());
        assert!(Pin::first(What::Field("other"), &snapshot("1", &["user", "password"]), at(0)).is_none());
    }

    #[test]
    fn a_version_fetched_again_is_the_same_and_one_without_a_number_is_not() {
        let names = ["user", "password"];
        let pin = |version| Pin::first(U, &snapshot(version, &names), at(0)).unwrap();
        assert!(pin("1").is_of(&snapshot("1", &names).secret));
        assert!(!pin("1").is_of(&snapshot("2", &names).secret));
        assert!(!pin("").is_of(&snapshot("", &names).secret));
        let one = snapshot("", &names);
        assert!(Pin::first(U, &one, at(0)).unwrap().is_of(&one.secret));
    }

    #[test]
    fn positions_are_a_set() {
        let mut positions = Positions::default();
        for at in [0, 63, 64, 1000] {
            assert!(!positions.has(at));
            positions.add(at);
            positions.add(at);
            assert!(positions.has(at) && !positions.has(at + 1), "{at}");
        }
    }
}
