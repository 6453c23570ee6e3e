//! Owns promises about leases that other agents were found to break, each with the issue that tells of it, in hours of a clock.
//! Does not know a real server, or how those agents work.

use super::*;

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn hours(world: &World, limit: Duration) -> impl Iterator<Item = ()> {
    let (clock, end) = (world.clock.clone(), world.clock.now().plus(limit));
    std::iter::from_fn(move || (clock.now() < end).then_some(()))
}

/// hashicorp/vault#16439: the last renewal gives less than a whole life, the agent slept for longer than that.
#[tokio::test]
async fn nothing_sleeps_past_a_max_ttl() {
    for (ttl, max_ttl) in [(10, 10), (10, 11), (10, 25), (7, 60)] {
        let role = Role { ttl: minutes(ttl), max_ttl: minutes(max_ttl), ..Role::default() };
        let world = world_with(role, Limits::default(), Terms::default());
        world.open(&of(ROLE)).await.unwrap();
        for () in hours(&world, minutes(180)) {
            world.pass(Duration::from_secs(1)).await;
            let held = world.leases.current(&of(ROLE)).unwrap();
            assert!(world.mint.is_good(serial(&held)), "{ttl} of {max_ttl}");
        }
    }
}

/// hashicorp/consul-template#949: a successor was asked for when the lease had ended already.
#[tokio::test]
async fn a_successor_is_there_a_tenth_of_a_life_before_the_end() {
    let role = Role { ttl: minutes(10), max_ttl: minutes(25), ..Role::default() };
    let world = world_with(role, Limits::default(), Terms::default());
    world.open(&of(ROLE)).await.unwrap();
    world.pass(minutes(180)).await;
    let made = world.mint.made();
    assert!((7..=10).contains(&made.len()), "{} leases", made.len());
    for pair in made.windows(2) {
        let ahead = pair[0].ends.since(pair[1].at);
        assert!(ahead >= Duration::from_secs(59), "{ahead:?}");
    }
}

/// hashicorp/consul-template#1433: what was made with the old token, be it a moment ago, dies with that one.
#[tokio::test]
async fn what_was_made_a_moment_before_its_token_was_followed_by_another_outlives_it() {
    let role = Role { ttl: minutes(60), ..Role::default() };
    let world = world_with(role, Limits::default(), Terms::default());
    world.mint.parent_ends(Some(world.clock.now().plus(minutes(2))));
    world.pass(minutes(1)).await;
    world.open(&of(ROLE)).await.unwrap();
    world.pass(Duration::from_secs(30)).await;
    world.mint.next_parent();
    world.leases.look_again();
    for () in hours(&world, minutes(10)) {
        world.pass(Duration::from_secs(1)).await;
        let held = world.leases.current(&of(ROLE)).unwrap();
        assert!(world.mint.is_good(serial(&held)));
    }
    assert_eq!(world.mint.made().len(), 2);
}

/// hashicorp/vault#25712: a renewal that is answered 403, or of a lease that is gone, was asked for again and again.
#[tokio::test]
async fn a_renewal_that_is_refused_makes_no_flood() {
    let role = Role { ttl: minutes(10), ..Role::default() };
    let world = world_with(role.clone(), Limits::default(), Terms::default());
    world.open(&of(ROLE)).await.unwrap();
    world.mint.fail(Call::Renew, Some(Error::Forbidden));
    world.pass(minutes(180)).await;
    let (made, asked) = (world.mint.made().len() as u64, world.mint.counts().2);
    assert!((18..=24).contains(&made) && asked <= 2 * made, "{asked} calls, {made} leases");

    let world = world_with(role, Limits::default(), Terms::default());
    world.open(&of(ROLE)).await.unwrap();
    world.mint.end(0);
    world.pass(minutes(10)).await;
    assert_eq!(world.mint.made().len(), 2, "what is gone is made anew");
    assert!(world.mint.counts().2 <= 4, "{} calls", world.mint.counts().2);
}

/// hashicorp/vault#19684: what an agent held hid that the lease had ended, or what was made with other parameters.
#[tokio::test]
async fn who_opens_after_a_lease_was_revoked_gets_another_one_and_never_that_of_other_parameters() {
    let world = world();
    let other = SecretRef { demand: DemandId(1), ..of(ROLE) };
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..20 {
        for of in [of(ROLE), other.clone()] {
            let made = world.open(&of).await.unwrap();
            assert!(seen.insert(serial(&made)) && world.mint.is_good(serial(&made)), "round {round}");
            let password = made.secret.field("password").unwrap().value.expose_str().unwrap().to_owned();
            assert_eq!(password.contains("other"), of == other);
            if round % 2 == 0 {
                world.leases.revoke(&of).await.unwrap();
            } else {
                // Behind our back: what is known of it at the next renewal at the latest.
                world.mint.end(serial(&made));
                world.pass(minutes(1)).await;
                assert_ne!(serial(&world.leases.current(&of).unwrap()), serial(&made));
                seen.extend(world.leases.current(&of).map(|held| serial(&held)));
                world.leases.revoke(&of).await.unwrap();
            }
        }
    }
}
