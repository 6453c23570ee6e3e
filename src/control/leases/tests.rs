//! Owns the checks of what is told of leases and done about them over the socket, on a backend in memory that makes secrets.
//! Does not know a mount or a real server.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use super::super::{status, targets};
use super::*;
use crate::access::Permissions;
use crate::backend::faulty::Faulty;
use crate::backend::issuer::Demand;
use crate::backend::mint::{Call, Mint, Role};
use crate::backend::{Backend, Error};
use crate::cache::{DemandId, Limits, SecretCache, Source, SourceId};
use crate::clock::Clock;
use crate::fs::SecretFs;
use crate::lease::Terms;
use crate::leases::{self, Leases};
use crate::path::BackendPath;
use crate::tree::Trees;

struct World {
    clock: Clock,
    mint: Arc<Mint>,
    kept: Arc<Faulty>,
    control: Control,
}

const APP: &str = "database/creds/app";

fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}

/// The whole engine at `db`, one role asked for in another way at `app`, and what a backend keeps at `kept`.
fn world() -> World {
    let clock = Clock::manual();
    clock.advance(Duration::from_secs(1000));
    let (mint, kept) = (Arc::new(Mint::new(clock.clone())), Arc::new(Faulty::new()));
    for role in [APP, "database/creds/report", "database/static/app"] {
        mint.role(role, Role::default());
    }
    mint.role("database/code", Role { leased: false, ..Role::default() });
    kept.put("a", &[("k", b"canary")]);
    let source = |name: &str, backend: Arc<dyn Backend>| Source { name: name.into(), backend };
    let sources = vec![source("mint", mint.clone()), source("kept", kept.clone())];
    let cache = Arc::new(SecretCache::new(sources, Limits::default(), clock.clone()));
    let tree = |at: &str, root: SecretRef, shows: Shows| {
        let permissions = Permissions { uid: 7, gid: 8, file_mode: 0o400 };
        Tree { shows, ..Tree::of_place(vec![at.to_owned()], root, permissions) }
    };
    let trees = Trees::new(vec![
        tree("db", of("database"), Shows::Place),
        tree("app", SecretRef { demand: DemandId(1), ..of(APP) }, Shows::Secret),
        tree("kept", SecretRef { source: SourceId(1), ..of("") }, Shows::Place),
    ]);
    let limits = leases::Limits { max_leases: 4, ..leases::Limits::default() };
    let terms = Box::new(|_: &SecretRef| Terms::default());
    let leases = Arc::new(Leases::new(cache.clone(), vec![Demand::default()], vec![limits], terms));
    let fs = SecretFs::new(trees.clone(), cache.clone(), 1024).with_leases(leases.clone());
    let control = Control {
        process: 7,
        crashes: 0,
        upgrade: Box::new(|_| Ok(())),
        fs: Arc::new(fs),
        trees,
        cache,
        leases,
        since: SystemTime::UNIX_EPOCH,
        deadline: Duration::from_secs(5),
        hooks: Box::new(Vec::new),
        watchers: Box::new(|| Ok(())),
        sandbox: vec![],
    };
    World { clock, mint, kept, control }
}

impl World {
    /// Runs what the background loop would beside what waits for it.
    async fn run<T>(&self, waits: impl Future<Output = T>) -> T {
        crate::leases::tests::run(&self.control.leases, waits).await
    }

    async fn open(&self, of: &SecretRef) {
        self.run(self.control.leases.open(of)).await.unwrap();
    }

    async fn find(&self, path: &str, recursive: bool) -> Reply {
        find(&self.control, path, recursive).await
    }

    async fn targets(&self, path: &str, recursive: bool) -> Vec<Target> {
        match self.find(path, recursive).await {
            Reply::Found(Found::Targets(targets)) => targets,
            other => panic!("{path}: {other:?}"),
        }
    }

    async fn revoke(&self, path: &str, recursive: bool) -> Vec<Outcome> {
        let targets = self.targets(path, recursive).await;
        revoke(&self.control, targets).await
    }

