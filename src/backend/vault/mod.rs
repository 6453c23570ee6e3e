//! Owns serving secrets from HashiCorp Vault and OpenBao: the `Backend` made of a client, the engines it knows and KV.
//! Does not know files or caching. This folder alone imports vaultrs, rustify and reqwest.

mod api;
mod config;
mod engines;
mod http;
mod kv;

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;

pub use self::config::{Config, ConfigError, Setting, TokenSource};
use self::engines::{Engine, Engines, Place};
use super::{Backend, Error, Kind, Listing};
use crate::clock::Clock;
use crate::path::BackendPath;
use crate::secret::Secret;

/// A Vault or OpenBao server, seen through one token. Paths begin with the engine's mount: `secret/team/api-key`.
pub struct Vault {
    api: api::Api,
    engines: Engines,
    limit: Duration,
}

/// A client as configured. Reads the CA file; the token is read, and the server contacted, at the first call.
pub fn build(config: Config) -> Result<Vault, ConfigError> {
    let limit = config.call_limit();
    Ok(Vault { api: api::Api::new(config)?, engines: Engines::new(Clock::System), limit })
}

impl Vault {
    /// Which engine covers `path`, in words; an error when it cannot be served. For `validate` and the log at mount.
    pub async fn check(&self, path: &BackendPath) -> Result<String, Error> {
        if !api::is_sendable(path) {
            return Err(Error::NotFound);
        }
        let origin = self.api.origin();
        self.within(async {
            match self.engines.locate(&self.api, path).await? {
                Place::Inside(engine, _) if matches!(engine.kind, engines::Kind::Other(_)) => {
                    Err(engine.refusal())
                }
                Place::Inside(engine, _) => Ok(format!("{} at {origin}", engine.describe())),
                Place::Above(listing) => {
                    Ok(format!("{} folders of kv engines at {origin}", listing.entries().len()))
                }
            }
        })
        .await
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(self.limit, call).await.unwrap_or(Err(Error::TimedOut(self.limit)))
    }

    /// The engine that covers `path` in place of `engine`, when a 404 may mean that another one was mounted there.
    async fn replaced(&self, engine: &Engine, path: &BackendPath) -> Result<Option<Place>, Error> {
        if !self.engines.doubt(engine) {
            return Ok(None);
        }
        let place = self.engines.locate(&self.api, path).await?;
        let same = matches!(&place, Place::Inside(found, _) if **found == *engine);
        Ok((!same).then_some(place))
    }
}

#[async_trait]
impl Backend for Vault {
    fn kind(&self) -> Kind {
        Kind::Vault
    }

    async fn read(&self, path: &BackendPath) -> Result<Secret, Error> {
        if path.is_root() || !api::is_sendable(path) {
            return Err(Error::NotFound);
        }
        self.within(async {
            let Place::Inside(engine, rest) = self.engines.locate(&self.api, path).await? else {
                return Err(Error::NotFound);
            };
            let answer = kv::read(&self.api, &engine, &rest).await;
            if !matches!(answer, Err(Error::NotFound)) || rest.is_root() {
                return answer;
            }
            match self.replaced(&engine, path).await? {
                Some(Place::Inside(engine, rest)) => kv::read(&self.api, &engine, &rest).await,
                _ => answer,
            }
        })
        .await
    }

    async fn list(&self, path: &BackendPath) -> Result<Listing, Error> {
        if !api::is_sendable(path) {
            return Err(Error::NotFound);
        }
        self.within(async {
            let (engine, rest) = match self.engines.locate(&self.api, path).await? {
                Place::Above(listing) => return Ok(listing),
                Place::Inside(engine, rest) => (engine, rest),
            };
            let mut at_mount = rest.is_root();
            let mut answer = kv::list(&self.api, &engine, &rest).await;
            if matches!(answer, Err(Error::NotFound)) {
                match self.replaced(&engine, path).await? {
                    None => {}
                    Some(Place::Above(listing)) => return Ok(listing),
                    Some(Place::Inside(engine, rest)) => {
                        at_mount = rest.is_root();
                        answer = kv::list(&self.api, &engine, &rest).await;
                    }
                }
            }
            match answer {
                Err(Error::NotFound) if at_mount => Ok(Listing::default()),
                answer => answer,
            }
        })
        .await
    }
}
