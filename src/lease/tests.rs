//! Owns the promises of the decision: never used past its end, never asked about too often, a successor in time.
//! Does not know a backend.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const BEGIN: Moment = Moment::START;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn grant(life: u64, renewable: bool) -> Grant {
    Grant { life: Some(seconds(life)), renewable, succession: Succession::Ahead }
}

fn plain(lease: &Lease, now: Moment) -> Step {
    lease.next(&Terms::default(), None, now, now)
}

proptest! {
    #[test]
    fn the_successor_comes_before_the_end_by_the_overlap(
        life in 10..1_000_000_u64, overlap in prop::option::of(1..1_000_000_u64), first: bool, chance in 0.0..1.0_f64,
        renewable: bool,
    ) {
        let lease = Lease::new(BEGIN, grant(life, renewable), first, chance);
        let terms = Terms { overlap: overlap.map(seconds), idle_revoke: None };
        let end = BEGIN.plus(seconds(life));
        let ahead = overlap.map_or(seconds(life) / 10, seconds).min(seconds(life) / 2);
        // Whatever becomes of renewing, at the beginning of the overlap its successor is made.
        let step = lease.next(&terms, None, BEGIN, end.minus(ahead));
        prop_assert!(step.at <= end.minus(ahead), "{step:?}");
        let step = lease.next(&terms, None, BEGIN, BEGIN);
        prop_assert_eq!(step.action, if renewable && step.at < end.minus(ahead) { Action::Renew } else { Action::Replace });
        prop_assert!(step.at.since(BEGIN) >= FLOOR && step.at <= end.minus(ahead).max(BEGIN.plus(FLOOR)));
    }

    #[test]
    fn a_lease_is_renewed_after_two_thirds_or_a_little_less(life in 10..1_000_000_u64, chance in 0.0..1.0_f64) {
        let mut lease = Lease::new(BEGIN, grant(life, true), false, 0.0);
        prop_assert_eq!(plain(&lease, BEGIN), Step { action: Action::Renew, at: BEGIN.plus(seconds(life) * 2 / 3) });
        let now = BEGIN.plus(seconds(life) * 2 / 3);
        lease.renewed(now, grant(life, true), chance);
        let step = plain(&lease, now);
        let part = step.at.since(now).as_secs_f64() / life as f64;
        prop_assert!(step.action == Action::Renew && (0.633..=0.667).contains(&part), "{part} {step:?}");
    }

    #[test]
    fn renewals_that_fail_however_slowly_leave_the_whole_overlap_to_the_successor(
        life in prop_oneof![10..20_u64, 10..100_000_u64], first: bool, chance in 0.0..=1.0_f64,
        slow in prop_oneof![Just(1.0), 0.0..1.0_f64],
    ) {
        let mut lease = Lease::new(BEGIN, grant(life, true), first, chance);
        let terms = Terms::default();
        let last = BEGIN.plus(seconds(life) - seconds(life) / 10);
        let (mut now, mut asked) = (BEGIN, None);
        loop {
            let step = lease.next(&terms, None, BEGIN, now);
            now = now.max(step.at);
            prop_assert!(now <= last, "{step:?}");
            if step.action == Action::Replace {
                break;
            }
            if let Some(before) = asked.replace(now) {
                prop_assert!(now.since(before) >= FLOOR);
            }
            let until = lease.renewal_until(&terms, now);
            prop_assert!(until <= last.max(now.plus(FLOOR)));
            lease.failed(&terms, now, chance);
            now = now.plus(until.since(now).min(seconds(5)).mul_f64(slow));
        }
    }

    #[test]
    fn what_was_slept_through_is_renewed_as_long_as_it_lives(
        life in 10..100_000_u64, first: bool, chance in 0.0..=1.0_f64, late in 0.7..1.0_f64,
    ) {
        let lease = Lease::new(BEGIN, grant(life, true), first, chance);
        let now = BEGIN.plus(seconds(life).mul_f64(late));
        let step = plain(&lease, now);
        prop_assert!(step.action == Action::Renew && step.at <= now, "{step:?}");
    }

    #[test]
    fn failures_are_never_closer_than_the_floor_and_leave_several_tries(life in 30..100_000_u64, chance in 0.0..1.0_f64) {
        let mut lease = Lease::new(BEGIN, grant(life, false), false, chance);
        let end = BEGIN.plus(seconds(life));
        let terms = Terms::default();
        let (mut now, mut tries) = (BEGIN, 0);
        loop {
            let step = lease.next(&terms, None, BEGIN, now);
            prop_assert_eq!(step.action, Action::Replace);
            if step.at >= end {
                break;
            }
            prop_assert!(tries == 0 || step.at.since(now) >= FLOOR, "{:?}", step.at.since(now));
            now = step.at.max(now);
            lease.failed(&terms, now, chance);
            tries += 1;
        }
        prop_assert!(tries >= 2, "{tries} tries within the overlap");
    }

    #[test]
    fn what_its_parent_will_not_outlive_is_replaced_ahead_of_that(life in 100..10_000_u64, of_parent in 20..10_000_u64) {
        let lease = Lease::new(BEGIN, grant(life, true), false, 0.5);
        let parent = BEGIN.plus(seconds(of_parent));
        let step = lease.next(&Terms::default(), Some(parent), BEGIN, BEGIN);
        if of_parent <= life {
            prop_assert_eq!(step.action, Action::Replace);
        }
        prop_assert!(step.at < parent);
    }

    /// The loop that asks would end with it.
    #[test]
    fn no_number_of_a_server_and_no_time_ends_who_decides(
        lives in prop::collection::vec(prop::option::of(any_seconds()), 1..4), now in any_seconds(), renewable: bool,
        first: bool, chance in 0.0..=1.0_f64, overlap in prop::option::of(any_seconds()),
        idle in prop::option::of(any_seconds()), at_end: bool,
    ) {
        let succession = if at_end { Succession::AtEnd } else { Succession::Ahead };
        let grants = lives.iter().map(|life| Grant { life: life.map(seconds), renewable, succession });
        let terms = Terms { overlap: overlap.map(seconds), idle_revoke: idle.map(seconds) };
        let mut lease: Option<Lease> = None;
        for grant in grants {
            let now = BEGIN.plus(seconds(now));
            match &mut lease {
                Some(lease) => lease.renewed(now, grant, chance),
                None => lease = Some(Lease::new(BEGIN, grant, first, chance)),
            }
            let lease = lease.as_mut().unwrap();
            prop_assert!(lease.life().is_none_or(|life| life.checked_mul(100).is_some()));
            for parent in [None, Some(BEGIN), Some(now), Some(Moment::END)] {
                lease.next(&terms, parent, BEGIN, now);
                lease.next(&terms, parent, now, BEGIN);
            }
            lease.renewal_until(&terms, now);
            lease.failed(&terms, now, chance);
            lease.next(&terms, None, now, now);
        }
    }
}

