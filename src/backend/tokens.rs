//! Owns what the next worker has of the tokens of a backend: all of them when they are handed over, their names after a crash.
//! Does not know servers, or when a token is renewed.

use serde::{Deserialize, Serialize};

use crate::carried::Carried;
use crate::clock::Moment;
use crate::lease::Lease;
use crate::secret::SecretBytes;

/// All tokens of one backend.
#[derive(Debug, Serialize, Deserialize)]
pub struct CarriedTokens {
    /// The number of the newest.
    pub(super) last: u64,
    /// Which one is used now.
    pub(super) current: Option<u64>,
    pub(super) known: Vec<CarriedToken>,
    pub(super) ever_good: bool,
    /// A secret id that can be unwrapped once only, and was.
    pub(super) unwrapped: Option<CarriedUnwrapped>,
}

/// One token, and what is known of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CarriedToken {
    /// The number that leases know it by.
    pub(super) id: u64,
    /// The token itself, while it is in use or to be given back.
    pub(super) text: Option<Carried<SecretBytes>>,
    pub(super) ours: bool,
    pub(super) accessor: Option<String>,
    pub(super) lease: Option<Lease>,
    /// Until when it may live, where a renewal had no answer.
    pub(super) may_last: Option<Moment>,
    pub(super) asked: bool,
    pub(super) looks: bool,
    pub(super) uses: Option<u32>,
    pub(super) used: bool,
    pub(super) noted: bool,
    pub(super) good: bool,
    pub(super) grows: bool,
    pub(super) dead: bool,
}

/// What a file held that wraps a secret id, and what came of it: the secret id, or why there is none.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CarriedUnwrapped {
    pub(super) content: Carried<SecretBytes>,
    pub(super) outcome: Result<Carried<SecretBytes>, String>,
}

/// Where a backend notes, as soon as it has it, a token that a login of its own made: by the server's name for it, which can end
/// it and nothing else.
pub trait NoteTokens: Send + Sync {
    /// It was made or renewed, and ends then; `None`: never.
    fn had(&self, accessor: &str, until: Option<Moment>);
    /// It has ended.
    fn gone(&self, accessor: &str);
}

impl CarriedTokens {
    /// Whether the numbers in it fit together.
    pub fn is_sound(&self) -> bool {
        let ascends = self.known.iter().zip(self.known.iter().skip(1)).all(|(a, b)| a.id < b.id);
        let bounded = self.known.iter().all(|token| (1..=self.last).contains(&token.id));
        let current = self
            .current
            .is_none_or(|current| self.known.iter().any(|token| token.id == current && token.text.is_some()));
        ascends && bounded && current && self.last < u64::MAX / 2
    }
}
