//! Owns the promises of the shipped unit, tried in a booted systemd.
//! Does not know how a machine boots (support/systemd.rs).

mod changes;
mod drills;
mod ends;
mod readers;

use serde_json::json;

use crate::support::available;
use crate::support::systemd::{Machine, Prepared, machine};
use crate::support::vault::Vault;

const VALUE: &str = "canary-value";

/// Each test has an instance of its own, for they run side by side.
fn prepare(machine: &Prepared) {
    for name in ["demo", "killed", "restarted", "stopped", "mistaken", "boot", "confined"] {
        machine.instance(name, "identity");
    }
    let hook =
        "[[hook]]\npath = \"/other\"\nexec = [\"/usr/bin/touch\", \"/tmp/hook-ran\"]\nuser = \"nobody\"\n";
    machine.add("confined", hook);
    machine.instance("credential", "/run/credentials/secretfs@credential.service/key");
    let key = "[Service]\nLoadCredential=key:/etc/secretfs/identity\n";
    machine.unit("secretfs@credential.service.d/key.conf", key);
    let token = "[Service]\nLoadCredential=token:/etc/secretfs/token\n";
    machine.unit("secretfs@vault.service.d/token.conf", token);
    // so that a search of the log finds what leaks
    machine.unit("secretfs@.service.d/log.conf", "[Service]\nEnvironment=SECRETFS_LOG=trace\n");
    machine.wanted_at_boot("secretfs@boot.service", "secretfs@.service");
    machine.unit(
        "reader.service",
        "[Unit]\nRequires=secretfs@boot.service\nAfter=secretfs@boot.service\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/bin/cmp /secrets/boot/api-key/value /etc/secretfs/expected\n",
    );
    std::fs::write(machine.configuration().join("expected"), VALUE).expect("scratch folder");
    machine.wanted_at_boot("reader.service", "reader.service");
    changes::prepare(machine);
    drills::prepare(machine);
    ends::prepare(machine);
}

fn booted() -> Option<&'static Machine> {
    available("systemd", machine(prepare))
}

#[test]
fn start_returns_when_the_mount_is_there_and_status_says_what_is_served() {
    let Some(machine) = booted() else { return };
    machine.must(&["systemctl", "start", "secretfs@demo"]);
    assert_eq!(read(machine, "demo"), VALUE);
    let said = machine.must(&["systemctl", "status", "--no-pager", "secretfs@demo"]);
    assert!(said.contains("Status: \"serving on /secrets/demo\""), "{said}");
    let said = machine.must(&["secretfs", "status", "/secrets/demo"]);
    assert!(said.contains("answers"), "{said}");
    let log = machine.journal("secretfs@demo");
    assert!(log.contains("mounted") && !log.contains("canary"), "{log}");
}

#[test]
fn a_unit_that_requires_the_mount_reads_it_at_boot() {
    let Some(machine) = booted() else { return };
    assert_eq!(machine.property("secretfs@boot", "ActiveState"), "active");
    assert_eq!(machine.property("reader", "Result"), "success", "{}", machine.journal("reader"));
    assert_eq!(machine.property("reader", "ActiveState"), "active");
}

#[test]
fn a_credential_opens_the_store_and_is_readable_by_nobody_else() {
    let Some(machine) = booted() else { return };
    machine.must(&["systemctl", "start", "secretfs@credential"]);
    assert_eq!(read(machine, "credential"), VALUE);
    let key = "/run/credentials/secretfs@credential.service/key";
    let as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];
    let output = machine.run(&[&as_nobody[..], &["cat", key]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "a credential can be read by others");
    machine.must(&["systemctl", "stop", "secretfs@credential"]);
    assert!(!machine.run(&["test", "-e", key]).status.success(), "the credential outlives the service");
}

