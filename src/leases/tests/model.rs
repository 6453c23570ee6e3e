//! Owns the lives of leases that chance makes up: opened, renewed, failed, lost, revoked, over jumps of the clock; and what holds in all.
//! Does not know a real server. `SECRETFS_MODEL_CASES` says how many lives (10^5 are the drill).

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::{Deserialize, Serialize};

use super::super::*;
use crate::backend::mint::{Call, Mint, Role};
use crate::cache::{self, Source};
use crate::clock::Clock;
use crate::path::BackendPath;

const STEP: Duration = Duration::from_millis(250);
/// Whatever failed before is tried again within this.
const RECOVERED: Duration = Duration::from_secs(12);
const ROLES: [(&str, u64, u64); 4] = [("a", 20, 60), ("b", 30, 30), ("c", 60, 3600), ("d", 45, 300)];

#[derive(Debug, Clone)]
enum Op {
    Open(usize),
    /// In small steps, with all that is due.
    Pass(u64),
    /// At once: the machine slept.
    Sleep(u64),
    Fail(Call, Error),
    /// Renewals are done, and nobody hears of it.
    LoseRenewals,
    /// The server is sealed: it answers everything with 503.
    Seal,
    Heal,
    LoseParent,
    /// The present token ends in so many seconds; whether the next one takes its place.
    ParentEnds(u64, bool),
    Revoke(usize),
    Replace(usize),
    /// Somebody revokes what was made the last time.
    EndLast,
    /// Another worker takes over.
    HandOver,
}

fn op() -> impl Strategy<Value = Op> {
    let role = 0..ROLES.len();
    let call = prop::sample::select(vec![Call::Issue, Call::Renew, Call::Revoke]);
    let error = prop::sample::select(vec![
        Error::Forbidden,
        Error::NotFound,
        Error::Refused(String::new()),
        Error::Status(500),
        Error::Status(429),
        Error::Unreachable(String::new()),
        Error::TimedOut(Duration::from_secs(5)),
    ]);
    prop_oneof![
        6 => role.clone().prop_map(Op::Open),
        6 => (1..40_u64).prop_map(Op::Pass),
        1 => (1..200_u64).prop_map(Op::Sleep),
        // A server that denies a lease has none.
        3 => (call, error)
            .prop_filter("a lie", |(call, error)| (*call, error) != (Call::Revoke, &Error::NotFound))
            .prop_map(|(call, error)| Op::Fail(call, error)),
        1 => Just(Op::LoseRenewals),
        1 => Just(Op::Seal),
        3 => Just(Op::Heal),
        1 => Just(Op::LoseParent),
        1 => (1..60_u64, any::<bool>()).prop_map(|(seconds, next)| Op::ParentEnds(seconds, next)),
        1 => role.clone().prop_map(Op::Revoke),
        1 => role.prop_map(Op::Replace),
        1 => Just(Op::EndLast),
        2 => Just(Op::HandOver),
    ]
}

struct Life {
    clock: Clock,
    mint: Arc<Mint>,
    leases: Leases,
    /// Since when nothing fails and nothing was taken away.
    well_since: Moment,
    failing: bool,
    /// Making is denied: what ends meanwhile is forgotten until somebody opens it again.
    denied: bool,
    /// The present token has no successor.
    parent_ended: bool,
    /// Roles that are to be kept: opened, and not revoked since; and whether what is held was ended by somebody else.
    kept: [bool; ROLES.len()],
    ended: Vec<usize>,
    /// Questions that somebody forced, beside those that time allows.
    forced: u64,
    began: Moment,
}

fn of(role: usize) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(ROLES[role].0).unwrap())
}

/// What one worker has of leases: none.
fn worker(mint: &Arc<Mint>, clock: &Clock) -> Leases {
    let source = Source { name: "test".into(), backend: mint.clone() };
    let cache = Arc::new(SecretCache::new(vec![source], cache::Limits::default(), clock.clone()));
    // Of the last, what nobody opens is given back.
    let idle = |of: &SecretRef| (*of == self::of(ROLES.len() - 1)).then_some(Duration::from_secs(30));
    let terms = move |of: &SecretRef| Terms { overlap: None, idle_revoke: idle(of) };
    Leases::new(cache, vec![], vec![], Box::new(terms))
}

impl Life {
    fn new() -> Self {
        let clock = Clock::manual();
        clock.advance(Duration::from_secs(1000));
        let mint = Arc::new(Mint::new(clock.clone()));
        for (path, ttl, max) in ROLES {
            let (ttl, max_ttl) = (Duration::from_secs(ttl), Duration::from_secs(max));
            mint.role(path, Role { ttl, max_ttl, ..Role::default() });
        }
        let leases = worker(&mint, &clock);
        let now = clock.now();
        let (kept, ended) = ([false; ROLES.len()], vec![]);
        Self {
            clock,
            mint,
            leases,
            well_since: now,
            failing: false,
            denied: false,
            parent_ended: false,
            kept,
            ended,
            forced: 0,
            began: now,
        }
    }

    async fn run<T>(&self, waits: impl Future<Output = T>) -> T {
        super::run(&self.leases, waits).await
    }

    fn disturbed(&mut self) {
        self.well_since = self.clock.now();
    }

