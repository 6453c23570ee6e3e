//! Owns the parts of a mount: how they are built from a plan, which of them run in the background, and how those are stopped.
//! Does not know the holder, or when any of it is to be done.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::super::channel::{Channel, ToHolder};
use super::super::sandbox::Entered;
use super::super::start::Start;
use super::super::{BackendPlan, Failure, Plan, watchers};
use crate::backend::aws::Aws;
use crate::backend::store::Store;
use crate::backend::{Backend, vault};
use crate::cache::{Changed, SecretCache, SecretRef, Source, SourceId};
use crate::clock::Clock;
use crate::control::status::Measure;
use crate::control::{self, Control};
use crate::fs::SecretFs;
use crate::fuse::Serving;
use crate::hands;
use crate::hooks::Hooks;
use crate::leases::Leases;
use crate::path::BackendPath;
use crate::refresh::Refresher;
use crate::tree::journal::Journal;
use crate::tree::{TreeId, Trees};

/// How long the end of a mount waits for hooks: they are killed a second after they were told to end.
const PATIENCE_WITH_HOOKS: Duration = Duration::from_secs(2);
/// How long it waits for leases to be given back: a busy PostgreSQL has dropped 189 users in ten seconds. The holder's patience with
/// an end, and `TimeoutStopSec` of systemd/secretfs@.service, are longer than all of this.
const PATIENCE_WITH_LEASES: Duration = Duration::from_secs(45);
/// And then for tokens.
const PATIENCE_WITH_TOKENS: Duration = Duration::from_secs(10);

/// What a mount is made of, but for what the kernel knows of it.
pub(super) struct Parts {
    pub(super) cache: Arc<SecretCache>,
    pub(super) leases: Arc<Leases>,
    trees: Trees,
    pub(super) hooks: Arc<Hooks>,
    hands: hands::Client,
    deadline: Duration,
    pair_window: Duration,
    max_value_size: usize,
    /// From the start: what nobody hears is lost. For those who watch, and for hooks.
    changes: [UnboundedReceiver<Changed>; 2],
}

/// All of it.
pub(super) struct Shown {
    pub(super) fs: Arc<SecretFs>,
    pub(super) cache: Arc<SecretCache>,
    pub(super) leases: Arc<Leases>,
    trees: Trees,
    pub(super) hooks: Arc<Hooks>,
    hands: hands::Client,
    deadline: Duration,
    news: Option<(UnboundedReceiver<Changed>, UnboundedReceiver<Changed>)>,
    of_hooks: Option<UnboundedReceiver<Changed>>,
}

/// What runs in the background and is to be stopped.
pub(super) struct Running {
    hooks: JoinHandle<()>,
    control: Option<JoinHandle<Infallible>>,
}

impl Parts {
    /// All of them, as planned, for the mount at `at`. Nothing runs, and no backend is asked.
    ///
    /// # Errors
    /// A backend or a hook that cannot work.
    pub(super) fn build(plan: Plan, at: &Path, hands: hands::Client) -> Result<Self, Failure> {
        let Plan { deadline, limits, max_value_size, backends, pair_window, .. } = plan;
        let trees = Trees::new(plan.trees).with_promises(plan.promises);
        let sources = backends.into_iter().map(build_source).collect::<Result<_, _>>()?;
        let of_trees = trees.clone();
        let cache = SecretCache::new(sources, limits, Clock::System)
            .with_policy(Box::new(move |of| of_trees.freshness_of(of)));
        let cache = Arc::new(cache);
        let of_trees = trees.clone();
        let terms = Box::new(move |of: &SecretRef| of_trees.terms_of(of));
        let leases = Arc::new(Leases::new(cache.clone(), plan.demands, plan.lease_limits, terms));
        let (of_hooks, client) = (trees.clone(), hands.clone());
        let hooks = Hooks::new(plan.hooks, of_hooks, cache.clone(), leases.clone(), at.to_owned(), client)
            .map_err(Failure::Hooks)?;
        let hooks = Arc::new(hooks);
        let changes = [cache.subscribe(), cache.subscribe()];
        Ok(Self { cache, leases, trees, hooks, hands, deadline, pair_window, max_value_size, changes })
    }

    /// Has backends prepare themselves for those who used the mount a moment ago and wait for it. Each asks for one thing after the other.
    pub(super) fn warm_up(&self, runtime: &Runtime) {
        let roots = (0..).map_while(|id| self.trees.get(TreeId(id))).map(|tree| &tree.root);
        let mut places: BTreeMap<SourceId, Vec<BackendPath>> = BTreeMap::new();
        for SecretRef { source, path, .. } in roots {
            places.entry(*source).or_default().push(path.clone());
        }
        for (source, paths) in places {
            let Some(backend) = self.cache.source(source).map(|source| source.backend.clone()) else {
                continue;
            };
            runtime.spawn(async move {
                for path in paths {
                    // One that gives no answer is not asked on behalf of nobody.
                    if backend.warm_up(&path).await.is_err_and(|error| !error.is_answer()) {
                        return;
                    }
                }
            });
        }
    }

    /// The same, with what the kernel was told by former workers.
    pub(super) fn show(self, journal: Journal) -> Shown {
        let Self { cache, leases, trees, hooks, hands, deadline, pair_window, max_value_size, changes } =
            self;
        let fs = SecretFs::new(trees.clone(), cache.clone(), max_value_size)
            .with_pair_window(pair_window)
            .with_leases(leases.clone())
            .with_journal(journal);
        let late = fs.subscribe_to_late();
        let fs = Arc::new(fs);
        let [changes, of_hooks] = changes;
        let (news, of_hooks) = (Some((changes, late)), Some(of_hooks));
        Shown { fs, cache, leases, trees, hooks, hands, deadline, news, of_hooks }
    }
}

