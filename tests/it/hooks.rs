//! Owns the promises about hooks on a real mount: what a program is given, that a signal arrives, that no hook does harm.
//! Runs on the embedded store.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::support::mount::{HANG, Mount, Store, possible, run, secretfs, signal, wait_until};
use crate::support::{available, program};

/// A store with `team/db` (`user`, `password`) and `other`, and a configuration that shows it with these hooks.
struct World {
    store: Store,
    config: PathBuf,
}

impl World {
    /// In `hooks` the word FOLDER is the folder that is also given to [`World::path`].
    fn new(mount: &str, hooks: &str) -> Self {
        let store = Store::new();
        store.put("team/db", &["user=canary-user-1", "password=canary-password-1"]);
        store.put("other", &["value=canary-other"]);
        let config = store.folder.path().join("config.toml");
        let (age, identity) = (store.file(), store.identity());
        let text = format!(
            "[mount]\n{mount}\n[backend.local]\ntype = \"store\"\nfile = {age:?}\nidentity = {identity:?}\n\
             [[tree]]\npath = \"/\"\nbackend = \"local\"\n{hooks}"
        );
        std::fs::write(&config, text.replace("FOLDER", &store.folder.path().to_string_lossy())).unwrap();
        Self { store, config }
    }

    fn start(&self) -> Mount {
        let mount = Mount::of("").arg("--config").arg(&self.config).start();
        assert_eq!(mount.read("team/db/password").unwrap(), b"canary-password-1");
        mount
    }

