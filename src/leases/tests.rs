//! Owns the promises of the book of leases: one lease for all, never served past its end, nothing left behind.
//! Does not know a real server.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod crashes;
mod late;
mod model;
mod regressions;
mod slow;

use std::time::Duration;

use super::*;
use crate::backend::mint::{Call, Mint, Role};
use crate::cache::{self, DemandId, Source};
use crate::clock::Clock;
use crate::path::BackendPath;

struct World {
    clock: Clock,
    mint: Arc<Mint>,
    leases: Arc<Leases>,
}

const ROLE: &str = "database/creds/app";

fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}

fn world_with(role: Role, limits: Limits, terms: Terms) -> World {
    world_over(cache::Limits::default(), role, limits, terms)
}

fn world_over(of_cache: cache::Limits, role: Role, limits: Limits, terms: Terms) -> World {
    let clock = Clock::manual();
    clock.advance(Duration::from_secs(1000));
    let mint = Arc::new(Mint::new(clock.clone()));
    mint.role(ROLE, role);
    let source = Source { name: "test".into(), backend: mint.clone() };
    let cache = Arc::new(SecretCache::new(vec![source], of_cache, clock.clone()));
    let mut named = Demand::default();
    named.parameters.insert("name".to_owned(), "other".into());
    let leases = Leases::new(cache, vec![named], vec![limits], Box::new(move |_| terms));
    World { clock, mint, leases: Arc::new(leases) }
}

/// Does all that is due now, as the refresh loop would.
pub(crate) async fn act(leases: &Leases) {
    for _ in 0..100 {
        let now = leases.cache.clock().now();
        let (errands, next) = leases.due(now);
        if errands.is_empty() {
            assert!(next.is_none_or(|next| next > now), "the loop would not sleep");
            return;
        }
        for errand in errands {
            leases.act(errand).await;
        }
    }
    panic!("there is always something to be done");
}

/// Does what becomes due beside what may wait for it.
pub(crate) async fn run<T>(leases: &Leases, waits: impl Future<Output = T>) -> T {
    tokio::pin!(waits);
    loop {
        tokio::select! {
            biased;
            done = &mut waits => return done,
            () = leases.woken() => act(leases).await,
        }
    }
}

fn world() -> World {
    world_with(Role::default(), Limits::default(), Terms::default())
}

impl World {
    async fn act(&self) {
        act(&self.leases).await;
    }

    async fn run<T>(&self, waits: impl Future<Output = T>) -> T {
        run(&self.leases, waits).await
    }

    async fn open(&self, of: &SecretRef) -> Result<Arc<Snapshot>, Error> {
        self.run(self.leases.open(of)).await
    }

    /// Lets time pass in small steps, with all that is due.
    async fn pass(&self, time: Duration) {
        const STEP: Duration = Duration::from_millis(100);
        let end = self.clock.now().plus(time);
        while self.clock.now() < end {
            self.clock.advance(STEP);
            self.act().await;
        }
    }
}

fn serial(snapshot: &Snapshot) -> usize {
    snapshot.secret.field("serial").unwrap().value.expose_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_hundred_readers_of_a_role_that_was_never_used_share_one_lease() {
    let world = world();
    assert!(world.leases.current(&of(ROLE)).is_none());
    let role = of(ROLE);
    let readers = futures_util::future::join_all((0..100).map(|_| world.leases.open(&role)));
    let readers = world.run(readers).await;
    assert!(readers.iter().all(|read| serial(read.as_ref().unwrap()) == 0));
    assert_eq!(world.mint.made().len(), 1);
    assert_eq!(world.mint.counts().2, 1);
}

#[tokio::test]
async fn a_lease_is_renewed_and_then_replaced_and_its_predecessor_lives_to_its_end() {
    let role = Role { ttl: Duration::from_secs(20), max_ttl: Duration::from_secs(60), ..Role::default() };
    let world = world_with(role, Limits::default(), Terms::default());
    let mut news = world.leases.cache.subscribe();
    let first = world.open(&of(ROLE)).await.unwrap();
    let mut overlapped = 0;
    for _ in 0..600 {
        world.pass(Duration::from_millis(100)).await;
        let held = world.leases.current(&of(ROLE)).unwrap();
        assert!(world.mint.is_good(serial(&held)));
        if let Some(previous) = world.leases.previous(&of(ROLE)) {
            assert!(world.mint.is_good(serial(&previous)) && serial(&previous) != serial(&held));
            overlapped += 1;
        }
    }
    assert_eq!(serial(&first), 0);
    assert!((5..=150).contains(&overlapped), "{overlapped} tenths of a second");
    assert!(world.mint.made().len() <= 3 && world.mint.made()[0].renewals >= 2);
    let told = news.recv().await.unwrap();
    assert!(told.of == of(ROLE) && told.version.is_some());
}

#[tokio::test]
async fn a_failure_is_shared_and_not_asked_for_again_within_its_pause() {
    let world = world();
    world.mint.fail(Call::Issue, Some(Error::Status(500)));
    for _ in 0..50 {
        assert_eq!(world.open(&of(ROLE)).await.unwrap_err(), Error::Status(500));
    }
    assert_eq!(world.mint.counts().2, 1);
    world.pass(Duration::from_secs(1)).await;
    world.mint.fail(Call::Issue, None);
    world.open(&of(ROLE)).await.unwrap();
}

#[tokio::test]
async fn what_was_revoked_with_its_token_is_never_served_and_made_again_at_once() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.pass(Duration::from_secs(2)).await;
    world.mint.lose_parent();
    assert!(world.leases.current(&of(ROLE)).is_none());
    world.leases.look_again();
    world.act().await;
    assert_eq!(serial(&world.leases.current(&of(ROLE)).unwrap()), 1);
}

