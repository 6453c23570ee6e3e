//! Owns what a mount of a real Vault promises: values, engines, ends of versions, permissions, one read for a crowd.
//! Does not know hostile names or faults; those have files of their own.

use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::fake::Fake;
use crate::support::mount::{Mount, Plan, possible, run, secretfs, wait_until};
use crate::support::vault::{ROOT_TOKEN, Vault};
use crate::support::{available, fake_vault, free_port};

/// The shared server where a mount is possible, or the end of the test.
macro_rules! shared {
    () => {
        match available("mount", possible()).and_then(|()| available("vault", Vault::shared())) {
            Some(server) => server,
            None => return,
        }
    };
}

/// A mount of `source` with what a user of the vault command line has in the environment.
fn mount(server: &Vault, source: &str, token: &str) -> Plan {
    Mount::of(source).envs([("VAULT_ADDR", server.address.as_str()), ("VAULT_TOKEN", token)])
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap())
}

fn explain(path: &Path) -> String {
    String::from_utf8(run(secretfs().arg("explain").arg(path)).stdout).unwrap()
}

/// What the issue asks for, word for word, and the shapes of values beside it.
fn shows_what_was_put(mount: &Mount, engine: &str) {
    let read = |path: &str| mount.read(&format!("{engine}{path}")).unwrap();
    assert_eq!(read("api-key/value"), b"12345");
    assert_eq!(read("deep/er/est/leaf/k"), b"canary-deep");
    let big = "canary-".repeat(300 * 1024 / 7 + 1);
    assert_eq!(read("shapes/big"), big.as_bytes());
    assert_eq!(mount.path(&format!("{engine}shapes/big")).metadata().unwrap().len(), big.len() as u64);
    assert_eq!(read("shapes/binary"), base64_of_every_byte().as_bytes());
    assert_eq!(read("shapes/number"), b"12345");
    assert_eq!(read("shapes/object"), br#"{"a":[1,null]}"#);
    assert_eq!(mount.ls(&format!("{engine}deep/er")).unwrap(), ["est"]);
    assert_eq!(mount.ls(&format!("{engine}api-key")).unwrap(), ["value"]);
    assert_eq!(read("api-key/.json"), b"{\"value\":\"12345\"}\n");
}

fn put_what_is_shown(server: &Vault, engine: &str) {
    server.cli(&["kv", "put", &format!("{engine}/api-key"), "value=12345"]);
    server.kv_put(engine, "deep/er/est/leaf", json!({"k": "canary-deep"}));
    let big = "canary-".repeat(300 * 1024 / 7 + 1);
    let shapes =
        json!({"big": big, "binary": base64_of_every_byte(), "number": 12345, "object": {"a": [1, null]}});
    server.kv_put(engine, "shapes", shapes);
}

fn base64_of_every_byte() -> String {
    base64::prelude::BASE64_STANDARD.encode((0..=255).collect::<Vec<u8>>())
}

#[test]
fn kv_put_and_cat_are_the_same_five_bytes_on_both_versions_and_from_both_roots() {
    let server = shared!();
    server.enable_kv("plain1", 1);
    // `secret` is version 2, as every dev server has it.
    for engine in ["secret", "plain1"] {
        put_what_is_shown(server, engine);
        let one = mount(server, &format!("vault:{engine}"), ROOT_TOKEN).start();
        shows_what_was_put(&one, "");
        let all = mount(server, "vault:", ROOT_TOKEN).start();
        assert!(all.ls("").unwrap().contains(&engine.to_owned()));
        shows_what_was_put(&all, &format!("{engine}/"));
        let below = mount(server, &format!("vault:{engine}/deep/er"), ROOT_TOKEN).start();
        assert_eq!(below.ls("").unwrap(), ["est"]);
        assert_eq!(below.read("est/leaf/k").unwrap(), b"canary-deep");
        let cat = run(Command::new("cat").arg(one.path("api-key/value")));
        assert_eq!(cat.stdout, b"12345");
    }
}

#[test]
fn tls_with_a_private_ca_is_the_same() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(server) = available("vault", Vault::start_tls()) else { return };
    put_what_is_shown(&server, "secret");
    let ca = server.ca.clone().unwrap();
    let good = mount(&server, "vault:secret", ROOT_TOKEN).envs([("VAULT_CACERT", &ca)]).start();
    shows_what_was_put(&good, "");
    let bad = mount(&server, "vault:secret", ROOT_TOKEN).start();
    assert_eq!(errno(bad.read("api-key/value")), libc::EIO);
    assert!(bad.log().contains("VAULT_CACERT"), "{}", bad.log());
    assert!(explain(&bad.path("api-key")).contains("VAULT_CACERT"));
}

