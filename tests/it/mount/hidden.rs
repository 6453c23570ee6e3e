//! Owns the promises about what a mount depends on outside of itself: it hides nothing that its own program needs, whatever
//! that is called, and says where the kernel has less patience. Bind mounts are made in mount namespaces of the tests' own.

use std::fs::File;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{configuration, small_store};
use crate::support::available;
use crate::support::mount::{Store, possible, run, secretfs};
use crate::support::program;

#[test]
fn whatever_a_configuration_names_is_refused_below_the_mountpoint() {
    let Some(()) = available("mount", possible()) else { return };
    let (store, at) = store_with_folder();
    let inside = |name: &str| {
        let file = at.join(name);
        std::fs::write(&file, "canary\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
        file.display().to_string()
    };
    let file = store.folder.path().join("config.toml");
    let vault = |key: &str| {
        let role = if key == "secret_id_file" { "role_id = \"r\"\n" } else { "" };
        let login = if key.ends_with("id_file") { "auth = \"approle\"\n" } else { "" };
        format!("{login}{role}{key} = {:?}\n", inside("file"))
    };
    for key in ["token_file", "ca_cert", "role_id_file", "secret_id_file"] {
        let backend = "[backend.b]\ntype = \"vault\"\naddress = \"http://127.0.0.1:9\"\n";
        std::fs::write(&file, format!("{backend}{}[[tree]]\npath = \"/\"\nbackend = \"b\"\n", vault(key)))
            .unwrap();
        let said = refused(mount().arg("--config").arg(&file).arg(&at));
        assert!(said.contains(&format!("`{key}` of backend `b`")), "{key}: {said}");
        assert!(said.contains("mount somewhere else, or move the file"), "{key}: {said}");
    }
    let tree = "[[tree]]\npath = \"/local\"\nbackend = \"local\"\n[[hook]]\npath = \"/local/a\"\n";
    let exec = format!("{tree}exec = [{:?}]\n", inside("program"));
    let pid_file = format!("{tree}signal = \"HUP\"\npid_file = {:?}\n", at.join("later.pid"));
    for (hook, key) in [(exec, "exec"), (pid_file, "pid_file")] {
        let file = configuration(&store, "", &hook);
        let said = refused(mount().arg("--config").arg(&file).arg(&at));
        assert!(said.contains(&format!("`{key}` of a [[hook]]")), "{said}");
    }
    let moved = at.join("config.toml");
    std::fs::rename(configuration(&store, "", tree.split("[[hook]]").next().unwrap()), &moved).unwrap();
    let said = refused(mount().arg("--config").arg(&moved).arg(&at));
    assert!(said.contains("the configuration (--config)"), "{said}");
}

#[test]
fn what_the_environment_and_the_command_line_name_is_refused_as_well() {
    let Some(()) = available("mount", possible()) else { return };
    let (store, at) = store_with_folder();
    let of_vault = || source("vault:secret", &at);
    assert!(refused(of_vault().env("HOME", &at)).contains("(without it, ~/.vault-token)"));
    let ca = at.join("ca.pem");
    assert!(refused(of_vault().env("VAULT_CACERT", &ca)).contains("(or VAULT_CACERT)"));
    assert!(refused(of_vault().env("SSL_CERT_FILE", &ca)).contains("SSL_CERT_FILE"));
    assert!(refused(source("aws:", &at).env("HOME", &at)).contains("HOME, for the settings of AWS"));
    for name in
        ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"]
    {
        let said = refused(source("aws:", &at).env(name, at.join("file")));
        assert!(said.contains(&format!(": {name}; mount somewhere else, or set the variable")), "{said}");
    }
    std::fs::copy(store.identity(), at.join("identity")).unwrap();
    let of_store = format!("store:{}", store.file().display());
    let said = refused(source(&of_store, &at).arg("--identity").arg(at.join("identity")));
    assert!(said.contains("`identity` of backend `store`"), "{said}");
    let log = File::create(at.join("log")).unwrap();
    let mut logged = source(&of_store, &at);
    let output = logged.arg("--identity").arg(store.identity()).stderr(log).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let said = std::fs::read_to_string(at.join("log")).unwrap();
    assert!(said.contains("would hide") && said.contains("standard error, where the log goes"), "{said}");
}

#[test]
fn a_file_that_a_link_on_its_way_leads_below_the_mountpoint_is_refused() {
    let Some(()) = available("mount", possible()) else { return };
    let (store, at) = store_with_folder();
    let folder = store.folder.path();
    symlink("mnt", folder.join("link")).unwrap();
    symlink(store.identity(), at.join("back")).unwrap();
    std::fs::copy(store.identity(), at.join("identity")).unwrap();
    let of_store = format!("store:{}", store.file().display());
    for identity in ["link/identity", "link/back", "mnt/back", "link/../identity"] {
        refused(source(&of_store, &at).arg("--identity").arg(folder.join(identity)));
        // The mountpoint itself may be called otherwise too.
        refused(source(&of_store, &folder.join("link")).arg("--identity").arg(folder.join(identity)));
    }
}

#[test]
fn a_file_below_the_mountpoint_is_refused_by_every_name_that_a_bind_mount_gives_it() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("unshare", private_namespace()) else { return };
    let (store, _) = store_with_folder();
    let script = r#"
        cd "$1"
        mkdir parent parent/mnt parent/mnt/sub one two
        cp identity parent/mnt/sub/identity
        cp identity parent/identity
        mount --bind parent one
        mount --bind parent/mnt/sub two
        try() { timeout 20 "$2" mount "store:$3/store.age" "$1" --identity "$4" 2>&1 | grep -o 'seen also at.*)\|would hide' | sed "s|$3||"; }
        echo "-- the parent"; try parent/mnt "$2" "$1" "$1/one/mnt/sub/identity"
        echo "-- the mountpoint"; try one/mnt "$2" "$1" "$1/parent/mnt/sub/identity"
        echo "-- a part of it"; try parent/mnt "$2" "$1" "$1/two/identity"
        echo "-- beside it"
        "$2" mount "store:$1/store.age" parent/mnt --identity "$1/one/identity" --daemon 2> /dev/null
        cat parent/mnt/api-key/value
        umount parent/mnt
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "timeout", "90", "sh", "-c", script, "sh"]);
    command.arg(store.folder.path()).arg(env!("CARGO_BIN_EXE_secretfs"));
    let output = run(command.env("RUST_BACKTRACE", "0"));
    let expected = "\
        -- the parent\nseen also at /one/mnt)\nwould hide\n\
        -- the mountpoint\nseen also at /parent/mnt)\nwould hide\n\
        -- a part of it\nseen also at /two)\nwould hide\n\
        -- beside it\ncanary-value";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn the_folder_of_the_control_socket_cannot_be_covered_and_the_current_folder_can() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("unshare", private_namespace()) else { return };
    let (store, _) = store_with_folder();
    let script = r#"
        mount -t tmpfs none /run
        mkdir /run/secretfs
        for at in /run /run/secretfs; do
            timeout 20 "$2" mount "store:$1/store.age" "$at" --identity "$1/identity" 2>&1 | grep -c 'would hide.*control socket'
        done
        cd "$1/mnt"
        "$2" mount "store:$1/store.age" . --identity "$1/identity" --daemon 2> /dev/null
        cat "$1/mnt/api-key/value"
        cd /
        umount "$1/mnt"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "timeout", "90", "sh", "-c", script, "sh"]);
    let output = run(command.arg(store.folder.path()).arg(env!("CARGO_BIN_EXE_secretfs")));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n1\ncanary-value");
}