/// Of every size, and the largest.
fn any_seconds() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), Just(u64::MAX), (0..64_u32).prop_map(|bits| u64::MAX >> bits), 0..100_u64]
}

#[test]
fn renewing_ends_when_it_does_not_make_the_lease_longer() {
    // ttl 20 s of at most 60 s.
    let mut lease = Lease::new(BEGIN, grant(20, true), false, 0.0);
    let mut now = BEGIN;
    let mut renewals = 0;
    loop {
        let step = plain(&lease, now);
        now = step.at;
        if step.action == Action::Replace {
            break;
        }
        let left = 60 - now.since(BEGIN).as_secs();
        lease.renewed(now, grant(left.min(20), true), 0.0);
        renewals += 1;
    }
    assert!((4..=5).contains(&renewals), "{renewals}");
    let at = now.since(BEGIN).as_secs();
    assert!((55..60).contains(&at), "{at}");
}

#[test]
fn what_cannot_be_had_before_the_end_is_followed_up_at_the_end_while_it_is_used() {
    let code = Grant { life: Some(seconds(30)), renewable: false, succession: Succession::AtEnd };
    let lease = Lease::new(BEGIN, code, true, 1.0);
    let end = BEGIN.plus(seconds(30));
    let terms = Terms::default();
    assert_eq!(lease.next(&terms, None, BEGIN, BEGIN), Step { action: Action::Replace, at: end });
    let long_ago = Lease::new(end.plus(seconds(200)), code, false, 1.0);
    let step = long_ago.next(&terms, None, BEGIN, end.plus(seconds(200)));
    assert_eq!(step, Step { action: Action::Forget, at: end.plus(seconds(230)) });
}

#[test]
fn an_idle_lease_is_kept_unless_it_is_said_to_be_given_back() {
    let lease = Lease::new(BEGIN, grant(60, true), false, 0.0);
    let terms = Terms { idle_revoke: Some(seconds(10)), ..Terms::default() };
    assert_eq!(
        lease.next(&terms, None, BEGIN, BEGIN),
        Step { action: Action::Revoke, at: BEGIN.plus(seconds(10)) }
    );
    assert_eq!(plain(&lease, BEGIN).action, Action::Renew);
}

#[test]
fn what_has_no_end_is_left_alone_and_what_died_is_replaced_at_once() {
    let token = Grant { life: None, renewable: false, succession: Succession::Ahead };
    let mut lease = Lease::new(BEGIN, token, true, 0.0);
    assert_eq!(plain(&lease, BEGIN), Step { action: Action::Forget, at: Moment::END });
    let now = BEGIN.plus(seconds(100));
    lease.died(now);
    let step = plain(&lease, now);
    assert!(step.action == Action::Replace && step.at <= now);
}

#[test]
fn after_its_end_a_lease_is_still_to_be_replaced() {
    let mut lease = Lease::new(BEGIN, grant(20, true), false, 0.0);
    let now = BEGIN.plus(seconds(100));
    lease.failed(&Terms::default(), now, 0.0);
    let step = plain(&lease, now);
    assert!(
        step.action == Action::Replace && step.at > now && step.at.since(now) <= LONGEST_PAUSE,
        "{step:?}"
    );
}
