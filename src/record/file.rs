//! Owns one memory file of a record: its making, its reading from beginning to end, appends.
//! Does not know which of two files counts.

use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, OFlags};
use rustix::io::Errno;

use super::frame::{self, Fault, Frame, Kind};
use super::{Entry, Header, LARGEST, MAGIC, Refused};

/// Room is made for so many entries at most before they are read: their number may be wrong as well.
const AT_ONCE: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct File(OwnedFd);

/// What a file says.
#[derive(Debug)]
pub(super) struct Found<T> {
    pub(super) is_empty: bool,
    /// None where it ends before its commit.
    pub(super) content: Option<Content<T>>,
}

#[derive(Debug)]
pub(super) struct Content<T> {
    pub(super) header: Header,
    pub(super) entries: Vec<T>,
}

pub(super) fn make(name: &str) -> std::io::Result<OwnedFd> {
    // A file that nobody can ever execute; a kernel before 6.3 knows no such thing.
    let made = match rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC),
        made => made,
    }?;
    let flags = rustix::fs::fcntl_getfl(&made)?;
    rustix::fs::fcntl_setfl(&made, flags | OFlags::APPEND)?;
    Ok(made)
}

impl File {
    pub(super) fn new(file: OwnedFd) -> Self {
        Self(file)
    }

    /// Adds bytes in one write.
    pub(super) fn append(&self, bytes: &[u8]) -> std::io::Result<()> {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&self.0, bytes))?;
        if written == bytes.len() { Ok(()) } else { Err(std::io::ErrorKind::WriteZero.into()) }
    }

    pub(super) fn empty(&self) {
        // Shrinking a memory file does not fail; if it did, what is appended after the old bytes would be refused.
        let _ = rustix::fs::ftruncate(&self.0, 0);
    }

    /// Leaves something that is not valid and not empty either.
    pub(super) fn spoil(&self) {
        let _ = rustix::fs::ftruncate(&self.0, 1);
    }

    fn bytes(&self) -> Result<Vec<u8>, Refused> {
        let unreadable = |error: Errno| Refused::Unreadable(std::io::Error::from(error).kind());
        let size = rustix::fs::fstat(&self.0).map_err(unreadable)?.st_size;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > LARGEST {
            return Err(Refused::TooLarge { limit: LARGEST });
        }
        let (mut bytes, mut filled) = (vec![0; size], 0_usize);
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = u64::try_from(filled).unwrap_or(u64::MAX);
            let read = rustix::io::retry_on_intr(|| rustix::io::pread(&self.0, &mut *rest, at))
                .map_err(unreadable)?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Reads it from beginning to end. A last frame that is cut is dropped; anything else that is wrong refuses all of it.
    pub(super) fn read<T: Entry>(&self, fingerprint: [u8; 32]) -> Result<Found<T>, Refused> {
        let bytes = self.bytes()?;
        let is_empty = bytes.is_empty();
        Ok(Found { is_empty, content: parse(&bytes, fingerprint)? })
    }
}

fn parse<T: Entry>(bytes: &[u8], fingerprint: [u8; 32]) -> Result<Option<Content<T>>, Refused> {
    let Some((Kind::Header, header, mut rest)) = next(bytes)? else {
        // Cut within the header, or some frame that is no header.
        return if frame::next(bytes).is_ok() { Err(Refused::Magic) } else { Ok(None) };
    };
    let header: Header = frame::parse(header).ok_or(Refused::Magic)?;
    if header.magic != MAGIC || header.of != T::OF {
        return Err(Refused::Magic);
    }
    if header.format != T::FORMAT {
        return Err(Refused::Format { found: header.format, wanted: T::FORMAT });
    }
    if header.fingerprint != fingerprint {
        return Err(Refused::Fingerprint);
    }
    // Exactly: programs wait, and memory that is outgrown was found and erased for nothing.
    let (mut entries, mut is_committed) = (Vec::with_capacity(frame::count(rest).min(AT_ONCE)), false);
    while let Some((kind, content, after)) = next(rest)? {
        match kind {
            Kind::Entry => entries.push(frame::parse(content).ok_or(Refused::Entry("it cannot be read"))?),
            Kind::Commit if !is_committed => is_committed = true,
            Kind::Commit | Kind::Header => return Err(Refused::Damaged),
        }
        rest = after;
    }
    Ok(is_committed.then_some(Content { header, entries }))
}

/// The next frame; none at the end and where the rest is cut.
fn next(bytes: &[u8]) -> Result<Option<Frame<'_>>, Refused> {
    match frame::next(bytes) {
        Ok(found) => Ok(Some(found)),
        Err(Fault::Cut) => Ok(None),
        Err(Fault::Length) => Err(Refused::Length),
        Err(Fault::Content) => Err(Refused::Damaged),
    }
}
