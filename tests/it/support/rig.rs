//! Owns a mount that this very process serves, of a backend in memory: a test decides when a secret changes and when that is told.
//! Does not know the real program, which tests of everything else run.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secretfs::access::Permissions;
use secretfs::backend::Backend;
use secretfs::backend::faulty::Faulty;
use secretfs::cache::{Changed, Limits, SecretCache, SecretRef, Source, SourceId};
use secretfs::clock::Clock;
use secretfs::freshness::Freshness;
use secretfs::fs::SecretFs;
use secretfs::fuse::{self, Mounted, Unmounted};
use secretfs::hands::Hands;
use secretfs::path::BackendPath;
use secretfs::tree::{Tree, Trees};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;

/// A mount, its backend and its parts.
pub struct Rig {
    pub at: PathBuf,
    pub backend: Arc<Faulty>,
    pub cache: Arc<SecretCache>,
    pub fs: Arc<SecretFs>,
    pub mounted: Mounted,
    /// They touch for it.
    _hands: Hands,
    pub runtime: Runtime,
    news: Mutex<UnboundedReceiver<Changed>>,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// A mount of one empty backend, at the directory `tree` of the mount (none: as the whole mount). An answer is served for an
    /// hour: nothing changes unless a test says so.
    pub fn mount(tree: &[&str]) -> Self {
        Self::mount_within(Duration::from_secs(5), tree)
    }

    /// The same; every request is answered within `deadline`.
    pub fn mount_within(deadline: Duration, tree: &[&str]) -> Self {
        let backend = Arc::new(Faulty::new());
        Self { backend: backend.clone(), ..Self::mount_of(backend, deadline, tree) }
    }

    /// The same of another backend than [`Rig::backend`].
    pub fn mount_of(of_mount: Arc<dyn Backend>, deadline: Duration, tree: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap().join("mnt");
        std::fs::create_dir(&at).unwrap();
        let backend = Arc::new(Faulty::new());
        let source = Source { name: "test".into(), backend: of_mount };
        // What a test has just put is found.
        let (ttl, negative_ttl) = (Duration::from_secs(3600), Duration::ZERO);
        let freshness = Freshness { ttl, negative_ttl, ..Freshness::default() };
        let limits = Limits { freshness, ..Limits::default() };
        let cache = Arc::new(SecretCache::new(vec![source], limits, Clock::System));
        let news = Mutex::new(cache.subscribe());
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let tree = Tree::of_place(
            tree.iter().map(|name| (*name).to_owned()).collect(),
            of(""),
            Permissions { uid, gid, file_mode: 0o400 },
        );
        let fs = Arc::new(SecretFs::new(Trees::new(vec![tree]), cache.clone(), 1 << 20));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let options =
            fuse::Options { source: "secretfs#test".into(), allow_other: false, deadline, threads: 2 };
        let held = fuse::hold(&at, &options).unwrap();
        let hands = Hands::new(held.place(), at.clone(), vec![]).unwrap();
        let (client, handle) = (hands.client().unwrap(), runtime.handle().clone());
        let mounted = fuse::mount(held, fs.clone(), &options, client, handle).unwrap();
        Self { at, backend, cache, fs, mounted, _hands: hands, runtime, news, _folder: folder }
    }

    /// Why a change cannot be told, where it cannot.
    pub fn tells(&self) -> Result<(), String> {
        self.mounted.teller().problem().map_or(Ok(()), Err)
    }

    /// Lets the cache find out what has become of the secret at `path`, and tells of all that it has found.
    pub fn refresh(&self, path: &str) {
        let _ = self.runtime.block_on(self.cache.refresh(&of(path)));
        self.tell();
    }

    /// Tells of all that the cache has found.
    pub fn tell(&self) {
        let mut news = self.news.lock().unwrap();
        while let Ok(changed) = news.try_recv() {
            self.mounted.teller().tell(changed);
        }
    }

    /// A new version with these fields, which is told.
    pub fn rotate(&self, path: &str, fields: &[(&str, &str)]) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        self.backend.put(path, &fields);
        self.refresh(path);
    }

    /// Unmounts as the program does at its end.
    pub fn unmount(self) -> Unmounted {
        self.mounted.unmount().unwrap()
    }
}

/// The current version of what lies at `path` in the backend.
pub fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}
