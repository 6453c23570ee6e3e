//! Owns the proof that no name does harm, neither one that a program looks up nor one that a backend returns.
//! Does not know the names; `corpus` has them.

mod corpus;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use secretfs::tree::name::{self, Decoded, NAME_MAX, RESERVED};
use serde_json::{Value, json};

use crate::support::fake::{Fake, Reply, Request};
use crate::support::mount::{Mount, possible};
use crate::support::vault::{ROOT_TOKEN, Vault};
use crate::support::{available, fake_vault};

/// The part of Vault that the mounts of these tests show.
const PREFIX: [&str; 2] = ["secret", "team"];

#[test]
fn the_corpus_is_large() {
    assert!(corpus::names().len() >= 400, "{}", corpus::names().len());
    assert!(corpus::names().len() - corpus::texts().len() >= 15);
}

/// Looks up every name of the corpus in every way that a path can hold it, and opens and lists what it finds.
fn look_everything_up(mount: &Mount, known: &str) {
    for name in corpus::names() {
        let mut spellings = vec![name.clone()];
        if let Ok(text) = std::str::from_utf8(&name) {
            spellings.push(name::encode(text).into_bytes());
        }
        for spelling in spellings {
            let known = known.as_bytes();
            let paths: [&[&[u8]]; 4] =
                [&[&spelling], &[known, &spelling], &[&spelling, known], &[&spelling, &spelling]];
            for path in paths {
                touch(mount, &path.join(&b'/'));
            }
        }
    }
}

/// What the kernel makes of the path (it may well lead out of the mount) is read where it lies in the mount.
fn touch(mount: &Mount, below: &[u8]) {
    let path = PathBuf::from(OsStr::from_bytes(&[mount.at.as_os_str().as_bytes(), b"/", below].concat()));
    let outcome = path.symlink_metadata().and_then(|_| {
        if path.canonicalize()?.starts_with(&mount.at) {
            let _ = std::fs::read(&path)?;
        }
        Ok(())
    });
    let _ = std::fs::read_dir(path.join(OsStr::from_bytes(b"x")));
    let harmless = |error: &io::Error| {
        let known =
            [libc::ENOENT, libc::EACCES, libc::ENAMETOOLONG, libc::ENOTDIR, libc::EISDIR, libc::EINVAL];
        // NUL never leaves this process.
        error.raw_os_error().is_none_or(|errno| known.contains(&errno))
    };
    if let Err(error) = outcome {
        assert!(harmless(&error), "{:?}: {error}", OsStr::from_bytes(below));
    }
}

/// Whether a path of Vault's API is one that a mount of `vault:secret/team` may ask for.
fn is_inside(segments: &[String]) -> bool {
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let within = match segments.as_slice() {
        ["sys", "internal", "ui", "mounts"] => true,
        // What the mount asks about its own token, whatever anybody looks up.
        ["auth", "token", "lookup-self"] => true,
        ["sys", "internal", "ui", "mounts", rest @ ..] => rest.starts_with(&PREFIX),
        [engine, "data" | "metadata", rest @ ..] => *engine == PREFIX[0] && rest.starts_with(&PREFIX[1..]),
        _ => false,
    };
    within
        && !segments
            .iter()
            .any(|segment| matches!(*segment, "" | "." | "..") || segment.contains(['/', '\0']))
}

#[test]
fn the_judge_of_requests_can_say_no() {
    let judge = |path: &str| is_inside(&path.split('/').map(str::to_owned).collect::<Vec<_>>());
    for inside in ["secret/data/team/a", "secret/metadata/team", "sys/internal/ui/mounts/secret/team/x"] {
        assert!(judge(inside), "{inside}");
    }
    for outside in [
        "sys/mounts",
        "secret/data/teams",
        "secret/data/other",
        "secret/delete/team/a",
        "secret/data/team/../x",
        "sys/internal/ui/mounts/other",
        "auth/token/lookup-self/x",
        "auth/token/lookup",
    ] {
        assert!(!judge(outside), "{outside}");
    }
}

