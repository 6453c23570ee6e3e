//! Owns the promises of the command line: exit codes, one line that says what to do, and no secret in any of it.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::available;
use crate::support::mount::{CANARY, Store, possible, run, secretfs};

#[test]
fn wrong_use_exits_64_with_one_line_that_says_what_to_do() {
    for (arguments, told) in [
        (&[][..], "say what to do: `secretfs --help` lists the commands"),
        (&["moun"], "unrecognized subcommand 'moun'; some similar subcommands exist: 'umount', 'mount'"),
        (&["--nonsense"], "unexpected argument '--nonsense' found; see `secretfs --help`"),
        (&["mount"], "say what to mount and where"),
        (&["mount", "store:a"], "say what to mount and where"),
        (&["mount", "store:a", "b", "c"], "unexpected"),
        (
            &["mount", "--dameon", "store:a", "/tmp"],
            "unexpected argument '--dameon' found; a similar argument exists: '--daemon'",
        ),
        (
            &["mount", "gcp:a", "/tmp"],
            "`gcp:a` is no source: write vault:ENGINE[/PREFIX], aws:[NAME-PREFIX] or store:FILE",
        ),
        (
            &["mount", "--ttl", "nonsense", "store:a", "/tmp"],
            "expected a duration such as \"60s\" or \"1h 30m\"; see",
        ),
        (&["mount", "--deadline", "0s", "store:a", "/tmp"], "longer than zero"),
        (&["mount", "-o", "allow_othr", "store:a", "/tmp"], "did you mean `allow_other`?"),
        (&["mount", "-o", "completely", "store:a", "/tmp"], "there are allow_other, uid"),
        (&["mount", "-o", "mode=0777", "store:a", "/tmp"], "the mount is read-only"),
        (&["mount", "-o", "uid=no-such-user", "store:a", "/tmp"], "there is no user of this name"),
        (&["mount", "-o", "rw", "store:a", "/tmp"], "is always ro"),
        (&["mount", "--identity", "a", "--passphrase-file", "b", "store:a", "/tmp"], "cannot be used with"),
        (&["unmount"], "were not provided"),
        (&["explain"], "were not provided"),
        (&["store"], "say what to do"),
        (&["store", "put"], "were not provided"),
    ] {
        assert_refused(secretfs().args(arguments), 64, told);
    }
}

#[test]
fn help_and_version_exit_0_on_standard_output() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["mount", "--help"],
        &["store", "--help"],
        &["store", "put", "--help"],
    ] {
        let output = run(secretfs().args(arguments));
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
    let version = run(secretfs().arg("--version"));
    assert_eq!(String::from_utf8_lossy(&version.stdout), format!("secretfs {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(secretfs().args(["mount", "--help"]));
    assert!(!String::from_utf8_lossy(&help.stdout).contains("--announce"));
}

#[test]
fn a_wrong_configuration_exits_78_and_tells_all_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let text = "[mount]\nttl = 60\nmountpoit = \"/secrets\"\n\
        [backend.prod]\ntype = \"vault\"\nadress = \"http://user:canary-token@vault\"\n\
        [[tree]]\npath = \"/db\"\nbackend = \"prd\"\nmode = \"0777\"\n";
    std::fs::write(&file, text).unwrap();
    for command in [&["validate"][..], &["mount"], &["mount", "--daemon"], &["unmount"]] {
        let output = secretfs().args(command).arg("--config").arg(&file).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(78), "{command:?}: {said}");
        assert!(!said.contains(CANARY), "{said}");
        for problem in [
            "config.toml:2: `ttl` in [mount]: expected a duration",
            "config.toml:3: unknown key `mountpoit` in [mount]; did you mean `mountpoint`?",
            "config.toml:6: unknown key `adress` in [backend.prod]; did you mean `address`?",
            "config.toml:9: ",
            "config.toml:10: `mode` in [[tree]]",
        ] {
            assert_eq!(said.matches(problem).count(), 1, "{command:?}: {problem} in\n{said}");
        }
        assert_eq!(said.lines().count(), 5, "{said}");
    }
    assert_refused(
        secretfs().args(["validate", "--config"]).arg(folder.path().join("none")),
        78,
        "there is no such file",
    );
    assert_refused(secretfs().arg("validate").arg("--config").arg(folder.path()), 78, "this is a folder");
}

