//! Owns the checks of `[[secret]]`, and of what a `[[tree]]` says of secrets made on demand.
//! Does not know how a secret is made.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::backend::issuer::{Demand, Method};
use crate::config::parse;
use crate::config::tests::errors;
use crate::lease::Terms;

/// Backends, in the lines 1 to 4.
const BACKENDS: &str = "[backend.prod]\ntype = \"vault\"\n[backend.cloud]\ntype = \"aws\"\n";
/// The smallest secret without mistakes, in the lines 5 to 8.
const SMALLEST: &str = "[[secret]]\npath = \"/app\"\nbackend = \"prod\"\nsource = \"database/creds/app\"\n";

fn read(text: &str) -> Vec<SecretSettings> {
    let loaded = parse(&format!("{BACKENDS}{text}"), Path::new("c")).unwrap();
    let about_cloud = "c:3: no [[tree]] or [[secret]] uses [backend.cloud]; add one, or remove the backend";
    assert_eq!(loaded.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), [about_cloud]);
    loaded.settings.secrets
}

fn told(text: &str) -> String {
    errors(&format!("{BACKENDS}{text}")).replace("config.toml:", "")
}

#[test]
fn a_secret_alone_makes_a_mount() {
    let on_demand = OnDemandSettings {
        demand: Demand { method: Method::Auto, parameters: serde_json::Map::new() },
        fields: None,
        terms: Terms { overlap: None, idle_revoke: None },
    };
    assert_eq!(
        read(&format!("[mount]\nmode = \"0444\"\nuid = 5\n{SMALLEST}")),
        [SecretSettings {
            path: vec!["app".into()],
            backend: "prod".into(),
            source: BackendPath::parse("database/creds/app").unwrap(),
            on_demand,
            mode: 0o444,
            owner: Some(5),
            group: None,
        }]
    );
    assert!(parse(&format!("tree = []\n{BACKENDS}{SMALLEST}"), Path::new("c")).is_ok());
}

#[test]
fn parameters_are_what_the_engine_is_told() {
    let expected = json!({
        "common_name": "web.example",
        "csr": "-----BEGIN\nline\n",
        "days": -3,
        "exclude_cn_from_sans": true,
        "alt_names": ["a", "b"],
        "none": [],
    });
    let expected = expected.as_object().unwrap();
    let inline = "parameters = { common_name = \"web.example\", csr = \"-----BEGIN\\nline\\n\", days = -3, \
                  exclude_cn_from_sans = true, alt_names = [\"a\", \"b\"], none = [] }\n";
    let table = "[secret.parameters]\ncommon_name = 'web.example'\ncsr = \"\"\"-----BEGIN\nline\n\"\"\"\ndays = -3\n\
                 exclude_cn_from_sans = true\nalt_names = ['a', 'b']\nnone = []\n";
    for spelling in [inline, table] {
        let read = read(&format!("{SMALLEST}{spelling}")).remove(0);
        assert_eq!(&read.on_demand.demand.parameters, expected);
    }
}

#[test]
fn a_tree_says_the_same_of_all_secrets_in_it() {
    let text = format!(
        "{BACKENDS}[[tree]]\npath = \"/db\"\nbackend = \"prod\"\nsource = \"database/creds\"\nmethod = \"read\"\n\
         fields = [\"username\", \"password\"]\noverlap = \"30s\"\nidle_revoke = \"2h\"\n[tree.parameters]\nttl = 5\n"
    );
    let on_demand = parse(&text, Path::new("c")).unwrap().settings.trees.remove(0).on_demand;
    let parameters = json!({ "ttl": 5 }).as_object().unwrap().clone();
    assert_eq!(on_demand.demand, Demand { method: Method::Read, parameters });
    assert_eq!(on_demand.fields, Some(vec!["username".to_owned(), "password".to_owned()]));
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    assert_eq!(on_demand.terms, Terms { overlap: seconds(30), idle_revoke: seconds(7200) });
}

