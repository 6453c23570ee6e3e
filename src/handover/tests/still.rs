//! Owns what stands still during a handover: answers wait at the door, no lease is made, renewed or given back; and all goes on after.
//! Does not know what is carried.

use std::task::Poll;

use super::*;
use crate::backend::Error;

/// Whether something is ready, after everybody had a turn.
async fn is_ready(future: impl Future) -> bool {
    tokio::pin!(future);
    for _ in 0..50 {
        let polled =
            std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await;
        if polled {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

#[tokio::test]
async fn what_is_held_is_served_and_nothing_else_is_taken_in_until_all_goes_on() {
    let world = World::new();
    let worker = warm(&world).await;
    world.kept.put("new", &[("value", b"canary-new")]);
    let paused = worker.pause().await;
    let asked = world.asked();
    assert!(worker.cache.secret(&kept("a")).await.is_ok());
    assert!(!is_ready(worker.cache.secret(&kept("new"))).await);
    assert_eq!(world.asked(), asked, "nobody is asked for what the next worker would ask for again");
    let of = kept("new");
    let waiting = worker.cache.secret(&of);
    tokio::pin!(waiting);
    assert!(!is_ready(waiting.as_mut()).await);
    drop(paused);
    assert_eq!(waiting.await.unwrap().secret.field("value").unwrap().value.expose(), b"canary-new");
}

#[tokio::test]
async fn an_answer_that_was_on_its_way_is_shown_to_nobody_while_the_state_is_sent() {
    let world = World::new();
    let worker = warm(&world).await;
    world.kept.put("a", &[("value", b"canary-later")]);
    world.kept.delay(Duration::from_secs(2));
    let of = kept("a");
    let refresh = worker.cache.refresh(&of);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let paused = worker.pause().await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let shown = worker.cache.secret(&of).await.unwrap();
        assert_eq!(shown.secret.version.as_str(), "1");
        drop(paused);
    };
    let (refreshed, ()) = tokio::join!(refresh, meanwhile);
    assert_eq!(refreshed.unwrap().secret.version.as_str(), "2");
}

#[tokio::test]
async fn no_lease_is_made_renewed_or_given_back_until_all_goes_on() {
    let world = World::new();
    let worker = warm(&world).await;
    world.mint.role("other", Role::default());
    let paused = worker.pause().await;
    let asked = world.asked();
    let (other, role) = (made("other"), made("role"));
    let opening = worker.leases.open(&other);
    let revoking = worker.leases.revoke(&role);
    tokio::pin!(opening, revoking);
    world.clock.advance(Duration::from_secs(50));
    worker.act().await;
    assert!(!is_ready(opening.as_mut()).await && !is_ready(revoking.as_mut()).await);
    worker.act().await;
    assert_eq!(world.asked(), asked);
    drop(paused);
    assert!(revoking.await.unwrap().is_some());
    worker.act().await;
    assert!(opening.await.is_ok());
}

#[tokio::test]
async fn a_lease_on_its_way_is_waited_for_and_goes_too() {
    let world = World::new();
    let worker = warm(&world).await;
    world.mint.role("other", Role::default());
    world.mint.delay(Duration::from_millis(30));
    let other = made("other");
    let opening = worker.open(&other);
    let pausing = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        worker.pause().await
    };
    let ((), mut paused) = tokio::join!(opening, pausing);
    let mut bytes = Vec::new();
    assert_eq!(paused.send(&mut bytes, &OURS).unwrap().leases, 2);
    let new = world.worker();
    new.take_over(&bytes).await;
    assert!(new.leases.current(&other).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_made_in_time_ends_the_handover_and_nothing_else() {
    let world = World::new();
    let worker = warm(&world).await;
    world.mint.role("other", Role::default());
    world.mint.delay(Duration::from_secs(60));
    let other = made("other");
    let opening = worker.open(&other);
    let pausing = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let busy = pause(&worker.cache, &worker.leases, &worker.fs, PATIENCE).await.err().unwrap();
        assert!(busy.to_string().contains("did not end within 5s"), "{busy}");
    };
    tokio::join!(opening, pausing);
    assert!(worker.leases.current(&other).is_some());
}

#[tokio::test]
async fn who_cannot_take_it_in_is_told_of_and_all_goes_on() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let world = World::new();
    let worker = warm(&world).await;
    let mut paused = worker.pause().await;
    assert!(matches!(paused.send(&mut Full, &OURS), Err(Problem::Stream(io::ErrorKind::BrokenPipe))));
    drop(paused);
    assert_eq!(worker.cache.secret(&kept("nothing")).await.unwrap_err(), Error::NotFound);
    world.clock.advance(Duration::from_secs(50));
    worker.act().await;
    assert_eq!(world.mint.counts().0, 1, "renewed");
}
