//! Owns the promises about names in a mount: reserved ones, wrong ones, too long ones, and extended attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::small_store;
use crate::support::available;
use crate::support::mount::{Mount, possible};

#[test]
fn reserved_names_are_found_and_never_listed() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    assert_eq!(mount.ls("api-key").unwrap(), ["value"]);
    assert_eq!(mount.read("api-key/.json").unwrap(), b"{\"value\":\"canary-value\"}\n");
    assert_eq!(mount.read("api-key/.env").unwrap(), b"value=canary-value\n");
    let meta = String::from_utf8(mount.read("api-key/.meta").unwrap()).unwrap();
    assert!(meta.contains("\"version\":\"1\"") && !meta.contains("canary"), "{meta}");
    assert_eq!(mount.read("api-key/.docker-env").unwrap(), b"value=canary-value\n");
    assert_eq!(mount.ls("api-key/.versions").unwrap(), [""; 0]);
    for view in [".json", ".env", ".docker-env", ".meta"] {
        let path = mount.path(&format!("api-key/{view}"));
        assert_eq!(path.metadata().unwrap().len(), std::fs::read(&path).unwrap().len() as u64, "{view}");
    }
    for absent in
        [".json", ".env", ".meta", ".versions", "api-key/.versions/none", "api-key/.previous", "api-key/.git"]
    {
        assert_eq!(errno(&mount, absent), Some(libc::ENOENT), "{absent}");
    }
    assert_eq!(mount.ls("api-key").unwrap(), ["value"]);
}

#[test]
fn extended_attributes_say_what_meta_says() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let meta: serde_json::Value = serde_json::from_slice(&mount.read("api-key/.meta").unwrap()).unwrap();
    let file = mount.path("api-key/value");
    let mut list = vec![0; 4096];
    let length = rustix::fs::listxattr(&file, &mut list[..]).unwrap();
    let names: Vec<&str> =
        std::str::from_utf8(&list[..length]).unwrap().split('\0').filter(|name| !name.is_empty()).collect();
    assert_eq!(names.len(), meta.as_object().unwrap().len());
    for name in names {
        let mut text = vec![0; 4096];
        let length = rustix::fs::getxattr(&file, name, &mut text[..]).unwrap();
        let text = std::str::from_utf8(&text[..length]).unwrap();
        let known = &meta[name.strip_prefix("user.secretfs.").unwrap()];
        assert_eq!(known.as_str().map_or_else(|| known.to_string(), str::to_owned), text, "{name}");
    }
    let get = |name: &str| rustix::fs::getxattr(&file, name, &mut [0u8; 4096][..]);
    for absent in ["security.capability", "system.posix_acl_access", "user.secretfs.nope", "user.mine"] {
        let error = get(absent).unwrap_err();
        assert!(
            matches!(error, rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP),
            "{absent}: {error}"
        );
    }
    assert_eq!(get("security.capability"), Err(rustix::io::Errno::NODATA));
    let small = rustix::fs::getxattr(&file, "user.secretfs.fetched", &mut [0u8; 3][..]);
    assert_eq!(small, Err(rustix::io::Errno::RANGE));
}

#[test]
fn wrong_names_get_the_error_of_the_table() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let long = |length| "x".repeat(length);
    for (path, expected) in [
        ("api-key/nope".to_owned(), libc::ENOENT),
        ("nope".to_owned(), libc::ENOENT),
        ("nope/value".to_owned(), libc::ENOENT),
        ("api-key/value/below".to_owned(), libc::ENOTDIR),
        ("api-key/value/".to_owned(), libc::ENOTDIR),
        ("api-key/.json/below".to_owned(), libc::ENOTDIR),
        (long(255), libc::ENOENT),
        (long(256), libc::ENAMETOOLONG),
        (long(1024), libc::ENAMETOOLONG),
        (long(1025), libc::ENAMETOOLONG),
        (format!("api-key/{}", long(256)), libc::ENAMETOOLONG),
        (format!("{}/value", long(256)), libc::ENAMETOOLONG),
        ("api-key%2Fvalue".to_owned(), libc::ENOENT),
        ("%2E%2E".to_owned(), libc::ENOENT),
    ] {
        let shown: String = path.chars().take(40).collect();
        assert_eq!(errno(&mount, &path), Some(expected), "{shown}");
        assert_eq!(mount.read(&path).unwrap_err().raw_os_error(), Some(expected), "{shown}");
    }
    assert_eq!(mount.read("api-key").unwrap_err().raw_os_error(), Some(libc::EISDIR));
    let bytes = mount.at.join(OsStr::from_bytes(b"api-key/\xff\xfe"));
    assert_eq!(bytes.metadata().unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(
        std::fs::read_dir(mount.path("api-key/value")).unwrap_err().raw_os_error(),
        Some(libc::ENOTDIR)
    );
}

fn errno(mount: &Mount, path: &str) -> Option<i32> {
    mount.path(path).symlink_metadata().err().and_then(|error| error.raw_os_error())
}
