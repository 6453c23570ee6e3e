//! Owns the promises of secrets made on demand as the filesystem has them: looking makes nothing, opening makes one for all.
//! Does not know a kernel or a real server; a walk through a real mount is in tests/it/leases.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;

use super::*;
use async_trait::async_trait;

use crate::access::Permissions;
use crate::backend::issuer::Issuer;
use crate::backend::mint::{Call, Mint, Role};
use crate::backend::{Backend, Kind, Listing};
use crate::cache::{self, SecretCache, Source, SourceId};
use crate::clock::Clock;
use crate::errno::Failure;
use crate::fs::{Attributes, Caller, Opened, RefsAt};
use crate::lease::Terms;
use crate::leases::Limits;
use crate::path::BackendPath;
use crate::tree::inode::INodeNo;
use crate::tree::{Shows, Tree, Trees};

const CREDS: &str = "database/creds";
const APP: &str = "database/creds/app";
const READER: Caller = Caller(77);

struct World {
    clock: Clock,
    mint: Arc<Mint>,
    leases: Arc<Leases>,
    fs: SecretFs,
}

fn of(path: &str) -> SecretRef {
    SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
}

fn user_and_password() -> Role {
    Role { fields: vec!["username".to_owned(), "password".to_owned()], ..Role::default() }
}

/// A tree at `at` of what lies at `path`.
fn tree(at: &str, path: &str) -> Tree {
    let at = at.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Tree::of_place(at, of(path), Permissions { uid: 7, gid: 8, file_mode: 0o400 })
}

fn declared(at: &str, path: &str) -> Tree {
    Tree { shows: Shows::Secret, ..tree(at, path) }
}

/// A backend that may not be listed, as a token with few rights sees it.
struct Shy(Arc<Mint>);

#[async_trait]
impl Backend for Shy {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    async fn read(&self, path: &BackendPath) -> Result<Secret, Error> {
        self.0.read(path).await
    }

    async fn list(&self, _: &BackendPath) -> Result<Listing, Error> {
        Err(Error::Forbidden)
    }

    fn issuer(&self) -> Option<&dyn Issuer> {
        self.0.issuer()
    }
}

fn world_of(trees: Vec<Tree>, limits: Limits) -> World {
    world_with(trees, limits, |mint| mint)
}

fn world_with<B: Backend>(trees: Vec<Tree>, limits: Limits, seen: impl Fn(Arc<Mint>) -> Arc<B>) -> World {
    let clock = Clock::manual();
    clock.advance(Duration::from_secs(1000));
    let mint = Arc::new(Mint::new(clock.clone()));
    let source = Source { name: "prod".into(), backend: seen(mint.clone()) };
    let cache = Arc::new(SecretCache::new(vec![source], cache::Limits::default(), clock.clone()));
    let terms = Box::new(|_: &SecretRef| Terms::default());
    let leases = Arc::new(Leases::new(cache.clone(), vec![], vec![limits], terms));
    let fs = SecretFs::new(Trees::new(trees), cache, 1024).with_leases(leases.clone());
    World { clock, mint, leases, fs }
}

/// The engine `database` with the roles `app` and `report`, mounted by the name of its roles' folder.
fn world() -> World {
    let world = world_of(vec![tree("", CREDS)], Limits::default());
    world.mint.role(APP, user_and_password());
    world.mint.role("database/creds/report", user_and_password());
    world
}

impl World {
    async fn act(&self) {
        crate::leases::tests::act(&self.leases).await;
    }

    /// Runs the loop that makes leases beside what may wait for it.
    async fn run<T>(&self, waits: impl Future<Output = T>) -> T {
        crate::leases::tests::run(&self.leases, waits).await
    }

    async fn pass(&self, time: Duration) {
        const STEP: Duration = Duration::from_millis(100);
        let end = self.clock.now().plus(time);
        while self.clock.now() < end {
            self.clock.advance(STEP);
            self.act().await;
        }
    }

