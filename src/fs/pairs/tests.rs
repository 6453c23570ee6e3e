//! Owns the checks of pairs as the filesystem has them, on a backend in memory and a clock moved by hand.
//! Does not know a kernel; threads that read through a real mount are in tests/it/pairs.rs.

#![allow(clippy::unwrap_used)]

use std::sync::Weak;

use super::*;
use crate::cache::{Limits, SourceId};
use crate::freshness::Freshness;
use crate::fs::tests::{World, limited_world, world};
use crate::fs::{HandleNo, Opened};
use crate::path::BackendPath;

const ONE: Caller = Caller(101);
const TWO: Caller = Caller(102);

/// A mount of the secret `db` with user and password, both `canary-1`; the numbers of its files.
struct Mount {
    world: World,
    directory: INodeNo,
    user: INodeNo,
    password: INodeNo,
}

impl Mount {
    async fn new() -> Self {
        Self::of(world(&[(&[], "")])).await
    }

    async fn of(world: World) -> Self {
        world.backend.put("db", &[("user", b"canary-1"), ("password", b"canary-1")]);
        let [directory, user, password] = ["db", "db/user", "db/password"];
        let mut numbers = Vec::new();
        for path in [directory, user, password] {
            numbers.push(world.walk(path).await.unwrap().ino);
        }
        let [directory, user, password] = numbers.try_into().unwrap();
        Self { world, directory, user, password }
    }

    /// What the backend says now. A little later than before, for an answer that came at this very moment would do.
    async fn refresh(&self) -> Result<Arc<Snapshot>, crate::backend::Error> {
        self.world.clock.advance(Duration::from_nanos(1));
        self.world.fs.cache.refresh(&Self::db()).await
    }

    fn db() -> SecretRef {
        SecretRef::current(SourceId(0), BackendPath::parse("db").unwrap())
    }

    /// A new version of both fields, which the cache knows at once.
    async fn rotate(&self, value: &str) {
        self.world.backend.put("db", &[("user", value.as_bytes()), ("password", value.as_bytes())]);
        self.refresh().await.unwrap();
    }

    async fn open(&self, file: INodeNo, caller: Caller) -> Opened {
        self.world.fs.open(file, caller).await.unwrap()
    }

