//! Owns the fuzzing of what a worker takes in from the one before: it is refused as a whole, or can be lived with.
//! Does not know which bytes are likely.
//!
//! The first byte of an input says what the rest is: 0, a stream; else the contents of frames, to which everything is added that
//! makes a whole stream of them.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use secretfs::handover::{pause, receive};
use secretfs_fuzz::{CANARY, OURS, Worker, World, pieces, runtime};

/// What every stream begins with, and the frame at its end but for the number in it.
struct Form {
    head: Vec<u8>,
    end: u8,
}

static FORM: LazyLock<Form> = LazyLock::new(|| {
    let worker = World::default().worker();
    let bytes = runtime().block_on(async {
        let mut bytes = Vec::new();
        let patience = std::time::Duration::from_secs(1);
        let mut paused =
            pause(&worker.cache, &worker.leases, &worker.fs, patience).await.expect("nothing is on its way");
        paused.send(&mut bytes, &OURS).expect("there is room");
        bytes
    });
    let (head, end) = bytes.split_at(bytes.len() - 6);
    assert!(end[..4] == 2_u32.to_le_bytes() && end[5] == 0, "an empty state is a head and an end");
    Form { head: head.to_vec(), end: end[4] }
});

fn whole(input: &[u8]) -> Vec<u8> {
    let mut bytes = FORM.head.clone();
    let mut add = |frame: &[u8]| {
        bytes.extend(u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(frame);
    };
    let mut count = 0_u64;
    for piece in pieces(input) {
        add(piece);
        count += 1;
    }
    let mut end = vec![FORM.end];
    while count >= 0x80 {
        end.push((count & 0x7f) as u8 | 0x80);
        count >>= 7;
    }
    end.push(count as u8);
    add(&end);
    bytes
}

thread_local! {
    /// One that takes nothing in.
    static COLD: (World, Worker, tokio::runtime::Runtime) = {
        let world = World::default();
        let worker = world.worker();
        (world, worker, runtime())
    };
}

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let stream = if *how == 0 { rest.to_vec() } else { whole(rest) };
    COLD.with(|(_, cold, runtime)| {
        let state = match receive(&mut stream.as_slice(), &OURS, &cold.cache, &cold.leases) {
            Ok(state) => state,
            Err(refused) => {
                assert!(!refused.to_string().contains(CANARY));
                return;
            }
        };
        let world = World::default();
        let worker = world.worker();
        let counts = state.counts();
        runtime.block_on(async {
            worker.fs.import(state.install(&worker.cache, &worker.leases).await);
            worker.live(&world).await;
        });
        assert!(counts.leases <= stream.len());
        assert!(cold.cache.held().is_empty() && cold.leases.revocable().is_empty());
    });
});