#[test]
fn a_kernel_with_less_patience_than_the_deadline_is_warned_of() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("unshare", private_namespace()) else { return };
    let setting = Path::new("/proc/sys/fs/fuse/default_request_timeout");
    let there = if setting.exists() { Ok(()) } else { Err("it came with Linux 6.15".to_owned()) };
    let Some(()) = available("request timeout of the kernel", there) else { return };
    let (store, _) = store_with_folder();
    // The program sees another value than the machine has, which nobody else shall have changed.
    let script = r#"
        cd "$1"
        echo 7 > seven
        mount --bind seven /proc/sys/fs/fuse/default_request_timeout
        for deadline in 5s 8s; do
            "$2" mount "store:$1/store.age" mnt --identity identity --deadline "$deadline" --daemon 2>&1 |
                grep -c 'WARN.*fs.fuse.default_request_timeout is 7 s, and the deadline 8 s'
            umount mnt
        done
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "timeout", "90", "sh", "-c", script, "sh"]);
    let output =
        run(command.arg(store.folder.path()).arg(env!("CARGO_BIN_EXE_secretfs")).env_remove("SECRETFS_LOG"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n1\n");
}

/// A store, and beside it a folder to mount on.
fn store_with_folder() -> (Store, PathBuf) {
    let store = small_store();
    let at = store.folder.path().join("mnt");
    std::fs::create_dir(&at).unwrap();
    (store, at)
}

/// `secretfs mount` that cannot go on for ever where it is not refused.
fn mount() -> Command {
    let mut command = Command::new("timeout");
    let program = secretfs();
    command.arg("20").arg(program.get_program()).arg("mount");
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn source(source: &str, at: &Path) -> Command {
    let mut command = mount();
    command.arg(source).arg(at);
    command
}

/// What is said by a mount that is refused for what it would hide.
fn refused(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(64), "{command:?}: {said}");
    assert!(said.contains("would hide"), "{command:?}: {said}");
    assert!(!said.contains("canary"), "{said}");
    said
}

fn private_namespace() -> Result<(), String> {
    program("unshare")?;
    let trial = ["--mount", "mount", "--bind", "/usr/bin", "/usr/bin"];
    match Command::new("unshare").args(trial).stderr(std::process::Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err("no private mount namespace can be made here".into()),
    }
}
