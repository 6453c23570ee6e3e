//! Owns checks of the refresh loop over a cache, on a backend in memory and a clock moved by hand in small steps.
//! Does not know kernels or real backends.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::backend::faulty::Faulty;
use crate::cache::{Changed, Limits, Source};
use crate::clock::Clock;
use crate::freshness::Freshness;
use crate::leases::Leases;
use crate::path::BackendPath;
use crate::secret::Version;

const TTL: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

struct World {
    backend: Arc<Faulty>,
    clock: Clock,
    cache: Arc<SecretCache>,
    news: UnboundedReceiver<Changed>,
}

impl World {
    /// Secrets `0` to `count - 1` in the folder `f`, and the loop running.
    fn of(count: usize, max_stale: Duration) -> Self {
        Self::with(count, max_stale, |_| {})
    }

    /// The same over a backend that `prepare` has told what it can do.
    fn with(count: usize, max_stale: Duration, prepare: impl Fn(&Faulty)) -> Self {
        let (backend, clock) = (Arc::new(Faulty::new()), Clock::manual());
        prepare(&backend);
        clock.advance(Duration::from_secs(1000));
        for number in 0..count {
            backend.put(&format!("f/{number}"), &[("value", b"canary-1")]);
        }
        let source = Source { name: "test".into(), backend: backend.clone() };
        let freshness = Freshness { max_stale, ..Freshness::default() };
        let limits = Limits { freshness, ..Limits::default() };
        let cache = Arc::new(SecretCache::new(vec![source], limits, clock.clone()));
        let news = cache.subscribe();
        tokio::spawn(Refresher::new(cache.clone(), Arc::new(Leases::plain(cache.clone()))).run());
        Self { backend, clock, cache, news }
    }

    /// Lets time pass, for the loop and for the cache alike.
    async fn pass(&self, time: Duration) {
        let end = self.clock.now().plus(time);
        while self.clock.now() < end {
            self.clock.advance(STEP);
            tokio::time::sleep(STEP).await;
        }
    }

    async fn read(&self, number: usize) -> Result<String, Error> {
        let snapshot = self.cache.secret(&of(&format!("f/{number}"))).await?;
        Ok(snapshot.secret.field("value").unwrap().value.expose_str().unwrap().to_owned())
    }

    async fn read_all(&self, count: usize) -> usize {
        let mut good = 0;
        for number in 0..count {
            good += usize::from(self.read(number).await.is_ok());
        }
        good
    }

    fn asked(&self) -> u64 {
        self.backend.reads() + self.backend.lists() + self.backend.versions_asked()
    }

    /// How often the backend was asked in each second of `time`, while everything is read at every `every`.
    async fn flow(&self, time: Duration, every: Duration, count: usize) -> Vec<u64> {
        let mut flow = vec![];
        let mut last_read = self.clock.now();
        for _ in 0..time.as_secs() {
            let before = self.asked();
            self.pass(Duration::from_secs(1)).await;
            flow.push(self.asked() - before);
            if self.clock.now().since(last_read) >= every {
                last_read = self.clock.now();
                assert_eq!(self.read_all(count).await, count);
            }
        }
        flow
    }
}

fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_asked_for_ahead_so_that_no_reader_waits() {
    let world = World::of(3, Duration::ZERO);
    world.read_all(3).await;
    let first = world.cache.counters().misses.get();
    for _ in 0..20 {
        world.pass(TTL / 2).await;
        assert_eq!(world.read_all(3).await, 3);
    }
    assert_eq!(world.cache.counters().misses.get(), first, "every read was a hit");
    assert!(world.cache.counters().refreshes.get() >= 30);
}

