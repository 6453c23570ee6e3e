//! Owns the contract between the filesystem and whoever keeps the secrets.
//! Does not know files, caching or the kernel; each child module alone knows its own protocol.

pub mod aws;
pub mod faulty;
pub mod issuer;
mod json_fields;
pub mod mint;
mod retry_after;
mod short_lived;
pub mod store;
pub mod tokens;
pub mod vault;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::path::BackendPath;
use crate::secret::{Secret, Version};

/// Which kind of backend, as the configuration and `.meta` spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// HashiCorp Vault or OpenBao.
    Vault,
    /// AWS Secrets Manager.
    Aws,
    /// The embedded encrypted store.
    Store,
    /// A backend of the tests, in memory.
    Faulty,
}

impl Kind {
    /// The spelling in `type = "..."` and in SOURCE.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vault => "vault",
            Self::Aws => "aws",
            Self::Store => "store",
            Self::Faulty => "faulty",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One name in a folder. A name can be both: Vault allows `foo` and `foo/` side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The last segment, in the backend's spelling.
    pub name: String,
    /// There is a secret of this name.
    pub secret: bool,
    /// There is a folder of this name.
    pub folder: bool,
}

impl Entry {
    /// What a secret called `rest`, counted from a folder, is in that folder: itself, or the folder on the way to it.
    fn on_the_way_to(rest: &str) -> Self {
        let (name, folder) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
        Self { name: name.to_owned(), secret: !folder, folder }
    }
}

/// What is in a folder, sorted by name, each name once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    entries: Vec<Entry>,
}

impl Listing {
    /// Sorts, and merges a secret and a folder of one name into one entry.
    pub fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|later, kept| {
            let same = later.name == kept.name;
            if same {
                kept.secret |= later.secret;
                kept.folder |= later.folder;
            }
            same
        });
        // Held for long.
        entries.shrink_to_fit();
        Self { entries }
    }

    /// All entries, sorted by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry called `name`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        let at = self.entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
        self.entries.get(at)
    }

    /// Bytes this listing holds: the cache's weight.
    pub fn weight(&self) -> usize {
        self.entries.iter().map(|entry| entry.name.len() + 48).sum()
    }
}

/// The current versions of the secrets in one folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions {
    /// By the backend's name for the secret; `None` for one whose current version is deleted or destroyed. One that is not
    /// named here is gone, or the answer did not tell: a read decides.
    pub current: BTreeMap<String, Option<Version>>,
    /// How many requests it took.
    pub requests: u32,
}

/// Why a backend gave no value. Holds nothing that a server sent and nothing secret: it is safe to log and to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such secret or folder; also a deleted or destroyed version.
    #[error("there is no such secret")]
    NotFound,
    /// The backend refuses this path to our credentials.
    #[error("the backend refuses this path to the credentials in use")]
    Forbidden,
    /// We refuse by our own rule: an engine we do not serve, a name the protocol could misread. Says what to do.
    #[error("{0}")]
    Refused(String),
    /// No answer could be had: connection refused, TLS failure, no credentials. Says what was tried, not what came back.
    #[error("the backend cannot be reached: {0}")]
    Unreachable(String),
    /// The backend answered with an HTTP status that is no answer to the question (429, 500, 503, ...).
    #[error("the backend answered with HTTP status {0}")]
    Status(u16),
    /// The backend asks to be left alone for a while (429 or 503 with Retry-After, a throttling exception).
    #[error("the backend is busy (HTTP status {status}) and asks to be left alone for {}", humantime::format_duration(*.retry_after))]
    Busy {
        /// The HTTP status.
        status: u16,
        /// What it asks for, from when it said so.
        retry_after: Duration,
    },
    /// The answer is not what the API documents.
    #[error("the backend's answer could not be understood: {0}")]
    Malformed(&'static str),
    /// The answer or a value is larger than the configured limit, in bytes.
    #[error("larger than the limit of {limit} bytes; raise max_value_size to serve it")]
    TooLarge {
        /// The limit that was passed.
        limit: usize,
    },
    /// No answer within this long.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// As many leases are held as may be.
    #[error(
        "{limit} leases are held, as many as `max_leases` allows: raise it, or find out who opens so many"
    )]
    TooManyLeases {
        /// The configured limit.
        limit: usize,
    },
}

impl Error {
    /// Whether this is the backend's answer (to be believed and cached) and not the lack of one.
    pub fn is_answer(&self) -> bool {
        matches!(self, Self::NotFound | Self::Forbidden | Self::Refused(_))
    }
}