#[test]
fn a_credential_is_the_token_at_a_server_that_is_found_by_name() {
    let Some(machine) = booted() else { return };
    let Some(server) = available("vault", Vault::shared()) else { return };
    server.kv_put("secret", "booted", json!({ "password": "canary-of-vault" }));
    let policy = r#"path "secret/*" { capabilities = ["read", "list"] }"#;
    machine.write("/etc/secretfs/token", &server.policy_token(policy));
    let address = server.address.replace("127.0.0.1", "localhost");
    let configuration = format!(
        "[mount]\nmountpoint = \"/secrets/vault\"\n[backend.vault]\ntype = \"vault\"\naddress = \"{address}\"\n\
         token_file = \"/run/credentials/secretfs@vault.service/token\"\n\
         [[tree]]\npath = \"/\"\nbackend = \"vault\"\nsource = \"secret\"\n"
    );
    machine.write("/etc/secretfs/vault.toml", &configuration);
    machine.must(&["mkdir", "/secrets/vault"]);
    machine.must(&["systemctl", "start", "secretfs@vault"]);
    let read = machine.run(&["cat", "/secrets/vault/booted/password"]);
    assert_eq!(
        String::from_utf8_lossy(&read.stdout),
        "canary-of-vault",
        "{}",
        machine.journal("secretfs@vault")
    );
    machine.must(&["systemctl", "stop", "secretfs@vault"]);
    assert!(!machine.journal("secretfs@vault").contains("canary"));
}

#[test]
fn stop_leaves_no_mount_and_no_process() {
    let Some(machine) = booted() else { return };
    machine.must(&["systemctl", "start", "secretfs@stopped"]);
    let process = machine.property("secretfs@stopped", "MainPID");
    // in use: a file is open while the mount goes
    let holder =
        "exec 3< /secrets/stopped/api-key/value; systemctl stop secretfs@stopped; cat /proc/self/mountinfo";
    let mounts = machine.must(&["sh", "-c", holder]);
    assert!(!mounts.contains("/secrets/stopped fuse"), "{mounts}");
    assert!(mounts_at(machine, "stopped").is_empty());
    assert!(!machine.run(&["test", "-e", &format!("/proc/{process}")]).status.success());
    assert_eq!(machine.property("secretfs@stopped", "Result"), "success");
}

#[test]
fn a_killed_program_is_started_again_and_its_mount_can_be_read() {
    let Some(machine) = booted() else { return };
    machine.must(&["systemctl", "start", "secretfs@killed"]);
    let first = machine.property("secretfs@killed", "MainPID");
    // A file is held open, which keeps the dead mount in use.
    let kill = format!("exec 3< /secrets/killed/api-key/value; kill -9 {first}; sleep 3");
    machine.must(&["sh", "-c", &kill]);
    machine.wait_until("it serves again", || {
        machine.property("secretfs@killed", "ActiveState") == "active"
            && machine.property("secretfs@killed", "MainPID") != first
    });
    assert_eq!(read(machine, "killed"), VALUE);
    assert_eq!(mounts_at(machine, "killed").len(), 1, "the dead mount is still there");
    assert_eq!(machine.property("secretfs@killed", "NRestarts"), "1");
}

#[test]
fn a_mount_that_was_left_behind_goes_though_the_configuration_has_mistakes_by_then() {
    let Some(machine) = booted() else { return };
    machine.must(&["systemctl", "start", "secretfs@restarted"]);
    let first = machine.property("secretfs@restarted", "MainPID");
    machine.must(&["systemctl", "restart", "secretfs@restarted"]);
    let second = machine.property("secretfs@restarted", "MainPID");
    assert_ne!(first, second);
    assert_eq!(read(machine, "restarted"), VALUE);
    let mistake =
        "cp /etc/secretfs/restarted.toml /tmp/good && echo 'nonsense = 1' >> /etc/secretfs/restarted.toml";
    machine.must(&["sh", "-c", mistake]);
    machine.must(&["sh", "-c", &format!("kill -9 {second}")]);
    machine.wait_until("it has failed", || machine.property("secretfs@restarted", "ActiveState") == "failed");
    machine.wait_until("the mount is gone", || mounts_at(machine, "restarted").is_empty());
    machine.must(&["cp", "/tmp/good", "/etc/secretfs/restarted.toml"]);
    machine.must(&["systemctl", "start", "secretfs@restarted"]);
    assert_eq!(read(machine, "restarted"), VALUE);
}