    async fn refresh(&self, path: &str, recursive: bool) -> Vec<Outcome> {
        self.clock.advance(Duration::from_secs(1));
        let targets = match targets::find(&self.control, path, recursive).await {
            Reply::Found(Found::Targets(targets)) => targets,
            other => panic!("{path}: {other:?}"),
        };
        self.run(targets::refresh(&self.control, targets)).await
    }

    fn list(&self) -> LeaseList {
        status::of(&self.control, false, false).leases
    }

    fn made(&self) -> usize {
        self.mint.made().len()
    }
}

#[tokio::test]
async fn status_tells_each_lease_and_of_how_many_but_no_value_and_its_id_only_when_asked() {
    let world = world();
    let none = LeaseTotal { backend: "mint".into(), held: 0, max_leases: 4, set_aside: 0 };
    assert_eq!(world.list(), LeaseList { totals: vec![none], leases: vec![], left_out: 0 });
    world.open(&of(APP)).await;
    world.open(&SecretRef { demand: DemandId(1), ..of(APP) }).await;
    world.open(&of("database/code")).await;
    assert_eq!(world.refresh("db/creds/app", false).await.len(), 1);
    let list = world.list();
    assert_eq!((list.totals[0].held, list.totals[0].set_aside, list.leases.len()), (3, 0, 3));
    let told: Vec<_> = list.leases.iter().map(|line| (line.paths[0].as_str(), line.demand)).collect();
    assert_eq!(told, [("app", 1), ("db/code", 0), ("db/creds/app", 0)]);
    let app = &list.leases[2];
    assert_eq!((app.backend.as_str(), app.role.as_str()), ("mint", "app"));
    assert_eq!(app.backend_path, APP);
    assert_eq!((app.next.as_str(), app.failures, app.previous, app.good), ("renew", 0, true, true));
    assert!(app.next_in_seconds.unwrap() <= 40.0 && app.ends.is_some());
    assert_eq!(list.leases[1].next, "replace", "without a lease it cannot be renewed");
    let plain = serde_json::to_string(&status::of(&world.control, true, false)).unwrap();
    assert!(!plain.contains("canary") && !plain.contains("\"id\"") && !plain.contains("creds/app/2"));
    let verbose = status::of(&world.control, true, true);
    assert!(!format!("{verbose:?}").contains("creds/app/3"), "not in Debug");
    let verbose = serde_json::to_string(&verbose).unwrap();
    assert!(verbose.contains(r#""id":"database/creds/app/3""#) && !verbose.contains("canary"));
    assert_eq!(verbose.matches("\"id\"").count(), 2, "a code has no lease");
}

#[tokio::test]
async fn a_revoked_secret_is_dead_with_its_predecessor_and_the_next_open_makes_another() {
    let world = world();
    world.open(&of(APP)).await;
    world.refresh("db/creds/app", false).await;
    assert_eq!(world.revoke("db/creds/app", false).await, [Outcome::Revoked(2)]);
    assert!(!world.mint.is_good(0) && !world.mint.is_good(1));
    assert_eq!(world.revoke("db/creds/app", false).await, [Outcome::NoLease]);
    world.open(&of(APP)).await;
    assert!(world.mint.is_good(2) && world.made() == 3);
}

#[tokio::test]
async fn a_path_stands_for_the_lease_of_its_secret_and_a_folder_only_for_all_below_it() {
    let world = world();
    for role in [APP, "database/creds/report", "database/static/app"] {
        world.open(&of(role)).await;
    }
    let paths = |targets: Vec<Target>| targets.into_iter().map(|target| target.path).collect::<Vec<_>>();
    for path in [
        "db/creds/app",
        "db/creds/app/password",
        "db/creds/app/.json",
        "db/creds/app/.previous",
        "db/creds/app/.previous/serial",
    ] {
        assert_eq!(paths(world.targets(path, false).await), ["db/creds/app"], "{path}");
    }
    assert_eq!(paths(world.targets("db/creds", true).await), ["db/creds/app", "db/creds/report"]);
    assert_eq!(world.targets("db", true).await.len(), 3);
    assert_eq!(world.targets("", true).await.len(), 3);
    for path in ["db", "db/creds"] {
        assert!(matches!(world.find(path, false).await, Reply::Found(Found::Folder)), "{path}");
    }
    assert!(matches!(world.find("", false).await, Reply::Found(Found::Junction)));
    for path in ["kept", "kept/a", "kept/a/k", "kept/nope"] {
        assert!(matches!(world.find(path, false).await, Reply::Found(Found::Kept)), "{path}");
    }
    for path in ["nope", &"x/".repeat(4000)] {
        assert!(matches!(world.find(path, false).await, Reply::Refused(_)), "{path}");
    }
    for path in ["db/creds/other", "db/creds/app/typo", "app", "app/password"] {
        assert_eq!(world.revoke(path, false).await, [Outcome::NoLease], "{path}");
    }
    assert_eq!(world.made(), 3, "asking makes nothing");
    assert_eq!(world.revoke("", true).await, vec![Outcome::Revoked(1); 3]);
    assert!((0..3).all(|serial| !world.mint.is_good(serial)));
    assert_eq!(world.targets("", true).await, []);
}

#[tokio::test]
async fn two_ways_of_asking_at_one_path_are_two_leases() {
    let world = world();
    let other = SecretRef { demand: DemandId(1), ..of(APP) };
    world.open(&of(APP)).await;
    world.open(&other).await;
    assert_eq!(world.revoke("app/password", false).await, [Outcome::Revoked(1)]);
    assert!(world.mint.is_good(0) && !world.mint.is_good(1));
    let missing = world.find("app/typo", false).await;
    assert!(matches!(missing, Reply::Found(Found::Targets(_))), "nothing is held: {missing:?}");
    world.open(&other).await;
    let Reply::Refused(refusal) = world.find("app/typo", false).await else { panic!("found") };
    assert_eq!(refusal.errno.as_deref(), Some("ENOENT"));
}

#[tokio::test]
async fn what_has_no_lease_is_forgotten_here_and_its_end_is_told() {
    let world = world();
    world.open(&of("database/code")).await;
    let outcomes = world.revoke("db/code", false).await;
    let Some(Outcome::Forgotten { until: Some(end) }) = outcomes.first() else { panic!("{outcomes:?}") };
    let left = humantime::parse_rfc3339(end).unwrap().duration_since(SystemTime::now()).unwrap();
    assert!((50..=60).contains(&left.as_secs()), "{left:?}");
    assert!(world.control.leases.current(&of("database/code")).is_none());
    world.open(&of("database/code")).await;
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(world.revoke("db/code", false).await, [Outcome::NoLease], "it had ended");
}

#[tokio::test]
async fn a_backend_that_does_not_revoke_is_told_and_asked_again() {
    let world = world();
    world.open(&of(APP)).await;
    world.mint.fail(Call::Revoke, Some(Error::Forbidden));
    let denied = world.revoke("db/creds/app", false).await;
    assert!(
        matches!(&denied[..], [Outcome::Failed { errno, denied: true, .. }] if errno == "EACCES"),
        "{denied:?}"
    );
    assert_eq!((world.list().totals[0].held, world.list().totals[0].set_aside), (0, 1));
    world.mint.fail(Call::Revoke, None);
    assert_eq!(world.revoke("db/creds/app/password", false).await, [Outcome::Revoked(1)]);
    assert!(!world.mint.is_good(0));
}

#[tokio::test(start_paused = true)]
async fn no_answer_waits_longer_than_the_deadline_and_what_was_not_revoked_is_not_lost() {
    let world = world();
    world.open(&of(APP)).await;
    let targets = world.targets("db/creds/app", false).await;
    world.mint.delay(Duration::from_secs(3600));
    let began = tokio::time::Instant::now();
    let outcomes = revoke(&world.control, targets).await;
    assert!(matches!(&outcomes[..], [Outcome::Failed { errno, .. }] if errno == "ETIMEDOUT"), "{outcomes:?}");
    assert!(began.elapsed() <= world.control.deadline + Duration::from_millis(10));
    world.mint.delay(Duration::ZERO);
    assert_eq!(world.revoke("db/creds/app", false).await, [Outcome::Revoked(1)]);
}

#[tokio::test]
async fn what_the_mount_does_not_show_cannot_be_revoked() {
    let world = world();
    world.mint.role("other", Role::default());
    world.open(&of("other")).await;
    let asked = Target {
        backend: 0,
        demand: 0,
        segments: vec!["other".into()],
        version: None,
        listing: false,
        path: "db/creds/app".into(),
        held: None,
        maybe: false,
    };
    let outcomes = revoke(&world.control, vec![asked]).await;
    assert!(matches!(&outcomes[..], [Outcome::Failed { errno, .. }] if errno == "ENOENT"), "{outcomes:?}");
    assert!(world.mint.is_good(0));
}

#[tokio::test]
async fn a_refresh_makes_a_successor_of_what_is_held_and_never_a_first_lease() {
    let world = world();
    for path in ["db/creds/app", "db/creds", "db/creds/app/password", "app/password", "db"] {
        assert_eq!(world.refresh(path, false).await, [Outcome::NotHeld], "{path}");
    }
    assert_eq!(world.refresh("db", true).await, [Outcome::NotHeld]);
    assert_eq!(world.mint.counts().2, 0, "nothing was asked to be made");
    world.open(&of(APP)).await;
    let outcomes = world.refresh("db/creds/app/password", false).await;
    let held = world.control.leases.current(&of(APP)).unwrap();
    assert_eq!(outcomes, [Outcome::Lease(held.secret.version.to_string())]);
    assert!(world.mint.is_good(0) && world.made() == 2);
    assert!(world.control.leases.previous(&of(APP)).is_some());
    world.open(&of("database/creds/report")).await;
    assert_eq!(world.refresh("db/creds", false).await.len(), 2);
    assert_eq!(world.refresh("db", true).await.len(), 2);
    let found = targets::find(&world.control, "db", false).await;
    assert!(matches!(found, Reply::Found(Found::Folder)), "{found:?}");
    assert_eq!(world.made(), 7);
}

#[tokio::test]
async fn a_refresh_of_all_asks_for_what_is_kept_and_replaces_what_is_leased() {
    let world = world();
    world.open(&of(APP)).await;
    let kept = SecretRef { source: SourceId(1), ..of("a") };
    world.control.cache.secret(&kept).await.unwrap();
    world.kept.put("a", &[("k", b"canary-2")]);
    let outcomes = world.refresh("", true).await;
    assert!(matches!(&outcomes[0], Outcome::Lease(_)), "{outcomes:?}");
    assert_eq!(outcomes[1..], [Outcome::Names(1), Outcome::Version("2".into())]);
}

#[tokio::test]
async fn a_replacement_that_fails_says_why_and_leaves_what_is_held() {
    let world = world();
    world.open(&of(APP)).await;
    world.mint.fail(Call::Issue, Some(Error::Status(500)));
    let outcomes = world.refresh("db/creds/app", false).await;
    assert!(matches!(&outcomes[..], [Outcome::Failed { errno, denied: false, .. }] if errno == "EIO"));
    assert!(world.control.leases.current(&of(APP)).is_some() && world.mint.is_good(0));
}

#[tokio::test]
async fn a_flush_leaves_leases_as_they_are_and_says_how_many() {
    let world = world();
    world.open(&of(APP)).await;
    let flushed = targets::flush(&world.control);
    assert!(matches!(flushed, Reply::Flushed { leases: 1, .. }), "{flushed:?}");
    assert!(world.control.leases.current(&of(APP)).is_some() && world.mint.is_good(0));
}
