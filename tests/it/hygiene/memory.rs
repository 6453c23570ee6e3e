//! Owns the promises of how often a value is in the memory of the serving program, and that nothing of it is left there when
//! it may no longer be served. Does not know how a value is erased.
//!
//! What has ended is waited for, since the last buffers go a moment later; that is all that a wait here allows for.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use serde_json::{Value, json};

use super::canaries::{Canaries, FIELDS, Found, SECRETS};
use super::readable_memory;
use crate::control::{report, started};
use crate::support::available;
use crate::support::bao::Bao;
use crate::support::mount::{Mount, Store, run, secretfs, signal, wait_until};
use crate::support::vault::{ROOT_TOKEN, Vault};

/// Where values come from.
enum Server {
    Store(Store),
    Vault(Vault),
    Bao(Bao),
}

impl Server {
    /// Puts secrets into `folder`, and a small one beside it.
    fn put(&self, folder: &str, canaries: &Canaries) {
        let secret = |number| {
            let fields = FIELDS.iter().enumerate();
            fields.map(|(at, field)| ((*field).to_owned(), canaries.value(number, at).into())).collect()
        };
        let all = (0..SECRETS).map(|number| (format!("{folder}/s{number}"), Value::Object(secret(number))));
        self.put_all(all.chain([("other".to_owned(), json!({"value": "canary-other"}))]).collect());
    }

    fn put_all(&self, secrets: Vec<(String, Value)>) {
        match self {
            Self::Store(store) => {
                let file = store.folder.path().join("import.json");
                std::fs::write(&file, Value::from_iter(secrets).to_string()).unwrap();
                let mut import = secretfs();
                import.args(["store", "import"]).arg(store.file()).arg(&file).arg("--identity");
                run(import.arg(store.identity()));
            }
            Self::Vault(vault) => {
                secrets.into_iter().for_each(|(path, fields)| vault.kv_put("secret", &path, fields));
            }
            Self::Bao(bao) => secrets.iter().for_each(|(path, fields)| {
                bao.put(path, fields);
            }),
        }
    }

    /// Mounts it by a configuration that holds `mount` in its section `[mount]` and `more` at its end.
    fn start(&self, mount: &str, more: &str) -> Mount {
        let plan = Mount::of("");
        let (backend, source, environment) = match self {
            Self::Store(store) => {
                let (file, identity) = (store.file(), store.identity());
                (format!("type = \"store\"\nfile = {file:?}\nidentity = {identity:?}"), "", vec![])
            }
            Self::Vault(vault) => {
                let ca = vault.ca.iter().map(|ca| ("VAULT_CACERT", ca.display().to_string()));
                let environment = [("VAULT_ADDR", vault.address.clone())].into_iter().chain(ca);
                ("type = \"vault\"".to_owned(), "source = \"secret\"", environment.collect())
            }
            Self::Bao(bao) => {
                ("type = \"vault\"".to_owned(), "source = \"secret\"", vec![("VAULT_ADDR", bao.address())])
            }
        };
        let config = plan.folder().join("config.toml");
        let text = format!(
            "[mount]\n{mount}\n[backend.b]\n{backend}\n[[tree]]\npath = \"/\"\nbackend = \"b\"\n{source}\n{more}\n"
        );
        std::fs::write(&config, text).unwrap();
        started(plan.arg("--config").arg(config).envs(environment).envs([("VAULT_TOKEN", ROOT_TOKEN)]))
    }
}

fn read(mount: &Mount, folder: &str, secret: usize, field: usize, canaries: &Canaries) {
    let bytes = mount.read(&format!("{folder}/s{secret}/{}", FIELDS[field])).unwrap();
    assert!(bytes == canaries.value(secret, field).as_bytes(), "{folder} {secret} {field}");
}

fn read_all(mount: &Mount, folder: &str, canaries: &Canaries) {
    for secret in 0..SECRETS {
        for field in 0..FIELDS.len() {
            read(mount, folder, secret, field, canaries);
        }
    }
}

/// Opens this of every secret of a folder.
fn open_all(mount: &Mount, folder: &str, name: &str) -> Vec<File> {
    let paths = (0..SECRETS).map(|secret| mount.path(&format!("{folder}/s{secret}/{name}")));
    paths.map(|path| File::open(path).unwrap()).collect()
}

fn ask(command: &str, options: &[&str], path: &Path) {
    run(secretfs().arg(command).args(options).arg(path));
}

/// Searches again and again until it is as it should be; else says what is there.
fn wait(what: &str, pid: u32, canaries: &Canaries, mut right: impl FnMut(&Found) -> bool) {
    let mut last = String::new();
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_until(what, || {
            let found = canaries.search(pid);
            last = found.to_string();
            right(&found)
        });
    }));
    assert!(done.is_ok(), "{what}: {last}");
}

