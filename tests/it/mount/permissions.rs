//! Owns the promises about owners and modes as stat(2) shows them; who is really refused is in tests/it/users.rs.

use std::os::unix::fs::MetadataExt;

use super::{configuration, small_store};
use crate::support::available;
use crate::support::mount::{Mount, possible};

#[test]
fn files_are_for_the_one_who_mounts_unless_options_say_otherwise() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert_eq!(shown(&mount, "api-key/value"), (0o400, me.0, me.1));
    assert_eq!(shown(&mount, "api-key"), (0o500, me.0, me.1));
    assert_eq!(shown(&mount, ""), (0o500, me.0, me.1));
    drop(mount);
    let mount = store.mount().arg("-o").arg("uid=1234,gid=2345,mode=0440").start();
    assert_eq!(shown(&mount, "api-key/value"), (0o440, 1234, 2345));
    assert_eq!(shown(&mount, "api-key/.json"), (0o440, 1234, 2345));
    assert_eq!(shown(&mount, "api-key"), (0o550, 1234, 2345));
}

#[test]
fn each_tree_has_its_own_owner_and_mode() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    store.put("team/db", &["user=canary"]);
    let trees = "[[tree]]\npath = \"/apps/db\"\nbackend = \"local\"\nsource = \"team/db\"\nowner = 11\ngroup = 12\nmode = \"0440\"\n\
        [[tree]]\npath = \"/all\"\nbackend = \"local\"\n";
    let config = configuration(&store, "uid = 21\nmode = \"0444\"", trees);
    let mount = Mount::of("").arg("--config").arg(config).start();
    let my_group = rustix::process::getegid().as_raw();
    assert_eq!(mount.ls("").unwrap(), ["all", "apps"]);
    assert_eq!(shown(&mount, "apps/db/user"), (0o440, 11, 12));
    assert_eq!(shown(&mount, "apps/db"), (0o550, 11, 12));
    assert_eq!(shown(&mount, "all/api-key/value"), (0o444, 21, my_group));
    assert_eq!(shown(&mount, "all/team/db"), (0o555, 21, my_group));
    assert_eq!(shown(&mount, "apps").0, 0o555, "what leads to trees is open to all");
    assert_eq!(mount.read("apps/db/user").unwrap(), b"canary");
    assert_eq!(mount.read("all/team/db/user").unwrap(), b"canary");
}

#[test]
fn the_kernel_enforces_modes_and_nothing_in_a_mount_runs() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(&*mount.at.to_string_lossy())).unwrap();
    let options: Vec<&str> = line.split(' ').nth(3).unwrap().split(',').collect();
    for option in ["ro", "nosuid", "nodev", "noexec", "noatime", "default_permissions"] {
        assert!(options.contains(&option), "{option} in {line}");
    }
    assert!(!options.contains(&"allow_other"), "{line}");
}

fn shown(mount: &Mount, path: &str) -> (u32, u32, u32) {
    let found = mount.path(path).metadata().unwrap();
    (found.mode() & 0o7777, found.uid(), found.gid())
}
