//! Owns the proof that the servers which tests of leases need do what those tests build on.
//! Does not know the program under test: here the servers speak with each other.

use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::nginx::{Nginx, self_signed};
use crate::support::postgres::{Postgres, REFUSED, SUPERUSER, database_role};
use crate::support::samples::Samples;
use crate::support::vault::Vault;
use crate::support::{available, program};

/// A user name and a password that Vault has made, and the id of their lease.
struct Credentials {
    user: String,
    password: String,
    lease: String,
}

impl Credentials {
    fn make(vault: &Vault, mount: &str, role: &str) -> Self {
        let answer = vault.must("GET", &format!("{mount}/creds/{role}"), Value::Null);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self {
            user: text(&answer["data"]["username"]),
            password: text(&answer["data"]["password"]),
            lease: text(&answer["lease_id"]),
        }
    }

    fn revoke(&self, vault: &Vault) {
        vault.must("PUT", "sys/leases/revoke", json!({ "lease_id": self.lease, "sync": true }));
    }

    fn write_to(&self, folder: &Path) {
        for (name, text) in [("username", &self.user), ("password", &self.password)] {
            // Renamed into place, so that nobody reads half of it.
            let new = folder.join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, folder.join(name)).unwrap();
        }
    }
}

fn vault_and_postgres() -> Option<(Vault, Postgres)> {
    let postgres = available("postgres", Postgres::start())?;
    let vault = available("vault", Vault::start_with_plugins())?;
    Some((vault, postgres))
}

#[test]
fn postgresql_takes_what_vault_makes_until_it_is_revoked() {
    let Some((vault, postgres)) = vault_and_postgres() else { return };
    database_role(&vault, &postgres, "database", "app", "20s", "60s");
    assert_eq!(postgres.roles(), Vec::<String>::new());

    let made = Credentials::make(&vault, "database", "app");
    assert_eq!(postgres.login(&made.user, &made.password), Ok(()));
    assert!(postgres.roles() == [made.user.clone()], "Vault made one role");
    let other = Credentials::make(&vault, "database", "app");
    assert_eq!(postgres.login(&made.user, &other.password), Err(REFUSED.to_owned()), "not its password");

    made.revoke(&vault);
    assert_eq!(postgres.login(&made.user, &made.password), Err(REFUSED.to_owned()), "revoked");
    assert!(postgres.roles() == [other.user.clone()], "the other one is left");
    assert_eq!(postgres.login(&other.user, &other.password), Ok(()));
}

