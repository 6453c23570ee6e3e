//! Owns what becomes of the token of a login on a real server: handed over without another login, or ended by its name after a crash.
//! Does not know processes: a worker is a cache and a book of leases over a client.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use secretfs::cache::{Limits, SecretCache, SecretRef, Source, SourceId};
use secretfs::clock::Clock;
use secretfs::fs::SecretFs;
use secretfs::handover::{pause, receive};
use secretfs::leases::{Leases, Orphans, read_ledger};
use secretfs::tree::Trees;

use super::login::Role;
use super::*;

const OURS: [u8; 32] = [7; 32];
const PATIENCE: Duration = Duration::from_secs(10);

struct Worker {
    cache: Arc<SecretCache>,
    leases: Arc<Leases>,
    fs: Arc<SecretFs>,
}

impl Worker {
    fn over(vault: Arc<Vault>) -> Self {
        let source = Source { name: "v".into(), backend: vault };
        let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), Clock::System));
        let leases = Arc::new(Leases::plain(cache.clone()));
        let fs = SecretFs::new(Trees::new(vec![]), cache.clone(), 1024).with_leases(leases.clone());
        Self { cache, leases, fs: Arc::new(fs) }
    }

    fn keep_ledger(&self, files: &[OwnedFd; 2]) -> Orphans {
        self.leases.keep_ledger(read_ledger(files.each_ref().map(|file| file.try_clone().unwrap())))
    }

    async fn read(&self, name: &str) {
        let of = SecretRef::current(SourceId(0), path(&format!("{name}/a")));
        self.cache.secret(&of).await.unwrap();
    }

    async fn work(&self) {
        for errand in self.leases.due(self.cache.clock().now()).0 {
            self.leases.act(errand).await;
        }
    }

    async fn end(&self) {
        assert_eq!(self.leases.revoke_all(PATIENCE).await, []);
        for backend in self.cache.backends() {
            backend.close(&[]).await;
        }
    }
}

fn allow(server: &Server, name: &str, more: &str) {
    let policy = format!("path \"{name}/*\" {{ capabilities = [\"read\", \"list\"] }}\n{more}");
    server.must("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": policy }));
}

const REVOKES: &str = "path \"auth/token/revoke-accessor\" { capabilities = [\"update\"] }";

#[tokio::test]
async fn a_worker_that_takes_over_has_the_token_and_does_not_log_in() {
    let Some(server) = available("vault", Server::start()) else { return };
    server.enable_audit();
    let role = Role::new(&server, "handed", json!({"token_ttl": "1h"}));
    let ledger = secretfs::record::make("ledger").unwrap();
    let old = Worker::over(role.client());
    assert_eq!(old.keep_ledger(&ledger), Orphans::default());
    old.read("handed").await;
    let logins = role.logins();
    let mut bytes = Vec::new();
    let mut paused = pause(&old.cache, &old.leases, &old.fs, PATIENCE).await.unwrap();
    paused.send(&mut bytes, &OURS).unwrap();
    let new = Worker::over(role.client());
    let state = receive(&mut bytes.as_slice(), &OURS, &new.cache, &new.leases).unwrap();
    assert_eq!((state.counts().tokens, state.counts().kept), (1, 1));
    new.fs.import(state.install(&new.cache, &new.leases).await);
    assert_eq!(new.keep_ledger(&ledger), Orphans::default(), "the token is known");
    new.cache.flush();
    new.read("handed").await;
    assert_eq!((role.logins(), role.tokens()), (logins, 1));
    new.end().await;
    assert_eq!(role.tokens(), 0);
    drop(paused);
}

#[tokio::test]
async fn the_token_of_a_worker_that_crashed_is_ended_by_its_name() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let role = Role::new(server, "crashed", json!({"token_ttl": "1h"}));
    allow(server, "crashed", REVOKES);
    let ledger = secretfs::record::make("ledger").unwrap();
    for crash in 0..5 {
        let worker = Worker::over(role.client());
        assert_eq!(worker.keep_ledger(&ledger).tokens, usize::from(crash > 0));
        worker.read("crashed").await;
        worker.work().await;
        assert_eq!(role.tokens(), 1, "the one before is gone");
    }
    let last = Worker::over(role.client());
    assert_eq!(last.keep_ledger(&ledger).tokens, 1);
    // Somebody else was faster.
    role.revoke_all();
    last.end().await;
    assert_eq!(role.tokens(), 0);
    let after = Worker::over(role.client());
    assert_eq!(after.keep_ledger(&ledger), Orphans::default(), "what is gone is not in the ledger");
}

#[tokio::test]
async fn where_the_policy_does_not_allow_that_the_token_lives_on_and_is_not_asked_about_again() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let role = Role::new(server, "denied", json!({"token_ttl": "1h"}));
    let ledger = secretfs::record::make("ledger").unwrap();
    let first = Worker::over(role.client());
    first.keep_ledger(&ledger);
    first.read("denied").await;
    drop(first);
    let next = Worker::over(role.client());
    assert_eq!(next.keep_ledger(&ledger).tokens, 1);
    next.work().await;
    assert!(next.leases.due(next.cache.clock().now()).0.is_empty());
    next.end().await;
    assert_eq!(role.tokens(), 1);
    role.revoke_all();
}