#[test]
fn the_token_file_of_vault_login_and_the_variables_of_openbao_work() {
    let server = shared!();
    server.enable_kv("login", 2);
    server.kv_put("login", "a", json!({"k": "canary-login"}));
    let home = tempfile::tempdir().unwrap();
    let by_file = Mount::of("vault:login")
        .envs([("VAULT_ADDR", Path::new(&server.address)), ("HOME", home.path())])
        .start();
    // A mount is ready before somebody logs in.
    assert_eq!(errno(by_file.read("a/k")), libc::EIO);
    assert!(by_file.log().contains("vault login"), "{}", by_file.log());
    std::fs::write(home.path().join(".vault-token"), ROOT_TOKEN).unwrap();
    assert_eq!(by_file.read("a/k").unwrap(), b"canary-login");
    let bao = Mount::of("vault:login").envs([
        ("BAO_ADDR", server.address.as_str()),
        ("BAO_TOKEN", ROOT_TOKEN),
        ("VAULT_ADDR", "http://127.0.0.1:1"),
    ]);
    assert_eq!(bao.start().read("a/k").unwrap(), b"canary-login");
}

#[test]
fn the_namespace_is_sent_with_every_request() {
    let Some(()) = available("mount", possible()) else { return };
    let fake = Fake::start(|request| match fake_vault::asked(request) {
        (path, false) if path[0] == "sys" => fake_vault::kv2("kv"),
        (_, true) => fake_vault::keys(&["a".into()]),
        _ => fake_vault::secret(&json!({"k": "canary-namespace"})),
    });
    let mount = Mount::of("vault:kv").envs([
        ("VAULT_ADDR", fake.endpoint().as_str()),
        ("VAULT_TOKEN", "canary-token"),
        ("VAULT_NAMESPACE", "team/sub/"),
    ]);
    assert_eq!(mount.start().read("a/k").unwrap(), b"canary-namespace");
    let requests = fake.requests();
    assert!(requests.len() >= 3);
    for request in requests {
        assert_eq!(request.header("x-vault-namespace"), Some("team/sub"), "{}", request.target);
        assert_eq!(request.header("x-vault-token"), Some("canary-token"));
    }
}

#[test]
fn a_deleted_or_destroyed_version_is_gone_and_one_that_ends_later_is_not() {
    let server = shared!();
    server.enable_kv("gone", 2);
    for name in ["deleted", "destroyed", "kept", "later", "soon"] {
        let after = if name == "soon" { "3s" } else { "1h" };
        if ["later", "soon"].contains(&name) {
            server.must("POST", &format!("gone/metadata/{name}"), json!({"delete_version_after": after}));
        }
        server.kv_put("gone", name, json!({"k": format!("canary-{name}")}));
    }
    server.cli(&["kv", "delete", "-mount=gone", "deleted"]);
    server.cli(&["kv", "destroy", "-mount=gone", "-versions=1", "destroyed"]);
    let mount = mount(server, "vault:gone", ROOT_TOKEN).arg("--ttl").arg("1h").start();
    assert_eq!(mount.read("soon/k").unwrap(), b"canary-soon");
    for name in ["deleted", "destroyed", "never"] {
        assert_eq!(errno(mount.read(&format!("{name}/k"))), libc::ENOENT, "{name}");
        assert_eq!(errno(mount.read(&format!("{name}/.json"))), libc::ENOENT, "{name}");
    }
    for name in ["kept", "later"] {
        assert_eq!(mount.read(&format!("{name}/k")).unwrap(), format!("canary-{name}").as_bytes());
    }
    // Its end counts although the TTL is an hour.
    wait_until("the end of a version", || errno(mount.read("soon/k")) == libc::ENOENT);
}

#[test]
fn a_deletion_and_a_new_version_are_seen_after_the_ttl() {
    let server = shared!();
    server.enable_kv("turns", 2);
    server.kv_put("turns", "a", json!({"k": "canary-1"}));
    let mount = mount(server, "vault:turns", ROOT_TOKEN).arg("--ttl").arg("200ms").start();
    assert_eq!(mount.read("a/k").unwrap(), b"canary-1");
    server.kv_put("turns", "a", json!({"k": "canary-2-longer"}));
    wait_until("the second version", || mount.read("a/k").unwrap() == b"canary-2-longer");
    server.must("DELETE", "turns/data/a", Value::Null);
    wait_until("the deletion", || errno(mount.read("a/k")) == libc::ENOENT);
    server.must("POST", "turns/undelete/a", json!({"versions": [2]}));
    wait_until("the return", || mount.read("a/k").is_ok_and(|value| value == b"canary-2-longer"));
}

