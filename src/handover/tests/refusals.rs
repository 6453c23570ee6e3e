//! Owns what is refused: cut off, changed, of another version or configuration, about what is not there; never half of it is taken.
//! Does not know what a state is for.

use proptest::prelude::*;

use super::*;
use crate::handover::frames::{Frame, VERSION};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The state of a worker that holds something of everything, and another worker.
fn state() -> (Vec<u8>, Worker) {
    let world = World::new();
    let bytes = runtime().block_on(async { warm(&world).await.export().await });
    (bytes, world.worker())
}

fn refused(worker: &Worker, bytes: &[u8]) -> Refused {
    let refused = worker.receive(bytes).unwrap_err();
    assert!(worker.is_cold());
    assert!(!format!("{refused} {refused:?}").contains("canary"));
    refused
}

const HEAD: usize = 8 + 4 + 32;

/// A whole stream of these frames.
fn of_frames(frames: Vec<Frame>) -> Vec<u8> {
    let (bytes, _) = state();
    let mut bytes = bytes[..HEAD].to_vec();
    for frame in frames {
        let frame = postcard::to_stdvec(&frame).unwrap();
        bytes.extend(u32::try_from(frame.len()).unwrap().to_le_bytes());
        bytes.extend(frame);
    }
    bytes
}

#[test]
fn what_is_cut_off_anywhere_is_refused() {
    let (bytes, worker) = state();
    assert!(worker.receive(&bytes).is_ok());
    for length in 0..bytes.len() {
        assert_eq!(refused(&worker, &bytes[..length]), Refused::Truncated, "{length} of {}", bytes.len());
    }
}

#[test]
fn another_program_version_or_configuration_is_refused_by_name() {
    let (bytes, worker) = state();
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        refused(&worker, &bytes)
    };
    assert_eq!(with(0, b'S'), Refused::Foreign);
    assert_eq!(with(8, VERSION as u8 - 1), Refused::Older(VERSION - 1));
    assert_eq!(with(8, VERSION as u8 + 1), Refused::Newer(VERSION + 1));
    assert_eq!(with(12, 8), Refused::OtherConfiguration);
    let longer = [bytes.as_slice(), b"x"].concat();
    assert_eq!(refused(&worker, &longer), Refused::Trailing);
}

#[test]
fn frames_that_are_too_long_strange_or_missing_are_refused() {
    let (bytes, worker) = state();
    let mut long = bytes[..HEAD].to_vec();
    long.extend(u32::MAX.to_le_bytes());
    assert_eq!(refused(&worker, &long), Refused::TooLarge);
    assert_eq!(refused(&worker, &of_frames(vec![Frame::End(1)])), Refused::Incomplete);
    let mut strange = bytes[..HEAD].to_vec();
    strange.extend(1_u32.to_le_bytes());
    strange.push(200);
    assert_eq!(refused(&worker, &strange), Refused::Malformed);
    let empty = worker.receive(&of_frames(vec![Frame::End(0)])).unwrap();
    assert_eq!(empty.counts(), Counts::default());
}

#[test]
fn what_is_about_a_backend_or_a_way_of_asking_that_is_not_there_is_refused() {
    let (bytes, worker) = state();
    let state = worker.receive(&bytes).unwrap();
    let of = |source, demand| SecretRef {
        source: SourceId(source),
        demand: crate::cache::DemandId(demand),
        ..kept("a")
    };
    for of in [of(2, 0), of(u32::MAX, 0), of(0, 1)] {
        let watched = Frame::Watched((of.clone(), None));
        assert_eq!(refused(&worker, &of_frames(vec![watched, Frame::End(1)])), Refused::Unknown);
        let seen = Frame::Seen(CarriedSight { of, version: None, told: true });
        assert_eq!(refused(&worker, &of_frames(vec![seen, Frame::End(1)])), Refused::Unknown);
    }
    // The first backend makes nothing.
    let nature = Frame::Nature((of(0, 0), crate::backend::issuer::Nature::OnDemand));
    assert_eq!(refused(&worker, &of_frames(vec![nature, Frame::End(1)])), Refused::Unknown);
    let other = World::new();
    let kept = Source { name: "kept".into(), backend: other.kept.clone() };
    let cache = Arc::new(SecretCache::new(vec![kept], Limits::default(), other.clock.clone()));
    let one = Worker::over(cache);
    assert_eq!(refused(&one, &bytes), Refused::Unknown);
    drop(state);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes are changed, dropped, doubled: it is refused, or it is a state, and a state can be lived with.
    #[test]
    fn whatever_becomes_of_the_bytes_nothing_panics_and_no_half_of_it_is_taken(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..8),
        passed in 0..4_000_u64,
    ) {
        let world = World::new();
        runtime().block_on(async {
            let mut bytes = warm(&world).await.export().await;
            for (at, byte, how) in &changes {
                let at = HEAD + at.index(bytes.len() - HEAD);
                match how {
                    0 => bytes[at] = *byte,
                    1 => bytes[at] ^= 1 << (byte % 8),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, *byte),
                }
            }
            let worker = world.worker();
            match worker.receive(&bytes) {
                Err(refused) => {
                    assert!(worker.is_cold());
                    assert!(!refused.to_string().contains("canary"));
                }
                Ok(state) => {
                    let counts = state.counts();
                    worker.fs.import(state.install(&worker.cache, &worker.leases).await);
                    live_with(&worker, &world, passed).await;
                    assert!(counts.leases <= 2);
                }
            }
        });
    }
}

/// Looks at all that is held, as the loops of a mount would, now and later.
async fn live_with(worker: &Worker, world: &World, passed: u64) {
    for seconds in [0, passed] {
        world.clock.advance(Duration::from_secs(seconds));
        let now = world.clock.now();
        worker.cache.sweep(now);
        worker.cache.held();
        for job in worker.cache.take_jobs() {
            worker.cache.refresh_ahead(&job).await;
        }
        for path in ["a", "folder/b"] {
            let _ = worker.cache.secret(&kept(path)).await;
        }
        let _ = worker.cache.listing(&kept("folder")).await;
        worker.leases.states();
        worker.act().await;
        worker.leases.current(&made("role"));
    }
}
