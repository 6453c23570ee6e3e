//! Owns the promises of the book of tokens: what ends when, what follows it, which use is the last one.
//! Does not know servers.

use super::*;
use crate::lease::Succession;

fn facts(life: Option<u64>, renewable: bool, uses: Option<u32>) -> Facts {
    let life = life.map(Duration::from_secs);
    Facts { grant: Grant { life, renewable, succession: Succession::Ahead }, uses, looks: true }
}

fn at(seconds: u64) -> Moment {
    Moment::START.plus(Duration::from_secs(seconds))
}

fn middleware() -> EndpointMiddleware {
    EndpointMiddleware { token: "canary".into(), version: "v1".into(), wrap: None, namespace: None }
}

fn log_in(ledger: &mut Ledger, facts: Facts, now: Moment) -> ParentId {
    ledger.install(middleware(), true, None, Some(facts), (now, now), 0.0);
    ledger.current().unwrap().id
}

#[test]
fn a_token_that_is_renewed_has_no_end_in_sight_and_one_that_is_not_has_its_own() {
    let mut ledger = Ledger::default();
    let id = log_in(&mut ledger, facts(Some(60), true, None), at(0));
    assert_eq!(ledger.parent(id, at(1)), Parent::Current(None));
    let (_, step) = ledger.step(true, at(1)).unwrap();
    assert_eq!((step.action, step.at), (Action::Renew, at(40)));
    ledger.renewed(id, at(40), facts(Some(60), true, None).grant, 0.0);
    assert_eq!(ledger.parent(id, at(41)), Parent::Current(None));
    // Its longest life: renewing gives what is left of it.
    ledger.renewed(id, at(80), facts(Some(20), true, None).grant, 0.0);
    assert_eq!(ledger.parent(id, at(81)), Parent::Current(Some(at(100))));
    let (_, step) = ledger.step(true, at(81)).unwrap();
    assert_eq!(step.action, Action::Replace);
    assert!(step.at <= at(85) && step.at >= at(80), "{step:?}");
}

#[test]
fn a_token_that_may_not_be_renewed_ends_and_its_successor_comes_before() {
    let mut ledger = Ledger::default();
    let id = log_in(&mut ledger, facts(Some(60), true, None), at(0));
    ledger.failed(id, true, at(40), 0.0);
    assert_eq!(ledger.parent(id, at(41)), Parent::Current(Some(at(60))));
    assert!(ledger.step(true, at(41)).unwrap().1.at <= at(45));
}

#[test]
fn after_a_new_login_the_old_token_lives_to_the_end_it_had_or_is_dead_at_once() {
    let mut ledger = Ledger::default();
    let old = log_in(&mut ledger, facts(Some(60), true, None), at(0));
    let new = log_in(&mut ledger, facts(Some(60), true, None), at(30));
    assert_eq!(ledger.parent(old, at(31)), Parent::Superseded(Some(at(60))));
    assert_eq!(ledger.parent(new, at(31)), Parent::Current(None));
    assert!(ledger.died(new) && !ledger.died(new));
    assert_eq!(ledger.parent(new, at(31)), Parent::Dead);
    assert!(ledger.take(Use::Read).is_none());
    assert!(ledger.step(true, at(31)).is_none());
    assert_eq!(ledger.parent(ParentId(99), at(31)), Parent::Dead, "nobody remembers it");
}

#[test]
fn the_root_token_has_no_end_and_nothing_is_to_be_done_with_it() {
    let mut ledger = Ledger::default();
    ledger.install(middleware(), false, None, None, (at(0), at(0)), 0.5);
    let id = ledger.current().unwrap().id;
    assert_eq!(ledger.parent(id, at(1)), Parent::Current(None), "nothing is known yet");
    ledger.learn(id, at(1), facts(None, false, None), 0.5);
    assert_eq!(ledger.parent(id, at(2)), Parent::Current(None));
    assert!(ledger.step(false, at(2)).is_none() && ledger.is_asked());
    assert!(ledger.to_give_back(at(2)).is_empty(), "a user's token is never given back");
}