    async fn walk(&self, path: &str) -> Result<Attributes, Failure> {
        let mut at = self.fs.attributes(INodeNo::ROOT, None).await?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.fs.lookup(at.ino, OsStr::new(name)).await?;
        }
        Ok(at)
    }

    async fn ls(&self, path: &str) -> Result<Vec<String>, Failure> {
        let listing = self.fs.list(self.walk(path).await?.ino).await?;
        Ok(listing.entries.into_iter().map(|entry| entry.name).collect())
    }

    async fn open(&self, path: &str) -> Result<Opened, Failure> {
        let ino = self.walk(path).await?.ino;
        self.run(self.fs.open(ino, READER)).await
    }

    fn read(&self, opened: &Opened) -> String {
        String::from_utf8(self.fs.opened(opened.handle).unwrap().read(0, usize::MAX).to_vec()).unwrap()
    }

    async fn cat(&self, path: &str) -> Result<String, Failure> {
        let opened = self.open(path).await?;
        let text = self.read(&opened);
        self.fs.release(opened.handle).unwrap();
        Ok(text)
    }

    async fn errno(&self, path: &str) -> &'static str {
        self.walk(path).await.unwrap_err().errno().name()
    }

    async fn attribute(&self, path: &str, name: &str) -> Result<String, Failure> {
        self.fs.attribute(self.walk(path).await?.ino, OsStr::new(name)).await
    }

    fn made(&self) -> usize {
        self.mint.made().len()
    }

    /// That the backend was asked to make, renew or revoke nothing, and nothing is on its way.
    async fn assert_nothing_made(&self) {
        self.act().await;
        assert_eq!((self.made(), self.mint.counts(), self.leases.states().len()), (0, (0, 0, 0), 0));
    }

    /// Has the lease of `app` replaced; its predecessor lives.
    async fn replace(&self) {
        self.clock.advance(Duration::from_secs(2));
        self.run(self.leases.replace(&of(APP))).await.unwrap();
    }
}

#[tokio::test]
async fn looking_makes_nothing() {
    let world = world();
    for _ in 0..3 {
        assert_eq!(world.ls("").await.unwrap(), ["app", "report"]);
        assert_eq!(world.ls("app").await.unwrap(), ["username", "password", "serial"]);
        for file in ["username", ".json", ".env", ".docker-env"] {
            let seen = world.walk(&format!("app/{file}")).await.unwrap();
            assert_eq!((seen.size, seen.mtime, seen.lasting), (0, world.fs.mounted, false), "{file}");
            assert_eq!(world.fs.attributes(seen.ino, None).await.unwrap(), seen);
            world.fs.note_watched([seen.ino]);
            world.fs.known(seen.ino).unwrap();
            for name in world.fs.attribute_names(seen.ino).unwrap() {
                world.fs.attribute(seen.ino, OsStr::new(name)).await.unwrap();
            }
            assert!(world.fs.attribute(seen.ino, OsStr::new("explain")).await.unwrap().contains("none yet"));
        }
        for absent in ["nope", "app/nope", "app/.versions", "app/.versions/1", "app/.previous", ".json"] {
            assert_eq!(world.errno(absent).await, "ENOENT", "{absent}");
        }
        world.clock.advance(Duration::from_secs(100));
    }
    let root = world.walk("").await.unwrap().ino;
    assert!(world.fs.attribute(root, OsStr::new("explain.app")).await.unwrap().contains("none yet"));
    world.assert_nothing_made().await;
    assert!(world.fs.cache.held().is_empty());
}

#[tokio::test]
async fn what_is_known_is_told_before_there_is_a_lease_and_opening_that_makes_none() {
    let world = world();
    let seen = world.walk("app/.meta").await.unwrap();
    let meta = world.cat("app/.meta").await.unwrap();
    assert_eq!(seen.size, meta.len() as u64);
    let parsed: serde_json::Value = serde_json::from_str(&meta).unwrap();
    assert_eq!(
        (&parsed["path"], &parsed["version"], &parsed["lease"]),
        (&APP.into(), &"".into(), &"none yet".into())
    );
    assert!(parsed["fetched"].is_null() && parsed["expires"].is_null());
    assert_eq!(world.attribute("app/password", "lease").await.unwrap(), "none yet");
    assert_eq!(world.attribute("app", "version").await.unwrap(), "");
    assert_eq!(world.attribute("app/password", "fetched").await, Err(Failure::NoAttribute));
    assert_eq!(world.attribute("", "lease").await, Err(Failure::NoAttribute), "a folder");
    world.assert_nothing_made().await;
    world.cat("app/password").await.unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&world.cat("app/.meta").await.unwrap()).unwrap();
    assert_eq!(parsed["lease"], "held");
    assert!(parsed["expires"].is_string() && parsed["fetched"].is_string() && parsed["version"] != "");
    assert!(world.attribute("app", "explain").await.unwrap().contains("readable: yes"));
}

