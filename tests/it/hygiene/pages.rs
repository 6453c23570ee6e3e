//! Owns the promise that nothing of a value stays in the kernel's page cache when its file is closed.
//! Does not know how pages are dropped.
//!
//! Pages are counted through a file that was opened before anything was read: an open drops the pages itself. Nothing is read
//! through it, so it is none of those that put pages there, and the program does not know that it is another one.

use std::fs::File;
use std::io::Read;

use crate::support::available;
use crate::support::mount::{Mount, Store, possible, wait_until};
use crate::support::page_cache::{self, Mapped, pages};

const SIZE: usize = 40 << 10;

/// A mount of a store with `db/key`, and a file to count its pages through.
struct World {
    store: Store,
    mount: Mount,
    watch: File,
}

impl World {
    fn new() -> Option<Self> {
        available("mount", possible())?;
        available("cachestat", page_cache::possible())?;
        let store = Store::new();
        put(&store, 1);
        let mount = store.mount().start();
        let watch = File::open(mount.path("db/key")).unwrap();
        Some(Self { store, mount, watch })
    }

    fn open(&self) -> File {
        File::open(self.mount.path("db/key")).unwrap()
    }

    fn pages(&self) -> u64 {
        pages(&self.watch).unwrap()
    }

    fn wait_for_none(&self, after: &str) {
        wait_until(&format!("no page after {after}"), || self.pages() == 0);
    }

    /// The file, mapped and looked at; none where a kernel cannot.
    fn map(&self, version: u8) -> Option<Mapped> {
        let mapped = available("shared mmap", Mapped::of(&self.open()).map_err(|error| error.to_string()))?;
        assert!(mapped.bytes() == value(version));
        assert!(self.pages() > 0, "a mapping is made of pages");
        Some(mapped)
    }
}

fn value(version: u8) -> Vec<u8> {
    format!("canary {version:08}").bytes().cycle().take(SIZE).collect()
}

fn put(store: &Store, version: u8) {
    let file = store.folder.path().join("value");
    std::fs::write(&file, value(version)).unwrap();
    store.put("db", &[&format!("key=@{}", file.display())]);
}

#[test]
fn reading_leaves_no_page_in_the_page_cache() {
    let Some(world) = World::new() else { return };
    let mut bytes = Vec::new();
    world.open().read_to_end(&mut bytes).unwrap();
    assert!(bytes == value(1));
    assert_eq!(world.pages(), 0);
}

#[test]
fn mapping_leaves_no_page_in_the_page_cache() {
    let Some(world) = World::new() else { return };
    let Some(mapped) = world.map(1) else { return };
    let Some(other) = world.map(1) else { return };
    drop(mapped);
    assert!(other.bytes() == value(1), "who has it mapped still has it");
    drop(other);
    world.wait_for_none("mmap");
}

#[test]
fn sendfile_leaves_no_page_in_the_page_cache() {
    let Some(world) = World::new() else { return };
    let (file, mut copy) = (world.open(), tempfile::tempfile().unwrap());
    while rustix::fs::sendfile(&copy, &file, None, SIZE).unwrap() > 0 {}
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut copy).unwrap();
    copy.read_to_end(&mut bytes).unwrap();
    assert!(bytes == value(1));
    assert!(world.pages() > 0, "it is copied from pages");
    drop(file);
    world.wait_for_none("sendfile");
}

#[test]
fn a_rotation_while_it_is_mapped_leaves_no_page_in_the_page_cache() {
    let Some(world) = World::new() else { return };
    let Some(mapped) = world.map(1) else { return };
    put(&world.store, 2);
    assert!(world.mount.read("db/key").unwrap() == value(2));
    assert!(mapped.bytes() == value(1), "what is mapped is the version that was opened");
    drop(mapped);
    world.wait_for_none("mmap of an older version");
    let Some(mapped) = world.map(2) else { return };
    put(&world.store, 3);
    drop(mapped);
    world.wait_for_none("mmap");
    assert!(world.mount.read("db/key").unwrap() == value(3));
    assert_eq!(world.pages(), 0);
}
