//! Owns the backends that stand under the contract: how each is made, filled and broken, and where it truly differs.
//! Does not know what is promised.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use secretfs::backend::aws::Aws;
use secretfs::backend::faulty::Faulty;
use secretfs::backend::store::{self, Document, FileError, Key, KeySource, SecretPath, Store};
use secretfs::backend::vault::{self, TokenSource};
use secretfs::backend::{Backend, Error};
use secretfs::clock::Clock;
use secretfs::path::BackendPath;
use secretfs::secret::SecretBytes;
use serde_json::{Value, json};

use crate::aws::aws_at;
use crate::aws::fake::{Fake, Reply};
use crate::support::available;
use crate::support::bao::Bao;
use crate::support::moto::{Content, Moto};
use crate::support::vault::{ROOT_TOKEN, Vault as Server};

/// Only a hang takes this long.
const PATIENT: Duration = Duration::from_secs(60);

/// A backend under the contract, with nothing in it.
pub struct Subject {
    pub backend: Arc<dyn Backend>,
    /// Where the world of this subject begins.
    pub root: BackendPath,
    pub hand: Box<dyn Hand>,
    pub differs: Differs,
}

/// What fills a backend behind its back. Paths are those below the subject's root.
pub trait Hand: Send + Sync {
    /// Puts the members of a JSON object as fields; false where the backend does not take a name like this.
    fn try_put(&self, path: &str, object: &str) -> bool;

    /// Removes a secret for good.
    fn delete(&self, path: &str);

    /// Backends of this kind whose every call fails, while whoever answers them has a value at hand.
    fn failing(&self) -> Vec<Arc<dyn Backend>>;
}

/// Where one backend cannot be as the others.
#[derive(Clone, Copy)]
pub struct Differs {
    /// KV version 1 keeps the newest value and no number.
    pub has_versions: bool,
    /// KV version 1 does not say when; `Faulty` counts seconds from 1970, so that tests know the time beforehand.
    pub tells_time: bool,
    /// `Faulty` holds bytes and no JSON.
    pub keeps_json: bool,
    /// Vault's server decodes an object into a map, which has no order; it answers sorted.
    pub keeps_order: bool,
    /// The store and KV version 1 keep the newest value only.
    pub keeps_versions: bool,
    /// Vault has no answer that names many secrets and their versions, and the store's is its file.
    pub tells_versions: bool,
    /// `Faulty` takes any name, the store any without an empty segment; servers refuse some, and our client some more.
    pub takes_odd_names: bool,
}

const ALL: Differs = Differs {
    has_versions: true,
    tells_time: true,
    keeps_json: true,
    keeps_order: true,
    keeps_versions: true,
    tells_versions: true,
    takes_odd_names: false,
};

/// Whose server: one for all tests where nobody looks at its root, or one of one's own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Shared,
    Own,
}

/// Makes a subject; nothing where its server is missing (see [`available`]).
pub type Make = fn(Place) -> Option<Subject>;

fn numbered(name: &str) -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("{name}{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A server that answers with a value where it should not: in half an answer, and in an error.
fn babbler() -> Fake {
    let count = AtomicUsize::new(0);
    Fake::start(move |_, _| match count.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => Reply::Answer(200, "{\"data\":{\"data\":{\"k\":\"canary".into()),
        _ => Reply::Answer(500, "{\"errors\":[\"canary\"],\"message\":\"canary\"}".into()),
    })
}

pub fn faulty(_: Place) -> Option<Subject> {
    let faulty = Arc::new(Faulty::new());
    faulty.tell_versions(true);
    faulty.count_generations(true);
    let differs = Differs { tells_time: false, keeps_json: false, takes_odd_names: true, ..ALL };
    let hand = Box::new(FaultyHand(faulty.clone()));
    Some(Subject { backend: faulty, root: BackendPath::root(), hand, differs })
}

struct FaultyHand(Arc<Faulty>);

