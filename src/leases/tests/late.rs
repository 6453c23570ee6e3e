//! Owns the promises about errands that are done late: what was taken out of the book meanwhile is no business of what followed it.
//! Does not know a real server. Errands are taken and held by the test, so nothing here is a matter of time.

use futures_util::FutureExt;

use super::*;

impl World {
    /// The one errand that is due now, which the test does when it likes.
    fn taken(&self) -> Errand {
        let (mut errands, _) = self.leases.due(self.clock.now());
        assert_eq!(errands.len(), 1, "{errands:?}");
        errands.remove(0)
    }

    fn good(&self) -> Vec<usize> {
        (0..self.mint.made().len()).filter(|serial| self.mint.is_good(*serial)).collect()
    }
}

#[tokio::test]
async fn a_lease_that_was_made_while_the_one_before_was_given_back_is_not_lost() {
    let terms = Terms { idle_revoke: Some(Duration::from_secs(10)), ..Terms::default() };
    let world = world_with(Role::default(), Limits::default(), terms);
    world.open(&of(ROLE)).await.unwrap();
    world.clock.advance(Duration::from_secs(11));
    let idle = world.taken();
    world.leases.revoke(&of(ROLE)).await.unwrap();
    assert_eq!(serial(&world.open(&of(ROLE)).await.unwrap()), 1);
    world.leases.act(idle).await;
    assert_eq!(world.leases.current(&of(ROLE)).map(|held| serial(&held)), Some(1));
    assert_eq!(world.leases.states().len(), 1);
    assert_eq!(world.leases.revoke_all(Duration::from_secs(1)).await, []);
    assert_eq!(world.good(), Vec::<usize>::new());
}

#[tokio::test]
async fn an_idle_lease_whose_return_had_no_answer_is_given_to_nobody_again() {
    let terms = Terms { idle_revoke: Some(Duration::from_secs(10)), ..Terms::default() };
    let world = world_with(Role::default(), Limits::default(), terms);
    world.open(&of(ROLE)).await.unwrap();
    world.mint.lose_answers(Call::Revoke, true);
    world.pass(Duration::from_secs(11)).await;
    assert_eq!(world.good(), Vec::<usize>::new());
    assert_eq!(serial(&world.open(&of(ROLE)).await.unwrap()), 1);
    // Where the backend says no the credential may be there still, with less than it needs.
    world.mint.lose_answers(Call::Revoke, false);
    world.mint.fail(Call::Revoke, Some(Error::Refused("it owns a table".to_owned())));
    world.pass(Duration::from_secs(11)).await;
    assert_eq!(serial(&world.open(&of(ROLE)).await.unwrap()), 2);
    assert_eq!(world.good(), [1, 2]);
    world.mint.fail(Call::Revoke, None);
    world.pass(Duration::from_secs(5)).await;
    assert_eq!(world.good(), [2], "it is tried again");
    assert_eq!(world.leases.revoke_all(Duration::from_secs(1)).await, []);
    assert_eq!(world.good(), Vec::<usize>::new());
}

#[tokio::test]
async fn what_a_renewal_without_an_answer_has_made_longer_is_given_back_at_the_end() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.mint.lose_answers(Call::Renew, true);
    world.pass(Duration::from_secs(70)).await;
    assert_eq!(world.leases.current(&of(ROLE)).map(|held| serial(&held)), Some(1));
    assert!(
        world.leases.previous(&of(ROLE)).is_none(),
        "served as long as it is sure to live, and no longer"
    );
    assert_eq!(world.good(), [0, 1]);
    assert_eq!(world.leases.counts()[0].set_aside, 1);
    assert_eq!(world.leases.revoke_all(Duration::from_secs(1)).await, []);
    assert_eq!(world.good(), Vec::<usize>::new());
}

#[tokio::test]
async fn a_lease_of_any_length_is_looked_after() {
    for ttl in [u64::MAX, u64::MAX / 2 + 1, u64::MAX / 3] {
        let ttl = Duration::from_secs(ttl);
        let world =
            world_with(Role { ttl, max_ttl: ttl, ..Role::default() }, Limits::default(), Terms::default());
        world.open(&of(ROLE)).await.unwrap();
        for _ in 0..10 {
            world.clock.advance(Duration::from_secs(20 * 365 * 86400));
            world.act().await;
            assert!(world.leases.current(&of(ROLE)).is_some());
        }
        assert!(world.mint.counts().0 > 0, "it is renewed");
    }
}

#[tokio::test]
async fn what_has_ended_here_is_replaced_and_not_renewed_without_its_value() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.mint.lose_answers(Call::Renew, true);
    world.clock.advance(Duration::from_secs(41));
    world.act().await;
    // The machine sleeps past the end that it knows of.
    world.clock.advance(Duration::from_secs(25));
    world.mint.lose_answers(Call::Renew, false);
    assert!(world.mint.is_good(0), "the server would renew it");
    world.act().await;
    assert_eq!(world.leases.current(&of(ROLE)).map(|held| serial(&held)), Some(1));
    assert_eq!(world.leases.revoke_all(Duration::from_secs(1)).await, []);
    assert_eq!(world.good(), Vec::<usize>::new());
}

#[tokio::test]
async fn a_renewal_that_was_denied_leaves_no_more_to_look_after_than_there_was() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.mint.fail(Call::Renew, Some(Error::Forbidden));
    world.pass(Duration::from_secs(70)).await;
    assert_eq!(world.good(), [1]);
    assert_eq!(world.leases.counts()[0].set_aside, 0);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_comes_late_has_nothing_made_twice_and_nobody_believe_that_nothing_is_being_made() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.clock.advance(Duration::from_secs(41));
    let renewal = world.taken();
    world.leases.revoke(&of(ROLE)).await.unwrap();
    let role = of(ROLE);
    let mut open = std::pin::pin!(world.leases.open(&role));
    assert!(open.as_mut().now_or_never().is_none());
    let making = world.taken();
    world.leases.act(renewal).await;
    assert!(world.leases.due(world.clock.now()).0.is_empty(), "it is being made already");
    assert!(!world.leases.pause(Duration::from_secs(1)).await, "it is not made yet");
    world.leases.act(making).await;
    assert_eq!(serial(&open.await.unwrap()), 1);
    assert_eq!(world.mint.made().len(), 2);
    assert_eq!(world.leases.revoke_all(Duration::from_secs(1)).await, []);
    assert_eq!(world.good(), Vec::<usize>::new());
}
