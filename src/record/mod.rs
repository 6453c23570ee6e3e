//! Owns records that outlive a worker: entries appended to a pair of memory files that the holder keeps.
//! Does not know what the entries say.
//!
//! One file of the pair is valid, the other one is empty, being written, or, of an older program, old. A file begins with a
//! header and a snapshot, which a commit ends; a file without it does not count, and of two valid ones the later one does. Each append is one
//! write(2), so that a kill leaves a cut last frame at most, which reading drops. Names and ids belong in a record, values
//! never: the holder keeps it, and nothing erases it.

mod file;
mod frame;
mod refused;

use std::hash::{BuildHasher, RandomState};
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use file::{Content, File};
use frame::Kind;
pub use refused::Refused;

/// How much a file may grow beyond twice its snapshot before it is written anew.
const SLACK: usize = 1 << 20;
/// Bytes of one file at most: some million entries.
const LARGEST: usize = 512 << 20;
/// A snapshot is written in pieces of this size.
const PIECE: usize = 256 << 10;

/// What a record holds.
pub trait Entry: Serialize + DeserializeOwned {
    /// Tells one kind of record from another.
    const OF: [u8; 8];
    /// Changes whenever what is written does.
    const FORMAT: u32;
}

/// The first frame of a file. Its own shape never changes, so that every program can refuse what it cannot read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    magic: [u8; 8],
    of: [u8; 8],
    format: u32,
    fingerprint: [u8; 32],
    key: [u8; 16],
    /// Counts the snapshots: the higher one counts.
    generation: u64,
    /// Counts the workers that opened it.
    worker: u32,
}

const MAGIC: [u8; 8] = *b"secretfs";

/// Makes the two files of an empty record: the holder does, once.
///
/// # Errors
/// The kernel has no memory file to give.
pub fn make(name: &str) -> std::io::Result<[OwnedFd; 2]> {
    Ok([file::make(name)?, file::make(name)?])
}

/// A record that was read and is not written yet.
#[derive(Debug)]
pub struct Opening<T> {
    files: [File; 2],
    /// Into which file the snapshot goes.
    into: usize,
    header: Header,
    entries: Vec<T>,
    refused: Option<Refused>,
}

impl<T: Entry> Opening<T> {
    /// Reads what the last worker left. Where that is refused, nothing of it is kept and the record begins anew.
    pub fn read(files: [OwnedFd; 2], fingerprint: [u8; 32]) -> Self {
        let files = files.map(File::new);
        match valid(&files, fingerprint) {
            Ok(Some((at, Content { header, entries, .. }))) => {
                let generation = header.generation.saturating_add(1);
                let header = Header { generation, worker: header.worker.wrapping_add(1), ..header };
                Self { files, into: 1 - at, header, entries, refused: None }
            }
            Ok(None) => Self::anew(files, fingerprint, None),
            Err(refused) => Self::anew(files, fingerprint, Some(refused)),
        }
    }

    fn anew(files: [File; 2], fingerprint: [u8; 32], refused: Option<Refused>) -> Self {
        // A kill in between leaves two empty files, and these begin anew as well.
        files.iter().for_each(File::empty);
        let header = Header {
            magic: MAGIC,
            of: T::OF,
            format: T::FORMAT,
            fingerprint,
            key: random_key(),
            generation: 1,
            worker: 1,
        };
        Self { files, into: 0, header, entries: Vec::new(), refused }
    }

    /// Refuses what was read, because its entries make no sense to the owner.
    #[must_use]
    pub fn refuse(self, why: &'static str) -> Self {
        Self::anew(self.files, self.header.fingerprint, Some(Refused::Entry(why)))
    }

    /// Why nothing was taken over; `None` where something was or nothing was there.
    pub fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }

    /// The entries in the order in which they were appended, once.
    pub fn take_entries(&mut self) -> Vec<T> {
        std::mem::take(&mut self.entries)
    }

    /// A random key that stays the same as long as the record is taken over.
    pub fn key(&self) -> [u8; 16] {
        self.header.key
    }

    /// The how-manieth worker this is since the record began: 1 is the first.
    pub fn worker(&self) -> u32 {
        self.header.worker
    }

    /// Writes all that is still true into the other file and goes on there.
    pub fn begin(self, snapshot: impl IntoIterator<Item = T>) -> Record<T> {
        let active = 1 - self.into;
        let state = State {
            files: self.files,
            active,
            header: self.header,
            length: 0,
            compact_at: 0,
            is_broken: false,
            buffer: Vec::new(),
        };
        let record = Record { state: Mutex::new(state), entries: PhantomData };
        let mut state = record.lock();
        if let Err(error) = state.switch(snapshot) {
            // What the old file ends with may be cut, so nothing can be appended to it.
            state.give_up(error.kind());
        }
        drop(state);
        record
    }
}

/// A record that is being written. Whoever owns it appends, in the order in which things are true, and hands over a snapshot
/// when it [has grown](Record::has_grown), under one lock of its own: what is appended in between would be lost.
#[derive(Debug)]
pub struct Record<T> {
    /// Guards the files; held for one write(2), and for the writing of a snapshot.
    state: Mutex<State>,
    entries: PhantomData<fn(T) -> T>,
}

