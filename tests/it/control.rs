//! Owns the promises of `status`, `refresh`, `revoke` and `flush` on real mounts: what they tell, what they do, and never a value.
//! Who may ask, and what the socket withstands, is in tests/it/control/socket.rs.

mod socket;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::available;
use crate::support::mount::{CANARY, HANG, Mount, Plan, Store, possible, run, secretfs, signal, wait_until};
use crate::support::vault::{ROOT_TOKEN, Vault};

/// What a command says; the test fails when a secret is in it.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

pub fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(!out.contains(CANARY) && !err.contains(CANARY), "a secret is told: {out}\n{err}");
    assert!(!err.contains("panicked"), "{err}");
    Said { code: output.status.code().expect("it was not killed"), out, err }
}

/// `secretfs COMMAND PATH OPTIONS`.
fn ask(command: &str, path: &Path, options: &[&str]) -> Said {
    said(&secretfs().arg(command).arg(path).args(options).output().unwrap())
}

fn good(said: Said) -> String {
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{}", said.out);
    said.out
}

fn refused(said: Said, code: i32, told: &str) {
    assert_eq!(said.code, code, "{}\n{}", said.out, said.err);
    assert!(said.err.starts_with("secretfs: ") && said.err.lines().count() == 1, "{}", said.err);
    assert!(said.err.contains(told), "{told} in {}", said.err);
}

/// The kernel has a mount a moment before its socket is there; `--daemon` waits for both.
pub fn started(plan: Plan) -> Mount {
    let mount = plan.start();
    wait_until("the socket is there", || ask("status", &mount.at, &[]).code == 0);
    mount
}

pub fn report(mount: &Mount, options: &[&str]) -> Value {
    let said = good(ask("status", &mount.at, &[&["--json"], options].concat()));
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["version"], 1);
    assert_eq!(report["mounts"].as_array().unwrap().len(), 1);
    report["mounts"][0].clone()
}

pub fn device(mount: &Mount) -> String {
    secretfs::mounts::device_at(&mount.at.canonicalize().unwrap()).unwrap().expect("mounted")
}

pub fn socket(mount: &Mount) -> PathBuf {
    Path::new("/run/secretfs").join(device(mount).replace(':', "-") + ".sock")
}

fn store() -> Store {
    let store = Store::new();
    store.put("team/db", &["password=canary-password", "user=canary-user"]);
    store.put("api-key", &["value=canary-value"]);
    store
}

fn of_vault(vault: &Vault) -> Plan {
    Mount::of("vault:secret").envs([("VAULT_ADDR", vault.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)])
}

/// A server of one's own, where a mount is possible, or the end of the test.
macro_rules! vault {
    () => {
        match available("mount", possible()).and_then(|()| available("vault", Vault::start())) {
            Some(server) => server,
            None => return,
        }
    };
}

#[test]
fn status_tells_programs_and_people_what_is_held_and_by_whom() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let mount = started(store.mount());
    assert_eq!(report(&mount, &[])["secrets"]["held"], 0);
    mount.read("team/db/password").unwrap();
    let report = report(&mount, &["--secrets"]);
    assert_eq!(report["mountpoint"], mount.at.canonicalize().unwrap().to_str().unwrap());
    assert_eq!((&report["answers"], &report["pid"]), (&json!(true), &json!(mount.pid())));
    assert_eq!((&report["worker"], &report["crashes"]), (&json!(mount.worker()), &json!(0)));
    assert_eq!(report["program"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["device"], device(&mount));
    assert_eq!((&report["secrets"]["held"], &report["secrets"]["stale"]), (&json!(1), &json!(0)));
    assert_eq!(report["backends"][0]["kind"], "store");
    let held = &report["held"]["secrets"][0];
    assert_eq!((&held["paths"], &held["backend_path"]), (&json!(["team/db"]), &json!("team/db")));
    assert_eq!((&held["version"], &held["stale"]), (&json!("1"), &json!(false)));
    for time in [&report["since"], &held["fetched"], &held["expires"]] {
        humantime::parse_rfc3339(time.as_str().unwrap()).unwrap();
    }
    assert!(report["counters"].as_object().unwrap().contains_key("hits"));
    let page = include_str!("../../docs/operations.md");
    for name in names(&report) {
        assert!(page.contains(&format!("`{name}`")), "docs/operations.md does not tell of `{name}`");
    }
    let told = good(ask("status", &mount.path("team/db"), &["--secrets"]));
    for part in [
        "  program    secretfs ",
        "  backend    store (store): answers\n",
        "  secrets    1 held, ",
        "  watchers   ",
        "  sandbox    ",
        "  PATH     BACKEND        VERSION  AGE ",
        "  team/db  store:team/db  1 ",
    ] {
        assert!(told.contains(part), "{part} in\n{told}");
    }
    assert!(told.contains(&format!("pid {}, worker {}\n", mount.pid(), mount.worker())), "{told}");
}

