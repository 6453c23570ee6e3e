//! Owns what becomes of open files: each is read on in the next worker as it was opened, whatever is there now; none is lost or left.
//! Does not know the kernel.

use std::ffi::OsStr;

use super::*;
use crate::errno::Failure;
use crate::fs::{Caller, HandleNo};
use crate::tree::inode::INodeNo;

async fn walk(fs: &SecretFs, path: &str) -> INodeNo {
    let mut at = INodeNo::ROOT;
    for name in path.split('/') {
        at = fs.lookup(at, OsStr::new(name)).await.unwrap().ino;
    }
    at
}

async fn open(fs: &SecretFs, path: &str) -> (INodeNo, HandleNo) {
    let ino = walk(fs, path).await;
    (ino, fs.open(ino, Caller(0)).await.unwrap().handle)
}

fn read(fs: &SecretFs, (ino, handle): (INodeNo, HandleNo)) -> Vec<u8> {
    fs.opened_at_once(ino, handle).unwrap().unwrap().read(0, 1000).to_vec()
}

#[tokio::test]
async fn what_was_opened_is_read_on_though_nothing_of_it_is_there_any_more() {
    let world = World::new();
    let old = warm(&world).await;
    let mut open_files = Vec::new();
    for path in ["kept/a/value", "kept/a/.json", "made/role/password"] {
        let file = open(&old.fs, path).await;
        open_files.push((file, read(&old.fs, file)));
    }
    old.fs.opened(open_files[0].0.1).unwrap().note_paged();
    world.kept.put("a", &[("value", b"canary-later"), ("other", b"canary")]);
    old.cache.refresh(&kept("a")).await.unwrap();
    open_files.push((open(&old.fs, "kept/a/value").await, b"canary-later".to_vec()));
    let new = world.worker();
    let state = new.receive(&old.export().await).unwrap();
    assert_eq!(state.counts().files, 4);
    let asked = world.asked();
    new.fs.import(state.install(&new.cache, &new.leases).await);
    // What was open is not what is held.
    new.cache.flush();
    for (file, bytes) in &open_files {
        assert_eq!(read(&new.fs, *file), *bytes);
        let other = INodeNo(file.0.0 + 1);
        assert!(matches!(new.fs.opened_at_once(other, file.1), Some(Err(Failure::BadHandle))));
    }
    assert_eq!(world.asked(), asked);
    assert!(new.fs.opened(open_files[0].0.1).unwrap().was_paged());
    for ((_, handle), _) in open_files {
        assert!(new.fs.release(handle).is_some());
    }
    assert_eq!(new.fs.in_use().1, 0);
}

#[tokio::test]
async fn who_opens_or_closes_meanwhile_waits_and_does_it_where_it_lasts() {
    let world = World::new();
    let worker = warm(&world).await;
    let (ino, handle) = open(&worker.fs, "kept/a/value").await;
    let paused = worker.pause().await;
    assert!(worker.fs.open_at_once(ino, Caller(0)).is_none());
    assert!(worker.fs.release_at_once(handle).is_none());
    let (opening, closing) = (worker.fs.open(ino, Caller(0)), worker.fs.release_in_time(handle));
    tokio::pin!(opening, closing);
    for _ in 0..20 {
        let waited = tokio::time::sleep(Duration::from_millis(1));
        tokio::select! {
            _ = &mut opening => panic!("nothing is opened"),
            _ = &mut closing => panic!("nothing is closed"),
            () = waited => {}
        }
    }
    assert_eq!(read(&worker.fs, (ino, handle)), b"canary-a", "what is open can be read");
    assert_eq!(worker.fs.in_use().1, 1);
    drop(paused);
    assert!(closing.await.is_some());
    assert!(opening.await.is_ok());
    assert_eq!(worker.fs.in_use().1, 1);
}

#[tokio::test]
async fn a_hundred_files_of_one_secret_carry_it_once() {
    let world = World::new();
    let worker = warm(&world).await;
    let before = worker.export().await.len();
    for _ in 0..100 {
        open(&worker.fs, "kept/a/value").await;
    }
    let after = worker.export().await;
    let secrets = after.windows(8).filter(|bytes| bytes == b"canary-a").count();
    assert_eq!(secrets, 2, "as it is held and as it is open");
    assert!(after.len() < before + 100 * 60);
}
