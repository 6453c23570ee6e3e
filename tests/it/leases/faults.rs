//! Owns what readers of database credentials see while the token behind them dies, or the server is sealed.
//! Does not know renewals that fail while all else is well.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::json;

use super::database::servers;
use super::login::{AppRole, from_file, requests, revoke, token};
use super::{mount_at, mount_with};
use crate::support::available;
use crate::support::between::Between;
use crate::support::mount::{Mount, possible, wait_until};
use crate::support::postgres::{Postgres, database_role};
use crate::support::samples::{Count, Samples};
use crate::support::vault::Vault;

pub(super) const PACE: Duration = Duration::from_millis(100);

/// A `[[secret]]` of `database/creds/ROLE` at `/ROLE`.
pub(super) fn declared(role: &str) -> String {
    format!("[[secret]]\npath = \"/{role}\"\nbackend = \"v\"\nsource = \"database/creds/{role}\"\n")
}

pub(super) fn text(mount: &Mount, file: &str) -> std::io::Result<String> {
    mount.read(file).map(|bytes| String::from_utf8(bytes).unwrap())
}

/// Whether a login with what is shown works.
pub(super) fn works(mount: &Mount, postgres: &Postgres, role: &str) -> bool {
    let read = |name: &str| text(mount, &format!("{role}/{name}"));
    match (read("username"), read("password")) {
        (Ok(user), Ok(password)) => postgres.login(&user, &password).is_ok(),
        _ => false,
    }
}

pub(super) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub(super) fn sleep(count: u64) {
    std::thread::sleep(seconds(count));
}

pub(super) fn none_failed(count: &Count, least: usize) {
    assert!(count.failures.is_empty(), "{:?}, the first {:?}", count.reasons(), count.failures.first());
    assert!(count.logins >= least, "only {} logins", count.logins);
}

#[test]
fn with_a_login_what_died_with_a_revoked_token_is_made_again_as_soon_as_that_is_known() {
    let (vault, postgres) = servers!();
    for role in ["app", "other"] {
        database_role(&vault, &postgres, "database", role, "1h", "2h");
    }
    let role = AppRole::new(&vault, json!({"token_ttl": "1h"}));
    let mut mount = mount_with(&vault, &role.login(), &(declared("app") + &declared("other"))).start();
    let user = text(&mount, "app/username").unwrap();
    assert!(works(&mount, &postgres, "app"));
    role.revoke_all();
    wait_until("Vault has ended what was made with it", || !works(&mount, &postgres, "app"));
    // The first question to the server is refused, and nobody who asks sees that.
    assert!(works(&mount, &postgres, "other"));
    let known = Instant::now();
    wait_until("the other one is made again", || works(&mount, &postgres, "app"));
    assert!(known.elapsed() < seconds(10), "{:?}", known.elapsed());
    assert_ne!(text(&mount, "app/username").unwrap(), user);
    assert_eq!((role.logins(), requests(&vault, "database/creds/app")), (2, 2));
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

#[test]
fn a_revoked_token_is_noticed_within_half_a_minute_though_no_lease_is_due_for_long() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "1h", "2h");
    let role = AppRole::new(&vault, json!({"token_ttl": "1h"}));
    let mut mount = mount_with(&vault, &role.login(), &declared("app")).start();
    assert!(works(&mount, &postgres, "app"));
    role.revoke_all();
    wait_until("Vault has ended what was made with it", || postgres.roles().is_empty());
    let ended = Instant::now();
    while !works(&mount, &postgres, "app") {
        assert!(ended.elapsed() < seconds(60), "not noticed");
        std::thread::sleep(PACE);
    }
    assert_eq!((role.logins(), requests(&vault, "database/creds/app")), (2, 2));
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

