//! Owns the side of Vault that makes secrets: which path is asked with which method, and what the statuses of that mean.
//! Does not know what an answer holds, or when something is made, renewed or revoked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use zeroize::Zeroizing;

use super::answer::{self, Asked};
use super::api::{self, Call};
use super::engines::{Engine, Kind, Place};
use super::well_known::{self, Ends, Folder, Spot, UNKNOWN};
use super::{Vault, lease};
use crate::backend::Error;
use crate::backend::issuer::{Demand, Issued, Issuer, LeaseId, Method, Nature, Parent, ParentId};
use crate::lease::Grant;
use crate::path::BackendPath;

/// A password that the server changes by itself, and that has no second left, is asked for again after this: to read it changes
/// nothing, and what is about to die helps nobody.
const PAUSE: Duration = Duration::from_secs(1);
/// That often, then it is served as it is: a database's queue is looked through every five seconds, and while the database is
/// down nothing is changed at all.
const LATE: u32 = 6;

#[async_trait]
impl Issuer for Vault {
    async fn nature(&self, path: &BackendPath) -> Result<Nature, Error> {
        let made = matches!(self.place(path).await?, Place::Inside(engine, _) if engine.makes_secrets());
        Ok(if made { Nature::OnDemand } else { Nature::Stored })
    }

    async fn fields(&self, path: &BackendPath) -> Result<Option<Vec<String>>, Error> {
        let (engine, rest) = self.makes(path).await?;
        match spot(&engine, &rest) {
            Some(Spot::Secret(folder)) => {
                Ok(Some(folder.fields.iter().map(|name| (*name).to_owned()).collect()))
            }
            // Made there if somebody says so.
            Some(Spot::Elsewhere) => Ok(None),
            None if !rest.is_root() => Ok(None),
            _ => Err(Error::NotFound),
        }
    }

    async fn issue(&self, path: &BackendPath, demand: &Demand) -> Result<Issued, Error> {
        let at = SystemTime::now();
        let (engine, rest) = self.makes(path).await?;
        let folder = folder(&engine, &rest, demand)?;
        let (call, method) = call(&engine, &rest, folder, demand)?;
        let period_ends = match (folder.ends, rest.split_last()) {
            (Ends::Period, Some((_, key))) => {
                Some(self.within(self.periods.end(&self.api, &engine, &key)).await?)
            }
            _ => None,
        };
        let mut again = 0..LATE;
        loop {
            let asked = Asked { at, sent: SystemTime::now(), period_ends };
            let asking = tokio::time::timeout(self.issue_limit, self.api.call_noting(&call));
            let answer = asking.await.unwrap_or(Err(Error::TimedOut(self.issue_limit)));
            let (body, parent) = answer.map_err(|error| self.meaning(error, &engine, method))?;
            let issued = answer::issued(&body, folder, asked, parent);
            match &issued {
                Ok(found) if answer::is_at_its_end(found, folder) && again.next().is_some() => {
                    tokio::time::sleep(PAUSE).await;
                }
                Ok(_) => return issued,
                Err(_) => {
                    if let Some(lease) = answer::lease(&body) {
                        // Nobody will know of it.
                        let _ = self.revoke(&lease).await;
                    }
                    return issued;
                }
            }
        }
    }

    async fn renew(&self, lease: &LeaseId) -> Result<Grant, Error> {
        self.within(lease::renew(&self.api, lease)).await
    }

    async fn revoke(&self, lease: &LeaseId) -> Result<(), Error> {
        self.within(lease::revoke(&self.api, lease)).await
    }

    fn accessor(&self, parent: ParentId) -> Option<String> {
        self.api.auth().accessor(parent)
    }

    fn parent(&self, parent: ParentId) -> Parent {
        self.api.parent(parent)
    }

    async fn parents_changed(&self) {
        self.api.parents_changed().await;
    }
}

impl Vault {
    async fn place(&self, path: &BackendPath) -> Result<Place, Error> {
        if !api::is_sendable(path) {
            return Err(Error::NotFound);
        }
        self.within(self.engines.locate(&self.api, path)).await
    }

    /// The engine at `path` that makes secrets, and where in it that is.
    async fn makes(&self, path: &BackendPath) -> Result<(Arc<Engine>, BackendPath), Error> {
        match self.place(path).await? {
            Place::Inside(engine, rest) if engine.makes_secrets() => Ok((engine, rest)),
            Place::Inside(..) | Place::Above(_) => Err(Error::NotFound),
        }
    }

    /// What it means that nothing was made.
    fn meaning(&self, error: Error, engine: &Engine, method: &'static str) -> Error {
        match error {
            Error::Status(400) => Error::Refused(
                "Vault answers HTTP status 400: there is no such role, or `parameters` do not suit it"
                    .to_owned(),
            ),
            Error::Status(405) => Error::Refused(format!(
                "Vault does not take {method} there (HTTP status 405): set `method` to the other one"
            )),
            // Perhaps another engine was mounted there: it is looked up the next time.
            Error::NotFound => {
                self.engines.doubt(engine);
                Error::NotFound
            }
            other => other,
        }
    }
}

/// What `rest` below the mount of `engine` is; `None` where nothing is known of such engines.
fn spot(engine: &Engine, rest: &BackendPath) -> Option<Spot> {
    let Kind::Other(kind) = &engine.kind else { return None };
    well_known::engine(kind).map(|known| known.spot(rest))
}