#[tokio::test]
async fn from_the_open_on_sizes_are_exact_and_the_kernel_is_told_so() {
    let world = world();
    let before = world.walk("app/password").await.unwrap();
    let beside = world.walk("app/username").await.unwrap();
    let opened = world.open("app/password").await.unwrap();
    assert!(opened.attributes_changed, "the kernel was told a size of 0");
    assert_eq!(world.read(&opened), "canary--0");
    assert_eq!(world.fs.attributes_for(before.ino, None, READER).await.unwrap().size, 9, "fstat");
    assert_eq!(world.fs.attributes(before.ino, None).await.unwrap().size, 9);
    assert_eq!(world.fs.attributes(beside.ino, None).await.unwrap().size, 9, "not opened yet");
    let json = world.walk("app/.json").await.unwrap().size;
    assert_eq!(world.cat("app/.json").await.unwrap().len() as u64, json);
    let listing = world.fs.list(world.walk("app").await.unwrap().ino).await.unwrap();
    let sizes: Vec<u64> =
        listing.entries.iter().map(|entry| world.fs.look_up_entry(listing.ino, entry).size).collect();
    assert_eq!(sizes, [9, 9, 1]);
    assert!(world.walk("app/password").await.unwrap().mtime > world.fs.mounted);
    assert_eq!(world.made(), 1);
}

#[tokio::test]
async fn a_hundred_opens_at_once_make_one() {
    let world = world();
    let files = ["username", "password", ".json", ".env"];
    let mut inodes = Vec::new();
    for file in files {
        inodes.push(world.walk(&format!("app/{file}")).await.unwrap().ino);
    }
    let opens = (0..100).map(|at| world.fs.open(inodes[at % files.len()], Caller(1000 + at as u32)));
    let opened = world.run(futures_util::future::join_all(opens)).await;
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!((world.made(), world.mint.counts().2), (1, 1));
}

#[tokio::test]
async fn a_copy_of_everything_makes_one_for_each_role() {
    let world = world();
    for role in world.ls("").await.unwrap() {
        for field in world.ls(&role).await.unwrap() {
            assert!(!world.cat(&format!("{role}/{field}")).await.unwrap().is_empty());
        }
    }
    let mut roles: Vec<_> = world.mint.made().into_iter().map(|made| made.path).collect();
    roles.sort();
    assert_eq!(roles, [APP, "database/creds/report"]);
}

#[tokio::test]
async fn the_predecessor_is_read_until_it_ends() {
    let world = world();
    let first = world.open("app/password").await.unwrap();
    assert_eq!(world.errno("app/.previous").await, "ENOENT");
    world.replace().await;
    assert_eq!(world.cat("app/.previous/password").await.unwrap(), "canary--0");
    assert_eq!(world.cat("app/password").await.unwrap(), "canary--1");
    assert_eq!(world.read(&first), "canary--0", "an open file keeps its lease");
    assert_eq!(world.ls("app").await.unwrap(), ["username", "password", "serial"], "not listed");
    assert_eq!(world.ls("app/.previous").await.unwrap(), ["username", "password", "serial"]);
    assert!(world.cat("app/.previous/.json").await.unwrap().contains("canary--0"));
    assert!(world.cat("app/.previous/.meta").await.unwrap().contains("\"lease\":\"predecessor\""));
    assert!(world.attribute("app/.previous", "explain").await.unwrap().contains("the predecessor"));
    for absent in ["app/.previous/.previous", "app/.previous/.versions", "app/.previous/nope"] {
        assert_eq!(world.errno(absent).await, "ENOENT", "{absent}");
    }
    let (file, directory) =
        (world.walk("app/.previous/password").await.unwrap(), world.walk("app/.previous").await.unwrap());
    assert_eq!(file.size, 9);
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.fs.open(file.ino, READER).await.unwrap_err().errno().name(), "ENOENT");
    assert_eq!(world.fs.list(directory.ino).await.unwrap_err().errno().name(), "ENOENT");
    assert_eq!(world.errno("app/.previous").await, "ENOENT");
    assert_eq!(world.made(), 2);
}