#[test]
fn patterns_that_lead_to_a_secret_lead_somewhere() {
    let warnings = |path: &str| {
        let more = format!(
            "[[hook]]\npath = \"{path}\"\nreload = \"a.service\"\n[[freshness]]\npath = \"{path}\"\nttl = \"5s\"\n"
        );
        let text = format!("{BACKENDS}{SMALLEST}[[tree]]\npath = \"/cloud\"\nbackend = \"cloud\"\n{more}");
        parse(&text, Path::new("c")).unwrap().warnings
    };
    for good in ["/app", "/app/password", "/app/*", "/*", "/**"] {
        assert_eq!(warnings(good), [], "{good}");
    }
    let told: Vec<_> = warnings("/ap").iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "c:12: no [[tree]] or [[secret]] is where the `path` of this [[hook]] leads; it is about nothing",
            "c:16: no [[tree]] or [[secret]] is where the `path` of this [[freshness]] leads; it is about nothing",
        ]
    );
}

#[test]
fn mistakes_have_line_key_and_what_to_do() {
    let of = |key: &str| format!("`{key}` in [[secret]]");
    let parameter = "expected a string, an integer, a boolean or an array of strings";
    let smallest_but = |key: &str, line: &str| {
        let lines = SMALLEST.lines().map(|known| if known.starts_with(key) { line } else { known });
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let with = |line: &str| format!("{SMALLEST}{line}\n");
    let source = "expected the path of a role such as \"database/creds/app\", the engine first, without empty, `.` or `..` segments";
    for (text, expected) in [
        (
            "[[secret]]\n".into(),
            "5: missing key `path` in [[secret]]; add it\n5: missing key `backend` in [[secret]]; add it\n\
             5: missing key `source` in [[secret]]; add it"
                .to_owned(),
        ),
        (
            smallest_but("backend", "backend = \"cloud\""),
            format!(
                "7: {}: only a backend of type `vault` makes secrets on demand; name one, or write a [[tree]]",
                of("backend")
            ),
        ),
        (
            smallest_but("backend", "backend = \"prd\""),
            format!(
                "7: {}: the file has no [backend.NAME] of this name; did you mean `prod`?",
                of("backend")
            ),
        ),
        (
            smallest_but("source", "source = \"\""),
            format!("8: {}: this is empty; give a value, or remove the key", of("source")),
        ),
        (smallest_but("source", "source = \"/\""), format!("8: {}: {source}", of("source"))),
        (smallest_but("source", "source = \"/canary/a\""), format!("8: {}: {source}", of("source"))),
        (smallest_but("source", "source = \"a/../canary\""), format!("8: {}: {source}", of("source"))),
        (
            with("method = \"wirte\""),
            format!("9: {}: expected one of `read`, `write`; did you mean `write`?", of("method")),
        ),
        (
            with("ttl = \"5s\""),
            "9: unknown key `ttl` in [[secret]]; valid here: `path`, `backend`, `source`, `method`, \
                                `parameters`, `fields`, `overlap`, `idle_revoke`, `mode`, `owner`, `group`"
                .into(),
        ),
        (
            with("parameters = { a = { b = \"canary\" } }"),
            format!("9: {}: `a` is an inline table; {parameter}", of("parameters")),
        ),
        (
            with("[secret.parameters]\nx = 1\n[secret.parameters.a]\nb = \"canary\""),
            format!("11: {}: `a` is a table; {parameter}", of("parameters")),
        ),
        (
            with("[secret.parameters]\n\na = 1.5"),
            format!("11: {}: `a` is a float; {parameter}", of("parameters")),
        ),
        (
            with("parameters.a = 1979-05-27"),
            format!("9: {}: `a` is a datetime; {parameter}", of("parameters")),
        ),
        (
            with("parameters = { a = [\"canary\", 1] }"),
            format!("9: {}: `a` is an array of something else; {parameter}", of("parameters")),
        ),
        (
            with("parameters = \"canary\""),
            format!(
                "9: {}: expected a table such as {{ common_name = \"web.example\", ttl = \"24h\" }}, found a string",
                of("parameters")
            ),
        ),
        (
            with("fields = []"),
            format!("9: {}: this is empty; name at least one field, or remove the key", of("fields")),
        ),
        (
            with("fields = [\"canary\", \"\"]"),
            format!("9: {}: a field's name is not empty; remove the empty string", of("fields")),
        ),
        (
            with("fields = [\"canary\", \"canary\"]"),
            format!("9: {}: a name is there twice; remove one of the two", of("fields")),
        ),
        (
            with("fields = [\"canary\", 1]"),
            format!(
                "9: {}: expected an array of names in quotes, such as [\"username\", \"password\"]; found an integer in it",
                of("fields")
            ),
        ),
        (
            with("overlap = 0"),
            format!(
                "9: {}: expected a duration such as \"60s\" or \"1h 30m\", found an integer",
                of("overlap")
            ),
        ),
        (
            with("idle_revoke = \"0s\""),
            format!("9: {}: expected a duration longer than zero and at most 365 days", of("idle_revoke")),
        ),
        (String::new(), "1: missing table [[tree]] or [[secret]]; add one with `path` and `backend`".into()),
        (
            "[secret]\npath = \"/\"".into(),
            "5: `secret`: expected [[secret]] (two brackets on each side), found a table".into(),
        ),
    ] {
        assert_eq!(told(&text), expected, "{text}");
    }
    assert_eq!(
        errors(&format!("secret = []\ntree = []\n{BACKENDS}")),
        "config.toml:1: `secret` is empty; add a [[secret]] with `path` and `backend`\n\
         config.toml:2: `tree` is empty; add a [[tree]] with `path` and `backend`"
    );
}

#[test]
fn only_vault_makes_secrets_on_demand() {
    let tree = "[[tree]]\npath = \"/cloud\"\nbackend = \"cloud\"\n";
    for line in [
        "method = \"read\"",
        "parameters = { a = \"canary\" }",
        "fields = [\"a\"]",
        "overlap = \"5s\"",
        "idle_revoke = \"5s\"",
    ] {
        let key = line.split(' ').next().unwrap();
        assert_eq!(
            told(&format!("{tree}{line}\n")),
            format!(
                "8: `{key}` in [[tree]]: only a backend of type `vault` makes secrets on demand; remove it"
            )
        );
    }
}

#[test]
fn trees_and_secrets_stand_apart() {
    let secret = |path: &str| {
        format!("[[secret]]\npath = \"{path}\"\nbackend = \"prod\"\nsource = \"database/creds/app\"\n")
    };
    let tree = |path: &str| format!("[[tree]]\npath = \"{path}\"\nbackend = \"prod\"\n");
    let of = |what: &str| format!("`path` in [[{what}]]");
    for (text, expected) in [
        (
            secret("/a") + &tree("/a"),
            format!("10: {}: this is the same as the path of the secret in line 6", of("tree")),
        ),
        (
            tree("/a") + &secret("/a/b"),
            format!("9: {}: this lies inside the path of the tree in line 6", of("secret")),
        ),
        (
            tree("/a/b") + &secret("/a"),
            format!("9: {}: this contains the path of the tree in line 6", of("secret")),
        ),
        (
            secret("/a/b") + &tree("/a"),
            format!("10: {}: this contains the path of the secret in line 6", of("tree")),
        ),
        (
            secret("/a") + &secret("/a/b"),
            format!("10: {}: this lies inside the path of the secret in line 6", of("secret")),
        ),
    ] {
        assert_eq!(told(&text), format!("{expected}; choose another"));
    }
    // The same lease at two places, and names that only begin alike.
    assert_eq!(read(&(secret("/a") + &secret("/ab") + &tree("/b"))).len(), 2);
}