/// How a secret is had at `rest`. Beside the folders that are known to make secrets an engine may do anything (`GET
/// pki/crl/rotate` rotates), so elsewhere nothing is asked unless the configuration says how.
fn folder(engine: &Engine, rest: &BackendPath, demand: &Demand) -> Result<&'static Folder, Error> {
    match spot(engine, rest) {
        Some(Spot::Secret(folder)) => Ok(folder),
        Some(Spot::Elsewhere) if demand.method != Method::Auto => Ok(&UNKNOWN),
        Some(Spot::Elsewhere) => Err(Error::Refused(format!(
            "{}, and not known to make secrets at this path: set `method` if it does",
            engine.describe()
        ))),
        None if !rest.is_root() => Ok(&UNKNOWN),
        _ => Err(Error::NotFound),
    }
}

/// The call, and its method in words.
fn call(
    engine: &Engine,
    rest: &BackendPath,
    folder: &Folder,
    demand: &Demand,
) -> Result<(Call, &'static str), Error> {
    let segments = engine.mount.segments().chain(rest.segments());
    let posts = match demand.method {
        Method::Read if !demand.parameters.is_empty() => {
            return Err(Error::Refused(
                "Vault takes no `parameters` with `method = \"read\"`: set it to \"write\", or leave them out"
                    .to_owned(),
            ));
        }
        Method::Read => false,
        Method::Write => true,
        Method::Auto => folder.method == Method::Write || !demand.parameters.is_empty(),
    };
    if !posts {
        return Ok((Call::read(segments)?, "GET"));
    }
    let body = serde_json::to_vec(&demand.parameters)
        .map_err(|_| Error::Refused("`parameters` cannot be written as JSON".to_owned()))?;
    Ok((Call::write(segments, Zeroizing::new(body))?, "POST"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use rustify::endpoint::Endpoint as _;
    use serde_json::{Map, json};

    use super::*;

    fn engine(kind: &str) -> Engine {
        Engine::of_facts(&json!({"path": "team/it/", "type": kind}).to_string())
    }

    fn demand(method: Method, parameters: serde_json::Value) -> Demand {
        Demand { method, parameters: parameters.as_object().cloned().unwrap_or_default() }
    }

    fn sent(kind: &str, rest: &str, demand: &Demand) -> Result<String, Error> {
        let (engine, rest) = (engine(kind), BackendPath::parse(rest).unwrap());
        let folder = folder(&engine, &rest, demand)?;
        let (call, method) = call(&engine, &rest, folder, demand)?;
        let request = call.request("http://v").unwrap();
        assert_eq!(request.method().as_str(), method);
        Ok(format!("{method} {} {}", request.uri().path(), std::str::from_utf8(request.body()).unwrap()))
    }

    #[test]
    fn each_engine_is_asked_as_it_wants_to_be() {
        let plain = Demand::default();
        let with = demand(Method::Auto, json!({"ip": "10.0.0.1"}));
        for (kind, rest, demand, expected) in [
            ("database", "creds/ro", &plain, "GET /team/it/creds/ro "),
            ("database", "creds/ro", &demand(Method::Write, json!(null)), "POST /team/it/creds/ro {}"),
            ("ssh", "creds/otp", &with, r#"POST /team/it/creds/otp {"ip":"10.0.0.1"}"#),
            ("ssh", "creds/otp", &plain, "POST /team/it/creds/otp {}"),
            ("aws", "sts/a", &with, r#"POST /team/it/sts/a {"ip":"10.0.0.1"}"#),
            ("new", "any/where", &plain, "GET /team/it/any/where "),
            ("new", "any/where", &with, r#"POST /team/it/any/where {"ip":"10.0.0.1"}"#),
            ("pki", "crl/rotate", &demand(Method::Read, json!(null)), "GET /team/it/crl/rotate "),
        ] {
            assert_eq!(sent(kind, rest, demand).unwrap(), expected, "{kind} {rest}");
        }
    }

    #[test]
    fn parameters_are_not_dropped_in_silence_and_not_shown() {
        let error = sent("database", "creds/ro", &demand(Method::Read, json!({"k": "canary"}))).unwrap_err();
        assert!(matches!(&error, Error::Refused(text) if text.contains("write") && !text.contains("canary")));
    }

    #[test]
    fn beside_the_known_folders_nothing_is_asked_unless_the_configuration_says_how() {
        for parameters in [json!({}), json!({"common_name": "canary"})] {
            let demand = demand(Method::Auto, parameters);
            for (kind, rest) in
                [("pki", "crl/rotate"), ("pki", "root/generate/internal"), ("database", "config/pg")]
            {
                let error = sent(kind, rest, &demand).unwrap_err();
                assert!(matches!(&error, Error::Refused(text) if text.contains("`method`")), "{error}");
            }
        }
        for (kind, rest) in [("pki", ""), ("pki", "issue"), ("gcp", "roleset/a"), ("new", "")] {
            let error = sent(kind, rest, &demand(Method::Write, json!(Map::new()))).unwrap_err();
            assert_eq!(error, Error::NotFound, "{kind} {rest}");
        }
    }
}
