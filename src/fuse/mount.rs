//! Owns the service of a mount: a session on its descriptor, threads that answer, and its end.
//! Does not know what is shown, or how the mount came to be.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::directories::Directories;
use super::hand_over::HandOver;
use super::hold::{Held, Offered};
use super::invalidate::Invalidate;
use super::lives::is_connected;
use super::mount_point::MountPoint;
use super::progress::Progress;
use super::touch::{Own, Teller};
use super::unanswered::Unanswered;
use super::{Adapter, Answering, take_over};
use crate::fs::SecretFs;
use crate::hands;

/// How long the end of a mount waits for open files to be closed.
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

/// All of the service of a mount that can be had before it is known what is shown.
pub struct Prepared {
    session: Session<Adapter>,
    adapter: Adapter,
    options: Options,
}

/// The service of a mount. It goes on until the mount or the process ends.
pub struct Serving {
    session: BackgroundSession,
    /// `/dev/fuse`, to ask whether the mount is gone.
    requests: OwnedFd,
    /// Whether nobody reads requests any more.
    over: Arc<watch::Sender<bool>>,
    teller: Teller,
    progress: Progress,
}

/// A mounted filesystem and its service in one process; it serves until [`Mounted::unmount`], or until it is dropped.
pub struct Mounted {
    serving: Serving,
    place: MountPoint,
    ended: bool,
}

/// Why a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The mount is gone, or its connection was aborted: no request comes any more.
    Gone,
    /// Requests come, and nobody of this process reads them.
    Failed,
}

/// How a mount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// Nobody used it.
    Cleanly,
    /// Somebody still has files open in it: it is detached from the tree and ends with whoever holds its descriptor.
    InUse,
}

/// Prepares the service of a mount to which the kernel `offered` this when it was made: who waits for the service need not wait for
/// that.
///
/// # Errors
/// What the system said.
pub fn prepare(offered: &Offered, options: Options) -> io::Result<Prepared> {
    let adapter = Adapter::default();
    let session = take_over::session(adapter.clone(), offered, &options)?;
    Ok(Prepared { session, adapter, options })
}

impl Prepared {
    /// Serves the mount whose requests come from `requests` (`/dev/fuse`), from the first that nobody has answered. Work that waits
    /// runs on `runtime`; what needs rights is ordered from `hands`, who know the same mount.
    ///
    /// # Errors
    /// What the system said.
    pub fn serve(
        self,
        fs: Arc<SecretFs>,
        requests: OwnedFd,
        hands: hands::Client,
        runtime: Handle,
    ) -> io::Result<Serving> {
        let Self { session, adapter, options } = self;
        let (invalidate, over) = (Arc::default(), Arc::new(watch::Sender::new(false)));
        let own = Arc::new(Own::of(hands.touching().ok()));
        let progress = Progress::default();
        let _ = adapter.0.set(Answering {
            fs: fs.clone(),
            hand_over: HandOver::new(runtime, options.deadline),
            unanswered: Unanswered::new(options.deadline),
            directories: Directories::of(fs.epoch()),
            invalidate: Arc::clone(&invalidate),
            own: own.clone(),
            over: over.clone(),
            progress: progress.clone(),
        });
        let notifier = session.notifier();
        // Before the first answer, which may need it.
        let _ = invalidate.set(Invalidate::start(notifier.clone())?);
        take_over::serve(&session, requests.try_clone()?)?;
        let session = session.spawn()?;
        let teller = Teller::start(fs, notifier, own, hands)?;
        Ok(Serving { session, requests, over, teller, progress })
    }
}

/// Serves a mount that was made a moment ago, in this one process.
///
/// # Errors
/// What the kernel or fusermount3 said.
pub fn mount(
    held: Held,
    fs: Arc<SecretFs>,
    options: &Options,
    hands: hands::Client,
    runtime: Handle,
) -> io::Result<Mounted> {
    let Held { at, requests, offered, device, number, unattached, .. } = held;
    let serving = prepare(&offered, options.clone())?.serve(fs, requests, hands, runtime)?;
    let mounted = Mounted { serving, place: MountPoint { at, device, number }, ended: false };
    // The last thing: it is served before it can be seen.
    unattached.map_or(Ok(()), |unattached| unattached.attach(mounted.place.at()))?;
    Ok(mounted)
}

pub(super) fn acl(options: &Options) -> SessionACL {
    if options.allow_other { SessionACL::All } else { SessionACL::Owner }
}

/// The options of a mount that fuser makes, read-only throughout, and the threads of a session.
pub(super) fn config(options: &Options) -> Config {
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

impl Serving {
    /// Ready when requests are not read any more; fuser says no more than that, whatever the reason.
    pub async fn over(&self) -> SessionEnd {
        // It is kept here, so it is not closed.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
        if self.is_gone() { SessionEnd::Gone } else { SessionEnd::Failed }
    }

    /// Whether the mount is gone: unmounted by somebody, and nothing at the place is it any more.
    pub fn is_gone(&self) -> bool {
        !is_connected(self.requests.as_fd())
    }

    /// Whether the session has ended though the mount has not; some of its threads may go on.
    pub fn has_failed(&self) -> bool {
        self.session.guard.is_finished() && !self.is_gone()
    }

    /// What its threads have done.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Who tells programs of changes.
    pub fn teller(&self) -> &Teller {
        &self.teller
    }

    /// Lets go of the mount, so that it can be taken out of the tree: a clone of it would keep it alive.
    pub fn let_go(&self) {
        self.teller.stop();
    }

    /// Waits a little for programs to close their files, once the mount is out of the tree.
    pub fn wait_for_end(&self) -> Unmounted {
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

impl Mounted {
    /// Ready when the mount is not served any more: it is gone (unmounted by somebody else), or its session has failed.
    pub async fn over(&self) -> SessionEnd {
        self.serving.over().await
    }

    /// Who tells programs of changes.
    pub fn teller(&self) -> &Teller {
        self.serving.teller()
    }

    /// The number of the mount's device, as [`crate::mounts::Mount`] has it; none where it was gone at once.
    pub fn device(&self) -> Option<&str> {
        self.place.device.as_deref()
    }

    /// Unmounts, and waits a little for programs to close their files. Those still open then end with this process.
    ///
    /// # Errors
    /// What umount(2) or fusermount3 said.
    pub fn unmount(mut self) -> io::Result<Unmounted> {
        self.detach()?;
        Ok(self.serving.wait_for_end())
    }

    fn detach(&mut self) -> io::Result<()> {
        self.ended = true;
        self.serving.let_go();
        // Whatever is there by now is another one, though it may have the number of this one's device.
        if self.serving.is_gone() { Ok(()) } else { self.place.detach() }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.ended && self.detach().is_ok() {
            self.serving.wait_for_end();
        }
    }
}