#[tokio::test]
async fn too_many_leases_are_refused() {
    let world = world_with(Role::default(), Limits { max_leases: 2, ..Limits::default() }, Terms::default());
    for role in ["a", "b", "c"] {
        world.mint.role(role, Role::default());
    }
    world.open(&of("a")).await.unwrap();
    world.open(&of("b")).await.unwrap();
    assert_eq!(world.open(&of("c")).await.unwrap_err(), Error::TooManyLeases { limit: 2 });
    world.open(&of("a")).await.unwrap();
    assert_eq!(
        world.leases.revoke(&of("a")).await.unwrap(),
        Some(Revoked { leases: 1, only_forgotten: false })
    );
    world.open(&of("c")).await.unwrap();
}

#[tokio::test]
async fn all_is_given_back_at_the_end_but_what_is_to_be_kept() {
    let world = world();
    let other = SecretRef { demand: DemandId(1), ..of(ROLE) };
    world.open(&of(ROLE)).await.unwrap();
    let named = world.open(&other).await.unwrap();
    assert_eq!(named.secret.field("password").unwrap().value.expose_str(), Some("canary-other-1"));
    assert_eq!(world.leases.revoke_all(Duration::from_secs(1)).await, []);
    assert!(!world.mint.is_good(0) && !world.mint.is_good(1));
    assert!(world.open(&of(ROLE)).await.is_err());

    let world =
        world_with(Role::default(), Limits { keep_leases: true, ..Limits::default() }, Terms::default());
    world.open(&of(ROLE)).await.unwrap();
    assert_eq!(world.leases.revoke_all(Duration::from_secs(1)).await, []);
    assert!(world.mint.is_good(0));
}

#[tokio::test]
async fn what_cannot_be_given_back_is_told() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.mint.fail(Call::Revoke, Some(Error::Forbidden));
    let left = world.leases.revoke_all(Duration::from_secs(1)).await;
    assert_eq!(left, [NotRevoked { of: of(ROLE), error: Error::Forbidden }]);
}

#[tokio::test]
async fn an_idle_lease_is_given_back_where_that_is_said() {
    let terms = Terms { idle_revoke: Some(Duration::from_secs(10)), ..Terms::default() };
    let world = world_with(Role::default(), Limits::default(), terms);
    world.open(&of(ROLE)).await.unwrap();
    world.pass(Duration::from_secs(9)).await;
    assert!(world.mint.is_good(0));
    world.pass(Duration::from_secs(2)).await;
    assert!(!world.mint.is_good(0) && world.leases.states().is_empty());
    world.open(&of(ROLE)).await.unwrap();
    assert_eq!(world.mint.made().len(), 2);
}

#[tokio::test]
async fn what_could_not_be_revoked_is_served_no_more_and_revoked_when_that_is_tried_again() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.pass(Duration::from_secs(1)).await;
    world.run(world.leases.replace(&of(ROLE))).await.unwrap();
    world.mint.fail(Call::Revoke, Some(Error::Status(503)));
    assert_eq!(world.leases.revoke(&of(ROLE)).await, Err(Error::Status(503)));
    assert!(world.leases.current(&of(ROLE)).is_none() && world.mint.is_good(0) && world.mint.is_good(1));
    assert_eq!((world.leases.counts()[0].held, world.leases.counts()[0].set_aside), (0, 2));
    assert_eq!(world.leases.revocable(), [of(ROLE)]);
    world.mint.fail(Call::Revoke, None);
    let both = Some(Revoked { leases: 2, only_forgotten: false });
    assert_eq!(world.leases.revoke(&of(ROLE)).await, Ok(both));
    assert!(!world.mint.is_good(0) && !world.mint.is_good(1));
    assert_eq!(world.leases.revoke(&of(ROLE)).await, Ok(None));
    assert_eq!((world.leases.counts()[0].set_aside, world.leases.revocable()), (0, vec![]));
}