#[tokio::test]
async fn user_name_and_password_are_of_one_lease_across_a_replacement() {
    let world = world();
    world.cat("app/username").await.unwrap();
    world.run(world.leases.replace(&of(APP))).await.unwrap();
    assert_eq!(world.cat("app/password").await.unwrap(), "canary--0", "as the user name was");
    assert_eq!(world.cat("app/username").await.unwrap(), "canary--1", "read again");
    assert_eq!(world.cat("app/password").await.unwrap(), "canary--1");
}

#[tokio::test]
async fn what_was_given_back_or_lost_is_not_served_for_a_pairs_sake() {
    let world = world();
    world.cat("app/username").await.unwrap();
    world.run(world.leases.revoke(&of(APP))).await.unwrap();
    assert_eq!(world.cat("app/password").await.unwrap(), "canary--1");
    world.cat("app/username").await.unwrap();
    world.mint.lose_parent();
    assert_eq!(world.walk("app/password").await.unwrap().size, 0, "nothing is held that is good");
    world.clock.advance(Duration::from_millis(1500));
    assert_eq!(world.cat("app/password").await.unwrap(), "canary--2");
}

#[tokio::test]
async fn a_secret_of_the_configuration_is_the_root_of_its_tree() {
    let world = world_of(vec![declared("apps/db", APP), declared("apps/ssh", "ssh/sign")], Limits::default());
    world.mint.role(APP, user_and_password());
    world.mint.role("database/creds/app/below", Role::default());
    assert_eq!(world.ls("").await.unwrap(), ["apps"]);
    assert_eq!(world.ls("apps/db").await.unwrap(), ["username", "password", "serial"]);
    assert_eq!(world.errno("apps/db/below").await, "ENOENT", "nothing lies below a secret");
    assert_eq!(world.ls("apps/ssh").await.unwrap_err().errno().name(), "ENOENT", "no such role");
    world.assert_nothing_made().await;
    assert_eq!(world.cat("apps/db/password").await.unwrap(), "canary--0");
    let names = |path: &str| path.split('/').map(std::ffi::OsString::from).collect::<Vec<_>>();
    for path in ["apps/db", "apps/db/password", "apps/db/.meta"] {
        assert_eq!(world.fs.refs_at(&names(path)).await.unwrap(), RefsAt::OnDemand(of(APP)), "{path}");
    }
    assert_eq!(world.fs.refs_at(&names("apps")).await.unwrap(), RefsAt::Junction(vec![]));
    assert_eq!(world.fs.secrets_on_demand_below(&["apps".into()]), [of(APP), of("ssh/sign")]);
}

#[tokio::test]
async fn names_of_fields_come_from_the_configuration_the_backend_or_the_first_lease() {
    let fields: Arc<[String]> = Arc::from(["token".to_owned()]);
    let said = Tree { fields: Some(fields), ..declared("said", "custom/a") };
    let world = world_of(vec![said, declared("unknown", "custom/b")], Limits::default());
    let silent = Role { tells_fields: false, ..user_and_password() };
    world.mint.role("custom/a", silent.clone());
    world.mint.role("custom/b", silent);
    assert_eq!(world.ls("said").await.unwrap(), ["token"]);
    assert_eq!(world.ls("unknown").await.unwrap(), [""; 0]);
    assert_eq!(world.errno("unknown/password").await, "ENOENT");
    for view in [".json", ".env", ".docker-env", ".meta"] {
        world.walk(&format!("unknown/{view}")).await.unwrap();
    }
    world.assert_nothing_made().await;
    assert!(world.cat("unknown/.json").await.unwrap().contains("canary--0"));
    assert_eq!(world.ls("unknown").await.unwrap(), ["username", "password", "serial"]);
    // What the configuration says and the lease does not have.
    assert_eq!(world.open("said/token").await.unwrap_err(), Failure::NoEntry);
    assert_eq!(world.ls("said").await.unwrap(), ["username", "password", "serial"]);
}

#[tokio::test]
async fn what_cannot_be_made_has_an_error_number_and_looking_goes_on() {
    let world = world();
    for (error, name) in [
        (Error::Forbidden, "EACCES"),
        (Error::NotFound, "ENOENT"),
        (Error::Status(500), "EIO"),
        (Error::TimedOut(Duration::from_secs(1)), "ETIMEDOUT"),
    ] {
        world.mint.fail(Call::Issue, Some(error));
        assert_eq!(world.open("app/password").await.unwrap_err().errno().name(), name);
        assert_eq!(world.walk("app/password").await.unwrap().size, 0);
        assert_eq!(world.ls("app").await.unwrap().len(), 3);
        let why = world.attribute("app/password", "explain").await.unwrap();
        assert!(why.contains(&format!("readable: no: {name} (")), "{why}");
        world.pass(Duration::from_secs(20)).await;
    }
    world.mint.fail(Call::Issue, None);
    assert_eq!(world.cat("app/password").await.unwrap(), "canary--0");
    assert!(world.attribute("app/password", "explain").await.unwrap().ends_with("readable: yes\n"));
}

