//! Owns the checks of the filesystem without a kernel, on a backend in memory.
//! Does not know FUSE; whole lives of a mount are in tests/it/model.rs.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::backend::Error;
use crate::backend::faulty::Faulty;
use crate::cache::{Limits, Source, SourceId};
use crate::clock::Clock;
use crate::path::BackendPath;
use crate::tree::Tree;

pub(super) struct World {
    pub(super) backend: Arc<Faulty>,
    pub(super) clock: Clock,
    pub(super) fs: SecretFs,
}

pub(super) fn world(trees: &[(&[&str], &str)]) -> World {
    limited_world(trees, Limits::default())
}

pub(super) fn limited_world(trees: &[(&[&str], &str)], limits: Limits) -> World {
    let backend = Arc::new(Faulty::new());
    let clock = Clock::manual();
    clock.advance(Duration::from_secs(1000));
    let source = Source { name: "test".into(), backend: backend.clone() };
    let cache = Arc::new(SecretCache::new(vec![source], limits, clock.clone()));
    let tree = |(at, path): &(&[&str], &str)| {
        Tree::of_place(
            at.iter().map(|s| (*s).to_owned()).collect(),
            SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap()),
            Permissions { uid: 7, gid: 8, file_mode: 0o400 },
        )
    };
    let fs = SecretFs::new(Trees::new(trees.iter().map(tree).collect()), cache, 1024);
    World { backend, clock, fs }
}

impl World {
    pub(super) fn of(&self, path: &str) -> SecretRef {
        SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap())
    }

    pub(super) async fn walk(&self, path: &str) -> Result<Attributes, Failure> {
        let mut at = self.fs.attributes(INodeNo::ROOT, None).await?;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = self.fs.lookup(at.ino, OsStr::new(name)).await?;
        }
        Ok(at)
    }

    pub(super) async fn cat(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let opened = self.fs.open(self.walk(path).await?.ino, Caller(0)).await?;
        let bytes = self.fs.opened(opened.handle)?.read(0, usize::MAX).to_vec();
        self.fs.release(opened.handle).unwrap();
        Ok(bytes)
    }

    pub(super) async fn ls(&self, path: &str) -> Result<Vec<String>, Failure> {
        let listing = self.fs.list(self.walk(path).await?.ino).await?;
        Ok(listing.entries.into_iter().map(|entry| entry.name).collect())
    }
}

#[tokio::test]
async fn a_secret_is_a_directory_of_its_fields() {
    let world = world(&[(&[], "")]);
    world.backend.put("team/db", &[("user", b"canary-app"), ("password", b"canary-pw")]);
    assert_eq!(world.ls("").await.unwrap(), ["team"]);
    assert_eq!(world.ls("team/db").await.unwrap(), ["user", "password"]);
    assert_eq!(world.cat("team/db/password").await.unwrap(), b"canary-pw");
    let stat = world.walk("team/db/user").await.unwrap();
    assert_eq!((stat.kind, stat.size, stat.mode, stat.uid, stat.gid), (Kind::File, 10, 0o400, 7, 8));
    assert_eq!(world.walk("team/db").await.unwrap().mode, 0o500);
    assert_eq!(world.walk("team/nothing").await, Err(Failure::NoEntry));
    assert_eq!(world.walk("team/db/nothing").await, Err(Failure::NoEntry));
    assert_eq!(world.walk("team/db/user/x").await, Err(Failure::NotADirectory));
}

#[tokio::test]
async fn reserved_names_are_found_and_not_listed() {
    let world = world(&[(&[], "")]);
    world.backend.put("a", &[("k", b"canary"), (".json", b"canary-own")]);
    assert_eq!(world.ls("a").await.unwrap(), ["k", "%2Ejson"]);
    assert_eq!(world.cat("a/%2Ejson").await.unwrap(), b"canary-own");
    assert_eq!(world.cat("a/.json").await.unwrap(), b"{\"k\":\"canary\",\".json\":\"canary-own\"}\n");
    assert_eq!(world.cat("a/.env").await.unwrap(), b"k=canary\n# left out, cannot stand here: .json\n");
    let meta = String::from_utf8(world.cat("a/.meta").await.unwrap()).unwrap();
    assert!(meta.contains("\"backend\":\"test (faulty)\"") && !meta.contains("canary"), "{meta}");
    assert_eq!(
        world.cat("a/.docker-env").await.unwrap(),
        b"k=canary\n# left out, cannot stand here: .json\n"
    );
    for absent in [".json", ".meta", ".versions", "a/.previous", "a/.other"] {
        assert_eq!(world.walk(absent).await.unwrap_err().errno().name(), "ENOENT", "{absent}");
    }
}

