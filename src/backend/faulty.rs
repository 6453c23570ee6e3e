//! Owns a backend in memory that fails on command: the test double for everything above `backend`.
//! Does not know any protocol.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{Backend, Entry, Error, Kind, Listing, Versions};
use crate::path::BackendPath;
use crate::secret::{Field, Form, Secret, SecretBytes, Version};

/// A backend of the tests: holds what it is given, counts what it is asked, fails as it is told.
#[derive(Default)]
pub struct Faulty {
    /// Guards all that a test sets and the backend reads; held for a map operation only.
    state: Mutex<State>,
    reads: AtomicU64,
    lists: AtomicU64,
    versions: AtomicU64,
    /// Told of every change, and when generations begin to count.
    moved: Notify,
}

type Fields = Vec<(String, Vec<u8>)>;

#[derive(Default)]
struct State {
    /// The fields of each version by path; the first is version 1.
    secrets: BTreeMap<String, Vec<Fields>>,
    failing: Option<Error>,
    delay: Duration,
    /// For one path only, over what holds for all.
    failing_paths: HashMap<String, Error>,
    delayed_paths: HashMap<String, Duration>,
    unlisted: bool,
    tells_versions: bool,
    counts_generations: bool,
    /// Changes so far.
    generation: u64,
    /// The generation at the end of the last wait for a change.
    told: u64,
}

impl Faulty {
    /// An empty backend that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a secret of text fields at `path`, as a new version; the older ones are kept.
    pub fn put(&self, path: &str, fields: &[(&str, &[u8])]) {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        self.change(|state| state.secrets.entry(path.to_owned()).or_default().push(fields));
    }

    /// Deletes the secret at `path` with all its versions: one that is put there again begins at 1.
    pub fn delete(&self, path: &str) {
        self.change(|state| drop(state.secrets.remove(path)));
    }

    /// Every call from now on fails with `error`; `None` heals.
    pub fn fail_with(&self, error: Option<Error>) {
        self.state().failing = error;
    }

    /// Every call about the secret or folder at `path` fails with `error` from now on; `None` heals.
    pub fn fail_path(&self, path: &str, error: Option<Error>) {
        let mut state = self.state();
        match error {
            Some(error) => drop(state.failing_paths.insert(path.to_owned(), error)),
            None => drop(state.failing_paths.remove(path)),
        }
    }

    /// Every call from now on takes this long.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Every call about the secret or folder at `path` takes this long from now on, whatever holds for the others; zero
    /// takes that back.
    pub fn delay_path(&self, path: &str, delay: Duration) {
        let mut state = self.state();
        if delay.is_zero() {
            state.delayed_paths.remove(path);
        } else {
            state.delayed_paths.insert(path.to_owned(), delay);
        }
    }

    /// Listings are refused with [`Error::Forbidden`] from now on; reads still work.
    pub fn forbid_listing(&self) {
        self.state().unlisted = true;
    }

    /// Ends [`Faulty::forbid_listing`].
    pub fn allow_listing(&self) {
        self.state().unlisted = false;
    }

    /// Whether a folder tells the versions of its secrets from now on; at first it does not.
    pub fn tell_versions(&self, tells: bool) {
        self.state().tells_versions = tells;
    }

    /// Whether there is a generation from now on, which moves with every put and delete; at first there is none.
    pub fn count_generations(&self, counts: bool) {
        let mut state = self.state();
        state.counts_generations = counts;
        state.told = state.generation;
        drop(state);
        self.moved.notify_waiters();
    }

    /// How many reads were asked for, of older versions too.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// How many listings were asked for.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::SeqCst)
    }

    /// How many times the versions of a folder were asked for.
    pub fn versions_asked(&self) -> u64 {
        self.versions.load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        state.generation += 1;
        drop(state);
        self.moved.notify_waiters();
    }

    /// Looks when half of the delay has passed: what changes later is not in the answer, as with a real server.
    async fn answer<T>(
        &self,
        path: &BackendPath,
        look: impl FnOnce(&State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let half = {
            let state = self.state();
            *state.delayed_paths.get(&path.joined()).unwrap_or(&state.delay) / 2
        };
        if !half.is_zero() {
            tokio::time::sleep(half).await;
        }
        let answer = {
            let state = self.state();
            let failing = state.failing_paths.get(&path.joined()).or(state.failing.as_ref());
            failing.cloned().map_or_else(|| look(&state), Err)
        };
        if !half.is_zero() {
            tokio::time::sleep(half).await;
        }
        answer
    }
}

