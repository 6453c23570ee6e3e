//! Owns a backend in memory that makes secrets on demand and fails on command: the test double for leases.
//! Does not know any protocol. It counts on a clock of the test, and keeps every lease to its end as a real server does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::issuer::{Demand, Issued, Issuer, LeaseId, Nature, Parent, ParentId};
use super::tokens::NoteTokens;
use super::{Backend, Entry, Error, Kind, Listing};
use crate::clock::{Clock, Moment};
use crate::lease::{Grant, Succession};
use crate::path::BackendPath;
use crate::secret::{Field, Form, Secret, SecretBytes, Version};

/// What a role of [`Mint`] makes.
#[derive(Debug, Clone)]
pub struct Role {
    /// The fields of what it makes, beside `serial`, which is the number of the lease.
    pub fields: Vec<String>,
    /// Whether it says the names of its fields beforehand.
    pub tells_fields: bool,
    /// For how long a lease is granted each time; `None`: it has no lease, and is good for this long.
    pub ttl: Duration,
    /// How old a lease can become at most.
    pub max_ttl: Duration,
    /// Whether there is a lease that can be renewed and revoked.
    pub leased: bool,
    /// When successors can be had.
    pub succession: Succession,
}

impl Default for Role {
    fn default() -> Self {
        Self {
            fields: vec!["password".to_owned()],
            tells_fields: true,
            ttl: Duration::from_secs(60),
            max_ttl: Duration::from_secs(3600),
            leased: true,
            succession: Succession::Ahead,
        }
    }
}

/// A lease that a [`Mint`] has made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Which role made it.
    pub path: String,
    /// When.
    pub at: Moment,
    /// When it ends, or has ended.
    pub ends: Moment,
    /// With which parent.
    pub parent: ParentId,
    /// How many times it was renewed.
    pub renewals: u32,
}

/// A backend of the tests that makes secrets.
pub struct Mint {
    clock: Clock,
    /// Guards all that a test sets and the backend knows; held for a map operation only.
    state: Mutex<State>,
    parents: Notify,
}

#[derive(Default)]
struct State {
    roles: BTreeMap<String, Role>,
    made: Vec<Made>,
    renewals: u64,
    revocations: u64,
    asked: u64,
    failing: [Option<Error>; 3],
    /// What is asked for is done, and nobody hears of it.
    mute: [bool; 3],
    delay: Duration,
    whereabouts: String,
    parent: u64,
    parents: BTreeMap<u64, Parent>,
    /// Parents are logins, and have names.
    logs_in: bool,
    /// The first parent that is not of a worker that crashed.
    first_known: u64,
}

/// What can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Making.
    Issue = 0,
    /// Renewing.
    Renew = 1,
    /// Revoking.
    Revoke = 2,
}