#[tokio::test]
async fn every_lease_that_was_replaced_by_hand_is_given_back_at_the_end() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    for _ in 0..3 {
        world.pass(Duration::from_secs(1)).await;
        world.run(world.leases.replace(&of(ROLE))).await.unwrap();
    }
    assert!((0..4).all(|serial| world.mint.is_good(serial)), "whoever has one can go on with it");
    assert_eq!(world.leases.counts()[0].set_aside, 2);
    assert_eq!(world.leases.revoke_all(Duration::from_secs(1)).await, []);
    assert!(!(0..4).any(|serial| world.mint.is_good(serial)));
}

#[tokio::test]
async fn what_is_set_aside_and_ends_by_itself_is_not_kept_in_mind() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.mint.fail(Call::Revoke, Some(Error::Forbidden));
    assert_eq!(world.leases.revoke(&of(ROLE)).await, Err(Error::Forbidden));
    world.pass(Duration::from_secs(61)).await;
    assert_eq!(world.leases.counts()[0].set_aside, 0);
    assert_eq!(world.leases.revoke_all(Duration::from_secs(1)).await, []);
}

#[tokio::test]
async fn what_somebody_counts_as_use_is_not_idle_and_that_makes_nothing() {
    let terms = Terms { idle_revoke: Some(Duration::from_secs(10)), ..Terms::default() };
    let world = world_with(Role::default(), Limits::default(), terms);
    assert!(!world.leases.note_use(&of(ROLE)));
    world.pass(Duration::from_secs(1)).await;
    assert_eq!(world.mint.counts().2, 0);
    world.open(&of(ROLE)).await.unwrap();
    for _ in 0..3 {
        world.pass(Duration::from_secs(9)).await;
        assert!(world.leases.note_use(&of(ROLE)) && world.mint.is_good(0));
    }
    world.pass(Duration::from_secs(11)).await;
    assert!(!world.mint.is_good(0));
}

#[tokio::test]
async fn who_replaces_and_replaces_is_refused_before_there_are_leases_without_end() {
    let world = world_with(Role::default(), Limits { max_leases: 2, ..Limits::default() }, Terms::default());
    world.open(&of(ROLE)).await.unwrap();
    for _ in 0..3 {
        world.pass(Duration::from_secs(1)).await;
        world.run(world.leases.replace(&of(ROLE))).await.unwrap();
    }
    let refused = world.run(world.leases.replace(&of(ROLE))).await;
    assert_eq!(refused.unwrap_err(), Error::TooManyLeases { limit: 2 });
    world.open(&of(ROLE)).await.unwrap();
    assert_eq!(world.mint.made().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_while_the_old_one_is_revoked_is_made_once() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.pass(Duration::from_secs(1)).await;
    world.mint.delay(Duration::from_secs(1));
    let role = of(ROLE);
    let revoked = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.leases.revoke(&role).await
    };
    let acts = async {
        world.leases.woken().await;
        let (errands, _) = world.leases.due(world.clock.now());
        let again = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            world.leases.due(world.clock.now()).0.len()
        };
        let act = futures_util::future::join_all(errands.into_iter().map(|errand| world.leases.act(errand)));
        assert_eq!(tokio::join!(act, again).1, 0, "nothing is begun beside it");
    };
    let (replaced, revoked, ()) = tokio::join!(world.leases.replace(&role), revoked, acts);
    assert_eq!(serial(&replaced.unwrap()), 1);
    assert_eq!(revoked, Ok(Some(Revoked { leases: 1, only_forgotten: false })));
    assert_eq!(world.mint.made().len(), 2);
    assert!(!world.mint.is_good(0) && world.mint.is_good(1));
}

#[tokio::test(start_paused = true)]
async fn what_is_still_being_made_at_the_end_of_the_mount_is_told() {
    let world = world();
    world.mint.delay(Duration::from_secs(3600));
    let role = of(ROLE);
    let open = world.run(world.leases.open(&role));
    let end = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let ended = world.leases.revoke_all(Duration::from_secs(5));
        let later = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            world.clock.advance(Duration::from_secs(6));
            std::future::pending::<()>().await;
        };
        tokio::select! { left = ended => left, () = later => unreachable!() }
    };
    let left = tokio::select! { biased; left = end => left, _ = open => panic!("it takes an hour") };
    assert_eq!(left, [NotRevoked { of: role.clone(), error: Error::TimedOut(Duration::from_secs(5)) }]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_to_be_given_back_at_the_end_is_tried_again() {
    let world = world();
    world.open(&of(ROLE)).await.unwrap();
    world.mint.fail(Call::Revoke, Some(Error::Refused("users are dropped at the same moment".to_owned())));
    let heal = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.mint.fail(Call::Revoke, None);
    };
    let (left, ()) = tokio::join!(world.leases.revoke_all(Duration::from_secs(5)), heal);
    assert_eq!(left, []);
    assert!(!world.mint.is_good(0));
}
