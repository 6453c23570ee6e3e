//! Owns the tests of records: what is read back, what is refused, and every point at which a writer may be killed.
//! Does not know what any owner writes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::fd::AsFd;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    Said(String),
    Number(u64),
}

impl Entry for Word {
    const OF: [u8; 8] = *b"words   ";
    const FORMAT: u32 = 3;
}

/// The same entries under a newer format, and another kind of record.
#[derive(Debug, Serialize, Deserialize)]
struct Newer(Word);

impl Entry for Newer {
    const OF: [u8; 8] = Word::OF;
    const FORMAT: u32 = 4;
}

#[derive(Debug, Serialize, Deserialize)]
struct Other(Word);

impl Entry for Other {
    const OF: [u8; 8] = *b"others  ";
    const FORMAT: u32 = 3;
}

const PRINT: [u8; 32] = [7; 32];

fn again(files: &[OwnedFd; 2]) -> [OwnedFd; 2] {
    files.each_ref().map(|file| file.try_clone().unwrap())
}

fn word(number: u64) -> Word {
    if number.is_multiple_of(3) { Word::Said(format!("canary-{number}")) } else { Word::Number(number) }
}

fn words(numbers: std::ops::Range<u64>) -> Vec<Word> {
    numbers.map(word).collect()
}

/// A file of the pair, by its bytes.
fn bytes(file: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(rustix::fs::fstat(file).unwrap().st_size).unwrap()];
    let read = rustix::io::pread(file, &mut bytes, 0).unwrap();
    assert_eq!(read, bytes.len());
    bytes
}

fn files_of(contents: [&[u8]; 2]) -> [OwnedFd; 2] {
    let files = make("canary").unwrap();
    for (file, content) in files.iter().zip(contents) {
        if !content.is_empty() {
            assert_eq!(rustix::io::write(file.as_fd(), content).unwrap(), content.len());
        }
    }
    files
}

fn read(files: [OwnedFd; 2]) -> Result<Vec<Word>, Refused> {
    let mut opening = Opening::<Word>::read(files, PRINT);
    match opening.refused() {
        Some(refused) => Err(refused.clone()),
        None => Ok(opening.take_entries()),
    }
}

/// A pair after one worker: a snapshot of five, three more appended.
fn written() -> [OwnedFd; 2] {
    let files = make("canary").unwrap();
    let record = Opening::read(again(&files), PRINT).begin(words(0..5));
    assert!(words(5..8).iter().all(|word| record.append(word)));
    files
}

#[test]
fn the_next_worker_reads_what_was_appended_in_order_with_the_same_key() {
    let files = make("canary").unwrap();
    let mut opening = Opening::<Word>::read(again(&files), PRINT);
    assert_eq!((opening.take_entries(), opening.refused(), opening.worker()), (vec![], None, 1));
    let key = opening.key();
    let record = opening.begin([]);
    assert!(words(0..9).iter().all(|word| record.append(word)));
    for worker in 2..6 {
        let mut opening = Opening::<Word>::read(again(&files), PRINT);
        assert_eq!((opening.refused(), opening.worker(), opening.key()), (None, worker, key));
        let entries = opening.take_entries();
        assert_eq!(entries, words(0..7 + u64::from(worker)));
        assert!(opening.begin(entries).append(&word(7 + u64::from(worker))));
    }
    assert_ne!(key, Opening::<Word>::read(make("canary").unwrap(), PRINT).key());
}

#[test]
fn another_kind_format_or_configuration_is_refused_and_begins_anew() {
    let refused = |opening: &Opening<Word>| opening.refused().cloned();
    assert_eq!(refused(&Opening::read(written(), [8; 32])), Some(Refused::Fingerprint));
    let newer = Opening::<Newer>::read(written(), PRINT);
    assert_eq!(newer.refused(), Some(&Refused::Format { found: 3, wanted: 4 }));
    assert_eq!(
        newer.refused().unwrap().to_string(),
        "the record has format 3, and this program reads format 4 only"
    );
    assert_eq!(Opening::<Other>::read(written(), PRINT).refused(), Some(&Refused::Magic));

    let files = written();
    let key = Opening::<Word>::read(again(&files), PRINT).key();
    let opening = Opening::<Word>::read(again(&files), [8; 32]);
    assert_ne!(opening.key(), key);
    drop(opening.begin(words(3..4)));
    let mut opening = Opening::<Word>::read(again(&files), [8; 32]);
    assert_eq!((opening.take_entries(), opening.refused()), (words(3..4), None));
}

#[test]
fn the_owner_may_refuse_too() {
    let files = written();
    let opening = Opening::<Word>::read(again(&files), PRINT).refuse("canary");
    assert_eq!(opening.refused(), Some(&Refused::Entry("canary")));
    drop(opening.begin(words(0..1)));
    assert_eq!(read(files), Ok(words(0..1)));
}

