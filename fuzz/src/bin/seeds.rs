//! Owns the seeds of the fuzz targets: what real workers hand over and write down, in the form that each target takes.
//! Does not know the fuzzer. `seeds FOLDER` makes `FOLDER/handover`, `FOLDER/ledger` and
//! `FOLDER/journal`.

// What counts edges is linked in with the fuzzer.
use libfuzzer_sys as _;

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use secretfs::handover::pause;
use secretfs::leases::read_ledger;
use secretfs::tree::journal::Journal;
use secretfs_fuzz::{OURS, Worker, World, in_pieces, runtime};

fn main() {
    let folder = std::env::args().nth(1).expect("a folder");
    let folder = Path::new(&folder);
    let world = World::default();
    let files = secretfs::record::make("seed").expect("a memory file");
    let read = files[0].try_clone().expect("a descriptor");
    let inodes = secretfs::record::make("seed").expect("a memory file");
    let of_inodes = inodes[0].try_clone().expect("a descriptor");
    let worker = world.worker_with(Journal::open(inodes, OURS).0);
    worker.leases.keep_ledger(read_ledger(files));
    runtime().block_on(worker.warm(&world));
    let empty = handed_over(&world.worker());
    let whole = handed_over(&worker);
    let head = empty.len() - 6;
    let frames = split(&whole[head..], |bytes| {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        Some(rest.split_at(u32::from_le_bytes(*length) as usize))
    });
    // Without the end.
    let frames = &frames[..frames.len() - 1];
    write(&folder.join("handover"), &[empty, whole.clone()], frames);
    for (name, file) in [("ledger", read), ("journal", of_inodes)] {
        let record = content(file);
        let frames = split(&record, |bytes| {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            Some(rest[8..].split_at(u32::from_le_bytes(*length) as usize))
        });
        write(&folder.join(name), std::slice::from_ref(&record), &frames);
    }
}

fn handed_over(worker: &Worker) -> Vec<u8> {
    runtime().block_on(async {
        let mut bytes = Vec::new();
        let patience = Duration::from_secs(1);
        let mut paused =
            pause(&worker.cache, &worker.leases, &worker.fs, patience).await.expect("nothing is on its way");
        paused.send(&mut bytes, &OURS).expect("there is room");
        bytes
    })
}

fn content(file: std::os::fd::OwnedFd) -> Vec<u8> {
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).expect("a memory file");
    let mut bytes = Vec::new();
    std::fs::File::from(file).read_to_end(&mut bytes).expect("a memory file");
    assert!(!bytes.is_empty());
    bytes
}

fn split<'a>(mut bytes: &'a [u8], next: impl Fn(&'a [u8]) -> Option<(&'a [u8], &'a [u8])>) -> Vec<&'a [u8]> {
    let mut frames = Vec::new();
    while let Some((frame, rest)) = next(bytes) {
        frames.push(frame);
        bytes = rest;
    }
    assert!(bytes.is_empty() && !frames.is_empty());
    frames
}

/// Whole ones as they are, and the frames together and each alone.
fn write(folder: &Path, whole: &[Vec<u8>], frames: &[&[u8]]) {
    std::fs::create_dir_all(folder).expect("a folder");
    let mut seeds: Vec<Vec<u8>> = whole.iter().map(|bytes| [&[0], bytes.as_slice()].concat()).collect();
    seeds.push([vec![1], in_pieces(frames.iter().copied())].concat());
    seeds.extend(frames.iter().map(|frame| [vec![1], in_pieces([*frame])].concat()));
    for (number, seed) in seeds.iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{number}")), seed).expect("a file");
    }
}
