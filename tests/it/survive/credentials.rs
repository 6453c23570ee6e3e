//! Owns the promise about credentials that are made on demand while workers die and are exchanged: none piles up, none is left.
//! Does not know what a lease is worth to its readers otherwise (tests/it/leases.rs).

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use super::builds::{Builds, upgrade};
use super::kills::{LIFE, SETTINGS};
use super::{alone, drill};
use crate::leases::servers;
use crate::support::available;
use crate::support::mount::{Mount, Plan, possible, run, secretfs, signal, wait_until};
use crate::support::postgres::{Postgres, database_role};
use crate::support::samples::{Count, Samples};
use crate::support::vault::{ROOT_TOKEN, Vault};

const ROLES: [&str; 2] = ["app", "other"];
const PACE: Duration = Duration::from_millis(50);

/// A mount of both roles, of a program that a test may replace.
fn mount(vault: &Vault) -> Mount {
    mount_with(vault, SETTINGS)
}

fn mount_with(vault: &Vault, settings: &str) -> Mount {
    let plan = Plan::of("").installed();
    let secret = |role: &&str| {
        format!("[[secret]]\npath = \"/{role}\"\nbackend = \"v\"\nsource = \"database/creds/{role}\"\n")
    };
    let secrets: String = ROLES.iter().map(secret).collect();
    let text = format!(
        "[mount]\n{settings}\n[backend.v]\ntype = \"vault\"\naddress = \"{}\"\n{secrets}",
        vault.address
    );
    let file = plan.folder().join("config.toml");
    std::fs::write(&file, text).unwrap();
    plan.arg("--config").arg(file).envs([("VAULT_TOKEN", ROOT_TOKEN)]).start()
}

/// Programs that log in with each of the roles all the time.
fn programs(port: u16, mount: &Mount) -> Vec<Samples> {
    ROLES.iter().map(|role| Samples::start(port, &mount.path(role), PACE)).collect()
}

/// How many leases of each role there are.
fn leases(vault: &Vault) -> [usize; 2] {
    ROLES.map(|role| vault.leases(&format!("database/creds/{role}")))
}

fn none_failed(counts: &[Count]) {
    for count in counts {
        assert!(count.failures.is_empty(), "{:?}, the first {:?}", count.reasons(), count.failures.first());
        assert!(count.logins > 10, "only {} logins", count.logins);
    }
}

/// The value of a lease dies with its worker: who has opened a file and not read it, or read one half of a pair, when it is killed has to
/// begin anew (docs/semantics.md, "Open files and a crash"), and then succeeds.
fn failed_at_kills_only(counts: &[Count], kills: usize) {
    for count in counts {
        let explained = |why: &str| why.ends_with("ESTALE") || why.contains("28P01");
        let is_fine = count.failures.len() <= kills && count.reasons().keys().all(|why| explained(why));
        assert!(is_fine, "{:?}, the first {:?}", count.reasons(), count.failures.first());
        assert!(count.logins > 10, "only {} logins", count.logins);
    }
}

fn ends_clean(mut mount: Mount, vault: &Vault, postgres: &Postgres) {
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(leases(vault), [0, 0]);
    assert_eq!(postgres.roles(), Vec::<String>::new());
}

