//! Owns serving secrets from HashiCorp Vault and OpenBao: the `Backend` made of a client, the engines it knows, KV and the others.
//! Does not know files or caching. This folder alone imports vaultrs, rustify and reqwest.

mod answer;
mod api;
mod auth;
mod certificate;
mod config;
mod connections;
mod detailed;
mod dynamic;
mod engines;
mod http;
mod kv;
mod lease;
mod pki;
mod roles;
mod totp;
mod well_known;
mod wire;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::config::{AppRole, Config, ConfigError, RoleId, SecretId, Setting, TokenSource};
use self::engines::{Engine, Engines, Place};
use super::issuer::Issuer;
use super::tokens::{CarriedTokens, NoteTokens};
use super::{Backend, Error, Kind, Listing, Versions};
use crate::clock::{Clock, Moment};
use crate::path::BackendPath;
use crate::secret::{Secret, Version};

/// A Vault or OpenBao server, seen through one token. Paths begin with the engine's mount: `secret/team/api-key`.
pub struct Vault {
    api: api::Api,
    engines: Engines,
    detailed: detailed::Detailed,
    periods: totp::Periods,
    /// How long one call may take.
    limit: Duration,
    /// How long making a secret may take.
    issue_limit: Duration,
}

/// A client as configured. Reads the CA file; the token is read, and the server contacted, at the first call.
pub fn build(config: Config) -> Result<Vault, ConfigError> {
    let (limit, issue_limit) = (config.call_limit(), config.issue_limit());
    let (engines, detailed) = (Engines::new(Clock::System), detailed::Detailed::new(Clock::System));
    let periods = totp::Periods::new(Clock::System);
    Ok(Vault { api: api::Api::new(config)?, engines, detailed, periods, limit, issue_limit })
}

impl Vault {
    async fn within<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(self.limit, call).await.unwrap_or(Err(Error::TimedOut(self.limit)))
    }

    async fn read_numbered(&self, path: &BackendPath, number: Option<u32>) -> Result<Secret, Error> {
        if path.is_root() || !api::is_sendable(path) {
            return Err(Error::NotFound);
        }
        self.within(async {
            let mut place = self.engines.locate(&self.api, path).await?;
            loop {
                let Place::Inside(engine, rest) = place else { return Err(Error::NotFound) };
                let answer = kv::read(&self.api, &engine, &rest, number).await;
                if !matches!(answer, Err(Error::NotFound)) || rest.is_root() {
                    return answer;
                }
                match self.replaced(&engine, path).await? {
                    Some(other) => place = other,
                    None => return answer,
                }
            }
        })
        .await
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
        self.read_numbered(path, None).await
    }

    async fn read_version(&self, path: &BackendPath, version: &Version) -> Result<Secret, Error> {
        let number = kv::number(version).ok_or(Error::NotFound)?;
        self.read_numbered(path, Some(number)).await
    }

    async fn versions(&self, path: &BackendPath) -> Result<Option<Versions>, Error> {
        if !api::is_sendable(path) {
            return Ok(None);
        }
        let mut place = match self.within(self.engines.locate(&self.api, path)).await {
            Err(Error::NotFound | Error::Forbidden) => return Ok(None),
            place => place?,
        };
        loop {
            let Place::Inside(engine, rest) = place else { return Ok(None) };
            let answer = self.detailed.versions((&self.api, self.limit), &engine, &rest).await?;
            if answer.as_ref().is_none_or(|versions| !versions.current.is_empty()) {
                return Ok(answer);
            }
            match self.within(self.replaced(&engine, path)).await? {
                Some(other) => place = other,
                None => return Ok(answer),
            }
        }
    }

    async fn list(&self, path: &BackendPath) -> Result<Listing, Error> {
        if !api::is_sendable(path) {
            return Err(Error::NotFound);
        }
        self.within(async {
            let mut place = self.engines.locate(&self.api, path).await?;
            loop {
                let (engine, rest) = match place {
                    Place::Above(listing) => return Ok(listing),
                    Place::Inside(engine, rest) => (engine, rest),
                };
                let answer = if engine.makes_secrets() {
                    roles::list(&self.api, &engine, &rest).await
                } else {
                    kv::list(&self.api, &engine, &rest).await
                };
                if !matches!(answer, Err(Error::NotFound)) {
                    return answer;
                }
                match self.replaced(&engine, path).await? {
                    Some(other) => place = other,
                    None if rest.is_root() => return Ok(Listing::default()),
                    None => return answer,
                }
            }
        })
        .await
    }

    fn whereabouts(&self) -> String {
        self.api.whereabouts()
    }

    fn issuer(&self) -> Option<&dyn Issuer> {
        Some(self)
    }

    async fn tend(&self) {
        self.api.tend().await;
    }

    async fn warm_up(&self, path: &BackendPath) -> Result<(), Error> {
        if api::is_sendable(path) {
            self.within(self.engines.locate(&self.api, path)).await?;
        }
        Ok(())
    }

    async fn close(&self, kept: &[String]) {
        self.api.close(kept).await;
    }

    async fn hand_over(&self) -> Option<CarriedTokens> {
        Some(self.api.auth().hand_over().await)
    }

    fn resume(&self) {
        self.api.auth().resume();
    }

    async fn take_over(&self, tokens: CarriedTokens) {
        self.api.auth().take_over(tokens).await;
    }

    fn note_tokens(&self, notes: Arc<dyn NoteTokens>) {
        self.api.auth().note_in(notes);
    }

    fn knows_token(&self, accessor: &str) -> bool {
        self.api.auth().knows(accessor)
    }

    async fn revoke_token(&self, accessor: &str) -> Result<(), Error> {
        self.within(lease::revoke_token(&self.api, accessor)).await
    }

    fn tidy(&self, now: Moment) {
        self.api.tidy(now);
    }
}
