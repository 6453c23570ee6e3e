//! Owns twenty values that are nowhere else in the world, and the search for every piece of them in another process's memory.
//! Does not know who serves them.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, Read};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::support::mount::{HANG, signal};

/// Secrets, each with one small and one large value.
pub const SECRETS: usize = 10;
/// Bytes of the two.
const SIZES: [usize; 2] = [256, 40 << 10];
/// One is so large that no buffer is used for it and then for another.
const HUGE: usize = 300_000;
/// Their names.
pub const FIELDS: [&str; 2] = ["small", "large"];

/// A value is pieces of this size, all different: head, middle, tail and whatever is between are found each by itself.
const PIECE: usize = 32;
/// A byte that is rare in a process, then the word that is searched for in logs.
const WORD: &str = "Qcanary";
/// What all pieces of a set begin with: the word and eight digits that no other set has.
const MARK: usize = WORD.len() + 8;
/// The part of memory that is looked at in one go.
const WINDOW: usize = 1 << 20;

/// One version of all values.
pub struct Canaries {
    mark: String,
    filling: u64,
}

impl Canaries {
    /// A new set.
    pub fn new() -> Self {
        let mut random = [0; 12];
        File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        let (mark, filling) = random.split_first_chunk::<4>().unwrap();
        let mark = format!("{WORD}{:08x}", u32::from_ne_bytes(*mark));
        Self { mark, filling: u64::from_ne_bytes(filling.try_into().unwrap()) }
    }

    /// The value of a field (0: small, 1: large) of a secret: letters and digits, so that nothing ever quotes or escapes it.
    pub fn value(&self, secret: usize, field: usize) -> String {
        let size = if (secret, field) == (SECRETS - 1, 1) { HUGE } else { SIZES[field] };
        let pieces = (0..size / PIECE).map(|piece| self.piece(secret, field, piece));
        pieces.collect()
    }

    fn piece(&self, secret: usize, field: usize, piece: usize) -> String {
        let number = (secret * FIELDS.len() + field) * HUGE + piece;
        // An odd factor: no two are the same.
        let filling = self.filling.wrapping_mul(2 * number as u64 + 1) & 0xff_ffff_ffff;
        format!("{}{secret:02}{field}{piece:04}{filling:010x}", self.mark)
    }

    /// Every piece of this set in the memory of `pid`, which stands still meanwhile: what one thread copies while another part is
    /// looked at would be missed, or counted twice.
    pub fn search(&self, pid: u32) -> Found {
        self.search_if_alive(pid).expect("it runs")
    }

    /// The same of a process that may have ended.
    pub fn search_if_alive(&self, pid: u32) -> Option<Found> {
        let _still = Stopped::new(pid);
        let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
        let maps =
            std::fs::read_to_string(format!("/proc/{pid}/maps")).ok().filter(|maps| !maps.is_empty())?;
        let mut found = Found::default();
        let mut bytes = vec![0; WINDOW];
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let range = words.next().unwrap().split_once('-').unwrap();
            let name = words.nth(4).unwrap_or("anonymous");
            // What cannot be written to holds what is in its file; the last are no memory of the process.
            if !line.contains(" rw") || name.starts_with("[vv") {
                continue;
            }
            let [start, end] = [range.0, range.1].map(|digits| u64::from_str_radix(digits, 16).unwrap());
            // Windows overlap by a piece less one byte: each piece is whole in one of them, and begins in one only.
            let step = WINDOW - PIECE;
            for at in (start..end).step_by(step) {
                let room = WINDOW.min(usize::try_from(end - at).unwrap());
                read(&memory, &mut bytes[..room], at);
                self.search_in(&bytes[..room], step, |from, piece| found.add(name, at + from as u64, piece));
            }
        }
        Some(found)
    }

    /// Tells of every piece that begins before `end`: where, and which.
    fn search_in(&self, bytes: &[u8], end: usize, mut tell: impl FnMut(usize, &[u8])) {
        let mark = self.mark.as_bytes();
        let mut rest = bytes;
        // The standard library's search for a byte is quick in a test without optimisation too.
        while let Ok(skipped) = rest.skip_until(mark[0]) {
            let at = bytes.len() - rest.len();
            if skipped == 0 || at > end {
                break;
            }
            let piece = &bytes[at - 1..bytes.len().min(at - 1 + PIECE)];
            if piece.starts_with(mark) {
                tell(at - 1, piece);
            }
        }
    }
}

