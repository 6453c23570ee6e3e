//! Owns the tests of the Vault backend against a real server, and against small false ones where the real one behaves too well.
//! Does not know files or mounts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod handed_over;
mod issuing;
mod lease_answers;
mod login;
mod login_mount;
mod transport;
mod versions;

use std::time::{Duration, Instant};

use base64::Engine as _;
use secretfs::backend::vault::{Config, TokenSource, Vault, build};
use secretfs::backend::{Backend, Error, Listing};
use secretfs::path::BackendPath;
use secretfs::secret::{Form, Secret};
use serde_json::{Value, json};

use crate::support::available;
use crate::support::vault::{ROOT_TOKEN, Vault as Server};

/// The shared server, or the end of the test.
macro_rules! shared {
    () => {
        match available("vault", Server::shared()) {
            Some(server) => server,
            None => return,
        }
    };
}

fn config(address: &str, token: &str) -> Config {
    let token = TokenSource::Literal(token.to_owned().into());
    Config { address: address.to_owned(), token, deadline: Duration::from_secs(20), ..Config::default() }
}

fn client(server: &Server) -> Vault {
    build(config(&server.address, ROOT_TOKEN)).unwrap()
}

fn client_with(server: &Server, token: &str) -> Vault {
    build(config(&server.address, token)).unwrap()
}

fn path(text: &str) -> BackendPath {
    BackendPath::parse(text).unwrap()
}

fn text<'a>(secret: &'a Secret, field: &str) -> &'a str {
    secret.field(field).unwrap().value.expose_str().unwrap()
}

fn names(listing: &Listing) -> Vec<(&str, bool, bool)> {
    listing.entries().iter().map(|e| (e.name.as_str(), e.secret, e.folder)).collect()
}

#[tokio::test]
async fn both_versions_of_kv_are_detected_and_read_three_folders_deep() {
    let server = shared!();
    for (mount, version) in [("deep1", 1), ("deep2", 2), ("deep/in/engine", 2)] {
        server.enable_kv(mount, version);
        server.kv_put(mount, "api-key", json!({"value": "12345"}));
        server.kv_put(mount, "a/b/c/leaf", json!({"k": "canary-deep"}));
        let vault = client(server);
        let secret = vault.read(&path(&format!("{mount}/api-key"))).await.unwrap();
        assert_eq!(secret.fields.len(), 1);
        assert_eq!(secret.field("value").unwrap().value.expose(), b"12345");
        assert_eq!(secret.version.as_str(), if version == 2 { "1" } else { "" });
        assert_eq!(secret.created.is_some(), version == 2);
        assert_eq!(secret.expires, None);
        let leaf = vault.read(&path(&format!("{mount}/a/b/c/leaf"))).await.unwrap();
        assert_eq!(text(&leaf, "k"), "canary-deep");
        let top = vault.list(&path(mount)).await.unwrap();
        assert_eq!(names(&top), [("a", false, true), ("api-key", true, false)]);
        let bottom = vault.list(&path(&format!("{mount}/a/b/c"))).await.unwrap();
        assert_eq!(names(&bottom), [("leaf", true, false)]);
        assert_eq!(vault.read(&path(&format!("{mount}/a/b"))).await.unwrap_err(), Error::NotFound);
        assert_eq!(vault.read(&path(mount)).await.unwrap_err(), Error::NotFound);
        assert_eq!(vault.list(&path(&format!("{mount}/none"))).await.unwrap_err(), Error::NotFound);
    }
}

#[tokio::test]
async fn an_empty_engine_is_an_empty_folder() {
    let server = shared!();
    for (mount, version) in [("empty1", 1), ("empty2", 2)] {
        server.enable_kv(mount, version);
        assert_eq!(client(server).list(&path(mount)).await.unwrap(), Listing::default());
    }
}

