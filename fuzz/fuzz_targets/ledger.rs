//! Owns the fuzzing of the ledger that a crashed worker has left: it is refused, or what it says can be lived with.
//! Does not know which bytes are likely.
//!
//! The first byte of an input says what the rest is: 0, a file; else the contents of frames, to which lengths and checksums are
//! added.
#![no_main]

use libfuzzer_sys::fuzz_target;
use secretfs::leases::read_ledger;
use secretfs_fuzz::{World, framed, pieces, record_of, runtime};

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let bytes = if *how == 0 { rest.to_vec() } else { pieces(rest).flat_map(framed).collect() };
    let files = record_of(&bytes);
    let again = files.each_ref().map(|file| file.try_clone().expect("a descriptor"));
    let world = World::default();
    let worker = world.worker();
    let orphans = worker.leases.keep_ledger(read_ledger(files));
    runtime().block_on(worker.live(&world));
    // What was taken over is written so that the next one can read it.
    let next = world.worker();
    let left = next.leases.keep_ledger(read_ledger(again));
    assert!(left.of_nobody <= orphans.of_nobody);
});