#[tokio::test]
async fn a_folder_wins_over_a_field_and_the_field_stays_in_json() {
    let world = world(&[(&[], "")]);
    world.backend.put("foo", &[("bar", b"canary-field"), ("baz", b"canary-baz")]);
    world.backend.put("foo/bar", &[("k", b"canary-child")]);
    assert_eq!(world.ls("foo").await.unwrap(), ["bar", "baz"]);
    assert_eq!(world.cat("foo/bar/k").await.unwrap(), b"canary-child");
    assert_eq!(world.cat("foo/baz").await.unwrap(), b"canary-baz");
    assert!(String::from_utf8(world.cat("foo/.json").await.unwrap()).unwrap().contains("canary-field"));
}

#[tokio::test]
async fn an_open_file_keeps_its_version_and_the_next_open_gets_the_new_one() {
    let world = world(&[(&[], "")]);
    world.backend.put("a", &[("k", b"canary-1")]);
    let ino = world.walk("a/k").await.unwrap().ino;
    let old = world.fs.open(ino, Caller(0)).await.unwrap();
    assert!(!old.attributes_changed);
    world.backend.put("a", &[("k", b"canary-two")]);
    world.clock.advance(Duration::from_secs(60));
    let new = world.fs.open(ino, Caller(0)).await.unwrap();
    assert!(new.attributes_changed, "the kernel was told the old size");
    assert_eq!(world.fs.opened(old.handle).unwrap().bytes(), b"canary-1");
    assert_eq!(world.fs.opened(new.handle).unwrap().bytes(), b"canary-two");
    assert_eq!(world.fs.attributes(ino, Some(old.handle)).await.unwrap().size, 8);
    assert_eq!(world.fs.attributes(ino, None).await.unwrap().size, 10);
}

#[tokio::test]
async fn without_permission_to_list_a_known_path_still_opens() {
    let world = world(&[(&[], "")]);
    world.backend.put("team/app", &[("k", b"canary")]);
    world.backend.forbid_listing();
    assert_eq!(world.cat("team/app/k").await.unwrap(), b"canary");
    assert_eq!(world.ls("").await, Err(Failure::Backend(Error::Forbidden)));
    assert_eq!(world.ls("team").await, Err(Failure::Backend(Error::Forbidden)));
    assert_eq!(world.ls("team/app").await.unwrap(), ["k"]);
    assert_eq!(world.walk("team/app/nothing").await, Err(Failure::NoEntry));
}

#[tokio::test]
async fn a_value_above_the_limit_is_refused_alone() {
    let world = world(&[(&[], "")]);
    world.backend.put("a", &[("big", &[b'x'; 1025]), ("fits", &[b'x'; 1024])]);
    assert_eq!(world.cat("a/big").await, Err(Failure::TooLarge { limit: 1024 }));
    assert_eq!(world.walk("a/big").await.unwrap().size, 1025);
    assert_eq!(world.cat("a/fits").await.unwrap().len(), 1024);
}

#[tokio::test]
async fn an_outage_is_an_error_and_never_an_empty_directory() {
    let world = world(&[(&[], "")]);
    world.backend.put("a", &[("k", b"canary")]);
    world.backend.fail_with(Some(Error::Status(503)));
    assert_eq!(world.ls("").await, Err(Failure::Backend(Error::Status(503))));
    assert_eq!(world.walk("a").await, Err(Failure::Backend(Error::Status(503))));
    world.backend.fail_with(None);
    world.clock.advance(Duration::from_nanos(1));
    assert_eq!(world.cat("a/k").await.unwrap(), b"canary");
}

#[tokio::test]
async fn trees_hang_where_the_configuration_says() {
    let world = world(&[(&["apps", "db"], "team/db"), (&["all"], "")]);
    world.backend.put("team/db/main", &[("k", b"canary")]);
    assert_eq!(world.ls("").await.unwrap(), ["all", "apps"]);
    assert_eq!(world.ls("apps").await.unwrap(), ["db"]);
    assert_eq!(world.cat("apps/db/main/k").await.unwrap(), b"canary");
    assert_eq!(world.cat("all/team/db/main/k").await.unwrap(), b"canary");
    assert_eq!(world.walk("apps/other").await, Err(Failure::NoEntry));
}

