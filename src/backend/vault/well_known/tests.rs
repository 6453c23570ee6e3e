//! Owns the tests of what is known of engines.
//! Does not know a server.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn spot(kind: &str, rest: &str) -> Spot {
    engine(kind).unwrap().spot(&BackendPath::parse(rest).unwrap())
}

#[test]
fn an_engine_shows_its_folders_and_a_folder_its_roles() {
    assert_eq!(spot("database", ""), Spot::Above(vec!["creds", "static-creds"]));
    let roles = Spot::Roles { roles: &["static-roles"], leaves: vec![] };
    assert_eq!(spot("database", "static-creds"), roles);
    assert_eq!(spot("pki", ""), Spot::Above(vec!["issue"]), "what needs a request is not shown");
    assert_eq!(spot("identity", ""), Spot::Above(vec!["oidc"]));
    assert_eq!(spot("identity", "oidc"), Spot::Above(vec!["token"]));
    assert_eq!(spot("identity", "oidc/token"), Spot::Roles { roles: &["oidc", "role"], leaves: vec![] });
    let leaves = vec!["token", "key"];
    assert_eq!(spot("gcp", "roleset"), Spot::Roles { roles: &["rolesets"], leaves: leaves.clone() });
    assert_eq!(spot("gcp", "roleset/x"), Spot::Leaves(leaves));
    assert_eq!(spot("gcp", "impersonated-account/x"), Spot::Leaves(vec!["token"]));
}

#[test]
fn a_secret_is_where_the_documentation_has_it_and_nowhere_else() {
    for (kind, rest) in [
        ("database", "creds/a"),
        ("database", "static-creds/a"),
        ("ssh", "creds/a"),
        ("pki", "issue/a"),
        ("pki", "sign/a"),
        ("totp", "code/a"),
        ("identity", "oidc/token/a"),
        ("ns_identity", "oidc/token/a"),
        ("aws", "sts/a"),
        ("gcp", "roleset/a/token"),
        ("gcp", "static-account/a/key"),
        ("ldap", "static-cred/a"),
        ("kubernetes", "creds/a"),
    ] {
        assert!(matches!(spot(kind, rest), Spot::Secret(_)), "{kind} {rest}");
    }
    for (kind, rest) in [
        ("database", "config/pg"),
        ("database", "rotate-root/pg"),
        ("database", "creds/a/b"),
        ("pki", "root/generate/internal"),
        ("pki", "sign"),
        ("totp", "keys/a"),
        ("identity", "oidc/role"),
        ("gcp", "roleset/a/other"),
        ("gcp", "impersonated-account/a/key"),
    ] {
        assert_eq!(spot(kind, rest), Spot::Elsewhere, "{kind} {rest}");
    }
}

#[test]
fn what_keeps_secrets_makes_none() {
    for kind in ["kv", "generic", "cubbyhole", "system", "ns_cubbyhole", "ns_system"] {
        assert!(keeps(kind) && engine(kind).is_none(), "{kind}");
    }
    for kind in ["identity", "ns_identity", "database", "something-new", ""] {
        assert!(!keeps(kind), "{kind}");
    }
}

#[test]
fn each_engine_is_there_once_and_each_folder_can_be_told_from_the_others() {
    for (at, engine) in ENGINES.iter().enumerate() {
        assert!(ENGINES[..at].iter().all(|other| other.kind != engine.kind), "{}", engine.kind);
        for (at, folder) in engine.folders.iter().enumerate() {
            let others = &engine.folders[..at];
            assert!(others.iter().all(|other| (other.at, other.leaf) != (folder.at, folder.leaf)));
            assert!(!folder.at.is_empty() && !folder.fields.is_empty());
            assert_ne!(folder.method, Method::Auto);
        }
    }
}