impl Mint {
    /// Without roles, on this clock.
    pub fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default(), parents: Notify::new() }
    }

    /// Puts a role at `path`.
    pub fn role(&self, path: &str, role: Role) {
        self.state().roles.insert(path.to_owned(), role);
    }

    /// Every such call fails with `error` from now on; `None` heals.
    pub fn fail(&self, call: Call, error: Option<Error>) {
        if let Some(failing) = self.state().failing.get_mut(call as usize) {
            *failing = error;
        }
    }

    /// Every such call is done from now on, and its answer is lost; or not any more.
    pub fn lose_answers(&self, call: Call, lost: bool) {
        if let Some(mute) = self.state().mute.get_mut(call as usize) {
            *mute = lost;
        }
    }

    /// It says that it is there from now on.
    pub fn moves(&self, to: &str) {
        to.clone_into(&mut self.state().whereabouts);
    }

    /// Every call from now on takes this long.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Every lease that was ever made, by its `serial`.
    pub fn made(&self) -> Vec<Made> {
        self.state().made.clone()
    }

    /// Whether the lease of this `serial` is good at this moment.
    pub fn is_good(&self, serial: usize) -> bool {
        let now = self.clock.now();
        let state = self.state();
        state.made.get(serial).is_some_and(|made| now < made.ends && !state.is_orphan(made, now))
    }

    /// How many renewals were granted, revocations done, and calls of any kind asked for.
    pub fn counts(&self) -> (u64, u64, u64) {
        let state = self.state();
        (state.renewals, state.revocations, state.asked)
    }

    /// What is made with the present parent ends then; `None`: it does not.
    pub fn parent_ends(&self, end: Option<Moment>) {
        let mut state = self.state();
        let parent = state.parent;
        state.parents.insert(parent, Parent::Current(end));
        drop(state);
        self.parents.notify_waiters();
    }

    /// Another parent from now on; the present one lives to its end.
    pub fn next_parent(&self) {
        let mut state = self.state();
        let parent = state.parent;
        if let Some(Parent::Current(end)) = state.parents.get(&parent).copied() {
            state.parents.insert(parent, Parent::Superseded(end));
        }
        state.parent += 1;
        drop(state);
        self.parents.notify_waiters();
    }

    /// All that was made with the present parent is dead; another takes its place.
    pub fn lose_parent(&self) {
        let mut state = self.state();
        let parent = state.parent;
        state.parents.insert(parent, Parent::Dead);
        state.parent += 1;
        drop(state);
        self.parents.notify_waiters();
    }

    /// What secrets are made with is a login of each worker's own from now on.
    pub fn log_in(&self) {
        self.state().logs_in = true;
    }

    /// The worker has crashed: its login is lost, and goes on living.
    pub fn crash(&self) {
        if self.state().logs_in {
            self.next_parent();
        }
        let mut state = self.state();
        state.first_known = state.parent;
    }

    /// Whether a parent is not known to have ended.
    pub fn is_alive(&self, parent: ParentId) -> bool {
        self.state().parents.get(&parent.0) != Some(&Parent::Dead)
    }

    /// Ends a lease behind everybody's back.
    pub fn end(&self, serial: usize) {
        let now = self.clock.now();
        if let Some(made) = self.state().made.get_mut(serial) {
            made.ends = made.ends.min(now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    async fn answer<T>(
        &self,
        call: Call,
        give: impl FnOnce(&mut State, Moment) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let delay = self.state().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let now = self.clock.now();
        let mut state = self.state();
        state.asked += 1;
        if let Some(error) = state.failing.get(call as usize).cloned().flatten() {
            return Err(error);
        }
        let given = give(&mut state, now)?;
        if state.mute.get(call as usize) == Some(&true) {
            return Err(Error::TimedOut(Duration::from_secs(5)));
        }
        Ok(given)
    }
}

impl State {
    /// Whether what it was made with has ended.
    fn is_orphan(&self, made: &Made, now: Moment) -> bool {
        match self.parents.get(&made.parent.0) {
            Some(Parent::Dead) => true,
            Some(Parent::Current(Some(end)) | Parent::Superseded(Some(end))) => now >= *end,
            _ => false,
        }
    }
}

fn number(accessor: &str) -> Option<u64> {
    accessor.strip_prefix("accessor-")?.parse().ok()
}

fn serial(lease: &LeaseId) -> Option<usize> {
    lease.as_str().rsplit('/').next()?.parse().ok()
}

#[async_trait]
impl Issuer for Mint {
    async fn nature(&self, path: &BackendPath) -> Result<Nature, Error> {
        let prefix = path.name_prefix();
        let found = self.state().roles.keys().any(|role| *role == path.joined() || role.starts_with(&prefix));
        Ok(if found { Nature::OnDemand } else { Nature::Stored })
    }

    async fn fields(&self, path: &BackendPath) -> Result<Option<Vec<String>>, Error> {
        let state = self.state();
        let role = state.roles.get(&path.joined()).ok_or(Error::NotFound)?;
        Ok(role.tells_fields.then(|| role.fields.iter().cloned().chain(["serial".to_owned()]).collect()))
    }

    async fn issue(&self, path: &BackendPath, demand: &Demand) -> Result<Issued, Error> {
        let asked =
            demand.parameters.get("name").and_then(|name| name.as_str()).unwrap_or_default().to_owned();
        self.answer(Call::Issue, |state, now| {
            let role = state.roles.get(&path.joined()).ok_or(Error::NotFound)?.clone();
            let (number, parent) = (state.made.len(), ParentId(state.parent));
            let made = Made { path: path.joined(), at: now, ends: now, parent, renewals: 0 };
            if state.is_orphan(&made, now) {
                return Err(Error::Unreachable("the token has ended".to_owned()));
            }
            let life = role.ttl.min(role.max_ttl);
            let (path, ends) = (path.joined(), now.plus(life));
            let field = |name: &String, value: String| Field {
                name: name.clone(),
                value: SecretBytes::from(value),
                form: Form::Text,
            };
            let fields = role.fields.iter().map(|name| field(name, format!("canary-{asked}-{number}")));
            let fields = fields.chain([field(&"serial".to_owned(), number.to_string())]).collect();
            let secret = Secret { fields, version: Version::default(), created: None, expires: None };
            let lease = role.leased.then(|| LeaseId::new(format!("{path}/{number}")));
            state.made.push(Made { ends, ..made });
            let grant = Grant { life: Some(life), renewable: role.leased, succession: role.succession };
            Ok(Issued { secret, lease, grant, parent: Some(parent) })
        })
        .await
    }

    async fn renew(&self, lease: &LeaseId) -> Result<Grant, Error> {
        self.answer(Call::Renew, |state, now| {
            let at = serial(lease).ok_or(Error::NotFound)?;
            if state.made.get(at).is_none_or(|made| now >= made.ends || state.is_orphan(made, now)) {
                return Err(Error::NotFound);
            }
            let State { roles, made, .. } = state;
            let made = made.get_mut(at).ok_or(Error::NotFound)?;
            let role = roles.get(&made.path).ok_or(Error::NotFound)?;
            made.ends = now.plus(role.ttl).min(made.at.plus(role.max_ttl));
            made.renewals += 1;
            let grant =
                Grant { life: Some(made.ends.since(now)), renewable: true, succession: Succession::Ahead };
            state.renewals += 1;
            Ok(grant)
        })
        .await
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<(), Error> {
        self.answer(Call::Revoke, |state, now| {
            let made = serial(lease).and_then(|at| state.made.get_mut(at)).ok_or(Error::NotFound)?;
            made.ends = made.ends.min(now);
            state.revocations += 1;
            Ok(())
        })
        .await
    }

    fn accessor(&self, parent: ParentId) -> Option<String> {
        self.state().logs_in.then(|| format!("accessor-{}", parent.0))
    }

    fn parent(&self, parent: ParentId) -> Parent {
        self.state().parents.get(&parent.0).copied().unwrap_or(Parent::Current(None))
    }

    async fn parents_changed(&self) {
        self.parents.notified().await;
    }
}

#[async_trait]
impl Backend for Mint {
    fn kind(&self) -> Kind {
        Kind::Faulty
    }

    async fn read(&self, path: &BackendPath) -> Result<Secret, Error> {
        let known = self.state().roles.contains_key(&path.joined());
        Err(if known { Error::Refused("made on demand only".to_owned()) } else { Error::NotFound })
    }

    async fn list(&self, path: &BackendPath) -> Result<Listing, Error> {
        let prefix = path.name_prefix();
        let state = self.state();
        let below = state.roles.keys().filter_map(|key| key.strip_prefix(&prefix));
        let listing = Listing::new(below.map(Entry::on_the_way_to).collect());
        if listing.entries().is_empty() && !path.is_root() { Err(Error::NotFound) } else { Ok(listing) }
    }

    fn whereabouts(&self) -> String {
        self.state().whereabouts.clone()
    }

    fn knows_token(&self, accessor: &str) -> bool {
        number(accessor).is_some_and(|number| number >= self.state().first_known)
    }

    fn note_tokens(&self, notes: Arc<dyn NoteTokens>) {
        let state = self.state();
        if state.logs_in {
            notes.had(&format!("accessor-{}", state.parent), None);
        }
    }

    async fn revoke_token(&self, accessor: &str) -> Result<(), Error> {
        self.answer(Call::Revoke, |state, _| {
            state.parents.insert(number(accessor).ok_or(Error::NotFound)?, Parent::Dead);
            Ok(())
        })
        .await
    }

    fn issuer(&self) -> Option<&dyn Issuer> {
        Some(self)
    }
}
