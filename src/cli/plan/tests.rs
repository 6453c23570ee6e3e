//! Owns the checks of plans: what a SOURCE and a configuration become.
//! Does not know how a mount is made.

use super::*;
use crate::backend::issuer::Method;
use crate::backend::vault::{AppRole, RoleId};
use crate::config;

/// The plan of a file without anything on the command line.
fn planned(text: &str) -> Plan {
    let settings = config::parse(text, Path::new("/c")).unwrap().settings;
    let environment = Environment::default();
    plan(settings, &MountOptions::default(), "/c", "/mnt".into(), &environment).unwrap()
}

fn secret(path: &str, backend: &str, more: &str) -> String {
    format!("[[secret]]\npath = \"{path}\"\nbackend = \"{backend}\"\nsource = \"pki/issue/web\"\n{more}\n")
}

#[test]
fn each_way_of_asking_has_a_number() {
    let text =
        "[backend.a]\ntype = \"vault\"\n[backend.b]\ntype = \"vault\"\nmax_leases = 3\nkeep_leases = true\n\
                [backend.c]\ntype = \"aws\"\n"
            .to_owned()
            + &secret("/plain", "a", "")
            + &secret("/one", "a", "parameters = { common_name = \"a\", ttl = 5 }")
            + &secret("/same", "a", "parameters = { ttl = 5, common_name = \"a\" }")
            + &secret("/other", "a", "parameters = { ttl = 5, common_name = \"b\" }")
            + &secret("/method", "a", "method = \"write\"")
            + &secret("/elsewhere", "b", "method = \"write\"")
            + "[[tree]]\npath = \"/tree\"\nbackend = \"a\"\nsource = \"pki\"\nmethod = \"write\"\n\
           [[tree]]\npath = \"/cloud\"\nbackend = \"c\"\n";
    let plan = planned(&text);
    let numbers: Vec<_> =
        plan.trees.iter().map(|tree| (tree.at.join("/"), tree.shows, tree.root.demand.0)).collect();
    let number = |at: &str, shows, number| (at.to_owned(), shows, number);
    assert_eq!(
        numbers,
        [
            number("tree", Shows::Place, 1),
            number("cloud", Shows::Place, 0),
            number("plain", Shows::Secret, 0),
            number("one", Shows::Secret, 2),
            number("same", Shows::Secret, 2),
            number("other", Shows::Secret, 3),
            number("method", Shows::Secret, 1),
            number("elsewhere", Shows::Secret, 4),
        ]
    );
    let methods: Vec<_> = plan.demands.iter().map(|demand| demand.method).collect();
    assert_eq!(methods, [Method::Write, Method::Auto, Method::Auto, Method::Write]);
    let common_names: Vec<_> =
        plan.demands.iter().map(|demand| demand.parameters.get("common_name").cloned()).collect();
    assert_eq!(common_names, [None, Some("a".into()), Some("b".into()), None]);
    assert_eq!(plan.trees[3].root, plan.trees[4].root, "one lease");
    let default = leases::Limits::default();
    let own = leases::Limits { max_leases: 3, keep_leases: true };
    assert_eq!(plan.lease_limits, [default, own, default]);
}

#[test]
fn a_secret_becomes_a_tree_of_its_own() {
    let more = "fields = [\"certificate\", \"private_key\"]\noverlap = \"1h\"\nidle_revoke = \"2h\"\nmode = \"0440\"\nowner = 7";
    let text = format!("[backend.a]\ntype = \"vault\"\n{}", secret("/tls/web", "a", more));
    let tree = planned(&text).trees.remove(0);
    assert_eq!((tree.at.join("/"), tree.root.path.joined()), ("tls/web".into(), "pki/issue/web".into()));
    assert_eq!(tree.fields.as_deref(), Some(&["certificate".to_owned(), "private_key".to_owned()][..]));
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
    assert_eq!((tree.terms.overlap, tree.terms.idle_revoke), (hours(1), hours(2)));
    assert_eq!((tree.permissions.uid, tree.permissions.file_mode), (7, 0o440));
}

#[test]
fn a_login_of_the_file_wins_over_the_environment() {
    let text = "[backend.a]\ntype = \"vault\"\nauth = \"approle\"\nrole_id = \"r\"\n[[tree]]\npath = \"/\"\nbackend = \"a\"\n";
    let BackendPlan::Vault(config) = planned(text).backends.remove(0).1 else { panic!("no Vault") };
    let login = AppRole { mount: "approle".into(), role_id: RoleId::Literal("r".into()), secret_id: None };
    assert!(matches!(config.token, TokenSource::AppRole(found) if found == login));
}

#[test]
fn sources_are_what_the_manual_says() {
    let of = |source: &str| settings_of(source, &KeyOptions::default());
    let tree = |source: &str| of(source).unwrap().trees.remove(0).source.joined();
    assert_eq!(tree("vault:"), "");
    assert_eq!(tree("vault:secret/team/"), "secret/team");
    assert_eq!(tree("vault:/secret"), "secret");
    assert_eq!(tree("aws:"), "");
    assert_eq!(tree("aws:/prod/app"), "/prod/app");
    assert_eq!(tree("store:relative.age"), "");
    for wrong in ["secret", "store:", "gcp:x", ""] {
        assert!(of(wrong).unwrap_err().to_string().contains("is no source"), "{wrong}");
    }
}
