//! Owns the promises after a crash: one lease for each secret beside the one in use, nothing left at the end, logins ended as well.
//! Does not know processes: a crash is a book that is dropped, and another one over the same ledger.

use std::os::fd::OwnedFd;
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;

use super::super::*;
use super::{act, run};
use crate::backend::issuer::{Issuer as _, LeaseId};
use crate::backend::mint::{Call, Mint, Role};
use crate::cache::{self, DemandId, Source};
use crate::clock::Clock;
use crate::path::BackendPath;
use crate::record;

const ROLES: [(&str, u64, u64); 3] = [("a", 20, 60), ("b", 30, 30), ("c", 600, 3600)];

fn of(role: usize) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(ROLES[role].0).unwrap())
}

/// What outlives a worker.
struct World {
    clock: Clock,
    mint: Arc<Mint>,
    ledger: [OwnedFd; 2],
}

impl World {
    fn new(logs_in: bool) -> Self {
        let clock = Clock::manual();
        clock.advance(Duration::from_secs(1000));
        let mint = Arc::new(Mint::new(clock.clone()));
        for (path, ttl, max) in ROLES {
            let (ttl, max_ttl) = (Duration::from_secs(ttl), Duration::from_secs(max));
            mint.role(path, Role { ttl, max_ttl, ..Role::default() });
        }
        if logs_in {
            mint.log_in();
        }
        Self { clock, mint, ledger: record::make("ledger").unwrap() }
    }

    fn called(&self, name: &str) -> Leases {
        self.called_with(name, Limits { max_leases: ROLES.len(), ..Limits::default() })
    }

    fn called_with(&self, name: &str, limits: Limits) -> Leases {
        let source = Source { name: name.into(), backend: self.mint.clone() };
        let cache = SecretCache::new(vec![source], cache::Limits::default(), self.clock.clone());
        let demands = vec![Demand::default()];
        Leases::new(Arc::new(cache), demands, vec![limits], Box::new(|_| Terms::default()))
    }

    fn open_ledger(&self, leases: &Leases) -> Orphans {
        let files = self.ledger.each_ref().map(|file| file.try_clone().unwrap());
        leases.keep_ledger(read_ledger(files))
    }

    /// A worker that takes over from one that is no more.
    fn worker(&self) -> (Leases, Orphans) {
        let leases = self.called("test");
        let orphans = self.open_ledger(&leases);
        (leases, orphans)
    }

    /// The worker is killed; the next one.
    fn crash(&self, leases: Leases) -> (Leases, Orphans) {
        drop(leases);
        self.mint.crash();
        self.worker()
    }

    /// The leases that live.
    fn alive(&self) -> Vec<usize> {
        (0..self.mint.made().len()).filter(|serial| self.mint.is_good(*serial)).collect()
    }
}

async fn open(leases: &Leases, role: usize) -> usize {
    super::serial(&run(leases, leases.open(&of(role))).await.unwrap())
}

#[derive(Debug, Clone)]
enum Op {
    Open(usize),
    Pass(u64),
    Crash,
    /// With errands on their way that nobody does.
    CrashAtWork,
    HandOver,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0..ROLES.len()).prop_map(Op::Open),
        3 => (1..40_u64).prop_map(Op::Pass),
        3 => Just(Op::Crash),
        1 => Just(Op::CrashAtWork),
        1 => Just(Op::HandOver),
    ]
}

