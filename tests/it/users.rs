//! Owns the promises to and against users: who may read a mount of somebody without privileges, and who may not.
//! Runs as root, because it becomes several users; their mounts are made by fusermount3.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::available;
use crate::support::mount::{Mount, Plan, Store, possible, secretfs, wait_until};
use crate::support::program;

/// `nobody`: fusermount3 wants a user with a name.
pub const OWNER: u32 = 65534;
pub const OTHER: u32 = 4322;

#[test]
fn a_user_mounts_through_the_helper_and_is_alone_in_it() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let store = store_of_user();
    let mut mount = open_to_all(store.mount().by_user(OWNER)).start();
    assert_eq!(cat(OWNER, &mount), Ok("canary-value".into()));
    assert_eq!(listing(OWNER, &mount), Ok("api-key\n".into()));
    assert_eq!(cat(OTHER, &mount), refused());
    assert_eq!(cat(0, &mount), refused(), "root too");
    put_as_root(&store, "canary-new");
    assert_eq!(cat(OWNER, &mount), Ok("canary-new".into()));
    assert_eq!(mount.stop(), Some(0));
    assert!(!mount.is_mounted());
}

#[test]
fn with_allow_other_modes_decide_also_after_root_has_looked() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let Some(()) = available("fusermount", user_allow_other()) else { return };
    let store = store_of_user();
    let mount = open_to_all(store.mount().arg("-o").arg("allow_other,mode=0400").by_user(OWNER)).start();
    assert_eq!(cat(OTHER, &mount), refused());
    // libfuse issue 15: an entry that root has looked up must not let others in.
    assert_eq!(cat(0, &mount), Ok("canary-value".into()));
    assert_eq!(listing(0, &mount), Ok("api-key\n".into()));
    assert_eq!(cat(OTHER, &mount), refused());
    assert_eq!(listing(OTHER, &mount), refused());
    assert_eq!(cat(OWNER, &mount), Ok("canary-value".into()));
    drop(mount);
    let mount = open_to_all(store.mount().arg("-o").arg("allow_other,mode=0444").by_user(OWNER)).start();
    assert_eq!(cat(OTHER, &mount), Ok("canary-value".into()));
    assert_eq!(cat(OWNER, &mount), Ok("canary-value".into()));
}

#[test]
fn modes_of_a_mount_by_root_hold_for_users() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("users", is_root()) else { return };
    let store = Store::new();
    store.put("api-key", &["value=canary-value"]);
    let options = format!("allow_other,mode=0440,uid=0,gid={OWNER}");
    let mount = open_to_all(store.mount().arg("-o").arg(options)).start();
    assert_eq!(cat(0, &mount), Ok("canary-value".into()));
    assert_eq!(cat(OWNER, &mount), Ok("canary-value".into()), "by its group");
    assert_eq!(cat(OTHER, &mount), refused());
}

#[test]
fn a_user_unmounts_what_is_theirs_and_lazily_what_is_in_use() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let store = store_of_user();
    let mut mount = open_to_all(store.mount().by_user(OWNER)).start();
    let unmount = |uid: u32, options: &[&str]| {
        let mut command = Command::new(mount.folder.path().join("secretfs"));
        command.arg("unmount").args(options).arg(&mount.at).uid(uid).gid(uid).output().unwrap()
    };
    let stranger = unmount(OTHER, &[]);
    assert!(!stranger.status.success());
    assert!(mount.is_mounted());
    let script = "exec 3<\"$0\"; echo open; read nothing";
    let mut holder = Command::new("sh");
    holder.arg("-c").arg(script).arg(mount.path("api-key/value")).uid(OWNER).gid(OWNER);
    let mut holder =
        holder.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0; 5]).unwrap();
    let busy = unmount(OWNER, &[]);
    assert_eq!(busy.status.code(), Some(74), "{}", said(&busy));
    assert!(said(&busy).contains("--lazy"), "{}", said(&busy));
    let lazy = unmount(OWNER, &["--lazy"]);
    assert!(lazy.status.success(), "{}", said(&lazy));
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!(mount.ended(), Some(0));
}

