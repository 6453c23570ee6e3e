//! Owns the embedded store as a backend: one age file, decrypted when it changed, forgotten when it is not used.
//! Does not know commands, configuration files or the kernel.

mod cipher;
mod document;
mod fields;
mod file;
mod key;
mod wait;
mod watch;

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

pub use document::{BadDocument, BadPath, Document, FORMAT, Kept, SecretPath};
pub use fields::{
    BadJson, Spelled, parse as parse_fields, parse_many as parse_secrets, pretty as pretty_fields,
};
pub use file::{Error as FileError, LIMIT, change, create, load, needs_passphrase};
pub use key::{ConfigError, Key, create_identity, is_recipient};

use self::wait::Wait;
use self::watch::Watch;
use super::{Backend, Error, Kind, Listing};
use crate::clock::{Clock, Moment};
use crate::path::BackendPath;
use crate::secret::{Field, Secret, SecretBytes, Version, erase_stack_below};

/// How long a document stays decrypted after its last use.
const KEPT_UNUSED: Duration = Duration::from_secs(10);

/// What a store is made from.
#[derive(Debug)]
pub struct Config {
    /// The age file. It need not exist yet.
    pub file: PathBuf,
    /// What opens it.
    pub key: KeySource,
}

/// Where the key comes from.
#[derive(Debug)]
pub enum KeySource {
    /// A file of age identities.
    Identity(PathBuf),
    /// A file that holds the passphrase.
    PassphraseFile(PathBuf),
    /// A passphrase that somebody typed.
    Passphrase(SecretBytes),
}

impl KeySource {
    /// Reads and checks the key.
    pub fn load(self) -> Result<Key, ConfigError> {
        match self {
            Self::Identity(file) => Key::from_identity_file(&file),
            Self::PassphraseFile(file) => Key::from_passphrase_file(&file),
            Self::Passphrase(passphrase) => Key::from_passphrase(passphrase),
        }
    }
}

/// The embedded store, read-only: commands write the file, and the next open sees it through the generation.
pub struct Store {
    inner: Arc<Inner>,
    watch: Watch,
    wait: Wait,
    /// Held by the one load that runs, also when nobody waits for it any more.
    loading: Arc<tokio::sync::Mutex<()>>,
}

struct Inner {
    file: PathBuf,
    key: Key,
    clock: Clock,
    /// Guards what is decrypted; held for a comparison and a copy of a pointer only.
    held: Mutex<Option<Held>>,
}

/// What the file of one generation holds, or why it cannot be read: a wrong key is as expensive to find out as a right one.
struct Held {
    generation: u64,
    found: Result<Arc<Document>, Error>,
    used: Moment,
}

impl Store {
    /// Reads the key at once, the file only when it is asked for.
    pub fn new(config: Config, clock: Clock) -> Result<Self, ConfigError> {
        let watch = Watch::new(config.file.clone(), clock.clone());
        let wait = Wait::new(&watch);
        let inner = Inner { file: config.file, key: config.key.load()?, clock, held: Mutex::default() };
        Ok(Self { inner: Arc::new(inner), watch, wait, loading: Arc::default() })
    }

    /// Whether anything is held in clear now.
    pub fn holds_plaintext(&self) -> bool {
        self.inner.held().as_ref().is_some_and(|held| held.found.is_ok())
    }

    async fn document(&self) -> Result<Arc<Document>, Error> {
        if let Some(found) = self.inner.current() {
            return found;
        }
        let alone = self.loading.clone().lock_owned().await;
        if let Some(found) = self.inner.current() {
            return found;
        }
        let inner = self.inner.clone();
        // A passphrase costs a second of computing and a file may lie on a slow disk: not on a thread that serves
        // others. The task owns the lock, so a caller who gives up leaves its result to the next one.
        let load = tokio::task::spawn_blocking(move || {
            let found = inner.load();
            erase_stack_below();
            drop(alone);
            found
        });
        load.await.unwrap_or_else(|_| Err(Error::Unreachable("the store could not be loaded".into())))
    }
}

impl Inner {
    fn held(&self) -> std::sync::MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What is held, when it is still what the file says.
    fn current(&self) -> Option<Result<Arc<Document>, Error>> {
        let generation = file::generation(&self.file);
        let mut held = self.held();
        let held = held.as_mut().filter(|held| held.generation == generation)?;
        held.used = self.clock.now();
        Some(held.found.clone())
    }

    fn load(&self) -> Result<Arc<Document>, Error> {
        let before = file::generation(&self.file);
        let (generation, found) = match file::load(&self.file, &self.key) {
            Ok((generation, document)) => (generation, Ok(Arc::new(document))),
            // The system's errors pass by themselves, without a change of the file.
            Err(error @ (FileError::Missing(_) | FileError::Io { .. })) => return Err(error.into()),
            Err(error) => (before, Err(error.into())),
        };
        let used = self.clock.now();
        *self.held() = Some(Held { generation, found: found.clone(), used });
        found
    }
}

#[async_trait]
impl Backend for Store {
    fn kind(&self) -> Kind {
        Kind::Store
    }

    async fn read(&self, path: &BackendPath) -> Result<Secret, Error> {
        let document = self.document().await?;
        let kept = document.get(&path.joined()).ok_or(Error::NotFound)?;
        let fields = kept.fields.iter().map(|field| Field {
            name: field.name.clone(),
            value: SecretBytes::new(field.value.expose().to_vec()),
            form: field.form,
        });
        Ok(Secret {
            fields: fields.collect(),
            version: Version::new(kept.version.to_string()),
            created: Some(kept.created),
            expires: None,
        })
    }

    async fn list(&self, path: &BackendPath) -> Result<Listing, Error> {
        self.document().await?.list(path).ok_or(Error::NotFound)
    }

    fn generation(&self) -> Option<u64> {
        Some(self.watch.generation())
    }

    async fn changed(&self) {
        self.wait.changed(&self.watch).await;
    }

    fn slow_to_close(&self) -> Vec<BorrowedFd<'_>> {
        self.watch.events().into_iter().chain(self.wait.events()).collect()
    }

    fn tidy(&self, now: Moment) {
        let mut held = self.inner.held();
        if held.as_ref().is_some_and(|held| now.since(held.used) >= KEPT_UNUSED) {
            *held = None;
        }
    }
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Corrupt { why, .. } => Self::Malformed(why),
            FileError::Document { bad: BadDocument::Format, .. } => {
                Self::Malformed("the store's format is not secretfs-store/1: a newer secretfs may read it")
            }
            FileError::Document { .. } => {
                Self::Malformed("the store decrypts but does not hold its documented format")
            }
            FileError::TooLarge(_) => Self::Malformed("the store is larger than the limit of 256 MiB"),
            other => Self::Unreachable(other.to_string()),
        }
    }
}
