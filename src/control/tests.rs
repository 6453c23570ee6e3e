//! Owns the checks of questions and answers without a mount, on a backend in memory.
//! Does not know how a socket is found; tests/it/control.rs has real mounts and real sockets.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::protocol::{Found, Outcome, Target, line_of, parse};
use super::*;
use crate::access::Permissions;
use crate::backend::Error;
use crate::backend::faulty::Faulty;
use crate::cache::{Limits, SecretRef, Source, SourceId};
use crate::clock::Clock;
use crate::path::BackendPath;
use crate::tree::Tree;

struct World {
    backend: Arc<Faulty>,
    control: Control,
}

/// A mount whose trees show these places of one backend.
fn world(trees: &[(&str, &str)]) -> World {
    let backend = Arc::new(Faulty::new());
    let clock = Clock::manual();
    clock.advance(Duration::from_secs(1000));
    let source = Source { name: "test".into(), backend: backend.clone() };
    let cache = Arc::new(SecretCache::new(vec![source], Limits::default(), clock));
    let tree = |(at, path): &(&str, &str)| {
        Tree::of_place(
            at.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap()),
            Permissions { uid: 7, gid: 8, file_mode: 0o400 },
        )
    };
    let trees = Trees::new(trees.iter().map(tree).collect());
    let control = Control {
        process: 7,
        crashes: 0,
        upgrade: Box::new(|_| Ok(())),
        fs: Arc::new(SecretFs::new(trees.clone(), cache.clone(), 1024)),
        trees,
        leases: Arc::new(Leases::plain(cache.clone())),
        cache,
        since: SystemTime::UNIX_EPOCH,
        deadline: Duration::from_secs(5),
        hooks: Box::new(|| vec![hook()]),
        watchers: Box::new(|| Err("no privilege".into())),
        sandbox: vec![],
    };
    World { backend, control }
}

fn hook() -> HookLine {
    HookLine {
        name: "reload".into(),
        state: "idle".into(),
        runs: 3,
        failures: 1,
        last_run: Some(status::spelled(SystemTime::UNIX_EPOCH)),
        last_error: Some("exit code 1".into()),
    }
}

impl World {
    async fn hold(&self, path: &str) {
        let of = SecretRef::current(SourceId(0), BackendPath::parse(path).unwrap());
        self.control.cache.secret(&of).await.unwrap();
    }

    async fn find(&self, path: &str, recursive: bool) -> Reply {
        self.control.cache.clock().advance(Duration::from_nanos(1));
        targets::find(&self.control, path, recursive).await
    }

    async fn targets(&self, path: &str, recursive: bool) -> Vec<Target> {
        match self.find(path, recursive).await {
            Reply::Found(Found::Targets(targets)) => targets,
            other => panic!("{path}: {other:?}"),
        }
    }

    /// What a path stands for, as `PATH@VERSION-HELD`, a listing as `PATH/`, `?` where it may be missing.
    async fn found(&self, path: &str, recursive: bool) -> Vec<String> {
        let spelled = |target: &Target| {
            let held = target.held.as_ref().map_or(String::new(), |version| format!("@{version}"));
            let kind = if target.listing { "/" } else { "" };
            format!("{}{kind}{held}{}", target.path, if target.maybe { "?" } else { "" })
        };
        self.targets(path, recursive).await.iter().map(spelled).collect()
    }

    async fn refresh(&self, path: &str) -> Vec<Outcome> {
        let targets = self.targets(path, false).await;
        self.refresh_these(targets).await
    }

    async fn refresh_these(&self, targets: Vec<Target>) -> Vec<Outcome> {
        // An answer that came at this very moment would be as new.
        self.control.cache.clock().advance(Duration::from_nanos(1));
        targets::refresh(&self.control, targets).await
    }
}