impl Hand for FaultyHand {
    fn try_put(&self, path: &str, object: &str) -> bool {
        let fields = store::parse_fields(object.as_bytes()).unwrap();
        let fields: Vec<_> = fields.iter().map(|f| (f.name.as_str(), f.value.expose())).collect();
        self.0.put(path, &fields);
        true
    }

    fn delete(&self, path: &str) {
        self.0.delete(path);
    }

    fn failing(&self) -> Vec<Arc<dyn Backend>> {
        let failing = Faulty::new();
        failing.put("a", &[("k", b"canary")]);
        failing.fail_with(Some(Error::Status(500)));
        vec![Arc::new(failing)]
    }
}

pub fn store(_: Place) -> Option<Subject> {
    let hand = StoreHand { folder: tempfile::tempdir().unwrap() };
    store::create_identity(&hand.path("identity")).unwrap();
    hand.create("store.age");
    let backend = Arc::new(hand.open("store.age", "identity"));
    let differs = Differs { keeps_versions: false, tells_versions: false, takes_odd_names: true, ..ALL };
    Some(Subject { backend, root: BackendPath::root(), hand: Box::new(hand), differs })
}

struct StoreHand {
    folder: tempfile::TempDir,
}

impl StoreHand {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn key(&self) -> Key {
        Key::from_identity_file(&self.path("identity")).unwrap()
    }

    fn create(&self, file: &str) {
        let key = self.key();
        store::create(&self.path(file), &Document::new(key.public_keys()), &key).unwrap();
    }

    fn open(&self, file: &str, identity: &str) -> Store {
        let config = store::Config { file: self.path(file), key: KeySource::Identity(self.path(identity)) };
        Store::new(config, Clock::System).unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Document)) {
        let changed = |document: &mut Document| -> Result<(), FileError> {
            change(document);
            Ok(())
        };
        store::change(&self.path("store.age"), &self.key(), changed).unwrap();
    }
}

impl Hand for StoreHand {
    fn try_put(&self, path: &str, object: &str) -> bool {
        let Ok(path) = SecretPath::parse(path) else { return false };
        let fields = store::parse_fields(object.as_bytes()).unwrap();
        self.change(|document| {
            document.put(path, fields, SystemTime::now());
        });
        true
    }

    fn delete(&self, path: &str) {
        self.change(|document| assert!(document.remove(&SecretPath::parse(path).unwrap())));
    }

    fn failing(&self) -> Vec<Arc<dyn Backend>> {
        std::fs::write(self.path("garbage.age"), "canary").unwrap();
        store::create_identity(&self.path("stranger")).unwrap();
        vec![
            Arc::new(self.open("garbage.age", "identity")),
            Arc::new(self.open("store.age", "stranger")),
            Arc::new(self.open("none.age", "identity")),
        ]
    }
}

pub fn vault_kv1(_: Place) -> Option<Subject> {
    let differs = Differs { has_versions: false, tells_time: false, keeps_order: false, ..ALL };
    vault_kv(1, Differs { keeps_versions: false, tells_versions: false, ..differs })
}

pub fn vault_kv2(_: Place) -> Option<Subject> {
    vault_kv(2, Differs { keeps_order: false, tells_versions: Server::is_openbao(), ..ALL })
}

/// An engine is a root of its own: the shared server will do.
fn vault_kv(version: u8, differs: Differs) -> Option<Subject> {
    let server = available("vault", Server::shared())?;
    let engine = numbered(&format!("contract{version}-"));
    server.enable_kv(&engine, version);
    let root = BackendPath::parse(&engine).unwrap();
    let backend = Arc::new(vault_at(&server.address, ROOT_TOKEN));
    Some(Subject { backend, root, hand: Box::new(VaultHand { server, engine }), differs })
}

fn vault_at(address: &str, token: &str) -> vault::Vault {
    let token = TokenSource::Literal(SecretBytes::from(token.to_owned()));
    let config =
        vault::Config { address: address.to_owned(), token, deadline: PATIENT, ..Default::default() };
    vault::build(config).unwrap()
}

