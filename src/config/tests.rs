//! Owns the checks of the whole reader: what a good file becomes, and what is said by default.
//! Does not know the wording of messages (mistakes.rs) or single values (units.rs).

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::keys::{Kind, Table};
use super::*;
use crate::backend::issuer::{Demand, Method};
use crate::backend::vault::{AppRole, RoleId, SecretId};
use crate::lease::Terms;
use crate::leases;
use crate::path::BackendPath;

/// The smallest file without mistakes, in lines 1 to 5.
pub(super) const SMALLEST: &str =
    "[backend.prod]\ntype = \"vault\"\n[[tree]]\npath = \"/\"\nbackend = \"prod\"\n";

pub(super) fn errors(text: &str) -> String {
    parse(text, Path::new("config.toml")).unwrap_err().to_string()
}

pub(super) fn write(folder: &Path, name: &str, mode: u32) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, "canary").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path
}

#[test]
fn the_smallest_file_has_all_defaults() {
    let loaded = parse(SMALLEST, Path::new("config.toml")).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.settings.mount, MountSettings::default());
    assert_eq!(
        loaded.settings.backends,
        [(
            "prod".to_owned(),
            BackendSettings::Vault {
                address: None,
                namespace: None,
                login: LoginSettings::Token { file: None },
                ca_cert: None,
                client_timeout: None,
                leases: leases::Limits::default(),
            }
        )]
    );
    assert_eq!(
        loaded.settings.trees,
        [TreeSettings {
            path: vec![],
            backend: "prod".into(),
            source: BackendPath::root(),
            promise: Promise::default(),
            on_demand: OnDemandSettings::default(),
            mode: 0o400,
            owner: None,
            group: None
        }]
    );
}

