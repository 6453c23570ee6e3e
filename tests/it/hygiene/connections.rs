//! Owns the promise that a connection to a backend does not live long, since its buffers hold what was read last.
//! Does not know what is in a buffer: that is searched for in `memory`.

use std::time::{Duration, Instant};

use secretfs::backend::{Backend, vault};
use secretfs::clock::Clock;
use secretfs::path::BackendPath;
use serde_json::json;

use crate::aws;
use crate::aws::fake::{Fake, Reply};
use crate::support::bao::Bao;
use crate::support::mount::HANG;
use crate::support::vault::ROOT_TOKEN;

/// How many connections a server has seen, and how many of them are over.
type Connections<'a> = &'a dyn Fn() -> (u64, u64);

async fn are_replaced(backend: &dyn Backend, connections: Connections<'_>, path: &str) {
    let path = BackendPath::parse(path).unwrap();
    let now = || Clock::System.now();
    for _ in 0..3 {
        backend.read(&path).await.unwrap();
        backend.tidy(now());
    }
    assert_eq!(connections(), (1, 0), "what is young is kept");
    backend.tidy(now().plus(Duration::from_secs(60)));
    let start = Instant::now();
    // Never idle meanwhile: that would close it as well.
    while connections().1 == 0 {
        assert!(start.elapsed() < HANG, "it is not closed: {:?}", connections());
        backend.read(&path).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(connections(), (2, 1));
}

#[tokio::test]
async fn a_connection_to_vault_is_closed_though_it_is_never_idle() {
    let bao = Bao::start();
    bao.put("a", &json!({"k": "canary"}));
    let token = vault::TokenSource::Literal(ROOT_TOKEN.to_owned().into());
    let config = vault::Config { address: bao.address(), token, deadline: HANG, ..vault::Config::default() };
    are_replaced(&vault::build(config).unwrap(), &|| bao.connections(), "secret/a").await;
}

#[tokio::test]
async fn a_connection_to_aws_is_closed_though_it_is_never_idle() {
    let fake = Fake::start_keeping(|_, _| Reply::json(json!({"Name": "a", "SecretString": "canary"})));
    are_replaced(&aws::aws_at(&fake.endpoint(), HANG, 1 << 20), &|| fake.connections(), "a").await;
}
