//! Owns the wiring: builds every part of a mount, spawns what runs in the background, and ends it all in order.
//! Does not know command lines or files of configuration; it is given a `Plan`.

mod check;
mod harden;
mod kernel_timeout;
mod plan;
mod signals;
mod watchers;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use crate::backend::aws::Aws;
use crate::backend::store::Store;
use crate::backend::{Backend, vault};
use crate::cache::{SecretCache, SecretRef, Source};
use crate::clock::Clock;
use crate::control::{self, Control};
use crate::fs::SecretFs;
use crate::fuse::{self, Unmounted};
use crate::hands::Hands;
use crate::hooks::{self, Hooks};
use crate::leases::Leases;
use crate::pattern;
use crate::printable::printable;
use crate::refresh::Refresher;
use crate::tree::Trees;
pub use check::{Check, check};
pub use harden::harden;
pub use plan::{BackendPlan, Plan};
use signals::Signals;

/// How long the end of a mount waits for hooks: they are killed a second after they were told to end.
const PATIENCE_WITH_HOOKS: Duration = Duration::from_secs(2);
/// How long it waits for leases to be given back: a busy PostgreSQL has dropped 189 users in ten seconds. `TimeoutStopSec` of
/// systemd/secretfs@.service is longer than all of this.
const PATIENCE_WITH_LEASES: Duration = Duration::from_secs(45);
/// And then for tokens.
const PATIENCE_WITH_TOKENS: Duration = Duration::from_secs(10);

/// Why a mount could not be made or ended badly. One line; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A backend's settings cannot work.
    #[error("backend `{name}`: {problem}")]
    Backend {
        /// The backend's name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The mount itself.
    #[error("cannot mount on {at}: {problem}")]
    Mount {
        /// The mount point.
        at: String,
        /// What the system said, and what to do.
        problem: String,
    },
    /// The runtime or a signal handler.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The hooks cannot work.
    #[error("[[hook]]: {0}")]
    Hooks(pattern::Bad),
    /// The mount point could not be given back.
    #[error("cannot unmount {at}: {error}")]
    Unmount {
        /// The mount point.
        at: String,
        /// What umount(2) said.
        error: io::Error,
    },
}

/// Mounts as planned, calls `ready` once programs can use the mount (no backend has been asked yet), and serves until a
/// signal says to stop or somebody unmounts.
///
/// # Errors
/// What kept the mount from being made, or from being ended.
pub fn serve(plan: Plan, ready: impl FnOnce() -> io::Result<()>) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
    let threads = cores.clamp(2, 8);
    // Misses wait, they do not compute: on two cores one worker and two measured the same.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).clamp(1, 4))
        .enable_all()
        .build()?;
    let Plan { source, mountpoint, allow_other, deadline, limits, max_value_size, backends, .. } = plan;
    let trees = Trees::new(plan.trees).with_promises(plan.promises);
    let sources = backends.into_iter().map(build_source).collect::<Result<_, _>>()?;
    let of_trees = trees.clone();
    let cache = SecretCache::new(sources, limits, Clock::System)
        .with_policy(Box::new(move |of| of_trees.freshness_of(of)));
    let cache = Arc::new(cache);
    let of_trees = trees.clone();
    let terms = Box::new(move |of: &SecretRef| of_trees.terms_of(of));
    let leases = Arc::new(Leases::new(cache.clone(), plan.demands, plan.lease_limits, terms));
    // What is relative is so to our folder, not to that of a hook.
    let whole = std::path::absolute(&mountpoint).unwrap_or_else(|_| mountpoint.clone());
    let at = mountpoint.display().to_string();
    let options = fuse::Options { source, allow_other, deadline, threads };
    let cannot_mount = |error: io::Error| mount_failure(&at, allow_other, &error);
    let prepared = fuse::Prepared::new(&mountpoint, &options).map_err(cannot_mount)?;
    let jobs = plan.hooks.iter().map(hooks::Config::job).collect();
    let hands = Hands::new(prepared.place(), whole.clone(), jobs)?;
    let client = hands.client()?;
    let hooks = Hooks::new(plan.hooks, trees.clone(), cache.clone(), leases.clone(), whole, client.clone())
        .map_err(Failure::Hooks)?;
    let hooks = Arc::new(hooks);
    // From the start: what nobody hears is lost.
    let mut news = cache.subscribe();
    let fs = SecretFs::new(trees.clone(), cache.clone(), max_value_size)
        .with_pair_window(plan.pair_window)
        .with_leases(leases.clone());
    let mut late = fs.subscribe_to_late();
    let fs = Arc::new(fs);
    let mut signals = {
        let _runtime = runtime.enter();
        Signals::catch()?
    };
    if let Some(warning) = kernel_timeout::warning(deadline) {
        tracing::warn!("{warning}");
    }
    let mut mounted = fuse::mount(prepared, fs.clone(), &options, client.clone(), runtime.handle().clone())
        .map_err(cannot_mount)?;
    tracing::info!(mountpoint = %at, source = %options.source, "mounted");
    let teller = mounted.teller().clone();
    let period = trees.promises().shortest_ttl() / 2;
    match teller.problem() {
        None => drop(runtime.spawn(watchers::note_watched_forever(fs.clone(), client, period))),
        Some(why) => tracing::info!(
            mountpoint = %at,
            "programs that watch files (inotify) are not told of changes: {why}"
        ),
    }
    let running_hooks = runtime.spawn(hooks.clone().run(cache.subscribe()));
    runtime.spawn(Refresher::new(cache.clone(), leases.clone()).run());
    for backend in cache.backends() {
        runtime.spawn(async move { backend.tend().await });
    }
    let control = mounted.device().map(|device| {
        let since = SystemTime::now();
        let hooks = hooks.clone();
        let hooks = Box::new(move || hooks.states().into_iter().map(Into::into).collect());
        let told = teller.clone();
        let watchers = Box::new(move || told.problem().map_or(Ok(()), |why| Err(why.to_string())));
        let (fs, cache, leases) = (fs.clone(), cache.clone(), leases.clone());
        let control = Control { fs, trees, cache, leases, since, deadline, hooks, watchers };
        let device = device.to_owned();
        let socket = runtime.block_on(control::claim(&device));
        if let Err(error) = &socket {
            tracing::warn!(
                "no control socket, so `secretfs status`, `refresh`, `revoke` and `flush` do not work: {error}"
            );
        }
        runtime.spawn(async move { control.serve(&device, socket.ok()).await })
    });
    runtime.spawn(async move {
        // Again after a thread got an older version for the sake of a pair: it can have the newest from then on.
        while let Some(changed) = tokio::select! {
            changed = news.recv() => changed,
            changed = late.recv() => changed,
        } {
            teller.tell(changed);
        }
    });
    runtime.spawn(fs.clone().sweep_pins_forever());
    ready()?;
    let status = format!("serving on {at}");
    tell_systemd(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&printable(&status))]);
    let (why, over) = runtime.block_on(async {
        tokio::select! {
            signal = signals.next() => (signal, false),
            () = mounted.over() => ("unmounted by somebody else", true),
        }
    });
    if over {
        // At once: what follows may take its time, and nobody can read any more.
        fs.flush();
    }
    tracing::info!(mountpoint = %at, "unmounting: {why}");
    tell_systemd(&[sd_notify::NotifyState::Stopping, sd_notify::NotifyState::Status("unmounting")]);
    // First: a program of a hook that reads the mount would keep it in use.
    hooks.stop();
    if runtime.block_on(async { tokio::time::timeout(PATIENCE_WITH_HOOKS, running_hooks).await }).is_err() {
        tracing::warn!("a hook's program does not end; it is left alone");
    }
    if let Some(control) = control {
        // Waited for: its socket is gone before another mount can have the number of this one.
        control.abort();
        let _ = runtime.block_on(control);
    }
    let cannot = |error| Failure::Unmount { at: at.clone(), error };
    mounted.detach().map_err(cannot)?;
    // At once: nobody can open anything any more, and what follows may take its time.
    fs.flush();
    // Before the end of the loop, which makes what is still on its way.
    runtime.block_on(give_all_back(&cache, &leases));
    // At once: whoever has a file open keeps that one's bytes only, and may keep us for a while yet.
    fs.flush();
    let ended = mounted.unmount().map_err(cannot)?;
    fs.flush();
    // Questions that nobody waits for any more are not worth waiting for.
    runtime.shutdown_timeout(Duration::from_millis(200));
    if ended == Unmounted::InUse {
        tracing::warn!(mountpoint = %at, "was in use: detached; files still open in it give errors from now on");
    }
    Ok(())
}

