//! Owns the promises about change: an open file keeps its version, the next open has the new one, nothing old remains.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use super::{configuration, python, small_store};
use crate::support::available;
use crate::support::mount::{Mount, Store, possible};

#[test]
fn an_open_file_keeps_its_version_and_the_next_open_is_exact_at_once() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let path = mount.path("api-key/value");
    let mut versions = vec![(File::open(&path).unwrap(), "canary-value".to_owned())];
    for round in 0..10 {
        let value = format!("canary-{}", "x".repeat((round * 37) % 61));
        store.put("api-key", &[&format!("value={value}")]);
        let file = File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), value.len() as u64, "fstat right after the open");
        versions.push((file, value));
    }
    for (file, value) in &mut versions {
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, *value);
        file.seek(SeekFrom::Start(3)).unwrap();
        text.clear();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, value[3..]);
    }
}

#[test]
fn a_removed_secret_is_gone_for_the_next_open_and_stays_for_an_open_file() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    store.put("other", &["value=canary-other"]);
    let mount = store.mount().start();
    let mut open = File::open(mount.path("api-key/value")).unwrap();
    let mut remove = crate::support::mount::secretfs();
    remove.args(["store", "rm"]).arg(store.file()).args(["api-key", "--identity"]).arg(store.identity());
    crate::support::mount::run(&mut remove);
    assert_eq!(mount.read("api-key/value").unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(mount.ls("").unwrap(), ["other"]);
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    assert_eq!(text, "canary-value");
}

#[test]
fn reads_at_any_offset_give_what_is_there_and_nothing_past_the_end() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let file = File::open(mount.path("api-key/value")).unwrap();
    let whole = b"canary-value";
    for offset in 0..=whole.len() + 2 {
        for size in [0, 1, 5, 100] {
            let mut bytes = vec![0; size];
            let read = file.read_at(&mut bytes, offset as u64).unwrap();
            let rest = whole.get(offset..).unwrap_or_default();
            assert_eq!(&bytes[..read], &rest[..rest.len().min(size)], "{size} bytes at {offset}");
        }
    }
    for offset in [4096, 1 << 20, i64::MAX as u64 - 200] {
        assert_eq!(file.read_at(&mut [0; 100], offset).unwrap(), 0, "at {offset}");
    }
}

#[test]
fn a_value_above_the_limit_is_refused_at_open_and_only_there() {
    let Some(()) = available("mount", possible()) else { return };
    let store = Store::new();
    let big = format!("big=canary-{}", "x".repeat(4090));
    let fits = format!("fits=canary-{}", "x".repeat(4089));
    store.put("a", &[&big, &fits]);
    let config =
        configuration(&store, "max_value_size = \"4096B\"", "[[tree]]\npath = \"/\"\nbackend = \"local\"\n");
    let mount = Mount::of("").arg("--config").arg(config).start();
    assert_eq!(mount.ls("a").unwrap(), ["big", "fits"]);
    assert_eq!(mount.path("a/big").metadata().unwrap().len(), 4097);
    assert_eq!(File::open(mount.path("a/big")).unwrap_err().raw_os_error(), Some(libc::EFBIG));
    assert_eq!(mount.read("a/fits").unwrap().len(), 4096);
}

#[test]
fn mapped_pages_do_not_outlive_a_rotation() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let script = "
import mmap, sys
for access in (dict(access=mmap.ACCESS_READ), dict(flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)):
    with open(sys.argv[1], 'rb') as file, mmap.mmap(file.fileno(), 0, **access) as pages:
        print(pages[:].decode())
";
    for value in ["canary-value", "canary-2", "canary-three"] {
        store.put("api-key", &[&format!("value={value}")]);
        let Some(seen) = python(script, &[&mount.path("api-key/value")]) else { return };
        assert_eq!(seen, format!("{value}\n{value}\n"));
    }
}

#[test]
fn a_fresh_map_shows_the_new_value_while_an_old_one_is_still_held() {
    let Some(()) = available("mount", possible()) else { return };
    let store = small_store();
    let mount = store.mount().start();
    let script = "
import mmap, subprocess, sys
def view():
    file = open(sys.argv[1], 'rb')
    return file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
old = view()
assert old[1][:] == b'canary-value'
subprocess.run([sys.argv[2], 'store', 'put', sys.argv[3], 'api-key', 'value=canary-other', '--identity', sys.argv[4]], check=True)
new = view()
print(new[1][:].decode())
";
    let program = std::path::PathBuf::from(env!("CARGO_BIN_EXE_secretfs"));
    let arguments = [&*mount.path("api-key/value"), &*program, &*store.file(), &*store.identity()];
    let Some(seen) = python(script, &arguments) else { return };
    assert_eq!(seen, "canary-other\n");
}
