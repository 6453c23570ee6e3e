//! Owns reading a state, its refusal in words, and taking it in as a whole.
//! Does not know the way it took. No word of a refusal tells what was in it.

use std::io::{self, ErrorKind, Read};

use super::frames::{Frame, LONGEST_FRAME, MAGIC, MOST_BYTES, VERSION};
use super::{CarriedHooks, Counts, Fingerprint};
use crate::backend::Kind;
use crate::backend::tokens::CarriedTokens;
use crate::cache::{CarriedSlot, SecretCache, SecretRef, SourceId, Watched};
use crate::fs::CarriedFiles;
use crate::leases::{CarriedBook, Leases};
use crate::secret::erase_stack_below;

/// Why a state is not taken in. The worker starts cold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no end.
    #[error("it is cut off")]
    Truncated,
    /// Something else was sent.
    #[error("it is no state of secretfs")]
    Foreign,
    /// The worker before was an older program.
    #[error("its format, {0}, is older than ours, {VERSION}")]
    Older(u32),
    /// The worker before was a newer program.
    #[error("its format, {0}, is newer than ours, {VERSION}")]
    Newer(u32),
    /// It is of another mount, or of other settings.
    #[error("it is of another configuration")]
    OtherConfiguration,
    /// More than was agreed on.
    #[error("it is larger than a state can be")]
    TooLarge,
    /// What was sent means nothing.
    #[error("a part of it cannot be understood")]
    Malformed,
    /// It speaks of something that is not in the configuration, or says two things that do not go together.
    #[error("it is about what this mount does not have")]
    Unknown,
    /// Some of it is missing.
    #[error("its parts are not as many as it says")]
    Incomplete,
    /// It goes on after its end.
    #[error("something follows its end")]
    Trailing,
    /// The way it takes.
    #[error("it cannot be read: {0}")]
    Stream(ErrorKind),
}

impl Refused {
    /// Whether it lies in the way that the state took and not in the state: it did not come, or not as a whole.
    pub fn is_of_the_way(self) -> bool {
        matches!(self, Self::Truncated | Self::Stream(_))
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Truncated,
            kind => Self::Stream(kind),
        }
    }
}

/// All that a worker held, read and understood, and not taken in yet.
#[derive(Debug, Default)]
pub struct State {
    tokens: Vec<(SourceId, CarriedTokens)>,
    book: CarriedBook,
    slots: Vec<CarriedSlot>,
    watched: Vec<Watched>,
    files: CarriedFiles,
    hooks: CarriedHooks,
}

/// Reads a whole state, for a mount over `cache` and `leases`, which are not touched. May block for as long as `from` does.
///
/// # Errors
/// It is not taken in, for this reason.
pub fn receive(
    from: &mut impl Read,
    fingerprint: &Fingerprint,
    cache: &SecretCache,
    leases: &Leases,
) -> Result<State, Refused> {
    let state = read(from, fingerprint, cache, leases);
    erase_stack_below();
    state
}

fn read(
    from: &mut impl Read,
    fingerprint: &Fingerprint,
    cache: &SecretCache,
    leases: &Leases,
) -> Result<State, Refused> {
    if array(from)? != *MAGIC {
        return Err(Refused::Foreign);
    }
    match u32::from_le_bytes(array(from)?) {
        VERSION => {}
        older if older < VERSION => return Err(Refused::Older(older)),
        newer => return Err(Refused::Newer(newer)),
    }
    if array(from)? != *fingerprint {
        return Err(Refused::OtherConfiguration);
    }
    let mut state = State::default();
    let (mut left, mut count) = (MOST_BYTES, 0_u64);
    loop {
        let length = usize::try_from(u32::from_le_bytes(array(from)?)).unwrap_or(usize::MAX);
        left = left.checked_sub(length).filter(|_| length <= LONGEST_FRAME).ok_or(Refused::TooLarge)?;
        match frame(from, length)? {
            Frame::End(said) if said == count => break,
            Frame::End(_) => return Err(Refused::Incomplete),
            frame => state.add(frame, cache, leases)?,
        }
        count += 1;
    }
    match from.read(&mut [0]) {
        Ok(0) => Ok(state),
        Ok(_) => Err(Refused::Trailing),
        Err(error) => Err(error.into()),
    }
}

