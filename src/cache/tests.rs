//! Owns the checks of the cache, on a backend in memory and a clock moved by hand.
//! Does not know files; whole lives of a mount are in tests/it/model.rs.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::faulty::Faulty;
use crate::path::BackendPath;

fn cache(limits: Limits) -> (Arc<Faulty>, Clock, Arc<SecretCache>) {
    let backend = Arc::new(Faulty::new());
    let clock = Clock::manual();
    clock.advance(Duration::from_secs(1000));
    let source = Source { name: "test".into(), backend: backend.clone() };
    let cache = Arc::new(SecretCache::new(vec![source], limits, clock.clone()));
    (backend, clock, cache)
}

/// Nothing is served past its TTL.
fn fails_closed() -> Limits {
    Limits { freshness: Freshness { max_stale: Duration::ZERO, ..Freshness::default() }, ..Limits::default() }
}

fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}

fn value(snapshot: &Snapshot) -> &[u8] {
    snapshot.secret.field("value").unwrap().value.expose()
}

#[tokio::test]
async fn fifty_readers_of_one_cold_secret_cost_one_read() {
    let (backend, _, cache) = cache(Limits::default());
    backend.put("a", &[("value", b"canary")]);
    backend.delay(Duration::from_millis(50));
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.secret(&of("a")).await.map(|s| value(&s).to_vec()) })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), b"canary");
    }
    assert_eq!(backend.reads(), 1);
}

#[tokio::test]
async fn a_value_is_served_for_its_ttl_and_then_fetched_again() {
    let (backend, clock, cache) = cache(Limits::default());
    backend.put("a", &[("value", b"canary-1")]);
    assert_eq!(value(&cache.secret(&of("a")).await.unwrap()), b"canary-1");
    backend.put("a", &[("value", b"canary-2")]);
    clock.advance(Duration::from_secs(59));
    assert_eq!(value(&cache.secret(&of("a")).await.unwrap()), b"canary-1");
    clock.advance(Duration::from_secs(1));
    assert_eq!(value(&cache.secret(&of("a")).await.unwrap()), b"canary-2");
    assert_eq!(backend.reads(), 2);
}

#[tokio::test]
async fn the_sweeper_drops_the_bytes_at_the_deadline_though_nobody_asks() {
    let (backend, clock, cache) = cache(fails_closed());
    backend.put("a", &[("value", b"canary")]);
    let held = Arc::downgrade(&cache.secret(&of("a")).await.unwrap().secret);
    assert!(held.upgrade().is_some());
    assert!(cache.sweep(clock.now()).is_some());
    assert!(held.upgrade().is_some());
    clock.advance(Duration::from_secs(60));
    assert_eq!(cache.sweep(clock.now()), None);
    assert!(held.upgrade().is_none());
}

#[tokio::test]
async fn flush_drops_everything_at_once_but_what_is_open() {
    let (backend, _, cache) = cache(Limits::default());
    backend.put("a", &[("value", b"canary")]);
    backend.put("b", &[("value", b"canary")]);
    let open = cache.secret(&of("a")).await.unwrap();
    let idle = Arc::downgrade(&cache.secret(&of("b")).await.unwrap().secret);
    cache.flush();
    assert!(idle.upgrade().is_none());
    assert_eq!(value(&open), b"canary");
    cache.secret(&of("b")).await.unwrap();
    assert_eq!(backend.reads(), 3);
}

#[tokio::test]
async fn an_answer_of_no_is_believed_shortly_and_an_outage_not_at_all() {
    let (backend, clock, cache) = cache(Limits::default());
    assert_eq!(cache.secret(&of("a")).await.unwrap_err(), Error::NotFound);
    assert_eq!(cache.secret(&of("a")).await.unwrap_err(), Error::NotFound);
    assert_eq!(backend.reads(), 1);
    backend.put("a", &[("value", b"canary")]);
    clock.advance(Duration::from_secs(1));
    backend.fail_with(Some(Error::Status(503)));
    assert_eq!(cache.secret(&of("a")).await.unwrap_err(), Error::Status(503));
    backend.fail_with(None);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(value(&cache.secret(&of("a")).await.unwrap()), b"canary");
}

#[tokio::test]
async fn a_cached_value_is_served_through_an_outage_until_its_ttl() {
    let (backend, clock, cache) = cache(fails_closed());
    backend.put("a", &[("value", b"canary")]);
    cache.secret(&of("a")).await.unwrap();
    backend.fail_with(Some(Error::Unreachable("down".into())));
    clock.advance(Duration::from_secs(30));
    assert!(cache.secret(&of("a")).await.is_ok());
    clock.advance(Duration::from_secs(30));
    assert!(cache.secret(&of("a")).await.is_err());
}

