//! Owns who may use a control socket, what it withstands, and when it is there.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::{Said, ask, device, good, refused, said, socket, started, store};
use crate::support::mount::{HANG, Mount, copy_program, possible, run, secretfs, wait_until};
use crate::support::{available, program};
use crate::users::{OTHER, OWNER, is_root, open_to_all, store_of_user, users_can_mount};

/// What the program says to this user.
fn ask_as(uid: u32, mount: &Mount, arguments: &[&str]) -> Said {
    let mut command = Command::new(mount.folder.path().join("secretfs"));
    let command = command.args(arguments).current_dir("/").env_remove("XDG_RUNTIME_DIR").uid(uid).gid(uid);
    said(&command.output().unwrap())
}

/// That of the tests may lie where other users cannot go.
fn python_for_users() -> Result<(), String> {
    let status = Command::new("python3").args(["-c", ""]).current_dir("/").uid(OTHER).gid(OTHER).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("python3 as another user: {other:?}")),
    }
}

#[test]
fn folder_and_socket_are_the_owners_alone_and_the_socket_goes_with_the_mount() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("users", is_root()) else { return };
    let store = store();
    for by_signal in [true, false] {
        let mut mount = started(store.mount());
        let socket = socket(&mount);
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode(socket.parent().unwrap()), mode(&socket)), (0o700, 0o600));
        if by_signal {
            mount.stop();
        } else {
            run(secretfs().arg("unmount").arg(&mount.at));
            mount.ended();
        }
        assert!(!socket.exists());
        refused(ask("status", &mount.at, &[]), 66, "is not in a mount of secretfs");
    }
}

#[test]
fn another_user_is_refused_by_the_folder_and_told_who_may() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("users", is_root()) else { return };
    let store = store();
    let mount = started(open_to_all(store.mount().arg("-o").arg("allow_other,mode=0444")));
    copy_program(&mount.folder.path().join("secretfs"));
    mount.read("api-key/value").unwrap();
    let at = mount.at.canonicalize().unwrap().display().to_string();
    for command in ["status", "flush", "refresh", "revoke"] {
        let refusal = ask_as(OTHER, &mount, &[command, &at]);
        refused(refusal, 77, "it belongs to user 0: only that user and root may ask");
    }
    assert!(good(ask("status", &mount.at, &[])).contains("1 held"), "nothing happened");
    wait_until("mounts of others are shown and are no failure", || {
        let all = ask_as(OTHER, &mount, &["status"]);
        assert!(all.out.contains(&at), "{}", all.out);
        all.code == 0
    });
}

#[test]
fn another_user_who_reaches_the_socket_is_refused_by_who_they_are() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let Some(()) = available("python3", python_for_users()) else { return };
    let store = store_of_user();
    let plan = open_to_all(store.mount().by_user(OWNER));
    // A folder of this test's own, so that it can be opened to everybody.
    let runtime = plan.folder().join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    chown(&runtime, Some(OWNER), Some(OWNER)).unwrap();
    let mount = plan.envs([("XDG_RUNTIME_DIR", &runtime)]).start();
    let socket = runtime.join("secretfs").join(device(&mount).replace(':', "-") + ".sock");
    wait_until("the socket is there", || socket.exists());
    let asked_by = |uid: u32| {
        let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
            s.sendall(b'{\"version\":1,\"command\":\"flush\"}\\n')\nprint(s.makefile().read())";
        let mut command = Command::new("python3");
        command.args(["-c", script]).arg(&socket).current_dir("/").uid(uid).gid(uid);
        said(&command.output().unwrap())
    };
    assert!(asked_by(OTHER).err.contains("PermissionError"), "the folder keeps others out");
    assert!(asked_by(OWNER).out.contains("flushed"));
    for path in [&runtime, &runtime.join("secretfs")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let told = asked_by(OTHER);
    let why = format!("user {OTHER} may not: only user {OWNER}, to whom the mount belongs, and root may");
    assert!(told.out.contains("not_allowed") && told.out.contains(&why), "{}{}", told.out, told.err);
    assert!(asked_by(OWNER).out.contains("flushed"));
    assert!(asked_by(0).out.contains("flushed"));
}

#[test]
fn root_is_not_led_to_another_mounts_socket() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let (of_root, store) = (store(), store_of_user());
    let roots = started(of_root.mount());
    roots.read("api-key/value").unwrap();
    let plan = open_to_all(store.mount().by_user(OWNER));
    // Its own socket lies where root does not look.
    let runtime = plan.folder().join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    chown(&runtime, Some(OWNER), Some(OWNER)).unwrap();
    let users = plan.envs([("XDG_RUNTIME_DIR", &runtime)]).start();
    let folder = format!("/tmp/secretfs-{OWNER}");
    let link = format!("{folder}/{}.sock", device(&users).replace(':', "-"));
    let script = "mkdir -pm 700 \"$0\" && ln -s \"$1\" \"$2\"";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, &folder])
        .arg(socket(&roots))
        .arg(&link)
        .current_dir("/")
        .uid(OWNER)
        .gid(OWNER);
    run(&mut command);
    let told = ask("flush", &users.at, &[]);
    std::fs::remove_file(&link).unwrap();
    refused(told, 74, "belongs to a program of user 0, who did not mount this: not asked");
    assert!(good(ask("status", &roots.at, &[])).contains("1 held"), "the wrong mount was flushed");
}