/// Whoever keeps secrets. One contract suite (`tests/it/contract.rs`) runs against every implementation.
///
/// Calls are made from a tokio runtime, bound their own time by the deadline they were built with, and may be dropped
/// at any await point. They never retry for longer than the deadline and never log a value, a token or a server's body.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Which kind this is.
    fn kind(&self) -> Kind;

    /// The current version of the secret at `path`.
    async fn read(&self, path: &BackendPath) -> Result<Secret, Error>;

    /// An older version of the secret at `path`: a KV v2 number, or an AWS version id or stage such as `AWSPREVIOUS`.
    /// [`Error::NotFound`] where there is none, or where the backend keeps no older versions.
    async fn read_version(&self, _path: &BackendPath, _version: &Version) -> Result<Secret, Error> {
        Err(Error::NotFound)
    }

    /// The current versions of the secrets that lie directly in the folder at `path`, without a value, in fewer requests
    /// than secrets. `None` where this server or this policy does not give them; that is learned by asking, remembered,
    /// and asked again now and then. A folder that does not exist has none. Unlike with other calls the deadline bounds each
    /// of its requests, not all of them: a folder of many thousands takes several, and no reader waits for this.
    async fn versions(&self, _path: &BackendPath) -> Result<Option<Versions>, Error> {
        Ok(None)
    }

    /// What is in the folder at `path`. An empty folder that the backend cannot tell from a missing one is
    /// [`Error::NotFound`], except for the root, which is an empty listing.
    async fn list(&self, path: &BackendPath) -> Result<Listing, Error>;

    /// A number that changes whenever anything in the backend may have changed, when that costs no more than a
    /// system call (the store's file); `None` where it cannot be known. What was held under another number is asked for
    /// again, and what is held under the same number is as good as asked for now.
    fn generation(&self) -> Option<u64> {
        None
    }

    /// Ready when [`Self::generation`] may have changed; never where that is `None`. May be dropped and called again.
    async fn changed(&self) {
        std::future::pending().await
    }

    /// Whom it asks, such as an address and a namespace: somewhere else the same name of a lease or a token means nothing. Not
    /// for anybody to read.
    fn whereabouts(&self) -> String {
        String::new()
    }

    /// The side that makes secrets when it is asked for them; `None`: it has none.
    fn issuer(&self) -> Option<&dyn issuer::Issuer> {
        None
    }

    /// Work of its own beside all questions, such as keeping its own token alive. Runs as long as the mount does.
    async fn tend(&self) {
        std::future::pending().await
    }

    /// Programs have used what lies at `path` a moment ago: has what every question about it needs (a connection, a login, what
    /// kind of engine it is), so that they will wait for their own questions only. What fails is left to them.
    async fn warm_up(&self, _path: &BackendPath) -> Result<(), Error> {
        Ok(())
    }

    /// The mount has ended, and nothing is asked any more: give back what was had for it, such as a token of our own. Not those
    /// that the server calls as `kept` says: what is to outlive the mount ends with them. Bounds its own time; what goes wrong is
    /// logged.
    async fn close(&self, _kept: &[String]) {}

    /// The next worker takes over: nothing is had for the mount from now on (no login), and what was had goes there; `None`: this
    /// backend has nothing. What is on its way is waited for.
    async fn hand_over(&self) -> Option<tokens::CarriedTokens> {
        None
    }

    /// Ends [`Self::hand_over`]: there is no next worker.
    fn resume(&self) {}

    /// Has what the worker before had. Called before anything is asked, where [`Self::hand_over`] gave something there.
    async fn take_over(&self, _tokens: tokens::CarriedTokens) {}

    /// Notes there from now on which tokens its logins make, beginning with those that it has.
    fn note_tokens(&self, _notes: Arc<dyn tokens::NoteTokens>) {}

    /// Whether it has the token that the server calls so.
    fn knows_token(&self, _accessor: &str) -> bool {
        false
    }

    /// Ends a token that it does not have, and with it all that was made with it. [`Error::NotFound`]: there is none (any more).
    async fn revoke_token(&self, _accessor: &str) -> Result<(), Error> {
        Err(Error::NotFound)
    }

    /// Descriptors that the kernel takes long to close: who dies with the last copy of one is gone that much later. Watches of
    /// inotify(7) are waited for until nobody on any processor can look at them (`fsnotify_destroy_group` in
    /// fs/notify/group.c): 6 ms where nothing else happens, 70 where much does.
    fn slow_to_close(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    /// Called now and then: erase what is held in clear and was not used of late, and close connections whose buffers may
    /// hold what was read a while ago. With a `now` that is far ahead, all of it.
    fn tidy(&self, _now: Moment) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_and_a_folder_of_one_name_are_one_entry() {
        let listing = Listing::new(vec![
            Entry { name: "foo".into(), secret: true, folder: false },
            Entry { name: "bar".into(), secret: true, folder: false },
            Entry { name: "foo".into(), secret: false, folder: true },
        ]);
        assert_eq!(listing.entries().len(), 2);
        assert_eq!(listing.get("foo"), Some(&Entry { name: "foo".into(), secret: true, folder: true }));
        assert_eq!(listing.get("baz"), None);
    }
}