#[test]
fn it_is_compacted_when_it_has_grown_and_not_before() {
    let files = make("canary").unwrap();
    let record = Opening::<Word>::read(again(&files), PRINT).begin([]);
    let long = Word::Said("x".repeat(1000));
    let mut appended = 0;
    while !record.has_grown() {
        assert!(record.append(&long));
        appended += 1;
    }
    assert!((1000..1100).contains(&appended), "{appended}");
    record.compact(words(0..10));
    assert!(!record.has_grown());
    assert!(record.append(&word(10)));
    assert_eq!(read(files), Ok(words(0..11)));
}

#[test]
fn what_is_too_long_is_not_recorded_and_breaks_nothing() {
    let files = make("canary").unwrap();
    let record = Opening::<Word>::read(again(&files), PRINT).begin([]);
    assert!(!record.append(&Word::Said("x".repeat(frame::LONGEST))));
    assert!(record.append(&word(0)));
    assert!(!record.is_broken());
    assert_eq!(read(files), Ok(words(0..1)));
}

#[test]
fn a_record_that_cannot_be_written_fails_nobody_and_the_next_worker_starts_cold() {
    let files = make("canary").unwrap();
    let record = Opening::<Word>::read(again(&files), PRINT).begin(words(0..3));
    for file in &files {
        // No memory is left, as far as a test can have that: the file may not grow.
        rustix::fs::fcntl_add_seals(file, rustix::fs::SealFlags::GROW).unwrap();
    }
    assert!(!record.append(&word(3)));
    assert!(record.is_broken());
    assert!(!record.append(&word(4)));
    record.compact(words(0..1));
    assert_eq!(read(files), Err(Refused::Incomplete));
}

#[test]
fn a_file_that_cannot_be_compacted_goes_on() {
    let files = make("canary").unwrap();
    let record = Opening::<Word>::read(again(&files), PRINT).begin(words(0..3));
    rustix::fs::fcntl_add_seals(&files[1], rustix::fs::SealFlags::GROW).unwrap();
    assert!(!bytes(&files[0]).is_empty() && bytes(&files[1]).is_empty());
    record.compact(words(0..1));
    assert!(record.append(&word(3)));
    assert_eq!(read(files), Ok(words(0..4)));
}

#[test]
fn a_writer_may_be_killed_at_every_byte_of_a_snapshot() {
    let files = written();
    let old = bytes(&files[0]);
    drop(Opening::read(again(&files), PRINT).begin(words(20..25)));
    let new = bytes(&files[1]);
    assert!(bytes(&files[0]).is_empty(), "what counts no more takes no memory");
    for cut in 0..new.len() {
        assert_eq!(read(files_of([&old, &new[..cut]])), Ok(words(0..8)), "cut at {cut}");
    }
    assert_eq!(read(files_of([&old, &new])), Ok(words(20..25)));
    assert_eq!(read(files_of([&new, &old])), Ok(words(20..25)));
}

#[test]
fn a_file_cut_anywhere_has_a_beginning_of_the_entries_or_nothing() {
    let file = bytes(&written()[0]);
    let mut seen = std::collections::BTreeSet::new();
    for cut in 0..=file.len() {
        match read(files_of([&file[..cut], &[]])) {
            Ok(entries) => {
                assert_eq!(entries, words(0..u64::try_from(entries.len()).unwrap()));
                seen.insert(entries.len());
            }
            Err(refused) => assert_eq!(refused, Refused::Incomplete),
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [0, 5, 6, 7, 8]);
}

#[test]
fn one_wrong_byte_anywhere_is_noticed() {
    let file = bytes(&written()[0]);
    for at in 0..file.len() {
        let mut file = file.clone();
        file[at] ^= 0x40;
        let refused = read(files_of([&file, &[]]));
        assert!(refused.is_err(), "byte {at}: {refused:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_invent_an_entry(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        more in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut file = bytes(&written()[0]);
        for (at, byte) in edits {
            let at = at.index(file.len());
            file[at] = byte;
        }
        file.truncate(cut.index(file.len() + 1));
        file.extend(more);
        if let Ok(entries) = read(files_of([&file, &[]])) {
            prop_assert_eq!(&entries, &words(0..u64::try_from(entries.len()).unwrap()));
        }
        prop_assert!(Opening::<Word>::read(files_of([&file, &file]), PRINT).begin(words(0..2)).append(&word(2)));
    }

    #[test]
    fn garbage_is_refused(first in prop::collection::vec(any::<u8>(), 1..200), second in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read(files_of([&first, &second])).is_err());
    }
}
