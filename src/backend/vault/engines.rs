//! Owns which secrets engine covers a path: asks Vault once, remembers for a while, and notices when it was wrong.
//! Does not know how a secret is read from an engine.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::Deserialize;

use super::api::{Api, Call, data};
use super::well_known;
use crate::backend::{Entry, Error, Listing};
use crate::clock::{Clock, Moment};
use crate::path::BackendPath;

/// `sys/internal/ui/mounts` is readable by every token and shows what that token may see (Vault and OpenBao API docs).
const MOUNTS: [&str; 4] = ["sys", "internal", "ui", "mounts"];
/// An engine is looked up again after this long even when all is well.
const REMEMBERED: Duration = Duration::from_secs(300);
/// What was looked up less than this ago is not asked again because of a 404.
const FRESH: Duration = Duration::from_secs(5);

/// What an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Unversioned key/value.
    Kv1,
    /// Versioned key/value.
    Kv2,
    /// Anything else, by Vault's name for the type: never read, since some make a secret when read.
    Other(String),
}

/// A mounted secrets engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Engine {
    /// Where it is mounted; `team/kv/` is two segments.
    pub(super) mount: BackendPath,
    pub(super) kind: Kind,
    /// Vault's own name for this mount: another one when something is unmounted and mounted anew at the same place.
    accessor: Option<String>,
}

impl Engine {
    fn new(mount: &str, facts: &MountFacts) -> Result<Self, Error> {
        let mount = BackendPath::parse(mount).ok().filter(|mount| !mount.is_root());
        let mount = mount.ok_or(Error::Malformed("the name of an engine"))?;
        let version = facts.options.as_ref().and_then(|options| options.version.as_deref());
        let kind = match (facts.kind.as_str(), version) {
            // `generic` is what kv was called before Vault 0.8.3.
            ("kv" | "generic", None | Some("" | "1")) => Kind::Kv1,
            ("kv", Some("2")) => Kind::Kv2,
            (other, _) => Kind::Other(other.chars().filter(|c| c.is_ascii_graphic()).take(64).collect()),
        };
        Ok(Self { mount, kind, accessor: facts.accessor.clone() })
    }

    /// An engine as Vault's JSON describes it.
    #[cfg(test)]
    pub(super) fn of_facts(json: &str) -> Self {
        let facts: MountFacts = serde_json::from_str(json).unwrap();
        Self::new(&facts.path, &facts).unwrap()
    }

    /// In words, for errors.
    pub(super) fn describe(&self) -> String {
        match &self.kind {
            Kind::Kv1 => format!("engine `{}/` is kv version 1", self.mount),
            Kind::Kv2 => format!("engine `{}/` is kv version 2", self.mount),
            Kind::Other(name) => format!("engine `{}/` is of type {name}", self.mount),
        }
    }

    /// Whether its secrets are made when they are asked for. What is not known to keep any is taken to make them.
    pub(super) fn makes_secrets(&self) -> bool {
        matches!(&self.kind, Kind::Other(kind) if !well_known::keeps(kind))
    }

    /// Why an engine of another type than kv is not read.
    pub(super) fn refusal(&self) -> Error {
        Error::Refused(if self.makes_secrets() {
            format!(
                "{}: to read there would make a secret; declare it with [[secret]], or name the engine when mounting (vault:{})",
                self.describe(),
                self.mount
            )
        } else {
            format!(
                "{}, which is not served: only kv engines and such that make secrets are",
                self.describe()
            )
        })
    }
}

/// What lies at a path.
#[derive(Debug)]
pub(super) enum Place {
    /// At or inside an engine: what remains of the path below its mount.
    Inside(Arc<Engine>, BackendPath),
    /// Above engines: the folders towards them.
    Above(Listing),
}

#[derive(Deserialize)]
struct MountFacts {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
    accessor: Option<String>,
    options: Option<MountOptions>,
}

#[derive(Deserialize)]
struct MountOptions {
    version: Option<String>,
}

#[derive(Deserialize)]
struct AllMounts {
    #[serde(default)]
    secret: HashMap<String, MountFacts>,
}

/// The engines known so far.
pub(super) struct Engines {
    clock: Clock,
    /// Guards the two tables; held for a look or a change, never across a call.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Vec<(Arc<Engine>, Moment)>,
    /// When `known` last held everything the token may see.
    complete: Option<Moment>,
}