#[test]
fn a_token_that_nothing_can_follow_is_renewed_to_its_very_end() {
    let mut ledger = Ledger::default();
    ledger.install(middleware(), false, None, None, (at(0), at(0)), 0.0);
    let id = ledger.current().unwrap().id;
    ledger.learn(id, at(0), facts(Some(60), true, None), 0.0);
    let mut now = at(40);
    let mut tries = 0;
    while now < at(60) {
        let (_, step) = ledger.step(false, now).unwrap();
        assert_eq!(step.action, Action::Renew, "{now:?}");
        now = now.max(step.at);
        ledger.failed(id, false, now, 0.0);
        now = now.plus(Duration::from_millis(10));
        tries += 1;
    }
    assert!((3..=20).contains(&tries), "{tries}");
    assert_eq!(ledger.parent(id, at(59)), Parent::Current(Some(at(60))));
}

#[test]
fn a_whole_life_follows_the_rest_of_one() {
    let mut ledger = Ledger::default();
    ledger.install(middleware(), false, None, None, (at(0), at(0)), 0.0);
    let id = ledger.current().unwrap().id;
    ledger.learn(id, at(0), facts(Some(30), true, None), 0.0);
    ledger.renewed(id, at(20), facts(Some(3600), true, None).grant, 0.0);
    assert_eq!(ledger.life(), Some(Duration::from_secs(3600)));
    assert_eq!(ledger.parent(id, at(21)), Parent::Current(None));
}

#[test]
fn a_token_that_a_lease_hangs_on_keeps_its_last_use() {
    let mut ledger = Ledger::default();
    let id = log_in(&mut ledger, facts(Some(60), false, Some(3)), at(0));
    assert!(ledger.take(Use::Lease).is_some());
    assert!(ledger.take(Use::Read).is_some());
    assert!(ledger.take(Use::Read).is_none(), "the last one would end the lease");
    ledger.bury();
    assert_eq!(ledger.parent(id, at(1)), Parent::Current(Some(at(60))));
    log_in(&mut ledger, facts(Some(60), false, Some(3)), at(1));
    assert_eq!(ledger.to_give_back(at(2)).len(), 2);
    assert!((0..3).all(|_| ledger.take(Use::Read).is_some()), "nothing hangs on it: used to the last");
    assert!(ledger.take(Use::Read).is_none());
    ledger.bury();
    assert!(!ledger.is_alive());
    assert_eq!(ledger.to_give_back(at(2)).len(), 1);
    // Of one use only: there is nothing to keep back.
    log_in(&mut ledger, facts(Some(60), false, Some(1)), at(2));
    assert!(ledger.take(Use::Lease).is_some());
}

#[test]
fn tokens_that_are_over_are_forgotten_and_kept_ones_are_few() {
    let mut ledger = Ledger::default();
    for second in 0..300 {
        log_in(&mut ledger, facts(Some(3600), false, None), at(second));
    }
    assert!(ledger.to_give_back(at(300)).len() <= KEPT + 1, "{}", ledger.to_give_back(at(300)).len());
    let id = log_in(&mut ledger, facts(Some(60), false, None), at(4000));
    assert_eq!(ledger.parents(at(4000)), [(id.0, Parent::Current(Some(at(4060))))]);
}

proptest::proptest! {
    #[test]
    fn no_life_that_a_server_grants_ends_who_tends(first: u64, second: u64, bits in 0..64_u32, chance in 0.0..=1.0_f64) {
        for (first, second) in [(first, second), (first >> bits, u64::MAX), (u64::MAX, second >> bits)] {
            let mut ledger = Ledger::default();
            let id = log_in(&mut ledger, facts(Some(first), true, None), at(0));
            for now in [at(0), at(1), at(first)] {
                ledger.step(true, now);
                ledger.may_be_renewed(id, now);
                ledger.failed(id, false, now, chance);
                ledger.renewed(id, now, facts(Some(second), true, None).grant, chance);
                ledger.step(false, now);
                let _ = (ledger.parents(now), ledger.accessors(now), is_near(now, ledger.life(), at(0)));
            }
        }
    }
}
