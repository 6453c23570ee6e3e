//! Owns the promises about what a mount may not hide.
//! Does not know bind mounts: tests/it/mount/hidden.rs makes them.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn every_mount_needs_its_configuration_and_the_folder_of_its_socket() {
    let needs = of_the_program(Some(Path::new("/c")));
    assert!(needs.iter().any(|need| need.path == Path::new("/c")));
    let folder = control::folder().unwrap();
    assert!(needs.iter().any(|need| need.path == folder), "{needs:?}");
}

#[test]
fn a_name_that_leads_through_the_mountpoint_is_met_whatever_it_looks_like() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().canonicalize().unwrap();
    for name in ["mnt/below/deep", "out", "mnt-2"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    let path = |name: &str| folder.join(name);
    std::fs::write(path("out/file"), "").unwrap();
    // Into the mount by a link, through it and out again by another, and a link at the end.
    symlink("../mnt/below", path("out/in")).unwrap();
    symlink(path("out"), path("mnt/back")).unwrap();
    symlink("out/in/deep/../file", path("end")).unwrap();
    symlink("loop", path("loop")).unwrap();
    let mountpoint = Mountpoint::look(&path("mnt")).unwrap();
    for hidden in [
        "mnt",
        "mnt/file",
        "mnt/below/none/none",
        "out/in/file",
        "out/../mnt/x",
        "mnt/back/file",
        "mnt/../out/file",
        "end",
    ] {
        let met = mountpoint.met_on_the_way(&path(hidden));
        assert_eq!(met.as_deref(), Some(path("mnt").as_path()), "{hidden}");
    }
    for free in ["out/file", "mnt-2/file", "none/file", "loop/x", ""] {
        assert_eq!(mountpoint.met_on_the_way(&path(free)), None, "{free}");
    }
}
