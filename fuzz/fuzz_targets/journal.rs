//! Owns the fuzzing of what a crashed worker has left about inodes: it is refused, or whatever the kernel asks next has an answer.
//! Does not know which bytes are likely.
//!
//! The first byte of an input says what the rest is: 0, a file; 1, the contents of frames, to which lengths and checksums are
//! added; else the contents of those after the first, which is a good one.
#![no_main]

use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom};
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use secretfs::fs::{Caller, HandleNo, SecretFs};
use secretfs::tree::inode::INodeNo;
use secretfs::tree::journal::Journal;
use secretfs_fuzz::{OURS, World, framed, pieces, record_of, runtime};

/// Handles that may be of a former worker: 24 bits of what was opened, 12 of which worker, 28 that tell it from others.
const HANDLES: [u64; 4] = [(1 << 40) | (1 << 28) | 1, (2 << 40) | (1 << 28) | 2, (1 << 28) | 3, u64::MAX];

/// All that need not wait is answered by then.
const PATIENCE: Duration = Duration::from_millis(5);

/// The frame with which every journal of ours begins.
static HEAD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let files = record_of(&[]);
    let mut file = std::fs::File::from(files[0].try_clone().expect("a descriptor"));
    let _ = Journal::open(files, OURS);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0)).expect("a memory file");
    file.read_to_end(&mut bytes).expect("a memory file");
    let length = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
    bytes.truncate(12 + length);
    bytes
});

/// Everything that the kernel may ask about an inode of which it was told.
async fn ask(fs: &SecretFs, ino: INodeNo) {
    let _ = fs.attributes(ino, None).await;
    let _ = fs.open(ino, Caller(1)).await;
    let _ = fs.list(ino).await;
    for name in ["a", "value", ".json", ".versions", "role"] {
        let _ = fs.lookup(ino, OsStr::new(name)).await;
    }
    for number in HANDLES.map(HandleNo) {
        if fs.is_inherited(number) {
            if let Ok(handle) = fs.inherit(ino, number).await {
                assert_eq!(handle.ino(), ino);
            }
            let _ = fs.attributes(ino, Some(number)).await;
        }
        fs.release(number);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let bytes = match how {
        0 => rest.to_vec(),
        1 => pieces(rest).flat_map(framed).collect(),
        _ => HEAD.iter().copied().chain(pieces(rest).flat_map(framed)).collect(),
    };
    let files = record_of(&bytes);
    let again = files.each_ref().map(|file| file.try_clone().expect("a descriptor"));
    let world = World::default();
    let (journal, _) = Journal::open(files, OURS);
    let inherited: Vec<INodeNo> = journal.inherited().collect();
    let worker = world.worker_with(journal);
    runtime().block_on(async {
        for ino in inherited.iter().take(20) {
            // Whoever opens what is made on demand waits for somebody to make it, who is not here.
            let _ = tokio::time::timeout(PATIENCE, ask(&worker.fs, *ino)).await;
        }
        worker.live(&world).await;
    });
    for ino in inherited.iter().skip(20) {
        worker.fs.forget(*ino, u64::MAX);
    }
    drop(worker);
    // What was taken over is written so that the next one can read it.
    let (next, taken) = Journal::open(again, OURS);
    assert_eq!(taken, Ok(()));
    assert!(next.inherited().len() >= inherited.len().min(20));
});
