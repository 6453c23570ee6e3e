//! Owns the tests of `store edit`, with editors that are scripts.
//! Does not know the file's format.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Home, failed};
use crate::support::available;

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