#[tokio::test]
async fn where_listing_is_forbidden_a_known_role_opens_by_name_and_is_not_made_before() {
    for (root, app) in [(CREDS, "app"), ("database", "creds/app"), (APP, "")] {
        let shy = |mint| Arc::new(Shy(mint));
        let world = world_with(vec![tree("at", root)], Limits::default(), shy);
        world.mint.role(APP, user_and_password());
        let app = format!("at/{app}");
        assert_eq!(world.walk(&format!("{app}/password")).await.unwrap().size, 0, "{root}");
        assert_eq!(world.errno(&format!("{app}/nope")).await, "ENOENT", "{root}");
        assert_eq!(world.errno(&format!("{app}/.previous")).await, "ENOENT", "{root}");
        assert_eq!(world.ls(&app).await.unwrap(), ["username", "password", "serial"], "{root}");
        world.walk(&format!("{app}/.meta")).await.unwrap();
        if root != APP {
            assert_eq!(world.ls("at").await.unwrap_err().errno().name(), "EACCES", "{root}");
            assert_eq!(world.errno("at/.json").await, "ENOENT", "{root}");
        }
        world.assert_nothing_made().await;
        assert_eq!(world.cat(&format!("{app}/password")).await.unwrap(), "canary--0", "{root}");
        assert_eq!(world.made(), 1);
    }
}

#[tokio::test]
async fn one_lease_more_than_allowed_is_edquot() {
    let world = world_of(vec![tree("", CREDS)], Limits { max_leases: 1, ..Limits::default() });
    world.mint.role(APP, user_and_password());
    world.mint.role("database/creds/report", user_and_password());
    world.cat("app/password").await.unwrap();
    assert_eq!(world.open("report/password").await.unwrap_err().errno().name(), "EDQUOT");
    assert_eq!(world.ls("report").await.unwrap().len(), 3);
    assert_eq!(world.cat("app/username").await.unwrap(), "canary--0");
}

#[tokio::test]
async fn an_undeclared_role_is_not_there_and_the_reason_is_told() {
    let world = world_of(vec![tree("kept", "kept")], Limits::default());
    assert_eq!(world.ls("kept").await.unwrap_err().errno().name(), "ENOENT");
    // The tree is known as one of kept secrets by now; its engine is enabled below it.
    world.mint.role("kept/creds", user_and_password());
    world.clock.advance(Duration::from_secs(2));
    for path in ["kept/creds/password", "kept/creds/.previous"] {
        assert_eq!(world.errno(path).await, "ENOENT", "{path}");
    }
    let told = world.attribute("kept", "explain.creds").await.unwrap();
    assert!(told.contains("no: ENOENT (made on demand and not declared"), "{told}");
    assert!(told.contains("[[secret]]") && told.contains("`prod:kept/creds`"), "{told}");
    assert_eq!(world.ls("kept/creds").await.unwrap_err().errno().name(), "ENOENT");
    let told = world.attribute("kept/creds", "explain.password").await.unwrap();
    assert!(told.contains("`prod:kept/creds`"), "{told}");
    world.assert_nothing_made().await;
}

#[tokio::test]
async fn watchers_are_told_of_a_replacement_with_the_new_size() {
    let world = world();
    world.cat("app/password").await.unwrap();
    let (directory, file) =
        (world.walk("app").await.unwrap().ino, world.walk("app/password").await.unwrap().ino);
    let mut news = world.fs.cache.subscribe();
    world.replace().await;
    let touches = world.fs.touches(&news.recv().await.unwrap());
    assert_eq!((touches.len(), &touches[0].path[..]), (1, &["app".to_owned()][..]));
    let mut changed = touches[0].changed.clone();
    changed.sort();
    assert_eq!(changed, ["password", "serial", "username"]);
    let known = world.fs.look_up_step(&touches[0], directory, OsStr::new("password")).unwrap();
    assert!(known.current && known.attributes.ino == file && known.attributes.size == 9);
}