#[test]
fn a_user_without_the_right_to_the_mountpoint_is_told_so() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let store = store_of_user();
    let plan = open_to_all(store.mount().by_user(OWNER));
    let at = plan.folder().join("roots");
    std::fs::create_dir(&at).unwrap();
    let mut command = Command::new(plan.folder().join("secretfs"));
    command.arg("mount").arg(format!("store:{}", store.file().display())).arg(&at);
    let output = command.arg("--identity").arg(store.identity()).uid(OWNER).gid(OWNER).output().unwrap();
    assert_eq!(output.status.code(), Some(71), "{}", said(&output));
    let last = said(&output).lines().last().unwrap().to_owned();
    assert!(last.starts_with("secretfs: cannot mount on ") && last.contains("write access"), "{last}");
}

/// It is in the tree before its first worker is there.
#[test]
fn a_mount_of_a_user_that_cannot_be_served_is_not_left_behind() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let plan = open_to_all(Plan::of("").by_user(OWNER));
    let folder = plan.folder().canonicalize().unwrap();
    let (at, config, authorities) = (folder.join("mnt"), folder.join("config.toml"), folder.join("ca.pem"));
    let text = format!(
        "[backend.v]\ntype = \"vault\"\naddress = \"https://127.0.0.1:1\"\nca_cert = {authorities:?}\n\
         [[tree]]\npath = \"/\"\nbackend = \"v\"\nsource = \"secret\"\n"
    );
    for (file, text) in [(&config, text.as_str()), (&authorities, "no certificate")] {
        std::fs::write(file, text).unwrap();
        chown(file, Some(OWNER), Some(OWNER)).unwrap();
    }
    let mut command = Command::new(folder.join("secretfs"));
    command.arg("mount").arg("--config").arg(config).arg(&at).env("VAULT_TOKEN", "canary-token");
    let output = command.uid(OWNER).gid(OWNER).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("holds no PEM certificate"), "{}", said(&output));
    assert_eq!(secretfs::mounts::device_at(&at).unwrap(), None);
}

#[test]
fn another_process_of_the_same_user_cannot_read_the_programs_memory() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let store = store_of_user();
    let mount = open_to_all(store.mount().by_user(OWNER)).start();
    assert_eq!(cat(OWNER, &mount), Ok("canary-value".into()));
    for (pid, file) in [mount.pid(), mount.worker()]
        .iter()
        .flat_map(|pid| ["mem", "environ", "maps"].map(|file| (pid, file)))
    {
        let path = format!("/proc/{pid}/{file}");
        let output = as_user(OWNER, "head", &["-c", "1", &path]);
        assert!(!output.status.success(), "{path} can be read");
        assert!(said(&output).contains("denied"), "{path}: {}", said(&output));
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", mount.worker())).unwrap();
    let core: Vec<&str> = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(core[4..6], ["0", "0"], "{core:?}");
}

#[test]
fn an_unprivileged_user_can_change_nothing_either() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let Some(_) = available("python3", program("python3")) else { return };
    let store = store_of_user();
    let mount = open_to_all(store.mount().by_user(OWNER)).start();
    for script in [
        "echo canary > \"$0/api-key/value\"",
        "rm -f \"$0/api-key/value\"",
        "chmod 0644 \"$0/api-key/value\"",
        "mkdir \"$0/new\"",
        "touch \"$0/api-key/new\"",
    ] {
        let output = as_user(OWNER, "sh", &["-c", script, &mount.at.to_string_lossy()]);
        assert!(!output.status.success(), "{script}");
        assert!(said(&output).contains("Read-only file system"), "{script}: {}", said(&output));
    }
}

#[test]
fn a_users_mount_says_that_watchers_are_not_told_and_shows_changes_to_who_looks() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let store = store_of_user();
    let mount = open_to_all(store.mount().by_user(OWNER)).start();
    assert_eq!(cat(OWNER, &mount), Ok("canary-value".into()));
    assert!(mount.log().contains("(inotify) are not told of changes: it needs the right to mount"));
    let file = mount.path("api-key/value").to_string_lossy().into_owned();
    let looked = || outcome(&as_user(OWNER, "stat", &["-c", "%s %Y", &file])).unwrap();
    let before = looked();
    // Another second of the file's time.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    put_as_root(&store, "canary-longer");
    wait_until("another size and time", || {
        let (size, time) = (looked(), before.split_once(' ').unwrap().1.to_owned());
        size.starts_with("13 ") && !size.trim_end().ends_with(time.trim_end())
    });
    let options = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = options.lines().find(|line| line.contains(&*mount.at.to_string_lossy())).unwrap();
    assert!(line.split(" - ").all(|half| half.split(' ').any(|word| word.split(',').any(|o| o == "ro"))));
}