#[test]
fn postgresql_refuses_a_user_whose_lease_has_ended() {
    let Some((vault, postgres)) = vault_and_postgres() else { return };
    database_role(&vault, &postgres, "database", "brief", "2s", "2s");
    database_role(&vault, &postgres, "database", "lasting", "1h", "1h");
    let (brief, lasting) =
        (Credentials::make(&vault, "database", "brief"), Credentials::make(&vault, "database", "lasting"));
    assert_eq!(postgres.login(&brief.user, &brief.password), Ok(()));
    let deadline = Instant::now() + Duration::from_secs(30);
    while postgres.login(&brief.user, &brief.password).is_ok() {
        assert!(Instant::now() < deadline, "a lease of two seconds does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(postgres.login(&brief.user, &brief.password), Err(REFUSED.to_owned()));
    assert_eq!(postgres.login(&lasting.user, &lasting.password), Ok(()));
}

#[test]
fn every_login_needs_a_password() {
    let Some(postgres) = available("postgres", Postgres::start()) else { return };
    assert_eq!(postgres.login(SUPERUSER, "canary-wrong"), Err(REFUSED.to_owned()));
    assert_eq!(postgres.login("nobody-of-that-name", "canary-wrong"), Err(REFUSED.to_owned()));
}

#[test]
fn a_postgresql_that_nobody_holds_any_more_is_gone() {
    let Some(postgres) = available("postgres", Postgres::start()) else { return };
    let port = postgres.port;
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
    drop(postgres);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn vault_makes_codes_of_totp_and_knows_them_again() {
    let Some(vault) = available("vault", Vault::start_with_plugins()) else { return };
    vault.must("POST", "sys/mounts/totp", json!({"type": "totp"}));
    let key = json!({"generate": true, "issuer": "secretfs", "account_name": "test", "exported": false});
    vault.must("POST", "totp/keys/door", key);
    let answer = vault.must("GET", "totp/code/door", Value::Null);
    let code = answer["data"]["code"].as_str().unwrap();
    assert!(code.len() == 6 && code.bytes().all(|digit| digit.is_ascii_digit()), "six digits");
    assert_eq!(answer["lease_id"], "", "a code has no lease");
    let checked = vault.must("POST", "totp/code/door", json!({ "code": code }));
    assert_eq!(checked["data"]["valid"], true);
}

#[test]
fn no_plugin_outlives_its_vault() {
    let Some(vault) = available("vault", Vault::start_with_plugins()) else { return };
    vault.must("POST", "sys/mounts/totp", json!({"type": "totp"}));
    let group = vault.group();
    // The wrapper and the server; and the plugin, where it is none that is built in.
    assert!(rustix::process::test_kill_process_group(group).is_ok());
    drop(vault);
    let deadline = Instant::now() + Duration::from_secs(30);
    while rustix::process::test_kill_process_group(group).is_ok() {
        assert!(Instant::now() < deadline, "something of the server is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn samples_count_every_login_and_every_failure() {
    let Some((vault, postgres)) = vault_and_postgres() else { return };
    database_role(&vault, &postgres, "database", "app", "1h", "1h");
    let folder = tempfile::tempdir().unwrap();
    let run = |during: &dyn Fn()| {
        let samples = Samples::start(postgres.port, folder.path(), Duration::from_millis(20));
        std::thread::sleep(Duration::from_millis(500));
        during();
        samples.stop()
    };
    let wait = || std::thread::sleep(Duration::from_millis(500));

    let count = run(&|| ());
    assert!(count.logins == 0 && count.failures.len() > 1, "{count:?}");
    assert_eq!(count.reasons().into_keys().collect::<Vec<_>>(), ["username: ENOENT"]);

    let (first, second) =
        (Credentials::make(&vault, "database", "app"), Credentials::make(&vault, "database", "app"));
    first.write_to(folder.path());
    let count = run(&|| {
        first.revoke(&vault);
        wait();
        second.write_to(folder.path());
        wait();
    });
    assert!(count.logins > 1 && !count.failures.is_empty(), "{count:?}");
    assert_eq!(count.users, 2);
    // Mostly REFUSED; 28000 for a login whose user went between its password and its session. Both are of class 28.
    assert!(count.reasons().into_keys().all(|why| why.starts_with("28")), "{count:?}");
    assert!(count.failures.iter().all(|failure| failure.at > Duration::from_millis(400)), "{count:?}");
    assert!(count.longest > Duration::ZERO);

    let port = postgres.port;
    drop(postgres);
    let samples = Samples::start(port, folder.path(), Duration::from_millis(20));
    wait();
    assert_eq!(samples.stop().reasons().into_keys().collect::<Vec<_>>(), ["ConnectionRefused"]);
}

#[test]
fn nginx_serves_the_new_certificate_once_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("certificate"), folder.path().join("key"));
    let Some(openssl) = available("openssl", program("openssl")) else { return };
    self_signed(&openssl, &certificate, &key);
    let Some(nginx) = available("nginx", Nginx::start(&certificate, &key)) else { return };
    let first = folder.path().join("first");
    std::fs::copy(&certificate, &first).unwrap();
    assert_eq!(nginx.ask(&first), Ok(()));

    self_signed(&openssl, &certificate, &key);
    assert_eq!(nginx.ask(&first), Ok(()), "nothing reads the files again by itself");
    assert_eq!(nginx.ask(&certificate), Err(60), "curl: the certificate is not one of this CA");
    nginx.reload();
    let deadline = Instant::now() + Duration::from_secs(30);
    while nginx.ask(&certificate) != Ok(()) {
        assert!(Instant::now() < deadline, "the new certificate is not served");
        std::thread::sleep(Duration::from_millis(20));
    }
    let port = nginx.port;
    drop(nginx);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nginx goes with its owner");
}
