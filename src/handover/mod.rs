//! Owns the handover of a mount's warm state from one worker to the next: what stands still meanwhile, what goes, what is taken in.
//! Does not know processes, or what a secret is asked for.
//!
//! Nothing is taken in before all of it was read and understood: the next worker has everything, or nothing and starts cold.

mod frames;
mod hooks;
mod receive;
mod send;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

pub use hooks::{CarriedHooks, CarriedSight, CarriedWait};
pub use receive::{Refused, State, receive};
pub use stream::{receive_from, send_over};

use crate::backend::tokens::CarriedTokens;
use crate::cache::{SecretCache, SourceId};
use crate::fs::SecretFs;
use crate::leases::Leases;

/// What the configuration is known by: the state of a mount with another one is refused.
pub type Fingerprint = [u8; 32];

/// Why the state cannot be handed over. The mount goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// What was begun could not be waited for.
    #[error("{what} did not end within {}", humantime::format_duration(*.limit))]
    Busy {
        /// What.
        what: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The other side does not take it.
    #[error("the next worker does not take the state: {0}")]
    Stream(io::ErrorKind),
    /// Something that cannot be left out has no room.
    #[error("{0} is larger than what can be handed over")]
    TooLarge(&'static str),
}

/// How much there was of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Secrets and listings that are kept.
    pub kept: usize,
    /// Of these, such as found no room, and are asked for again.
    pub left_out: usize,
    /// Secrets that were made on demand.
    pub leases: usize,
    /// Leases that are not shown any more.
    pub left_behind: usize,
    /// Backends whose tokens went.
    pub tokens: usize,
    /// Open files.
    pub files: usize,
}

/// A mount that stands still: what is open can be read, but nothing is opened or closed, nothing new comes in, no lease is made,
/// renewed or given back, nobody logs in; who wants any of that waits. Dropped, all goes on.
pub struct Paused {
    cache: Arc<SecretCache>,
    leases: Arc<Leases>,
    fs: Arc<SecretFs>,
    tokens: Vec<(SourceId, CarriedTokens)>,
    hooks: CarriedHooks,
}

/// Has a mount stand still. What was begun and leaves something behind (a lease, a login) is waited for, for `limit` at most.
///
/// # Errors
/// It did not end; all goes on.
pub async fn pause(
    cache: &Arc<SecretCache>,
    leases: &Arc<Leases>,
    fs: &Arc<SecretFs>,
    limit: Duration,
) -> Result<Paused, Problem> {
    let (cache, leases, fs) = (cache.clone(), leases.clone(), fs.clone());
    let mut paused = Paused {
        cache: cache.clone(),
        leases: leases.clone(),
        fs: fs.clone(),
        tokens: vec![],
        hooks: CarriedHooks::default(),
    };
    let late = |what| Problem::Busy { what, limit };
    if !leases.pause(limit).await {
        return Err(late("making or giving back a lease"));
    }
    tokio::time::timeout(limit, cache.pause()).await.map_err(|_| late("taking in an answer"))?;
    let backends = cache.backends();
    let tokens = join_all(backends.iter().map(|backend| backend.hand_over()));
    let tokens = tokio::time::timeout(limit, tokens).await.map_err(|_| late("a login"))?;
    let tokens = tokens.into_iter().enumerate();
    paused.tokens = tokens.filter_map(|(at, tokens)| Some((SourceId::new(at), tokens?))).collect();
    // Last: the waits of those who open and close are the shortest.
    fs.pause();
    Ok(paused)
}

impl Paused {
    /// What hooks know goes as well: they stand still since nothing new comes in.
    pub fn carry(&mut self, hooks: CarriedHooks) {
        self.hooks = hooks;
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.fs.resume();
        self.cache.backends().iter().for_each(|backend| backend.resume());
        self.cache.resume();
        self.leases.resume();
    }
}
