//! Owns the tests of the embedded store: the real program, the real file, the real age tool, and kill -9.
//! Does not know the mount.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr
)]

mod backend;
mod crash;
mod edit;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use secretfs::backend::store::{self, Document, Key};
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