#[test]
fn without_list_permission_a_known_path_opens_and_all_else_is_refused() {
    let server = shared!();
    for (engine, version, data) in [("shy1", 1, ""), ("shy2", 2, "data/")] {
        server.enable_kv(engine, version);
        server.kv_put(engine, "mine", json!({"k": "canary-mine"}));
        server.kv_put(engine, "team/a/mine", json!({"k": "canary-deep"}));
        server.kv_put(engine, "other", json!({"k": "canary-other"}));
        let rule = |path: &str| format!("path \"{engine}/{data}{path}\" {{ capabilities = [\"read\"] }}\n");
        let token = server.policy_token(&(rule("mine") + &rule("team/a/mine")));
        let mount = mount(server, &format!("vault:{engine}"), &token).start();
        assert_eq!(errno(mount.ls("")), libc::EACCES, "v{version}");
        assert_eq!(mount.read("mine/k").unwrap(), b"canary-mine");
        assert_eq!(mount.ls("mine").unwrap(), ["k"], "what it holds is known");
        assert_eq!(mount.read("team/a/mine/k").unwrap(), b"canary-deep");
        assert_eq!(errno(mount.read("mine/absent")), libc::ENOENT);
        for refused in ["other/k", "other/.json", "other", "nothing/there", "team/a/other/k"] {
            assert_eq!(errno(mount.read(refused)), libc::EACCES, "{refused}, v{version}");
        }
        assert_eq!(errno(mount.ls("team")), libc::EACCES);
        assert!(explain(&mount.at).contains("readable: no: EACCES"), "{}", explain(&mount.at));
        assert!(explain(&mount.path("other/k")).contains("EACCES"), "{}", explain(&mount.path("other/k")));
    }
}

#[test]
fn a_secret_and_a_folder_of_one_name_are_one_directory() {
    let server = shared!();
    for (engine, version) in [("merge1", 1), ("merge2", 2)] {
        server.enable_kv(engine, version);
        server.kv_put(engine, "foo", json!({"own": "canary-own", "both": "canary-field"}));
        server.kv_put(engine, "foo/bar", json!({"k": "canary-bar"}));
        server.kv_put(engine, "foo/both", json!({"k": "canary-child"}));
        let mount = mount(server, &format!("vault:{engine}"), ROOT_TOKEN).start();
        assert_eq!(mount.ls("").unwrap(), ["foo"]);
        assert_eq!(mount.ls("foo").unwrap(), ["bar", "both", "own"]);
        assert_eq!(mount.read("foo/own").unwrap(), b"canary-own");
        assert_eq!(mount.read("foo/bar/k").unwrap(), b"canary-bar");
        assert_eq!(mount.read("foo/both/k").unwrap(), b"canary-child", "the directory wins");
        let whole: Value = serde_json::from_slice(&mount.read("foo/.json").unwrap()).unwrap();
        assert_eq!(whole["both"], "canary-field", "the field stays in the whole");
    }
}

#[test]
fn what_an_engine_does_beside_making_secrets_is_never_asked_for() {
    let server = shared!();
    server.must("POST", "sys/mounts/issuer", json!({"type": "pki"}));
    let mount = mount(server, "vault:issuer", ROOT_TOKEN).start();
    for path in ["ca/pem", "cert/ca", "crl/rotate", "crl/rotate/.json", "config/ca/x"] {
        assert!([libc::ENOENT, libc::EACCES].contains(&errno(mount.read(path))), "{path}");
    }
    let all = self::mount(server, "vault:", ROOT_TOKEN).start();
    assert!(!all.ls("").unwrap().contains(&"issuer".to_owned()));
    assert_eq!(errno(all.read("issuer/ca")), libc::ENOENT);
    let asked = server.audit_requests();
    assert!(asked.iter().any(|(_, path)| path.starts_with("sys/internal/ui/mounts/issuer")), "the log works");
    assert!(!asked.iter().any(|(what, path)| path.starts_with("issuer/") && what != "list"));
}

#[test]
fn fifty_programs_that_read_one_cold_secret_cost_one_read() {
    let server = shared!();
    server.enable_kv("crowd", 2);
    server.kv_put("crowd", "team/cold", json!({"k": "canary-cold", "other": "canary-other"}));
    let mount = mount(server, "vault:crowd", ROOT_TOKEN).start();
    let path = mount.path("team/cold/k");
    let before = server.audit_requests().len();
    let cats: Vec<_> = (0..50)
        .map(|_| Command::new("cat").arg(&path).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for cat in cats {
        let output = cat.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, b"canary-cold");
    }
    assert_eq!(mount.read("team/cold/other").unwrap(), b"canary-other");
    let requests = server.audit_requests().split_off(before);
    let count = |operation: &str, path: &str| {
        requests.iter().filter(|(o, p)| o == operation && p.trim_end_matches('/') == path).count()
    };
    assert_eq!(count("read", "crowd/data/team/cold"), 1);
    assert_eq!(count("list", "crowd/metadata"), 1);
    assert_eq!(count("list", "crowd/metadata/team"), 1);
}

#[test]
fn a_mount_is_ready_before_vault_is() {
    let Some(()) = available("mount", possible()) else { return };
    let port = free_port();
    let address = format!("http://127.0.0.1:{port}");
    let mount =
        Mount::of("vault:secret").envs([("VAULT_ADDR", address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)]);
    let mount = mount.start();
    assert_eq!(errno(mount.read("api-key/value")), libc::EIO);
    assert_eq!(errno(mount.ls("")), libc::EIO);
    assert!(mount.at.metadata().unwrap().is_dir());
    let Some(server) = available("vault", Vault::start_on(port)) else { return };
    server.kv_put("secret", "api-key", json!({"value": "12345"}));
    assert_eq!(mount.read("api-key/value").unwrap(), b"12345");
}