#[test]
fn workers_that_are_killed_leave_one_lease_too_many_at_most_and_none_at_the_end() {
    let (vault, postgres) = servers!();
    let _alone = alone();
    for role in ROLES {
        database_role(&vault, &postgres, "database", role, "1h", "2h");
    }
    let mount = mount(&vault);
    let programs = programs(postgres.port, &mount);
    let mut most = [0; 2];
    let kills = drill(5, 25);
    for _ in 0..kills {
        mount.kill_worker();
        let began = std::time::Instant::now();
        while began.elapsed() < LIFE {
            let now = leases(&vault);
            most = [most[0].max(now[0]), most[1].max(now[1])];
            assert!(now.iter().all(|count| *count <= 2), "{now:?} leases");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let counts: Vec<Count> = programs.into_iter().map(Samples::stop).collect();
    failed_at_kills_only(&counts, kills);
    let pauses: Vec<_> = counts.iter().map(|count| (count.logins, count.longest)).collect();
    eprintln!("credentials and kills: at most {most:?} leases; logins and the longest of them {pauses:?}");
    ends_clean(mount, &vault, &postgres);
}

#[test]
fn upgrades_make_no_lease_and_give_none_back() {
    let (vault, postgres) = servers!();
    let _alone = alone();
    for role in ROLES {
        database_role(&vault, &postgres, "database", role, "1h", "2h");
    }
    let mount = mount(&vault);
    let builds = Builds::of(&mount);
    let programs = programs(postgres.port, &mount);
    wait_until("a lease of each", || leases(&vault) == [1, 1]);
    let users = postgres.roles();
    let asked = |prefixes: &[&str]| {
        let requests = vault.audit_requests().into_iter();
        requests.filter(|(_, path)| prefixes.iter().any(|prefix| path.starts_with(prefix))).count()
    };
    let about_leases = || asked(&["database/", "sys/leases/renew", "sys/leases/revoke"]);
    let before = about_leases();
    for _ in 0..drill(5, 25) {
        builds.install_other();
        run(&mut upgrade(&mount));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(postgres.roles(), users);
    assert_eq!(about_leases(), before);
    let counts: Vec<Count> = programs.into_iter().map(Samples::stop).collect();
    none_failed(&counts);
    assert!(counts.iter().all(|count| count.users == 1), "{counts:?}");
    ends_clean(mount, &vault, &postgres);
}

/// The holder's own death: the worker has time to give everything back.
#[test]
fn a_holder_that_is_killed_leaves_no_lease() {
    let (vault, postgres) = servers!();
    for role in ROLES {
        database_role(&vault, &postgres, "database", role, "1h", "2h");
    }
    let mut mount = mount(&vault);
    for role in ROLES {
        mount.read(&format!("{role}/password")).unwrap();
    }
    // Of a worker that crashed as well.
    mount.kill_worker();
    assert_eq!(leases(&vault), [1, 1]);
    signal(mount.pid(), "KILL");
    mount.ended();
    wait_until("everything is given back", || leases(&vault) == [0, 0] && postgres.roles().is_empty());
    run(secretfs().arg("unmount").arg(&mount.at));
}

#[test]
fn a_mount_that_is_given_up_after_crashes_leaves_no_lease() {
    let (vault, postgres) = servers!();
    for role in ROLES {
        database_role(&vault, &postgres, "database", role, "1h", "2h");
    }
    let mut mount = mount_with(&vault, "max_crashes = 1");
    let held: Vec<_> =
        ROLES.iter().map(|role| File::open(mount.path(&format!("{role}/password"))).unwrap()).collect();
    mount.kill_worker();
    assert_eq!(leases(&vault), [1, 1]);
    signal(mount.worker(), "KILL");
    assert_eq!(mount.ended(), Some(70), "{}", mount.log());
    assert!(!mount.is_mounted());
    assert_eq!((leases(&vault), postgres.roles()), ([0, 0], vec![]), "{}", mount.log());
    for mut file in held {
        assert_eq!(file.read(&mut [0; 16]).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    }
}

/// What is stopped gives nothing back and keeps whoever reads waiting: the next one, which does, comes in time.
#[test]
fn a_worker_that_is_stopped_when_the_mount_ends_leaves_nothing_mounted_and_no_lease() {
    let (vault, postgres) = servers!();
    for role in ROLES {
        database_role(&vault, &postgres, "database", role, "1h", "2h");
    }
    let mut mount = mount_with(&vault, "watchdog = \"4s\"");
    for role in ROLES {
        mount.read(&format!("{role}/password")).unwrap();
    }
    assert_eq!(leases(&vault), [1, 1]);
    signal(mount.worker(), "STOP");
    assert_eq!(mount.stop(), Some(0), "{}", mount.log());
    assert!(!mount.is_mounted());
    assert_eq!((leases(&vault), postgres.roles()), ([0, 0], vec![]), "{}", mount.log());
}

/// Nobody answers who could be told: it ends all the same.
#[test]
fn a_mount_that_is_given_up_while_its_backend_is_away_ends_and_says_what_is_left() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", ROLES[0], "1h", "2h");
    let mut mount = mount_with(&vault, "max_crashes = 1");
    mount.read(&format!("{}/password", ROLES[0])).unwrap();
    drop(vault);
    mount.kill_worker();
    signal(mount.worker(), "KILL");
    assert_eq!(mount.ended(), Some(70), "{}", mount.log());
    assert!(!mount.is_mounted());
    assert!(mount.log().contains("a lease is not revoked, and lives until its end"), "{}", mount.log());
}