    /// A new version of `team/db`, seen by whoever opens it.
    fn rotate(&self, mount: &Mount, number: u32) {
        self.store.put("team/db", &[&format!("password=canary-password-{number}")]);
        assert_eq!(mount.read("team/db/password").unwrap(), format!("canary-password-{number}").as_bytes());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.store.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn wait_for(&self, name: &str, text: &str) {
        wait_until(&format!("{text:?} in {name}"), || self.read(name) == text);
    }
}

/// A hook without waits about `team/db` that runs this script; its first argument is the folder.
fn shell(script: &str, more: &str) -> String {
    format!(
        "[[hook]]\npath = \"/team/*\"\nexec = [\"/bin/sh\", \"-c\", '''{script}''', \"hook\", \"FOLDER\"]\n\
         debounce = 0\ninterval = 0\n{more}\n"
    )
}

fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn a_program_runs_after_a_change_and_reads_the_new_value_from_the_mount() {
    let Some(()) = available("mount", possible()) else { return };
    let script = "printf '%s\\n' \"$@\" > $1/args; env > $1/env; ls -l /proc/self/fd > $1/fds; \
                  cat $SECRETFS_PATHS/password >> $1/seen; echo told; printf ' \\033[2J\\n' >&2; echo x >> $1/done";
    let world = World::new("", &shell(script, ""));
    let mount = world.start();
    world.rotate(&mount, 2);
    world.wait_for("done", "x\n");
    assert_eq!(world.read("seen"), "canary-password-2");
    assert_eq!(world.read("args"), format!("{}\n", world.store.folder.path().display()));
    let environment = world.read("env");
    let whole = |name: &str| environment.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    assert_eq!(PathBuf::from(whole("SECRETFS_MOUNT=")), mount.at);
    assert_eq!(PathBuf::from(whole("SECRETFS_PATHS=")), mount.path("team/db"));
    assert!(!environment.contains("canary") && !environment.contains("SECRETFS_LOG"), "{environment}");
    for ours in ["fuse", "socket:", "anon_inode", "inotify", "store.age"] {
        assert!(!world.read("fds").contains(ours), "{}", world.read("fds"));
    }
    wait_until("the outcome in the log", || mount.log().contains("the hook ran: exit code 0, "));
    assert!(mount.log().contains(": told hook=\"exec /bin/sh\""), "{}", mount.log());
    assert!(mount.log().contains(":  \\u{1b}[2J hook="), "{}", mount.log());
    // what is the same, and what no hook is about, is no news
    world.store.put("other", &["value=canary-other-2"]);
    assert_eq!(mount.read("other/value").unwrap(), b"canary-other-2");
    world.store.put("unrelated", &["value=canary"]);
    assert_eq!(mount.read("team/db/password").unwrap(), b"canary-password-2");
    world.rotate(&mount, 3);
    world.wait_for("done", "x\nx\n");
    assert_eq!(world.read("seen"), "canary-password-2canary-password-3");
}

#[test]
fn a_change_that_came_while_no_worker_was_there_is_told_by_the_next_one() {
    let Some(()) = available("mount", possible()) else { return };
    let world = World::new("", &shell("cat $SECRETFS_PATHS/password >> $1/seen; echo x >> $1/done", ""));
    let mount = world.start();
    // The holder starts no other before it is let go on.
    signal(mount.pid(), "STOP");
    signal(mount.worker(), "KILL");
    world.store.put("team/db", &["password=canary-password-2"]);
    signal(mount.pid(), "CONT");
    assert_eq!(mount.read("team/db/password").unwrap(), b"canary-password-2");
    world.wait_for("done", "x\n");
    assert_eq!(world.read("seen"), "canary-password-2");
    // what nobody has changed is no news to a new worker
    mount.kill_worker();
    assert_eq!(mount.read("team/db/password").unwrap(), b"canary-password-2");
    world.rotate(&mount, 3);
    world.wait_for("done", "x\nx\n");
    assert_eq!(world.read("seen"), "canary-password-2canary-password-3");
}

#[test]
fn a_change_that_waits_for_its_run_while_the_worker_is_exchanged_is_told_once() {
    let Some(()) = available("mount", possible()) else { return };
    let script = "cat $SECRETFS_PATHS/password >> $1/seen; echo x >> $1/done";
    let more = "[[hook]]\npath = \"/other\"\nexec = [\"/bin/true\"]\ndebounce = 0\ninterval = 0\n";
    let hooks = shell(script, more).replacen("debounce = 0", "debounce = \"15s\"", 1);
    let world = World::new("", &hooks);
    let mount = world.start();
    let hook = |at: usize, what: &str| {
        let output = run(secretfs().args(["status", "--json"]).arg(&mount.at)).stdout;
        serde_json::from_slice::<serde_json::Value>(&output).unwrap()["mounts"][0]["hooks"][at][what].clone()
    };
    world.rotate(&mount, 2);
    wait_until("a change that waits", || hook(0, "state") == "waiting");
    let before = mount.worker();
    run(secretfs().arg("upgrade").arg(&mount.at));
    assert_ne!(mount.worker(), before);
    world.wait_for("done", "x\n");
    wait_until("the end of the run", || hook(0, "state") == "idle");
    assert_eq!(hook(0, "runs"), 1);
    assert_eq!(world.read("seen"), "canary-password-2");
    // What the old worker knew is no news to the new one: whatever it found would have waited with this.
    assert_eq!(mount.read("other/value").unwrap(), b"canary-other");
    world.store.put("other", &["value=canary-other-2"]);
    assert_eq!(mount.read("other/value").unwrap(), b"canary-other-2");
    wait_until("another hook", || hook(1, "runs") == 1);
    assert_eq!((hook(0, "runs"), hook(0, "state")), (1.into(), "idle".into()));
}

#[test]
fn what_a_program_prints_stays_out_of_the_log_where_that_is_asked_for() {
    let Some(()) = available("mount", possible()) else { return };
    let script = "cat $SECRETFS_PATHS/password; cat $SECRETFS_PATHS/.env >&2";
    let world = World::new("", &shell(script, "log_output = false"));
    let mount = world.start();
    world.rotate(&mount, 2);
    wait_until("the outcome in the log", || mount.log().contains("the hook ran: exit code 0, "));
    let log = mount.log();
    let line = log.lines().find(|line| line.contains("the hook ran")).unwrap();
    assert!(!line.contains(" 0 bytes"), "{line}");
    // that the log holds no canary is looked at when the mount is dropped
}

#[test]
fn a_process_gets_a_signal_by_its_pid_file() {
    let Some(()) = available("mount", possible()) else { return };
    let world = World::new(
        "",
        "[[hook]]\npath = \"/team/db\"\nsignal = \"HUP\"\npid_file = \"FOLDER/pid\"\ndebounce = 0\ninterval = 0\n",
    );
    let mount = world.start();
    // nobody there yet: a failure that is told, and no more
    world.rotate(&mount, 2);
    wait_until("a failure in the log", || {
        mount.log().contains("the hook failed: the PID file cannot be read")
    });
    let script = "trap 'echo hup >> $1/got' HUP; echo $$ > $1/pid.new; mv $1/pid.new $1/pid; \
                  while [ ! -e $1/end ]; do sleep 0.05; done";
    let mut service =
        Command::new("sh").args(["-c", script, "service"]).arg(world.store.folder.path()).spawn().unwrap();
    wait_until("the PID file", || world.path("pid").exists());
    world.rotate(&mount, 3);
    world.wait_for("got", "hup\n");
    world.rotate(&mount, 4);
    world.wait_for("got", "hup\nhup\n");
    std::fs::write(world.path("end"), "").unwrap();
    assert!(service.wait().unwrap().success());
    assert!(mount.log().contains(&format!("the hook ran: sent to process {}", service.id())));
}

#[test]
fn units_are_reloaded_and_signalled_through_systemctl() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("unshare", private_namespace()) else { return };
    let hooks = "[[hook]]\npath = \"/team/db\"\nreload = \"app.service\"\ndebounce = 0\n\
                 [[hook]]\npath = \"/team/db/password\"\nsignal = \"USR1\"\nunit = \"web@1.service\"\ndebounce = 0\n\
                 [[hook]]\npath = \"/other\"\nreload = \"never.service\"\n";
    let world = World::new("", hooks);
    std::fs::create_dir(world.path("mnt")).unwrap();
    // In a mount namespace of its own, /usr/bin is another folder of links, with a systemctl of ours in it: the program looks
    // nowhere else, and no switch of it says where to look.
    let script = r#"
        set -e
        cd "$1"
        mkdir real bin
        mount --bind /usr/bin real
        ln -s "$1"/real/* bin/
        rm -f bin/systemctl
        cat > bin/systemctl <<'END'
#!/bin/sh
cd "$(dirname "$0")" && read -r folder < folder
echo "$*" >> "$folder/calls"
env | grep -Ev '^(PWD|OLDPWD|SHLVL|_)=' >> "$folder/env"
echo "Failed to do that" >&2
case "$*" in *reload*) exit 0;; *) exit 4;; esac
END
        chmod 755 bin/systemctl
        echo "$1" > bin/folder
        mount --bind bin /usr/bin
        "$2" mount --config config.toml mnt 2> log &
        until cat mnt/team/db/password > first 2> /dev/null; do sleep 0.05; done
        "$2" store put store.age team/db password=canary-2 --identity identity > /dev/null
        cat mnt/team/db/password > second
        until [ "$(grep -c 'the hook' log)" = 2 ]; do sleep 0.05; done
        kill $!
        wait $!
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "timeout", "60", "sh", "-c", script, "sh"]);
    command.arg(world.store.folder.path()).arg(env!("CARGO_BIN_EXE_secretfs")).env("SECRETFS_LOG", "trace");
    run(&mut command);
    assert_eq!(
        (world.read("first").as_str(), world.read("second").as_str()),
        ("canary-password-1", "canary-2")
    );
    let mut calls: Vec<_> = world.read("calls").lines().map(str::to_owned).collect();
    calls.sort();
    assert_eq!(
        calls,
        [
            "--no-ask-password kill --kill-who=main --signal USR1 -- web@1.service",
            "--no-ask-password reload -- app.service"
        ]
    );
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(world.read("env"), format!("{path}\n{path}\n"));
    let log = world.read("log");
    assert!(!log.contains("canary"), "{log}");
    let has = |words: &[&str]| log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has(&["INFO", "reload app.service", "the hook ran: exit code 0, 18 bytes of output"]), "{log}");
    assert!(has(&["WARN", "signal USR1 web@1.service", "the hook failed: exit code 4, "]), "{log}");
    assert!(has(&["reload app.service", "Failed to do that"]), "{log}");
}

#[test]
fn hooks_that_hang_flood_and_fail_harm_nothing() {
    let Some(()) = available("mount", possible()) else { return };
    let hooks = [
        shell("echo $$ > $1/hung; sleep 600 & trap '' TERM; while :; do sleep 1; done", "timeout = \"10m\""),
        shell("exec yes flooding", "timeout = \"10m\""),
        shell(
            "exec 2>&1; head -c 2000000 /dev/zero | tr '\\\\000' '\\\\033'; head -c 300000 /dev/urandom",
            "",
        ),
        shell("exit 7", ""),
        shell("echo x >> $1/well", ""),
    ];
    let world = World::new("", &hooks.concat());
    let mut mount = world.start();
    let mut expected = String::new();
    for number in 2..8 {
        world.rotate(&mount, number);
        expected.push_str("x\n");
        // every change by itself is told to the one that works, whatever the others do
        world.wait_for("well", &expected);
        wait_until("a failure in the log", || {
            mount.log().matches("the hook failed: exit code 7, 0 bytes").count() == expected.lines().count()
        });
        assert_eq!(mount.ls("team/db").unwrap(), ["password"]);
    }
    let log = mount.log();
    assert!((1000..=8192).contains(&log.matches(": flooding hook=").count()), "bounded");
    assert!(!log.contains('\u{1b}'), "escaped");
    assert!(log.len() < 4 << 20, "{}", log.len());
    let hung = world.read("hung");
    assert!(lives(&hung));
    let begun = Instant::now();
    assert_eq!(mount.stop(), Some(0));
    assert!(begun.elapsed() < HANG / 2, "{:?}", begun.elapsed());
    assert!(!lives(&hung), "a hook outlived the mount");
    assert!(!mount.is_mounted());
}

#[test]
fn a_program_that_reads_the_mount_does_not_keep_it_in_use() {
    let Some(()) = available("mount", possible()) else { return };
    let script = "exec 3< $SECRETFS_PATHS/password; echo x > $1/open; sleep 600";
    let world = World::new("", &shell(script, ""));
    let mut mount = world.start();
    world.rotate(&mount, 2);
    world.wait_for("open", "x\n");
    assert_eq!(mount.stop(), Some(0));
    assert!(!mount.log().contains("was in use"), "{}", mount.log());
}

#[test]
fn a_configuration_with_hooks_that_others_can_write_runs_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new("", &shell("touch $1/ran", ""));
    std::fs::set_permissions(&world.config, PermissionsExt::from_mode(0o666)).unwrap();
    std::fs::create_dir(world.path("mnt")).unwrap();
    let mut command = secretfs();
    command.arg("mount").arg("--config").arg(&world.config).arg(world.path("mnt"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("chmod go-w"));
    assert!(!world.path("ran").exists());
}

#[test]
fn a_hook_runs_as_another_user_without_the_groups_of_root() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(user) = available("users", other_user()) else { return };
    let script = "id -un; id -G";
    let world = World::new("", &shell(script, &format!("user = {user:?}")));
    let mount = world.start();
    world.rotate(&mount, 2);
    wait_until("the outcome in the log", || mount.log().contains("the hook ran: exit code 0, "));
    let expected = Command::new("id").args(["-g", &user]).output().unwrap();
    let log = mount.log();
    let told = |text: &str| log.contains(&format!(": {text} hook="));
    assert!(told(&user), "{log}");
    assert!(told(String::from_utf8_lossy(&expected.stdout).trim()), "{log}");
}

fn other_user() -> Result<String, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can become other users".into());
    }
    let user = uzers::get_user_by_uid(65534).ok_or("no user has the number 65534")?;
    user.name().to_str().map(str::to_owned).ok_or("its name is no text".into())
}

fn private_namespace() -> Result<(), String> {
    program("unshare")?;
    let status = Command::new("unshare")
        .args(["--mount", "mount", "--bind", "/usr/bin", "/usr/bin"])
        .stderr(Stdio::null())
        .status();
    match status {
        Ok(status) if status.success() && Path::new("/usr/bin").is_dir() => Ok(()),
        _ => Err("no private mount namespace can be made here".into()),
    }
}
