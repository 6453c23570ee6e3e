//! Owns the checks of hooks about secrets that are made on demand, on a backend in memory.
//! Does not know what a hook does; ../tests.rs has that.

use std::sync::Arc;

use super::super::{Action, Config, HookState, Signal};
use super::*;
use crate::access::Permissions;
use crate::backend::mint::{Mint, Role};
use crate::cache::{Limits, SecretCache, Source, SourceId};
use crate::clock::Clock;
use crate::freshness::Freshness;
use crate::hands::Hands;
use crate::lease::Terms;
use crate::leases::Leases;
use crate::path::BackendPath;
use crate::pattern::Pattern;
use crate::refresh::Refresher;
use crate::tree::promises::Promises;
use crate::tree::{Tree, Trees};

const HANG: Duration = Duration::from_secs(60);
/// Hooks look several times within this.
const A_WHILE: Duration = Duration::from_millis(600);
const APP: &str = "database/creds/app";
const REPORT: &str = "database/creds/report";

struct World {
    mint: Arc<Mint>,
    cache: Arc<SecretCache>,
    leases: Arc<Leases>,
    hooks: Arc<Hooks>,
    _hands: Hands,
}

fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}

/// Two roles of an engine, shown at `/db`, and a hook for each of these patterns, without waits.
fn world(patterns: &[&str], terms: Terms) -> World {
    let mint = Arc::new(Mint::new(Clock::System));
    for role in [APP, REPORT] {
        mint.role(role, Role { ttl: Duration::from_secs(600), ..Role::default() });
    }
    let source = Source { name: "test".into(), backend: mint.clone() };
    let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), Clock::System));
    let permissions = Permissions { uid: 0, gid: 0, file_mode: 0o400 };
    // The hooks look every 100 ms.
    let freshness = Freshness { ttl: Duration::from_millis(200), ..Freshness::default() };
    let trees = Trees::new(vec![Tree::of_place(vec!["db".to_owned()], of("database"), permissions)])
        .with_promises(Promises::new(freshness, vec![], vec![]).unwrap());
    let leases = Arc::new(Leases::new(cache.clone(), vec![], vec![], Box::new(move |_| terms)));
    let hook = |pattern: &&str| Config {
        patterns: vec![Pattern::parse(pattern).unwrap()],
        action: Action::Signal { signal: Signal::named("HUP").unwrap(), pid_file: "/nowhere".into() },
        debounce: Duration::ZERO,
        interval: Duration::ZERO,
        timeout: HANG,
        log_output: true,
    };
    let hooks: Vec<Config> = patterns.iter().map(hook).collect();
    let jobs = hooks.iter().map(Config::job).collect();
    let hands = Hands::new(Err("no mount".into()), "/mnt".into(), jobs).unwrap();
    let client = hands.client().unwrap();
    let hooks = Hooks::new(hooks, trees, cache.clone(), leases.clone(), "/mnt".into(), client).unwrap();
    World { mint, cache, leases, hooks: Arc::new(hooks), _hands: hands }
}

impl World {
    fn begin(&self) {
        tokio::spawn(Refresher::new(self.cache.clone(), self.leases.clone()).run());
        tokio::spawn(self.hooks.clone().run(self.cache.subscribe()));
    }

    async fn until(&self, what: &str, done: impl Fn(&[HookState]) -> bool) {
        let wait = async {
            while !done(&self.hooks.states()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(HANG, wait).await;
        waited.unwrap_or_else(|_| panic!("never: {what}: {:?}", self.hooks.states()));
    }

    fn runs(&self) -> Vec<u64> {
        self.hooks.states().iter().map(|state| state.runs).collect()
    }

    fn counted(&self, name: &str) -> u64 {
        let all = self.cache.counters().all();
        all.into_iter().find(|(known, ..)| *known == name).unwrap().2
    }
}

#[tokio::test]
async fn a_hook_over_a_leased_path_runs_when_the_lease_is_another_and_never_makes_one() {
    let world =
        world(&["/db/creds/app/password", "/db/creds/app", "/db/**", "/db/creds/report"], Terms::default());
    world.begin();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!((world.mint.made().len(), world.counted("misses")), (0, 0), "nothing is read ahead");
    world.leases.open(&of(APP)).await.unwrap();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(world.runs(), [0, 0, 0, 0], "the first is no change");
    world.leases.replace(&of(APP)).await.unwrap();
    world.until("replaced", |states| states[..3].iter().all(|state| state.runs == 1)).await;
    world.leases.revoke(&of(APP)).await.unwrap();
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(world.runs(), [1, 1, 1, 0], "nobody is told of what nobody has");
    world.leases.open(&of(APP)).await.unwrap();
    world.until("made again", |states| states[..3].iter().all(|state| state.runs == 2)).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(world.runs(), [2, 2, 2, 0]);
    assert_eq!((world.mint.made().len(), world.counted("misses")), (3, 0));
}

#[tokio::test]
async fn a_lease_that_a_hook_names_is_in_use_and_one_that_a_wildcard_covers_is_not() {
    let terms = Terms { idle_revoke: Some(Duration::from_secs(6)), ..Terms::default() };
    let world = world(&["/db/creds/app/password", "/db/**"], terms);
    world.begin();
    for role in [REPORT, APP] {
        world.leases.open(&of(role)).await.unwrap();
    }
    world.until("given back", |_| !world.mint.is_good(0)).await;
    tokio::time::sleep(A_WHILE).await;
    assert!(world.mint.is_good(1) && world.leases.current(&of(APP)).is_some());
    assert!(world.leases.current(&of(REPORT)).is_none());
}