#[tokio::test]
async fn a_field_of_every_json_type_keeps_its_text() {
    let server = shared!();
    for (mount, version) in [("types1", 1), ("types2", 2)] {
        server.enable_kv(mount, version);
        let blob: Vec<u8> = (0..=255).collect();
        let encoded = base64::engine::general_purpose::STANDARD.encode(&blob);
        let big = "canary-".repeat(300 * 1024 / 7 + 1);
        let fields = json!({
            "string": "canary \"quoted\" \\ <tag> \u{1F511}\n", "empty": "", "int": 12345, "float": 1.5, "true": true,
            "null": null, "list": [1, "canary", null], "object": {"b": {"c": []}, "a": 1}, "binary": encoded, "big": big,
        });
        server.kv_put(mount, "all", fields);
        let secret = client(server).read(&path(&format!("{mount}/all"))).await.unwrap();
        for (name, expected, form) in [
            ("string", "canary \"quoted\" \\ <tag> \u{1F511}\n", Form::Text),
            ("empty", "", Form::Text),
            ("int", "12345", Form::Json),
            ("float", "1.5", Form::Json),
            ("true", "true", Form::Json),
            ("null", "null", Form::Json),
            ("list", "[1,\"canary\",null]", Form::Json),
            ("object", "{\"a\":1,\"b\":{\"c\":[]}}", Form::Json),
            ("binary", &encoded, Form::Text),
            ("big", &big, Form::Text),
        ] {
            assert_eq!(text(&secret, name), expected, "{name}");
            assert_eq!(secret.field(name).unwrap().form, form, "{name}");
        }
        assert_eq!(secret.fields.len(), 10);
        let tight = build(Config { max_body: 100 << 10, ..config(&server.address, ROOT_TOKEN) }).unwrap();
        let error = tight.read(&path(&format!("{mount}/all"))).await.unwrap_err();
        assert_eq!(error, Error::TooLarge { limit: 100 << 10 });
    }
}

