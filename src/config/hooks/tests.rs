//! Owns the checks of `[[hook]]`: what a good one becomes, and the wording of every mistake.
//! Does not know how a hook is run.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;
use crate::config::parse;
use crate::config::tests::{SMALLEST, errors, write};
use crate::hooks::Signal;

fn hooks(more: &str) -> Vec<Config> {
    let loaded = parse(&format!("{SMALLEST}{more}"), Path::new("/etc/config.toml")).unwrap();
    assert_eq!(loaded.warnings, []);
    loaded.settings.hooks
}

#[test]
fn every_kind_of_hook_is_read() {
    let hooks = hooks(
        "[[hook]]\npath = \"/db\"\nexec = [\"/bin/sh\", \"-c\", \"a\\nb\"]\nuser = \"root\"\n\
         debounce = 0\ninterval = \"0s\"\ntimeout = \"2m\"\nlog_output = false\n\
         [[hook]]\npath = [\"/a/*\", \"b/**\"]\nsignal = \"SIGUSR1\"\npid_file = \"run/x.pid\"\n\
         [[hook]]\npath = \"/**\"\nsignal = \"HUP\"\nunit = \"a@b.service\"\n\
         [[hook]]\npath = \"/\"\nreload = \"nginx.service\"\n",
    );
    let pattern = |text: &str| Pattern::parse(text).unwrap();
    let signal = |name| Signal::named(name).unwrap();
    let plain = |patterns: &[&str], action| Config {
        patterns: patterns.iter().map(|text| pattern(text)).collect(),
        action,
        debounce: Duration::from_secs(1),
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(30),
        log_output: true,
    };
    let exec = Action::Exec {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), "a\nb".into()],
        user: Some(User { uid: 0, gid: 0 }),
    };
    assert_eq!(
        hooks,
        [
            Config {
                debounce: Duration::ZERO,
                interval: Duration::ZERO,
                timeout: Duration::from_secs(120),
                log_output: false,
                ..plain(&["/db"], exec)
            },
            plain(
                &["/a/*", "/b/**"],
                Action::Signal { signal: signal("USR1"), pid_file: "/etc/run/x.pid".into() }
            ),
            plain(&["/**"], Action::SignalUnit { signal: signal("HUP"), unit: "a@b.service".into() }),
            plain(&["/"], Action::Reload { unit: "nginx.service".into() }),
        ]
    );
}