#[test]
fn no_name_leads_a_request_out_of_the_prefix() {
    let Some(()) = available("mount", possible()) else { return };
    // Lists or may not list: in the second case every name is asked for.
    for lists in [true, false] {
        let fake = Fake::start(move |request| match fake_vault::asked(request) {
            (path, false) if path[0] == "sys" => fake_vault::kv2("secret"),
            (_, true) if !lists => fake_vault::error(403),
            (path, true) if path.len() == 3 => fake_vault::keys(&["known".into()]),
            (path, false) if path.last().is_some_and(|name| name == "known") => {
                fake_vault::secret(&json!({"k": "canary"}))
            }
            _ => fake_vault::error(404),
        });
        let mount = Mount::of("vault:secret/team")
            .envs([("VAULT_ADDR", fake.endpoint().as_str()), ("VAULT_TOKEN", "canary-token")])
            .start();
        assert_eq!(mount.read("known/k").unwrap(), b"canary");
        look_everything_up(&mount, "known");
        let requests = fake.requests();
        for Request { method, target, .. } in &requests {
            let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(p, q)| (p, Some(q)));
            let path = path.strip_prefix("/v1/").unwrap();
            let path = if query.is_some() { path.strip_suffix('/').unwrap() } else { path };
            let segments: Vec<_> =
                path.split('/').map(|part| String::from_utf8(fake_vault::decode(part)).unwrap()).collect();
            assert!(is_inside(&segments), "{target}");
            assert!(method == "GET" && query.is_none_or(|query| query == "list=true"), "{method} {target}");
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%".contains(&b);
            assert!(path.bytes().all(plain), "{target}");
        }
        assert_eq!(requests.len() > 400, !lists, "{} requests", requests.len());
        assert_eq!(mount.read("known/k").unwrap(), b"canary", "it lives");
        log_is_clean(&mount);
    }
}

#[test]
fn a_real_vault_sees_no_request_outside_of_the_prefix() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(server) = available("vault", Vault::start()) else { return };
    server.kv_put("secret", "team/known", json!({"k": "canary"}));
    let reader = server.policy_token("path \"secret/data/team/*\" { capabilities = [\"read\"] }");
    server.enable_audit();
    let before = server.audit_requests().len();
    for token in [ROOT_TOKEN, &reader] {
        let mount = Mount::of("vault:secret/team")
            .envs([("VAULT_ADDR", server.address.as_str()), ("VAULT_TOKEN", token)])
            .start();
        assert_eq!(mount.read("known/k").unwrap(), b"canary");
        look_everything_up(&mount, "known");
        assert_eq!(mount.read("known/k").unwrap(), b"canary", "it lives");
        log_is_clean(&mount);
    }
    let requests = server.audit_requests().split_off(before);
    assert!(requests.len() > 400, "{} requests", requests.len());
    for (operation, path) in requests {
        let segments: Vec<_> = path.trim_end_matches('/').split('/').map(str::to_owned).collect();
        assert!(is_inside(&segments) && ["read", "list"].contains(&&*operation), "{operation} {path}");
    }
}

/// Nobody can forge a line of the log, or paint the terminal that shows it.
fn log_is_clean(mount: &Mount) {
    for line in mount.log().lines() {
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        assert!(line.starts_with(|c: char| c.is_ascii_digit()), "no line of ours: {line:?}");
    }
}

/// A fake Vault with an engine `kv` in which `keys` are listed; every secret has one field `k` that tells whose it is, and
/// `fields` has those given.
fn keeper(keys: Vec<Value>, fields: Value) -> Fake {
    Fake::start(move |request| match fake_vault::asked(request) {
        (path, false) if path[0] == "sys" => fake_vault::kv2("kv"),
        (path, true) if path.len() == 2 => fake_vault::keys(&keys),
        (_, true) => fake_vault::keys(&["inner".into()]),
        (path, false) if path[2] == "fields" => fake_vault::secret(&fields),
        (path, false) => fake_vault::secret(&json!({ "k": format!("canary of {}", path[2..].join("/")) })),
    })
}

fn mount_of(fake: &Fake) -> Mount {
    Mount::of("vault:kv")
        .envs([("VAULT_ADDR", fake.endpoint().as_str()), ("VAULT_TOKEN", "canary-token")])
        .start()
}