    async fn live(&mut self, op: &Op) {
        match op {
            Op::Open(role) => {
                // A breaker that rests lets nobody through for a while.
                if self.run(self.leases.open(&of(*role))).await.is_ok() {
                    self.kept[*role] = true;
                }
            }
            Op::Pass(seconds) => {
                let end = self.clock.now().plus(Duration::from_secs(*seconds));
                while self.clock.now() < end {
                    self.clock.advance(STEP);
                    super::act(&self.leases).await;
                    self.check();
                }
            }
            Op::Sleep(seconds) => {
                self.clock.advance(Duration::from_secs(*seconds));
                self.disturbed();
            }
            Op::Fail(call, error) => {
                self.mint.fail(*call, Some(error.clone()));
                self.failing = true;
                if *call == Call::Issue {
                    self.denied = error.is_answer();
                }
            }
            Op::LoseRenewals => {
                self.mint.lose_answers(Call::Renew, true);
                self.failing = true;
            }
            Op::Seal => {
                for call in [Call::Issue, Call::Renew, Call::Revoke] {
                    self.mint.fail(call, Some(Error::Status(503)));
                }
                self.failing = true;
                self.denied = false;
            }
            Op::Heal => {
                for call in [Call::Issue, Call::Renew, Call::Revoke] {
                    self.mint.fail(call, None);
                }
                self.mint.lose_answers(Call::Renew, false);
                self.failing = false;
                self.denied = false;
                self.disturbed();
            }
            Op::LoseParent => {
                self.mint.lose_parent();
                self.parent_ended = false;
                self.forced += ROLES.len() as u64;
                self.leases.look_again();
                self.disturbed();
            }
            Op::ParentEnds(seconds, next) => {
                self.parent_ended |= !next;
                self.mint.parent_ends(Some(self.clock.now().plus(Duration::from_secs(*seconds))));
                if *next {
                    self.mint.next_parent();
                    self.parent_ended = false;
                }
                self.leases.look_again();
                self.disturbed();
            }
            Op::Revoke(role) => {
                let _ = self.run(self.leases.revoke(&of(*role))).await;
                self.kept[*role] = false;
                self.forced += 3;
            }
            Op::Replace(role) => {
                if self.run(self.leases.replace(&of(*role))).await.is_ok() {
                    self.kept[*role] = true;
                }
                self.forced += 1;
            }
            Op::EndLast => {
                if let Some(last) = self.mint.made().len().checked_sub(1) {
                    self.mint.end(last);
                    self.ended.push(last);
                    self.forced += 1;
                    self.disturbed();
                }
            }
            Op::HandOver => {
                let before = (self.mint.counts(), self.leases.states());
                assert!(self.leases.pause(Duration::from_secs(5)).await);
                let next = worker(&self.mint, &self.clock);
                next.import(carried(self.leases.export()));
                assert_eq!(self.mint.counts(), before.0, "a handover asks nobody");
                let told = |states: Vec<LeaseState>| {
                    let states = states.into_iter().map(|state| LeaseState { ends: None, ..state });
                    format!("{:?}", states.collect::<Vec<_>>())
                };
                assert_eq!(told(next.states()), told(before.1));
                self.leases = next;
                // What was denied is not remembered.
                self.forced += ROLES.len() as u64;
            }
        }
    }

    fn check(&mut self) {
        let now = self.clock.now();
        for (role, (path, ..)) in ROLES.iter().enumerate() {
            let held = self.leases.current(&of(role));
            for snapshot in [held.clone(), self.leases.previous(&of(role))].into_iter().flatten() {
                let serial = serial(&snapshot);
                assert!(now < snapshot.served_until, "served past its end");
                assert!(
                    self.mint.is_good(serial) || self.ended.contains(&serial),
                    "{serial} is served, and the backend has ended it: {:?}",
                    self.mint.made().get(serial)
                );
            }
            // Without a failure there is no gap: a successor is there before the end of its predecessor. What somebody
            // else has ended is found out at the next renewal at the latest.
            self.kept[role] &= held.is_some() || !self.denied;
            let well = !self.failing && !self.parent_ended && now.since(self.well_since) >= RECOVERED;
            if well && self.kept[role] && role < ROLES.len() - 1 {
                assert!(held.is_some(), "nothing is held of {path}");
            }
        }
        let allowed = ROLES.len() as u64 * (now.since(self.began).as_secs() + 1) + self.forced;
        let (_, _, asked) = self.mint.counts();
        assert!(asked <= allowed, "{asked} questions where {allowed} are allowed");
    }
}

/// As it comes out at the other end.
fn carried(book: CarriedBook) -> CarriedBook {
    fn each<T: Serialize + for<'de> Deserialize<'de>>(all: Vec<T>) -> Vec<T> {
        all.iter().map(|one| postcard::from_bytes(&postcard::to_stdvec(one).unwrap()).unwrap()).collect()
    }
    CarriedBook { leases: each(book.leases), left: each(book.left), natures: each(book.natures) }
}

fn serial(snapshot: &Snapshot) -> usize {
    snapshot.secret.field("serial").unwrap().value.expose_str().unwrap().parse().unwrap()
}

fn live(ops: &[Op]) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut life = Life::new();
        for op in ops {
            life.live(op).await;
            life.check();
        }
        life.live(&Op::Heal).await;
        life.live(&Op::Pass(15)).await;
        let left = life.run(life.leases.revoke_all(Duration::from_secs(5))).await;
        assert_eq!(left, [], "not given back");
        let good = (0..life.mint.made().len()).filter(|serial| life.mint.is_good(*serial));
        assert_eq!(good.collect::<Vec<_>>(), Vec::<usize>::new(), "left behind");
    });
}

#[test]
fn every_life_of_leases_keeps_its_promises() {
    let cases = std::env::var("SECRETFS_MODEL_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let lives = prop::collection::vec(op(), 1..25);
    runner
        .run(&lives, |ops| {
            live(&ops);
            Ok(())
        })
        .unwrap();
}