#[tokio::test]
async fn an_absent_name_is_looked_for_again_after_a_second() {
    let (backend, clock, cache) = cache(Limits::default());
    backend.put("dir/a", &[("value", b"canary")]);
    assert!(cache.recent_listing(&of("dir")).await.unwrap().get("b").is_none());
    backend.put("dir/b", &[("value", b"canary")]);
    assert!(cache.recent_listing(&of("dir")).await.unwrap().get("b").is_none());
    clock.advance(Duration::from_secs(1));
    assert!(cache.recent_listing(&of("dir")).await.unwrap().get("b").is_some());
    assert!(cache.listing(&of("dir")).await.unwrap().get("b").is_some());
    assert_eq!(backend.lists(), 2);
}

#[tokio::test]
async fn a_reader_that_gives_up_does_not_spoil_the_fetch_of_the_next() {
    let (backend, _, cache) = cache(Limits::default());
    backend.put("a", &[("value", b"canary")]);
    backend.delay(Duration::from_millis(100));
    let first = tokio::time::timeout(Duration::from_millis(20), cache.secret(&of("a"))).await;
    assert!(first.is_err());
    assert_eq!(value(&cache.secret(&of("a")).await.unwrap()), b"canary");
}

#[tokio::test]
async fn more_bytes_than_the_bound_are_served_but_not_kept() {
    let (backend, _, cache) = cache(Limits { max_bytes: 4096, ..Limits::default() });
    let big = vec![b'x'; 100_000];
    for name in ["a", "b", "c"] {
        backend.put(name, &[("value", &big)]);
        assert_eq!(value(&cache.secret(&of(name)).await.unwrap()).len(), big.len());
    }
    cache.slots.run_pending_tasks().await;
    assert!(cache.slots.weighted_size() <= 4096);
}

#[tokio::test]
async fn no_more_questions_at_once_than_allowed() {
    let (backend, _, cache) = cache(Limits { max_in_flight: 1, ..Limits::default() });
    backend.delay(Duration::from_millis(40));
    let (a, b) = (of("a"), of("b"));
    let start = std::time::Instant::now();
    let _ = tokio::join!(cache.secret(&a), cache.secret(&b));
    assert!(start.elapsed() >= Duration::from_millis(80), "the second waited for the first");
}

#[tokio::test]
async fn a_slot_that_was_emptied_before_its_time_is_filled_again() {
    let (backend, _, cache) = cache(Limits::default());
    backend.put("a", &[("value", b"canary")]);
    cache.secret(&of("a")).await.unwrap();
    cache.slots.get(&Question::Read(of("a"))).await.unwrap().wipe();
    let again = tokio::time::timeout(Duration::from_secs(10), cache.secret(&of("a"))).await;
    assert_eq!(value(&again.unwrap().unwrap()), b"canary");
    assert_eq!(backend.reads(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_value_counts_from_when_it_was_asked_for() {
    let (backend, clock, cache) = cache(fails_closed());
    backend.put("a", &[("value", b"canary-1")]);
    backend.delay(Duration::from_secs(4));
    let read = of("a");
    let (first, ()) = tokio::join!(cache.secret(&read), async {
        // The backend has looked already, but has not answered yet.
        tokio::time::sleep(Duration::from_secs(3)).await;
        backend.put("a", &[("value", b"canary-2")]);
        clock.advance(Duration::from_secs(4));
    });
    assert_eq!(value(&first.unwrap()), b"canary-1");
    clock.advance(Duration::from_secs(55));
    assert_eq!(value(&cache.secret(&read).await.unwrap()), b"canary-1");
    clock.advance(Duration::from_secs(1));
    assert_eq!(value(&cache.secret(&read).await.unwrap()), b"canary-2");
}

#[tokio::test(start_paused = true)]
async fn fifty_readers_share_one_outage() {
    let (backend, _, cache) = cache(Limits::default());
    backend.delay(Duration::from_secs(5));
    backend.fail_with(Some(Error::Status(503)));
    let sweeper = tokio::spawn({
        let cache = cache.clone();
        async move {
            loop {
                cache.sweep(cache.clock().now());
                cache.drop_emptied().await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.secret(&of("a")).await.map(drop) })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), Err(Error::Status(503)));
    }
    assert_eq!(backend.reads(), 1);
    sweeper.abort();
}

#[tokio::test]
async fn a_listing_within_its_ttl_survives_a_question_that_an_outage_leaves_open() {
    let (backend, clock, cache) = cache(Limits::default());
    backend.put("dir/a", &[("value", b"canary")]);
    cache.listing(&of("dir")).await.unwrap();
    clock.advance(Duration::from_secs(2));
    backend.fail_with(Some(Error::Status(503)));
    assert_eq!(cache.recent_listing(&of("dir")).await.unwrap_err(), Error::Status(503));
    assert!(cache.listing(&of("dir")).await.unwrap().get("a").is_some());
    backend.fail_with(None);
    backend.put("dir/b", &[("value", b"canary")]);
    clock.advance(Duration::from_nanos(1));
    assert!(cache.recent_listing(&of("dir")).await.unwrap().get("b").is_some());
    assert!(cache.listing(&of("dir")).await.unwrap().get("b").is_some());
}