    async fn read(&self, file: INodeNo, caller: Caller) -> String {
        let opened = self.open(file, caller).await;
        let bytes = self.world.fs.opened(opened.handle).unwrap().bytes().to_vec();
        self.world.fs.release(opened.handle).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    async fn view(&self, name: &str) -> INodeNo {
        self.world.walk(&format!("db/{name}")).await.unwrap().ino
    }

    fn pass(&self, millis: u64) {
        self.world.clock.advance(Duration::from_millis(millis));
    }

    async fn size(&self, file: INodeNo, caller: Caller) -> (u64, bool) {
        let seen = self.world.fs.attributes_for(file, None, caller).await.unwrap();
        (seen.size, seen.lasting)
    }

    fn sweep(&self) -> Option<Moment> {
        self.world.fs.sweep_pins(self.world.clock.now())
    }

    fn snapshot(&self, handle: HandleNo) -> Weak<Snapshot> {
        Arc::downgrade(self.world.fs.opened(handle).unwrap().snapshot())
    }
}

#[tokio::test]
async fn a_thread_gets_both_halves_from_one_version_and_others_the_newest() {
    let mount = Mount::new().await;
    assert_eq!(mount.read(mount.user, ONE).await, "canary-1");
    mount.rotate("canary-2").await;
    assert_eq!(mount.read(mount.password, TWO).await, "canary-2");
    assert_eq!(mount.read(mount.password, Caller(0)).await, "canary-2");
    assert_eq!(mount.read(mount.password, ONE).await, "canary-1");
    assert_eq!(mount.read(mount.password, ONE).await, "canary-2", "opened again");
    assert_eq!(mount.read(mount.user, ONE).await, "canary-2");
}

#[tokio::test]
async fn opening_again_moves_to_the_newest_and_the_other_half_follows() {
    let mount = Mount::new().await;
    for file in [mount.user, mount.password, mount.user] {
        mount.read(file, ONE).await;
    }
    mount.rotate("canary-2").await;
    assert_eq!(mount.read(mount.user, ONE).await, "canary-2");
    mount.rotate("canary-3").await;
    assert_eq!(mount.read(mount.password, ONE).await, "canary-2");
    assert_eq!(mount.read(mount.user, ONE).await, "canary-3");
    assert_eq!(mount.read(mount.password, ONE).await, "canary-3");
}

#[tokio::test]
async fn a_watcher_that_reads_each_file_for_each_event_sees_the_change_at_once() {
    let mount = Mount::new().await;
    for round in 2..20 {
        mount.rotate(&format!("canary-{round}")).await;
        // One change is several events, for each file.
        for file in [mount.user, mount.user, mount.password, mount.password, mount.password] {
            assert_eq!(mount.read(file, ONE).await, format!("canary-{round}"));
        }
    }
}

#[tokio::test]
async fn after_the_window_the_newest_is_served_and_zero_turns_it_off() {
    let mount = Mount::new().await;
    mount.read(mount.user, ONE).await;
    mount.world.clock.advance(PAIR_WINDOW - Duration::from_nanos(1));
    // Which takes a nanosecond.
    mount.rotate("canary-2").await;
    assert_eq!(mount.read(mount.password, ONE).await, "canary-2");
    let world = world(&[(&[], "")]);
    let fs = world.fs.with_pair_window(Duration::ZERO);
    let mount = Mount::of(World { fs, ..world }).await;
    mount.read(mount.user, ONE).await;
    mount.rotate("canary-2").await;
    assert_eq!(mount.read(mount.password, ONE).await, "canary-2");
}

#[tokio::test]
async fn through_a_directory_that_a_thread_holds_open_it_gets_one_version_however_long_it_takes() {
    for window in [PAIR_WINDOW, Duration::ZERO] {
        let world = world(&[(&[], "")]);
        let fs = world.fs.with_pair_window(window);
        let mount = Mount::of(World { fs, ..world }).await;
        let held = mount.world.fs.open_directory(mount.directory, ONE).await.unwrap();
        assert_eq!(mount.read(mount.user, ONE).await, "canary-1");
        mount.rotate("canary-2").await;
        mount.pass(30_000);
        mount.sweep();
        assert_eq!(mount.read(mount.password, ONE).await, "canary-1");
        assert_eq!(mount.read(mount.user, ONE).await, "canary-2", "opened again");
        mount.rotate("canary-3").await;
        drop(held);
        mount.pass(2_000);
        assert_eq!(mount.read(mount.password, ONE).await, "canary-3", "the directory is closed");
    }
}

#[tokio::test]
async fn a_directory_that_is_opened_later_does_not_cover_what_was_opened_before() {
    let mount = Mount::new().await;
    mount.read(mount.user, ONE).await;
    mount.pass(1);
    let _held = mount.world.fs.open_directory(mount.directory, ONE).await.unwrap();
    let _by_another = mount.world.fs.open_directory(mount.directory, TWO).await.unwrap();
    mount.rotate("canary-2").await;
    mount.pass(2000);
    assert_eq!(mount.read(mount.password, ONE).await, "canary-2");
}

#[tokio::test]
async fn an_expired_version_binds_nobody() {
    let freshness =
        Freshness { ttl: Duration::from_secs(1), max_stale: Duration::ZERO, ..Freshness::default() };
    let mount = Mount::of(limited_world(&[(&[], "")], Limits { freshness, ..Limits::default() })).await;
    let _held = mount.world.fs.open_directory(mount.directory, ONE).await.unwrap();
    mount.read(mount.user, ONE).await;
    mount.rotate("canary-2").await;
    mount.pass(1000);
    assert_eq!(mount.read(mount.password, ONE).await, "canary-2");
}

#[tokio::test]
async fn a_secret_that_was_denied_since_is_not_served_from_a_pin() {
    let mount = Mount::new().await;
    mount.read(mount.user, ONE).await;
    mount.world.backend.delete("db");
    assert!(mount.refresh().await.is_err());
    let denied = mount.world.fs.open(mount.password, ONE).await.unwrap_err();
    assert_eq!(denied.errno().name(), "ENOENT");
    // It comes back, and nobody but the thread that was pinned asks.
    mount.pass(1000);
    mount.rotate("canary-new").await;
    mount.rotate("canary-newer").await;
    assert_eq!(mount.read(mount.password, ONE).await, "canary-newer");
}

#[tokio::test]
async fn what_was_denied_long_ago_ends_no_pin_of_today() {
    let mount = Mount::new().await;
    mount.world.backend.delete("db");
    assert!(mount.refresh().await.is_err());
    mount.rotate("canary-2").await;
    assert_eq!(mount.read(mount.user, ONE).await, "canary-2");
    mount.rotate("canary-3").await;
    assert_eq!(mount.read(mount.password, ONE).await, "canary-2");
}

#[tokio::test]
async fn a_field_is_served_from_where_it_is() {
    let mount = Mount::new().await;
    mount.read(mount.user, ONE).await;
    let both: [(&str, &[u8]); 2] = [("user", b"canary-2"), ("host", b"canary-2")];
    mount.world.backend.put("db", &both);
    mount.refresh().await.unwrap();
    let host = mount.view("host").await;
    assert_eq!(mount.read(mount.password, ONE).await, "canary-1", "only the older version has it");
    assert_eq!(mount.read(host, ONE).await, "canary-2", "only the newest has it");
    let gone = mount.world.fs.open(mount.password, ONE).await.unwrap_err();
    assert_eq!(gone.errno().name(), "ENOENT");
}

#[tokio::test]
async fn views_of_the_whole_secret_count_as_fields_but_what_is_known_of_it_does_not() {
    let mount = Mount::new().await;
    let (json, meta) = (mount.view(".json").await, mount.view(".meta").await);
    mount.read(mount.user, ONE).await;
    mount.rotate("canary-2").await;
    assert!(mount.read(meta, ONE).await.contains("\"version\":\"2\""));
    assert!(mount.read(json, ONE).await.contains("canary-1"));
    assert!(mount.read(json, ONE).await.contains("canary-2"));
    assert_eq!(mount.read(mount.user, ONE).await, "canary-2");
}

#[tokio::test]
async fn fstat_after_an_open_is_of_what_the_thread_opened_and_the_kernel_keeps_nothing_meanwhile() {
    let mount = Mount::new().await;
    mount.read(mount.user, ONE).await;
    mount.rotate("canary-22").await;
    assert_eq!(mount.size(mount.password, ONE).await, (9, true));
    let older = mount.open(mount.password, ONE).await;
    assert!(older.attributes_changed, "the kernel was told of the newest");
    let newest = mount.open(mount.password, TWO).await;
    mount.rotate("canary-333").await;
    assert_eq!(mount.size(mount.password, ONE).await, (8, false));
    assert_eq!(mount.size(mount.password, TWO).await, (9, false));
    assert_eq!(mount.size(mount.password, Caller(0)).await, (10, false));
    assert!(!mount.world.walk("db/password").await.unwrap().lasting);
    let again = mount.open(mount.password, ONE).await;
    assert!(again.attributes_changed);
    assert_eq!(mount.size(mount.password, ONE).await, (10, false), "what it opened last");
    mount.world.fs.release(newest.handle).unwrap();
    assert_eq!(mount.size(mount.password, TWO).await, (10, false), "what it opened is closed");
    mount.pass(1000);
    assert_eq!(mount.size(mount.password, ONE).await, (10, true));
    for opened in [again, older] {
        mount.world.fs.release(opened.handle).unwrap();
    }
}

#[tokio::test]
async fn a_pinned_version_goes_with_its_pin() {
    let mount = Mount::new().await;
    assert_eq!(mount.sweep(), None);
    let opened = mount.open(mount.user, ONE).await;
    let held = mount.snapshot(opened.handle);
    mount.world.fs.release(opened.handle).unwrap();
    mount.rotate("canary-2").await;
    let end = mount.sweep().unwrap();
    assert_eq!(end.since(mount.world.clock.now()), PAIR_WINDOW - Duration::from_nanos(1));
    mount.pass(1999);
    assert_eq!(mount.sweep(), Some(end));
    assert!(held.upgrade().is_some());
    mount.pass(1);
    assert_eq!(mount.sweep(), None);
    assert!(held.upgrade().is_none());
}

#[tokio::test]
async fn flush_lets_go_of_pins_too() {
    let mount = Mount::new().await;
    let opened = mount.open(mount.user, ONE).await;
    let held = mount.snapshot(opened.handle);
    mount.world.fs.release(opened.handle).unwrap();
    mount.world.fs.flush();
    assert!(held.upgrade().is_none());
    assert_eq!(mount.sweep(), None);
}

#[tokio::test]
async fn many_readers_push_the_oldest_out() {
    let mount = Mount::new().await;
    for thread in 1..=20_000 {
        let held = mount.world.fs.open_directory(mount.directory, Caller(thread)).await.unwrap();
        mount.read(mount.user, Caller(thread)).await;
        mount.pass(u64::from(thread % 64 == 0));
        drop(held);
    }
    let known: usize = mount.world.fs.pairs.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
    assert!(known <= SHARDS * MOST_IN_SHARD, "{known}");
    mount.rotate("canary-2").await;
    assert_eq!(mount.read(mount.password, Caller(20_000)).await, "canary-1", "the last is known");
    assert_eq!(mount.read(mount.password, Caller(1)).await, "canary-2", "the first is not");
}

#[tokio::test]
async fn who_was_served_late_is_told_again() {
    let mount = Mount::new().await;
    let mut late = mount.world.fs.subscribe_to_late();
    mount.read(mount.user, ONE).await;
    mount.rotate("canary-2").await;
    for _ in 0..3 {
        mount.read(mount.password, ONE).await;
    }
    mount.pass(1999);
    mount.sweep();
    assert!(late.try_recv().is_err(), "not before the window is over");
    mount.pass(1);
    assert_eq!(mount.sweep(), None);
    let news = late.try_recv().unwrap();
    assert_eq!((news.of, news.version.unwrap().as_str()), (Mount::db(), "2"));
    assert!(late.try_recv().is_err(), "and that once");
}

#[tokio::test(start_paused = true)]
async fn the_background_task_wakes_when_there_is_a_pin() {
    let mount = Mount::new().await;
    let (clock, backend) = (mount.world.clock.clone(), mount.world.backend.clone());
    let Mount { world: World { fs, .. }, user, .. } = mount;
    let fs = Arc::new(fs);
    let task = tokio::spawn(fs.clone().sweep_pins_forever());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let opened = fs.open(user, ONE).await.unwrap();
    let held = Arc::downgrade(fs.opened(opened.handle).unwrap().snapshot());
    fs.release(opened.handle).unwrap();
    backend.put("db", &[("user", b"canary-2")]);
    clock.advance(Duration::from_nanos(1));
    fs.cache.refresh(&Mount::db()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(held.upgrade().is_some());
    clock.advance(PAIR_WINDOW);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(held.upgrade().is_none());
    task.abort();
}
