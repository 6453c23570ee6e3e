//! Owns what database credentials in two files promise: every login works, one lease for all, nothing made by looking, nothing left.
//! Does not know other engines, or many roles at once.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::login::AppRole;
use super::{drill, mount_with};
use crate::support::available;
use crate::support::mount::{Mount, possible, run, wait_until};
use crate::support::postgres::{Postgres, database_role};
use crate::support::samples::Samples;
use crate::support::vault::{ROOT_TOKEN, Vault};

/// A Vault that makes users of a PostgreSQL, both one's own, where these and a mount are possible; else the end of the test.
macro_rules! servers {
    () => {{
        let vault =
            available("mount", possible()).and_then(|()| available("vault", Vault::start_with_plugins()));
        let postgres = available("postgres", Postgres::start());
        match (vault, postgres) {
            (Some(vault), Some(postgres)) => {
                vault.enable_audit();
                (vault, postgres)
            }
            _ => return,
        }
    }};
}

pub(crate) use servers;

const DECLARED: &str = "[[secret]]\npath = \"/db\"\nbackend = \"v\"\nsource = \"database/creds/app\"\n";

/// How many credentials were asked for so far.
fn made(vault: &Vault) -> usize {
    vault.audit_requests().iter().filter(|(_, path)| path.starts_with("database/creds/")).count()
}

#[test]
fn every_login_works_while_credentials_are_renewed_and_replaced_and_none_is_left() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "20s", "60s");
    let mut mount = mount_with(&vault, "", DECLARED).start();
    let time = drill(6 * 60, 30 * 60);
    let samples = Samples::start(postgres.port, &mount.path("db"), Duration::from_millis(100));
    std::thread::sleep(time);
    let count = samples.stop();
    assert!(count.failures.is_empty(), "{:?} of {} logins", count.reasons(), count.logins);
    assert!(count.logins as u64 > time.as_secs() * 2, "only {} logins", count.logins);
    // A lease lives for a minute at most.
    let theory = time.as_secs().div_ceil(60);
    let made = made(&vault);
    assert!(made as u64 * 10 <= theory * 12, "{made} leases in {time:?}, where {theory} is the least");
    println!(
        "{} logins, longest {:?}; {made} leases where {theory} is the least",
        count.logins, count.longest
    );
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
    assert_eq!(vault.leases("database/creds/app"), 0);
}

#[test]
fn leases_that_are_to_be_kept_outlive_the_mount_with_the_token_of_the_login_that_made_them() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "1h", "2h");
    let role = AppRole::new(&vault, json!({"token_ttl": "1h"}));
    let tokens = || {
        let answer = vault.must("GET", "auth/token/accessors/?list=true", json!(null));
        answer["data"]["keys"].as_array().unwrap().len()
    };
    let before = tokens();
    let start = || mount_with(&vault, &format!("{}keep_leases = true\n", role.login()), DECLARED).start();
    let mut mount = start();
    let read = |file: &str| String::from_utf8(mount.read(&format!("db/{file}")).unwrap()).unwrap();
    let (user, password) = (read("username"), read("password"));
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.login(&user, &password), Ok(()));
    assert_eq!((vault.leases("database/creds/app"), tokens()), (1, before + 1));
    // A token that made nothing is given back.
    let mut mount = start();
    wait_until("it has logged in", || role.logins() == 2);
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(tokens(), before + 1);
    assert_eq!(postgres.login(&user, &password), Ok(()));
}

#[test]
fn a_hundred_processes_that_open_a_role_that_was_never_used_get_one_lease() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "1h", "2h");
    let mount = mount_with(&vault, "", DECLARED).start();
    let cat = |file: &str| {
        let file = mount.path("db").join(file);
        Command::new("cat").arg(file).stdout(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<_> = (0..100).map(|n| cat(["username", "password"][n % 2])).collect();
    let mut values = std::collections::BTreeSet::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty());
        values.insert(output.stdout);
    }
    assert_eq!(values.len(), 2, "one user name and one password");
    assert_eq!((made(&vault), vault.leases("database/creds/app")), (1, 1));
    let read = |file: &str| String::from_utf8(mount.read(&format!("db/{file}")).unwrap()).unwrap();
    assert_eq!(postgres.login(&read("username"), &read("password")), Ok(()));
}

/// What people and programs look with.
fn look_at(mount: &Mount) {
    let at = mount.path("");
    let shell = |line: &str| {
        run(Command::new("bash").args(["-c", line]).current_dir(&at));
    };
    shell("find . -type f | wc -l");
    shell("ls -lR > /dev/null");
    shell("du -s . > /dev/null");
    shell(
        "shopt -s globstar; for file in **; do compgen -f \"$file\" > /dev/null; done; stat -- */* > /dev/null",
    );
}

