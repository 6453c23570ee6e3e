//! Owns the beginning of a mount: the kernel's first words (FUSE_INIT), answered once for as long as the mount lives.
//! Does not know what is shown, or who will serve the requests that follow.
//!
//! Whoever has said what it can do, the kernel never asks again: a process that takes the descriptor over later is told what the
//! kernel offered ([`Offered`]) and must want the same of it.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fuser::{Filesystem, InitFlags, KernelConfig, Request, Session};
use serde::{Deserialize, Serialize};

use super::attach::{self, Unattached};
use super::mount::{Options, acl, config};
use crate::hands::Place;
use crate::mounts;

/// What the kernel offered when the mount was made (`fuse_init_in`, linux/fuse.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) max_readahead: u32,
    pub(super) flags: u64,
}

impl Offered {
    /// Whether the kernel sends requests again that somebody has taken and never answered (FUSE_NOTIFY_RESEND, Linux 6.9). Where it
    /// does not, whoever waits for such a request waits until the mount ends.
    pub fn can_resend(&self) -> bool {
        self.flags & InitFlags::FUSE_HAS_RESEND.bits() != 0
    }
}

/// A mount whose first words are said, and that nobody serves yet.
pub struct Held {
    /// Where it is, or will be.
    pub at: PathBuf,
    /// `/dev/fuse`, where requests come from.
    pub requests: OwnedFd,
    /// What the kernel said.
    pub offered: Offered,
    /// The number of its device, as [`mounts::Mount`] has it; none where it was gone at once.
    pub device: Option<String>,
    /// The number of the mount; none where nobody says it.
    pub number: Option<u64>,
    /// What is to be put into the tree; none where it is there already.
    pub unattached: Option<Unattached>,
    /// Why no file in it can be touched, in words; none where it can.
    pub why_untouchable: Option<String>,
}

impl Held {
    /// What the hands need to know of it.
    ///
    /// # Errors
    /// Why its files cannot be touched, in words.
    pub fn place(&self) -> Result<Place, String> {
        place(&self.at, self.device.as_deref(), self.why_untouchable.as_deref())
    }
}

/// What the hands need to know of the mount at `at`.
///
/// # Errors
/// Why its files cannot be touched, in words.
pub fn place(at: &Path, device: Option<&str>, why_untouchable: Option<&str>) -> Result<Place, String> {
    match (why_untouchable, device) {
        (None, Some(device)) => Ok(Place { at: at.to_owned(), device: device.to_owned() }),
        (why, _) => Err(why.unwrap_or("it is gone").to_owned()),
    }
}

/// Makes a mount for `at`, which is absolute and without links: as root by the kernel's mount calls, to be attached later; as a user
/// through `fusermount3`, which attaches it at once.
///
/// # Errors
/// What the kernel or fusermount3 said.
pub fn hold(at: &Path, options: &Options) -> io::Result<Held> {
    let offered = Arc::new(OnceLock::new());
    let first = FirstWords(offered.clone());
    let heard = |offered: &OnceLock<Offered>| {
        offered.get().copied().ok_or_else(|| io::Error::other("the kernel did not say what it can do"))
    };
    match attach::make(at, &options.source, options.allow_other) {
        Ok(detached) => {
            let (requests, unattached) = detached.split();
            let device = unattached.device()?;
            let kept = requests.try_clone()?;
            drop(Session::from_fd(first, requests, acl(options), config(options))?);
            Ok(Held {
                at: at.to_owned(),
                requests: kept,
                offered: heard(&offered)?,
                device: Some(device),
                number: unattached.number(),
                unattached: Some(unattached),
                why_untouchable: None,
            })
        }
        Err(error) => {
            // Dropped it would unmount; that is left to whoever holds the descriptor.
            let session = ManuallyDrop::new(Session::new(first, at, &config(options))?);
            // Somebody may have unmounted already.
            let (device, number) = mounts::at(at)?.map(|mount| (mount.device, mount.number)).unzip();
            Ok(Held {
                at: at.to_owned(),
                requests: session.as_fd().try_clone_to_owned()?,
                offered: heard(&offered)?,
                device,
                number,
                unattached: None,
                why_untouchable: Some(why_untouchable(&error)),
            })
        }
    }
}

/// What we want of what the kernel offers. Wanted, not needed: an older kernel without one of them still serves everything but
/// shared mmap.
pub(super) fn want(config: &mut KernelConfig) {
    for wanted in [
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_ASYNC_READ,
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    ] {
        let _ = config.add_capabilities(wanted);
    }
}

/// Answers FUSE_INIT, and nothing else.
struct FirstWords(Arc<OnceLock<Offered>>);

impl Filesystem for FirstWords {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let version = config.kernel_abi();
        // It tells the largest there is when asked for more.
        let max_readahead = match config.set_max_readahead(u32::MAX) {
            Ok(_) => u32::MAX,
            Err(most) => most,
        };
        let flags = config.capabilities().bits();
        let _ = self.0.set(Offered { major: version.0, minor: version.1, max_readahead, flags });
        want(config);
        Ok(())
    }
}

/// Why nothing can be touched in a mount that could not be made otherwise, and what to do instead.
fn why_untouchable(error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::PermissionDenied => "it needs the right to mount (root, CAP_SYS_ADMIN)".to_owned(),
        io::ErrorKind::Unsupported => "it needs Linux 5.12 or later".to_owned(),
        _ => format!("a mount for it cannot be made here: {error}"),
    };
    format!("{why}; programs that open a file again, or look at its modification time, see every change")
}
