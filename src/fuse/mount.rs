//! Owns the mount itself: options for the kernel, mounting, unmounting.
//! Does not know what is shown.

use std::io;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::directories::Directories;
use super::hand_over::HandOver;
use super::invalidate::Invalidate;
use super::touch::{self, Own, Teller};
use super::unanswered::Unanswered;
use super::{Adapter, attach};
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

/// A mounted filesystem; it serves until [`Mounted::unmount`], or until it is dropped.
pub struct Mounted {
    /// Dropped it would unmount whatever is at the place (fuser takes every session that it mounted for mounted still).
    session: ManuallyDrop<BackgroundSession>,
    at: PathBuf,
    /// What tells this mount from another at the same place.
    device: Option<String>,
    /// Whether the kernel has ended the session: then nothing at the place is this mount any more.
    over: Arc<watch::Sender<bool>>,
    teller: Teller,
    ended: bool,
}

/// How an unmount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used it.
    Cleanly,
    /// Somebody still has files open in it: it is detached from the tree and ends with this process.
    InUse,
}

/// Mounts and serves. As root by the kernel's mount calls, as a user through `fusermount3`. Work that waits runs on `runtime`.
///
/// # Errors
/// What the kernel or fusermount3 said.
pub fn mount(fs: Arc<SecretFs>, at: &Path, options: &Options, runtime: Handle) -> io::Result<Mounted> {
    let at = at.canonicalize()?;
    let (invalidate, own, over) =
        (Arc::default(), Arc::<Own>::default(), Arc::new(watch::Sender::new(false)));
    let adapter = Adapter {
        fs: fs.clone(),
        hand_over: HandOver::new(runtime, options.deadline),
        unanswered: Unanswered::new(options.deadline),
        directories: Directories::of(fs.epoch()),
        invalidate: Arc::clone(&invalidate),
        own: own.clone(),
        over: over.clone(),
    };
    let (session, unattached, device, place) = match attach::make(&at, &options.source, options.allow_other) {
        Ok(detached) => {
            let (requests, unattached) = detached.split();
            let device = unattached.device()?;
            let session = Session::from_fd(adapter, requests, acl(options), config(options))?.spawn()?;
            let place = touch::Place { at: at.clone(), device: device.clone() };
            (session, Some(unattached), Some(device), Ok(place))
        }
        Err(error) => {
            let session = Session::new(adapter, &at, &config(options))?.spawn()?;
            // Somebody may have unmounted already: then nothing of ours is there, and the session is about to end.
            (session, None, mounts::device_at(&at)?, Err(why_read_only(&error)))
        }
    };
    let notifier = session.notifier();
    let _ = invalidate.set(Invalidate::start(notifier.clone())?);
    let teller = Teller::start(fs, notifier, own, place)?;
    let session = ManuallyDrop::new(session);
    let mounted = Mounted { session, at, device, over, teller, ended: false };
    // The last thing: it is served before it can be seen.
    unattached.map_or(Ok(()), |unattached| unattached.attach(&mounted.at))?;
    Ok(mounted)
}

fn acl(options: &Options) -> SessionACL {
    if options.allow_other { SessionACL::All } else { SessionACL::Owner }
}

/// For a mount that fuser makes, read-only throughout.
fn config(options: &Options) -> Config {
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
    config.acl = acl(options);
    config.n_threads = Some(options.threads.max(1));
    config
}

/// Why nothing can be touched in a mount that could not be made otherwise, and what to do instead.
fn why_read_only(error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::PermissionDenied => "it needs the right to mount (root, CAP_SYS_ADMIN)".to_owned(),
        io::ErrorKind::Unsupported => "it needs Linux 5.12 or later".to_owned(),
        _ => format!("a mount for it cannot be made here: {error}"),
    };
    format!("{why}; programs that open a file again, or look at its modification time, see every change")
}

impl Mounted {
    /// Ready when the mount is gone (unmounted by somebody else).
    pub async fn over(&self) {
        // It is kept here, so it is not closed.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Who tells programs of changes.
    pub fn teller(&self) -> &Teller {
        &self.teller
    }

    /// The number of the mount's device, as [`mounts::Mount`] has it; none where it was gone at once.
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Takes the mount out of the tree: no path leads to it any more. Of one that somebody has taken away already nothing
    /// is left to do, whatever is mounted in its place by now.
    ///
    /// # Errors
    /// What umount(2) or fusermount3 said.
    pub fn detach(&mut self) -> io::Result<()> {
        self.ended = true;
        // A clone of the mount would keep it alive.
        self.teller.stop();
        // Whatever is there by now is another one, though it may have the number of this one's device.
        if *self.over.borrow() {
            return Ok(());
        }
        let Self { at, device, .. } = self;
        let is_ours = || mounts::device_at(at).map(|there| there == *device);
        if is_ours()? {
            let result = match mounts::unmount(at, false) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => mounts::unmount(at, true),
                result => result,
            };
            // Somebody else may have been faster.
            if is_ours()? {
                result?;
            }
        }
        Ok(())
    }

    /// Unmounts: what [`Self::detach`] does, and waits a little for programs to close their files. Those still open then end
    /// with this process.
    ///
    /// # Errors
    /// As [`Self::detach`].
    pub fn unmount(mut self) -> io::Result<Unmounted> {
        self.detach()?;
        Ok(self.wait())
    }

    fn wait(&self) -> Unmounted {
        // Ended by the kernel once the last file is closed; whoever holds one longer does not hold us.
        for _ in 0..PATIENCE.as_millis() / 10 {
            if self.session.guard.is_finished() {
                return Unmounted::Cleanly;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Unmounted::InUse
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.ended && self.detach().is_ok() {
            self.wait();
        }
    }
}