#[test]
fn validate_counts_and_with_connect_asks() {
    let store = Store::new();
    store.put("team/db", &["password=canary"]);
    let config = store.folder.path().join("config.toml");
    let text = format!(
        "[backend.local]\ntype = \"store\"\nfile = {:?}\nidentity = {:?}\n[[tree]]\npath = \"/all\"\nbackend = \"local\"\n\
         [[tree]]\npath = \"/none\"\nbackend = \"local\"\nsource = \"nowhere\"\n",
        store.file(),
        store.identity()
    );
    std::fs::write(&config, text).unwrap();
    let validate =
        |more: &[&str]| secretfs().arg("validate").arg("--config").arg(&config).args(more).output().unwrap();
    let output = validate(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let line = format!("{}: 1 backends, 2 trees, no mistake found\n", config.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), line);
    let output = validate(&["--connect"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("/all: 1 names\n/none: nothing there yet\n{line}")
    );
    std::fs::write(store.file(), b"age-encryption.org/v1\nnonsense canary").unwrap();
    let output = validate(&["--connect"]);
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(said(&output).contains("/all: ") && !said(&output).contains(CANARY), "{}", said(&output));
}

#[test]
fn validate_knows_secrets_on_demand_and_asks_nobody_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let text = format!(
        "[backend.prod]\ntype = \"vault\"\naddress = \"http://{}\"\n[[secret]]\npath = \"/tls\"\nbackend = \"prod\"\n\
         source = \"pki/issue/web\"\nparameters = {{ common_name = \"canary.example\" }}\n",
        server.local_addr().unwrap()
    );
    std::fs::write(&config, &text).unwrap();
    let validate = || secretfs().arg("validate").arg("--config").arg(&config).output().unwrap();
    let output = validate();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let line = "1 backends, 0 trees, 1 secrets made on demand, no mistake found\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}: {line}", config.display()));
    assert!(server.accept().is_err(), "the server was asked");
    std::fs::write(&config, text.replace("common_name = ", "common_name = 0.5 # ").replace(" }", "\n}"))
        .unwrap();
    let output = validate();
    assert_eq!(output.status.code(), Some(78), "{}", said(&output));
    assert!(
        said(&output).contains(":8: `parameters` in [[secret]]: `common_name` is a float"),
        "{}",
        said(&output)
    );
    assert!(!said(&output).contains(CANARY), "{}", said(&output));
}

#[test]
fn explain_says_who_serves_a_path_or_why_not_and_never_the_value() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    store.put("team/db", &["password=canary", "user=canary-app"]);
    let mount = store.mount().start();
    let long = format!("team/db/{}", "x".repeat(240));
    let path = "path: team/db";
    for (below, code, lines) in [
        (
            "team/db/password",
            0,
            &[
                "what: the field `password`",
                "tree: /",
                "backend: store (store)",
                path,
                "version: 1",
                "readable: yes",
            ][..],
        ),
        ("team/db/.json", 0, &["what: a view of the whole secret (Json)", path, "readable: yes"]),
        ("team/db", 0, &["what: a directory", path, "readable: yes"]),
        ("team", 0, &["what: a directory", "path: team", "readable: yes, as a folder"]),
        ("", 0, &["what: a directory", "tree: /", "readable: yes, as a folder"]),
        ("team/db/nope", 0, &["path: team/db/nope", "readable: no: ENOENT (there is no such file)"]),
        ("team/nope/deep/er", 0, &["path: team/nope", "readable: no: ENOENT (there is no such file)"]),
        ("team/db/password/below", 0, &["readable: no: ENOTDIR (not a directory)"]),
        ("team/../team/db/user", 0, &["what: the field `user`"]),
        (&long, 64, &[]),
    ] {
        let output = secretfs().arg("explain").arg(mount.path(below)).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(code), "{below}: {}", said(&output));
        for line in lines {
            assert!(told.lines().any(|told| told == *line), "{below}: {line} in\n{told}");
        }
        assert!(!told.contains(CANARY) && !said(&output).contains(CANARY), "{told}");
    }
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(mount.path("team/db/").as_os_str()).to_vec();
    let name: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec([&bytes[..], b"\xff"].concat());
    let told = run(secretfs().arg("explain").arg(name));
    assert!(String::from_utf8_lossy(&told.stdout).contains("readable: no: ENOENT"), "{told:?}");
    assert_refused(
        secretfs().args(["explain", "/proc/self"]),
        66,
        "/proc/self is not in a mount of secretfs",
    );
}