#[test]
fn with_a_login_a_revoked_token_costs_logins_up_to_the_next_renewal_and_no_longer() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "10s", "30s");
    let role = AppRole::new(&vault, json!({"token_ttl": "1h"}));
    let mut mount = mount_with(&vault, &role.login(), &declared("app")).start();
    let began = Instant::now();
    let samples = Samples::start(postgres.port, &mount.path("app"), PACE);
    sleep(8);
    role.revoke_all();
    let revoked = began.elapsed();
    sleep(20);
    let count = samples.stop();
    assert!(count.logins > 80, "only {} logins", count.logins);
    // Two thirds of a life, and a busy machine.
    for failure in &count.failures {
        assert!(failure.at + seconds(1) > revoked && failure.at < revoked + seconds(10), "{failure:?}");
    }
    assert_eq!(role.logins(), 2);
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

#[test]
fn without_a_login_a_revoked_token_is_a_clear_error_until_the_file_has_a_new_one() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "10s", "30s");
    let between = Between::start(&vault);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let first = token(&vault, json!({"ttl": "1h"}));
    std::fs::write(&file, &first).unwrap();
    let mut mount = mount_at(&between.address(), &from_file(&file), &declared("app")).start();
    assert!(works(&mount, &postgres, "app"));
    revoke(&vault, &first);
    let error = |name: &str| mount.read(&format!("app/{name}")).err().and_then(|error| error.raw_os_error());
    wait_until("it is known", || error("username") == Some(libc::EIO));
    let known = Instant::now();
    while known.elapsed() < seconds(10) {
        for name in ["username", "password", ".json"] {
            assert_eq!(error(name), Some(libc::EIO), "{name}: what is dead is never served");
        }
        std::thread::sleep(PACE);
    }
    assert!(mount.log().contains("run `vault login`, or put another one into its file"), "{}", mount.log());
    let asked = between.requests("").iter().filter(|request| request.at > known).count();
    assert!(asked <= 10, "{asked} requests in ten seconds");
    std::fs::write(&file, token(&vault, json!({"ttl": "1h"}))).unwrap();
    let began = Instant::now();
    wait_until("the new token is used", || works(&mount, &postgres, "app"));
    assert!(began.elapsed() < seconds(12), "{:?}", began.elapsed());
    let samples = Samples::start(postgres.port, &mount.path("app"), PACE);
    sleep(12);
    none_failed(&samples.stop(), 60);
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

#[test]
fn tokens_of_few_uses_are_followed_by_others_and_no_login_fails() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "10s", "30s");
    let role = AppRole::new(&vault, json!({"token_ttl": "1h", "token_num_uses": 5}));
    let mut mount = mount_with(&vault, &role.login(), &declared("app")).start();
    let samples = Samples::start(postgres.port, &mount.path("app"), PACE);
    sleep(40);
    none_failed(&samples.stop(), 200);
    // Of each token the last use is kept to give it back.
    let asked = vault.audit_requests().len();
    assert!((2..=6).contains(&role.logins()), "{} logins, {asked} requests", role.logins());
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

#[test]
fn tokens_that_reach_their_longest_life_are_followed_by_others_and_no_login_fails() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "10s", "30s");
    let settings = json!({"token_ttl": "20s", "token_explicit_max_ttl": "20s"});
    let role = AppRole::new(&vault, settings);
    let mut mount = mount_with(&vault, &role.login(), &declared("app")).start();
    let samples = Samples::start(postgres.port, &mount.path("app"), PACE);
    sleep(60);
    none_failed(&samples.stop(), 300);
    assert!((3..=8).contains(&role.logins()), "{} logins", role.logins());
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

