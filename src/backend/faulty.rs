//! Owns a backend in memory that fails on command: the test double for everything above `backend`.
//! Does not know any protocol.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{Backend, Entry, Error, Kind, Listing};
use crate::path::BackendPath;
use crate::secret::{Field, Form, Secret, SecretBytes, Version};

/// A backend of the tests: holds what it is given, counts what it is asked, fails as it is told.
#[derive(Default)]
pub struct Faulty {
    /// Guards all that a test sets and the backend reads; held for a map operation only.
    state: Mutex<State>,
    reads: AtomicU64,
    lists: AtomicU64,
}

type Fields = Vec<(String, Vec<u8>)>;

#[derive(Default)]
struct State {
    /// Every version by path, the first first.
    secrets: BTreeMap<String, Vec<Fields>>,
    failing: Option<Error>,
    delay: Duration,
    unlisted: bool,
}

impl Faulty {
    /// An empty backend that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a secret of text fields at `path`, as a new version.
    pub fn put(&self, path: &str, fields: &[(&str, &[u8])]) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        state.secrets.entry(path.to_owned()).or_default().push(fields);
    }

    /// Deletes the secret at `path` with all its versions.
    pub fn delete(&self, path: &str) {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).secrets.remove(path);
    }

    /// Every call from now on fails with `error`; `None` heals.
    pub fn fail_with(&self, error: Option<Error>) {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).failing = error;
    }

    /// Every call from now on takes this long.
    pub fn delay(&self, delay: Duration) {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).delay = delay;
    }

    /// Listings are refused with [`Error::Forbidden`] from now on; reads still work.
    pub fn forbid_listing(&self) {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).unlisted = true;
    }

    /// Ends [`Faulty::forbid_listing`].
    pub fn allow_listing(&self) {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).unlisted = false;
    }

    /// How many reads were asked for.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// How many listings were asked for.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::SeqCst)
    }

    /// Looks when half of the delay has passed: what changes later is not in the answer, as with a real server.
    async fn answer<T>(&self, look: impl FnOnce(&State) -> Result<T, Error>) -> Result<T, Error> {
        let half = self.state.lock().unwrap_or_else(|e| e.into_inner()).delay / 2;
        if !half.is_zero() {
            tokio::time::sleep(half).await;
        }
        let answer = {
            let state = self.state.lock().unwrap_or_else(|e| e.into_inner());
            state.failing.clone().map_or_else(|| look(&state), Err)
        };
        if !half.is_zero() {
            tokio::time::sleep(half).await;
        }
        answer
    }
}

impl State {
    fn read(&self, path: &BackendPath, version: Option<usize>) -> Result<Secret, Error> {
        let versions = self.secrets.get(&path.joined()).ok_or(Error::NotFound)?;
        let version = version.unwrap_or(versions.len());
        let fields = version.checked_sub(1).and_then(|at| versions.get(at)).ok_or(Error::NotFound)?;
        let fields = fields.iter().map(|(name, value)| Field {
            name: name.clone(),
            value: SecretBytes::new(value.clone()),
            form: Form::Text,
        });
        Ok(Secret {
            fields: fields.collect(),
            version: Version::new(version.to_string()),
            created: Some(std::time::UNIX_EPOCH + Duration::from_secs(version as u64)),
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
}

#[async_trait]
impl Backend for Faulty {
    fn kind(&self) -> Kind {
        Kind::Faulty
    }

    async fn read(&self, path: &BackendPath) -> Result<Secret, Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answer(|state| state.read(path, None)).await
    }

    async fn read_version(&self, path: &BackendPath, version: &Version) -> Result<Secret, Error> {
        let Ok(version) = version.as_str().parse() else { return Err(Error::NotFound) };
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answer(|state| state.read(path, Some(version))).await
    }

    async fn list(&self, path: &BackendPath) -> Result<Listing, Error> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.answer(|state| state.list(path)).await
    }
}