#[test]
fn every_key_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["token", "ca.pem", "secrets.age", "identity", "passphrase", "role", "secret-id"] {
        write(folder.path(), name, 0o600);
    }
    let text = r#"
        [mount]
        mountpoint = "/secrets"
        allow_other = true
        uid = "root"
        gid = 1000
        mode = "0444"
        ttl = "5m"
        max_stale = "2h"
        negative_ttl = "3s"
        pair_window = "500ms"
        deadline = "2s"
        max_value_size = "2MiB"
        max_cache = "3MiB"
        max_in_flight = 7
        max_rate = 50
        max_crashes = 9
        watchdog = "4s"
        [backend.prod]
        type = "vault"
        address = "https://vault.example:8200"
        namespace = "team"
        token_file = "token"
        ca_cert = "ca.pem"
        client_timeout = "9s"
        max_leases = 20
        keep_leases = true
        [backend.machine]
        type = "vault"
        auth = "approle"
        auth_mount = "team/approle"
        role_id_file = "role"
        secret_id_file = "secret-id"
        secret_id_wrapped = true
        [backend.cloud]
        type = "aws"
        region = "eu-central-1"
        profile = "dev"
        endpoint_url = "http://127.0.0.1:5000"
        [backend.local]
        type = "store"
        file = "secrets.age"
        identity = "identity"
        [backend.spare]
        type = "store"
        file = "secrets.age"
        passphrase_file = "passphrase"
        [[tree]]
        path = "/db/main"
        backend = "prod"
        source = "secret/team"
        ttl = "10s"
        max_stale = 0
        mode = "0440"
        owner = 33
        group = "root"
        method = "read"
        parameters = { ttl = "1h" }
        fields = ["username", "password"]
        overlap = "4h"
        idle_revoke = "1d"
        [[secret]]
        path = "/tls/web"
        backend = "machine"
        source = "pki/issue/web"
        method = "write"
        parameters.common_name = "web.example"
        fields = ["certificate"]
        overlap = "2h"
        idle_revoke = "3h"
        mode = "0440"
        owner = 34
        group = 35
        [[tree]]
        path = "cloud"
        backend = "cloud"
        [[tree]]
        path = "local"
        backend = "local"
    "#;
    let file = folder.path().join("config.toml");
    std::fs::write(&file, text).unwrap();
    let Loaded { settings, warnings } = load(&file).unwrap();
    let here = |name: &str| folder.path().join(name);
    assert_eq!(
        settings.mount,
        MountSettings {
            mountpoint: Some("/secrets".into()),
            allow_other: true,
            uid: Some(0),
            gid: Some(1000),
            mode: 0o444,
            ttl: Duration::from_secs(300),
            max_stale: Duration::from_secs(7200),
            negative_ttl: Duration::from_secs(3),
            pair_window: Duration::from_millis(500),
            deadline: Duration::from_secs(2),
            max_value_size: 2 << 20,
            max_cache: 3 << 20,
            max_in_flight: 7,
            max_rate: 50,
            max_crashes: 9,
            watchdog: Duration::from_secs(4),
        }
    );
    let vault = BackendSettings::Vault {
        address: Some("https://vault.example:8200".into()),
        namespace: Some("team".into()),
        login: LoginSettings::Token { file: Some(here("token")) },
        ca_cert: Some(here("ca.pem")),
        client_timeout: Some(Duration::from_secs(9)),
        leases: leases::Limits { max_leases: 20, keep_leases: true },
    };
    let machine = BackendSettings::Vault {
        address: None,
        namespace: None,
        login: LoginSettings::AppRole(AppRole {
            mount: "team/approle".into(),
            role_id: RoleId::File(here("role")),
            secret_id: Some(SecretId { file: here("secret-id"), wrapped: true }),
        }),
        ca_cert: None,
        client_timeout: None,
        leases: leases::Limits::default(),
    };
    let aws = BackendSettings::Aws {
        region: Some("eu-central-1".into()),
        profile: Some("dev".into()),
        endpoint_url: Some("http://127.0.0.1:5000".into()),
    };
    let store = |identity: Option<&str>, passphrase: Option<&str>| BackendSettings::Store {
        file: here("secrets.age"),
        identity: identity.map(here),
        passphrase_file: passphrase.map(here),
    };
    assert_eq!(
        settings.backends,
        [
            ("prod".into(), vault),
            ("machine".into(), machine),
            ("cloud".into(), aws),
            ("local".into(), store(Some("identity"), None)),
            ("spare".into(), store(None, Some("passphrase"))),
        ]
    );
    let tree = |path: &[&str], backend: &str| TreeSettings {
        path: path.iter().map(|segment| (*segment).to_owned()).collect(),
        backend: backend.into(),
        source: BackendPath::root(),
        promise: Promise::default(),
        on_demand: OnDemandSettings::default(),
        mode: 0o444,
        owner: Some(0),
        group: Some(1000),
    };
    let on_demand = |method, (name, value): (&str, &str), fields: &[&str], [overlap, idle]: [u64; 2]| {
        let parameters = [(name.to_owned(), value.into())].into_iter().collect();
        let hours = |hours| Some(Duration::from_secs(hours * 3600));
        OnDemandSettings {
            demand: Demand { method, parameters },
            fields: Some(fields.iter().map(|name| (*name).to_owned()).collect()),
            terms: Terms { overlap: hours(overlap), idle_revoke: hours(idle) },
        }
    };
    let source = BackendPath::parse("secret/team").unwrap();
    let main = TreeSettings {
        source,
        promise: Promise { ttl: Some(Duration::from_secs(10)), max_stale: Some(Duration::ZERO) },
        on_demand: on_demand(Method::Read, ("ttl", "1h"), &["username", "password"], [4, 24]),
        mode: 0o440,
        owner: Some(33),
        group: Some(0),
        ..tree(&["db", "main"], "prod")
    };
    assert_eq!(settings.trees, [main, tree(&["cloud"], "cloud"), tree(&["local"], "local")]);
    let web = SecretSettings {
        path: vec!["tls".into(), "web".into()],
        backend: "machine".into(),
        source: BackendPath::parse("pki/issue/web").unwrap(),
        on_demand: on_demand(Method::Write, ("common_name", "web.example"), &["certificate"], [2, 3]),
        mode: 0o440,
        owner: Some(34),
        group: Some(35),
    };
    assert_eq!(settings.secrets, [web]);
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!(warning.line, Some(44));
    assert_eq!(
        warning.text,
        "no [[tree]] or [[secret]] uses [backend.spare]; add one, or remove the backend"
    );
}