#[tokio::test]
async fn a_path_stands_for_its_secret_its_listing_and_what_is_held_below() {
    let world = world(&[("", "")]);
    for path in ["team/db", "team/mail", "team/deep/er/x", "other"] {
        world.backend.put(path, &[("k", b"canary")]);
    }
    assert_eq!(world.found("team/db", false).await, ["team/db/?", "team/db"]);
    assert_eq!(world.found("team/db/k", false).await, ["team/db@1"], "looking it up holds it");
    for path in ["team/mail", "team/deep/er/x", "other"] {
        world.hold(path).await;
    }
    assert_eq!(world.found("team/db/.json", false).await, ["team/db@1"]);
    assert_eq!(world.found("team/db", false).await, ["team/db/?", "team/db@1"]);
    assert_eq!(world.found("team", false).await, ["team/", "team/db@1", "team/mail@1"]);
    assert_eq!(
        world.found("team", true).await,
        ["team/", "team/db@1", "team/deep/?", "team/deep/er/?", "team/deep/er/x@1", "team/mail@1"]
    );
    assert_eq!(world.found("", false).await, ["/", "other@1"]);
    assert_eq!(world.found("", true).await.len(), 8);
}

#[tokio::test]
async fn trees_are_refreshed_where_they_hang_and_junctions_only_whole() {
    let world = world(&[("apps/db", "team/db"), ("all", "")]);
    world.backend.put("team/db/main", &[("k", b"canary")]);
    world.hold("team/db/main").await;
    assert_eq!(world.found("apps/db/main/k", false).await, ["apps/db/main@1"]);
    assert_eq!(world.found("all/team/db/main/k", false).await, ["all/team/db/main@1"]);
    assert_eq!(world.found("apps", true).await, ["apps/db/", "apps/db/main@1"]);
    assert!(matches!(world.find("apps", false).await, Reply::Found(Found::Junction)));
    assert!(matches!(world.find("", false).await, Reply::Found(Found::Junction)));
}

#[tokio::test]
async fn a_refresh_gives_the_newest_version_at_once_and_says_no_as_the_backend_does() {
    let world = world(&[("", "")]);
    world.backend.put("a", &[("k", b"canary-1")]);
    world.hold("a").await;
    world.backend.put("a", &[("k", b"canary-2")]);
    assert_eq!(world.refresh("a/k").await, [Outcome::Version("2".into())]);
    world.backend.put("a", &[("k", b"canary-3"), ("new", b"canary")]);
    assert_eq!(world.found("a/new", false).await, ["a@3"], "a field that is not held yet");
    let targets = world.targets("a/k", false).await;
    world.backend.delete("a");
    let gone = world.refresh_these(targets.clone()).await;
    assert!(
        matches!(&gone[..], [Outcome::Failed { errno, denied: true, .. }] if errno == "ENOENT"),
        "{gone:?}"
    );
    world.backend.fail_with(Some(Error::Status(503)));
    let down = world.refresh_these(targets).await;
    let said = "the backend answered with HTTP status 503";
    assert!(
        matches!(&down[..], [Outcome::Failed { errno, reason, denied: false }] if errno == "EIO" && reason == said),
        "{down:?}"
    );
}

