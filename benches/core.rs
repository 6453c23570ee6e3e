//! Owns the cost of what every request passes through, below the kernel: cache, lookup, open and read, names.
//! Does not know FUSE or any backend's protocol.

#![allow(clippy::unwrap_used, missing_docs)]

use std::ffi::OsStr;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use secretfs::access::Permissions;
use secretfs::backend::faulty::Faulty;
use secretfs::backend::mint::{Mint, Role};
use secretfs::cache::{Limits, SecretCache, SecretRef, Source, SourceId};
use secretfs::clock::Clock;
use secretfs::fs::{Caller, SecretFs};
use secretfs::leases::Leases;
use secretfs::path::BackendPath;
use secretfs::refresh::Refresher;
use secretfs::tree::inode::INodeNo;
use secretfs::tree::{Tree, Trees, name};

fn hits(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let backend = Arc::new(Faulty::new());
    backend.put("api-key", &[("value", &[b'x'; 64])]);
    backend.put("database", &[("username", &[b'x'; 64]), ("password", &[b'x'; 64])]);
    let source = Source { name: "bench".into(), backend };
    let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), Clock::System));
    let root = SecretRef::current(SourceId(0), BackendPath::root());
    let permissions = Permissions { uid: 0, gid: 0, file_mode: 0o400 };
    let trees = Trees::new(vec![Tree::of_place(vec![], root, permissions)]);
    let fs = SecretFs::new(trees, cache.clone(), 1 << 20);
    let folder = runtime.block_on(fs.lookup(INodeNo::ROOT, OsStr::new("api-key"))).unwrap().ino;
    let file = runtime.block_on(fs.lookup(folder, OsStr::new("value"))).unwrap().ino;
    let database = runtime.block_on(fs.lookup(INodeNo::ROOT, OsStr::new("database"))).unwrap().ino;
    let [username, password] = ["username", "password"]
        .map(|name| runtime.block_on(fs.lookup(database, OsStr::new(name))).unwrap().ino);
    let secret = SecretRef::current(SourceId(0), BackendPath::parse("api-key").unwrap());
    criterion.bench_function("cache hit", |b| {
        b.iter(|| runtime.block_on(cache.secret(black_box(&secret))).unwrap());
    });
    criterion.bench_function("lookup of a field", |b| {
        b.iter(|| {
            let found = runtime.block_on(fs.lookup(folder, OsStr::new("value"))).unwrap();
            fs.forget(found.ino, 1);
        });
    });
    criterion.bench_function("open, read, close", |b| {
        b.iter(|| {
            let opened = runtime.block_on(fs.open(file, Caller(0))).unwrap();
            black_box(fs.opened(opened.handle).unwrap().read(0, 4096));
            fs.release(opened.handle)
        });
    });
    // As `open` above, of two files in turn, by a thread that cannot be seen and so is bound to no version, and by one that is.
    for (name, caller) in [("half of a pair, unbound", Caller(0)), ("half of a pair", Caller(7))] {
        let mut files = [username, password].into_iter().cycle();
        criterion.bench_function(name, |b| {
            b.iter(|| {
                let file = files.next().unwrap();
                let opened = runtime.block_on(fs.open(file, caller)).unwrap();
                black_box(fs.opened(opened.handle).unwrap().read(0, 4096));
                fs.release(opened.handle)
            });
        });
    }
}

/// As "open, read, close", of a secret that was made on demand: there is no bookmark to it, it is asked for in the book of leases.
fn leased(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mint = Arc::new(Mint::new(Clock::System));
    mint.role("creds/app", Role::default());
    let source = Source { name: "bench".into(), backend: mint };
    let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), Clock::System));
    let leases = Arc::new(Leases::plain(cache.clone()));
    runtime.spawn(Refresher::new(cache.clone(), leases.clone()).run());
    let root = SecretRef::current(SourceId(0), BackendPath::parse("creds").unwrap());
    let permissions = Permissions { uid: 0, gid: 0, file_mode: 0o400 };
    let trees = Trees::new(vec![Tree::of_place(vec![], root, permissions)]);
    let fs = SecretFs::new(trees, cache, 1 << 20).with_leases(leases);
    let role = runtime.block_on(fs.lookup(INodeNo::ROOT, OsStr::new("app"))).unwrap().ino;
    let file = runtime.block_on(fs.lookup(role, OsStr::new("password"))).unwrap().ino;
    criterion.bench_function("open, read, close of a lease", |b| {
        b.iter(|| {
            let opened = runtime.block_on(fs.open(file, Caller(0))).unwrap();
            black_box(fs.opened(opened.handle).unwrap().read(0, 4096));
            fs.release(opened.handle)
        });
    });
}

fn names(criterion: &mut Criterion) {
    criterion.bench_function("encode a name", |b| b.iter(|| name::encode(black_box("database-password"))));
    criterion.bench_function("decode a name", |b| b.iter(|| name::decode(black_box(OsStr::new("a%2Fb")))));
}

criterion_group!(benches, hits, leased, names);
criterion_main!(benches);