#[test]
fn a_secret_id_that_somebody_was_faster_to_unwrap_is_a_loud_error_and_one_request() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "10s", "30s");
    let role = AppRole::new(&vault, json!({"token_ttl": "1h"}));
    let (login, wrapping) = role.login_wrapped();
    vault.must("POST", "sys/wrapping/unwrap", json!({ "token": wrapping }));
    let mount = mount_with(&vault, &login, &declared("app")).start();
    let before = requests(&vault, "sys/wrapping/unwrap");
    let began = Instant::now();
    while began.elapsed() < seconds(6) {
        let error = mount.read("app/password").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        std::thread::sleep(PACE);
    }
    let log = mount.log();
    let loud = log.lines().find(|line| line.contains("ERROR") && line.contains("somebody else may have it"));
    assert!(loud.is_some() && !log.contains(&wrapping), "{log}");
    assert_eq!(requests(&vault, "sys/wrapping/lookup"), 1);
    assert_eq!((requests(&vault, "sys/wrapping/unwrap") - before, role.logins()), (0, 0));
    // What wraps another one is the cure, without another mount.
    role.wrap();
    wait_until("the login works", || works(&mount, &postgres, "app"));
    assert_eq!(role.logins(), 1);
}

#[test]
fn credentials_are_served_while_the_server_is_sealed_and_renewed_when_it_is_not() {
    const ROLES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let (vault, postgres) = servers!();
    for role in ROLES {
        database_role(&vault, &postgres, "database", role, "100s", "1h");
    }
    let vault = Arc::new(vault);
    let between = Between::start(&vault);
    let mut mount = mount_at(&between.address(), "", &ROLES.map(declared).concat()).start();
    for role in ROLES {
        assert!(works(&mount, &postgres, role));
    }
    let samples = ROLES.map(|role| Samples::start(postgres.port, &mount.path(role), PACE * 3));
    // The first renewal meets a server that is sealed under it.
    let (tell, sealed) = mpsc::channel();
    let (server, tell) = (vault.clone(), Mutex::new(Some(tell)));
    between.suffer(Some(Box::new(move |path| {
        if path == "sys/leases/renew"
            && let Some(tell) = tell.lock().unwrap().take()
        {
            server.seal();
            tell.send(Instant::now()).unwrap();
        }
        None
    })));
    let sealed = sealed.recv_timeout(seconds(90)).unwrap();
    sleep(30);
    // It may answer before this returns.
    let unsealing = Instant::now();
    vault.unseal();
    let unsealed = Instant::now();
    let failed = between.requests("").iter().filter(|request| request.at > sealed).count();
    assert!(failed <= 60, "{failed} requests while it was sealed");
    assert!(between.closest("sys/leases/renew").is_none_or(|time| time > Duration::from_millis(700)));
    // Each is renewed or replaced.
    let cared_for = || {
        let all = between.requests("");
        let good = all.iter().filter(|request| request.at > unsealing && request.status == Some(200));
        let of = |path: &str| path == "sys/leases/renew" || path.starts_with("database/creds/");
        good.filter(|request| of(&request.path)).count()
    };
    wait_until("the server is asked again", || cared_for() > 0);
    assert!(unsealed.elapsed() < seconds(12), "{:?}", unsealed.elapsed());
    wait_until("all are cared for", || cared_for() >= ROLES.len());
    sleep(2);
    for count in samples.map(Samples::stop) {
        none_failed(&count, 100);
    }
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

#[test]
fn what_ends_while_the_server_is_sealed_is_shown_up_to_then_and_made_again_when_it_is_unsealed() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "10s", "1h");
    let between = Between::start(&vault);
    let mut mount = mount_at(&between.address(), "", &declared("app")).start();
    let began = Instant::now();
    let samples = Samples::start(postgres.port, &mount.path("app"), PACE);
    sleep(2);
    vault.seal();
    let sealed = Instant::now();
    sleep(18);
    let asked = between.requests("").iter().filter(|request| request.at > sealed).count();
    assert!(asked <= 24, "{asked} requests in 18 seconds");
    vault.unseal();
    let unsealed = began.elapsed();
    sleep(8);
    let count = samples.stop();
    assert!(count.failures.len() > 50, "{:?}", count.reasons());
    for failure in &count.failures {
        assert!(failure.why.ends_with(": EIO"), "nothing dead is shown: {failure:?}");
        assert!(failure.at > seconds(9) && failure.at < unsealed + seconds(4), "{failure:?}, {unsealed:?}");
    }
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}