impl Shown {
    /// Begins all that runs in the background of a mount that is served.
    pub(super) fn run(
        &mut self,
        runtime: &Runtime,
        serving: &Serving,
        (start, entered): (&Start, &Entered),
        channel: &Channel,
    ) -> Running {
        let teller = serving.teller().clone();
        let period = self.trees.promises().shortest_ttl() / 2;
        match teller.problem() {
            None => {
                let (fs, hands) = (self.fs.clone(), self.hands.clone());
                runtime.spawn(watchers::note_watched_forever(fs, hands, period));
            }
            Some(why) => {
                tracing::info!("programs that watch files (inotify) are not told of changes: {why}");
            }
        }
        let changes = self.of_hooks.take().unwrap_or_else(|| self.cache.subscribe());
        let hooks = runtime.spawn(self.hooks.clone().run(changes));
        runtime.spawn(Refresher::new(self.cache.clone(), self.leases.clone()).run());
        for backend in self.cache.backends() {
            runtime.spawn(async move { backend.tend().await });
        }
        let control = start
            .device
            .clone()
            .map(|device| self.control(runtime, serving, (start, entered), channel, device));
        let told = teller.clone();
        let news = self.news.take();
        runtime.spawn(async move {
            let Some((mut changes, mut late)) = news else { return };
            // Again after a thread got an older version for the sake of a pair: it can have the newest from then on.
            while let Some(changed) = tokio::select! {
                changed = changes.recv() => changed,
                changed = late.recv() => changed,
            } {
                told.tell(changed);
            }
        });
        runtime.spawn(self.fs.clone().sweep_pins_forever());
        Running { hooks, control }
    }

    fn control(
        &self,
        runtime: &Runtime,
        serving: &Serving,
        (start, entered): (&Start, &Entered),
        channel: &Channel,
        device: String,
    ) -> JoinHandle<Infallible> {
        let hooks = self.hooks.clone();
        let hooks = Box::new(move || hooks.states().into_iter().map(Into::into).collect());
        let told = serving.teller().clone();
        let watchers = Box::new(move || told.problem().map_or(Ok(()), |why| Err(why.to_string())));
        let channel = channel.clone();
        let upgrade = Box::new(move |asked_by: OwnedFd| channel.send(&ToHolder::Upgrade, &[&asked_by]));
        let control = Control {
            fs: self.fs.clone(),
            trees: self.trees.clone(),
            cache: self.cache.clone(),
            leases: self.leases.clone(),
            since: start.since,
            process: start.holder,
            crashes: start.crashes,
            deadline: self.deadline,
            hooks,
            watchers,
            sandbox: entered.measures().into_iter().map(measure).collect(),
            upgrade,
        };
        let socket = runtime.block_on(control::claim(&device));
        if let Err(error) = &socket {
            tracing::warn!(
                "no control socket, so `secretfs status`, `refresh`, `revoke`, `flush` and `upgrade` do not work: {error}"
            );
        }
        runtime.spawn(async move { control.serve(&device, socket.ok()).await })
    }
}

impl Running {
    /// Stops what could use the mount, or be asked for something.
    pub(super) fn stop(self, runtime: &Runtime, parts: &Shown) {
        // First: a program of a hook that reads the mount would keep it in use.
        parts.hooks.stop();
        let hooks = self.hooks;
        if runtime.block_on(async { tokio::time::timeout(PATIENCE_WITH_HOOKS, hooks).await }).is_err() {
            tracing::warn!("a hook's program does not end; it is left alone");
        }
        if let Some(control) = self.control {
            // Waited for: its socket is gone before another mount can have the number of this one.
            control.abort();
            let _ = runtime.block_on(control);
        }
    }
}

fn measure((name, held): (&str, &Result<(), String>)) -> Measure {
    Measure { name: name.to_owned(), holds: held.is_ok(), why_not: held.clone().err() }
}

/// Gives back every lease, and what backends had for the mount; says what could not be given back.
pub(super) async fn give_all_back(leases: &Leases, cache: &SecretCache) {
    for left in leases.revoke_all(PATIENCE_WITH_LEASES).await {
        let backend = cache.source(left.of.source).map_or("", |source| &source.name);
        tracing::error!(
            backend = %backend,
            path = %left.of.path,
            "a lease is not revoked, and lives until its end: {}", left.error
        );
    }
    // A token that is given back would end the leases that were made with it, also those that are to be kept.
    let kept = leases.tokens_kept();
    let sources = (0..).map(SourceId::new).map_while(|id| Some((id, cache.source(id)?.backend.clone())));
    let closing = sources.map(|(id, backend)| {
        let kept = kept.get(&id).cloned().unwrap_or_default();
        async move { backend.close(&kept).await }
    });
    if tokio::time::timeout(PATIENCE_WITH_TOKENS, join_all(closing)).await.is_err() {
        tracing::error!("a backend does not take back what was had for the mount, such as a token");
    }
}

/// A backend as planned; it asks nobody yet.
pub(in super::super) fn build_source((name, backend): (String, BackendPlan)) -> Result<Source, Failure> {
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
