//! Owns the fuzzing of the ledger that a crashed worker has left: it is refused, or what it says can be lived with.
//! Does not know which bytes are likely.
//!
//! The first byte of an input says what the rest is: 0, a file; else the contents of frames, to which lengths and checksums are
//! added.
#![no_main]

use std::hash::Hasher;
use std::os::fd::OwnedFd;

use libfuzzer_sys::fuzz_target;
use secretfs::leases::read_ledger;
use secretfs_fuzz::{World, pieces, runtime};
use siphasher::sip::SipHasher13;

fn framed(body: &[u8]) -> Vec<u8> {
    let mut hasher = SipHasher13::new();
    hasher.write(body);
    let sum = hasher.finish();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let words = [length, !length, (sum ^ (sum >> 32)) as u32];
    words.iter().flat_map(|word| word.to_le_bytes()).chain(body.iter().copied()).collect()
}

fn files(bytes: &[u8]) -> [OwnedFd; 2] {
    let files = secretfs::record::make("fuzzed").expect("a memory file");
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&files[0], rest).expect("memory");
        rest = &rest[written..];
    }
    files
}

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let bytes = if *how == 0 { rest.to_vec() } else { pieces(rest).flat_map(framed).collect() };
    let files = files(&bytes);
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