#[tokio::test]
async fn a_deleted_or_destroyed_version_is_gone_and_one_that_ends_later_is_not() {
    let server = shared!();
    server.enable_kv("ends", 2);
    let vault = client(server);
    let read = async |name: &str| vault.read(&path(&format!("ends/{name}"))).await;
    for name in ["deleted", "destroyed", "erased"] {
        server.kv_put("ends", name, json!({"k": "canary-1"}));
        server.kv_put("ends", name, json!({"k": "canary-2"}));
        let secret = read(name).await.unwrap();
        assert_eq!((secret.version.as_str(), text(&secret, "k")), ("2", "canary-2"));
    }
    server.must("DELETE", "ends/data/deleted", Value::Null);
    server.must("PUT", "ends/destroy/destroyed", json!({"versions": [2]}));
    server.must("DELETE", "ends/metadata/erased", Value::Null);
    for name in ["deleted", "destroyed", "erased", "never"] {
        assert_eq!(read(name).await.unwrap_err(), Error::NotFound, "{name}");
    }
    server.must("POST", "ends/undelete/deleted", json!({"versions": [2]}));
    assert_eq!(text(&read("deleted").await.unwrap(), "k"), "canary-2");

    server.must("POST", "ends/metadata/later", json!({"delete_version_after": "1h"}));
    server.kv_put("ends", "later", json!({"k": "canary-later"}));
    let secret = read("later").await.unwrap();
    let left = secret.expires.unwrap().duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(3000) && left <= Duration::from_secs(3601), "{left:?}");

    server.must("POST", "ends/metadata/soon", json!({"delete_version_after": "1s"}));
    server.kv_put("ends", "soon", json!({"k": "canary-soon"}));
    let hang = Instant::now() + Duration::from_secs(30);
    while read("soon").await.is_ok() {
        assert!(Instant::now() < hang, "the end never comes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(read("soon").await.unwrap_err(), Error::NotFound);
}

#[tokio::test]
async fn a_secret_and_a_folder_of_one_name_are_one_entry() {
    let server = shared!();
    for (mount, version) in [("both1", 1), ("both2", 2)] {
        server.enable_kv(mount, version);
        server.kv_put(mount, "foo", json!({"k": "canary-a"}));
        server.kv_put(mount, "foo/bar", json!({"k": "canary-b"}));
        let vault = client(server);
        assert_eq!(names(&vault.list(&path(mount)).await.unwrap()), [("foo", true, true)]);
        let foo = path(mount).child("foo").unwrap();
        assert_eq!(names(&vault.list(&foo).await.unwrap()), [("bar", true, false)]);
        assert_eq!(text(&vault.read(&foo).await.unwrap(), "k"), "canary-a");
    }
}

#[tokio::test]
async fn a_token_without_list_permission_still_reads_what_it_may() {
    let server = shared!();
    server.enable_kv("narrow", 2);
    server.kv_put("narrow", "mine", json!({"k": "canary-mine"}));
    server.kv_put("narrow", "other", json!({"k": "canary-other"}));
    let token = server.policy_token("path \"narrow/data/mine\" { capabilities = [\"read\"] }");
    let vault = client_with(server, &token);
    assert_eq!(text(&vault.read(&path("narrow/mine")).await.unwrap(), "k"), "canary-mine");
    assert_eq!(vault.read(&path("narrow/other")).await.unwrap_err(), Error::Forbidden);
    assert_eq!(vault.list(&path("narrow")).await.unwrap_err(), Error::Forbidden);
    assert_eq!(vault.read(&path("secret/x")).await.unwrap_err(), Error::Forbidden);
    let root = vault.list(&BackendPath::root()).await.unwrap();
    assert!(root.get("narrow").is_some() && root.get("secret").is_none(), "{root:?}");
    let wrong = client_with(server, "canary-no-such-token");
    for answer in [wrong.list(&BackendPath::root()).await, wrong.list(&path("narrow")).await] {
        assert_eq!(answer.unwrap_err(), Error::Forbidden);
    }
}

#[tokio::test]
async fn the_root_shows_kv_engines_and_the_folders_that_lead_to_them() {
    let server = shared!();
    server.enable_kv("fork/one", 1);
    server.enable_kv("fork/two/three", 2);
    server.must("POST", "sys/mounts/fork/transit", json!({"type": "transit"}));
    let vault = client(server);
    let root = vault.list(&BackendPath::root()).await.unwrap();
    assert!(root.get("secret").is_some_and(|entry| entry.folder && !entry.secret));
    assert!(root.get("fork").is_some() && root.get("sys").is_none() && root.get("cubbyhole").is_none());
    // The same without the root asked first: the engine lookup alone answers 403 for a path above engines.
    for vault in [&vault, &client(server)] {
        assert_eq!(
            names(&vault.list(&path("fork")).await.unwrap()),
            [("one", false, true), ("two", false, true)]
        );
        assert_eq!(names(&vault.list(&path("fork/two")).await.unwrap()), [("three", false, true)]);
        assert_eq!(vault.read(&path("fork")).await.unwrap_err(), Error::NotFound);
        assert_eq!(vault.list(&path("fork/two/three")).await.unwrap(), Listing::default());
    }
}

#[tokio::test]
async fn an_engine_that_makes_secrets_is_never_read() {
    let server = shared!();
    server.must("POST", "sys/mounts/leases", json!({"type": "pki"}));
    let about = || server.audit_requests().iter().filter(|(_, path)| path.starts_with("leases/")).count();
    let before = about();
    let vault = client(server);
    for path in [path("leases"), path("leases/issue/web"), path("leases/ca/pem"), path("leases/crl/rotate")] {
        let read = vault.read(&path).await.unwrap_err();
        let versioned = vault.read_version(&path, &secretfs::secret::Version::new("1")).await.unwrap_err();
        for error in [read, versioned] {
            let text = error.to_string();
            assert!(
                text.starts_with("engine `leases/` is of type pki") && text.contains("[[secret]]"),
                "{text}"
            );
            assert!(error.is_answer());
        }
        assert_eq!(vault.versions(&path).await, Ok(None));
    }
    for kept in ["sys/mounts", "cubbyhole/x"] {
        assert!(matches!(vault.read(&path(kept)).await, Err(Error::Refused(_))));
        assert!(matches!(vault.list(&path(kept)).await, Err(Error::Refused(_))));
    }
    let requests = server.audit_requests();
    assert!(
        requests.iter().any(|(_, path)| path.starts_with("sys/internal/ui/mounts/leases")),
        "the log works"
    );
    assert_eq!(about(), before);
}

#[tokio::test]
async fn once_an_engine_is_known_a_read_is_one_request() {
    let server = shared!();
    server.enable_kv("count", 2);
    server.kv_put("count", "a", json!({"k": "canary"}));
    let vault = client(server);
    vault.read(&path("count/a")).await.unwrap();
    let about = || server.audit_requests().into_iter().filter(|(_, path)| path.contains("count")).count();
    let before = about();
    for _ in 0..5 {
        vault.read(&path("count/a")).await.unwrap();
    }
    assert_eq!(about() - before, 5);
}

#[tokio::test]
async fn a_hostile_name_never_leads_out_of_the_engine() {
    // A server of its own: every request in its log is ours.
    let Some(server) = available("vault", Server::start()) else { return };
    server.enable_audit();
    let long = "n".repeat(255);
    let hostile = [
        "..",
        ".",
        "",
        "%2e%2e",
        "..%2f..%2fsys",
        "%2F",
        "..\\..\\sys",
        "a?list=true",
        "a#b",
        "a;b",
        "a\u{1}",
        "a\nb",
        "\u{7f}",
        "\u{200b}",
        "\u{2028}",
        "\u{feff}",
        " ",
        "*",
        "+",
        "a..b",
        "...",
        "%",
        "%00",
        "%zz",
        "\\",
        ":",
        "@",
        "&",
        "ü",
        "🔑",
        &long,
    ];
    for (mount, version, inside) in [("fenced1", 1, "fenced1/"), ("fenced2", 2, "fenced2/")] {
        server.enable_kv(mount, version);
        server.kv_put(mount, "x", json!({"k": "canary"}));
        let vault = client(&server);
        let before = server.audit_requests().len();
        for name in hostile {
            for full in
                [path(mount).child(name).unwrap(), path(mount).child(name).unwrap().child("y").unwrap()]
            {
                // Each name also first of all, while the engine is still unknown.
                for vault in [&vault, &client(&server)] {
                    assert_eq!(vault.read(&full).await.unwrap_err(), Error::NotFound, "v{version} {name:?}");
                    assert_eq!(vault.list(&full).await.unwrap_err(), Error::NotFound, "v{version} {name:?}");
                }
            }
        }
        let requests = server.audit_requests().split_off(before);
        assert!(requests.len() > hostile.len());
        let lookup = format!("sys/internal/ui/mounts/{inside}");
        for (operation, path) in requests {
            let within = match path.strip_prefix(inside) {
                Some(rest) => version == 1 || rest.starts_with("data/") || rest.starts_with("metadata/"),
                None => {
                    path.starts_with(&lookup)
                        || path == "sys/internal/ui/mounts"
                        || path == "sys/internal/ui/mounts/"
                }
            };
            let climbs = path.split('/').any(|segment| matches!(segment, "." | ".."));
            assert!(within && !climbs && ["read", "list"].contains(&&*operation), "{operation} {path}");
        }
    }
}

#[tokio::test]
async fn odd_names_that_vault_takes_are_listed_and_read_back() {
    let server = shared!();
    for (mount, version) in [("odd1", 1), ("odd2", 2)] {
        server.enable_kv(mount, version);
        let odd = [
            "%2e%2e",
            "a b",
            "a#b",
            "a?b",
            "a%b",
            "a+b",
            "ü🔑",
            "a\\b",
            "a\"b",
            ".hidden",
            "a:b@c&d=e",
            "~x",
        ];
        for name in odd {
            server.kv_put(mount, name, json!({ "name": name }));
        }
        let vault = client(server);
        let listing = vault.list(&path(mount)).await.unwrap();
        assert_eq!(listing.entries().len(), odd.len());
        for name in odd {
            assert!(listing.get(name).is_some_and(|entry| entry.secret), "{name}");
            let secret = vault.read(&path(mount).child(name).unwrap()).await.unwrap();
            assert_eq!(text(&secret, "name"), name);
        }
    }
}

#[tokio::test]
async fn an_engine_that_is_mounted_anew_in_another_version_is_noticed() {
    let server = shared!();
    let vault = client(server);
    server.enable_kv("remount", 1);
    server.kv_put("remount", "a", json!({"k": "canary-v1"}));
    assert_eq!(text(&vault.read(&path("remount/a")).await.unwrap(), "k"), "canary-v1");
    server.disable("remount");
    server.enable_kv("remount", 2);
    server.kv_put("remount", "a", json!({"k": "canary-v2"}));
    let hang = Instant::now() + Duration::from_secs(30);
    let secret = loop {
        match vault.read(&path("remount/a")).await {
            Ok(secret) => break secret,
            Err(error) => assert_eq!(error, Error::NotFound),
        }
        assert!(Instant::now() < hang, "never noticed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!((text(&secret, "k"), secret.version.as_str()), ("canary-v2", "1"));
}
