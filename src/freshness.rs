//! Owns the words fresh, stale and expired, and every decision of when something is asked for again: pure arithmetic.
//! Does not know clocks, backends or what is kept; chance is given as a number.

use std::time::Duration;

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// *Fresh*: younger than this, and served without asking.
    pub ttl: Duration,
    /// *Stale*: as much older than `ttl` at most, and served while the backend does not answer. Older than both is
    /// *expired*: erased, never served. Zero fails closed.
    pub max_stale: Duration,
    /// "No such secret" and "forbidden" are believed this long (and no longer than `ttl`).
    pub negative_ttl: Duration,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            max_stale: Duration::from_secs(3600),
            negative_ttl: Duration::from_secs(1),
        }
    }
}