/// Every name in a report but those of counters.
fn names(report: &Value) -> Vec<String> {
    match report {
        Value::Object(fields) => {
            let below =
                fields.iter().filter(|(name, _)| *name != "counters").flat_map(|(_, below)| names(below));
            fields.keys().cloned().chain(below).collect()
        }
        Value::Array(items) => items.iter().flat_map(names).collect(),
        _ => vec![],
    }
}

#[test]
fn status_without_a_path_shows_every_mount_and_which_do_not_answer() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let (one, two) = (started(store.mount()), started(store.mount()));
    assert_ne!(socket(&one), socket(&two));
    assert!(socket(&one).exists() && socket(&two).exists());
    let all = || said(&secretfs().arg("status").output().unwrap()).out;
    let name = |mount: &Mount| mount.at.canonicalize().unwrap().display().to_string();
    let told = all();
    for mount in [&one, &two] {
        assert!(told.contains(&format!("{}\n  source     store:", name(mount))), "{told}");
    }
    // The one would replace the other.
    let both = [one.pid(), one.worker()];
    both.iter().for_each(|pid| signal(*pid, "STOP"));
    let began = Instant::now();
    let stopped = ask("status", &one.at, &[]);
    let every = said(&secretfs().arg("status").arg("--json").output().unwrap());
    both.iter().rev().for_each(|pid| signal(*pid, "CONT"));
    assert!(began.elapsed() < HANG, "status hangs with a program that is stopped");
    assert!(stopped.out.contains("  no answer  no answer within 5s"), "{}", stopped.out);
    refused(stopped, 74, "no answer within 5s: its program is stopped");
    assert_ne!(every.code, 0);
    let every: Value = serde_json::from_str(&every.out).unwrap();
    let answers = |mount: &Mount| {
        let mounts = every["mounts"].as_array().unwrap();
        mounts.iter().find(|it| it["mountpoint"] == name(mount)).unwrap()["answers"].clone()
    };
    assert_eq!((answers(&one), answers(&two)), (json!(false), json!(true)));
    good(ask("status", &one.at, &[]));
}

#[test]
fn refresh_shows_a_new_version_before_the_ttl() {
    let vault = vault!();
    for (path, value) in [("api-key", "canary-1"), ("team/db", "canary-1"), ("team/mail", "canary-1")] {
        vault.kv_put("secret", path, json!({"value": value}));
    }
    let mount = started(of_vault(&vault));
    let at = |below: &str| mount.at.canonicalize().unwrap().join(below).display().to_string();
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-1");
    vault.kv_put("secret", "api-key", json!({"value": "canary-2-longer", "more": "canary"}));
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-1", "fresh still");
    let told = good(ask("refresh", &mount.path("api-key/value"), &[]));
    assert_eq!(told, format!("{}: version 1 -> 2\n", at("api-key")));
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-2-longer");
    assert_eq!(mount.read("api-key/more").unwrap(), b"canary");
    let told = good(ask("refresh", &mount.path("api-key"), &[]));
    assert_eq!(told, format!("{}: unchanged, version 2\n", at("api-key")));
    let told = good(ask("refresh", &mount.path("team/mail/value"), &[]));
    assert!(told.starts_with(&format!("{}: ", at("team/mail"))), "one that nobody has read: {told}");

    mount.read("team/db/value").unwrap();
    for path in ["api-key", "team/db"] {
        vault.kv_put("secret", path, json!({"value": "canary-3"}));
    }
    vault.kv_put("secret", "new", json!({"value": "canary"}));
    let told = good(ask("refresh", &mount.at, &["--recursive"]));
    for line in [
        format!("{}: listing, 3 names", at("")).replace("/:", ":"),
        format!("{}: version 2 -> 3", at("api-key")),
        format!("{}: listing, 2 names", at("team")),
        format!("{}: version 1 -> 2", at("team/db")),
        format!("{}: unchanged, version 1", at("team/mail")),
    ] {
        assert_eq!(told.lines().filter(|told| **told == line).count(), 1, "{line} in\n{told}");
    }
    assert_eq!(told.lines().count(), 5, "{told}");
    assert_eq!(mount.ls("").unwrap(), ["api-key", "new", "team"]);
    assert_eq!(mount.read("team/db/value").unwrap(), b"canary-3");
}