#[test]
fn root_asks_a_users_mount_that_it_cannot_enter_and_the_user_asks_too() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let store = store_of_user();
    let mount = started(open_to_all(store.mount().by_user(OWNER)));
    let at = mount.at.canonicalize().unwrap().display().to_string();
    assert!(std::fs::read_dir(&mount.at).is_err(), "root could just look");
    assert!(good(ask("status", &mount.at, &[])).contains("  program    secretfs "));
    good(ask("refresh", &mount.path("api-key/value"), &[]));
    assert!(
        good(ask_as(OWNER, &mount, &["status", "--secrets", &at])).contains("\n  api-key  store:api-key  1 ")
    );
    good(ask_as(OWNER, &mount, &["flush", &at]));
    refused(ask_as(OTHER, &mount, &["flush", &at]), 77, &format!("it belongs to user {OWNER}"));
}

#[test]
fn a_hundred_clients_with_nothing_sensible_to_say_do_no_harm() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("users", is_root()) else { return };
    let store = store();
    let mount = started(store.mount());
    let socket = socket(&mount);
    let mut clients = Vec::new();
    for number in 0..100_u32 {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_write_timeout(Some(HANG)).unwrap();
        client.set_read_timeout(Some(HANG)).unwrap();
        // Whoever is answered before the end of what they say is hung up on.
        let _ = match number % 5 {
            0 => client.write_all(&[0xff; 100]),
            1 => client.write_all("[".repeat(70_000).as_bytes()).and_then(|()| client.write_all(b"\n")),
            2 => client.write_all(b"{\"version\":1,\"command\":"),
            3 => client.write_all(&vec![b'x'; 2 << 20]),
            _ => Ok(()),
        };
        clients.push(client);
    }
    good(ask("status", &mount.at, &[]));
    good(ask("refresh", &mount.path("api-key"), &[]));
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
    let began = Instant::now();
    for mut client in clients {
        let mut told = Vec::new();
        let ended = client.read_to_end(&mut told);
        let hung = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!hung, "a client that says nothing is not dropped");
        assert!(told.is_empty() || told.ends_with(b"}\n"), "{}", told.escape_ascii());
    }
    assert!(began.elapsed() < HANG);
    good(ask("status", &mount.at, &[]));
}

#[test]
fn a_killed_programs_socket_is_told_from_a_living_one_and_does_not_stand_in_the_way() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("users", is_root()) else { return };
    let store = store();
    let mut mount = started(store.mount());
    let socket = socket(&mount);
    mount.kill();
    assert!(socket.exists());
    let gone = ask("status", &mount.at, &[]);
    assert!(gone.out.contains("no answer  its program is gone: run `secretfs unmount`"), "{}", gone.out);
    refused(gone, 74, "its program is gone");
    refused(ask("refresh", &mount.path("api-key"), &[]), 74, "its program is gone");
    run(secretfs().arg("unmount").arg(&mount.at));
    let arguments = [format!("store:{}", store.file().display()), mount.at.display().to_string()];
    // The kernel gives out the lowest number that is free: most often that of the dead one.
    let started =
        secretfs().arg("mount").args(arguments).arg("--identity").arg(store.identity()).arg("-d").output();
    assert!(started.unwrap().status.success());
    let told = ask("status", &mount.at, &[]);
    run(secretfs().arg("unmount").arg(&mount.at));
    good(told);
    let _ = std::fs::remove_file(&socket);
}

#[test]
fn a_mount_works_where_no_socket_can_be_made_and_status_says_so() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("users", is_root()) else { return };
    let Some(_) = available("unshare", program("unshare")) else { return };
    let store = store();
    let at = store.folder.path().join("at");
    std::fs::create_dir(&at).unwrap();
    // In a mount namespace of its own: a machine where nothing can be written to where sockets are.
    let script = "set -e\nmount -t tmpfs -o ro none /run\nmkdir -p /tmp/secretfs-0\n\
        mount -t tmpfs -o ro,mode=0700 none /tmp/secretfs-0\n\
        \"$0\" mount \"store:$1\" \"$2\" --identity \"$3\" --daemon\n\
        wc -c < \"$2/api-key/value\"\n\"$0\" status \"$2\" || echo \"code $?\"\n\"$0\" unmount \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    command.arg(env!("CARGO_BIN_EXE_secretfs")).arg(store.file()).arg(&at).arg(store.identity());
    let told = said(&command.env_remove("XDG_RUNTIME_DIR").output().unwrap());
    // Here it is an empty folder, unless somebody uses it.
    let _ = std::fs::remove_dir("/tmp/secretfs-0");
    assert!(told.out.starts_with("12\n"), "{}\n{}", told.out, told.err);
    assert!(told.out.contains("code 74"), "{}\n{}", told.out, told.err);
    let warning = told.err.lines().find(|line| line.contains("WARN")).unwrap_or_default();
    assert!(warning.contains("no control socket") && warning.contains("/run/secretfs: "), "{}", told.err);
    assert!(told.err.contains("no control socket is at /run/secretfs/"), "{}", told.err);
}
