//! Owns the name of a question: which backend, where in it, in which way, which version.
//! Does not know answers.

use serde::{Deserialize, Serialize};

use crate::path::BackendPath;
use crate::secret::Version;

/// Which of the mount's backends: an index into the sources the cache was built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceId(pub u32);

impl SourceId {
    /// Of the backend at this place in a list.
    pub fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The place in a list of all backends.
    pub fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// In which way something is asked for that is made on demand: 0 is the plain way, others are what the mount's configuration
/// says ([`crate::leases`] has them). Two ways of asking at one path are two secrets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DemandId(pub u32);

/// One secret or folder in one backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SecretRef {
    /// Which backend.
    pub source: SourceId,
    /// How it is asked for; the plain way for all that is kept.
    pub demand: DemandId,
    /// Where in it.
    pub path: BackendPath,
    /// Which version; `None` is the current one, whichever that is.
    pub version: Option<Version>,
}

impl SecretRef {
    /// The current version of what lies at `path`.
    pub fn current(source: SourceId, path: BackendPath) -> Self {
        Self { source, demand: DemandId::default(), path, version: None }
    }

    /// The current version of what lies at another path, asked for in the same way.
    #[must_use]
    pub fn at(&self, path: BackendPath) -> Self {
        Self { source: self.source, demand: self.demand, path, version: None }
    }

    /// The current version of this.
    #[must_use]
    pub fn newest(&self) -> Self {
        self.at(self.path.clone())
    }
}