struct VaultHand {
    server: &'static Server,
    engine: String,
}

impl Hand for VaultHand {
    fn try_put(&self, path: &str, object: &str) -> bool {
        let fields: Value = serde_json::from_str(object).unwrap();
        self.server.kv_try_put(&self.engine, path, fields)
    }

    fn delete(&self, path: &str) {
        self.server.kv_delete(&self.engine, path);
    }

    fn failing(&self) -> Vec<Arc<dyn Backend>> {
        failing_vaults(&self.server.address)
    }
}

fn failing_vaults(address: &str) -> Vec<Arc<dyn Backend>> {
    vec![
        Arc::new(vault_at(address, "canary-of-nobody")),
        Arc::new(vault_at(&babbler().endpoint(), ROOT_TOKEN)),
        Arc::new(vault_at("http://127.0.0.1:1", ROOT_TOKEN)),
    ]
}

/// The stand-in for OpenBao: what it promises is what the tests that mount it rely on.
pub fn openbao(_: Place) -> Option<Subject> {
    let bao = Bao::start();
    let backend = Arc::new(vault_at(&bao.address(), ROOT_TOKEN));
    let root = BackendPath::parse("secret").unwrap();
    let differs = Differs { keeps_order: false, ..ALL };
    Some(Subject { backend, root, hand: Box::new(BaoHand(bao)), differs })
}

struct BaoHand(Bao);

impl Hand for BaoHand {
    fn try_put(&self, path: &str, object: &str) -> bool {
        self.0.put(path, &serde_json::from_str(object).unwrap());
        true
    }

    fn delete(&self, path: &str) {
        assert!(self.0.delete(path), "{path}");
    }

    fn failing(&self) -> Vec<Arc<dyn Backend>> {
        failing_vaults(&self.0.address())
    }
}

pub fn aws(place: Place) -> Option<Subject> {
    let (moto, root) = match place {
        Place::Own => (Lent::Own(Moto::start()?), String::new()),
        Place::Shared => (Lent::Shared(Moto::shared()?), numbered("contract")),
    };
    let hand = AwsHand { moto, root, created: Mutex::default() };
    let root = BackendPath::parse(&hand.root).unwrap();
    let backend = Arc::new(patient(&hand.moto().endpoint()));
    Some(Subject { backend, root, hand: Box::new(hand), differs: ALL })
}

fn patient(endpoint: &str) -> Aws {
    aws_at(endpoint, PATIENT, 4 << 20)
}

enum Lent {
    Shared(&'static Moto),
    Own(Moto),
}

struct AwsHand {
    moto: Lent,
    root: String,
    /// What exists, which must not be created again; held for a look or an insert.
    created: Mutex<HashSet<String>>,
}

impl AwsHand {
    fn moto(&self) -> &Moto {
        match &self.moto {
            Lent::Shared(moto) => moto,
            Lent::Own(moto) => moto,
        }
    }

    fn name(&self, path: &str) -> String {
        if self.root.is_empty() { path.to_owned() } else { format!("{}/{path}", self.root) }
    }
}

impl Hand for AwsHand {
    fn try_put(&self, path: &str, object: &str) -> bool {
        let name = self.name(path);
        if !self.created.lock().unwrap().insert(name.clone()) {
            self.moto().put(&name, Content::Text(object));
            return true;
        }
        self.moto().try_call("CreateSecret", &json!({ "Name": name, "SecretString": object })).is_some()
    }

    fn delete(&self, path: &str) {
        let name = self.name(path);
        self.moto().delete(&name);
        self.created.lock().unwrap().remove(&name);
    }

    fn failing(&self) -> Vec<Arc<dyn Backend>> {
        vec![Arc::new(patient(&babbler().endpoint())), Arc::new(patient("http://127.0.0.1:1"))]
    }
}