#[test]
fn inline_and_dotted_spellings_are_the_same() {
    let text = "mount.ttl = \"5m\"\nbackend = { prod = { type = \"vault\" } }\n\
                tree = [{ path = \"/\", backend = \"prod\" }]\n";
    let loaded = parse(text, Path::new("config.toml")).unwrap();
    assert_eq!(loaded.settings.mount.ttl, Duration::from_secs(300));
    assert_eq!(loaded.settings.trees.len(), 1);
}

#[test]
fn documented_defaults_are_the_real_ones() {
    let defaults = MountSettings::default();
    for key in keys::of(Table::Mount) {
        let keys::Absent::Is(spelling) = key.absent else { continue };
        let given = format!("{SMALLEST}[mount]\n{} = {spelling}\n", key.name);
        assert_eq!(parse(&given, Path::new("c")).unwrap().settings.mount, defaults, "{}", key.name);
    }
    let vault = |more: &str| {
        let text = SMALLEST.replace("\"vault\"\n", &format!("\"vault\"\n{more}"));
        parse(&text, Path::new("c")).unwrap().settings.backends
    };
    let login = "auth = \"approle\"\nrole_id = \"r\"\nsecret_id_file = \"/etc/passwd\"\n";
    for key in keys::of(Table::Vault) {
        let keys::Absent::Is(spelling) = key.absent else { continue };
        let without = if key.name == "auth" { "" } else { login };
        let given = format!("{without}{} = {spelling}\n", key.name);
        assert_eq!(vault(&given), vault(without), "{}", key.name);
    }
    let hook = |more: &str| {
        let text = format!("{SMALLEST}[[hook]]\npath = \"/a\"\nreload = \"a.service\"\n{more}");
        parse(&text, Path::new("c")).unwrap().settings.hooks
    };
    for key in keys::of(Table::Hook) {
        let keys::Absent::Is(spelling) = key.absent else { continue };
        assert_eq!(hook(&format!("{} = {spelling}\n", key.name)), hook(""), "{}", key.name);
    }
}

#[test]
fn a_key_of_the_table_that_has_the_wrong_type_is_always_noticed() {
    for key in keys::ALL {
        let backend = |kind: &str| format!("[backend.x]\ntype = \"{kind}\"\n");
        let table = match key.table {
            Table::Mount => "[mount]\n".into(),
            Table::Backend => "[backend.x]\n".into(),
            Table::Vault => backend("vault"),
            Table::Aws => backend("aws"),
            Table::Store => backend("store"),
            Table::Tree => "[[tree]]\n".into(),
            Table::Secret => "[[secret]]\n".into(),
            Table::Freshness => "[[freshness]]\n".into(),
            Table::Hook if ["pid_file", "unit"].contains(&key.name) => "[[hook]]\nsignal = \"HUP\"\n".into(),
            Table::Hook if key.name == "user" => "[[hook]]\nexec = []\n".into(),
            Table::Hook => "[[hook]]\n".into(),
        };
        let (wrong, type_name) = match key.kind {
            Kind::Patterns | Kind::Command | Kind::Names => ("{ x = \"canary\" }", "an inline table"),
            _ => ("[\"canary\"]", "an array"),
        };
        let found = errors(&format!("{table}{} = {wrong}\n", key.name));
        let expected = format!("`{}` in {}: {}", key.name, label(key.table), key.kind.expected());
        assert!(found.contains(&format!("{expected}, found {type_name}")), "{found}");
    }
}

fn label(table: Table) -> &'static str {
    match table {
        Table::Mount => "[mount]",
        Table::Tree => "[[tree]]",
        Table::Secret => "[[secret]]",
        Table::Freshness => "[[freshness]]",
        Table::Hook => "[[hook]]",
        _ => "[backend.x]",
    }
}