#[tokio::test(start_paused = true)]
async fn what_is_idle_costs_no_call_and_is_wiped_at_its_end() {
    let world = World::of(1, TTL);
    let held = Arc::downgrade(&world.cache.secret(&of("f/0")).await.unwrap().secret);
    world.pass(TTL * 3).await;
    let asked = world.asked();
    assert!((3..=5).contains(&asked), "in use for three TTLs after one read: {asked}");
    assert!(held.upgrade().is_some());
    world.pass(TTL * 2 + STEP).await;
    assert_eq!(world.asked(), asked);
    assert!(held.upgrade().is_none(), "a TTL and max_stale after it was last asked for");
    assert!(world.cache.held().is_empty());
    world.pass(TTL * 10).await;
    assert_eq!(world.asked(), asked);
    assert_eq!(world.cache.load(SourceId(0)), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_version_is_news_once_and_an_unchanged_secret_never() {
    let mut world = World::of(2, TTL);
    world.read_all(2).await;
    world.flow(TTL * 3, TTL, 2).await;
    assert!(world.news.try_recv().is_err());
    world.backend.put("f/1", &[("value", b"canary-2")]);
    world.pass(TTL).await;
    let changed = world.news.try_recv().unwrap();
    assert_eq!((changed.of, changed.version.unwrap().as_str()), (of("f/1"), "2"));
    assert_eq!(world.read(1).await.unwrap(), "canary-2");
    world.flow(TTL * 2, TTL, 2).await;
    assert!(world.news.try_recv().is_err());
    world.backend.delete("f/1");
    world.pass(TTL).await;
    assert_eq!(world.news.try_recv().unwrap(), Changed { of: of("f/1"), version: None });
    assert_eq!(world.read(1).await.unwrap_err(), Error::NotFound);
}

#[tokio::test(start_paused = true)]
async fn thousands_in_use_cost_a_request_per_ttl_each_spread_evenly() {
    const COUNT: usize = 2000;
    let world = World::of(COUNT, TTL);
    for part in 0..4 {
        for number in part * COUNT / 4..(part + 1) * COUNT / 4 {
            world.read(number).await.unwrap();
        }
        // The rate of 1,000 a second is kept for readers too.
        world.pass(Duration::from_secs(1)).await;
    }
    // What was read in one rush is spread over the first TTLs.
    world.flow(TTL * 3, TTL, COUNT).await;
    let flow = world.flow(TTL * 5, TTL, COUNT).await;
    let total: u64 = flow.iter().sum();
    let per_ttl = total as f64 / 5.0 / COUNT as f64;
    assert!(per_ttl <= 1.05, "{per_ttl} requests per secret and TTL");
    let mean = total as f64 / flow.len() as f64;
    let most = *flow.iter().max().unwrap() as f64;
    assert!(most <= 1.5 * mean, "{most} in one second, {mean} on average");
    assert_eq!(world.cache.counters().misses.get(), COUNT as u64, "no reader waited but at first");
    assert_eq!(world.cache.counters().stale_serves.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_survived_at_few_requests_and_ends_as_a_flow() {
    const COUNT: usize = 1000;
    for error in [Error::Status(500), Error::Unreachable("reset".into()), Error::TimedOut(TTL)] {
        let world = World::of(COUNT, TTL * 60);
        world.read_all(COUNT).await;
        world.flow(TTL, TTL / 2, COUNT).await;
        world.backend.fail_with(Some(error));
        let during: u64 = world.flow(TTL, TTL / 4, COUNT).await.iter().sum();
        assert!(during <= 200, "{during} requests in the outage");
        world.flow(TTL, TTL / 2, COUNT).await;
        assert!(world.cache.counters().stale_serves.get() > 0);
        let held = world.cache.held();
        assert!(held.iter().all(|held| held.stale), "and all of it is marked");
        for number in 0..COUNT {
            world.backend.put(&format!("f/{number}"), &[("value", b"canary-2")]);
        }
        world.backend.fail_with(None);
        let after = world.flow(TTL * 3 / 2, TTL / 2, COUNT).await;
        assert!(after.iter().all(|second| *second <= 50), "{after:?}");
        for number in 0..COUNT {
            assert_eq!(world.read(number).await.unwrap(), "canary-2");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_max_stale_reads_fail_as_soon_as_the_ttl_ends() {
    let world = World::of(1, Duration::ZERO);
    world.read(0).await.unwrap();
    world.backend.fail_with(Some(Error::Status(503)));
    world.pass(TTL - STEP).await;
    assert!(world.read(0).await.is_ok());
    world.pass(STEP * 2).await;
    assert!(world.read(0).await.is_err());
    assert!(world.cache.held().is_empty());
    world.backend.fail_with(None);
    world.pass(Duration::from_secs(11)).await;
    assert!(world.read(0).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_and_a_deletion_are_never_hidden_by_a_stale_copy() {
    for answer in [Error::NotFound, Error::Forbidden] {
        let world = World::of(1, TTL * 60);
        world.read(0).await.unwrap();
        world.backend.fail_with(Some(Error::Status(503)));
        world.pass(TTL * 2).await;
        assert!(world.read(0).await.is_ok(), "stale");
        world.backend.fail_with(Some(answer.clone()));
        // The longest rest of the breaker, and a refresh.
        world.pass(Duration::from_secs(12)).await;
        assert_eq!(world.read(0).await.unwrap_err(), answer);
        assert!(world.cache.held().is_empty(), "the stale copy is erased");
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_machine_slept_a_reader_gets_what_is_true_now() {
    let world = World::of(5, TTL * 60);
    world.read_all(5).await;
    for number in 0..5 {
        world.backend.put(&format!("f/{number}"), &[("value", b"canary-2")]);
    }
    // CLOCK_BOOTTIME goes on while no timer does.
    world.clock.advance(TTL * 2);
    for number in 0..5 {
        assert_eq!(world.read(number).await.unwrap(), "canary-2", "stale is for outages");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watched_secret_stays_in_use_and_a_wanted_one_is_fetched() {
    let mut world = World::of(2, TTL);
    world.cache.note_use(&of("f/1"));
    world.pass(TTL).await;
    assert_eq!(world.asked(), 0, "what is not held is not fetched for being noted");
    world.cache.want(&of("f/0"));
    for _ in 0..10 {
        world.pass(TTL).await;
        world.cache.note_use(&of("f/0"));
    }
    world.backend.put("f/0", &[("value", b"canary-2")]);
    world.pass(TTL).await;
    assert_eq!(world.news.try_recv().unwrap().of, of("f/0"));
    // What happens while it is not held is found out when somebody who watches is seen again.
    world.cache.want(&of("f/0"));
    world.pass(TTL * 6).await;
    assert!(world.cache.held().is_empty());
    world.cache.want(&of("f/0"));
    world.pass(TTL * 6).await;
    assert!(world.news.try_recv().is_err(), "it was the same");
    world.backend.put("f/0", &[("value", b"canary-3")]);
    world.cache.want(&of("f/0"));
    world.pass(TTL).await;
    assert_eq!(world.news.try_recv().unwrap().version.unwrap().as_str(), "3");
}

#[tokio::test(start_paused = true)]
async fn who_watches_is_told_once_of_what_somebody_else_has_read_anew() {
    let mut world = World::of(1, TTL);
    let of = of("f/0");
    let put = |world: &World, value: &str| world.backend.put("f/0", &[("value", value.as_bytes())]);
    world.cache.want(&of);
    world.pass(TTL / 4).await;
    // It is not held when it changes, and a reader has it back before it is seen that it is watched.
    world.cache.flush();
    put(&world, "canary-2");
    world.read(0).await.unwrap();
    for _ in 0..3 {
        world.cache.want(&of);
        world.pass(TTL / 4).await;
    }
    assert_eq!(world.news.try_recv().unwrap().version.unwrap().as_str(), "2");
    assert!(world.news.try_recv().is_err());
    // What is told when it is found is not told again because it is watched.
    put(&world, "canary-3");
    world.cache.refresh(&of).await.unwrap();
    for _ in 0..3 {
        world.cache.want(&of);
        world.pass(TTL / 4).await;
    }
    assert_eq!(world.news.try_recv().unwrap().version.unwrap().as_str(), "3");
    assert!(world.news.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fell_between_two_workers_is_told_once_however_it_is_found() {
    let mut world = World::of(3, TTL);
    let left = |number: usize, version: &str| (of(&format!("f/{number}")), Version::new(version));
    world.backend.put("f/0", &[("value", b"canary-2")]);
    world.backend.put("f/1", &[("value", b"canary-2")]);
    world.cache.was_left_with([left(0, "1"), left(1, "1"), left(2, "1")]);
    // Somebody reads one of them before it is seen that it is watched.
    world.read(1).await.unwrap();
    for _ in 0..3 {
        for number in 0..3 {
            world.cache.want(&of(&format!("f/{number}")));
        }
        world.pass(TTL / 4).await;
    }
    let mut told = Vec::new();
    while let Ok(changed) = world.news.try_recv() {
        told.push(changed);
    }
    told.sort_by_key(|changed| changed.of.path.to_string());
    let news = |number: usize| Changed { of: of(&format!("f/{number}")), version: Some(Version::new("2")) };
    assert_eq!(told, [news(0), news(1)], "and nothing of the third");
    assert!((0..3).all(|number| !world.cache.is_unsaid(&of(&format!("f/{number}")))));
}

#[tokio::test(start_paused = true)]
async fn versions_of_a_folder_cost_a_twentieth_and_values_are_fetched_when_one_moved() {
    const COUNT: usize = 500;
    let mut world = World::with(COUNT, TTL, |backend| backend.tell_versions(true));
    for number in 0..COUNT {
        world.read(number).await.unwrap();
        world.pass(STEP).await;
    }
    // Also while they come into use one after the other.
    let asked = world.backend.versions_asked();
    assert!((1..=4).contains(&asked), "{asked} questions for versions in half a TTL");
    world.flow(TTL * 2, TTL, COUNT).await;
    let total: u64 = world.flow(TTL * 5, TTL, COUNT).await.iter().sum();
    assert!(total * 20 <= 5 * COUNT as u64, "{total} requests in five TTLs");
    assert_eq!(world.cache.counters().misses.get(), COUNT as u64);
    assert_eq!(world.cache.counters().stale_serves.get(), 0);
    let reads = world.backend.reads();
    world.backend.put("f/7", &[("value", b"canary-2")]);
    world.backend.delete("f/8");
    world.pass(TTL).await;
    assert_eq!(world.backend.reads(), reads + 2);
    let mut news = [world.news.try_recv().unwrap(), world.news.try_recv().unwrap()];
    news.sort_by_key(|changed| changed.of.path.joined());
    assert_eq!((&news[0].of, news[0].version.as_ref().unwrap().as_str()), (&of("f/7"), "2"));
    assert_eq!(news[1], Changed { of: of("f/8"), version: None });
    assert_eq!(world.read(7).await.unwrap(), "canary-2");
    assert_eq!(world.read(8).await.unwrap_err(), Error::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_folder_is_asked_for_once_at_a_time_however_slow_its_answer() {
    const COUNT: usize = 200;
    let world = World::with(COUNT, TTL, |backend| backend.tell_versions(true));
    world.read_all(COUNT).await;
    world.backend.delay_path("f", Duration::from_secs(10));
    world.pass(Duration::from_secs(9)).await;
    assert_eq!(world.backend.versions_asked(), 1, "its answer is on its way");
    world.flow(TTL * 2, TTL / 2, COUNT).await;
    let asked = world.backend.versions_asked();
    assert!(asked <= 5, "{asked}");
    assert!(world.cache.held().iter().all(|held| !held.stale));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_stops_telling_versions_is_asked_for_each_secret() {
    const COUNT: usize = 50;
    let world = World::with(COUNT, TTL, |backend| backend.tell_versions(true));
    world.read_all(COUNT).await;
    world.flow(TTL * 2, TTL, COUNT).await;
    world.backend.tell_versions(false);
    for number in 0..COUNT {
        world.backend.put(&format!("f/{number}"), &[("value", b"canary-2")]);
    }
    world.flow(TTL, TTL / 4, COUNT).await;
    for number in 0..COUNT {
        assert_eq!(world.read(number).await.unwrap(), "canary-2");
    }
    // All were due at once, so some reader was faster than the loop; nobody got anything stale.
    assert_eq!(world.cache.counters().stale_serves.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_store_is_never_asked_and_a_changed_one_is_news_at_once() {
    for tells in [false, true] {
        let mut world = World::with(100, TTL, |backend| {
            backend.count_generations(true);
            backend.tell_versions(tells);
        });
        world.read_all(100).await;
        let asked = world.asked();
        world.flow(TTL * 5, TTL, 100).await;
        assert_eq!(world.asked(), asked, "nothing has changed");
        world.backend.put("f/7", &[("value", b"canary-2")]);
        // Nobody reads: the loop was woken by the change.
        world.pass(STEP * 10).await;
        assert_eq!(world.news.try_recv().unwrap().of, of("f/7"));
        assert!(world.news.try_recv().is_err());
        assert_eq!(world.read(7).await.unwrap(), "canary-2");
        assert_eq!(world.backend.reads(), if tells { 101 } else { 200 });
    }
}

#[tokio::test(start_paused = true)]
async fn one_broken_secret_is_tried_ever_less_often_and_costs_the_others_nothing() {
    let world = World::of(20, TTL * 60);
    world.read_all(20).await;
    world.flow(TTL * 2, TTL / 2, 20).await;
    world.backend.fail_path("f/3", Some(Error::Status(500)));
    let asked: u64 = world.flow(TTL * 5, TTL / 2, 20).await.iter().sum();
    // The others cost 19 a TTL; this one a try in ten seconds or so.
    assert!(asked <= 5 * (21 + 14), "{asked}");
    let held = world.cache.held();
    assert!(held.iter().all(|held| held.stale == (held.of == of("f/3"))));
    world.backend.fail_path("f/3", None);
    world.flow(Duration::from_secs(15), TTL, 20).await;
    assert!(world.cache.held().iter().all(|held| !held.stale));
}