#[derive(Debug)]
struct State {
    files: [File; 2],
    active: usize,
    /// Of the active file.
    header: Header,
    length: usize,
    /// At which length a new snapshot is due.
    compact_at: usize,
    is_broken: bool,
    buffer: Vec<u8>,
}

impl<T: Entry> Record<T> {
    /// Appends one entry, in one write. Says whether the next worker will know it; a record that cannot be written is given
    /// up, which is logged once and fails nothing.
    pub fn append(&self, entry: &T) -> bool {
        let mut state = self.lock();
        if state.is_broken {
            return false;
        }
        let mut buffer = std::mem::take(&mut state.buffer);
        buffer.clear();
        if !frame::put(&mut buffer, Kind::Entry, entry) {
            tracing::debug!("an entry is too long to be recorded");
            return false;
        }
        let length = buffer.len();
        let written = match state.files.get(state.active) {
            Some(file) if state.length.saturating_add(length) <= LARGEST => file.append(&buffer),
            _ => Err(std::io::ErrorKind::StorageFull.into()),
        };
        state.buffer = buffer;
        match written {
            Ok(()) => state.length += length,
            Err(error) => state.give_up(error.kind()),
        }
        !state.is_broken
    }

    /// Whether a new snapshot is due.
    pub fn has_grown(&self) -> bool {
        let state = self.lock();
        !state.is_broken && state.length >= state.compact_at
    }

    /// Writes a snapshot into the other file and goes on there. Until it is complete the old file counts; where it cannot be
    /// written, the old one goes on.
    pub fn compact(&self, snapshot: impl IntoIterator<Item = T>) {
        let mut state = self.lock();
        if state.is_broken {
            return;
        }
        state.header.generation = state.header.generation.saturating_add(1);
        if let Err(error) = state.switch(snapshot) {
            tracing::warn!(error = %error.kind(), "the record of a mount cannot be compacted yet");
            // What was written of it is of no use, and memory is what was lacking.
            if let Some(part) = state.files.get(1 - state.active) {
                part.empty();
            }
            state.compact_at = state.length.saturating_mul(2);
        }
    }

    /// Whether it could not be written, so that the next worker takes nothing over.
    pub fn is_broken(&self) -> bool {
        self.lock().is_broken
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    /// Writes header, snapshot and commit into the file that is not active, and makes that one active.
    fn switch<T: Entry>(&mut self, snapshot: impl IntoIterator<Item = T>) -> std::io::Result<()> {
        let into = 1 - self.active;
        let Some(file) = self.files.get(into) else { return Ok(()) };
        file.empty();
        // Not all of a piece at once: most snapshots are short, and all of it would be erased.
        let (mut bytes, mut length) = (Vec::new(), 0);
        frame::put(&mut bytes, Kind::Header, &self.header);
        let mut flush = |bytes: &mut Vec<u8>| -> std::io::Result<()> {
            length += bytes.len();
            if length > LARGEST {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            file.append(bytes)?;
            bytes.clear();
            Ok(())
        };
        for entry in snapshot {
            let before = bytes.len();
            if !frame::put(&mut bytes, Kind::Entry, &entry) && bytes.len() != before {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            if bytes.len() >= PIECE {
                flush(&mut bytes)?;
            }
        }
        // A write of its own: the file counts from the moment in which this one is whole.
        flush(&mut bytes)?;
        frame::put(&mut bytes, Kind::Commit, &());
        flush(&mut bytes)?;
        // It counts no more: its memory is given back, and the next worker has less to read.
        if let Some(old) = self.files.get(self.active) {
            old.empty();
        }
        self.active = into;
        self.length = length;
        self.compact_at = length.saturating_mul(2).saturating_add(SLACK);
        Ok(())
    }

    /// The next worker must not believe what is there: the file that counts is emptied, which needs no memory.
    fn give_up(&mut self, why: std::io::ErrorKind) {
        tracing::error!(error = %why, "the record of a mount cannot be written: after a crash of this worker the next one starts cold");
        self.is_broken = true;
        self.files.iter().for_each(File::spoil);
    }
}

/// The valid file that counts; none where nothing was ever written.
fn valid<T: Entry>(files: &[File; 2], fingerprint: [u8; 32]) -> Result<Option<(usize, Content<T>)>, Refused> {
    let [first, second] = files;
    let (first, second) = (first.read(fingerprint)?, second.read(fingerprint)?);
    let is_new = first.is_empty && second.is_empty;
    let valid = [first, second].into_iter().enumerate().filter(|(_, file)| file.content.is_some());
    let counts = valid.filter_map(|(at, file)| Some((at, file.content?)));
    match counts.max_by_key(|(_, content)| content.header.generation) {
        None if is_new => Ok(None),
        None => Err(Refused::Incomplete),
        found => Ok(found),
    }
}

/// Two numbers of the standard library's random keys, which the kernel gave.
fn random_key() -> [u8; 16] {
    let mut key = [0; 16];
    for half in key.chunks_exact_mut(8) {
        half.copy_from_slice(&RandomState::new().hash_one(()).to_le_bytes());
    }
    key
}

#[cfg(test)]
mod tests;
