//! Owns what a mount of AWS Secrets Manager shows: moto's secrets through the real program and a real kernel mount.
//! Does not know the backend's own corners (see `aws`), nor what a mount promises whatever the backend (see `mount`).

use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::available;
use crate::support::moto::{Content, Moto, REGION};
use crate::support::mount::{HANG, Mount, Plan, possible, run, secretfs};

/// A mount of `source` at `moto`, patient with a busy machine.
fn plan(moto: &Moto, source: &str) -> Plan {
    Mount::of(source).envs(moto.environment()).arg("--deadline").arg("60s")
}

fn text(mount: &Mount, file: &str) -> String {
    let bytes =
        mount.read(file).unwrap_or_else(|error| panic!("{file}: {error}\n{}", explain(&mount.path(file))));
    String::from_utf8(bytes).unwrap()
}

fn explain(path: &Path) -> String {
    String::from_utf8(run(secretfs().arg("explain").arg(path)).stdout).unwrap()
}

/// Waits until `done`: a TTL has to pass first.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < HANG, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A server that others use as well, for a mount of a prefix of one's own; or the end of the test.
macro_rules! shared {
    () => {{
        let Some(()) = available("mount", possible()) else { return };
        let Some(moto) = Moto::shared() else { return };
        moto
    }};
}