#[tokio::test]
async fn a_path_that_leads_nowhere_is_refused_with_what_a_program_would_see() {
    let world = world(&[("", "")]);
    world.backend.put("a", &[("k", b"canary")]);
    for (path, errno) in [
        ("nope", "ENOENT"),
        ("a/nope", "ENOENT"),
        ("a/k/below", "ENOTDIR"),
        ("../a", "ENOENT"),
        (&"x".repeat(256), "ENAMETOOLONG"),
        (&"x/".repeat(4000), "ENAMETOOLONG"),
    ] {
        match world.find(path, false).await {
            Reply::Refused(Refusal { kind: RefusalKind::Path, errno: Some(told), .. }) => {
                assert_eq!(told, errno, "{path}");
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    world.backend.fail_with(Some(Error::Status(503)));
    let Reply::Refused(refusal) = world.find("b", false).await else { panic!("found") };
    assert_eq!(refusal.errno.as_deref(), Some("ENOENT"), "a recent listing is the authority");
}

#[tokio::test]
async fn what_the_mount_does_not_show_cannot_be_asked_for() {
    let world = world(&[("", "team")]);
    world.backend.put("team/a", &[("k", b"canary")]);
    world.backend.put("other", &[("k", b"canary")]);
    let good = world.targets("a/k", false).await.remove(0);
    let reads = world.backend.reads();
    for (backend, segments) in [
        (0, vec!["other"]),
        (0, vec![]),
        (0, vec!["team/../other"]),
        (1, vec!["team", "a"]),
        (usize::MAX, vec![]),
    ] {
        let segments = segments.into_iter().map(str::to_owned).collect();
        let target = Target { backend, segments, ..good.clone() };
        let outcome = world.refresh_these(vec![target]).await;
        assert!(matches!(&outcome[..], [Outcome::Failed { errno, .. }] if errno == "ENOENT"), "{outcome:?}");
    }
    assert_eq!(world.backend.reads(), reads, "the backend was not asked");
}

#[tokio::test(start_paused = true)]
async fn every_wait_for_a_backend_ends_at_the_deadline() {
    let world = world(&[("", "")]);
    world.backend.put("a", &[("k", b"canary")]);
    let targets = world.targets("a/k", false).await;
    world.backend.delay(Duration::from_secs(3600));
    let outcome = world.refresh_these(vec![targets[0].clone(); MAX_TARGETS]).await;
    assert_eq!(outcome.len(), MAX_TARGETS);
    assert!(outcome.iter().all(|it| matches!(it, Outcome::Failed { errno, .. } if errno == "ETIMEDOUT")));
    let Reply::Refused(refusal) = world.find("b/c", false).await else { panic!("found") };
    assert_eq!(refusal.errno.as_deref(), Some("ETIMEDOUT"));
    let asked = line_of(&protocol::Request {
        version: VERSION,
        command: &Command::Status { secrets: true, lease_ids: true },
    });
    let told = world.control.reply(protocol::parse(&asked)).now_or_never();
    assert!(matches!(told, Some(Reply::Status(_))), "status waits for a backend");
}

#[tokio::test]
async fn status_tells_all_but_values() {
    let world = world(&[("x", ""), ("y", "team")]);
    world.backend.put("team/db", &[("password", b"canary-1"), ("user", b"canary-2")]);
    world.hold("team/db").await;
    let status = status::of(&world.control, true, true);
    assert_eq!((status.secrets.held, status.secrets.stale), (1, 0));
    assert_eq!(status.hooks, [hook()]);
    assert_eq!(status.watchers.why_not.as_deref(), Some("no privilege"));
    assert_eq!(status.since, "1970-01-01T00:00:00.000Z");
    assert!(status.counters.contains_key("calls_ok"));
    let held = status.held.clone().unwrap();
    assert_eq!(held.secrets[0].paths, ["x/team/db", "y/db"]);
    assert_eq!((&*held.secrets[0].backend_path, &*held.secrets[0].version), ("team/db", "1"));
    let line = String::from_utf8(line_of(&status)).unwrap();
    assert!(!line.contains("canary"), "{line}");
    assert_eq!(serde_json::from_str::<status::Status>(&line).unwrap(), status, "and it can be read back");
    assert!(status::of(&world.control, false, false).held.is_none());
}

#[tokio::test]
async fn a_flush_wipes_what_is_held_and_says_how_much() {
    let world = world(&[("", "")]);
    world.backend.put("a", &[("k", b"canary")]);
    world.hold("a").await;
    let bytes = status::of(&world.control, false, false).secrets.bytes;
    let Reply::Flushed { secrets, bytes: wiped, leases: 0 } = targets::flush(&world.control) else {
        panic!()
    };
    assert_eq!((secrets, wiped), (1, bytes));
    assert_eq!(status::of(&world.control, false, false).secrets.held, 0);
    world.hold("a").await;
}

async fn reply(control: &Control, line: &[u8]) -> Reply {
    control.reply(protocol::parse(line)).await
}

#[tokio::test]
async fn a_wrong_question_is_told_what_is_wrong() {
    let world = world(&[("", "")]);
    let many = Target {
        backend: 0,
        demand: 0,
        segments: vec![],
        version: None,
        listing: true,
        path: String::new(),
        held: None,
        maybe: false,
    };
    let many = vec![many; MAX_TARGETS + 1];
    let [many, many_ends] = [Command::Refresh { targets: many.clone() }, Command::Revoke { targets: many }]
        .map(|command| line_of(&protocol::Request { version: VERSION, command: &command }));
    let deep = "[".repeat(100_000);
    for (line, kind) in [
        (&b""[..], RefusalKind::BadRequest),
        (b"canary", RefusalKind::BadRequest),
        (b"{}", RefusalKind::BadRequest),
        (b"[1,2]", RefusalKind::BadRequest),
        (br#"{"version":1,"command":5}"#, RefusalKind::BadRequest),
        (br#"{"version":-1,"command":"status"}"#, RefusalKind::BadRequest),
        (br#"{"version":1,"command":"find"}"#, RefusalKind::BadRequest),
        (br#"{"version":1,"command":"refresh","targets":[{"canary":1}]}"#, RefusalKind::BadRequest),
        (br#"{"version":2,"command":"status"}"#, RefusalKind::UnknownVersion),
        (br#"{"version":1,"command":"canary"}"#, RefusalKind::UnknownCommand),
        (deep.as_bytes(), RefusalKind::BadRequest),
        (&many, RefusalKind::BadRequest),
        (&many_ends, RefusalKind::BadRequest),
        (br#"{"version":1,"command":"find_leases"}"#, RefusalKind::BadRequest),
    ] {
        let Reply::Refused(refusal) = reply(&world.control, line).await else { panic!("{line:?}") };
        assert_eq!(refusal.kind, kind, "{}", line[..line.len().min(60)].escape_ascii());
        assert!(!refusal.message.contains("canary"), "what was asked is not told back: {}", refusal.message);
    }
    let asked = br#"{"version":1,"command":"status","more":[]}"#;
    assert!(matches!(reply(&world.control, asked).await, Reply::Status(_)), "fields may be added");
}

/// What a client reads that sends these bytes.
async fn said(world: &World, bytes: &[u8]) -> Vec<u8> {
    let (mut client, server) = UnixStream::pair().unwrap();
    let ask = async {
        let _ = client.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        answer
    };
    let ((), answer) = tokio::join!(world.control.talk(server), ask);
    answer
}

#[tokio::test(start_paused = true)]
async fn a_line_has_an_end_in_length_and_time() {
    let world = world(&[("", "")]);
    let told = said(&world, b"{\"version\":1,\"command\":\"status\"}\nwhat follows is not looked at").await;
    assert!(told.starts_with(b"{\"version\":1,\"reply\":{\"status\":{") && told.ends_with(b"}\n"));
    let long = said(&world, &vec![b' '; MAX_REQUEST + 1]).await;
    assert!(String::from_utf8_lossy(&long).contains("at most 1048576 bytes"));
    let began = tokio::time::Instant::now();
    assert_eq!(said(&world, b"{\"version\":1,").await, b"", "one that never ends is dropped");
    assert!(began.elapsed() <= PATIENCE + Duration::from_millis(10));
}

#[test]
fn only_the_owner_and_root_may_ask() {
    assert!(may_ask(1000, 1000) && may_ask(0, 1000) && may_ask(0, 0));
    assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
}

/// Bytes that look much like a question, and others.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just(b"{\"version\":1,\"command\":\"".to_vec()),
        Just(b"status\"}".to_vec()),
        Just(b"find\",\"path\":\"".to_vec()),
        Just(b"refresh\",\"targets\":[".to_vec()),
        Just(br#"{"backend":0,"segments":["a"],"listing":true,"path":"","maybe":false}"#.to_vec()),
        Just(br#"{"backend":18446744073709551615,"segments":["\u0000"],"listing":false,"path":"","maybe":true}"#.to_vec()),
        Just(b"find_leases\",\"path\":\"".to_vec()),
        Just(b"revoke\",\"targets\":[".to_vec()),
        Just(b"\",\"recursive\":true}".to_vec()),
        Just(b"]}".to_vec()),
        Just("a/.json/%~/é/..".as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn whatever_is_asked_gets_one_answer(line in nearly()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let world = world(&[("", "")]);
        world.backend.put("a", &[("k", b"canary")]);
        let began = Instant::now();
        let reply = runtime.block_on(world.control.reply(protocol::parse(&line)));
        prop_assert!(began.elapsed() < Duration::from_secs(20));
        let answer = line_of(&Answer { version: VERSION, reply });
        prop_assert!(serde_json::from_slice::<Answer>(&answer).is_ok());
        prop_assert!(!answer.windows(6).any(|part| part == b"canary"));
        if parse(&line).is_err() {
            let refused = answer.starts_with(b"{\"version\":1,\"reply\":{\"refused\":");
            prop_assert!(refused);
        }
    }
}
