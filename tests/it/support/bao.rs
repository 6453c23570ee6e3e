//! Owns a stand-in for OpenBao in memory: one KV version 2 engine at `secret/`, read, listed, and listed with details.
//! Does not know how to write over HTTP: a test writes by calling. Its answers are those seen on OpenBao 2.6.2, and where
//! it is told to have no details, those seen on Vault 1.21.0.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::fake::{Fake, Reply, Request};
use super::fake_vault::{asked, data, decode};
use super::vault::ROOT_TOKEN;

/// The server. A backend is given [`Bao::address`] and [`ROOT_TOKEN`]; its secrets are below `secret/`.
pub struct Bao {
    fake: Fake,
    world: Arc<Mutex<World>>,
}

/// What `LIST detailed-metadata/` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Details {
    /// What it is for.
    Given,
    /// 404, as Vault does.
    Unknown,
    /// 405, as Vault does for `SCAN`.
    NotAllowed,
    /// 403: the policy does not allow it.
    Denied,
}

/// What was asked, in kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// A secret.
    pub reads: usize,
    /// A folder's names.
    pub lists: usize,
    /// A page of a folder's names with details.
    pub details: usize,
    /// Which engine covers a path.
    pub lookups: usize,
}

impl Counts {
    /// All requests.
    pub fn all(&self) -> usize {
        self.reads + self.lists + self.details + self.lookups
    }
}

/// Made anew for each request: an answer in place of the right one.
pub type Fault = fn() -> Reply;

struct World {
    /// By path below `secret/`.
    secrets: BTreeMap<String, Vec<Made>>,
    details: Details,
    fault: Option<Fault>,
    delay: Duration,
    log: Vec<(Instant, String)>,
}

/// A version; the first is number 1.
struct Made {
    fields: Value,
    created: SystemTime,
    deleted: Option<SystemTime>,
    destroyed: bool,
}

impl Bao {
    /// An empty engine that gives details.
    pub fn start() -> Self {
        let world = World {
            secrets: BTreeMap::new(),
            details: Details::Given,
            fault: None,
            delay: Duration::ZERO,
            log: Vec::new(),
        };
        let world = Arc::new(Mutex::new(world));
        let answering = world.clone();
        let fake = Fake::start_keeping(move |request| {
            let delay = answering.lock().expect("not poisoned").delay;
            if !delay.is_zero() {
                std::thread::sleep(delay);
            }
            answering.lock().expect("not poisoned").answer(request)
        });
        Self { fake, world }
    }

    /// Whether it gives details, as OpenBao does and Vault does not.
    pub fn with_detailed(self, given: bool) -> Self {
        self.set_details(if given { Details::Given } else { Details::Unknown });
        self
    }

    /// From now on.
    pub fn set_details(&self, details: Details) {
        self.world().details = details;
    }

    /// `http://127.0.0.1:PORT`
    pub fn address(&self) -> String {
        self.fake.endpoint()
    }

    /// Writes a new version of the secret at `path`, counted from `secret/`; its number.
    pub fn put(&self, path: &str, fields: &Value) -> usize {
        let made =
            Made { fields: fields.clone(), created: SystemTime::now(), deleted: None, destroyed: false };
        let mut world = self.world();
        let versions = world.secrets.entry(path.to_owned()).or_default();
        versions.push(made);
        versions.len()
    }

    /// Removes the secret with all its versions; whether there was one.
    pub fn delete(&self, path: &str) -> bool {
        self.world().secrets.remove(path).is_some()
    }

    /// Deletes version `number` at a time; what is deleted can come back by `None`.
    pub fn delete_version(&self, path: &str, number: usize, when: Option<SystemTime>) {
        self.version(path, number, |version| version.deleted = when);
    }

    /// Destroys version `number`.
    pub fn destroy_version(&self, path: &str, number: usize) {
        self.version(path, number, |version| version.destroyed = true);
    }

    /// Every request is answered so from now on; `None` heals.
    pub fn suffer(&self, fault: Option<Fault>) {
        self.world().fault = fault;
    }

    /// Every answer comes this much later from now on.
    pub fn delay(&self, delay: Duration) {
        self.world().delay = delay;
    }

    /// Connections are refused, and kept ones closed, from now on.
    pub fn stop(&self) {
        self.fake.stop();
    }

    /// Ends [`Bao::stop`].
    pub fn resume(&self) {
        self.fake.resume();
    }

    /// How many connections have come, and how many of them are over.
    pub fn connections(&self) -> (u64, u64) {
        self.fake.connections()
    }

    /// What was asked so far: `GET secret/data/a?version=1`, `LIST secret/detailed-metadata/?after=b&limit=1000`.
    pub fn requests(&self) -> Vec<String> {
        self.world().log.iter().map(|(_, request)| request.clone()).collect()
    }

    /// The same with the time of arrival.
    pub fn timed_requests(&self) -> Vec<(Instant, String)> {
        self.world().log.clone()
    }

    /// How many of each kind.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (_, request) in &self.world().log {
            let kind = match request {
                of if of.starts_with("GET secret/data/") => &mut counts.reads,
                of if of.starts_with("LIST secret/metadata/") => &mut counts.lists,
                of if of.starts_with("LIST secret/detailed-metadata/") => &mut counts.details,
                _ => &mut counts.lookups,
            };
            *kind += 1;
        }
        counts
    }

    /// Forgets what was asked so far.
    pub fn forget_requests(&self) {
        self.world().log.clear();
    }

    fn version(&self, path: &str, number: usize, change: impl FnOnce(&mut Made)) {
        let mut world = self.world();
        change(&mut world.secrets.get_mut(path).expect("a secret")[number - 1]);
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("not poisoned")
    }
}

