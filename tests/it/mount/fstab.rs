//! Owns the promises to mount(8), umount(8) and fstab(5): the type fuse.secretfs, its options, exit codes, its end.
//! mount(8) looks for its helpers in /sbin alone: each test has a mount namespace with another /sbin, and a PID namespace that
//! ends with it, so that nothing is left on the machine. Runs as root.

use std::path::Path;
use std::process::Command;

use super::{configuration, small_store};
use crate::support::available;
use crate::support::mount::{CANARY, Store, possible, run};
use crate::support::program;

/// `$1` is the scratch folder, `$2` the program. Leaves us there, with the helper in /sbin and a folder `mnt`.
const SET_UP: &str = r#"
    set -eu
    cd "$1"
    mkdir real sbin mnt
    mount --bind /sbin real
    ln -s "$1"/real/* sbin/
    ln -sf "$2" sbin/mount.fuse.secretfs
    mount --bind sbin /sbin
    export SECRETFS_LOG=trace LC_ALL=C
    # Nobody here waits for a process that has ended (Z).
    running() { cat /proc/[0-9]*/stat 2> /dev/null | grep '(secretfs)' | grep -vc ') Z' || true; }
    # The program ends after umount(8) has returned.
    ended() { for _ in $(seq 200); do [ "$(running)" = 0 ] && return; sleep 0.05; done; echo 'still running'; }
    code() { set +e; "$@" > said 2>&1; echo "$?: $(grep -vE ' (INFO|DEBUG|TRACE) ' said | grep -o -e "$expected" | head -n 1)"; set -e; }
"#;

#[test]
fn mount_and_umount_of_the_type_work_as_for_any_filesystem() {
    let Some(()) = available("mount", possible_here()) else { return };
    let store = small_store();
    let script = r#"
        mount -v -t fuse.secretfs "store:$1/store.age" mnt -o "identity=$1/identity,ttl=5s,mode=0440" 2> log
        cat mnt/api-key/value; echo
        stat -c %a mnt/api-key/value
        findmnt -n -o FSTYPE,SOURCE --mountpoint "$1/mnt" | tr -s ' ' | sed "s|$1||"
        echo "running $(running)"
        umount mnt
        ended
        ls mnt
    "#;
    let said = in_a_machine(&store, script);
    let command = "mount.fuse.secretfs: secretfs mount --daemon --identity=";
    assert!(said.starts_with(command), "{said}");
    let (_, after) = said.split_once('\n').unwrap();
    assert_eq!(after, "canary-value\n440\nfuse.secretfs secretfs#store:/store.age\nrunning 1\n");
}

#[test]
fn an_fstab_mounts_a_store_and_a_configuration_and_mount_a_leaves_alone_what_is_mounted() {
    let Some(()) = available("mount", possible_here()) else { return };
    let store = small_store();
    configuration(&store, "", "[[tree]]\npath = \"/local\"\nbackend = \"local\"\n");
    let script = r#"
        mkdir at
        ours=nofail,_netdev,x-systemd.requires=network-online.target
        echo "secretfs#store:$1/store.age $1/mnt fuse.secretfs noauto,$ours,identity=$1/identity 0 0" > fstab
        echo "secretfs#$1/config.toml $1/at fuse.secretfs defaults,allow_other,$ours 0 0" >> fstab
        # As systemd runs it at boot: without HOME and all else.
        env -i /bin/mount -T fstab "$1/mnt" 2> log
        cat mnt/api-key/value; echo
        mount -a -T fstab 2>> log
        mount -a -T fstab 2>> log
        cat at/local/api-key/value; echo
        echo "running $(running)"
        umount "$1/mnt" "$1/at"
        ended
    "#;
    assert_eq!(in_a_machine(&store, script), "canary-value\ncanary-value\nrunning 2\n");
}

