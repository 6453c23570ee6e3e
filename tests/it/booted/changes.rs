//! Owns what a restart finds that is not as it was: another configuration, one with mistakes; and what packages bring besides units.
//! Does not know restarts where all is as it was (drills.rs).

use std::sync::mpsc::channel;
use std::time::Duration;

use super::readers::Readers;
use super::{booted, device, holder, mounts_at, must_come_back, read_drill, signal, worker};
use crate::support::fake_vault;
use crate::support::mount::HANG;
use crate::support::systemd::{Prepared, drill};

pub fn prepare(machine: &Prepared) {
    machine.drill("changed", "");
    std::fs::write(machine.configuration().join("changed.toml"), two_trees(5, "drill-1"))
        .expect("scratch folder");
    let elsewhere = "[Service]\nExecStart=\nExecStart=/usr/bin/perl /etc/secretfs/readers.pl /secrets/%i/all /run/readers-%i\n";
    machine.unit("readers@changed.service.d/elsewhere.conf", elsewhere);
    machine.drill("mistakes", "");
    machine.drill("moved", "");
    machine.drill("moved-to", "");
    machine.drill("unmounted", "");
    machine.drill("linked", "");
    machine.drill("linked-to", "");
}

/// All secrets in one tree, and in another the one that is named.
fn two_trees(ttl: usize, source: &str) -> String {
    let all = drill("changed", &format!("ttl = \"{ttl}s\"")).replace("path = \"/\"", "path = \"/all\"");
    format!("{all}[[tree]]\npath = \"/more\"\nbackend = \"local\"\nsource = \"{source}\"\n")
}

#[test]
fn a_restart_with_another_configuration_keeps_the_mount_and_the_new_one_counts() {
    let Some(machine) = booted() else { return };
    machine.must(&["systemctl", "start", "secretfs@changed"]);
    let first = device(machine, "changed");
    let readers = Readers::start(machine, "changed");
    for round in 0..4 {
        let source = ["drill-2", "drill-1"][round % 2];
        machine.write("/etc/secretfs/changed.toml", &two_trees(6 + round, source));
        // whoever has the file open gets what he had opened, or ESTALE: never the bytes of another
        let held = "exec 3< /secrets/changed/more/value; before=$(head -c 3 <&3); systemctl restart secretfs@changed; \
                    after=$(cat <&3 2> /dev/null); echo \"$before $after\"";
        let said = machine.run(&["bash", "-c", held]).stdout;
        let said = String::from_utf8_lossy(&said);
        let rest = said.trim().strip_prefix("can").expect("the first bytes").trim();
        let other = ["drill-1", "drill-2"][round % 2];
        assert!(rest.is_empty() || rest == format!("ary-{other}"), "{said}");
        assert_eq!(machine.must(&["cat", "/secrets/changed/more/value"]), format!("canary-{source}"));
        assert_eq!(device(machine, "changed"), first);
    }
    let mut seen = readers.end();
    // who has opened it before and reads it after has to open it again
    if seen.errors.split_whitespace().all(|word| word.contains("_Stale_") || word.parse::<u32>().is_ok()) {
        seen.failures = 0;
    }
    seen.must_be_undisturbed("another configuration");
    let log = machine.journal("secretfs@changed");
    assert!(log.contains("what is open begins anew for its readers"), "{log}");
    machine.must(&["systemctl", "stop", "secretfs@changed"]);
}

#[test]
fn a_restart_with_a_mistake_in_the_configuration_ends_the_mount_and_a_start_after_the_repair_works() {
    let Some(machine) = booted() else { return };
    let unit = "secretfs@mistakes";
    machine.must(&["systemctl", "start", unit]);
    // a reload says so and changes nothing
    machine.write("/etc/secretfs/mistakes.toml", "[mount]\nnonsense = 1\n");
    assert!(!machine.run(&["systemctl", "reload", unit]).status.success());
    assert_eq!(read_drill(machine, "mistakes"), "canary-drill-3");
    let readers = Readers::start(machine, "mistakes");
    assert!(!machine.run(&["systemctl", "restart", unit]).status.success());
    assert_eq!(machine.property(unit, "ExecMainStatus"), "78");
    assert_eq!(machine.property(unit, "NRestarts"), "0");
    machine.wait_until("the mount is gone", || mounts_at(machine, "mistakes").is_empty());
    assert_eq!(machine.property(unit, "NFileDescriptorStore"), "0");
    let seen = readers.end();
    eprintln!("{seen:?}");
    assert!(seen.failures > 0 && seen.wrong == 0 && seen.longest < Duration::from_secs(5), "{seen:?}");
    machine.write("/etc/secretfs/mistakes.toml", &drill("mistakes", ""));
    machine.must(&["systemctl", "start", unit]);
    assert_eq!(read_drill(machine, "mistakes"), "canary-drill-3");
    machine.must(&["systemctl", "stop", unit]);
}