fn wait_for_nothing(what: &str, pid: u32, canaries: &Canaries) {
    wait(&format!("nothing is left {what}"), pid, canaries, Found::is_empty);
}

/// A value that is served is in memory once, and once more in each open view; one that is not is nowhere.
fn is_there_once_and_then_not_at_all(server: &Server) {
    let [short, older, newer, kept] = [(); 4].map(|()| Canaries::new());
    for (folder, canaries) in [("short", &short), ("rotated", &older), ("kept", &kept)] {
        server.put(folder, canaries);
    }
    let short_life = "[[freshness]]\npath = \"/short/**\"\nttl = \"1s\"\nmax_stale = \"1s\"";
    let mount = server.start("ttl = \"1h\"", short_life);
    let pid = mount.worker();
    for (folder, canaries) in [("kept", &kept), ("rotated", &older), ("short", &short)] {
        read_all(&mount, folder, canaries);
        for view in [".json", ".env", ".docker-env"] {
            drop(open_all(&mount, folder, view));
        }
    }
    let mut open = File::open(mount.path("short/s0/small")).unwrap();
    for canaries in [&kept, &older] {
        assert_eq!(canaries.search(pid).values(), 20, "the search finds what is there");
    }

    // Rotation. Some secrets nobody reads any more, some the reader of the older version reads again, of some it reads the other
    // half, which for a pair's sake may be of the older version.
    server.put("rotated", &newer);
    ask("refresh", &["-r"], &mount.path("rotated"));
    for secret in 0..3 {
        read(&mount, "rotated", secret, 0, &newer);
    }
    for secret in 3..6 {
        mount.read(&format!("rotated/s{secret}/{}", FIELDS[1])).unwrap();
    }
    // The listing, too, is asked for again after a change of the store, which opens its document: better now than below.
    read_all(&mount, "kept", &kept);
    wait_for_nothing("of a version that was replaced", pid, &older);

    // Expiry.
    wait("of an expired secret there is what is open", pid, &short, |found| found.values() == 2);
    let mut bytes = String::new();
    open.read_to_string(&mut bytes).unwrap();
    assert!(bytes == short.value(0, 0), "an open file keeps its version");
    drop(open);
    wait_for_nothing("of an expired secret", pid, &short);

    // What is served. By now the store has closed its document and idle connections are closed.
    for canaries in [&kept, &newer] {
        wait("each value is there once", pid, canaries, |found| (found.values(), found.copies()) == (20, 1));
    }
    let files: Vec<_> = FIELDS.iter().map(|field| open_all(&mount, "kept", field)).collect();
    assert_eq!(kept.search(pid).copies(), 1, "open files have no copies of their own");
    drop(files);
    let views = open_all(&mount, "kept", ".json");
    let found = kept.search(pid);
    assert_eq!((found.values(), found.copies()), (20, 2), "a view is one: {found}");
    drop(views);
    wait("closed, the view is gone", pid, &kept, |found| (found.values(), found.copies()) == (20, 1));

    // Flush, with buffers full of what was just read, and a connection that is never idle. (A store's document would come back.)
    let keep_busy = || {
        if !matches!(server, Server::Store(_)) {
            ask("refresh", &[], &mount.path("other"));
        }
    };
    ask("refresh", &["-r"], &mount.path("kept"));
    let open = File::open(mount.path("kept/s0/small")).unwrap();
    ask("flush", &[], &mount.at);
    wait("after a flush there is what is open", pid, &kept, |found| {
        keep_busy();
        (found.values(), found.copies()) == (2, 1)
    });
    drop(open);
    for canaries in [&kept, &newer] {
        wait("nothing is left after a flush", pid, canaries, |found| {
            keep_busy();
            found.is_empty()
        });
    }
    read_all(&mount, "kept", &kept);
}

#[test]
fn a_value_from_the_store_is_in_memory_once_and_then_not_at_all() {
    let Some(()) = available("root", readable_memory()) else { return };
    is_there_once_and_then_not_at_all(&Server::Store(Store::new()));
}

#[test]
fn a_value_that_came_over_tls_is_in_memory_once_and_then_not_at_all() {
    let Some(()) = available("root", readable_memory()) else { return };
    let Some(vault) = available("vault", Vault::start_tls()) else { return };
    is_there_once_and_then_not_at_all(&Server::Vault(vault));
}

