//! Owns the format: what the stream begins with, the frames that follow, and their bounds.
//! Does not know what is done with any of it.
//!
//! `MAGIC`, the version in four bytes, the fingerprint; then frames, each its length in four bytes and a [`Frame`] in postcard; the
//! last is [`Frame::End`]. Numbers are little-endian. Both sides are the same program or neighbours of it: whatever changes in a
//! carried type changes [`VERSION`], and another version is refused.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::hooks::{CarriedSight, CarriedWait};
use crate::backend::tokens::CarriedTokens;
use crate::cache::{CarriedSlot, SourceId, Watched};
use crate::carried::Carried;
use crate::fs::CarriedHandle;
use crate::leases::{CarriedLease, CarriedLeft, CarriedNature};
use crate::secret::Secret;

/// What the stream begins with.
pub(super) const MAGIC: &[u8; 8] = b"secretfs";
/// The version of the format.
pub(super) const VERSION: u32 = 2;
/// The longest frame.
pub(super) const LONGEST_FRAME: usize = 64 << 20;
/// All frames together.
pub(super) const MOST_BYTES: usize = 2 << 30;

/// One thing that is carried.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Frame {
    /// The tokens of a backend.
    Tokens(SourceId, CarriedTokens),
    /// A secret that was made on demand.
    Lease(Box<CarriedLease>),
    /// A lease that is not shown any more.
    Left(CarriedLeft),
    /// What lies at a place.
    Nature(CarriedNature),
    /// A secret or listing that is kept.
    Slot(CarriedSlot),
    /// What those who watch files know.
    Watched(Watched),
    /// What files are open in, one after the other.
    Secret(Carried<Arc<Secret>>),
    /// An open file.
    File(CarriedHandle),
    /// What a hook has not been told yet.
    Waiting(CarriedWait),
    /// What hooks know of a secret.
    Seen(CarriedSight),
    /// Nothing follows; so many frames came before.
    End(u64),
}
