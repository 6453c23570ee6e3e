//! Owns the mount itself: options for the kernel, mounting, unmounting.
//! Does not know what is shown.

use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::Adapter;
use super::directories::Directories;
use super::hand_over::HandOver;
use super::invalidate::Invalidate;
use crate::fs::SecretFs;
use crate::mounts;

/// How long an unmount waits for open files to be closed.
const PATIENCE: Duration = Duration::from_secs(1);

/// How to mount.
#[derive(Debug, Clone)]
pub struct Options {
    /// What /proc/mounts shows as the source; holds no secret.
    pub source: String,
    /// Whether users other than the one who mounts may look at all (modes apply as well).
    pub allow_other: bool,
    /// Every request is answered within this.
    pub deadline: Duration,
    /// Threads that read requests.
    pub threads: usize,
}

/// A mounted filesystem; it serves until [`Mounted::unmount`].
pub struct Mounted {
    session: BackgroundSession,
    at: PathBuf,
    /// What tells this mount from another at the same place.
    device: Option<String>,
    over: Arc<Notify>,
}

/// How an unmount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used it.
    Cleanly,
    /// Somebody still has files open in it: it is detached from the tree and ends with this process.
    InUse,
}

/// Mounts and serves. As root by mount(2), as a user through `fusermount3`. Work that waits runs on `runtime`.
///
/// # Errors
/// What mount(2) or fusermount3 said.
pub fn mount(fs: Arc<SecretFs>, at: &Path, options: &Options, runtime: Handle) -> io::Result<Mounted> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::FSName(options.source.clone()),
        MountOption::Subtype("secretfs".into()),
        // Without it a name that root looked up lets everybody in (libfuse issue 15).
        MountOption::DefaultPermissions,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoExec,
        MountOption::NoAtime,
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    let at = at.canonicalize()?;
    let invalidate = Arc::new(OnceLock::new());
    let over = Arc::new(Notify::new());
    let adapter = Adapter {
        fs,
        hand_over: HandOver::new(runtime, options.deadline),
        directories: Directories::default(),
        invalidate: invalidate.clone(),
        over: over.clone(),
    };
    let session = Session::new(adapter, &at, &config)?.spawn()?;
    // Somebody may have unmounted already: then nothing of ours is there, and the session is about to end.
    let device = mounts::device_at(&at)?;
    let _ = invalidate.set(Invalidate::start(session.notifier())?);
    Ok(Mounted { session, at, device, over })
}

impl Mounted {
    /// Ready when the mount is gone (unmounted by somebody else).
    pub async fn over(&self) {
        self.over.notified().await;
    }

    /// The kernel's number for it; none when somebody has taken it away before it could be looked up.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Unmounts. A mount that is in use disappears from the tree at once; its open files end with this process. Of one
    /// that somebody has taken away already nothing is left to do, whatever is mounted in its place by now.
    ///
    /// # Errors
    /// What umount(2) or fusermount3 said.
    pub fn unmount(self) -> io::Result<Unmounted> {
        let Self { session, at, device, .. } = self;
        // Dropped it would unmount whatever is at the place (fuser takes every session for mounted).
        let session = ManuallyDrop::new(session);
        let is_ours = || mounts::device_at(&at).map(|there| there == device);
        if is_ours()? {
            let result = match mounts::unmount(&at, false) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => mounts::unmount(&at, true),
                result => result,
            };
            // Somebody else may have been faster.
            if is_ours()? {
                result?;
            }
        }
        // Ended by the kernel once the last file is closed; whoever holds one longer does not hold us.
        for _ in 0..PATIENCE.as_millis() / 10 {
            if session.guard.is_finished() {
                return Ok(Unmounted::Cleanly);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Unmounted::InUse)
    }
}