#[test]
fn nothing_is_left_in_memory_of_what_had_to_make_room() {
    let Some(()) = available("root", readable_memory()) else { return };
    let server = Server::Bao(Bao::start());
    let canaries = Canaries::new();
    server.put("kept", &canaries);
    let others = (0..20).map(|number| {
        (format!("more/m{number}"), json!({ "value": format!("canary {number} ").repeat(10_000) }))
    });
    server.put_all(others.collect());
    let mount = server.start("ttl = \"1h\"\nmax_value_size = \"512KiB\"\nmax_cache = \"1MiB\"", "");
    read_all(&mount, "kept", &canaries);
    assert_eq!(canaries.search(mount.worker()).values(), 20, "all of it has room");
    let is_held = |secret: &Value| secret["paths"][0].as_str().is_some_and(|path| path.starts_with("kept/"));
    wait_until("others are read more often, and it makes room", || {
        for number in 0..20 {
            mount.read(&format!("more/m{number}/value")).unwrap();
        }
        !report(&mount, &["--secrets"])["held"]["secrets"].as_array().unwrap().iter().any(is_held)
    });
    wait_for_nothing("of what had to make room", mount.worker(), &canaries);
    assert!(report(&mount, &[])["counters"]["evictions"].as_u64().unwrap() > 0);
}

/// Unmounted by `umount -l`, a mount goes on for whoever has a file open; nothing tells the program.
#[test]
fn nothing_is_left_in_memory_of_what_expires_after_somebody_has_unmounted() {
    let Some(()) = available("root", readable_memory()) else { return };
    let server = Server::Bao(Bao::start());
    let canaries = Canaries::new();
    server.put("kept", &canaries);
    let mut mount = server.start("ttl = \"1s\"\nmax_stale = 0", "");
    let mut open = File::open(mount.path("other/value")).unwrap();
    read_all(&mount, "kept", &canaries);
    assert!(!canaries.search(mount.worker()).is_empty());
    unmount(&mount.at, UnmountFlags::DETACH).unwrap();
    wait_for_nothing("when it has expired", mount.worker(), &canaries);
    let mut bytes = String::new();
    open.read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "canary-other");
    drop(open);
    assert_eq!(mount.ended(), Some(0), "and with the last file the program ends");
}

/// When a process has ended its memory is the kernel's, which gives it to nobody before it is erased. So what can be seen is the
/// time between: the program waits for whoever has a file open.
#[test]
fn nothing_is_left_in_memory_once_it_was_told_to_unmount_though_it_waits_for_open_files() {
    let Some(()) = available("root", readable_memory()) else { return };
    let server = Server::Store(Store::new());
    let canaries = Canaries::new();
    server.put("kept", &canaries);
    let mut mount = server.start("ttl = \"1h\"", "");
    let _open = File::open(mount.path("other/value")).unwrap();
    read_all(&mount, "kept", &canaries);
    assert!(!canaries.search(mount.worker()).is_empty());
    let worker = mount.worker();
    signal(mount.pid(), "TERM");
    wait_until("it is unmounted", || !mount.is_mounted());
    goes_at_once(worker, &canaries);
    assert_eq!(mount.ended(), Some(0));
}

/// The same of a mount that somebody else has unmounted, while the program waits for a hook's.
#[test]
fn nothing_is_left_in_memory_once_somebody_has_unmounted_though_it_waits_for_a_hook() {
    let Some(()) = available("root", readable_memory()) else { return };
    let server = Server::Store(Store::new());
    let canaries = Canaries::new();
    server.put("kept", &canaries);
    let hook = "[[hook]]\npath = \"/other\"\ndebounce = 0\ninterval = 0\n\
                exec = [\"/bin/sh\", \"-c\", \"trap '' TERM; echo deaf >&2; exec sleep 30\"]";
    let mut mount = server.start("ttl = \"1h\"", hook);
    mount.read("other/value").unwrap();
    server.put_all(vec![("other".to_owned(), json!({"value": "canary-another"}))]);
    wait_until("the hook runs", || mount.log().contains("deaf"));
    read_all(&mount, "kept", &canaries);
    assert!(!canaries.search(mount.worker()).is_empty());
    let worker = mount.worker();
    unmount(&mount.at, UnmountFlags::NOFOLLOW).unwrap();
    goes_at_once(worker, &canaries);
    assert_eq!(mount.ended(), Some(0));
}

/// What it held is erased before it waits, not by its end: a program at its end waits two seconds, of which it stands still while it is
/// searched, and the last search that it lives through finds nothing. On a very slow machine it may have ended before one comes.
fn goes_at_once(worker: u32, canaries: &Canaries) {
    let mut last = None;
    while let Some(found) = canaries.search_if_alive(worker) {
        if found.is_empty() {
            return;
        }
        last = Some(found);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(last.is_none(), "it waits, and does not erase before");
}