impl Engines {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// What lies at `path`. Costs a call the first time, and nothing for as long as the engine is remembered.
    pub(super) async fn locate(&self, api: &Api, path: &BackendPath) -> Result<Place, Error> {
        if path.is_root() {
            return Ok(Place::Above(folders(&self.all(api).await?, path)));
        }
        if let Some((engine, rest)) = self.remembered(path) {
            return Ok(Place::Inside(engine, rest));
        }
        if !self.is_above_remembered(path) {
            match self.look_up(api, path).await {
                Ok(place) => return Ok(place),
                Err(Error::Forbidden) if !self.is_above_any(api, path).await? => {
                    return Err(Error::Forbidden);
                }
                Err(Error::NotFound | Error::Status(400)) if !self.is_above_any(api, path).await? => {
                    return Err(Error::NotFound);
                }
                Err(Error::Forbidden | Error::NotFound | Error::Status(400)) => {}
                Err(error) => return Err(error),
            }
        }
        let folders = folders(&self.recent(api).await?, path);
        if folders.entries().is_empty() { Err(Error::NotFound) } else { Ok(Place::Above(folders)) }
    }

    /// Every engine the token may see, asked anew.
    pub(super) async fn all(&self, api: &Api) -> Result<Vec<Arc<Engine>>, Error> {
        let body = api.call(&Call::read(MOUNTS)?).await?;
        let all: AllMounts = data(&body)?.ok_or(Error::Malformed("no data in the list of engines"))?;
        let now = self.clock.now();
        let mut engines = Vec::new();
        for (mount, facts) in &all.secret {
            match Engine::new(mount, facts) {
                Ok(engine) => engines.push(Arc::new(engine)),
                Err(_) => tracing::warn!("an engine is left out: its mount path cannot be one"),
            }
        }
        let mut state = self.state();
        state.known = engines.iter().map(|engine| (Arc::clone(engine), now)).collect();
        state.complete = Some(now);
        Ok(engines)
    }