fn array<const N: usize>(from: &mut impl Read) -> Result<[u8; N], Refused> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn frame(from: &mut impl Read, length: usize) -> Result<Frame, Refused> {
    /// What is said to follow is not believed before it is there.
    const AT_ONCE: usize = 1 << 20;
    let mut bytes = Vec::with_capacity(length.min(AT_ONCE));
    from.take(u64::try_from(length).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(Refused::Truncated);
    }
    match postcard::take_from_bytes(&bytes) {
        Ok((frame, [])) => Ok(frame),
        Ok(_) | Err(_) => Err(Refused::Malformed),
    }
}

impl State {
    fn add(&mut self, frame: Frame, cache: &SecretCache, leases: &Leases) -> Result<(), Refused> {
        let source = |id| cache.source(id).ok_or(Refused::Unknown);
        let known = |of: &SecretRef| {
            source(of.source)?;
            if leases.has_demand(of) { Ok(()) } else { Err(Refused::Unknown) }
        };
        let made = |of: &SecretRef| {
            known(of)?;
            source(of.source)?.backend.issuer().map(drop).ok_or(Refused::Unknown)
        };
        match frame {
            Frame::Tokens(id, tokens) => {
                let twice = self.tokens.iter().any(|(known, _)| *known == id);
                if source(id)?.backend.kind() != Kind::Vault || !tokens.is_sound() || twice {
                    return Err(Refused::Unknown);
                }
                self.tokens.push((id, tokens));
            }
            Frame::Lease(lease) => {
                made(lease.of())?;
                self.book.leases.push(*lease);
            }
            Frame::Left(left) => {
                made(left.of())?;
                self.book.left.push(left);
            }
            Frame::Nature(nature) => {
                made(&nature.0)?;
                self.book.natures.push(nature);
            }
            Frame::Secret(secret) => self.files.secrets.push(secret),
            Frame::File(file) => {
                if !file.is_sound(&self.files.secrets) {
                    return Err(Refused::Unknown);
                }
                self.files.handles.push(file);
            }
            Frame::Slot(slot) => {
                known(slot.of())?;
                if !slot.is_sound() {
                    return Err(Refused::Unknown);
                }
                self.slots.push(slot);
            }
            Frame::Watched(watched) => {
                known(&watched.0)?;
                self.watched.push(watched);
            }
            Frame::Waiting(waiting) => self.hooks.waiting.push(waiting),
            Frame::Seen(seen) => {
                known(&seen.of)?;
                self.hooks.seen.push(seen);
            }
            Frame::End(_) => return Err(Refused::Malformed),
        }
        Ok(())
    }

    /// How much there is of each.
    pub fn counts(&self) -> Counts {
        Counts {
            kept: self.slots.len(),
            left_out: 0,
            leases: self.book.leases.len(),
            left_behind: self.book.left.len(),
            tokens: self.tokens.len(),
            files: self.files.handles.len(),
        }
    }

    /// What hooks know, for those of the mount ([`crate::hooks::Hooks::import`]).
    pub fn take_hooks(&mut self) -> CarriedHooks {
        std::mem::take(&mut self.hooks)
    }

    /// Has a mount hold all of it, before anybody asks it for anything. No backend is asked. What was open comes back: a
    /// filesystem that knows the inodes of the worker before takes it ([`crate::fs::SecretFs::import`]).
    #[must_use = "what is open would be closed"]
    pub async fn install(self, cache: &SecretCache, leases: &Leases) -> CarriedFiles {
        // Leases hang on tokens.
        for (source, tokens) in self.tokens {
            if let Some(source) = cache.source(source) {
                source.backend.take_over(tokens).await;
            }
        }
        leases.import(self.book);
        cache.import(self.slots, self.watched).await;
        self.files
    }
}
