//! Owns a mount that this very process serves, of a backend in memory that makes secrets on demand, with the loop that makes them.
//! Does not know the real program or a real server, which other tests of leases have.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secretfs::access::Permissions;
use secretfs::backend::issuer::Demand;
use secretfs::backend::mint::{Mint, Role};
use secretfs::cache::{Changed, DemandId, Limits, SecretCache, SecretRef, Source, SourceId};
use secretfs::clock::Clock;
use secretfs::fs::SecretFs;
use secretfs::fuse::{self, Mounted};
use secretfs::hands::Hands;
use secretfs::lease::Terms;
use secretfs::leases::Leases;
use secretfs::path::BackendPath;
use secretfs::refresh::Refresher;
use secretfs::tree::{Tree, Trees};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::UnboundedReceiver;

/// A mount of the folder `creds` of an engine that makes secrets, and its parts.
pub struct LeaseRig {
    pub at: PathBuf,
    pub mint: Arc<Mint>,
    pub leases: Arc<Leases>,
    pub mounted: Mounted,
    /// They touch for it.
    _hands: Hands,
    pub runtime: Runtime,
    pub news: UnboundedReceiver<Changed>,
    _folder: tempfile::TempDir,
}

impl LeaseRig {
    /// A mount with these roles, whose every secret has a user name and a password with `filling` in them.
    pub fn mount(roles: &[&str], filling: &str) -> Self {
        Self::mount_with_mode(roles, filling, 0o400)
    }

    /// The same with this mode of files.
    pub fn mount_with_mode(roles: &[&str], filling: &str, file_mode: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap().join("mnt");
        std::fs::create_dir(&at).unwrap();
        let mint = Arc::new(Mint::new(Clock::System));
        for role in roles {
            let fields = vec!["username".to_owned(), "password".to_owned()];
            mint.role(&format!("creds/{role}"), Role { fields, ..Role::default() });
        }
        let source = Source { name: "test".into(), backend: mint.clone() };
        let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), Clock::System));
        let news = cache.subscribe();
        let mut demand = Demand::default();
        demand.parameters.insert("name".to_owned(), filling.into());
        let terms = Box::new(|_: &SecretRef| Terms::default());
        let leases = Arc::new(Leases::new(cache.clone(), vec![demand], vec![], terms));
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let root = SecretRef { demand: DemandId(1), ..of("creds") };
        let tree = Tree::of_place(vec![], root, Permissions { uid, gid, file_mode });
        let fs = SecretFs::new(Trees::new(vec![tree]), cache.clone(), 1 << 20).with_leases(leases.clone());
        let fs = Arc::new(fs);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.spawn(Refresher::new(cache, leases.clone()).run());
        let options = fuse::Options {
            source: "secretfs#test".into(),
            allow_other: false,
            deadline: Duration::from_secs(5),
            threads: 2,
        };
        let held = fuse::hold(&at, &options).unwrap();
        let hands = Hands::new(held.place(), at.clone(), vec![]).unwrap();
        let (client, handle) = (hands.client().unwrap(), runtime.handle().clone());
        let mounted = fuse::mount(held, fs, &options, client, handle).unwrap();
        Self { at, mint, leases, mounted, _hands: hands, runtime, news, _folder: folder }
    }

    /// A path in the mount.
    pub fn path(&self, below: &str) -> PathBuf {
        self.at.join(below)
    }

    /// The secret of a role.
    pub fn of(&self, role: &str) -> SecretRef {
        SecretRef { demand: DemandId(1), ..of(&format!("creds/{role}")) }
    }

    /// How many secrets a role has made, or all roles.
    pub fn made(&self, role: Option<&str>) -> usize {
        let path = role.map(|role| format!("creds/{role}"));
        self.mint.made().iter().filter(|made| path.as_ref().is_none_or(|path| made.path == *path)).count()
    }

    /// The number of the newest secret of a role.
    pub fn newest(&self, role: &str) -> usize {
        let path = format!("creds/{role}");
        self.mint.made().iter().rposition(|made| made.path == path).unwrap()
    }

    /// Every file that is listed.
    pub fn files(&self) -> Vec<PathBuf> {
        let names = |folder: &Path| {
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        names(&self.at).iter().flat_map(|role| names(role)).collect()
    }
}

fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}
