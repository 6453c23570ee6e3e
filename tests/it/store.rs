//! Owns the tests of the embedded store: the real program, the real file, the real age tool, and kill -9.
//! Does not know the mount.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use secretfs::backend::store::{self, Config, Document, Key, KeySource, Store};
use secretfs::backend::{Backend, Error};
use secretfs::clock::Clock;
use secretfs::path::BackendPath;
use secretfs::secret::Form;

use crate::support::{available, program};

/// A home with nothing in it, and the program run in it.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A home with an empty store `s.age`.
    fn with_store() -> Self {
        let home = Self::new();
        home.ok(&["init", "s.age"]);
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    fn identity(&self) -> PathBuf {
        self.path(".config/secretfs/identity")
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_secretfs"));
        command.arg("store").args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.env_clear().env("HOME", self.folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn ok<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Vec<u8> {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn text<S: AsRef<OsStr>>(&self, arguments: &[S]) -> String {
        String::from_utf8(self.ok(arguments)).unwrap()
    }

    /// The message of a command that must fail with `code`, in one line and without a value in it.
    fn fails<S: AsRef<OsStr>>(&self, code: i32, arguments: &[S]) -> String {
        failed(code, self.run(arguments))
    }

    fn with_input<S: AsRef<OsStr>>(&self, arguments: &[S], input: &[u8]) -> Output {
        with_input(self.command(arguments), input)
    }

    fn key(&self) -> Key {
        Key::from_identity_file(&self.identity()).unwrap()
    }

    fn document(&self) -> Document {
        store::load(&self.path("s.age"), &self.key()).unwrap().1
    }

    /// The names in the folder, without the hidden configuration.
    fn names(&self) -> Vec<String> {
        let names =
            fs::read_dir(self.folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != ".config").collect();
        names.sort();
        names
    }
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Whoever fails before reading closes the pipe; its message is what counts.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn failed(code: i32, output: Output) -> String {
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!message.contains("canary"), "{message}");
    assert!(output.stdout.is_empty());
    message
}

fn at(path: &str) -> BackendPath {
    BackendPath::parse(path).unwrap()
}

#[test]
fn every_value_comes_back_as_it_was_put() {
    let home = Home::with_store();
    let blob: Vec<u8> = (0..=255).chain(*b"canary").collect();
    home.write("blob", &blob);
    let put = [
        "put",
        "s.age",
        "team/api-key",
        "value=12345",
        "at=\\@canary",
        "eq=a=b",
        "empty=",
        "blob=@blob",
        "in=-",
    ];
    assert!(home.with_input(&put, b"canary\n\xff\0").status.success());
    let field = |name: &str| home.ok(&["get", "s.age", "team/api-key", "--field", name]);
    assert_eq!(field("value"), b"12345");
    assert_eq!(field("at"), b"@canary");
    assert_eq!(field("eq"), b"a=b");
    assert_eq!(field("empty"), b"");
    assert_eq!(field("blob"), blob);
    assert_eq!(field("in"), b"canary\n\xff\0");

    let json = br#"{"s": "canary", "n": 1.50, "b": true, "z": null, "o": {"y": [1, 2], "x": "c d"}, "raw": {"base64": "AP8="}}"#;
    assert!(home.with_input(&["put", "s.age", "json", "-"], json).status.success());
    let document = home.document();
    let fields = &document.get("json").unwrap().fields;
    let seen: Vec<_> = fields.iter().map(|f| (f.name.as_str(), f.value.expose(), f.form)).collect();
    let expected: [(&str, &[u8], Form); 6] = [
        ("s", b"canary", Form::Text),
        ("n", b"1.50", Form::Json),
        ("b", b"true", Form::Json),
        ("z", b"null", Form::Json),
        ("o", br#"{"y":[1,2],"x":"c d"}"#, Form::Json),
        ("raw", b"\0\xff", Form::Text),
    ];
    assert_eq!(seen, expected);

    home.write("fields.json", home.ok(&["get", "s.age", "json", "--format", "json"]));
    let shown: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path("fields.json")).unwrap()).unwrap();
    assert_eq!(shown["fields"]["raw"]["base64"], "AP8=");
    assert_eq!(shown["version"], 1);
}

#[test]
fn put_replaces_the_whole_secret_and_rm_does_not_reset_its_version() {
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a", "x=canary", "y=canary"]);
    home.ok(&["put", "s.age", "a", "z=canary\tsecond"]);
    assert_eq!(home.text(&["get", "s.age", "a"]), "Key    Value\n---    -----\nz      canary\\tsecond\n");
    home.fails(66, &["get", "s.age", "a", "--field", "x"]);
    home.ok(&["rm", "s.age", "a"]);
    home.fails(66, &["get", "s.age", "a"]);
    home.fails(66, &["rm", "s.age", "a"]);
    home.ok(&["put", "s.age", "a", "x=canary"]);
    assert_eq!(home.document().get("a").unwrap().version, 3);
}

#[test]
fn ls_shows_folders_and_secrets_of_one_name() {
    let home = Home::with_store();
    for path in ["foo", "foo/bar", "deep/er/still", "zoo", "new\nline"] {
        home.ok(&["put", "s.age", path, "k=canary"]);
    }
    assert_eq!(home.text(&["ls", "s.age"]), "deep/\nfoo\nfoo/\nnew\\nline\nzoo\n");
    assert_eq!(home.text(&["ls", "s.age", "foo"]), "bar\n");
    assert_eq!(home.text(&["ls", "s.age", "deep/er/"]), "still\n");
    home.fails(66, &["ls", "s.age", "zoo"]);
}

#[test]
fn wrong_use_says_what_to_do() {
    let home = Home::with_store();
    for path in ["", "/a", "a/", "a//b"] {
        assert!(home.fails(64, &["put", "s.age", path, "k=canary"]).contains("slash"));
    }
    assert!(home.fails(64, &["put", "s.age", "a", "canary"]).contains("KEY=VALUE"));
    home.fails(64, &["put", "s.age", "a", "k=canary", "k=canary"]);
    home.fails(64, &["put", "s.age", "a", "k=-", "l=-"]);
    home.fails(66, &["put", "s.age", "a", "k=@missing"]);
    home.fails(65, &["put", "s.age", "a", "@s.age"]);
    assert!(home.fails(73, &["init", "s.age"]).contains("exists already"));
    assert!(home.fails(66, &["ls", "none.age"]).contains("secretfs store init"));
    let secret_key = fs::read_to_string(home.identity()).unwrap().lines().last().unwrap().to_owned();
    let message = home.fails(64, &["init", "t.age", "--recipient", &secret_key]);
    assert!(!message.contains("SECRET-KEY") && !home.path("t.age").exists());
    assert_eq!(home.names(), ["s.age"]);
}

#[test]
fn init_makes_the_identity_once_and_says_so() {
    let home = Home::new();
    let output = home.run(&["init", "s.age"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("made a new identity"));
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&home.identity()), 0o600);
    assert_eq!(mode(home.identity().parent().unwrap()), 0o700);
    assert_eq!(mode(&home.path("s.age")), 0o600);
    let before = fs::read(home.identity()).unwrap();
    assert!(home.run(&["init", "t.age"]).stderr.is_empty());
    assert_eq!(fs::read(home.identity()).unwrap(), before);
    assert_eq!(home.names(), ["s.age", "t.age"]);
}

#[test]
fn a_team_reads_one_store_and_nobody_else_does() {
    let home = Home::with_store();
    home.ok(&["init", "other.age", "--identity", "other"]);
    home.ok(&["init", "stranger.age", "--identity", "stranger"]);
    let public = Key::from_identity_file(&home.path("other")).unwrap().public_keys().remove(0);
    home.ok(&["init", "team.age", "--recipient", &public, "--recipient", &public]);
    home.ok(&["put", "team.age", "a", "k=canary1"]);
    home.ok(&["put", "team.age", "b", "k=canary2", "--identity", "other"]);
    assert_eq!(home.ok(&["get", "team.age", "b", "--field", "k"]), b"canary2");
    assert_eq!(home.ok(&["get", "team.age", "a", "--field", "k", "--identity", "other"]), b"canary1");
    let message = home.fails(77, &["get", "team.age", "a", "--identity", "stranger"]);
    assert!(message.contains("stranger") && message.contains("team.age"), "{message}");
    let by_variable =
        home.command(&["get", "team.age", "a"]).env("SECRETFS_IDENTITY", "stranger").output().unwrap();
    failed(77, by_variable);
}

#[test]
fn a_key_that_others_could_have_changed_is_refused() {
    let home = Home::with_store();
    let allow = |mode| fs::set_permissions(home.identity(), fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o602, 0o620, 0o666] {
        allow(mode);
        assert!(home.fails(77, &["ls", "s.age"]).contains("chmod go-w"));
    }
    allow(0o644);
    let output = home.run(&["ls", "s.age"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("can be read by other users"));
    home.write("bad", "# fine\nAGE-SECRET-KEY-canary\n");
    fs::set_permissions(home.path("bad"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(home.fails(78, &["ls", "s.age", "--identity", "bad"]).contains("line 2"));
    home.fails(66, &["ls", "s.age", "--identity", "missing"]);
}

#[test]
fn a_passphrase_opens_what_it_closed() {
    let home = Home::with_store();
    for (name, passphrase) in [("right", "canary horse\n"), ("wrong", "canary cow"), ("empty", "\n")] {
        let file = home.write(name, passphrase);
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    home.ok(&["init", "p.age", "--passphrase-file", "right"]);
    home.ok(&["put", "p.age", "a", "k=canary", "--passphrase-file", "right"]);
    assert_eq!(home.ok(&["get", "p.age", "a", "--field", "k", "--passphrase-file", "right"]), b"canary");
    home.fails(77, &["get", "p.age", "a", "--passphrase-file", "wrong"]);
    home.fails(78, &["get", "p.age", "a", "--passphrase-file", "empty"]);
    assert!(home.fails(77, &["get", "p.age", "a"]).contains("--passphrase-file"));
    home.fails(77, &["get", "s.age", "a", "--passphrase-file", "right"]);
    home.fails(64, &["init", "q.age", "--passphrase"]);
}

#[test]
fn the_real_age_tool_reads_ours_and_we_read_its() {
    let tools = program("rage").and_then(|age| Ok((age, program("rage-keygen")?)));
    let tools = tools.or_else(|_| program("age").and_then(|age| Ok((age, program("age-keygen")?))));
    let Some((age, keygen)) = available("age", tools) else { return };
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a/b", "k=canary"]);
    let decrypt = |identity: &Path, file: &str| {
        let output =
            Command::new(&age).args(["-d", "-i"]).arg(identity).arg(home.path(file)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let plaintext = decrypt(&home.identity(), "s.age");
    assert_eq!(plaintext["format"], "secretfs-store/1");
    assert_eq!(plaintext["secrets"]["a/b"]["fields"]["k"], "canary");

    let theirs = home.path("theirs");
    assert!(Command::new(keygen).arg("-o").arg(&theirs).stderr(Stdio::null()).status().unwrap().success());
    let public = Key::from_identity_file(&theirs).unwrap().public_keys().remove(0);
    let json = format!(
        r#"{{"format":"secretfs-store/1","recipients":["{public}"],"secrets":{{"x":{{"version":7,
            "created":"2026-11-24T20:26:39Z","fields":{{"k":"canary"}}}}}}}}"#
    );
    let mut encrypt = Command::new(&age);
    encrypt.args(["-e", "-r", &public, "-o"]).arg(home.path("made.age"));
    assert!(with_input(encrypt, json.as_bytes()).status.success());
    assert_eq!(home.ok(&["get", "made.age", "x", "--field", "k", "--identity", "theirs"]), b"canary");
    home.ok(&["put", "made.age", "x", "k=canary2", "--identity", "theirs"]);
    assert_eq!(decrypt(&theirs, "made.age")["secrets"]["x"]["version"], 8);
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a", "k=canary"]);
    let good = fs::read(home.path("s.age")).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut header = good.clone();
    let mac = good.windows(4).position(|four| four == b"--- ").unwrap() + 10;
    header[mac] = if header[mac] == b'A' { b'B' } else { b'A' };
    for bad in [&b""[..], b"canary", &good[..good.len() - 1], &good[..40], &flipped, &header] {
        home.write("bad.age", bad);
        for command in [&["put", "bad.age", "a", "k=canary"][..], &["ls", "bad.age"]] {
            home.fails(65, command);
        }
        assert_eq!(fs::read(home.path("bad.age")).unwrap(), bad);
    }
}

#[test]
fn a_write_keeps_mode_owner_and_link_and_clears_what_a_crash_left() {
    let home = Home::with_store();
    fs::set_permissions(home.path("s.age"), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("s.age", home.path("link.age")).unwrap();
    home.write(".s.age.new", "half of a canary");
    let (owner, number) =
        (fs::metadata(home.path("s.age")).unwrap().uid(), fs::metadata(home.path("s.age")).unwrap().ino());
    home.ok(&["put", "link.age", "a", "k=canary"]);
    let found = fs::metadata(home.path("s.age")).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid()), (0o640, owner));
    assert_ne!(found.ino(), number);
    assert!(fs::symlink_metadata(home.path("link.age")).unwrap().is_symlink());
    assert_eq!(home.names(), ["link.age", "s.age"]);
}

