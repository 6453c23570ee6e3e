//! Owns what is promised of a mount whose token dies: what is held is served, a login cures it, nothing of it is in the log.
//! Does not know how a token is kept.

use super::login::Role;
use super::*;
use crate::support::mount::{Mount, possible, wait_until};

#[test]
fn what_is_held_outlives_the_token_it_was_read_with() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let Some(()) = available("mount", possible()) else { return };
    server.enable_kv("outlives", 2);
    server.kv_put("outlives", "a", json!({"k": "canary-held"}));
    server.kv_put("outlives", "b", json!({"k": "canary-cold"}));
    let rule = "path \"outlives/*\" { capabilities = [\"read\", \"list\"] }";
    let token = server.policy_token(rule);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join(".vault-token");
    std::fs::write(&file, &token).unwrap();
    let mount = Mount::of("vault:outlives")
        .arg("--ttl")
        .arg("500ms")
        .envs([("VAULT_ADDR", server.address.as_str()), ("HOME", home.path().to_str().unwrap())]);
    let mount = mount.start();
    assert_eq!(mount.read("a/k").unwrap(), b"canary-held");
    server.must("POST", "auth/token/revoke", json!({ "token": token }));
    let cold = || mount.read("b/k").err().and_then(|error| error.raw_os_error());
    assert_eq!(cold(), Some(libc::EIO), "no answer, and no denial");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(mount.read("a/k").unwrap(), b"canary-held");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(mount.log().contains("vault login"), "{}", mount.log());
    std::fs::write(&file, server.policy_token(rule)).unwrap();
    wait_until("the new token is used", || mount.read("b/k").is_ok_and(|value| value == b"canary-cold"));
    server.kv_put("outlives", "a", json!({"k": "canary-new"}));
    wait_until("and what is held is asked for again", || mount.read("a/k").unwrap() == b"canary-new");
}

#[test]
fn a_mount_that_logs_in_reads_on_after_its_token_was_revoked_and_leaves_none_behind() {
    let Some(server) = available("vault", Server::shared()) else { return };
    let Some(()) = available("mount", possible()) else { return };
    let role = Role::new(server, "login-mount", json!({"token_ttl": "1h"}));
    role.client();
    let plan = Mount::of("");
    let config = plan.folder().join("config.toml");
    let text = format!(
        "[backend.v]\ntype = \"vault\"\naddress = \"{}\"\nauth = \"approle\"\nauth_mount = \"login-mount\"\n\
         role_id_file = \"{}\"\nsecret_id_file = \"{}\"\n\
         [[tree]]\npath = \"kv\"\nbackend = \"v\"\nsource = \"login-mount\"\n",
        server.address,
        role.folder.path().join("role").display(),
        role.secret_file().display(),
    );
    std::fs::write(&config, text).unwrap();
    let mut mount = plan.arg("--config").arg(config).arg("--ttl").arg("200ms").start();
    assert_eq!(mount.read("kv/a/k").unwrap(), b"canary");
    role.revoke_all();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert_eq!(mount.read("kv/a/k").unwrap(), b"canary");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(role.logins(), 2);
    let log = mount.log();
    for file in [role.folder.path().join("role"), role.secret_file()] {
        assert!(!log.contains(&std::fs::read_to_string(file).unwrap()), "an id is in the log");
    }
    assert!(log.contains("logged in") && !log.contains("hvs."), "{log}");
    assert_eq!(role.tokens(), 1);
    mount.stop();
    assert_eq!(role.tokens(), 0, "it is given back");
}
