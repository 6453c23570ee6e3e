//! Owns the contract with a backend that makes secrets when it is asked for them: credentials, certificates, codes.
//! Does not know who asks, or when a lease is renewed.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Error;
use crate::clock::Moment;
use crate::lease::Grant;
use crate::path::BackendPath;
use crate::secret::Secret;

/// What lies at a place of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nature {
    /// Secrets that are kept: reading one changes nothing.
    Stored,
    /// Secrets that are made when they are asked for.
    OnDemand,
}

/// With which method a backend is asked to make a secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Method {
    /// What the engine is known to want; reading, where that is not known and there are no parameters.
    #[default]
    Auto,
    /// `GET`.
    Read,
    /// `POST`.
    Write,
}

/// How a secret is asked for, as the configuration says it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// The method.
    pub method: Method,
    /// The body of the request: `common_name`, `ip`, ... Nothing in it is shown.
    pub parameters: Map<String, Value>,
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.parameters.keys().collect();
        f.debug_struct("Demand").field("method", &self.method).field("parameters", &names).finish()
    }
}

/// The backend's name for a lease. It is no secret, but whoever has it and a token can end the lease: shown only when asked for.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaseId(String);

impl LeaseId {
    /// As the backend spells it.
    pub fn new(spelling: String) -> Self {
        Self(spelling)
    }

    /// As the backend spells it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId(..)")
    }
}

/// Which of the tokens (or the like) that a backend has had a secret was made with. When that one ends, so does the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ParentId(pub u64);

/// What is known of a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// It is what secrets are made with now, and ends then; `None`: no end is in sight, because it has none or because it is
    /// renewed. What would be made anew would end with it as well.
    Current(Option<Moment>),
    /// It lives, and ends then, and something else has taken its place: what is made anew outlives it.
    Superseded(Option<Moment>),
    /// It has ended (at its end, or revoked by somebody): so has all that was made with it.
    Dead,
}

/// A secret that was made.
#[derive(Debug)]
pub struct Issued {
    /// Its fields. The version is given by who keeps it.
    pub secret: Secret,
    /// Its lease; `None` where it ends by itself and cannot be renewed or revoked (a certificate, a code).
    pub lease: Option<LeaseId>,
    /// How long it is good for.
    pub grant: Grant,
    /// What it was made with; `None`: it does not end with that.
    pub parent: Option<ParentId>,
}

/// The side of a backend that makes secrets. Every call but [`Issuer::issue`] may be dropped at any await point and bounds its
/// own time; a dropped `issue` may leave a secret behind that nobody knows of.
#[async_trait]
pub trait Issuer: Send + Sync {
    /// What lies at and below `path`. Makes nothing.
    async fn nature(&self, path: &BackendPath) -> Result<Nature, Error>;

    /// The names of the fields that a secret made at `path` will have, where that is known beforehand. Makes nothing.
    async fn fields(&self, path: &BackendPath) -> Result<Option<Vec<String>>, Error>;

    /// Makes a secret.
    async fn issue(&self, path: &BackendPath, demand: &Demand) -> Result<Issued, Error>;

    /// Makes a lease longer. [`Error::NotFound`]: there is no such lease (any more). [`Error::Forbidden`] and
    /// [`Error::Refused`]: it cannot be renewed, and lives to the end it has.
    async fn renew(&self, lease: &LeaseId) -> Result<Grant, Error>;

    /// Ends a lease; good when that is done. [`Error::NotFound`]: there is no such lease (any more).
    async fn revoke(&self, lease: &LeaseId) -> Result<(), Error>;

    /// What is known now of what secrets were made with. Never waits.
    fn parent(&self, parent: ParentId) -> Parent;

    /// The server's name for a parent, with which it can be ended and not used; `None`: it is not ours to end.
    fn accessor(&self, _parent: ParentId) -> Option<String> {
        None
    }

    /// Ready when [`Self::parent`] may answer otherwise than before. May be dropped and called again.
    async fn parents_changed(&self);
}
