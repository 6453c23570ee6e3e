//! Owns the proof that the three backends work within the sandbox, each with its real server or file.
//! Does not know what they promise beyond that.

use secretfs::backend::aws::{self, Aws};
use secretfs::backend::store::{self, KeySource, Store};
use secretfs::backend::{Backend, vault};
use secretfs::clock::Clock;
use secretfs::path::BackendPath;
use serde_json::json;

use super::attempts::HANG;
use super::{NAMED, READY, Stage, is_root, place, say};
use crate::support::available;
use crate::support::moto::{Content, Moto};
use crate::support::vault::{ROOT_TOKEN, Vault};

const ADDRESS: &str = "SECRETFS_TEST_ADDRESS";

/// What the process within does; the value that it read.
pub fn attempt(which: &str) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match which {
            "store" => store().await,
            "vault" => vault().await,
            "aws" => {
                let aws = Aws::new(aws::Config { deadline: HANG, ..aws::Config::default() });
                read(&aws, "sandbox").await
            }
            _ => panic!("no such backend"),
        }
    })
}

async fn store() -> String {
    let (file, key) = (place(NAMED).join("store.age"), place(NAMED).join("identity"));
    let store = Store::new(store::Config { file, key: KeySource::Identity(key) }, Clock::System).unwrap();
    let before = read(&store, "a").await;
    say(READY);
    tokio::time::timeout(HANG, store.changed()).await.expect("a change is noticed");
    format!("{before}, {}", read(&store, "a").await)
}

async fn vault() -> String {
    let ca = place(NAMED).join("ca.pem");
    let token = vault::TokenSource::File(place(NAMED).join("token"));
    let address = std::env::var(ADDRESS).unwrap();
    let ca_cert = address.starts_with("https").then_some(ca);
    let config = vault::Config { address, token, ca_cert, deadline: HANG, ..vault::Config::default() };
    read(&vault::build(config).unwrap(), "secret/a").await
}

/// The value of `value`, or why not.
async fn read(backend: &dyn Backend, path: &str) -> String {
    match backend.read(&BackendPath::parse(path).unwrap()).await {
        Ok(secret) => secret.field("value").unwrap().value.expose_str().unwrap().to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_store_is_read_and_followed() {
    let Some(()) = available("users", is_root()) else { return };
    let (stage, made) = (Stage::new(), crate::support::mount::Store::new());
    made.put("a", &["value=canary-one"]);
    for (from, to) in [(made.file(), "store.age"), (made.identity(), "identity")] {
        std::fs::rename(from, stage.path("named").join(to)).unwrap();
    }
    let outcome = stage.attempt("backend:store", true, &[], || {
        let mut command = crate::support::mount::secretfs();
        command.args(["store", "put"]).arg(stage.path("named/store.age")).args(["a", "value=canary-two"]);
        crate::support::mount::run(command.arg("--identity").arg(stage.path("named/identity")));
    });
    assert_eq!(outcome.came.as_deref(), Some("canary-one, canary-two"), "{}", outcome.status);
}

#[test]
fn vault_is_read_over_http_and_tls() {
    let Some(()) = available("users", is_root()) else { return };
    let Some(server) = available("vault", Vault::start_tls()) else { return };
    server.kv_put("secret", "a", json!({"value": "canary"}));
    let stage = Stage::new();
    std::fs::copy(server.ca.as_ref().unwrap(), stage.path("named/ca.pem")).unwrap();
    std::fs::write(stage.path("named/token"), ROOT_TOKEN).unwrap();
    let port = server.address.rsplit_once(':').unwrap().1;
    // By its name, too: that is the C library's own work.
    for address in [server.address.clone(), format!("https://localhost:{port}")] {
        let outcome = stage.attempt("backend:vault", true, &[(ADDRESS, address)], || ());
        assert_eq!(outcome.came.as_deref(), Some("canary"), "{}", outcome.status);
    }
    let plain = available("vault", Vault::shared()).unwrap();
    plain.kv_put("secret", "a", json!({"value": "canary-plain"}));
    let outcome = stage.attempt("backend:vault", true, &[(ADDRESS, plain.address.clone())], || ());
    assert_eq!(outcome.came.as_deref(), Some("canary-plain"), "{}", outcome.status);
}

#[test]
fn aws_is_read_through_its_own_chain() {
    let Some(()) = available("users", is_root()) else { return };
    let Some(moto) = Moto::shared() else { return };
    moto.create("sandbox", Content::Text("canary"));
    let stage = Stage::new();
    let outcome = stage.attempt("backend:aws", true, &moto.environment(), || ());
    assert_eq!(outcome.came.as_deref(), Some("canary"), "{}", outcome.status);
}
