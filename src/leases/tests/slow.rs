//! Owns what is promised of a backend that makes secrets slowly, or fails while all else is well.
//! Does not know a real server.

use super::*;
use crate::lease::FLOOR;

const SLOW: Duration = Duration::from_secs(30);

/// When, counted from now, a question that is answered at once was answered, while a secret is made slowly.
async fn asked_beside(world: &World) -> Duration {
    world.mint.delay(SLOW);
    let (role, began) = (of(ROLE), tokio::time::Instant::now());
    let asks = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.leases.fields(&role).await.unwrap();
        began.elapsed()
    };
    let (made, answered) = tokio::join!(world.open(&role), asks);
    made.unwrap();
    assert!(began.elapsed() >= SLOW);
    answered
}

#[tokio::test(start_paused = true)]
async fn what_is_slow_to_make_keeps_nobody_else_from_the_backend_for_more_than_a_second() {
    let one = cache::Limits { max_in_flight: 1, ..cache::Limits::default() };
    let world = world_over(one, Role::default(), Limits::default(), Terms::default());
    let answered = asked_beside(&world).await;
    assert!(answered <= Duration::from_millis(1100), "{answered:?}");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_probe_that_is_slow_to_make() {
    let world = world();
    world.mint.fail(Call::Issue, Some(Error::Unreachable("it is down".to_owned())));
    for _ in 0..5 {
        world.clock.advance(FLOOR);
        assert!(world.open(&of(ROLE)).await.is_err());
    }
    assert!(world.leases.fields(&of("other")).await.is_err_and(|error| !error.is_answer()), "it rests");
    world.mint.fail(Call::Issue, None);
    world.clock.advance(FLOOR);
    // The first to ask is the probe.
    world.mint.delay(SLOW);
    let (role, began) = (of(ROLE), tokio::time::Instant::now());
    let asks = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.clock.advance(FLOOR);
        world.leases.fields(&role).await.unwrap();
        began.elapsed()
    };
    let (made, answered) = tokio::join!(world.open(&role), asks);
    made.unwrap();
    assert!(answered <= Duration::from_millis(1100), "{answered:?}");
}

#[tokio::test]
async fn when_a_backend_answers_again_the_next_open_is_at_most_a_second_away() {
    let world = world();
    world.mint.fail(Call::Issue, Some(Error::Unreachable("it is down".to_owned())));
    for _ in 0..600 {
        assert!(world.open(&of(ROLE)).await.is_err());
        world.clock.advance(Duration::from_millis(100));
    }
    assert!(world.mint.counts().2 <= 66, "{} calls in a minute", world.mint.counts().2);
    world.mint.fail(Call::Issue, None);
    world.clock.advance(FLOOR);
    world.open(&of(ROLE)).await.unwrap();
}

#[tokio::test]
async fn a_lease_is_replaced_in_time_however_its_renewals_fail() {
    for error in
        [Error::Status(429), Error::Status(500), Error::Status(503), Error::TimedOut(FLOOR), Error::Forbidden]
    {
        let role = Role { ttl: Duration::from_secs(10), ..Role::default() };
        let world = world_with(role, Limits::default(), Terms::default());
        world.open(&of(ROLE)).await.unwrap();
        world.mint.fail(Call::Renew, Some(error.clone()));
        for _ in 0..1200 {
            world.pass(Duration::from_millis(100)).await;
            let held = world.leases.current(&of(ROLE));
            assert!(held.is_some_and(|held| world.mint.is_good(serial(&held))), "{error}");
        }
        let (made, asked) = (world.mint.made().len(), world.mint.counts().2);
        assert!(made <= 20 && asked <= 120, "{error}: {asked} calls, {made} leases");
    }
}