#[test]
fn mistakes_have_line_key_and_what_to_do() {
    let path = "[[hook]]\npath = \"/a\"\n";
    let exec = "`exec` in [[hook]]";
    let expected =
        "expected an array of a program and its arguments, such as [\"/usr/bin/logger\", \"rotated\"]";
    for (more, expected) in [
        ("[[hook]]\nreload = \"a.service\"".into(), "6: missing key `path` in [[hook]]; add it".into()),
        (
            "[[hook]]\npath = []\nreload = \"a.service\"".into(),
            "7: `path` in [[hook]]: this is empty; give at least one pattern".into(),
        ),
        (
            "[[hook]]\npath = [\"/a\", \"/canary[\"]\nreload = \"a.service\"".into(),
            "7: `path` in [[hook]]: `[` and `{` need their other half in the same segment; write `\\[` for the sign itself"
                .into(),
        ),
        (
            "[[hook]]\npath = [\"/a\", 1]\nreload = \"a.service\"".into(),
            "7: `path` in [[hook]]: expected a pattern such as \"/team/*/db\" or \"/prod/**\", or an array of \
             patterns; found an integer in it"
                .into(),
        ),
        (path.into(), "6: [[hook]]: this does nothing; add one of `exec`, `signal`, `reload`".into()),
        (
            format!("{path}reload = \"a.service\"\nexec = [\"/bin/true\"]"),
            "6: [[hook]]: a hook has one of `exec`, `signal`, `reload`; write a [[hook]] for each".into(),
        ),
        (format!("{path}exec = \"/bin/canary\""), format!("8: {exec}: {expected}, found a string")),
        (format!("{path}exec = [\"/bin/true\", 5]"), format!("8: {exec}: {expected}; found an integer in it")),
        (
            format!("{path}exec = []"),
            format!("8: {exec}: this is empty; give a program, an absolute path, and its arguments"),
        ),
        (
            format!("{path}exec = [\"canary\"]"),
            format!(
                "8: {exec}: the program, the first string, must be an absolute path: no shell and no PATH looks for it"
            ),
        ),
        (
            format!("{path}exec = [\"/canary\"]"),
            format!("8: {exec}: the program, the first string: there is no such file"),
        ),
        (
            format!("{path}exec = [\"/bin\"]"),
            format!("8: {exec}: the program, the first string: this is a folder, not a file"),
        ),
        (format!("{path}exec = [\"/bin/true\", \"a\\u0000canary\"]"), format!("8: {exec}: a NUL is not allowed; remove it")),
        (
            format!("{path}exec = [\"/bin/true\"]\nuser = \"no-canary-user\""),
            "9: `user` in [[hook]]: there is no user of this name on this system; create it or give its number".into(),
        ),
        (
            format!("{path}exec = [\"/bin/true\"]\nuser = 4000000001"),
            "9: `user` in [[hook]]: there is no user of this name on this system; create it or give its number".into(),
        ),
        (
            format!("{path}exec = [\"/bin/true\"]\nunit = \"a.service\""),
            "9: `unit` in [[hook]]: this goes with `signal`; remove it".into(),
        ),
        (
            format!("{path}reload = \"a.service\"\nuser = \"root\"\npid_file = \"/x\""),
            "9: `user` in [[hook]]: this goes with `exec`; remove it\n\
             config.toml:10: `pid_file` in [[hook]]: this goes with `signal`; remove it"
                .into(),
        ),
        (
            format!("{path}signal = \"HUP\""),
            "6: [[hook]]: `signal` needs a receiver; add `pid_file` or `unit`".into(),
        ),
        (
            format!("{path}signal = \"HUP\"\npid_file = \"/x\"\nunit = \"a.service\""),
            "10: `unit` in [[hook]]: a signal goes to `pid_file` or to `unit`; remove one of the two".into(),
        ),
        (
            format!("{path}signal = \"canary\"\npid_file = \"/x\""),
            "8: `signal` in [[hook]]: expected one of the signals HUP, INT, QUIT, USR1, USR2, ALRM, TERM, WINCH, KILL \
             in quotes"
                .into(),
        ),
        (
            format!("{path}signal = \"HUP\"\npid_file = \"~/x\""),
            "9: `pid_file` in [[hook]]: `~` is not replaced here; write the whole path".into(),
        ),
        (
            format!("{path}reload = \"canary\""),
            "8: `reload` in [[hook]]: expected a systemd unit with its ending, such as \"nginx.service\"".into(),
        ),
        (
            format!("{path}reload = \"a.service\"\ntimeout = 0"),
            "9: `timeout` in [[hook]]: expected a duration such as \"60s\" or \"1h 30m\", found an integer".into(),
        ),
        (
            format!("{path}reload = \"a.service\"\ndebounce = \"canary\""),
            "9: `debounce` in [[hook]]: expected a duration such as \"60s\" or \"1h 30m\", at most 365 days, or 0".into(),
        ),
        (
            format!("{path}reload = \"a.service\"\ninterval = 5"),
            "9: `interval` in [[hook]]: expected a duration such as \"60s\" or \"1h 30m\", at most 365 days, or 0".into(),
        ),
        (
            format!("{path}reload = \"a.service\"\nlog_output = \"no\""),
            "9: `log_output` in [[hook]]: expected true or false, found a string".into(),
        ),
        (
            format!("{path}reload = \"a.service\"\ndebunce = 0"),
            "9: unknown key `debunce` in [[hook]]; did you mean `debounce`?".into(),
        ),
        (
            "[hook]\npath = \"/a\"".into(),
            "6: `hook`: expected [[hook]] (two brackets on each side), found a table".into(),
        ),
    ] {
        let more: String = more;
        let expected: String = expected;
        assert_eq!(errors(&format!("{SMALLEST}{more}")), format!("config.toml:{expected}"), "{more}");
    }
}

#[test]
fn a_program_that_others_can_change_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let told = |mode: u32| {
        let program = write(folder.path(), "program", mode);
        let hook = format!("[[hook]]\npath = \"/a\"\nexec = [{program:?}]\n");
        parse(&format!("{SMALLEST}{hook}"), Path::new("c")).map(drop).map_err(|bad| bad.to_string())
    };
    assert_eq!(told(0o700), Ok(()));
    for mode in [0o722, 0o777] {
        let said = told(mode).unwrap_err();
        assert!(
            said.contains("users other than its owner can write the file; run `chmod go-w` on it"),
            "{said}"
        );
    }
    let said = told(0o600).unwrap_err();
    assert!(said.contains("the file cannot be run; run `chmod +x` on it"), "{said}");
}

#[test]
fn a_configuration_with_hooks_that_others_can_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, format!("{SMALLEST}[[hook]]\npath = \"/a\"\nexec = [\"/bin/true\"]\n")).unwrap();
    for (mode, trusted) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        match crate::config::load(&file) {
            Ok(loaded) => assert!(trusted && loaded.settings.hooks.len() == 1, "{mode:o}"),
            Err(bad) => assert!(!trusted && bad.to_string().contains("chmod go-w"), "{mode:o}: {bad}"),
        }
    }
}

#[test]
fn a_hook_that_leads_to_no_tree_is_told() {
    let text = "[backend.b]\ntype = \"vault\"\n[[tree]]\npath = \"/a\"\nbackend = \"b\"\n\
                [[hook]]\npath = [\"/a/x\", \"/b/**\"]\nreload = \"a.service\"\n";
    let [warning] = &parse(text, Path::new("c")).unwrap().warnings[..] else { panic!() };
    assert_eq!(
        warning.to_string(),
        "c:6: no [[tree]] or [[secret]] is where the `path` of this [[hook]] leads; it is about nothing"
    );
}