#[test]
fn a_restart_with_another_mountpoint_leaves_nothing_at_the_old_one() {
    let Some(machine) = booted() else { return };
    machine.must(&["systemctl", "start", "secretfs@moved"]);
    assert_eq!(read_drill(machine, "moved"), "canary-drill-3");
    machine.write("/etc/secretfs/moved.toml", &drill("moved-to", ""));
    machine.must(&["systemctl", "restart", "secretfs@moved"]);
    assert_eq!(read_drill(machine, "moved-to"), "canary-drill-3");
    assert!(mounts_at(machine, "moved").is_empty());
    // nor anything of it that systemd would keep beside what it keeps of the new one
    assert_eq!(machine.property("secretfs@moved", "NFileDescriptorStore"), "6");
    machine.must(&["systemctl", "restart", "secretfs@moved"]);
    machine.must(&["systemctl", "stop", "secretfs@moved"]);
    assert!(mounts_at(machine, "moved-to").is_empty());
}

/// The signal may come before the holder has heard of the end: there is no mount to go on with all the same.
#[test]
fn a_restart_right_after_an_unmount_waits_until_all_is_given_back() {
    let Some(machine) = booted() else { return };
    let (tell, told) = channel();
    let fake = fake_vault::database("database/creds/app/id-of-the-lease", move || {
        let _ = tell.send(());
    });
    let configuration = format!(
        "[mount]\nmountpoint = \"/secrets/unmounted\"\n[backend.v]\ntype = \"vault\"\naddress = \"{}\"\n\
         token_file = \"/etc/secretfs/unmounted.token\"\n\
         [[secret]]\npath = \"/app\"\nbackend = \"v\"\nsource = \"database/creds/app\"\n",
        fake.endpoint()
    );
    machine.write("/etc/secretfs/unmounted.toml", &configuration);
    machine.write("/etc/secretfs/unmounted.token", "canary-token");
    machine.must(&["chmod", "600", "/etc/secretfs/unmounted.token"]);
    let unit = "secretfs@unmounted";
    machine.must(&["systemctl", "start", unit]);
    assert_eq!(machine.must(&["cat", "/secrets/unmounted/app/password"]), "canary-password");
    let (before, server) = (holder(machine, "unmounted"), worker(machine, "unmounted"));
    // so that it is not the first to speak
    signal(machine, "STOP", server);
    machine.must(&["umount", "-l", "/secrets/unmounted"]);
    machine.must(&["systemctl", "restart", "--no-block", unit]);
    machine.wait_until("the signal has come", || {
        let log = machine.journal(unit);
        log.contains("unmounting: SIGTERM") || log.contains("restarting: the mount stays")
    });
    machine.run(&["sh", "-c", &format!("kill -CONT {server}")]);
    told.recv_timeout(HANG).expect("it is given back");
    must_come_back(machine, "unmounted", before);
    let log = machine.journal(unit);
    assert!(!log.contains("the mount stays"), "{log}");
    assert!(!log.contains("lives until its end"), "{log}");
    assert_eq!(mounts_at(machine, "unmounted").len(), 1);
    machine.must(&["systemctl", "stop", unit]);
}

#[test]
fn a_mountpoint_that_is_named_by_a_link_is_the_same_mount_after_a_restart_and_after_a_crash() {
    let Some(machine) = booted() else { return };
    machine.must(&["sh", "-c", "rmdir /secrets/linked && ln -s linked-to /secrets/linked"]);
    machine.must(&["systemctl", "start", "secretfs@linked"]);
    device(machine, "linked-to");
    machine.must(&["systemctl", "restart", "secretfs@linked"]);
    let before = holder(machine, "linked");
    signal(machine, "KILL", before);
    must_come_back(machine, "linked", before);
    assert_eq!(read_drill(machine, "linked"), "canary-drill-3");
    // one that is made anew may have the same number
    let log = machine.journal("secretfs@linked");
    let said = |what: &str| log.matches(&format!(" {what} mountpoint=")).count();
    assert_eq!((said("mounted"), said("goes on")), (1, 2), "{log}");
    machine.must(&["systemctl", "stop", "secretfs@linked"]);
    assert!(mounts_at(machine, "linked-to").is_empty());
}

#[test]
fn systemd_takes_the_folder_and_the_group_that_a_package_brings() {
    let Some(machine) = booted() else { return };
    machine
        .write("/usr/lib/tmpfiles.d/secretfs.conf", include_str!("../../../systemd/secretfs.tmpfiles.conf"));
    machine
        .write("/usr/lib/sysusers.d/secretfs.conf", include_str!("../../../systemd/secretfs.sysusers.conf"));
    machine.must(&["systemd-sysusers", "secretfs.conf"]);
    assert!(machine.must(&["getent", "group", "secretfs"]).starts_with("secretfs:"));
    assert!(!machine.run(&["getent", "passwd", "secretfs"]).status.success());
    // one that is there is put right, and what lies in it stays
    machine.must(&["sh", "-c", "mkdir -p /run/secretfs && chmod 755 /run/secretfs"]);
    machine.must(&["systemd-tmpfiles", "--create", "secretfs.conf"]);
    assert_eq!(machine.must(&["stat", "--format=%a %U %G", "/run/secretfs"]).trim(), "700 root root");
}
