//! Owns the proof that the next worker answers as the one before would have: at the same moments fresh, stale, over, refreshed.
//! Does not know refusals.

use proptest::prelude::*;

use super::*;
use crate::backend::Error;
use crate::clock::Moment;
use crate::secret::Version;

const PATHS: [&str; 4] = ["a", "b", "folder/c", "folder/d"];

#[derive(Debug, Clone)]
enum Op {
    Put(usize),
    Delete(usize),
    Read(usize),
    List,
    Pass(u64),
    Watch(usize),
    Work,
    Count(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let path = 0..PATHS.len();
    prop_oneof![
        3 => path.clone().prop_map(Op::Put),
        1 => path.clone().prop_map(Op::Delete),
        6 => path.clone().prop_map(Op::Read),
        1 => Just(Op::List),
        4 => (1..90_u64).prop_map(Op::Pass),
        1 => path.prop_map(Op::Watch),
        2 => Just(Op::Work),
        1 => any::<bool>().prop_map(Op::Count),
    ]
}

/// What is due at a moment: when to look again, and of how many jobs. Both workers are at the same moment.
fn due(worker: &Worker, now: Moment) -> (Option<Moment>, Vec<String>) {
    let next = worker.cache.sweep(now);
    let mut jobs: Vec<String> =
        worker.cache.take_jobs().iter().map(|job| format!("{:?} {:?}", job.source(), job.folder())).collect();
    jobs.sort();
    (next, jobs)
}

/// What is held, as `status` and the kernel are told of it.
fn held(worker: &Worker) -> Vec<String> {
    let mut all: Vec<String> = worker.cache.held().iter().map(|held| format!("{held:?}")).collect();
    for path in PATHS {
        let snapshot = worker.cache.peek(&kept(path)).and_then(Result::ok);
        all.extend(snapshot.map(|it| format!("{:?} {:?} {:?}", it.fresh_until, it.served_until, it.secret)));
    }
    all.sort();
    all
}

fn value(read: &Result<Arc<crate::cache::Snapshot>, Error>) -> Result<(Vec<u8>, Version), Error> {
    let snapshot = read.as_ref().map_err(Clone::clone)?;
    let field = snapshot.secret.field("value").unwrap();
    Ok((field.value.expose().to_vec(), snapshot.secret.version.clone()))
}

async fn live(worker: &Worker, world: &World, op: &Op, number: usize) {
    match op {
        Op::Put(at) => world.kept.put(PATHS[*at], &[("value", format!("canary-{number}").as_bytes())]),
        Op::Delete(at) => world.kept.delete(PATHS[*at]),
        Op::Read(at) => drop(worker.cache.secret(&kept(PATHS[*at])).await),
        Op::List => drop(worker.cache.listing(&kept("folder")).await),
        Op::Pass(seconds) => world.clock.advance(Duration::from_secs(*seconds)),
        Op::Watch(at) => worker.cache.want(&kept(PATHS[*at])),
        Op::Work => {
            worker.cache.sweep(world.clock.now());
            for job in worker.cache.take_jobs() {
                worker.cache.refresh_ahead(&job).await;
            }
        }
        Op::Count(counts) => world.kept.count_generations(*counts),
    }
}

async fn compare(ops: &[Op], later: &[(u64, usize)]) {
    let world = World::new();
    let old = world.worker();
    for (number, op) in ops.iter().enumerate() {
        live(&old, &world, op, number).await;
    }
    // Wishes and jobs on their way are not carried: who had them has them again.
    old.cache.sweep(world.clock.now());
    for job in old.cache.take_jobs() {
        old.cache.refresh_ahead(&job).await;
    }
    old.cache.drop_emptied().await;
    let asked = world.asked();
    let new = world.worker();
    new.take_over(&old.export().await).await;
    assert_eq!(world.asked(), asked, "a handover asks nobody");
    let counted = ops.iter().any(|op| matches!(op, Op::Count(_)));
    let mut read = [false; PATHS.len()];
    for (seconds, at) in later {
        world.clock.advance(Duration::from_secs(*seconds));
        // What is as good as asked for now, because nothing was counted since, has its own times in each.
        if !counted {
            assert_eq!(held(&old), held(&new));
        }
        let now = world.clock.now();
        if !counted && read == [false; PATHS.len()] {
            let (by_old, by_new) = (due(&old, now), due(&new, now));
            assert_eq!(by_old.1, by_new.1);
            // The one before may look for what was replaced long ago.
            let never = Moment::END;
            assert!(by_old.0.unwrap_or(never) <= by_new.0.unwrap_or(never), "{by_old:?} {by_new:?}");
        }
        // What is asked for anew has a time of its own from then on.
        if !std::mem::replace(&mut read[*at], true) {
            let of = kept(PATHS[*at]);
            let before = world.asked().0;
            let by_old = value(&old.cache.secret(&of).await);
            let between = world.asked().0;
            let by_new = value(&new.cache.secret(&of).await);
            // "No such secret" is believed for a second by who has heard it.
            if by_old.is_ok() {
                assert_eq!(by_old, by_new);
                assert_eq!(between - before, world.asked().0 - between, "both ask, or neither");
            }
        }
        if world.asked() != asked {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_next_worker_answers_as_the_one_before_would_have(
        ops in prop::collection::vec(op(), 1..25),
        later in prop::collection::vec((0..100_u64, 0..PATHS.len()), 1..8),
    ) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
            .block_on(compare(&ops, &later));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_served_stale_without_asking_still_is() {
    let world = World::new();
    let old = warm(&world).await;
    world.kept.fail_with(Some(Error::Status(500)));
    world.clock.advance(Duration::from_secs(61));
    old.cache.secret(&kept("a")).await.unwrap();
    let new = world.worker();
    new.take_over(&old.export().await).await;
    let asked = world.asked();
    let stale = new.cache.secret(&kept("a")).await.unwrap();
    assert!(new.cache.is_stale(&stale));
    assert_eq!(world.asked(), asked);
    world.clock.advance(Duration::from_secs(120));
    assert!(new.cache.secret(&kept("a")).await.is_err(), "over for both");
}

#[tokio::test]
async fn who_watches_is_told_of_what_changed_after_the_handover_too() {
    let world = World::new();
    let old = warm(&world).await;
    let new = world.worker();
    new.take_over(&old.export().await).await;
    let mut news = new.cache.subscribe();
    // Not held any more when it changes.
    new.cache.flush();
    world.kept.put("a", &[("value", b"canary-later")]);
    new.cache.want(&kept("a"));
    for job in new.cache.take_jobs() {
        new.cache.refresh_ahead(&job).await;
    }
    assert_eq!(news.try_recv().unwrap().version, Some(Version::new("2")));
}

#[tokio::test]
async fn what_hooks_know_comes_as_it_was() {
    let world = World::new();
    let (old, new) = (warm(&world).await, world.worker());
    let mut state = new.receive(&old.export().await).unwrap();
    assert_eq!(state.take_hooks(), of_hooks());
    assert_eq!(state.take_hooks(), CarriedHooks::default(), "once");
}

/// What `status` tells, but for what is counted from the time of day when it is asked.
fn told(leases: &Leases) -> Vec<String> {
    let each = leases.states().into_iter().map(|state| {
        assert!(state.ends.is_some());
        format!("{:?}", crate::leases::LeaseState { ends: None, ..state })
    });
    each.collect()
}

#[tokio::test]
async fn leases_go_on_and_are_all_given_back_by_the_next_worker() {
    let world = World::new();
    let old = warm(&world).await;
    let new = world.worker();
    new.take_over(&old.export().await).await;
    let asked = world.asked();
    assert_eq!(told(&new.leases), told(&old.leases));
    new.open(&made("role")).await;
    assert!(new.leases.previous(&made("role")).is_some() && new.leases.counts()[0].set_aside == 1);
    assert_eq!(new.leases.is_known_on_demand(&made("role")), Some(true));
    assert_eq!(world.asked(), asked, "nothing is made");
    world.clock.advance(Duration::from_secs(45));
    new.act().await;
    assert_eq!(world.mint.made()[2].renewals, 1);
    assert_eq!(new.leases.revoke_all(PATIENCE).await, []);
    assert!(!(0..3).any(|serial| world.mint.is_good(serial)));
}
