//! Owns the promises to containers: what they have bound of a mount lives on when its program is killed or exchanged, and what
//! they see when the mount ends. Figures: `SECRETFS_DRILL=full cargo test --test it -- containers:: --nocapture`.
//! Does not know who watches files; watch/containers.rs has what holds without a crash.

mod ends;
mod lives;
mod users;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use crate::support::container::{Inside, Shared, containers_run};
use crate::support::mount::{Mount, Plan, Store, possible, run, secretfs, signal, wait_until};
use crate::support::{available, program};

/// The secret that is rotated, and one that is not; a number follows.
const KEY: &str = "canary-key-";
const PASSWORD: &str = "canary-password-";

/// A mount in a folder whose mounts are shared, as the containers of this machine may bind it.
struct Rig {
    mount: Mount,
    store: Store,
    version: u32,
    // The last: the mount lies in it.
    shared: Shared,
}

impl Rig {
    /// `settings` as they stand in `[mount]`.
    fn new(settings: &str) -> Self {
        let (shared, store) = (Shared::folder(), Store::new());
        store.put("api-key", &[&format!("value={KEY}1")]);
        store.put("team/db", &[&format!("password={PASSWORD}1"), "user=canary-user"]);
        let config = store.folder.path().join("config.toml");
        let (age, identity) = (store.file(), store.identity());
        let text = format!(
            "[mount]\nmax_crashes = 1000\n{settings}\n[backend.local]\ntype = \"store\"\nfile = {age:?}\n\
             identity = {identity:?}\n[[tree]]\npath = \"/\"\nbackend = \"local\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let mount = Self::plan(&shared).arg("--config").arg(config).start();
        Self { mount, store, version: 1, shared }
    }

    fn plan(shared: &Shared) -> Plan {
        // So that its place is known before it is mounted.
        let folder =
            tempfile::Builder::new().prefix("secretfs").rand_bytes(0).tempdir_in(shared.path()).unwrap();
        crate::users::open_to_all(Plan::in_folder("", folder))
    }

    /// A path in the mount, as a word for others.
    fn at(&self, below: &str) -> String {
        self.mount.path(below).to_string_lossy().into_owned()
    }

    /// The next version of `api-key`, as somebody puts it who does not wait until it is seen.
    fn rotate(&mut self) {
        self.version += 1;
        self.store.put("api-key", &[&format!("value={KEY}{}", self.version)]);
    }

    fn key(&self) -> String {
        format!("={KEY}{}", self.version)
    }

    /// Kills the worker as soon as there is one, and tells its process id.
    fn kill_worker(&self, last: Option<u32>) -> u32 {
        let mut worker = None;
        wait_until("another worker", || {
            worker = self.mount.worker_now().filter(|worker| Some(*worker) != last);
            worker.is_some()
        });
        signal(worker.unwrap(), "KILL");
        worker.unwrap()
    }

    /// A place of one's own for a bind outside of containers.
    fn place(&self, name: &str, is_file: bool) -> String {
        let place = self.shared.path().join(name);
        if is_file {
            std::fs::write(&place, "").unwrap()
        } else {
            std::fs::create_dir(&place).unwrap()
        }
        place.to_string_lossy().into_owned()
    }
}

/// A program somewhere, and where it finds the mount, the folder `team/db`, and the file `api-key/value`.
struct Reader {
    inside: Inside,
    whole: String,
    sub: String,
    one: String,
}

impl Reader {
    /// In a container that has bound the mount with this propagation.
    fn in_podman(rig: &Rig, propagation: &str) -> Self {
        let volumes = [
            format!("{}:/whole:ro,{propagation}", rig.at("")),
            format!("{}:/sub:ro,{propagation}", rig.at("team/db")),
            format!("{}:/one:ro,{propagation}", rig.at("api-key/value")),
        ];
        let options: Vec<String> =
            volumes.iter().flat_map(|volume| ["--volume".into(), volume.clone()]).collect();
        Self::of(Inside::podman(&options), "/whole", "/sub", "/one")
    }

    fn in_bubblewrap(rig: &Rig, bwrap: &std::path::Path) -> Self {
        let binds = [
            [rig.at(""), "/whole".into()],
            [rig.at("team/db"), "/sub".into()],
            [rig.at("api-key/value"), "/one".into()],
        ];
        Self::of(Inside::bubblewrap(bwrap, &binds), "/whole", "/sub", "/one")
    }

    fn in_namespace(rig: &Rig, propagation: &str) -> Self {
        let (sub, one) =
            (rig.place(&format!("sub-{propagation}"), false), rig.place(&format!("one-{propagation}"), true));
        let binds = [[rig.at("team/db"), sub.clone()], [rig.at("api-key/value"), one.clone()]];
        let inside = Inside::namespace(propagation, rig.shared.path(), &binds);
        Self::of(inside, &rig.at(""), &sub, &one)
    }

    fn of(inside: Inside, whole: &str, sub: &str, one: &str) -> Self {
        Self { inside, whole: whole.trim_end_matches('/').into(), sub: sub.into(), one: one.into() }
    }

    /// The paths of the rotated secret.
    fn keys(&self) -> [String; 2] {
        [format!("{}/api-key/value", self.whole), self.one.clone()]
    }

    fn passwords(&self) -> [String; 2] {
        [format!("{}/team/db/password", self.whole), format!("{}/password", self.sub)]
    }

    /// What an open, read and close of each of the four says.
    fn reads(&self) -> Vec<String> {
        self.keys().iter().chain(&self.passwords()).map(|path| self.inside.read(path)).collect()
    }

    /// Begins to read all four, again and again.
    fn begin(&self) {
        let (keys, passwords) = (self.keys(), self.passwords());
        let order: Vec<&str> = ["loop"]
            .into_iter()
            .chain(keys.iter().flat_map(|path| [path.as_str(), KEY]))
            .chain(passwords.iter().flat_map(|path| [path.as_str(), PASSWORD]))
            .collect();
        assert_eq!(self.inside.ask(&order), "loop");
    }

    /// Ends it, fails where a read has failed or was wrong, and tells how it was. One that was opened before a worker died, and whose
    /// version was replaced, may say ESTALE.
    fn end(&self) -> String {
        let report = self.inside.ask(&["report"]);
        let words: Vec<&str> = report.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap_or_else(|_| panic!("{report}"));
        assert_eq!((number(1), number(2)), (0, 0), "{}: failed, wrong: {report}", self.inside.name);
        assert!(number(0) > 0, "{}: nothing was read", self.inside.name);
        let longest = number(4) as f64 / 1000.0;
        format!(
            "{} reads, {} ESTALE, the longest took {longest:.1} ms; {}",
            number(0),
            number(3),
            self.inside.name
        )
    }
}

/// Whether a mount can be made that containers may bind here.
fn mountable() -> Option<()> {
    available("mount", possible())?;
    let root = rustix::process::geteuid().is_root();
    available("root", if root { Ok(()) } else { Err("not root".into()) })?;
    available("python3", Ok::<_, String>(PathBuf::from("/usr/bin/python3")).and_then(there))?;
    Some(())
}

fn there(file: PathBuf) -> Result<(), String> {
    if file.is_file() { Ok(()) } else { Err(format!("no {}", file.display())) }
}

/// Held by those who measure: what they measure is not each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// How often, as CI has the time for, or as `SECRETFS_DRILL=full` asks for.
fn rounds(ci: u32, full: u32) -> u32 {
    if std::env::var("SECRETFS_DRILL").is_ok_and(|drill| drill == "full") { full } else { ci }
}
