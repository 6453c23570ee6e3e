//! Owns what a worker and the hands say to each other, as bytes: orders with a number, answers in any order, each with its length.
//! Does not know what an order means, or whether it is carried out.

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Bytes of an order. The paths for a hook's program are half of it ([`super::MOST_NEWS`]), a hundred names to touch the same.
pub(super) const LONGEST_ORDER: usize = 64 << 10;
/// Bytes of an answer: the inodes that are watched are many.
pub(super) const LONGEST_ANSWER: usize = 4 << 20;
/// Inodes in an answer; each takes ten bytes at most.
pub(super) const MOST_INODES: usize = 400_000;
/// Bytes before an order or an answer that say how long it is, the lowest first.
pub(super) const HEAD: usize = 4;

/// What a worker asks for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// The answer has it too.
    pub(super) number: u64,
    pub(super) deed: Deed,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Deed {
    /// Touch files of one directory, so that whoever watches them is told.
    Touch(Touch),
    /// Have no clone of the mount: it would keep it alive.
    Rest,
    /// Say which inodes of the mount somebody watches.
    Look,
    /// Run the hook of this number.
    Run(Run),
    /// The mount ends: have every program end that runs.
    EndRuns,
}

/// Files to touch.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Touch {
    /// The names that lead to their directory from the root of the mount.
    pub(super) path: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) gone: Vec<String>,
    /// Whether another such order follows at once, so that the clone of the mount may serve it too.
    pub(super) more: bool,
}

/// A hook to run.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// Its place in the configuration, from zero.
    pub(super) hook: u32,
    /// The folders that it is told of, as file names from the root of the mount, joined by slashes.
    pub(super) paths: Vec<String>,
    /// Whether there were more.
    pub(super) truncated: bool,
}

/// What came of an order.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) number: u64,
    pub(super) result: Result<Done, Trouble>,
}

/// What was done.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Done {
    /// And there is nothing to say of it.
    Well,
    /// These inodes are watched.
    Watched(Vec<u64>),
    /// A hook ran.
    Ran(Outcome),
}

/// What came of a run of a hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether it is a failure.
    pub failed: bool,
    /// Whether it is one because it took too long.
    pub late: bool,
    /// In words, without anything that a program printed.
    pub text: String,
}

/// Why an order was not carried out, in words without a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Trouble {
    /// Whether something was not there: the mount, or a file in it.
    pub not_found: bool,
    /// What happened.
    pub text: String,
}

impl Outcome {
    pub(super) fn success(text: String) -> Self {
        Self { failed: false, late: false, text }
    }

    pub(super) fn failure(text: String) -> Self {
        Self { failed: true, late: false, text }
    }
}

impl Trouble {
    pub(super) fn new(text: impl ToString) -> Self {
        Self { not_found: false, text: text.to_string() }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self { not_found: error.kind() == io::ErrorKind::NotFound, text: error.to_string() }
    }
}

/// As it goes over the socket; its head says how long it is.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] where it is longer than `longest`.
pub(super) fn to_bytes(message: &impl Serialize, longest: usize) -> io::Result<Vec<u8>> {
    let whole = postcard::to_extend(message, vec![0; HEAD]).map_err(|_| too_long())?;
    let length = whole.len() - HEAD;
    let head = u32::try_from(length).ok().filter(|_| length <= longest).ok_or_else(too_long)?;
    let mut whole = whole;
    for (byte, of_head) in whole.iter_mut().zip(head.to_le_bytes()) {
        *byte = of_head;
    }
    Ok(whole)
}

/// How long the message after this head is.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] where it is longer than `longest`.
pub(super) fn length(head: [u8; HEAD], longest: usize) -> io::Result<usize> {
    let length = usize::try_from(u32::from_le_bytes(head)).unwrap_or(usize::MAX);
    if length <= longest { Ok(length) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The message that these bytes are, exactly.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`]; what the bytes hold is in no error.
pub(super) fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "this is too much for one order")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was_and_says_how_long_it_is() {
        let run = Run { hook: 3, paths: vec![String::new(), "a/b".into()], truncated: true };
        let order = Order { number: u64::MAX, deed: Deed::Run(run) };
        let bytes = to_bytes(&order, LONGEST_ORDER).unwrap();
        let (head, body) = bytes.split_first_chunk().unwrap();
        assert_eq!(length(*head, LONGEST_ORDER).unwrap(), body.len());
        assert_eq!(from_bytes::<Order>(body).unwrap(), order);
        let longer = [body, &[0]].concat();
        assert!(from_bytes::<Order>(&longer).is_err(), "something follows");
        assert!(from_bytes::<Order>(&body[..body.len() - 1]).is_err(), "something is missing");
    }

    #[test]
    fn what_is_too_long_is_neither_sent_nor_taken() {
        let run = Run { hook: 0, paths: vec!["x".repeat(LONGEST_ORDER)], truncated: false };
        assert!(to_bytes(&Order { number: 1, deed: Deed::Run(run) }, LONGEST_ORDER).is_err());
        assert_eq!(length(65536_u32.to_le_bytes(), LONGEST_ORDER).unwrap(), 65536);
        assert!(length(65537_u32.to_le_bytes(), LONGEST_ORDER).is_err());
        assert!(length(u32::MAX.to_le_bytes(), LONGEST_ANSWER).is_err());
    }

    #[test]
    fn the_largest_answer_and_the_largest_orders_fit() {
        let watched = Done::Watched(vec![u64::MAX; MOST_INODES]);
        assert!(to_bytes(&Answer { number: u64::MAX, result: Ok(watched) }, LONGEST_ANSWER).is_ok());
        let changed = vec!["x".repeat(255); super::super::names::MOST_FILES];
        let touch = Touch { path: vec!["x".repeat(255); 16], changed, gone: vec![], more: true };
        assert!(to_bytes(&Order { number: u64::MAX, deed: Deed::Touch(touch) }, LONGEST_ORDER).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(order) = from_bytes::<Order>(&bytes) {
                let again = to_bytes(&order, LONGEST_ORDER).unwrap();
                prop_assert_eq!(from_bytes::<Order>(&again[HEAD..]).unwrap(), order);
            }
            let _ = from_bytes::<Answer>(&bytes);
        }
    }
}