#[test]
fn refresh_says_why_not_and_refreshes_the_others() {
    let vault = vault!();
    for path in ["a", "b"] {
        vault.kv_put("secret", path, json!({"value": "canary"}));
    }
    let mount = started(of_vault(&vault).arg("--deadline").arg("10s"));
    for path in ["a/value", "b/value"] {
        mount.read(path).unwrap();
    }
    refused(ask("refresh", &mount.path("nope"), &[]), 66, "nope: ENOENT: ");
    refused(ask("refresh", &mount.path("a/nope"), &[]), 66, "nope: ENOENT: ");
    refused(ask("refresh", &mount.path("a/value/x"), &[]), 66, "ENOTDIR");
    refused(ask("refresh", Path::new("/proc/self"), &[]), 66, "is not in a mount of secretfs");
    refused(said(&secretfs().arg("refresh").output().unwrap()), 64, "<PATHS>");
    vault.kv_delete("secret", "a");
    let paths = [mount.path("a/value"), mount.path("nope"), mount.path("b")];
    let told = said(&secretfs().arg("refresh").args(paths).output().unwrap());
    assert_eq!(told.code, 66, "{}", told.err);
    let lines: Vec<&str> = told.err.lines().collect();
    assert_eq!(lines.len(), 2, "{}", told.err);
    assert!(lines[0].ends_with("/a: not refreshed: ENOENT: there is no such secret"), "{}", told.err);
    assert!(lines[1].ends_with("/nope: ENOENT: there is no such file"), "{}", told.err);
    assert!(told.out.ends_with("/b: unchanged, version 1\n"), "{}", told.out);
    assert_eq!(
        mount.read("a/value").unwrap_err().raw_os_error(),
        Some(libc::ENOENT),
        "an answer counts at once"
    );

    vault.pause();
    let began = Instant::now();
    good(ask("status", &mount.at, &["--secrets"]));
    refused(ask("refresh", &mount.path("b/value"), &[]), 74, "/b: not refreshed: ETIMEDOUT: ");
    assert!(began.elapsed() < HANG);
    vault.resume();
    vault.stop();
    refused(
        ask("refresh", &mount.path("b/value"), &[]),
        74,
        "/b: not refreshed: EIO: the backend cannot be reached",
    );
    assert_eq!(mount.read("b/value").unwrap(), b"canary", "what is fresh is still served");
}

#[test]
fn a_directory_of_the_configuration_is_refreshed_whole_or_not() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let config = store.folder.path().join("config.toml");
    let text = format!(
        "[backend.local]\ntype = \"store\"\nfile = {:?}\nidentity = {:?}\n\
         [[tree]]\npath = \"/apps/all\"\nbackend = \"local\"\n\
         [[tree]]\npath = \"/apps/team\"\nbackend = \"local\"\nsource = \"team\"\n",
        store.file(),
        store.identity()
    );
    std::fs::write(&config, text).unwrap();
    let mount = started(Plan::of("").arg("--config").arg(&config));
    mount.read("apps/team/db/user").unwrap();
    store.put("team/db", &["user=canary-2"]);
    refused(ask("refresh", &mount.path("apps"), &[]), 64, "use --recursive");
    let told = good(ask("refresh", &mount.path("apps/team"), &["-r"]));
    // The loop is told of a change of the file too, and may have been faster.
    let news = ["version 1 -> 2\n", "unchanged, version 2\n"];
    assert!(news.iter().any(|news| told.contains(&format!("/apps/team/db: {news}"))), "{told}");
    let told = good(ask("refresh", &mount.path("apps"), &["-r"]));
    assert_eq!(told.matches("version 2\n").count(), 1, "a secret that two trees show is one: {told}");
    let shown = report(&mount, &["--secrets"]);
    assert_eq!(shown["held"]["secrets"][0]["paths"], json!(["apps/all/team/db", "apps/team/db"]));
}