impl State {
    /// The version of this number; 0 is the newest.
    fn read(&self, path: &BackendPath, number: usize) -> Result<Secret, Error> {
        let kept = self.secrets.get(&path.joined()).ok_or(Error::NotFound)?;
        let number = if number == 0 { kept.len() } else { number };
        let fields = number.checked_sub(1).and_then(|at| kept.get(at)).ok_or(Error::NotFound)?;
        let fields = fields.iter().map(|(name, value)| Field {
            name: name.clone(),
            value: SecretBytes::new(value.clone()),
            form: Form::Text,
        });
        Ok(Secret {
            fields: fields.collect(),
            version: Version::new(number.to_string()),
            created: Some(std::time::UNIX_EPOCH + Duration::from_secs(number as u64)),
            expires: None,
        })
    }

    fn list(&self, path: &BackendPath) -> Result<Listing, Error> {
        if self.unlisted {
            return Err(Error::Forbidden);
        }
        let prefix = path.name_prefix();
        let below = self.secrets.keys().filter_map(|key| key.strip_prefix(&prefix));
        let listing = Listing::new(below.map(Entry::on_the_way_to).collect());
        if listing.entries().is_empty() && !path.is_root() { Err(Error::NotFound) } else { Ok(listing) }
    }

    fn versions(&self, path: &BackendPath) -> Option<Versions> {
        let prefix = path.name_prefix();
        let below = self.secrets.iter().filter_map(|(key, kept)| Some((key.strip_prefix(&prefix)?, kept)));
        let within = below.filter(|(name, _)| !name.contains('/'));
        let current =
            within.map(|(name, kept)| (name.to_owned(), Some(Version::new(kept.len().to_string()))));
        self.tells_versions.then(|| Versions { current: current.collect(), requests: 1 })
    }
}

#[async_trait]
impl Backend for Faulty {
    fn kind(&self) -> Kind {
        Kind::Faulty
    }

    async fn read(&self, path: &BackendPath) -> Result<Secret, Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answer(path, |state| state.read(path, 0)).await
    }

    async fn read_version(&self, path: &BackendPath, version: &Version) -> Result<Secret, Error> {
        let number =
            version.as_str().parse().ok().filter(|number: &usize| number.to_string() == version.as_str());
        // What can be no number is not asked for.
        let number = number.filter(|number| *number > 0).ok_or(Error::NotFound)?;
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answer(path, |state| state.read(path, number)).await
    }

    async fn versions(&self, path: &BackendPath) -> Result<Option<Versions>, Error> {
        self.versions.fetch_add(1, Ordering::SeqCst);
        self.answer(path, |state| Ok(state.versions(path))).await
    }

    async fn list(&self, path: &BackendPath) -> Result<Listing, Error> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.answer(path, |state| state.list(path)).await
    }

    fn generation(&self) -> Option<u64> {
        let state = self.state();
        state.counts_generations.then_some(state.generation)
    }

    async fn changed(&self) {
        let told = self.state().told;
        loop {
            // Listening before looking: what changes in between is heard.
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            {
                let mut state = self.state();
                if state.counts_generations && state.generation != told {
                    state.told = state.generation;
                    return;
                }
            }
            moved.await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn path(text: &str) -> BackendPath {
        BackendPath::parse(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_path_can_fail_or_be_late_alone() {
        let faulty = Faulty::new();
        faulty.put("a", &[("k", b"canary")]);
        faulty.put("b", &[("k", b"canary")]);
        faulty.fail_path("a", Some(Error::Status(500)));
        faulty.delay_path("b", Duration::from_secs(3));
        let start = tokio::time::Instant::now();
        assert_eq!(faulty.read(&path("a")).await.unwrap_err(), Error::Status(500));
        assert_eq!(start.elapsed(), Duration::ZERO);
        faulty.read(&path("b")).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        faulty.fail_path("a", None);
        faulty.delay_path("b", Duration::ZERO);
        faulty.read(&path("a")).await.unwrap();
        faulty.read(&path("b")).await.unwrap();
        assert_eq!((start.elapsed(), faulty.reads()), (Duration::from_secs(3), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn versions_and_generations_are_told_when_that_is_wanted() {
        let faulty = Faulty::new();
        for name in ["a", "a", "dir/b", "dir/b/c"] {
            faulty.put(name, &[("k", b"canary")]);
        }
        assert_eq!(faulty.versions(&path("dir")).await.unwrap(), None);
        faulty.tell_versions(true);
        let told = faulty.versions(&path("dir")).await.unwrap().unwrap().current;
        assert_eq!(told.into_iter().collect::<Vec<_>>(), [("b".to_owned(), Some(Version::new("1")))]);
        assert_eq!(faulty.versions_asked(), 2);

        let waits = async || tokio::time::timeout(Duration::from_secs(1), faulty.changed()).await.is_err();
        assert_eq!(faulty.generation(), None);
        assert!(waits().await);
        faulty.count_generations(true);
        let before = faulty.generation().unwrap();
        assert!(waits().await, "what changed before is nothing new");
        faulty.delete("a");
        assert!(!waits().await);
        assert!(waits().await);
        assert_ne!(faulty.generation(), Some(before));
    }
}
