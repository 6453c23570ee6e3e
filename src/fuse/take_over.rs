//! Owns the taking over of a mount that lives: a session on a descriptor whose first words were said by somebody else.
//! Does not know why the one before is gone.
//!
//! fuser begins every session with FUSE_INIT, which the kernel never sends again. So it is given one end of a socket in which such a
//! request lies, made up from what the kernel offered at the time, and once that is answered the descriptor itself is put in the place
//! of the socket.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use fuser::{Filesystem, Session};
use rustix::io::DupFlags;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::hold::Offered;
use super::mount::{Options, acl, config};

/// FUSE_INIT and FUSE_NOTIFY_RESEND (linux/fuse.h).
const INIT: u32 = 26;
const RESEND: i32 = 7;
/// Of a request and of a notification (`fuse_in_header`, `fuse_out_header`).
const IN_HEADER: u32 = 40;
const OUT_HEADER: u32 = 16;
/// `fuse_init_in` since 7.36.
const INIT_IN: u32 = 64;
/// The flags go on in a second word (FUSE_INIT_EXT).
const INIT_EXT: u64 = 1 << 30;

/// A session for a mount to which the kernel `offered` this, as it is after the first words. It reads no requests yet.
///
/// # Errors
/// What the system said.
pub(super) fn session<F: Filesystem>(
    filesystem: F,
    offered: &Offered,
    options: &Options,
) -> io::Result<Session<F>> {
    let (kernel, ours) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::send(&kernel, &first_request(offered), SendFlags::NOSIGNAL)?;
    Session::from_fd(filesystem, ours, acl(options), config(options))
}

/// Has it serve `requests`. Whatever was taken from there and never answered comes again.
///
/// # Errors
/// What the system said. What the kernel does not send again is no error here: see [`Offered::can_resend`].
pub(super) fn serve<F: Filesystem>(session: &Session<F>, requests: OwnedFd) -> io::Result<()> {
    put_in_place_of(session.as_fd(), requests.as_fd())?;
    resend(&File::from(requests));
    Ok(())
}

/// Makes the kernel send what was taken and never answered again, to whoever reads next.
pub(super) fn resend(mut requests: &File) {
    let mut notification = Vec::new();
    notification.extend(OUT_HEADER.to_ne_bytes());
    notification.extend(RESEND.to_ne_bytes());
    notification.extend(0_u64.to_ne_bytes());
    // An error means an older kernel, or that the mount is gone.
    if let Err(error) = requests.write_all(&notification) {
        tracing::debug!("the kernel sends nothing again: {}", error.kind());
    }
}

fn first_request(offered: &Offered) -> Vec<u8> {
    let mut request = Vec::new();
    let mut word = |value: u32| request.extend(value.to_ne_bytes());
    // fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, no extensions.
    word(IN_HEADER + INIT_IN);
    word(INIT);
    for value in [2, 0, 0, 0, 0, 0, 0, 0] {
        word(value);
    }
    let flags = offered.flags | INIT_EXT;
    let [low, high] = [flags, flags >> 32].map(|half| u32::try_from(half & u64::from(u32::MAX)).unwrap_or(0));
    for value in [offered.major, offered.minor, offered.max_readahead, low, high] {
        word(value);
    }
    request.resize(request.len() + 44, 0);
    request
}

/// Puts another file behind a descriptor that somebody else owns.
fn put_in_place_of(place: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open while it is borrowed, and it stays its owner's: dup3(2) closes the old file and leaves the number
    // in use, and `ManuallyDrop` keeps this second owner from closing it. Nobody reads from it yet.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(place.as_raw_fd()) });
    Ok(rustix::io::dup3(file, &mut place, DupFlags::CLOEXEC)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_is_as_long_as_it_says_and_carries_what_was_offered() {
        let offered = Offered { major: 7, minor: 44, max_readahead: 131_072, flags: 1 << 39 | 5 };
        let request = first_request(&offered);
        let word = |at: usize| {
            request.get(at..at + 4).map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap_or_default()))
        };
        assert_eq!(word(0), u32::try_from(request.len()).ok());
        assert_eq!(word(4), Some(INIT));
        let body = IN_HEADER as usize;
        assert_eq!([0, 4, 8].map(|at| word(body + at)), [Some(7), Some(44), Some(131_072)]);
        assert_eq!([word(body + 12), word(body + 16)], [Some(5 | 1 << 30), Some(1 << 7)]);
        assert!(offered.can_resend());
    }
}
