//! Owns the promise that a tree copied out of the mount, by whatever program, is the tree byte for byte.
//! Compared with the same tree written to a file system in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::python;
use crate::support::mount::{Mount, Store, possible, run};
use crate::support::{available, program};

/// Reads every file below argv[1] in one way (argv[3]) and writes it below argv[2].
const PYTHON: &str = r#"
import mmap, os, shutil, sys
source, target, way = sys.argv[1:]
def content(path):
    size = os.stat(path).st_size
    with open(path, "rb") as file:
        assert os.fstat(file.fileno()).st_size == size, path
        if way == "read":
            return file.read()
        if way == "pread":
            parts, at = [], 0
            while part := os.pread(file.fileno(), 777, at):
                parts.append(part); at += len(part)
            return b"".join(parts)
        if size == 0:
            return b""
        if way == "shared":
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages: return pages[:]
        with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as pages: return pages[:]
def sendfile(path, out):
    with open(path, "rb") as file, open(out, "wb") as copy:
        at = 0
        while sent := os.sendfile(copy.fileno(), file.fileno(), at, 5000): at += sent
for folder, folders, files in os.walk(source):
    there = os.path.join(target, os.path.relpath(folder, source))
    os.makedirs(there, exist_ok=True)
    for name in files:
        path, out = os.path.join(folder, name), os.path.join(there, name)
        if way == "sendfile": sendfile(path, out)
        elif way == "shutil": shutil.copyfile(path, out)
        else: open(out, "wb").write(content(path))
"#;

#[test]
fn a_tree_copied_out_equals_the_same_tree_in_memory() {
    let Some(()) = available("mount", possible()) else { return };
    let world = World::new();
    let from = &world.mount.at;
    // Modes are copied too, so that a file of 0400 in a folder of 0500 is what cp -a writes; root may go on.
    let mut copiers = vec![
        ("cp -r", "cp", vec!["-r", "--", "FROM/.", "TO"]),
        ("cp -a", "cp", vec!["-a", "--", "FROM/.", "TO"]),
        ("rsync", "rsync", vec!["-a", "FROM/", "TO/"]),
        ("tar", "sh", vec!["-c", "tar -C FROM -cf - . | tar -C TO -xf -"]),
    ];
    for way in ["read", "pread", "shared", "private", "sendfile", "shutil"] {
        copiers.push((way, "python3", vec!["-c", PYTHON, "FROM", "TO", way]));
    }
    for (name, tool, arguments) in copiers {
        let Some(tool) = available(tool, program(tool)) else { continue };
        let to = tempfile::tempdir().unwrap();
        let place = |text: &str| {
            text.replace("FROM", &from.display().to_string()).replace("TO", &to.path().display().to_string())
        };
        run(Command::new(tool).args(arguments.iter().map(|argument| place(argument))));
        world.assert_same(to.path(), name);
    }
}

#[test]
fn odd_block_sizes_read_the_same_bytes() {
    let Some(()) = available("mount", possible()) else { return };
    let world = World::new();
    for (file, block) in [("sizes/s4097", "7"), ("sizes/s65536", "7"), ("sizes/s1048576", "4093")] {
        let mut dd = Command::new("dd");
        let output =
            run(dd.arg(format!("if={}", world.mount.path(file).display())).arg(format!("bs={block}")));
        assert!(output.stdout == world.expected[Path::new(file)], "{file} by blocks of {block}");
    }
}

#[test]
fn a_private_key_in_the_mount_is_a_private_key() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(openssl) = available("openssl", program("openssl")) else { return };
    let store = Store::new();
    let key = store.folder.path().join("key.pem");
    run(Command::new(&openssl).args(["genrsa", "-out"]).arg(&key).arg("2048"));
    store.put("tls", &[&format!("key={}", at(&key)), "name=canary"]);
    let mount = store.mount().start();
    run(Command::new(&openssl).args(["rsa", "-check", "-noout", "-in"]).arg(mount.path("tls/key")));
    assert!(mount.read("tls/key").unwrap() == std::fs::read(&key).unwrap());
}

#[test]
fn stat_says_the_size_before_anything_is_read() {
    let Some(()) = available("mount", possible()) else { return };
    let world = World::new();
    for (path, bytes) in &world.expected {
        let found = world.mount.at.join(path).metadata().unwrap();
        assert_eq!(found.len(), bytes.len() as u64, "{}", path.display());
    }
    let sum: usize = world.expected.values().map(Vec::len).sum();
    let script = "import os,sys; print(sum(os.stat(os.path.join(d, f)).st_size for d, _, fs in os.walk(sys.argv[1]) for f in fs))";
    if let Some(told) = python(script, &[&world.mount.at]) {
        assert_eq!(told.trim(), sum.to_string());
    }
}

/// A mount, and what should be in it.
struct World {
    mount: Mount,
    expected: BTreeMap<PathBuf, Vec<u8>>,
    _store: Store,
}

impl World {
    fn new() -> Self {
        let mut expected = BTreeMap::new();
        for size in [0, 1, 4095, 4096, 4097, 65536, 1 << 20] {
            expected.insert(format!("sizes/s{size}").into(), value(size));
        }
        let binary: Vec<u8> = b"canary\0".iter().copied().chain((0..=255).rev()).collect();
        expected.insert("odd/binary".into(), binary);
        expected.insert("odd/newlines".into(), b"\n\r\n canary \n\n".to_vec());
        expected.insert("odd/ключ – schlüssel 🔑".into(), "canary-значение".into());
        expected.insert("odd/ -rf *'\"$HOME`".into(), b"canary-shell".to_vec());
        expected.insert("一/二/三/四/五/six/seven/eight/nine/ten/leaf".into(), b"canary-deep".to_vec());
        let store = Store::new();
        let scratch = tempfile::tempdir().unwrap();
        let mut secrets: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (number, (path, bytes)) in expected.iter().enumerate() {
            let path: &PathBuf = path;
            let file = scratch.path().join(number.to_string());
            std::fs::write(&file, bytes).unwrap();
            let (secret, field) = (path.parent().unwrap(), path.file_name().unwrap());
            let argument = format!("{}={}", field.to_str().unwrap(), at(&file));
            secrets.entry(secret.to_str().unwrap().to_owned()).or_default().push(argument);
        }
        for (secret, fields) in &secrets {
            store.put(secret, &fields.iter().map(String::as_str).collect::<Vec<_>>());
        }
        Self { mount: store.mount().start(), expected, _store: store }
    }

    fn assert_same(&self, copy: &Path, by: &str) {
        let mut found = BTreeMap::new();
        collect(copy, copy, &mut found);
        let names = |tree: &BTreeMap<PathBuf, Vec<u8>>| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&self.expected), "{by}");
        for (path, bytes) in &self.expected {
            assert!(found[path] == *bytes, "{by}: {} differs", path.display());
        }
    }
}

/// Bytes whose order shows, with the word in them where it fits.
fn value(size: usize) -> Vec<u8> {
    let word = b"canary-".iter().copied();
    let rest = (0..size).map(|at| u8::try_from((at * 31 + at / 251) % 251).unwrap());
    word.chain(rest).take(size).collect()
}

fn at(file: &Path) -> String {
    format!("@{}", file.display())
}

fn collect(root: &Path, folder: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, into);
        } else {
            into.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
        }
    }
}