async fn live(ops: &[Op], logs_in: bool) {
    let world = World::new(logs_in);
    let mut leases = world.worker().0;
    for op in ops {
        match op {
            Op::Open(role) => {
                let serial = open(&leases, *role).await;
                assert!(world.mint.is_good(serial));
            }
            Op::Pass(seconds) => {
                for _ in 0..seconds * 2 {
                    world.clock.advance(Duration::from_millis(500));
                    act(&leases).await;
                }
            }
            Op::Crash => leases = world.crash(leases).0,
            Op::CrashAtWork => {
                world.clock.advance(Duration::from_secs(15));
                drop(leases.due(world.clock.now()));
                leases = world.crash(leases).0;
            }
            Op::HandOver => {
                let asked = world.mint.counts();
                assert!(leases.pause(Duration::from_secs(5)).await);
                let next = world.called("test");
                next.import(leases.export());
                drop(leases);
                let orphans = world.open_ledger(&next);
                assert_eq!((orphans.kept, orphans.given_back), (0, 0), "all that is held is known");
                assert_eq!(world.mint.counts(), asked);
                leases = next;
            }
        }
        act(&leases).await;
        for (role, (path, ..)) in ROLES.iter().enumerate() {
            let made = world.mint.made();
            let alive = world.alive().into_iter().filter(|serial| made[*serial].path == *path).count();
            let in_use = usize::from(leases.current(&of(role)).is_some());
            assert!(alive <= in_use + 1, "{alive} leases of {path} live, {in_use} in use");
        }
    }
    assert_eq!(run(&leases, leases.revoke_all(Duration::from_secs(5))).await, []);
    assert_eq!(world.alive(), Vec::<usize>::new(), "left behind");
    if logs_in {
        let crashes = ops.iter().filter(|op| matches!(op, Op::Crash | Op::CrashAtWork)).count() as u64;
        let left: Vec<u64> = (0..crashes).filter(|parent| world.mint.is_alive(ParentId(*parent))).collect();
        assert_eq!(left, Vec::<u64>::new(), "logins left behind");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn however_often_a_worker_crashes_there_is_one_lease_beside_the_one_in_use_and_none_at_the_end(
        ops in prop::collection::vec(op(), 1..30),
        logs_in in any::<bool>(),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap().block_on(live(&ops, logs_in));
    }
}

#[tokio::test]
async fn the_newest_lease_of_a_worker_that_crashed_lives_until_what_follows_it_is_replaced_as_well() {
    let world = World::new(false);
    let leases = world.worker().0;
    assert_eq!(open(&leases, 2).await, 0);
    let (leases, orphans) = world.crash(leases);
    assert_eq!(orphans, Orphans { kept: 1, ..Orphans::default() });
    act(&leases).await;
    assert_eq!(open(&leases, 2).await, 1);
    act(&leases).await;
    assert_eq!(world.alive(), [0, 1], "a program may use the first still");
    world.clock.advance(Duration::from_secs(2));
    run(&leases, leases.replace(&of(2))).await.unwrap();
    act(&leases).await;
    assert_eq!(world.alive(), [1, 2]);
    let (leases, orphans) = world.crash(leases);
    assert_eq!(orphans, Orphans { kept: 1, given_back: 1, ..Orphans::default() });
    assert_eq!(open(&leases, 2).await, 3);
    assert_eq!(world.alive(), [2, 3], "the older one went before another one was made");
}

#[tokio::test]
async fn a_login_that_was_lost_ends_with_the_last_that_hangs_on_it() {
    let world = World::new(true);
    let leases = world.worker().0;
    open(&leases, 0).await;
    let (leases, orphans) = world.crash(leases);
    assert_eq!(orphans, Orphans { kept: 1, tokens: 1, ..Orphans::default() });
    act(&leases).await;
    assert!(world.mint.is_alive(ParentId(0)) && world.alive() == [0]);
    world.clock.advance(Duration::from_secs(21));
    act(&leases).await;
    assert!(!world.mint.is_alive(ParentId(0)), "what hung on it has ended");
    // One that nothing hangs on goes at once.
    let (leases, orphans) = world.crash(leases);
    assert_eq!(orphans, Orphans { tokens: 1, ..Orphans::default() });
    act(&leases).await;
    assert!(!world.mint.is_alive(ParentId(1)) && world.mint.is_alive(ParentId(2)));
    let again = world.crash(leases).1;
    assert_eq!(again.tokens, 1, "what is gone is not in the ledger any more");
}

#[tokio::test]
async fn a_token_is_not_ended_with_the_mount_where_leases_that_are_to_be_kept_hang_on_it() {
    let world = World::new(true);
    let keep = Limits { keep_leases: true, ..Limits::default() };
    let keeper = || {
        let leases = world.called_with("test", keep);
        world.open_ledger(&leases);
        leases
    };
    let leases = keeper();
    open(&leases, 2).await;
    drop(leases);
    world.mint.crash();
    // Of a worker that made nothing.
    drop(keeper());
    world.mint.crash();
    let leases = keeper();
    open(&leases, 1).await;
    assert_eq!(run(&leases, leases.revoke_all(Duration::from_secs(5))).await, []);
    assert_eq!(world.alive(), [0, 1]);
    let alive = [0, 1, 2].map(|parent| world.mint.is_alive(ParentId(parent)));
    assert_eq!(alive, [true, false, true], "nothing hung on the second");
    let kept = |of: u64| format!("accessor-{of}");
    assert_eq!(leases.tokens_kept(), HashMap::from([(SourceId(0), vec![kept(0), kept(2)])]));
    // What has ended keeps nothing.
    world.clock.advance(Duration::from_secs(31));
    assert_eq!(leases.tokens_kept(), HashMap::from([(SourceId(0), vec![kept(0)])]));
    assert_eq!(world.worker().0.tokens_kept(), HashMap::new(), "only where they are to be kept");
}

#[tokio::test]
async fn a_token_that_may_not_be_revoked_is_left_to_its_end_and_not_asked_about_again() {
    let world = World::new(true);
    let (leases, _) = world.crash(world.worker().0);
    world.mint.fail(Call::Revoke, Some(Error::Forbidden));
    act(&leases).await;
    let asked = world.mint.counts().2;
    assert_eq!(asked, 1);
    for _ in 0..100 {
        world.clock.advance(Duration::from_secs(1));
        act(&leases).await;
    }
    assert_eq!(world.mint.counts().2, asked);
}

#[tokio::test]
async fn what_cannot_be_given_back_yet_does_not_keep_a_reader_waiting() {
    let world = World::new(false);
    let leases = world.worker().0;
    open(&leases, 2).await;
    let leases = world.crash(leases).0;
    open(&leases, 2).await;
    let leases = world.crash(leases).0;
    world.mint.fail(Call::Revoke, Some(Error::Refused("the database is down".to_owned())));
    assert_eq!(open(&leases, 2).await, 2);
    world.mint.fail(Call::Revoke, None);
    world.clock.advance(Duration::from_secs(2));
    act(&leases).await;
    assert_eq!(world.alive(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_does_not_wait_for_what_somebody_began_to_revoke_and_gave_up() {
    let world = World::new(false);
    let leases = world.worker().0;
    open(&leases, 2).await;
    let leases = world.crash(leases).0;
    world.mint.delay(Duration::from_secs(1));
    assert!(leases.revoke(&of(2)).now_or_never().is_none(), "it is sent");
    world.mint.delay(Duration::ZERO);
    let opened = tokio::time::timeout(Duration::from_secs(10), open(&leases, 2)).await;
    assert_eq!(opened, Ok(1));
}

#[tokio::test]
async fn leases_that_were_handed_over_outlive_a_crash_though_the_ledger_began_anew() {
    let mut world = World::new(true);
    let leases = world.worker().0;
    open(&leases, 2).await;
    open(&leases, 1).await;
    world.clock.advance(Duration::from_secs(2));
    run(&leases, leases.replace(&of(2))).await.unwrap();
    assert!(leases.pause(Duration::from_secs(5)).await);
    world.ledger = record::make("another").unwrap();
    let next = world.called("test");
    next.import(leases.export());
    drop(leases);
    world.open_ledger(&next);
    let (last, orphans) = world.crash(next);
    assert_eq!((orphans.kept, orphans.given_back), (2, 1));
    assert_eq!(run(&last, last.revoke_all(Duration::from_secs(5))).await, []);
    assert_eq!(world.alive(), Vec::<usize>::new());
}

#[tokio::test]
async fn what_was_revoked_and_is_not_gone_yet_is_given_back_by_the_next_worker_and_kept_for_nobody() {
    let world = World::new(false);
    let leases = world.worker().0;
    open(&leases, 2).await;
    let refused = Error::Refused("the database is down".to_owned());
    world.mint.fail(Call::Revoke, Some(refused.clone()));
    assert_eq!(leases.revoke(&of(2)).await, Err(refused));
    let given_back = Orphans { given_back: 1, ..Orphans::default() };
    let (leases, orphans) = world.crash(leases);
    assert_eq!(orphans, given_back);
    // What another one makes meanwhile does not change that, and neither does the ledger being written anew.
    assert_eq!(open(&leases, 2).await, 1);
    let (leases, orphans) = world.crash(leases);
    assert_eq!(orphans, Orphans { kept: 1, ..given_back });
    world.mint.fail(Call::Revoke, None);
    act(&leases).await;
    assert_eq!(world.alive(), [1]);
    let (leases, orphans) = world.crash(leases);
    assert_eq!(orphans, Orphans { kept: 1, ..Orphans::default() });
    assert_eq!(run(&leases, leases.revoke_all(Duration::from_secs(5))).await, []);
    assert_eq!(world.alive(), Vec::<usize>::new());
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_renewal_the_worker_did_not_live_to_hear_of_is_given_back_though_its_first_end_is_over()
{
    let world = World::new(false);
    let leases = world.worker().0;
    open(&leases, 2).await;
    world.clock.advance(Duration::from_secs(410));
    let errand = leases.due(world.clock.now()).0.remove(0);
    world.mint.delay(Duration::from_secs(1));
    assert!(leases.act(errand).now_or_never().is_none(), "it is sent");
    world.mint.delay(Duration::ZERO);
    world.mint.renew(&LeaseId::new("c/0".to_owned())).await.unwrap();
    let (leases, orphans) = world.crash(leases);
    assert_eq!(orphans, Orphans { kept: 1, ..Orphans::default() });
    world.clock.advance(Duration::from_secs(200));
    act(&leases).await;
    assert_eq!(world.alive(), [0]);
    // Another one finds it as well.
    let leases = world.crash(leases).0;
    assert_eq!(run(&leases, leases.revoke_all(Duration::from_secs(5))).await, []);
    assert_eq!(world.alive(), Vec::<usize>::new());
}

#[tokio::test]
async fn what_other_settings_made_is_given_back_where_the_backend_is_there_by_its_name() {
    let world = World::new(false);
    let leases = world.worker().0;
    let named = SecretRef { demand: DemandId(1), ..of(2) };
    run(&leases, leases.open(&named)).await.unwrap();
    drop(leases);
    let other = world.called("other");
    assert_eq!(world.open_ledger(&other), Orphans { of_nobody: 1, ..Orphans::default() });
    assert_eq!(run(&other, other.revoke_all(Duration::from_secs(5))).await, []);
    assert_eq!(world.alive(), [0]);
    // It was not forgotten: with the old name it is found again.
    let (leases, orphans) = world.worker();
    assert_eq!(orphans.kept, 1);
    assert_eq!(run(&leases, leases.revoke_all(Duration::from_secs(5))).await, []);
    assert_eq!(world.alive(), Vec::<usize>::new());
}

#[tokio::test]
async fn another_server_by_the_same_name_is_not_told_to_end_what_it_never_made() {
    let world = World::new(true);
    world.mint.moves("https://one.example team");
    let leases = world.worker().0;
    open(&leases, 2).await;
    drop(leases);
    world.mint.crash();
    world.mint.moves("https://one.example other");
    let asked = world.mint.counts();
    let (other, orphans) = world.worker();
    assert_eq!(orphans, Orphans { of_nobody: 2, ..Orphans::default() });
    act(&other).await;
    assert_eq!(run(&other, other.revoke_all(Duration::from_secs(5))).await, []);
    assert_eq!((world.alive(), world.mint.counts()), (vec![0], asked));
    drop(other);
    world.mint.crash();
    // Nothing of it was forgotten: there it is found again.
    world.mint.moves("https://one.example team");
    let (leases, orphans) = world.worker();
    assert_eq!(orphans, Orphans { kept: 1, tokens: 1, of_nobody: 1, ..Orphans::default() });
    assert_eq!(run(&leases, leases.revoke_all(Duration::from_secs(5))).await, []);
    assert_eq!(world.alive(), Vec::<usize>::new());
    assert!(!world.mint.is_alive(ParentId(0)));
}

#[tokio::test]
async fn the_ledger_holds_no_value_and_what_ended_goes_out_of_it() {
    let world = World::new(false);
    let leases = world.worker().0;
    for _ in 0..20 {
        open(&leases, 1).await;
        world.clock.advance(Duration::from_secs(31));
    }
    let size = |world: &World| -> usize {
        let texts = world.ledger.each_ref().map(|file| {
            let mut bytes = vec![0; 1 << 20];
            let read = rustix::io::pread(file, &mut bytes, 0).unwrap();
            bytes.truncate(read);
            assert!(!String::from_utf8_lossy(&bytes).contains("canary"));
            bytes.len()
        });
        texts.into_iter().sum()
    };
    let before = size(&world);
    let leases = world.crash(leases).0;
    let leases = world.crash(leases).0;
    assert!(size(&world) < before / 2, "{before} and then {}", size(&world));
    assert!(leases.revocable().is_empty());
}
