//! Owns random lives of a mount: what users, backends and time do, in any order, and the promises held to all along.
//! Does not know a kernel: the filesystem is driven as the adapter drives it, on a backend in memory and a clock moved by hand.

mod names;
mod opens;
mod pairs;
mod reference;
mod run;

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

use pairs::Pair;
use run::Run;

/// One thing that happens. Numbers choose among what there is at that moment.
#[derive(Debug, Clone)]
enum Op {
    /// A new version of a secret. Bit `i` of `fields` says whether it has the field `FIELDS[i]`.
    Put {
        path: usize,
        fields: usize,
        size: usize,
    },
    Delete {
        path: usize,
    },
    Lookup {
        node: usize,
        name: usize,
    },
    /// From the root, as open(2) of a long path does it.
    Walk {
        names: Vec<usize>,
    },
    Open {
        node: usize,
    },
    Read {
        handle: usize,
        offset: u64,
        size: usize,
    },
    Release {
        handle: usize,
    },
    /// A listing; `plus` counts a lookup of each entry, as READDIRPLUS does.
    List {
        node: usize,
        plus: bool,
    },
    Attributes {
        node: usize,
    },
    AttributesOfHandle {
        handle: usize,
    },
    Forget {
        node: usize,
        lookups: u64,
    },
    Fail {
        error: usize,
    },
    Heal,
    ForbidListing(bool),
    Advance {
        millis: u64,
    },
    Sweep,
    /// What the refresh loop does when something is due.
    Refresh,
    Flush,
    Race(Race),
    /// A thread opens a file.
    OpenBy {
        node: usize,
        thread: usize,
    },
    Pair(Pair),
    /// A thread opens a directory, and one that is open is closed.
    Hold {
        node: usize,
        thread: usize,
    },
    LetGo {
        which: usize,
    },
    OlderVersion {
        path: usize,
        number: u64,
        file: usize,
    },
    /// An open, a change at once, and an open shortly before the TTL ends and at its end.
    Age {
        node: usize,
        fields: usize,
        size: usize,
    },
}

/// Two opens of one file while the backend is slow; meanwhile time passes and the secret changes.
#[derive(Debug, Clone)]
struct Race {
    node: usize,
    /// Milliseconds that pass before the backend looks, and between its look and its answer.
    before: u64,
    after: u64,
    /// As in a put; without a field the secret goes.
    fields: usize,
    size: usize,
    /// Whether a third open follows, a TTL after the backend looked.
    later: bool,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 60..90_usize, Just(reference::MAX_SIZE), Just(reference::MAX_SIZE + 1)]
}

fn millis() -> impl Strategy<Value = u64> {
    prop_oneof![Just(1), Just(400), Just(999), Just(1000), 1001..59_000_u64, Just(59_999), Just(60_000)]
}

