//! Owns the tests of waiting for a change of the store's file.
//! Does not know a store: any file will do.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::clock::Clock;

/// Only a hang takes this long.
const HANG: Duration = Duration::from_secs(30);

struct Waiter {
    watch: Watch,
    wait: Wait,
}

impl Waiter {
    fn of(file: &Path) -> Self {
        let watch = Watch::new(file.to_owned(), Clock::System);
        let wait = Wait::new(&watch);
        Self { watch, wait }
    }

    /// The change comes while somebody waits; how long it took to tell.
    async fn tells(&self, what: &str, change: impl FnOnce()) -> Duration {
        let mut changed = Box::pin(self.wait.changed(&self.watch));
        let idle = tokio::time::timeout(Duration::from_millis(50), &mut changed).await;
        assert!(idle.is_err(), "before {what}: nothing has changed");
        let before = self.watch.generation();
        change();
        let start = Instant::now();
        tokio::time::timeout(HANG, changed).await.unwrap_or_else(|_| panic!("never told: {what}"));
        let took = start.elapsed();
        assert_ne!(self.watch.generation(), before, "{what}: whoever is woken must see it");
        took
    }

    async fn is_quiet(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.wait.changed(&self.watch)).await.is_err()
    }
}

fn replace(file: &Path, content: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[tokio::test]
async fn every_kind_of_change_wakes_and_sooner_than_a_look_would() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store");
    let waiter = Waiter::of(&file);
    let mut took = vec![
        waiter.tells("made", || std::fs::write(&file, "one").unwrap()).await,
        waiter.tells("written in place", || std::fs::write(&file, "two, longer").unwrap()).await,
        waiter.tells("replaced", || replace(&file, "three")).await,
        waiter.tells("removed", || std::fs::remove_file(&file).unwrap()).await,
    ];
    assert!(waiter.is_quiet().await);
    took.sort();
    // A busy machine may be late now and then; a look once a second would be late every time.
    assert!(took[0] < LOOK / 4, "{took:?}");
}

#[tokio::test]
async fn a_change_between_two_waits_ends_the_second_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store");
    let waiter = Waiter::of(&file);
    replace(&file, "before the first wait");
    tokio::time::timeout(HANG, waiter.wait.changed(&waiter.watch)).await.unwrap();
    assert!(waiter.is_quiet().await);
    replace(&file, "between two");
    // An open takes the event away from whoever asks by generation.
    waiter.watch.generation();
    tokio::time::timeout(HANG, waiter.wait.changed(&waiter.watch)).await.unwrap();
    assert!(waiter.is_quiet().await);
}

#[tokio::test]
async fn a_wait_that_is_dropped_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store");
    let waiter = Waiter::of(&file);
    for round in 0..50 {
        let patience = Duration::from_micros(round * 40);
        let _ = tokio::time::timeout(patience, waiter.wait.changed(&waiter.watch)).await;
        replace(&file, &round.to_string());
        tokio::time::timeout(HANG, waiter.wait.changed(&waiter.watch)).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_there_yet_is_waited_for_and_a_link_may_move() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("later/store");
    let waiter = Waiter::of(&file);
    waiter
        .tells("folder and file", || {
            std::fs::create_dir(folder.path().join("later")).unwrap();
            std::fs::write(&file, "1").unwrap();
        })
        .await;
    let (link, other) = (folder.path().join("link"), tempfile::tempdir().unwrap());
    let target = other.path().join("target");
    std::fs::write(&target, "22").unwrap();
    symlink(&file, &link).unwrap();
    let waiter = Waiter::of(&link);
    waiter.tells("the link's target", || replace(&file, "333")).await;
    let moved = folder.path().join("moved");
    symlink(&target, &moved).unwrap();
    waiter.tells("the link itself", || std::fs::rename(&moved, &link).unwrap()).await;
    waiter.tells("its new target", || replace(&target, "4444")).await;
}

#[tokio::test]
async fn without_events_a_change_is_seen_by_looking() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store");
    let watch = Watch::new(file.clone(), Clock::System);
    let wait = Wait { events: None, ..Wait::new(&watch) };
    Waiter { watch, wait }.tells("made", || std::fs::write(&file, "one").unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_wait_are_both_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store");
    let waiter = Arc::new(Waiter::of(&file));
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let waiter = waiter.clone();
            tokio::spawn(async move { waiter.wait.changed(&waiter.watch).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    std::fs::write(&file, "one").unwrap();
    for one in waiting {
        tokio::time::timeout(HANG, one).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_who_write_beside_the_file_all_the_time_cost_little() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store");
    std::fs::write(&file, "one").unwrap();
    let waiter = Waiter::of(&file);
    let beside = folder.path().join("log");
    let (start, before) = (Instant::now(), waiter.watch.looks());
    let writer = std::thread::spawn(move || {
        let mut written = 0;
        while start.elapsed() < Duration::from_millis(700) {
            std::fs::write(&beside, written.to_string()).unwrap();
            written += 1;
        }
        written
    });
    let patience = Duration::from_millis(700);
    assert!(tokio::time::timeout(patience, waiter.wait.changed(&waiter.watch)).await.is_err());
    let (looks, elapsed) = (waiter.watch.looks() - before, start.elapsed());
    // Two for each pause and one to begin with.
    let most = 2 * elapsed.div_duration_f64(PAUSE) as usize + 3;
    let written = writer.join().unwrap();
    assert!(
        looks <= most && looks > 3 && written > most,
        "{looks} looks for {written} writes in {elapsed:?}"
    );
}