#[test]
fn what_is_not_made_on_demand_has_no_lease_to_be_ended() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let mount = started(store.mount());
    mount.read("team/db/password").unwrap();
    for path in ["team/db", "team/db/password", "team", "nope", ""] {
        refused(ask("revoke", &mount.path(path), &[]), 64, "is not made on demand, so it has no lease");
    }
    refused(ask("revoke", &mount.at, &["--recursive"]), 64, "is not made on demand");
    refused(ask("revoke", Path::new("/proc/self"), &[]), 66, "is not in a mount of secretfs");
    refused(said(&secretfs().arg("revoke").output().unwrap()), 64, "<PATHS>");
    let report = report(&mount, &["--verbose"]);
    assert_eq!(report["leases"], json!({"totals": [], "leases": [], "left_out": 0}));
    assert_eq!(report["secrets"]["held"], 1, "what is held stays so");
}

#[test]
fn a_bind_mount_of_a_part_is_asked_by_its_own_paths() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(()) = available("users", crate::users::is_root()) else { return };
    let store = store();
    let mount = started(store.mount());
    let file = mount.folder.path().canonicalize().unwrap().join("file");
    let folder = file.with_file_name("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(&file, "").unwrap();
    let bound = [Bound::at(&mount.path("team"), &folder), Bound::at(&mount.path("team/db/user"), &file)];
    let told = good(ask("refresh", &folder.join("db/password"), &[]));
    assert!(told.starts_with(&format!("{}: ", folder.join("db").display())), "{told}");
    // It shows a part of the secret; the secret itself has no place there.
    assert!(good(ask("refresh", &file, &[])).starts_with("team/db: unchanged"));
    assert!(good(ask("status", &file, &[])).contains(&format!(
        "pid {}, worker {}\n",
        mount.pid(),
        mount.worker()
    )));
    let all = said(&secretfs().args(["status", "--json"]).output().unwrap()).out;
    assert_eq!(all.matches(&format!("\"pid\": {},", mount.pid())).count(), 1, "a mount is told once: {all}");
    drop(bound);
}

/// A bind mount, for as long as it is kept.
struct Bound(PathBuf);

impl Bound {
    fn at(what: &Path, at: &Path) -> Self {
        run(Command::new("mount").arg("--bind").arg(what).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn flush_says_what_it_wiped_and_open_files_keep_theirs() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let (mount, other) = (started(store.mount()), started(store.mount()));
    for mount in [&mount, &other] {
        mount.read("team/db/password").unwrap();
        mount.read("api-key/value").unwrap();
    }
    let open = std::fs::File::open(mount.path("api-key/value")).unwrap();
    let bytes = report(&mount, &[])["secrets"]["bytes"].clone();
    refused(ask("flush", &mount.path("team"), &[]), 64, "name the mount, ");
    let told = good(ask("flush", &mount.at, &[]));
    assert_eq!(
        told,
        format!("{}: 2 secrets wiped, {bytes} bytes\n", mount.at.canonicalize().unwrap().display())
    );
    assert_eq!(report(&mount, &[])["secrets"]["held"], 0);
    assert_eq!(report(&other, &[])["secrets"]["held"], 2, "another mount is left alone");
    assert_eq!(std::io::read_to_string(&open).unwrap(), "canary-value");
    assert_eq!(mount.read("team/db/password").unwrap(), b"canary-password");
}