    /// After a 404 from `engine`: forgets it and says so, unless it was looked up a moment ago.
    pub(super) fn doubt(&self, engine: &Engine) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        let before = state.known.len();
        state.known.retain(|(known, at)| known.mount != engine.mount || now.since(*at) < FRESH);
        state.known.len() < before
    }

    async fn look_up(&self, api: &Api, path: &BackendPath) -> Result<Place, Error> {
        let body = api.call(&Call::read(MOUNTS.into_iter().chain(path.segments()))?).await?;
        let facts: MountFacts = data(&body)?.ok_or(Error::Malformed("no data about the engine"))?;
        let wrong = Error::Malformed("the engine named does not cover the path asked for");
        let mut engine = Engine::new(&facts.path, &facts)?;
        if path.strip_prefix(&engine.mount).is_none()
            && let Some(namespace) = api.namespace()
            && let Ok(namespace) = BackendPath::parse(namespace)
            && let Some(mount) = engine.mount.strip_prefix(&namespace)
        {
            // For a path that leads into a child namespace the answer counts from the root namespace.
            engine.mount = mount;
        }
        let rest = path.strip_prefix(&engine.mount).ok_or(wrong)?;
        let engine = Arc::new(engine);
        let now = self.clock.now();
        let mut state = self.state();
        state.known.retain(|(known, _)| known.mount != engine.mount);
        state.known.push((Arc::clone(&engine), now));
        Ok(Place::Inside(engine, rest))
    }

    fn remembered(&self, path: &BackendPath) -> Option<(Arc<Engine>, BackendPath)> {
        let now = self.clock.now();
        let state = self.state();
        let live = state.known.iter().filter(|(_, at)| now.since(*at) < REMEMBERED);
        live.filter_map(|(engine, _)| Some((Arc::clone(engine), path.strip_prefix(&engine.mount)?))).next()
    }

    fn is_above_remembered(&self, path: &BackendPath) -> bool {
        let now = self.clock.now();
        let state = self.state();
        state.known.iter().any(|(engine, at)| now.since(*at) < REMEMBERED && is_above(path, engine))
    }

    async fn is_above_any(&self, api: &Api, path: &BackendPath) -> Result<bool, Error> {
        Ok(self.recent(api).await?.iter().any(|engine| is_above(path, engine)))
    }

    /// Every engine the token may see, as of a moment ago.
    async fn recent(&self, api: &Api) -> Result<Vec<Arc<Engine>>, Error> {
        {
            let now = self.clock.now();
            let state = self.state();
            if state.complete.is_some_and(|at| now.since(at) < FRESH) {
                return Ok(state.known.iter().map(|(engine, _)| Arc::clone(engine)).collect());
            }
        }
        self.all(api).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn is_above(path: &BackendPath, engine: &Engine) -> bool {
    !matches!(engine.kind, Kind::Other(_))
        && engine.mount != *path
        && engine.mount.strip_prefix(path).is_some()
}

/// The next segments on the way from `path` to the kv engines below it.
fn folders(engines: &[Arc<Engine>], path: &BackendPath) -> Listing {
    let below = engines.iter().filter(|engine| is_above(path, engine));
    let names: BTreeSet<String> = below
        .filter_map(|engine| engine.mount.strip_prefix(path)?.segments().next().map(str::to_owned))
        .collect();
    Listing::new(names.into_iter().map(|name| Entry { name, secret: false, folder: true }).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn facts(kind: &str, version: Option<&str>) -> MountFacts {
        let options = version.map(|version| MountOptions { version: Some(version.to_owned()) });
        MountFacts { path: String::new(), kind: kind.to_owned(), accessor: None, options }
    }

    fn engine(mount: &str, kind: &str, version: Option<&str>) -> Arc<Engine> {
        Arc::new(Engine::new(mount, &facts(kind, version)).unwrap())
    }

    fn path(text: &str) -> BackendPath {
        BackendPath::parse(text).unwrap()
    }

    #[test]
    fn an_engine_is_known_by_type_and_version() {
        for (kind, version, expected) in [
            ("kv", None, Kind::Kv1),
            ("kv", Some("1"), Kind::Kv1),
            ("generic", None, Kind::Kv1),
            ("kv", Some("2"), Kind::Kv2),
            ("kv", Some("3"), Kind::Other("kv".into())),
            ("database", None, Kind::Other("database".into())),
        ] {
            assert_eq!(engine("x/", kind, version).kind, expected, "{kind} {version:?}");
        }
        let refusal = engine("database/", "database", None).refusal().to_string();
        assert!(
            refusal.starts_with("engine `database/` is of type database: ") && refusal.contains("[[secret]]")
        );
        let refusal = engine("sys/", "system", None).refusal().to_string();
        assert!(refusal.starts_with("engine `sys/` is of type system, which is not served"), "{refusal}");
    }

    #[test]
    fn an_engine_that_would_cover_everything_is_none() {
        for mount in ["", "/", "\0/"] {
            assert!(Engine::new(mount, &facts("kv", None)).is_err(), "{mount:?}");
        }
    }

    #[test]
    fn folders_lead_to_kv_engines_of_any_depth_and_to_nothing_else() {
        let engines = [
            engine("secret/", "kv", Some("2")),
            engine("team/kv/", "kv", None),
            engine("team/deep/er/", "kv", None),
            engine("team/pki/", "pki", None),
            engine("sys/", "system", None),
        ];
        let names = |at: &str| {
            folders(&engines, &path(at)).entries().iter().map(|e| e.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["secret", "team"]);
        assert_eq!(names("team"), ["deep", "kv"]);
        assert_eq!(names("team/deep"), ["er"]);
        assert!(names("team/kv").is_empty() && names("tea").is_empty());
    }

    #[test]
    fn what_is_known_is_forgotten_after_a_while_and_doubted_only_when_old() {
        let clock = Clock::manual();
        let engines = Engines::new(clock.clone());
        let secret = engine("secret/", "kv", None);
        engines.state().known.push((Arc::clone(&secret), clock.now()));
        assert!(!engines.doubt(&secret));
        let (found, rest) = engines.remembered(&path("secret/a/b")).unwrap();
        assert_eq!((found, rest), (Arc::clone(&secret), path("a/b")));
        clock.advance(REMEMBERED);
        assert!(engines.remembered(&path("secret/a")).is_none());
        assert!(engines.doubt(&secret));
        assert!(engines.state().known.is_empty());
    }
}