/// The names in a directory, as bytes, in the order they came.
fn raw_ls(mount: &Mount, below: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(mount.path(below)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect()
}

/// Checks that `listed` shows each of `expected` once, under a decent name that leads back; the file name of each.
fn shown_once(listed: Vec<Vec<u8>>, expected: &BTreeSet<&str>) -> BTreeMap<String, String> {
    let mut shown = BTreeMap::new();
    for file in listed {
        let file = String::from_utf8(file).unwrap();
        assert!(!file.is_empty() && file.len() <= NAME_MAX, "{file:?}");
        assert!(!file.contains(|c: char| c == '/' || c.is_control()), "{file:?}");
        assert!(file != "." && file != ".." && !RESERVED.contains(&file.as_str()), "{file:?}");
        let found = name::find(OsStr::new(&file), expected.iter().copied());
        let found = found.unwrap_or_else(|| panic!("{file:?} stands for nothing")).to_owned();
        match name::decode(OsStr::new(&file)) {
            Some(Decoded::Exact(name)) => assert_eq!(name, found),
            Some(Decoded::Shortened) => assert!(found.len() > 80),
            None => panic!("{file:?} does not decode"),
        }
        assert!(shown.insert(found, file).is_none(), "shown twice");
    }
    let missing: Vec<_> = expected.iter().filter(|name| !shown.contains_key(**name)).collect();
    assert!(missing.is_empty(), "not shown: {missing:?}");
    shown
}

#[test]
fn every_name_in_a_listing_is_shown_once_and_leads_to_its_own_secret() {
    let Some(()) = available("mount", possible()) else { return };
    let keys = corpus::texts();
    let fake = keeper(keys.iter().map(|key| key.as_str().into()).collect(), json!({}));
    let mount = mount_of(&fake);
    // `foo/` is the folder foo; what cannot be a segment of any path cannot be asked for, so it is not shown.
    let possible = |name: &&str| !name.is_empty() && !name.contains(['/', '\0']);
    let expected: BTreeSet<&str> =
        keys.iter().map(|key| key.strip_suffix('/').unwrap_or(key)).filter(possible).collect();
    assert!(expected.len() > 350, "{}", expected.len());
    for (name, file) in shown_once(raw_ls(&mount, ""), &expected) {
        assert!(mount.path(&file).metadata().unwrap().is_dir(), "{file:?}");
        let is_secret = keys.contains(&name);
        let sendable = name != "." && name != ".." && !name.contains(|c: char| c.is_control());
        match mount.read(&format!("{file}/k")) {
            Ok(value) => assert_eq!(value, format!("canary of {name}").as_bytes()),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{name:?}");
                assert!(!is_secret || !sendable, "{name:?} cannot be read");
            }
        }
    }
    log_is_clean(&mount);
}

#[test]
fn every_name_of_a_field_is_a_file_with_its_own_bytes() {
    let Some(()) = available("mount", possible()) else { return };
    let names = corpus::texts();
    let value = |at: usize| format!("canary {at}");
    let fields: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(at, name)| (name.clone(), value(at).into())).collect();
    let fake = keeper(vec!["fields".into()], fields.into());
    let mount = mount_of(&fake);
    let expected: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let shown = shown_once(raw_ls(&mount, "fields"), &expected);
    for (at, name) in names.iter().enumerate() {
        let file = format!("fields/{}", shown[name]);
        assert_eq!(mount.read(&file).unwrap(), value(at).as_bytes(), "{name:?}");
        assert_eq!(mount.path(&file).metadata().unwrap().len(), value(at).len() as u64);
    }
    let whole: Value = serde_json::from_slice(&mount.read("fields/.json").unwrap()).unwrap();
    for (at, name) in names.iter().enumerate() {
        assert_eq!(whole[name], value(at), "{name:?}");
    }
    log_is_clean(&mount);
}

#[test]
fn one_bad_name_never_hides_the_others() {
    let Some(()) = available("mount", possible()) else { return };
    let bad = [
        json!(""),
        json!("/"),
        json!("//"),
        json!("a/b"),
        json!("a/b/"),
        json!("/a"),
        json!("a\0b"),
        json!(7),
        json!(null),
        json!(true),
        json!(["x"]),
        json!({"x": 1}),
    ];
    for bad in bad {
        let fake = keeper(
            vec!["good".into(), bad.clone(), "better".into(), "both".into(), "both/".into()],
            json!({}),
        );
        let mount = mount_of(&fake);
        assert_eq!(mount.ls("").unwrap(), ["better", "both", "good"], "{bad}");
        assert_eq!(mount.read("good/k").unwrap(), b"canary of good");
        assert_eq!(mount.ls("both").unwrap(), ["inner", "k"]);
    }
}

#[test]
fn half_a_character_in_a_name_or_a_value_never_hides_the_others() {
    let Some(()) = available("mount", possible()) else { return };
    // JSON can spell what no Unicode string holds: half of a surrogate pair.
    let body = |data: &str| {
        let more = r#""request_id":"r","lease_id":"","renewable":false,"lease_duration":0"#;
        Reply::Answer(200, format!(r#"{{"data":{data},{more}}}"#))
    };
    let fake = Fake::start(move |request| match fake_vault::asked(request) {
        (path, false) if path[0] == "sys" => fake_vault::kv2("kv"),
        (_, true) => body(r#"{"keys":["good","\ud800","bad\udfff/"]}"#),
        _ => body(
            r#"{"data":{"k":"canary","\ud800":"canary-key","v":"canary \udc00"},"metadata":{"version":1}}"#,
        ),
    });
    let mount = mount_of(&fake);
    assert_eq!(mount.ls("").unwrap(), ["good"]);
    assert_eq!(mount.ls("good").unwrap(), [r"\ud800", "k", "v"]);
    assert_eq!(mount.read("good/k").unwrap(), b"canary");
    assert_eq!(mount.read(r"good/\ud800").unwrap(), b"canary-key");
    assert_eq!(mount.read("good/v").unwrap(), br#""canary \udc00""#);
    assert!(mount.read("good/.json").is_ok());
}