impl World {
    fn answer(&mut self, request: &Request) -> Reply {
        let (target, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let mut query = Query::of(query);
        let lists = request.method == "LIST" || (request.method == "GET" && query.take("list").is_some());
        let method = if lists { "LIST" } else { request.method.as_str() };
        let (path, _) = asked(request);
        self.log.push((Instant::now(), format!("{method} {}{}", &target["/v1/".len()..], query.shown())));
        if let Some(fault) = self.fault {
            return fault();
        }
        if request.header("x-vault-token") != Some(ROOT_TOKEN) {
            return error(403);
        }
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match (method, &path[..]) {
            ("GET", ["sys", "internal", "ui", "mounts"]) => data(&json!({"secret": {"secret/": mount()}})),
            ("GET", ["sys", "internal", "ui", "mounts", "secret", ..]) => data(&mount()),
            ("GET", ["sys", "internal", "ui", "mounts", ..]) => error(403),
            ("GET", ["secret", "data", path @ ..]) => self.read(&path.join("/"), query.take("version")),
            ("LIST", ["secret", "metadata", path @ ..]) => self.list(path, &mut query, false),
            ("LIST", ["secret", "detailed-metadata", path @ ..]) => match self.details {
                Details::Given => self.list(path, &mut query, true),
                Details::Unknown => Reply::Answer(404, unknown_path().to_string()),
                Details::NotAllowed => error(405),
                Details::Denied => error(403),
            },
            _ => error(404),
        }
    }

    fn read(&self, path: &str, number: Option<String>) -> Reply {
        let Some(versions) = self.secrets.get(path) else { return error(404) };
        let number = match number.as_deref() {
            None | Some("0") => versions.len(),
            Some(text) => match text.parse() {
                Ok(number) => number,
                Err(_) => return error(400),
            },
        };
        let Some(made) = number.checked_sub(1).and_then(|at| versions.get(at)) else { return error(404) };
        let gone = made.destroyed || made.is_deleted();
        let mut metadata = made.metadata();
        metadata["version"] = number.into();
        metadata["custom_metadata"] = Value::Null;
        let fields = if gone { &Value::Null } else { &made.fields };
        let body = envelope(&json!({ "data": fields, "metadata": metadata }));
        Reply::Answer(if gone { 404 } else { 200 }, body.to_string())
    }

    fn list(&self, folder: &[&str], query: &mut Query, detailed: bool) -> Reply {
        let prefix: String =
            folder.iter().filter(|name| !name.is_empty()).map(|name| format!("{name}/")).collect();
        let below = self.secrets.range(prefix.clone()..).map(|(path, _)| path);
        let names = below.map_while(|path| path.strip_prefix(&prefix));
        let keys: BTreeSet<&str> =
            names.map(|name| name.find('/').map_or(name, |slash| &name[..=slash])).collect();
        let after = query.take("after").unwrap_or_default();
        let limit = query.take("limit").map_or(0, |limit| limit.parse().expect("a number"));
        let keys = keys.into_iter().filter(|key| *key > after.as_str());
        let keys: Vec<&str> = keys.take(if limit == 0 { usize::MAX } else { limit }).collect();
        if keys.is_empty() {
            return error(404);
        }
        if !detailed {
            return data(&json!({ "keys": keys }));
        }
        let info = |key: &&str| {
            let versions = self.secrets.get(&format!("{prefix}{key}"));
            ((*key).to_owned(), versions.map_or_else(|| json!({}), |versions| details(versions)))
        };
        let info: serde_json::Map<String, Value> = keys.iter().map(info).collect();
        data(&json!({ "keys": keys, "key_info": info }))
    }
}

impl Made {
    fn is_deleted(&self) -> bool {
        self.deleted.is_some_and(|time| time <= SystemTime::now())
    }

    fn metadata(&self) -> Value {
        let deleted = self.deleted.map(time).unwrap_or_default();
        json!({ "created_time": time(self.created), "deletion_time": deleted, "destroyed": self.destroyed })
    }
}

fn details(versions: &[Made]) -> Value {
    let numbered = versions.iter().enumerate().map(|(at, made)| ((at + 1).to_string(), made.metadata()));
    let kept: serde_json::Map<String, Value> = numbered.collect();
    let (first, last) = (versions.first().expect("one"), versions.last().expect("one"));
    json!({
        "current_version": versions.len(), "created_time": time(first.created), "updated_time": time(last.created),
        "oldest_version": 0, "max_versions": 0, "delete_version_after": "0s", "custom_metadata": null,
        "cas_required": false, "versions": kept,
    })
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_nanos(time).to_string()
}

fn mount() -> Value {
    json!({"path": "secret/", "type": "kv", "options": {"version": "2"}, "accessor": "kv_5eedca11"})
}

fn envelope(data: &Value) -> Value {
    json!({
        "request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data,
        "wrap_info": null, "warnings": null, "auth": null,
    })
}

/// What Vault 1.21 answers for a path that a KV version 2 engine does not have.
fn unknown_path() -> Value {
    let mut answer = envelope(&Value::Null);
    answer["warnings"] = json!(["Invalid path for a versioned K/V secrets engine."]);
    answer
}

fn error(status: u16) -> Reply {
    let errors = if status == 403 { json!(["permission denied"]) } else { json!([]) };
    Reply::Answer(status, json!({ "errors": errors }).to_string())
}

/// The pairs of a query, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let decoded = |text: &str| String::from_utf8(decode(text)).expect("UTF-8");
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (decoded(name), decoded(value))).collect())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    fn shown(&self) -> String {
        let pairs: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }
}