#[test]
fn a_json_object_is_a_file_for_each_key_and_all_else_is_value() {
    let moto = shared!();
    moto.create(
        "kinds/db",
        Content::Text(r#"{"user": "canary", "port": 5432, "tls": true, "hosts": [ "a", "b" ], "empty": ""}"#),
    );
    moto.create("kinds/plain", Content::Text("canary 12345\n"));
    let mut blob: Vec<u8> = (0..65_536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    blob[..10].copy_from_slice(b"canary\0\0\xff\n");
    moto.create("kinds/blob", Content::Binary(&blob));
    let mount = plan(moto, "aws:kinds").start();
    assert_eq!(mount.ls("").unwrap(), ["blob", "db", "plain"]);
    assert_eq!(mount.ls("db").unwrap(), ["empty", "hosts", "port", "tls", "user"]);
    for (file, expected) in [
        ("db/user", "canary"),
        ("db/port", "5432"),
        ("db/tls", "true"),
        ("db/hosts", "[\"a\",\"b\"]"),
        ("db/empty", ""),
        ("plain/value", "canary 12345\n"),
    ] {
        assert_eq!(text(&mount, file), expected, "{file}");
        assert_eq!(mount.path(file).metadata().unwrap().len(), expected.len() as u64, "{file}");
    }
    assert_eq!(mount.ls("blob").unwrap(), ["value"]);
    assert_eq!(mount.path("blob/value").metadata().unwrap().len(), 65_536);
    assert!(mount.read("blob/value").unwrap() == blob, "the 64 KiB differ");
}

#[test]
fn slashes_in_names_are_directories_wherever_they_stand() {
    let Some(()) = available("mount", possible()) else { return };
    // A server of one's own: this is a mount of all there is.
    let Some(moto) = Moto::start() else { return };
    let files = [
        ("plain", "plain/value"),
        ("prod/eu/db/main", "prod/eu/db/main/value"),
        ("a", "a/value"),
        ("a/b", "a/b/value"),
        ("/leading", "%~/leading/value"),
        ("//two", "%~/%~/two/value"),
        ("in//side", "in/%~/side/value"),
        ("trailing/", "trailing/%~/value"),
        ("..", "%2E./value"),
        ("up/../x", "up/%2E./x/value"),
        ("up/.json", "up/%2Ejson/value"),
    ];
    for (name, _) in files {
        moto.create(name, Content::Text(&format!("canary of {name}")));
    }
    let mount = plan(&moto, "aws:").start();
    assert_eq!(mount.ls("").unwrap(), ["%2E.", "%~", "a", "in", "plain", "prod", "trailing", "up"]);
    assert_eq!(mount.ls("a").unwrap(), ["b", "value"]);
    assert_eq!(mount.ls("%~").unwrap(), ["%~", "leading"]);
    assert_eq!(mount.ls("prod/eu/db").unwrap(), ["main"]);
    for (name, file) in files {
        assert_eq!(text(&mount, file), format!("canary of {name}"));
    }
    // Every file is found by walking, too.
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        for name in mount.ls(&folder).unwrap() {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if mount.path(&path).is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    let mut expected = files.map(|(_, file)| file);
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn twelve_hundred_secrets_are_listed_and_read() {
    let moto = shared!();
    let expected: Vec<String> = (0..1200).map(|number| format!("s{number:04}")).collect();
    for name in &expected {
        moto.create(&format!("crowd/{name}"), Content::Text(&format!("canary {name}")));
    }
    let mount = plan(moto, "aws:crowd").start();
    assert_eq!(mount.ls("").unwrap(), expected);
    for name in ["s0000", "s0099", "s0100", "s0101", "s1199"] {
        assert_eq!(text(&mount, &format!("{name}/value")), format!("canary {name}"));
    }
}

#[test]
fn a_prefix_is_a_folder_and_its_neighbours_stay_outside() {
    let moto = shared!();
    for name in ["team", "team/a", "team/deep/b", "teams/c", "tea/d"] {
        moto.create(&format!("prefix/{name}"), Content::Text(&format!("canary {name}")));
    }
    for source in ["aws:prefix/team", "aws:prefix/team/"] {
        let mount = plan(moto, source).start();
        let names = mount.ls("").unwrap();
        assert!(["a", "deep"].iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
        assert!(!names.iter().any(|name| ["s", "c", "d", "teams"].contains(&&**name)), "{names:?}");
        assert_eq!(text(&mount, "deep/b/value"), "canary team/deep/b");
        for outside in ["s", "teams/c", "prefix", "%2E./teams/c", "%2E%2E/teams/c"] {
            assert_eq!(
                mount.path(&format!("{outside}/value")).metadata().unwrap_err().kind(),
                ErrorKind::NotFound
            );
        }
    }
}

#[test]
fn a_name_that_ends_like_an_arn_is_the_right_secret() {
    let moto = shared!();
    let arn = moto.create("suffix/db", Content::Text("canary short"));
    let name = format!("db-{}", &arn[arn.len() - 6..]);
    let mount = plan(moto, "aws:suffix").arg("--ttl").arg("1s").start();
    let longer = format!("{name}/value");
    assert_eq!(text(&mount, "db/value"), "canary short");
    assert_eq!(mount.read(&longer).unwrap_err().kind(), ErrorKind::NotFound, "it is not the short one's ARN");
    moto.create(&format!("suffix/{name}"), Content::Text("canary longer"));
    until("the new secret appears", || mount.read(&longer).is_ok_and(|bytes| bytes == b"canary longer"));
    assert_eq!(text(&mount, "db/value"), "canary short");
    assert_eq!(mount.ls("").unwrap(), ["db".to_owned(), name]);
}

#[test]
fn a_rotation_is_seen_and_a_pending_version_is_not() {
    let moto = shared!();
    moto.create("turn/a", Content::Text("canary one"));
    let mount = plan(moto, "aws:turn").arg("--ttl").arg("1s").start();
    assert_eq!(text(&mount, "a/value"), "canary one");
    moto.put_staged("turn/a", Content::Text("canary pending"), "AWSPENDING");
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        assert_eq!(text(&mount, "a/value"), "canary one");
        std::thread::sleep(Duration::from_millis(100));
    }
    let version = moto.put("turn/a", Content::Text("canary two, longer"));
    until("the new version is served", || text(&mount, "a/value") == "canary two, longer");
    assert_eq!(mount.path("a/value").metadata().unwrap().len(), 18);
    assert!(explain(&mount.path("a/value")).contains(&format!("version: {version}")));
}

#[test]
fn a_deleted_secret_is_no_longer_there() {
    let moto = shared!();
    for name in ["now", "later", "kept"] {
        moto.create(&format!("gone/{name}"), Content::Text("canary"));
    }
    let mount = plan(moto, "aws:gone").arg("--ttl").arg("1s").start();
    assert_eq!(mount.ls("").unwrap(), ["kept", "later", "now"]);
    assert_eq!(text(&mount, "now/value"), "canary");
    assert_eq!(text(&mount, "later/value"), "canary");
    moto.delete("gone/now");
    moto.schedule_deletion("gone/later");
    for name in ["now/value", "later/value"] {
        until(name, || mount.read(name).is_err_and(|error| error.kind() == ErrorKind::NotFound));
    }
    until("the listing follows", || mount.ls("").unwrap() == ["kept"]);
    assert_eq!(text(&mount, "kept/value"), "canary");
}

#[test]
fn without_region_or_credentials_the_mount_says_what_to_set() {
    let Some(()) = available("mount", possible()) else { return };
    let keys = [("AWS_ACCESS_KEY_ID", "canary-key"), ("AWS_SECRET_ACCESS_KEY", "canary-secret-key")];
    let cases = [
        (keys.to_vec(), "AWS_REGION"),
        (vec![("AWS_REGION", REGION)], "AWS_ACCESS_KEY_ID"),
        (vec![], "AWS_REGION"),
    ];
    for (environment, hint) in cases {
        let mount = Mount::of("aws:").envs(environment).start();
        for error in [mount.ls("").unwrap_err(), mount.read("any/value").unwrap_err()] {
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{hint}: {error}");
        }
        let told = explain(&mount.path("any"));
        assert!(told.contains("EIO") && told.contains(hint), "{told}");
        assert!(!told.contains("canary"), "{told}");
    }
}