#[test]
fn a_mistake_in_the_configuration_is_told_once_and_not_tried_again() {
    let Some(machine) = booted() else { return };
    let mistake = "sed -i 's/mountpoint/mountpiont/' /etc/secretfs/mistaken.toml";
    machine.must(&["sh", "-c", mistake]);
    assert!(!machine.run(&["systemctl", "start", "secretfs@mistaken"]).status.success());
    assert_eq!(machine.property("secretfs@mistaken", "ExecMainStatus"), "78");
    // longer than RestartSec
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(machine.property("secretfs@mistaken", "ActiveState"), "failed");
    assert_eq!(machine.property("secretfs@mistaken", "NRestarts"), "0");
    let log = machine.journal("secretfs@mistaken");
    assert!(log.contains("mistaken.toml:2: unknown key `mountpiont` in [mount]"), "{log}");
    // the same of a file that is not there
    assert!(!machine.run(&["systemctl", "start", "secretfs@unknown"]).status.success());
    assert_eq!(machine.property("secretfs@unknown", "NRestarts"), "0");
}

#[test]
fn systemd_finds_nothing_wrong_in_the_unit_and_its_limits_hold() {
    let Some(machine) = booted() else { return };
    let output = machine.run(&["systemd-analyze", "verify", "secretfs@confined.service"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("secretfs@"), "{said}");
    machine.must(&["systemctl", "start", "secretfs@confined"]);
    let process = machine.property("secretfs@confined", "MainPID");
    let status = machine.must(&["cat", &format!("/proc/{process}/status")]);
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a line").trim();
    assert_eq!(line("NoNewPrivs:"), "1");
    assert_eq!(line("Seccomp:"), "2");
    assert_eq!(line("Umask:"), "0077");
    // capability.h: SYS_MODULE is 16, SYS_ADMIN 21, NET_ADMIN 12
    let bounds = u64::from_str_radix(line("CapBnd:"), 16).expect("a mask");
    assert_eq!([bounds >> 21 & 1, bounds >> 16 & 1, bounds >> 12 & 1], [1, 0, 0]);
    let of = |process: &str| machine.must(&["readlink", &format!("/proc/{process}/ns/mnt")]);
    assert_eq!(of(&process), of("1"), "it has a mount namespace of its own");
    assert_eq!(read(machine, "confined"), VALUE);
    let said = machine.must(&["secretfs", "status", "/secrets/confined"]);
    assert!(said.contains("told of changes"), "{said}");
    let put = ["secretfs", "store", "put", "/etc/secretfs/store.age", "other", "value=canary-new"];
    machine.must(&[&put[..], &["--identity", "/etc/secretfs/identity"]].concat());
    machine.wait_until("the hook has run", || machine.run(&["test", "-e", "/tmp/hook-ran"]).status.success());
    assert_eq!(machine.must(&["stat", "--format=%U %a", "/tmp/hook-ran"]).trim(), "nobody 600");
}

fn read(machine: &Machine, instance: &str) -> String {
    machine.must(&["cat", &format!("/secrets/{instance}/api-key/value")])
}

/// The lines of the mount table whose mount is that of the instance.
fn mounts_at(machine: &Machine, instance: &str) -> Vec<String> {
    let table = machine.must(&["cat", "/proc/self/mountinfo"]);
    let at = format!(" /secrets/{instance} ");
    table.lines().filter(|line| line.contains(&at)).map(str::to_owned).collect()
}

/// The process that systemd knows.
fn holder(machine: &Machine, instance: &str) -> u32 {
    machine.property(&format!("secretfs@{instance}"), "MainPID").parse().expect("a process")
}

fn signal(machine: &Machine, signal: &str, process: u32) {
    // no program in there, but a word of its shell
    machine.must(&["sh", "-c", &format!("kill -{signal} {process}")]);
}

/// The process that serves; 0 where none answers.
fn worker(machine: &Machine, instance: &str) -> u32 {
    let said = machine.run(&["secretfs", "status", "--json", &format!("/secrets/{instance}")]).stdout;
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
    said["mounts"][0]["worker"].as_u64().and_then(|worker| worker.try_into().ok()).unwrap_or_default()
}

/// Waits until systemd has another process for the service that is ready.
fn must_come_back(machine: &Machine, instance: &str, before: u32) {
    machine.wait_until("another process is ready", || {
        holder(machine, instance) != before
            && machine.property(&format!("secretfs@{instance}"), "ActiveState") == "active"
    });
}

fn read_drill(machine: &Machine, instance: &str) -> String {
    machine.must(&["cat", &format!("/secrets/{instance}/drill-3/value")])
}

/// The number of the mount's device; it must be the only mount there.
fn device(machine: &Machine, instance: &str) -> String {
    let mounts = mounts_at(machine, instance);
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    mounts[0].split(' ').nth(2).expect("a device").to_owned()
}