/// Gives back every lease, and what backends had for the mount; says what could not be given back.
async fn give_all_back(cache: &SecretCache, leases: &Leases) {
    for left in leases.revoke_all(PATIENCE_WITH_LEASES).await {
        let backend = cache.source(left.of.source).map_or("", |source| &source.name);
        tracing::error!(
            backend = %backend,
            path = %left.of.path,
            "a lease is not revoked, and lives until its end: {}", left.error
        );
    }
    let closing = cache.backends().into_iter().map(|backend| async move { backend.close().await });
    if tokio::time::timeout(PATIENCE_WITH_TOKENS, join_all(closing)).await.is_err() {
        tracing::error!("a backend does not take back what was had for the mount, such as a token");
    }
}

fn build_source((name, backend): (String, BackendPlan)) -> Result<Source, Failure> {
    let built: Result<Arc<dyn Backend>, String> = match backend {
        BackendPlan::Vault(config) => vault::build(config).map(shared).map_err(|error| error.to_string()),
        BackendPlan::Aws(config) => Ok(shared(Aws::new(config))),
        BackendPlan::Store(config) => {
            Store::new(config, Clock::System).map(shared).map_err(|error| error.to_string())
        }
    };
    match built {
        Ok(backend) => Ok(Source { name, backend }),
        Err(problem) => Err(Failure::Backend { name, problem }),
    }
}

fn shared<B: Backend>(backend: B) -> Arc<dyn Backend> {
    Arc::new(backend)
}

fn tell_systemd(state: &[sd_notify::NotifyState]) {
    // Without NOTIFY_SOCKET this does nothing; a broken socket is systemd's to notice.
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify systemd: {}", error.kind());
    }
}

fn mount_failure(at: &str, allow_other: bool, error: &io::Error) -> Failure {
    let text = error.to_string();
    let problem = if text.contains("user_allow_other") {
        "allow_other is for users only where /etc/fuse.conf has a line `user_allow_other`; add it, or leave allow_other out"
            .to_owned()
    } else if error.kind() == io::ErrorKind::NotFound {
        let device = std::path::Path::new("/dev/fuse").exists();
        let folder = std::path::Path::new(at).exists();
        match (device, folder) {
            (false, _) => {
                "/dev/fuse is missing: load the fuse module (`modprobe fuse`) or pass the device in"
                    .to_owned()
            }
            (_, false) => "there is no such directory: make it first".to_owned(),
            _ => "mounting as a user needs `fusermount3`: install the package fuse3".to_owned(),
        }
    } else if error.kind() == io::ErrorKind::PermissionDenied && !allow_other {
        format!("{}: check the permissions of the directory and of /dev/fuse", error.kind())
    } else {
        text.trim().replace('\n', "; ")
    };
    Failure::Mount { at: at.to_owned(), problem }
}
