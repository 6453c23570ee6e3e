//! Owns that what docs/vault.md takes from Vault's default policy is needed, right by right, by a token that does not have it.
//! Does not know the other policies of the page.

use std::time::{Duration, Instant};

use serde_json::json;

use super::page::{each_right_left_out, sections};
use crate::leases::mount_with;
use crate::support::available;
use crate::support::mount::{Mount, possible};
use crate::support::postgres::{Postgres, database_role};
use crate::support::vault::Vault;

/// The page's block.
pub const POLICY: &str = "without-default.hcl";

/// What came of a mount whose token has no default policy.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// A lease of six seconds is the same after nine.
    renewed: bool,
    /// After half of its life it is known that a lease of half a minute was ended by somebody else.
    noticed: bool,
    /// A token of ten seconds is good for new leases after fourteen.
    kept: bool,
}

#[test]
fn a_token_without_the_default_policy_needs_every_right_that_the_page_takes_from_it() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(vault) = available("vault", Vault::start_with_plugins()) else { return };
    let Some(postgres) = available("postgres", Postgres::start()) else { return };
    let sections = sections();
    let mut blocks = sections.iter().flat_map(|section| &section.blocks).filter(|block| block.note == POLICY);
    let policy = &blocks.next().expect("the page has it").text;
    let all = Seen { renewed: true, noticed: true, kept: true };
    let (vault, postgres) = (&vault, &postgres);
    std::thread::scope(|scope| {
        let whole = scope.spawn(move || seen(vault, postgres, 0, policy));
        let lacking = each_right_left_out(policy).into_iter().zip(1..).map(|(without, number)| {
            (without.path.clone(), scope.spawn(move || seen(vault, postgres, number, &without.policy)))
        });
        for (path, lacks) in lacking.collect::<Vec<_>>() {
            let seen = lacks.join().unwrap();
            match &*path {
                "sys/leases/renew" => assert!(!seen.renewed && seen.kept, "{path}: {seen:?}"),
                "sys/leases/lookup" => assert_eq!(seen, Seen { noticed: false, ..all }, "{path}"),
                "auth/token/lookup-self" | "auth/token/renew-self" => assert!(!seen.kept, "{path}: {seen:?}"),
                _ => panic!("docs/vault.md: nothing tries {path}"),
            }
        }
        assert_eq!(whole.join().unwrap(), all);
    });
}

fn seen(vault: &Vault, postgres: &Postgres, number: usize, policy: &str) -> Seen {
    for (role, ttl) in [("short", "6s"), ("gone", "30s"), ("late", "30s")] {
        database_role(vault, postgres, &format!("database{number}"), role, ttl, "1h");
    }
    let own = format!(
        "path \"database{number}/creds/*\" {{ capabilities = [\"read\"] }}\n\
         path \"sys/leases/revoke\" {{ capabilities = [\"update\"] }}\n"
    );
    let name = format!("without-{number}");
    vault.must("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": own + policy }));
    let request = json!({"policies": [name], "no_default_policy": true, "ttl": "10s"});
    let answer = vault.must("POST", "auth/token/create", request);
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, answer["auth"]["client_token"].as_str().unwrap()).unwrap();
    let tree = format!(
        "[[secret]]\npath = \"/short\"\nbackend = \"v\"\nsource = \"database{number}/creds/short\"\n\
         [[secret]]\npath = \"/gone\"\nbackend = \"v\"\nsource = \"database{number}/creds/gone\"\n\
         [[secret]]\npath = \"/late\"\nbackend = \"v\"\nsource = \"database{number}/creds/late\"\n"
    );
    let mount = mount_with(vault, &format!("token_file = \"{}\"", token.display()), &tree).start();
    let user = |mount: &Mount, role: &str| mount.read(&format!("{role}/username"));
    let began = Instant::now();
    let until = |seconds| {
        std::thread::sleep((began + Duration::from_secs(seconds)).saturating_duration_since(Instant::now()))
    };
    let (short, gone) = (user(&mount, "short").unwrap(), user(&mount, "gone").unwrap());
    let prefix = format!("sys/leases/revoke-prefix/database{number}/creds/gone");
    // PostgreSQL refuses one of two that drop users at the same moment ("tuple concurrently updated").
    while vault.api("POST", &prefix, json!({"sync": true})).0 >= 300 {
        assert!(began.elapsed() < Duration::from_secs(8), "it cannot be revoked");
        std::thread::sleep(Duration::from_millis(100));
    }
    until(9);
    let renewed = user(&mount, "short").is_ok_and(|now| now == short);
    until(14);
    let kept = user(&mount, "late").is_ok();
    until(22);
    let noticed = user(&mount, "gone").is_ok_and(|now| now != gone);
    Seen { renewed, noticed, kept }
}
