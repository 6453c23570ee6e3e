//! Owns the promises about directories: every name once, positions that can be gone back to, many readers, statfs.

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};

use crate::support::available;
use crate::support::mount::{Mount, Store, possible, run, secretfs};

pub(super) const MANY: usize = 3000;

#[test]
fn a_folder_of_thousands_lists_every_name_once() {
    let Some(()) = available("mount", possible()) else { return };
    let (_store, mount) = crowded();
    let output = run(Command::new("sh").arg("-c").arg("ls \"$0\" | wc -l").arg(mount.path("many")));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), MANY.to_string());
    let names: HashSet<String> = mount.ls("many").unwrap().into_iter().collect();
    assert_eq!(names.len(), MANY);
    assert!((0..MANY).all(|number| names.contains(&name(number))));
}

#[test]
fn a_position_in_a_folder_leads_back_to_the_same_names() {
    let Some(()) = available("mount", possible()) else { return };
    let (_store, mount) = crowded();
    let folder =
        rustix::fs::open(mount.path("many"), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let rest = || {
        let mut buffer = Vec::with_capacity(8192);
        let mut dir = RawDir::new(&folder, buffer.spare_capacity_mut());
        let mut found: Vec<(String, u64)> = Vec::new();
        while let Some(entry) = dir.next() {
            let entry = entry.unwrap();
            found.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie()));
        }
        found
    };
    let all = rest();
    assert_eq!(all.len(), MANY + 2, "with . and ..");
    for at in [0, 1, 2, 700, 1499, MANY, MANY + 1] {
        rustix::fs::seek(&folder, SeekFrom::Start(all[at].1)).unwrap();
        assert_eq!(rest(), all[at + 1..], "after entry {at}");
    }
    rustix::fs::seek(&folder, SeekFrom::Start(0)).unwrap();
    assert_eq!(rest(), all);
    rustix::fs::seek(&folder, SeekFrom::Start(1 << 40)).unwrap();
    assert_eq!(rest(), [], "past the end");
}

#[test]
fn many_programs_walk_the_mount_at_once() {
    let Some(()) = available("mount", possible()) else { return };
    let (_store, mount) = crowded();
    let walk = || Command::new("find").arg(&mount.at).arg("-ls").stdout(Stdio::piped()).spawn().unwrap();
    let walks: Vec<_> = (0..6).map(|_| walk()).collect();
    for walk in walks {
        let output = walk.wait_with_output().unwrap();
        assert!(output.status.success());
        // The root, `many`, and per secret its folder and its field.
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2 + 2 * MANY);
    }
}

#[test]
fn df_works_and_nothing_is_free() {
    let Some(()) = available("mount", possible()) else { return };
    let store = super::small_store();
    let mount = store.mount().start();
    let output = run(Command::new("df").arg("-P").arg(mount.path("api-key/value")));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&*mount.at.to_string_lossy()) && text.contains("secretfs"), "{text}");
    let found = rustix::fs::statvfs(&mount.at).unwrap();
    assert_eq!((found.f_bfree, found.f_bavail, found.f_ffree, found.f_namemax), (0, 0, 0, 255));
    assert!(
        found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY | rustix::fs::StatVfsMountFlags::NOEXEC)
    );
}

pub(super) fn name(number: usize) -> String {
    format!("secret-number-{number:04}")
}

/// A mount with 3,000 secrets in the folder `many`.
pub(super) fn crowded() -> (Store, Mount) {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    let document = DOCUMENT.get_or_init(|| {
        let secrets: Vec<_> = (0..MANY)
            .map(|number| format!("\"many/{}\":{{\"k\":\"canary-{number}\"}}", name(number)))
            .collect();
        format!("{{{}}}", secrets.join(","))
    });
    let store = Store::new();
    let file = store.folder.path().join("import.json");
    std::fs::write(&file, document).unwrap();
    run(secretfs()
        .args(["store", "import"])
        .arg(store.file())
        .arg(&file)
        .arg("--identity")
        .arg(store.identity()));
    let mount = store.mount().start();
    (store, mount)
}