#[tokio::test]
async fn listing_reads_the_values_of_one_directory_only() {
    let world = world(&[(&[], "")]);
    for name in ["a", "b", "c"] {
        world.backend.put(name, &[("k", b"canary")]);
    }
    world.ls("").await.unwrap();
    assert_eq!(world.backend.reads(), 0);
    world.ls("b").await.unwrap();
    assert_eq!(world.backend.reads(), 1);
}

#[tokio::test]
async fn a_lookup_and_a_listing_agree_on_inode_numbers() {
    let world = world(&[(&[], "")]);
    world.backend.put("a", &[("k", b"canary")]);
    let listing = world.fs.list(INodeNo::ROOT).await.unwrap();
    assert_eq!(listing.entries[0].ino, world.walk("a").await.unwrap().ino);
    assert_eq!(world.fs.look_up_entry(INodeNo::ROOT, &listing.entries[0]).ino, listing.entries[0].ino);
}

#[tokio::test]
async fn explain_says_who_serves_a_path_or_why_not() {
    let world = world(&[(&["all"], "")]);
    world.backend.put("team/db", &[("k", b"canary")]);
    let team = world.walk("all/team").await.unwrap().ino;
    let db = world.walk("all/team/db").await.unwrap().ino;
    let found = world.fs.attribute(db, OsStr::new("explain.k")).await.unwrap();
    for line in [
        "what: the field `k`",
        "tree: /all",
        "backend: test (faulty)",
        "path: team/db",
        "version: 1",
        "readable: yes",
    ] {
        assert!(found.lines().any(|l| l == line), "{line} in {found}");
    }
    assert!(!found.contains("canary"));
    let missing = world.fs.attribute(team, OsStr::new("explain.nope")).await.unwrap();
    assert!(missing.contains("path: team/nope") && missing.contains("readable: no: ENOENT"), "{missing}");
}

#[tokio::test]
async fn a_missing_name_asked_for_in_an_outage_does_not_cost_the_others() {
    let world = world(&[(&[], "")]);
    world.backend.put("dir/a", &[("k", b"canary")]);
    assert_eq!(world.cat("dir/a/k").await.unwrap(), b"canary");
    world.clock.advance(Duration::from_secs(2));
    world.backend.fail_with(Some(Error::Status(503)));
    assert_eq!(world.walk("dir/nothing").await, Err(Failure::NoEntry));
    assert_eq!(world.cat("dir/a/k").await.unwrap(), b"canary");
    assert_eq!(world.ls("dir").await.unwrap(), ["a"]);
}

#[tokio::test]
async fn older_versions_are_found_by_name_and_not_listed() {
    let world = world(&[(&["all"], "")]);
    world.backend.put("a", &[("k", b"canary-1"), ("old", b"canary-old")]);
    world.backend.put("a", &[("k", b"canary-22")]);
    assert_eq!(world.ls("all/a").await.unwrap(), ["k"]);
    assert_eq!(world.ls("all/a/.versions").await.unwrap(), [""; 0]);
    assert_eq!(world.ls("all/a/.versions/1").await.unwrap(), ["k", "old"]);
    assert_eq!(world.cat("all/a/.versions/1/k").await.unwrap(), b"canary-1");
    assert_eq!(world.cat("all/a/.versions/2/k").await.unwrap(), b"canary-22");
    assert_eq!(
        world.cat("all/a/.versions/1/.json").await.unwrap(),
        b"{\"k\":\"canary-1\",\"old\":\"canary-old\"}\n"
    );
    let meta = String::from_utf8(world.cat("all/a/.versions/1/.meta").await.unwrap()).unwrap();
    assert!(meta.contains("\"version\":\"1\"") && meta.contains("\"path\":\"a\""), "{meta}");
    for (path, kind) in [("", Kind::Directory), ("/k", Kind::File), ("/.env", Kind::File)] {
        let seen = world.walk(&format!("all/a/.versions/1{path}")).await.unwrap();
        assert_eq!(
            (seen.kind, seen.mtime),
            (kind, SystemTime::UNIX_EPOCH + Duration::from_secs(1)),
            "{path}"
        );
    }
    let file = world.walk("all/a/.versions/1/k").await.unwrap().ino;
    assert_ne!(file, world.walk("all/a/k").await.unwrap().ino, "an inode has one version");
    assert_eq!(world.fs.attribute(file, OsStr::new("version")).await.unwrap(), "1");
    let explained = world.fs.attribute(file, OsStr::new("explain")).await.unwrap();
    for line in ["what: the field `k`", "path: a", "version: 1", "readable: yes"] {
        assert!(explained.lines().any(|l| l == line), "{line} in {explained}");
    }
    let directory = world.walk("all/a/.versions/1").await.unwrap().ino;
    let explained = world.fs.attribute(directory, OsStr::new("explain")).await.unwrap();
    assert!(explained.contains("what: the secret at version `1`"), "{explained}");
    let versions = world.walk("all/a/.versions").await.unwrap().ino;
    let explained = world.fs.attribute(versions, OsStr::new("explain.7")).await.unwrap();
    assert!(explained.contains("path: a") && explained.contains("readable: no: ENOENT"), "{explained}");
}