#[test]
fn a_user_mounts_in_the_background() {
    let Some(()) = available("fusermount", users_can_mount()) else { return };
    let store = store_of_user();
    let plan = open_to_all(store.mount().by_user(OWNER));
    let at = plan.folder().join("mnt").canonicalize().unwrap();
    let mut command = Command::new(plan.folder().join("secretfs"));
    command.arg("mount").arg(format!("store:{}", store.file().display())).arg(&at).arg("--daemon");
    let output = command.arg("--identity").arg(store.identity()).uid(OWNER).gid(OWNER).output().unwrap();
    let read = as_user(OWNER, "cat", &[&at.join("api-key/value").to_string_lossy()]);
    let ended = secretfs().arg("unmount").arg(&at).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&read.stdout), "canary-value", "{}", said(&read));
    assert!(ended.status.success(), "{}", said(&ended));
}

pub fn users_can_mount() -> Result<(), String> {
    is_root()?;
    program("fusermount3")?;
    uzers::get_user_by_uid(OWNER).ok_or(format!("no user has the number {OWNER}"))?;
    possible()?;
    let mode =
        std::fs::metadata("/dev/fuse").map_err(|error| format!("/dev/fuse: {error}"))?.permissions().mode();
    if mode & 0o006 == 0o006 { Ok(()) } else { Err(format!("/dev/fuse has mode {:03o}", mode & 0o777)) }
}

fn user_allow_other() -> Result<(), String> {
    let config =
        std::fs::read_to_string("/etc/fuse.conf").map_err(|error| format!("/etc/fuse.conf: {error}"))?;
    let set = config.lines().any(|line| line.trim() == "user_allow_other");
    if set { Ok(()) } else { Err("/etc/fuse.conf has no user_allow_other".to_owned()) }
}

pub fn is_root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("only root can become other users".into()) }
}

/// A store with `api-key/value` that belongs to [`OWNER`].
pub fn store_of_user() -> Store {
    let store = Store::new();
    store.put("api-key", &["value=canary-value"]);
    give_to_user(&store);
    store
}

/// The program that mounts keeps its key: that the file changes hands for a moment is nothing to it.
fn put_as_root(store: &Store, value: &str) {
    chown(store.identity(), Some(0), Some(0)).unwrap();
    store.put("api-key", &[&format!("value={value}")]);
    give_to_user(store);
}

fn give_to_user(store: &Store) {
    for path in [store.folder.path().to_owned(), store.file(), store.identity()] {
        chown(path, Some(OWNER), Some(OWNER)).unwrap();
    }
}

/// Lets everybody through the scratch folder, so that only the mount itself keeps them out.
pub fn open_to_all(plan: Plan) -> Plan {
    std::fs::set_permissions(plan.folder(), std::fs::Permissions::from_mode(0o755)).unwrap();
    plan
}

fn as_user(uid: u32, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").current_dir(Path::new("/")).uid(uid).gid(uid).output().unwrap()
}

pub fn cat(uid: u32, mount: &Mount) -> Result<String, String> {
    outcome(&as_user(uid, "cat", &[&mount.path("api-key/value").to_string_lossy()]))
}

fn listing(uid: u32, mount: &Mount) -> Result<String, String> {
    outcome(&as_user(uid, "ls", &[&mount.at.to_string_lossy()]))
}

/// What was printed, or the system's own words for the refusal.
fn outcome(output: &Output) -> Result<String, String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(said(output).trim().rsplit(": ").next().unwrap_or_default().to_owned())
}

fn refused() -> Result<String, String> {
    Err("Permission denied".to_owned())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
