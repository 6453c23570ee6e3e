//! Owns a mount of many secrets of two kinds, a store and a Vault, each of whose values tells which secret it is of.
//! Does not know who reads them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use super::alone;
use crate::support::available;
use crate::support::mount::{Mount, Plan, Store, possible, run, secretfs};
use crate::support::vault::{ROOT_TOKEN, Vault};

/// A thousand secrets, half of them of each kind.
pub const EACH: usize = 500;

/// The mount, and what it shows.
pub struct Grove {
    pub mount: Mount,
    pub vault: Vault,
    pub secrets: Vec<Secret>,
    _store: Store,
    _alone: std::sync::MutexGuard<'static, ()>,
}

/// One secret, as a reader knows it.
#[derive(Clone)]
pub struct Secret {
    /// Its file in the mount.
    pub file: PathBuf,
    /// What each of its values begins with; a number follows, that of its version.
    pub begins: String,
    /// The newest version that is written, or about to be. One of a store has one only.
    newest: Arc<AtomicU64>,
}

impl Grove {
    /// `settings` as they stand in `[mount]`. Nothing, with a printed reason, where there is no Vault or no mount.
    pub fn new(settings: &str) -> Option<Self> {
        Self::of(settings, |plan| plan)
    }

    /// The same, of a plan that is changed before its start.
    pub fn of(settings: &str, change: impl FnOnce(Plan) -> Plan) -> Option<Self> {
        available("mount", possible())?;
        let vault = available("vault", Vault::start())?;
        let alone = alone();
        let store = filled_store();
        for number in 0..EACH {
            vault.kv_put("secret", &format!("s{number}"), json!({"k": format!("canary-v{number}-1")}));
        }
        let plan = Mount::of("");
        let config = plan.folder().join("config.toml");
        std::fs::write(&config, text(settings, &vault.address, &store)).unwrap();
        // A line for each request, at this size, would be a test of the log.
        let variables = [("VAULT_TOKEN", ROOT_TOKEN), ("SECRETFS_LOG", "info,secretfs::daemon=debug")];
        let mount = change(plan.arg("--config").arg(config).envs(variables)).start();
        let secrets = ["s", "v"].iter().flat_map(|kind| {
            let at = &mount.at;
            (0..EACH).map(move |number| Secret::new(at, kind, number))
        });
        let secrets = secrets.collect();
        Some(Self { mount, vault, secrets, _store: store, _alone: alone })
    }

    /// Writes the next version of one of Vault's secrets.
    pub fn rotate(&self, number: usize) {
        let secret = &self.secrets[EACH + number];
        let version = secret.newest.fetch_add(1, Ordering::SeqCst) + 1;
        let value = format!("{}{version}", secret.begins);
        self.vault.kv_put("secret", &format!("s{number}"), json!({ "k": value }));
    }

    /// Reads everything once.
    pub fn warm(&self) {
        for secret in &self.secrets {
            let value = std::fs::read(&secret.file).unwrap();
            secret.check(&value).unwrap();
        }
    }

    /// How many secrets were asked of Vault so far, lists and looks included, if its audit log is on.
    pub fn asked(&self) -> usize {
        self.vault.audit_requests().iter().filter(|(_, path)| path.starts_with("secret/")).count()
    }
}

impl Secret {
    fn new(at: &Path, kind: &str, number: usize) -> Self {
        let file = at.join(kind).join(format!("s{number}/k"));
        Self { file, begins: format!("canary-{kind}{number}-"), newest: Arc::new(AtomicU64::new(1)) }
    }

    /// How many versions there are.
    pub fn versions(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    /// The version that a value is, or what is wrong with it.
    pub fn check(&self, value: &[u8]) -> Result<u64, String> {
        let text = String::from_utf8_lossy(value);
        let version = text.strip_prefix(&self.begins).and_then(|rest| rest.parse().ok());
        let newest = self.newest.load(Ordering::SeqCst);
        match version {
            Some(version) if (1..=newest).contains(&version) => Ok(version),
            _ => Err(format!("{} holds {text:?}", self.file.display())),
        }
    }
}

fn filled_store() -> Store {
    let store = Store::new();
    let secret = |number| (format!("s{number}"), json!({"k": format!("canary-s{number}-1")}));
    let secrets: Map<String, Value> = (0..EACH).map(secret).collect();
    let import = store.folder.path().join("import.json");
    std::fs::write(&import, Value::from(secrets).to_string()).unwrap();
    let mut command = secretfs();
    command.args(["store", "import"]).arg(store.file()).arg(&import).arg("--identity");
    run(command.arg(store.identity()));
    store
}

fn text(settings: &str, vault: &str, store: &Store) -> String {
    let (file, identity) = (store.file(), store.identity());
    format!(
        "[mount]\n{settings}\n\
         [backend.v]\ntype = \"vault\"\naddress = \"{vault}\"\n\
         [backend.s]\ntype = \"store\"\nfile = {file:?}\nidentity = {identity:?}\n\
         [[tree]]\npath = \"/v\"\nbackend = \"v\"\nsource = \"secret\"\n\
         [[tree]]\npath = \"/s\"\nbackend = \"s\"\n"
    )
}