#[test]
fn a_writer_stopped_in_the_middle_of_the_file_leaves_the_old_one() {
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a", "k=canary"]);
    let before = fs::read(home.path("s.age")).unwrap();
    home.write("large", vec![b'x'; 200_000]);
    // The kernel ends a process that writes more than its limit (SIGXFSZ): here, after 64 KiB at most.
    let program = env!("CARGO_BIN_EXE_secretfs");
    let script = format!("ulimit -c 0; ulimit -f 64; exec '{program}' store put s.age a k=@large");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(home.folder.path()).env("HOME", home.folder.path());
    let status = shell.stderr(Stdio::null()).status().unwrap();
    assert!(!status.success());
    assert_eq!(fs::read(home.path("s.age")).unwrap(), before);
    if status.signal().is_some() {
        assert_eq!(home.names(), [".s.age.new", "large", "s.age"]);
    }
    home.ok(&["put", "s.age", "a", "k=@large"]);
    assert_eq!(home.names(), ["large", "s.age"]);
}

#[test]
fn concurrent_writers_lose_nothing() {
    let home = Home::with_store();
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let home = &home;
            scope.spawn(move || {
                for turn in 0..10 {
                    home.ok(&["put", "s.age", &format!("own/{writer}/{turn}"), "k=canary"]);
                    home.ok(&["put", "s.age", "shared", &format!("k=canary{writer}")]);
                }
            });
        }
    });
    let document = home.document();
    assert_eq!(document.get("shared").unwrap().version, 30);
    for (writer, turn) in (0..3).flat_map(|writer| (0..10).map(move |turn| (writer, turn))) {
        assert_eq!(document.get(&format!("own/{writer}/{turn}")).unwrap().version, 1);
    }
}