#[test]
fn only_our_mounts_are_unmounted() {
    let folder = tempfile::tempdir().unwrap();
    for other in [Path::new("/proc"), folder.path(), Path::new("/"), &folder.path().join("none")] {
        assert_refused(secretfs().arg("unmount").arg(other), 66, "is not a mount of secretfs");
    }
    assert!(Path::new("/proc/self").exists());
}

#[test]
fn a_filter_that_is_none_is_told_and_ours_is_used() {
    for filter in ["secretfs=loud", "inof", "=,="] {
        let output = secretfs().args(["unmount", "/proc"]).env("SECRETFS_LOG", filter).output().unwrap();
        assert_eq!(output.status.code(), Some(66));
        assert!(said(&output).contains("SECRETFS_LOG is not a filter"), "{filter}: {}", said(&output));
        let lines = said(&output).lines().count();
        assert_eq!(lines, 2, "{filter}: {}", said(&output));
    }
    let output = secretfs().args(["unmount", "/proc"]).env("SECRETFS_LOG", "debug").output().unwrap();
    assert!(!said(&output).contains("SECRETFS_LOG"), "{}", said(&output));
}

#[test]
fn no_message_holds_a_secret_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("canary-free.toml");
    let wrong = "[backend.a]\ntype = \"vault\"\ntoken_file = \"canary-token\"\naddress = 5\ntoken = \"canary-token\"\n";
    std::fs::write(folder.path().join("wrong.toml"), wrong).unwrap();
    std::fs::write(&file, "[backend.a]\ntype = \"vault\"\n[[tree]]\npath = \"/\"\nbackend = \"a\"\n")
        .unwrap();
    let validate = |name: &str| {
        vec![
            "validate".to_owned(),
            "--connect".into(),
            "--config".into(),
            folder.path().join(name).display().to_string(),
        ]
    };
    let mount = |source: &str| {
        vec!["mount".to_owned(), source.to_owned(), folder.path().join("missing").display().to_string()]
    };
    let commands = [
        validate("wrong.toml"),
        validate("canary-free.toml"),
        mount("vault:"),
        mount("aws:"),
        mount("nothing"),
        vec!["-x".into()],
    ];
    for (variable, value) in [
        ("VAULT_ADDR", "http://user:canary-password@127.0.0.1:1"),
        ("VAULT_ADDR", "canary-token"),
        ("VAULT_ADDR", "ftp://canary-token"),
        ("VAULT_ADDR", "http://127.0.0.1:1/canary-path"),
        ("VAULT_TOKEN", "canary\ntoken"),
        ("VAULT_NAMESPACE", "canary\u{1}"),
        ("VAULT_CLIENT_TIMEOUT", "canary-token"),
        ("VAULT_SKIP_VERIFY", "canary-token"),
        ("AWS_ENDPOINT_URL", "canary-token"),
    ] {
        for arguments in &commands {
            let mut command = secretfs();
            command.env("VAULT_ADDR", "http://127.0.0.1:1").env("VAULT_TOKEN", "canary-token");
            command.env("AWS_SECRET_ACCESS_KEY", "canary-key").env("AWS_ACCESS_KEY_ID", "canary-id");
            command.env("AWS_REGION", "eu-west-1").env("SECRETFS_LOG", "trace");
            let output = command.args(arguments).env(variable, value).output().unwrap();
            assert!(!output.status.success(), "{variable}: {arguments:?}");
            let told =
                said(&output).replace("canary-free.toml", "") + &String::from_utf8_lossy(&output.stdout);
            assert!(!told.contains(CANARY), "{variable}: {arguments:?}: {told}");
            assert!(!told.contains("panicked"), "{variable}: {arguments:?}: {told}");
        }
    }
}

fn assert_refused(command: &mut Command, code: i32, told: &str) {
    let output = command.output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    assert!(
        said.starts_with("secretfs: ") && said.lines().count() == 1,
        "{command:?}: one line, not\n{said}"
    );
    assert!(said.contains(told), "{command:?}: {told} in\n{said}");
    assert!(output.stdout.is_empty(), "{command:?}");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