fn pair() -> impl Strategy<Value = Pair> {
    let some = || 0..64_usize;
    let wait = prop_oneof![1..1999_u64, Just(1999), Just(2000), 2001..70_000_u64];
    let is = any::<bool>;
    (some(), some(), (some(), some()), 0..4_usize, size(), wait, is(), is()).prop_map(
        |(path, thread, files, fields, size, wait, known, hold)| Pair {
            path,
            thread,
            files,
            fields,
            size,
            wait,
            known,
            hold,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let some = || 0..64_usize;
    prop_oneof![
        8 => (some(), 1..4_usize, size()).prop_map(|(path, fields, size)| Op::Put { path, fields, size }),
        3 => some().prop_map(|path| Op::Delete { path }),
        8 => (some(), some()).prop_map(|(node, name)| Op::Lookup { node, name }),
        8 => prop::collection::vec(some(), 1..4).prop_map(|names| Op::Walk { names }),
        12 => some().prop_map(|node| Op::Open { node }),
        8 => (some(), 0..500_u64, 0..500_usize)
            .prop_map(|(handle, offset, size)| Op::Read { handle, offset, size }),
        4 => some().prop_map(|handle| Op::Release { handle }),
        8 => (some(), any::<bool>()).prop_map(|(node, plus)| Op::List { node, plus }),
        6 => some().prop_map(|node| Op::Attributes { node }),
        4 => some().prop_map(|handle| Op::AttributesOfHandle { handle }),
        3 => (some(), 1..3_u64).prop_map(|(node, lookups)| Op::Forget { node, lookups }),
        4 => some().prop_map(|error| Op::Fail { error }),
        3 => Just(Op::Heal),
        2 => any::<bool>().prop_map(Op::ForbidListing),
        10 => millis().prop_map(|millis| Op::Advance { millis }),
        3 => Just(Op::Sweep),
        4 => Just(Op::Refresh),
        1 => Just(Op::Flush),
        2 => (some(), 0..4_usize, size()).prop_map(|(node, fields, size)| Op::Age { node, fields, size }),
        6 => (some(), some()).prop_map(|(node, thread)| Op::OpenBy { node, thread }),
        6 => pair().prop_map(Op::Pair),
        2 => (some(), some()).prop_map(|(node, thread)| Op::Hold { node, thread }),
        2 => some().prop_map(|which| Op::LetGo { which }),
        3 => (some(), 0..5_u64, some())
            .prop_map(|(path, number, file)| Op::OlderVersion { path, number, file }),
        4 => (some(), 0..30_000_u64, 0..30_000_u64, 0..4_usize, size(), any::<bool>()).prop_map(
            |(node, before, after, fields, size, later)| {
                Op::Race(Race { node, before, after, fields, size, later })
            }
        ),
    ]
}

/// As [`live_with`], without stale answers.
fn live(ops: &[Op]) -> Result<(), String> {
    live_with(Duration::ZERO, PLENTY, ops)
}

/// Room for everything that a life has, in bytes; and for hardly anything, so that most of it is evicted at once.
const PLENTY: u64 = 64 << 20;
const LITTLE: u64 = 1500;

/// Lives through `ops`, then lets go of everything; the first broken promise ends it.
fn live_with(max_stale: Duration, room: u64, ops: &[Op]) -> Result<(), String> {
    // Paused: a slow backend costs no time.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new(max_stale, room);
        for (at, op) in ops.iter().enumerate() {
            // In paused time: what waits for nothing is found at once.
            let applied = tokio::time::timeout(Duration::from_secs(3600), run.apply(op)).await;
            applied
                .unwrap_or(Err("it never ends".into()))
                .map_err(|broken| format!("op {at}, {op:?}: {broken}"))?;
            run.check_counts().map_err(|broken| format!("after op {at}, {op:?}: {broken}"))?;
        }
        run.let_go().map_err(|broken| format!("after everything was closed: {broken}"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        // SECRETFS_MODEL_CASES=100000 for a long run.
        cases: std::env::var("SECRETFS_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(600),
        max_shrink_time: 20_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/model.txt"))),
        ..ProptestConfig::default()
    })]
    #[test]
    fn every_life_of_a_mount_keeps_its_promises(
        max_stale in prop_oneof![Just(0_u64), Just(30), Just(3600)],
        room in prop_oneof![3 => Just(PLENTY), 1 => Just(LITTLE)],
        ops in prop::collection::vec(op(), 1..80),
    ) {
        if let Err(broken) = live_with(Duration::from_secs(max_stale), room, &ops) {
            prop_assert!(false, "{}", broken);
        }
    }
}

// What the model has found, each broken promise by its name.

#[test]
fn a_secret_that_is_made_beside_a_folder_is_found_though_the_listing_above_is_older() {
    let ops = [
        Op::Put { path: 5, fields: 1, size: 0 },
        Op::Walk { names: vec![0] },
        Op::Put { path: 0, fields: 1, size: 0 },
        Op::Advance { millis: 1000 },
        Op::Walk { names: vec![0, 0] },
    ];
    assert_eq!(live(&ops), Ok(()));
}

#[test]
fn a_folder_that_became_a_secret_is_listed_though_the_listing_above_is_older() {
    let ops = [
        Op::Put { path: 5, fields: 1, size: 0 },
        Op::List { node: 0, plus: true },
        Op::List { node: 1, plus: true },
        Op::Delete { path: 5 },
        Op::Put { path: 3, fields: 1, size: 0 },
        Op::Advance { millis: 1000 },
        Op::List { node: 2, plus: false },
    ];
    assert_eq!(live(&ops), Ok(()));
}

#[test]
fn the_fields_of_a_secret_are_listed_though_listing_was_forbidden_since() {
    let ops = [
        Op::Put { path: 4, fields: 1, size: 0 },
        Op::List { node: 0, plus: true },
        Op::Put { path: 1, fields: 1, size: 0 },
        Op::Advance { millis: 1000 },
        Op::ForbidListing(true),
        Op::List { node: 1, plus: false },
    ];
    assert_eq!(live(&ops), Ok(()));
}

#[test]
fn a_value_that_was_long_on_its_way_is_not_served_beyond_its_ttl() {
    let ops = [
        Op::Put { path: 0, fields: 3, size: 70 },
        Op::Walk { names: vec![0, 2] },
        Op::Advance { millis: 60_000 },
        Op::Race(Race { node: 0, before: 0, after: 30_000, fields: 3, size: 80, later: true }),
    ];
    assert_eq!(live(&ops), Ok(()));
}

#[test]
fn an_outage_never_shortens_a_listing() {
    let ops = [
        Op::Put { path: 0, fields: 2, size: 70 },
        Op::Put { path: 2, fields: 2, size: 70 },
        Op::Walk { names: vec![0] },
        Op::Advance { millis: 60_000 },
        Op::Walk { names: vec![0, 0] },
        Op::Fail { error: 4 },
        Op::List { node: 1, plus: false },
    ];
    assert_eq!(live(&ops), Ok(()));
}

#[test]
fn what_an_fstat_showed_is_known_to_the_kernel_though_another_open_failed_meanwhile() {
    let ops = [
        Op::Put { path: 0, fields: 3, size: 60 },
        Op::Walk { names: vec![0, 0] },
        Op::Put { path: 0, fields: 3, size: 0 },
        Op::Advance { millis: 60_000 },
        Op::Walk { names: vec![0, 2] },
        Op::Advance { millis: 59_000 },
        Op::Race(Race { node: 0, before: 0, after: 1000, fields: 0, size: 0, later: false }),
        Op::Put { path: 0, fields: 3, size: 0 },
        Op::Put { path: 0, fields: 3, size: 0 },
        Op::Advance { millis: 2000 },
        Op::Open { node: 0 },
    ];
    assert_eq!(live(&ops), Ok(()));
}
