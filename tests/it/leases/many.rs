//! Owns what two hundred leases at once promise: none is served past its end, and renewing them is a flow.
//! Does not know what one lease promises.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime};

use super::database::servers;
use super::{drill, mount_with};
use crate::support::available;
use crate::support::mount::possible;
use crate::support::postgres::{Postgres, database_role};
use crate::support::vault::Vault;

const ROLES: usize = 200;
/// Of each lease.
const LIFE: u64 = 60;

/// Every user that Vault has made, and whether it may log in now.
fn users(client: &mut postgres::Client) -> HashMap<String, bool> {
    let rows = client
        .query("SELECT rolname::text, rolvaliduntil > now() FROM pg_roles WHERE rolname LIKE 'v-%'", &[]);
    rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn two_hundred_leases_are_never_served_past_their_end_and_are_renewed_in_a_flow() {
    let (vault, postgres) = servers!();
    for role in 0..ROLES {
        database_role(&vault, &postgres, "database", &format!("app-{role}"), "60s", "24h");
    }
    let trees = "[[tree]]\npath = \"/\"\nbackend = \"v\"\nsource = \"database/creds\"\n";
    let mut mount = mount_with(&vault, "", trees).start();
    let read = |role: usize| mount.read(&format!("app-{role}/username"));
    for role in 0..ROLES {
        read(role).unwrap();
    }
    let time = drill(3 * 60, 10 * 60);
    let (began, wall) = (Instant::now(), SystemTime::now());
    let mut client = postgres.superuser();
    let (mut samples, mut bad) = (0_usize, BTreeMap::new());
    while began.elapsed() < time {
        let next = Instant::now() + Duration::from_millis(100);
        let shown: Vec<_> = (0..ROLES).map(read).collect();
        let users = users(&mut client);
        for shown in shown {
            let state = match shown {
                Ok(name) => users.get(&String::from_utf8(name).unwrap()).copied(),
                Err(error) => panic!("{error}"),
            };
            samples += 1;
            match state {
                Some(true) => {}
                Some(false) => *bad.entry("expired").or_insert(0) += 1,
                None => *bad.entry("gone").or_insert(0) += 1,
            }
        }
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    assert!(bad.is_empty(), "{bad:?} of {samples}");
    assert!(samples / ROLES > 100, "only {samples} samples");
    let mut renewals = vault.audit_times("sys/leases/renew");
    renewals.retain(|at| *at >= wall);
    // Two thirds of a life after the last time.
    let theory = ROLES as u64 * time.as_secs() * 3 / (2 * LIFE);
    assert!(renewals.len() as u64 * 10 <= theory * 12, "{} renewals, in theory {theory}", renewals.len());
    assert!(renewals.len() as u64 * 10 >= theory * 5, "{} renewals, in theory {theory}", renewals.len());
    let mut seconds: BTreeMap<u64, usize> = BTreeMap::new();
    for at in &renewals {
        *seconds.entry(at.duration_since(wall).unwrap().as_secs()).or_default() += 1;
    }
    let most = seconds.values().max().copied().unwrap_or_default();
    let mean = renewals.len() as f64 / time.as_secs() as f64;
    assert!(most as f64 <= 3.0 * mean, "{most} renewals in one second, {mean:.1} in the mean");
    println!(
        "{samples} samples; {} renewals, in theory {theory}; at most {most} a second, mean {mean:.1}",
        renewals.len()
    );
    assert_eq!(mount.stop(), Some(0));
    assert_eq!(postgres.roles(), Vec::<String>::new());
}
