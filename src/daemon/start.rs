//! Owns what a worker is given to begin with: a description, and the descriptors that it is about.
//! Does not know who starts it, or what it does with them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::channel::{Channel, ToWorker};
use crate::fuse::{MountPoint, Offered};
use crate::secret::SecretBytes;

/// What a message means; a holder lives longer than its program's file, so it may speak with a newer worker.
pub(super) const PROTOCOL: u32 = 1;

/// What a worker is to serve.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) protocol: u32,
    /// Where the mount is, or will be. Absolute and without links: not looked at, for to look is to ask the mount.
    pub(super) at: OsString,
    pub(super) device: Option<String>,
    pub(super) offered: Offered,
    /// The thread that touches files of the mount, or why there is none.
    pub(super) touching_thread: Result<u32, String>,
    /// What the configuration is known by.
    pub(super) fingerprint: [u8; 32],
    /// The process that a user knows as the mount.
    pub(super) holder: u32,
    pub(super) since: SystemTime,
    /// How many workers have died before.
    pub(super) crashes: u64,
    /// There was a worker before, who has crashed, and programs wait. A holder of an older program never says it.
    #[serde(default)]
    pub(super) follows_a_crash: bool,
    /// Another worker serves still: wait for [`ToWorker::TakeOver`].
    pub(super) succeeds: bool,
    /// Serve nobody: give back what former workers had, and end. A holder of an older program never says it.
    #[serde(default)]
    pub(super) gives_back: bool,
    /// Whether the holder knows [`super::channel::ToHolder::KeepOpen`]: one of an older program does not, and takes what it does not
    /// know for the end of a worker's mind.
    #[serde(default)]
    pub(super) keeps_open: bool,
    /// Whether the mount outlives its holder: then there is nothing to give back when that is gone.
    pub(super) outlives_holder: bool,
    /// What the descriptors are, in their order.
    pub(super) files: Vec<Given>,
}

/// What a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Given {
    /// `/dev/fuse`.
    Requests,
    /// What [`Handed`] holds.
    Handed,
    /// The record of inodes; two.
    Journal,
    /// The record of leases; two.
    Ledger,
    /// The socket of who does what a worker has no right to.
    Hands,
    /// The socket over which a predecessor gives what it holds.
    Legacy,
}

/// What the configuration says and nobody can ask for again: a worker reads no file of it, and nobody sits at a terminal.
#[derive(Default, Serialize, Deserialize)]
pub struct Handed {
    /// The text of the configuration file, where there is one.
    pub config: Option<String>,
    /// Passphrases that somebody has typed, by the file of their store.
    passphrases: Vec<(OsString, Vec<u8>)>,
}

impl Handed {
    /// With this configuration.
    pub fn new(config: Option<String>) -> Self {
        Self { config, passphrases: vec![] }
    }

    /// One passphrase more.
    pub fn add_passphrase(&mut self, store: PathBuf, passphrase: &SecretBytes) {
        self.passphrases.push((store.into_os_string(), passphrase.expose().to_vec()));
    }

    /// Of each store that has one.
    pub fn passphrases(&self) -> impl Iterator<Item = (PathBuf, SecretBytes)> + '_ {
        let bytes = |bytes: &Vec<u8>| SecretBytes::new(bytes.clone());
        self.passphrases.iter().map(move |(store, passphrase)| (store.into(), bytes(passphrase)))
    }

    /// What a configuration is known by: with another one, the same number of a tree or a backend may mean another.
    pub(super) fn fingerprint(&self, arguments: &[OsString]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for word in arguments {
            hash.update(word.as_bytes());
            hash.update([0]);
        }
        hash.update(self.config.as_deref().unwrap_or_default());
        hash.finalize().into()
    }

    /// In memory that can be given away, and that is gone with its last descriptor.
    pub(super) fn to_file(&self) -> io::Result<OwnedFd> {
        let mut file = File::from(rustix::fs::memfd_create("secretfs-handed", MemfdFlags::CLOEXEC)?);
        let bytes = serde_json::to_vec(self).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        file.write_all(&bytes)?;
        Ok(file.into())
    }

    fn from_file(file: OwnedFd) -> io::Result<Self> {
        let mut file = File::from(file);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        // What it was is not said: it holds secrets.
        serde_json::from_slice(&bytes).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// A worker that was called to serve a mount.
pub struct Called {
    /// What cannot be asked for again.
    pub handed: Handed,
    pub(super) start: Start,
    pub(super) channel: Channel,
    files: Vec<(Given, OwnedFd)>,
}

/// What is wrong with the call of a worker. One line; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NotCalled {
    /// A person called it.
    #[error("this command is for secretfs itself: use `secretfs mount`")]
    ByHand,
    /// Of another version.
    #[error("the holder of this mount speaks another protocol ({0}): unmount and mount again")]
    Protocol(u32),
    /// Anything else.
    #[error("what the holder of the mount gave cannot be used: {0}")]
    Unusable(io::ErrorKind),
}

/// Hears what the one who started this process wants. Standard input is the channel, and is nothing from then on.
///
/// # Errors
/// See [`NotCalled`].
pub fn called() -> Result<Called, NotCalled> {
    let unusable = |error: io::Error| NotCalled::Unusable(error.kind());
    let input = rustix::stdio::stdin();
    let is_socket = rustix::fs::fstat(input).is_ok_and(|found| {
        rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Socket
    });
    if !is_socket {
        return Err(NotCalled::ByHand);
    }
    let channel = Channel::over(input.try_clone_to_owned().map_err(unusable)?);
    let null = File::open("/dev/null").map_err(unusable)?;
    rustix::stdio::dup2_stdin(&null).map_err(|error| unusable(error.into()))?;
    let Some((ToWorker::Start(start), files)) = channel.receive().map_err(unusable)? else {
        return Err(NotCalled::ByHand);
    };
    if start.protocol != PROTOCOL {
        return Err(NotCalled::Protocol(start.protocol));
    }
    let mut called = Called {
        handed: Handed::default(),
        files: start.files.iter().copied().zip(files).collect(),
        start: *start,
        channel,
    };
    let handed = called.take(Given::Handed).ok_or(NotCalled::Unusable(io::ErrorKind::NotFound))?;
    called.handed = Handed::from_file(handed).map_err(unusable)?;
    Ok(called)
}

impl Called {
    /// Where the mount is.
    pub(super) fn place(&self) -> MountPoint {
        MountPoint { at: PathBuf::from(&self.start.at), device: self.start.device.clone(), number: None }
    }

    /// The same, of one that it cannot do without.
    pub(super) fn give(&mut self, given: Given) -> io::Result<OwnedFd> {
        self.take(given).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The first descriptor of this kind, which is ours from then on.
    pub(super) fn take(&mut self, given: Given) -> Option<OwnedFd> {
        let at = self.files.iter().position(|(kind, _)| *kind == given)?;
        Some(self.files.remove(at).1)
    }
}
