//! Owns the proof that every worker of a real mount is locked in, whatever backend it has and whoever was there before it.
//! Does not know what each measure forbids (tests/it/sandbox.rs).

use std::collections::HashMap;
use std::process::{Command, Stdio};

use super::builds::upgrade;
use crate::support::available;
use crate::support::moto::Moto;
use crate::support::mount::{Mount, Store, possible, run, secretfs, wait_until};
use crate::support::vault::{ROOT_TOKEN, Vault};

/// The fields of `/proc/PID/status`, or of another file of that form.
fn fields(pid: u32, file: &str) -> HashMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// A program of the same user that has no capability.
fn without_capabilities(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all", program]);
    command
}

/// Whether such a program reads what belongs to a process.
fn can_be_read(pid: u32, file: &str) -> bool {
    let mut command = without_capabilities("head");
    command.args(["-c", "1"]).arg(format!("/proc/{pid}/{file}")).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().unwrap().success()
}

fn is_locked_in(pid: u32, what: &str) {
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().file_name().into_string().unwrap();
        let status = fields(pid, &format!("task/{task}/status"));
        for capabilities in ["CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"] {
            assert_eq!(
                status[capabilities], "0000000000000000",
                "{what}: {capabilities} of {}",
                status["Name"]
            );
        }
        for (field, value) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
            assert_eq!(status[field], value, "{what}: {field} of {}", status["Name"]);
        }
    }
    for file in ["environ", "mem", "maps"] {
        assert!(!can_be_read(pid, file), "{what}: {file} can be read");
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{what}");
}

/// The first worker, one after a crash, and one after an upgrade.
fn all_are_locked_in(mount: &Mount, file: &str, what: &str) {
    let reads = || {
        assert_eq!(mount.read(file).unwrap(), b"canary-value", "{what}");
        mount.worker()
    };
    is_locked_in(reads(), &format!("{what}, the first"));
    mount.kill_worker();
    is_locked_in(reads(), &format!("{what}, after a crash"));
    run(&mut upgrade(mount));
    is_locked_in(reads(), &format!("{what}, after an upgrade"));
    let log = mount.log();
    assert!(!log.contains("sandbox is not complete"), "{what}: {log}");
    let said = run(secretfs().args(["status", "--json"]).arg(&mount.at)).stdout;
    let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
    let measures = said["mounts"][0]["sandbox"].as_array().unwrap();
    assert_eq!(measures.len(), 9, "{said}");
    for measure in measures {
        // few kernels have that one yet
        assert!(
            measure["holds"] == true || measure["name"] == "socket files (Landlock)",
            "{what}: {measure}"
        );
    }
}

#[test]
fn every_worker_of_every_backend_is_locked_in() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("root", crate::users::is_root()) else { return };
    // That a process which is not locked in could be read so.
    let mut open = without_capabilities("sleep").arg("1000").spawn().unwrap();
    wait_until("it runs", || {
        std::fs::read_to_string(format!("/proc/{}/comm", open.id())).unwrap() == "sleep\n"
    });
    let could = can_be_read(open.id(), "environ");
    open.kill().unwrap();
    open.wait().unwrap();
    assert!(could, "nobody can be read here");
    let store = Store::new();
    store.put("api-key", &["value=canary-value"]);
    all_are_locked_in(&store.mount().start(), "api-key/value", "store");
    if let Some(vault) = available("vault", Vault::start()) {
        vault.kv_put("secret", "api-key", serde_json::json!({"value": "canary-value"}));
        let environment = [("VAULT_ADDR", vault.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)];
        let mount = Mount::of("vault:secret").envs(environment).start();
        all_are_locked_in(&mount, "api-key/value", "Vault");
    }
    if let Some(moto) = Moto::shared() {
        moto.create("locked/api-key", crate::support::moto::Content::Text("canary-value"));
        let mount = Mount::of("aws:locked").envs(moto.environment()).arg("--deadline").arg("60s").start();
        all_are_locked_in(&mount, "api-key/value", "AWS");
    }
}