#[test]
fn the_end_of_a_mount_leaves_alone_what_is_mounted_in_its_place_at_once() {
    let Some(()) = available("mount", possible_here()) else { return };
    let store = small_store();
    // The kernel gives the number of a device that is gone to the next one.
    let script = r#"
        for _ in $(seq 12); do
            mount -t fuse.secretfs "store:$1/store.age" mnt -o "identity=$1/identity" 2>> log
            umount mnt
        done
        mount -t fuse.secretfs "store:$1/store.age" mnt -o "identity=$1/identity" 2>> log
        for _ in $(seq 500); do [ "$(running)" = 1 ] && break; sleep 0.05; done
        cat mnt/api-key/value; echo
        umount mnt
        ended
    "#;
    assert_eq!(in_a_machine(&store, script), "canary-value\n");
}

#[test]
fn what_is_wrong_is_told_with_the_exit_codes_of_mount() {
    let Some(()) = available("mount", possible_here()) else { return };
    let store = small_store();
    let script = r#"
        store="store:$1/store.age" key="identity=$1/identity"
        expected='-o allow_othr: there is no such option; did you mean `allow_other`?'
        code mount -t fuse.secretfs "$store" mnt -o "$key,allow_othr"
        expected='-o exec: a mount of secrets is always ro'
        code mount -t fuse.secretfs "$store" mnt -o "$key,users,exec"
        expected='`nonsense` is no source'
        code mount -t fuse.secretfs nonsense mnt
        expected='there is no identity at'
        code mount -t fuse.secretfs "$store" mnt -o identity=/none/identity
        expected='would hide'
        code mount -t fuse.secretfs "$store" "$1" -o "$key"
        expected='.*'
        code mount -f -t fuse.secretfs "$store" mnt -o "$key"
        echo "running $(running)"
        code mount -s -t fuse.secretfs "$store" mnt -o "$key,allow_othr"
        expected='-o remount: unmount it and mount it again'
        code mount -o remount,ttl=1s mnt
        expected='is a mount of secretfs already'
        code mount -t fuse.secretfs "$store" mnt -o "$key"
        expected='-N is not supported'
        code mount -N /proc/self/ns/mnt -t fuse.secretfs "$store" mnt -o "$key"
        umount mnt
        ended
    "#;
    let said = in_a_machine(&store, script);
    let expected = "\
        1: -o allow_othr: there is no such option; did you mean `allow_other`?\n\
        1: -o exec: a mount of secrets is always ro\n\
        1: `nonsense` is no source\n\
        32: there is no identity at\n\
        1: would hide\n\
        0: \n\
        running 0\n\
        0: \n\
        1: -o remount: unmount it and mount it again\n\
        1: is a mount of secretfs already\n\
        1: -N is not supported\n";
    assert_eq!(said, expected);
}

/// What a script prints on a machine that has the helper and a scratch folder with the store; its log holds no secret.
fn in_a_machine(store: &Store, script: &str) -> String {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "timeout", "180"]);
    command.args(["sh", "-c", &format!("{SET_UP}{script}"), "sh"]);
    let output = run(command.arg(store.folder.path()).arg(env!("CARGO_BIN_EXE_secretfs")));
    for log in ["log", "said"] {
        let log = std::fs::read_to_string(store.folder.path().join(log)).unwrap_or_default();
        assert!(!log.contains(CANARY) && !log.contains("panicked"), "{log}");
    }
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn possible_here() -> Result<(), String> {
    possible()?;
    for name in ["unshare", "mount", "umount", "findmnt"] {
        program(name)?;
    }
    if !rustix::process::geteuid().is_root() {
        return Err("only root can give itself another /sbin".to_owned());
    }
    let trial = ["--mount", "--pid", "--fork", "--mount-proc", "mount", "--bind", "/sbin", "/sbin"];
    let status = Command::new("unshare").args(trial).stderr(std::process::Stdio::null()).status();
    match status {
        Ok(status) if status.success() && Path::new("/sbin").is_dir() => Ok(()),
        _ => Err("no private mount namespace can be made here".to_owned()),
    }
}