#[tokio::test]
async fn a_version_that_is_none_is_not_found_and_costs_one_question_at_most() {
    let world = world(&[(&[], "")]);
    world.backend.put("a", &[("k", b"canary")]);
    world.backend.put("folder/b", &[("k", b"canary")]);
    assert!(world.walk("a/.versions").await.is_ok());
    let reads = world.backend.reads();
    assert_eq!(reads, 0, "the directory itself costs none");
    for none in ["x", "-1", "1.0", "%~", "%2F", "..", ".versions", ".json", "%31"] {
        assert_eq!(world.walk(&format!("a/.versions/{none}")).await.unwrap_err().errno().name(), "ENOENT");
        assert_eq!(world.backend.reads(), reads, "{none}");
    }
    for none in ["2", "99"] {
        for _ in 0..3 {
            assert_eq!(
                world.walk(&format!("a/.versions/{none}")).await.unwrap_err().errno().name(),
                "ENOENT"
            );
        }
    }
    assert_eq!(world.backend.reads(), reads + 2);
    world.backend.put("a/below", &[("k", b"canary")]);
    world.clock.advance(Duration::from_secs(1));
    assert!(world.walk("a/below").await.is_ok(), "a is a folder as well");
    assert!(world.walk("a/.versions/1/below").await.is_err(), "and its versions are not");
    for none in ["folder/.versions", "a/.versions/1/.versions", "a/.versions/1/nothing", "nothing/.versions"]
    {
        assert_eq!(world.walk(none).await.unwrap_err().errno().name(), "ENOENT", "{none}");
    }
    world.backend.fail_with(Some(Error::Forbidden));
    assert_eq!(world.walk("a/.versions/3").await.unwrap_err().errno().name(), "EACCES");
    world.backend.fail_with(Some(Error::Status(503)));
    assert_eq!(world.walk("a/.versions/4").await.unwrap_err().errno().name(), "EIO");
}

#[tokio::test]
async fn versions_are_found_where_listing_is_forbidden() {
    let world = world(&[(&[], "")]);
    world.backend.put("a", &[("k", b"canary-1")]);
    world.backend.put("a", &[("k", b"canary-2")]);
    world.backend.forbid_listing();
    assert_eq!(world.cat("a/.versions/1/k").await.unwrap(), b"canary-1");
    assert_eq!(world.walk("b/.versions").await.unwrap_err().errno().name(), "ENOENT");
}

#[tokio::test]
async fn what_is_known_of_a_secret_is_true_when_it_is_asked() {
    let world = world(&[(&[], "")]);
    world.backend.put("a", &[("k", b"canary")]);
    let file = world.walk("a/k").await.unwrap().ino;
    let meta = world.walk("a/.meta").await.unwrap();
    let snapshot =
        world.fs.cache.secret(&SecretRef::current(SourceId(0), BackendPath::parse("a").unwrap())).await;
    let snapshot = snapshot.unwrap();
    let time = |time| humantime::format_rfc3339_millis(time).to_string();
    for (name, expected) in [
        ("stale", "false".to_owned()),
        ("expires", time(snapshot.expires)),
        ("fetched", time(snapshot.fetched)),
        ("version", "1".to_owned()),
        ("backend", "test (faulty)".to_owned()),
    ] {
        assert_eq!(world.fs.attribute(file, OsStr::new(name)).await.unwrap(), expected, "{name}");
    }
    let opened = world.fs.open(meta.ino, Caller(1)).await.unwrap();
    let text = String::from_utf8(world.fs.opened(opened.handle).unwrap().bytes().to_vec()).unwrap();
    assert!(text.contains("\"stale\":false"), "{text}");
    world.clock.advance(Duration::from_secs(60));
    assert!(
        world
            .fs
            .meta(TreeId(0), &SecretRef::current(SourceId(0), BackendPath::root()), Some(&*snapshot))
            .stale
    );
    assert_eq!(
        world.fs.opened(opened.handle).unwrap().bytes(),
        text.as_bytes(),
        "as it was when it was opened"
    );
}