/// Kills in each of the two writers.
const KILLS: u64 = 100;

#[test]
fn two_writers_and_kill_minus_nine_leave_old_or_new() {
    let home = Home::with_store();
    home.write("pad", [b'p'; 40_000]);
    let acknowledged = [AtomicU64::new(1), AtomicU64::new(1)];
    let put = |writer: usize, counter: u64| {
        let arguments = [
            "put".to_owned(),
            "s.age".into(),
            format!("writer/{writer}"),
            format!("first=canary{counter}"),
            "pad=@pad".into(),
            format!("last=canary{counter}"),
        ];
        home.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut usual = Duration::ZERO;
    for writer in [0, 1] {
        let begun = Instant::now();
        assert!(put(writer, 1).wait().unwrap().success());
        usual = begun.elapsed();
    }
    let outcomes = Mutex::new((0, 0, 0));
    std::thread::scope(|scope| {
        for writer in [0, 1] {
            let (home, acknowledged, outcomes, put) = (&home, &acknowledged, &outcomes, &put);
            scope.spawn(move || {
                let key = home.key();
                let read = |writer: usize| {
                    let (_, document) =
                        store::load(&home.path("s.age"), &key).expect("the store always opens");
                    let kept = document.get(&format!("writer/{writer}")).expect("it is never lost");
                    let field = |at: usize| kept.fields[at].value.expose_str().unwrap().to_owned();
                    assert_eq!(kept.fields[1].value.len(), 40_000);
                    assert_eq!(field(0), field(2), "never of two versions");
                    (kept.version, field(0).strip_prefix("canary").unwrap().parse::<u64>().unwrap())
                };
                let (mut random, mut kills, mut span) = (Random::new(writer as u64), 0, usual.mul_f64(2.0));
                let (mut version, mut counter) = read(writer);
                while kills < KILLS {
                    let mut child = put(writer, counter + 1);
                    std::thread::sleep(span.mul_f64(random.fraction()));
                    child.kill().unwrap();
                    let killed = child.wait().unwrap().signal() == Some(9);
                    kills += u64::from(killed);
                    // The other writer and the machine's load change how long a put takes; the kills follow it.
                    span = span.mul_f64(if killed { 1.05 } else { 0.9 });

                    let others = acknowledged[1 - writer].load(Ordering::SeqCst);
                    assert!(read(1 - writer).1 >= others, "what the other writer has put stays");
                    let now = read(writer);
                    let (old, new) = ((version, counter), (version + 1, counter + 1));
                    assert!(now == new || (killed && now == old), "{now:?} is neither {old:?} nor {new:?}");
                    let mut outcomes = outcomes.lock().unwrap();
                    outcomes.0 += u32::from(!killed);
                    outcomes.1 += u32::from(killed && now == old);
                    outcomes.2 += u32::from(killed && now == new);
                    (version, counter) = now;
                    acknowledged[writer].store(counter, Ordering::SeqCst);
                }
            });
        }
    });
    let (done, old, new) = *outcomes.lock().unwrap();
    eprintln!("not killed in time: {done}; killed with the old value: {old}, with the new one: {new}");
    home.ok(&["put", "s.age", "after", "k=canary"]);
    assert_eq!(home.names(), ["pad", "s.age"]);
}

/// xorshift64*, seeded by the time: every run tries other points.
struct Random(u64);

impl Random {
    fn new(number: u64) -> Self {
        let time = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        Self((time as u64 ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// An editor that notes where it worked, leaves a backup as editors do, and then runs `script` on `$1`.
fn editor(home: &Home, script: &str) -> PathBuf {
    let note =
        "stat -f -c %T \"$1\" > fs-type; stat -c '%a %n' \"$(dirname \"$1\")\" > where; cp \"$1\" \"$1~\"";
    let file = home.write("editor", format!("#!/bin/sh\n{note}\nmkdir \"$(dirname \"$1\")/d\"\n{script}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file
}

fn memory() -> Option<()> {
    let found = rustix::fs::statfs("/dev/shm").is_ok_and(|found| found.f_type == 0x0102_1994);
    available("tmpfs", found.then_some(()).ok_or("/dev/shm is not a tmpfs".into()))
}

/// The directory where the editor worked; it must be gone, and nothing of the secret may be below the home.
fn left_no_trace(home: &Home) {
    assert_eq!(fs::read_to_string(home.path("fs-type")).unwrap().trim(), "tmpfs");
    let place = fs::read_to_string(home.path("where")).unwrap();
    let (mode, directory) = place.trim().split_once(' ').unwrap();
    assert_eq!(mode, "700");
    assert!(!Path::new(directory).exists());
    for name in home.names() {
        if name != "editor" {
            assert!(
                !String::from_utf8_lossy(&fs::read(home.path(&name)).unwrap()).contains("canary"),
                "{name}"
            );
        }
    }
}

#[test]
fn edit_changes_a_secret_and_leaves_nothing_in_clear() {
    let Some(()) = memory() else { return };
    let home = Home::with_store();
    let json = br#"{"k": "canary1", "n": 1.50, "raw": {"base64": "AP8="}}"#;
    assert!(home.with_input(&["put", "s.age", "a", "-"], json).status.success());
    let edit = |script: &str, path: &str| {
        let editor = editor(&home, script);
        // A folder that is not in memory is passed over.
        home.command(&["edit", "s.age", path])
            .env("XDG_RUNTIME_DIR", home.folder.path())
            .env("EDITOR", "/bin/false")
            .env("VISUAL", editor)
            .output()
            .unwrap()
    };
    // Editors that write a new file and rename it over the old one.
    let renames = "sed s/canary1/canary2/ \"$1\" > \"$1.tmp\" && mv \"$1.tmp\" \"$1\"";
    assert!(edit(renames, "a").status.success());
    left_no_trace(&home);
    let document = home.document();
    let kept = document.get("a").unwrap();
    let values: Vec<_> = kept.fields.iter().map(|field| field.value.expose()).collect();
    assert_eq!((kept.version, values), (2, vec![&b"canary2"[..], b"1.50", b"\0\xff"]));

    assert!(edit("true", "a").status.success());
    assert_eq!(home.document().get("a").unwrap().version, 2, "no change, no version");

    let message = failed(65, edit("printf '{\\n\"k\": canary}' > \"$1\"", "a"));
    assert!(message.contains("line 2"), "{message}");
    left_no_trace(&home);
    failed(65, edit("echo '{}' > \"$1\"", "a"));
    failed(74, edit("exit 3", "a"));
    assert_eq!(home.document().get("a").unwrap().version, 2);

    assert!(edit("echo '{\"k\": \"canary\"}' > \"$1\"", "brand/new").status.success());
    assert_eq!(home.ok(&["get", "s.age", "brand/new", "--field", "k"]), b"canary");

    let program = env!("CARGO_BIN_EXE_secretfs");
    let meanwhile =
        format!("'{program}' store put s.age a k=canary9; echo '{{\"k\": \"canary8\"}}' > \"$1\"");
    assert!(failed(74, edit(&meanwhile, "a")).contains("changed by another writer"));
    assert_eq!(home.ok(&["get", "s.age", "a", "--field", "k"]), b"canary9");
}

#[test]
fn being_told_to_end_while_editing_erases_the_text() {
    let Some(()) = memory() else { return };
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a", "k=canary"]);
    let editor = editor(&home, "mv where there; exec sleep 60");
    let mut child =
        home.command(&["edit", "s.age", "a"]).env("EDITOR", editor).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !home.path("there").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the editor never began");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().unwrap().is_none(), "Ctrl-C is the editor's");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(74));
    fs::rename(home.path("there"), home.path("where")).unwrap();
    left_no_trace(&home);
}

#[test]
fn import_reads_json_and_dotenv_and_names_what_is_wrong() {
    let home = Home::with_store();
    let json = r#"{"team/a": {"k": "canary", "n": 1}, "b": {"raw": {"base64": "AP8="}}}"#;
    home.write("many.json", json);
    home.ok(&["import", "s.age", "many.json"]);
    assert_eq!(home.ok(&["get", "s.age", "team/a", "--field", "n"]), b"1");
    assert_eq!(home.ok(&["get", "s.age", "b", "--field", "raw"]), b"\0\xff");
    home.write("prod.env", "# c\nexport USER=canary\nPASS='can # ary'\n");
    home.ok(&["import", "s.age", "prod.env"]);
    assert_eq!(home.ok(&["get", "s.age", "prod", "--field", "PASS"]), b"can # ary");
    assert!(home.with_input(&["import", "s.age", "-", "--path", "from/pipe"], b"A=1").status.success());
    assert_eq!(home.ok(&["get", "s.age", "from/pipe", "--field", "A"]), b"1");

    let before = fs::read(home.path("s.age")).unwrap();
    home.write(".env", "A=1\nB='canary\n");
    assert!(home.fails(64, &["import", "s.age", ".env"]).contains("--path"));
    let message = home.fails(65, &["import", "s.age", ".env", "--path", "x"]);
    assert!(message.contains(".env: line 2"), "{message}");
    for (bad, part) in [
        (r#"{"a": {"k": "canary"}, "b": "canary"}"#, "line 1, column"),
        ("{\"a\":\n {\"k\": canary}}", "line 2, column"),
        (r#"{"a": {"k": "canary"}, "/b": {"k": "canary"}}"#, "/b"),
        (r#"{"a": {}}"#, "no field"),
        (r#"{"a": {"k": "canary"}, "a": {"k": "canary"}}"#, "stands once"),
    ] {
        home.write("bad.json", bad);
        let message = home.fails(65, &["import", "s.age", "bad.json"]);
        assert!(message.contains("bad.json") && message.contains(part), "{message}");
    }
    home.fails(64, &["import", "s.age", "many.json", "--path", "x"]);
    home.fails(66, &["import", "s.age", "missing.json"]);
    assert_eq!(fs::read(home.path("s.age")).unwrap(), before, "an import is all or nothing");
}

fn backend(home: &Home, clock: Clock) -> Store {
    let config = Config { file: home.path("s.age"), key: KeySource::Identity(home.identity()) };
    Store::new(config, clock).unwrap()
}

#[tokio::test]
async fn the_backend_follows_the_file() {
    let home = Home::with_store();
    let store = backend(&home, Clock::manual());
    assert!(store.list(&BackendPath::root()).await.unwrap().entries().is_empty());
    assert_eq!(store.read(&at("a")).await.unwrap_err(), Error::NotFound);
    let mut generations = vec![store.generation()];
    for turn in 1..=3 {
        home.ok(&["put", "s.age", "dir/a", &format!("k=canary{turn}")]);
        let secret = store.read(&at("dir/a")).await.unwrap();
        assert_eq!(secret.field("k").unwrap().value.expose(), format!("canary{turn}").as_bytes());
        assert_eq!(secret.version.as_str(), turn.to_string());
        assert!(secret.created.unwrap().elapsed().unwrap() < Duration::from_secs(600));
        generations.push(store.generation());
    }
    generations.sort_unstable();
    generations.dedup();
    assert_eq!(generations.len(), 4, "every write is another generation");
    assert!(store.list(&BackendPath::root()).await.unwrap().get("dir").unwrap().folder);
    assert_eq!(store.list(&at("dir/a")).await.unwrap_err(), Error::NotFound);
}

#[tokio::test]
async fn the_backend_forgets_what_is_not_used() {
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a", "k=canary"]);
    let clock = Clock::manual();
    let store = backend(&home, clock.clone());
    assert!(!store.holds_plaintext());
    store.read(&at("a")).await.unwrap();
    clock.advance(Duration::from_secs(9));
    store.read(&at("a")).await.unwrap();
    clock.advance(Duration::from_secs(9));
    store.tidy(clock.now());
    assert!(store.holds_plaintext());
    clock.advance(Duration::from_secs(1));
    store.tidy(clock.now());
    assert!(!store.holds_plaintext());
    store.read(&at("a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_closed_store_get_one_answer() {
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a", "k=canary"]);
    let store = std::sync::Arc::new(backend(&home, Clock::System));
    // Some give up at once: the others must not wait for them for ever.
    let impatient = store.clone();
    let _ = tokio::time::timeout(Duration::ZERO, impatient.read(&at("a"))).await;
    let readers = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.read(&at("a")).await.map(|secret| secret.fields.len()) })
    });
    for reader in readers.collect::<Vec<_>>() {
        assert_eq!(reader.await.unwrap(), Ok(1));
    }
}

#[tokio::test]
async fn the_backend_says_why_it_cannot_read() {
    let home = Home::with_store();
    home.ok(&["init", "other.age", "--identity", "other"]);
    let open = |file: &str| {
        let config = Config { file: home.path(file), key: KeySource::Identity(home.identity()) };
        Store::new(config, Clock::System).unwrap()
    };
    let why = |error: Error| {
        assert!(!error.is_answer());
        error.to_string()
    };
    let missing = open("none.age");
    assert_eq!(missing.generation(), 0);
    assert!(why(missing.read(&at("a")).await.unwrap_err()).contains("make it with `secretfs store init`"));
    home.ok(&["init", "none.age"]);
    assert_eq!(missing.read(&at("a")).await.unwrap_err(), Error::NotFound, "it heals by itself");
    let wrong = open("other.age");
    for _ in 0..2 {
        assert!(why(wrong.read(&at("a")).await.unwrap_err()).contains("cannot decrypt"));
    }
    home.write("bad.age", "canary");
    let bad = open("bad.age").list(&BackendPath::root()).await.unwrap_err();
    assert!(matches!(bad, Error::Malformed(_)) && !bad.to_string().contains("canary"));
    let config = Config { file: home.path("s.age"), key: KeySource::Identity(home.path("nothing")) };
    let Err(error) = Store::new(config, Clock::System) else {
        panic!("a missing key is a wrong configuration")
    };
    assert!(error.to_string().contains("nothing"));
}