#[test]
fn looking_makes_no_credential_and_a_copy_makes_only_the_declared_ones() {
    let (vault, postgres) = servers!();
    for role in ["app", "other"] {
        database_role(&vault, &postgres, "database", role, "1h", "2h");
        database_role(&vault, &postgres, "undeclared", role, "1h", "2h");
    }
    vault.kv_put("secret", "plain", json!({"value": "canary-plain"}));
    let trees = "[[tree]]\npath = \"/all\"\nbackend = \"v\"\n\
                 [[tree]]\npath = \"/roles\"\nbackend = \"v\"\nsource = \"database/creds\"\n";
    let mount = mount_with(&vault, "", &format!("{DECLARED}{trees}")).start();
    look_at(&mount);
    assert_eq!(mount.ls("roles").unwrap(), ["app", "other"]);
    assert_eq!(mount.ls("roles/app").unwrap(), ["password", "username"]);
    assert_eq!(mount.ls("all").unwrap(), ["secret"]);
    for undeclared in ["all/undeclared/creds/app/password", "all/database/creds/app/password"] {
        let error = mount.read(undeclared).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{undeclared}");
    }
    let credentials = |vault: &Vault| {
        let asked = vault.audit_requests().into_iter();
        asked.filter(|(_, path)| path.contains("/creds/")).collect::<Vec<_>>()
    };
    assert_eq!(credentials(&vault), []);
    assert_eq!(postgres.roles(), Vec::<String>::new());
    let copy = tempfile::tempdir().unwrap();
    run(Command::new("cp").arg("-r").arg(mount.path("")).arg(copy.path().join("copy")));
    let mut copied: Vec<String> = credentials(&vault).into_iter().map(|(_, path)| path).collect();
    copied.sort();
    // `/db` and `/roles/app` show one lease.
    assert_eq!(copied, ["database/creds/app", "database/creds/other"]);
    let pair = |at: &str| {
        let read =
            |file: &str| std::fs::read_to_string(copy.path().join("copy").join(at).join(file)).unwrap();
        (read("username"), read("password"))
    };
    assert_eq!(pair("db"), pair("roles/app"));
    let (user, password) = pair("roles/other");
    assert_eq!(postgres.login(&user, &password), Ok(()));
}

#[test]
fn naming_an_engine_is_declaring_it() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "1h", "2h");
    let environment = [("VAULT_ADDR", vault.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)];
    for (source, role) in [("vault:database/creds", "app"), ("vault:database", "creds/app")] {
        let mut mount = Mount::of(source).envs(environment).start();
        look_at(&mount);
        assert_eq!(vault.leases("database/creds/app"), 0, "{source}");
        let read = |file: &str| String::from_utf8(mount.read(&format!("{role}/{file}")).unwrap()).unwrap();
        assert_eq!(postgres.login(&read("username"), &read("password")), Ok(()), "{source}");
        assert_eq!(mount.stop(), Some(0));
        assert_eq!(postgres.roles(), Vec::<String>::new());
    }
}

#[test]
fn a_watching_program_is_told_of_a_new_lease_and_the_old_one_works_until_its_end() {
    let (vault, postgres) = servers!();
    database_role(&vault, &postgres, "database", "app", "1h", "2h");
    let mount = mount_with(&vault, "", DECLARED).start();
    let read = |file: &str| String::from_utf8(mount.read(file).unwrap()).unwrap();
    let (user, password) = (read("db/username"), read("db/password"));
    let held = std::fs::File::open(mount.path("db/username")).unwrap();
    run(crate::support::mount::secretfs().arg("refresh").arg(mount.path("db")));
    assert_ne!(read("db/username"), user);
    assert_eq!(
        (read("db/.previous/username"), read("db/.previous/password")),
        (user.clone(), password.clone())
    );
    assert_eq!(std::io::read_to_string(held).unwrap(), user, "an open file keeps its lease");
    assert_eq!(postgres.login(&user, &password), Ok(()));
    assert_eq!(postgres.login(&read("db/username"), &read("db/password")), Ok(()));
    run(crate::support::mount::secretfs().arg("revoke").arg(mount.path("db")));
    wait_until("both users are gone", || postgres.roles().is_empty());
    assert!(mount.read("db/.previous/username").is_err());
    assert_eq!(vault.leases("database/creds/app"), 0);
}
