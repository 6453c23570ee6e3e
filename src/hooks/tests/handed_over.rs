//! Owns the checks of what becomes of hooks when the next worker takes over: no change is lost, and none is told twice.
//! Does not know the way from one worker to the other; src/handover has it.

use super::*;
use crate::handover::{CarriedHooks, CarriedWait};

const TOLD: &str = "echo \"$SECRETFS_PATHS\" >> $1/paths";

/// A world of one hook without waits about all secrets.
fn telling() -> World {
    world(|folder| vec![shell(&["/all/**"], TOLD, folder)])
}

/// What the next worker of a world is.
struct Next {
    cache: Arc<SecretCache>,
    hooks: Arc<Hooks>,
}

impl Next {
    fn after(world: &World, hook: Config) -> Self {
        let cache = cache_over(&world.backend);
        let hooks = hooks_over(&cache, vec![hook], &world.hands);
        Self { cache, hooks }
    }

    fn telling(world: &World) -> Self {
        Self::after(world, shell(&["/all/**"], TOLD, world.folder.path()))
    }

    async fn read(&self, path: &str) {
        self.cache.secret(&of(path)).await.unwrap();
    }

    /// Runs until the hook has run so often.
    async fn run_until(self, world: &mut World, runs: u64) {
        world.cache = self.cache;
        world.hooks = self.hooks;
        let running = world.run();
        world.until("run", |states| states[0].runs == runs && !states[0].running && !states[0].waiting).await;
        world.end(running).await;
    }
}

#[tokio::test]
async fn what_waits_for_a_run_is_run_by_the_next_worker_and_by_nobody_else() {
    let mut world = world(|folder| vec![Config { debounce: HANG * 10, ..shell(&["/all/**"], TOLD, folder) }]);
    let running = world.begin(&["secret/a", "secret/team/db"]).await;
    world.change("secret/a").await;
    world.until("waits", |states| states[0].waiting).await;
    // This one is on its way to the hooks.
    world.change("secret/team/db").await;
    let carried = world.hooks.stand_still();
    let [CarriedWait { hook: 0, waits: Some(_), ran: None, paths, truncated: false }] = &carried.waiting[..]
    else {
        panic!("{carried:?}")
    };
    assert_eq!(paths[..], ["all/a", "all/team/db"]);
    world.end(running).await;
    assert_eq!(world.hooks.states()[0].runs, 0);
    let next = Next::telling(&world);
    next.hooks.import(carried);
    assert!(next.hooks.states()[0].waiting);
    // What it holds it was told of.
    next.read("secret/a").await;
    next.read("secret/team/db").await;
    next.run_until(&mut world, 1).await;
    assert_eq!(world.read("paths"), "/mnt/all/a\n/mnt/all/team/db\n");
}

#[tokio::test]
async fn what_changed_between_two_workers_is_news_to_the_next_one() {
    let mut world = telling();
    let running = world.begin(&["secret/a", "secret/b"]).await;
    let both = [of("secret/a"), of("secret/b")];
    world.until("known", |_| both.iter().all(|of| world.hooks.seen().knows(of))).await;
    let carried = world.hooks.stand_still();
    assert!(carried.waiting.is_empty());
    world.end(running).await;
    world.backend.put("secret/a", &[("value", b"canary")]);
    let next = Next::telling(&world);
    next.hooks.import(carried);
    next.read("secret/a").await;
    next.read("secret/b").await;
    next.run_until(&mut world, 1).await;
    assert_eq!(world.read("paths"), "/mnt/all/a\n");
}

#[tokio::test]
async fn no_run_begins_while_hooks_stand_still_and_what_waited_is_run_when_they_go_on() {
    let world = telling();
    let running = world.begin(&["secret/a"]).await;
    world.hooks.stand_still();
    world.change("secret/a").await;
    world.until("waits", |states| states[0].waiting).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(world.hooks.states()[0].runs, 0);
    world.hooks.go_on();
    world.until("run", |states| states[0].runs == 1 && !states[0].running).await;
    assert_eq!(world.read("paths"), "/mnt/all/a\n");
    world.end(running).await;
}

#[tokio::test]
async fn a_program_that_runs_goes_on_and_the_next_run_follows_it() {
    let script = "mkdir $1/lock || echo overlap >> $1/bad; echo \"$SECRETFS_PATHS\" >> $1/paths; \
                  while [ ! -e $1/go ]; do sleep 0.01; done; rmdir $1/lock";
    let mut world = world(|folder| vec![shell(&["/all/**"], script, folder)]);
    let running = world.begin(&["secret/a", "secret/b"]).await;
    world.change("secret/a").await;
    world.until("begins", |_| !world.read("paths").is_empty()).await;
    world.change("secret/b").await;
    world.until("waits", |states| states[0].waiting).await;
    let carried = world.hooks.stand_still();
    assert!(carried.waiting[0].ran.is_some());
    // As if killed: nobody tells the hands to end anything.
    running.abort();
    let next = Next::after(&world, shell(&["/all/**"], script, world.folder.path()));
    next.hooks.import(carried);
    std::fs::write(world.folder.path().join("go"), "").unwrap();
    next.run_until(&mut world, 1).await;
    assert_eq!(world.read("paths"), "/mnt/all/a\n/mnt/all/b\n");
    assert_eq!(world.read("bad"), "");
}

#[tokio::test]
async fn what_is_carried_of_a_hook_that_is_not_there_or_is_not_about_it_is_left() {
    let world = telling();
    let wait = |hook, paths: &[&str]| CarriedWait {
        hook,
        waits: Some(Duration::MAX),
        ran: Some(Duration::MAX),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        truncated: true,
    };
    world.hooks.import(CarriedHooks { seen: vec![], waiting: vec![wait(7, &["all/a"])] });
    assert!(!world.hooks.states()[0].waiting);
    world.hooks.import(CarriedHooks { seen: vec![], waiting: vec![wait(0, &["team/x", "all/a"])] });
    let carried = world.hooks.stand_still();
    assert_eq!(
        (&carried.waiting[0].paths[..], carried.waiting[0].truncated),
        (&["all/a".to_owned()][..], true)
    );
}