/// What a search has found.
#[derive(Default)]
pub struct Found {
    /// How often there is each piece.
    pieces: HashMap<Vec<u8>, usize>,
    /// Of the first ones: where, and what.
    places: Vec<String>,
}

impl Found {
    fn add(&mut self, name: &str, at: u64, piece: &[u8]) {
        *self.pieces.entry(piece.to_owned()).or_default() += 1;
        if self.places.len() < 8 {
            self.places.push(format!("{name} {at:#x}: {}", piece.escape_ascii()));
        }
    }

    /// Whether there is nothing of any value.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// How many copies there are of the value of which there are most: of its most frequent piece.
    pub fn copies(&self) -> usize {
        self.pieces.values().copied().max().unwrap_or(0)
    }

    /// Of how many of the twenty values there is something.
    pub fn values(&self) -> usize {
        let values = self.pieces.keys().filter_map(|piece| piece.get(MARK..MARK + 3));
        values.collect::<HashSet<_>>().len()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pieces, values) = (self.pieces.values().sum::<usize>(), self.values());
        writeln!(f, "{pieces} pieces of {values} values, of one {} times", self.copies())?;
        f.write_str(&self.places.join("\n"))
    }
}

/// A process that stands still until this is dropped.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Self {
        let start = Instant::now();
        loop {
            signal(pid, "STOP");
            let stopped = Self(pid);
            let begun = Instant::now();
            // A thread that is in the kernel stops a little later; one that waits for another of its threads, never.
            while begun.elapsed() < Duration::from_millis(200) {
                if stopped.is_done() {
                    return stopped;
                }
                std::thread::yield_now();
            }
            assert!(start.elapsed() < HANG, "process {pid} does not stop");
        }
    }

    fn is_done(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.0)).unwrap().flatten();
        let mut states =
            threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        states.all(|stat| stat.contains(") T ") || stat.contains(") Z "))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

/// A page that cannot be read (it was given back) holds nothing any more.
fn read(memory: &File, bytes: &mut [u8], at: u64) {
    bytes.fill(0);
    if memory.read_exact_at(bytes, at).is_err() {
        for (page, at) in bytes.chunks_mut(4096).zip((at..).step_by(4096)) {
            let _ = memory.read_exact_at(page, at);
        }
    }
}

#[test]
fn the_pieces_of_the_values_are_all_different_and_found_wherever_they_lie() {
    let canaries = Canaries::new();
    let mut seen = HashSet::new();
    for (secret, field) in (0..SECRETS).flat_map(|secret| [(secret, 0), (secret, 1)]) {
        let value = canaries.value(secret, field);
        assert!(value.len() == SIZES[field] || value.len() == HUGE);
        assert!(value.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        for piece in value.as_bytes().chunks(PIECE) {
            assert!(seen.insert(piece.to_owned()));
        }
    }
    let small = canaries.value(3, 0);
    let text = format!("Q{}Qcanary{}", small, &small[..MARK]);
    let mut found = Vec::new();
    canaries.search_in(text.as_bytes(), text.len(), |at, piece| found.push((at, piece.len())));
    assert_eq!(found.len(), 9);
    assert_eq!((found[0], found[7], found[8]), ((1, 32), (225, 32), (264, MARK)));
    assert!(seen.iter().all(|piece| !Canaries::new().value(3, 0).as_bytes().starts_with(piece)));
}
