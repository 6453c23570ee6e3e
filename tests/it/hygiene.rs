//! Owns the search of a serving program's memory for values that should be gone from it, and of texts that a panic prints.
//! Does not know how a value is erased.

use std::fmt::Debug;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use secretfs::backend::aws;
use secretfs::backend::store::{self, Document, KeySource, SecretPath};
use secretfs::backend::vault::{self, TokenSource};
use secretfs::cache::Snapshot;
use secretfs::clock::Clock;
use secretfs::daemon;
use secretfs::secret::{Field, Form, Secret, SecretBytes, Version};
use serde_json::json;

use crate::support::available;
use crate::support::mount::{HANG, Mount, Store, possible};
use crate::support::vault::{ROOT_TOKEN, Vault};

/// A value of 32 bytes that is nowhere else in the world, and that the search of logs finds too.
pub fn canary() -> String {
    let mut random = [0; 12];
    File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}canary-{}~", &digits[..8], &digits[8..])
}

/// Another process's memory can be read by root alone: secretfs makes itself undumpable.
pub fn readable_memory() -> Result<(), String> {
    possible()?;
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("not root".into()) }
}

/// Where in the memory of `pid` half of `value` or more lies: a line for each place, with what is around it.
pub fn places(pid: u32, value: &str) -> Vec<String> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let (first, second) = value.as_bytes().split_at(value.len() / 2);
    let mut found = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let range = words.next().unwrap().split_once('-').unwrap();
        let name = words.nth(4).unwrap_or("anonymous");
        if !line.contains(" r") || name == "[vvar]" || name.starts_with("[vvar_") || name == "[vsyscall]" {
            continue;
        }
        let [start, end] = [range.0, range.1].map(|digits| u64::from_str_radix(digits, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        if memory.read_exact_at(&mut bytes, start).is_err() {
            // A page that another thread has just given back cannot be read, and holds nothing any more.
            for (page, at) in bytes.chunks_mut(4096).zip((start..).step_by(4096)) {
                let _ = memory.read_exact_at(page, at);
            }
        }
        for half in [first, second] {
            for at in positions(&bytes, half) {
                let around = &bytes[at.saturating_sub(96)..(at + 96).min(bytes.len())];
                found.push(format!("{name} {:#x}: {}", start + at as u64, around.escape_ascii()));
            }
        }
    }
    found
}

/// Quick without optimisation too: most bytes of a process are not the first of `part`.
fn positions(bytes: &[u8], part: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(next) = bytes[from..].iter().position(|byte| *byte == part[0]) {
        if bytes[from + next..].starts_with(part) {
            found.push(from + next);
        }
        from += next + 1;
    }
    found
}

/// The value amid so much else that no buffer is reused for it.
pub fn large(value: &str) -> String {
    let much = "x".repeat(150_000);
    format!("{much}{value}{much}")
}

/// Reads `folder`/value and `folder`/large in every way there is, finds it in memory meanwhile, and waits until it is gone.
fn reads_and_forgets(mount: &Mount, folder: &str, value: &str) {
    let file = format!("{folder}/value");
    assert_eq!(mount.read(&file).unwrap(), value.as_bytes());
    for view in [".json", ".env"] {
        let text = String::from_utf8(mount.read(&format!("{folder}/{view}")).unwrap()).unwrap();
        assert!(text.contains(value));
    }
    assert_eq!(mount.read(&format!("{folder}/large")).unwrap(), large(value).as_bytes());
    let open = File::open(mount.path(&file)).unwrap();
    assert!(!places(mount.pid(), value).is_empty(), "the search finds nothing where something is");
    std::thread::sleep(Duration::from_secs(2));
    assert!(!places(mount.pid(), value).is_empty(), "an open handle keeps its version past the TTL");
    let mut kept = String::new();
    (&open).read_to_string(&mut kept).unwrap();
    assert_eq!(kept, value);
    drop(open);
    let start = Instant::now();
    loop {
        let left = places(mount.pid(), value);
        if left.is_empty() {
            break;
        }
        assert!(start.elapsed() < HANG, "left in memory:\n{}", left[..left.len().min(4)].join("\n"));
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(mount.read(&file).unwrap(), value.as_bytes(), "and it can be had again");
}

#[test]
fn nothing_of_a_value_from_the_store_is_left_in_memory() {
    let Some(()) = available("root", readable_memory()) else { return };
    let (store, value) = (Store::new(), canary());
    let file = store.folder.path().join("large");
    std::fs::write(&file, large(&value)).unwrap();
    store.put("api-key", &[&format!("value={value}"), &format!("large=@{}", file.display())]);
    let mount = store.mount().arg("--ttl").arg("1s").arg("--max-stale").arg("0").start();
    reads_and_forgets(&mount, "api-key", &value);
}

#[test]
fn nothing_of_a_value_from_vault_is_left_in_memory() {
    let Some(()) = available("root", readable_memory()) else { return };
    vault_is_forgotten(Vault::start());
}

#[test]
fn nothing_of_a_value_that_came_over_tls_is_left_in_memory() {
    let Some(()) = available("root", readable_memory()) else { return };
    vault_is_forgotten(Vault::start_tls());
}

fn vault_is_forgotten(server: Result<Vault, String>) {
    let Some(vault) = available("vault", server) else { return };
    let value = canary();
    vault.kv_put("secret", "api-key", json!({"value": value, "large": large(&value)}));
    let address = [("VAULT_ADDR", vault.address.as_str()), ("VAULT_TOKEN", ROOT_TOKEN)];
    let mut plan = Mount::of("vault:secret").arg("--ttl").arg("1s").arg("--max-stale").arg("0").envs(address);
    if let Some(ca) = &vault.ca {
        plan = plan.envs([("VAULT_CACERT", ca)]);
    }
    reads_and_forgets(&plan.start(), "api-key", &value);
}

/// What `{:?}` and so every `unwrap`, `assert_eq!` and log line would show.
#[test]
fn debug_shows_no_value() {
    let bytes = || SecretBytes::from("canary".to_owned());
    let field = || Field { name: "k".into(), value: bytes(), form: Form::Text };
    let secret =
        || Secret { fields: vec![field()], version: Version::new("1"), created: None, expires: None };
    let now = SystemTime::now();
    let mut document = Document::new(vec![]);
    document.put(SecretPath::parse("a").unwrap(), vec![field()], now);
    let address = "https://me:canary@vault.example/".to_owned();
    let token = || TokenSource::Literal(bytes());
    let passphrase = || KeySource::Passphrase(bytes());
    let shown = [
        format!("{:#?}", bytes()),
        format!("{:#?}", secret()),
        format!(
            "{:#?}",
            Arc::new(Snapshot {
                secret: Arc::new(secret()),
                fetched: now,
                expires: now,
                fresh_until: Clock::System.now(),
                served_until: Clock::System.now(),
            })
        ),
        format!("{document:#?}"),
        format!("{:#?}", token()),
        format!(
            "{:#?}",
            vault::Config { address: address.clone(), token: token(), ..vault::Config::default() }
        ),
        format!("{:#?}", aws::Config { endpoint_url: Some(address.clone()), ..aws::Config::default() }),
        format!("{:#?}", passphrase()),
        format!("{:#?}", store::Config { file: "f".into(), key: passphrase() }),
    ];
    for text in shown {
        assert!(!text.contains("canary"), "{text}");
    }
}

/// Whether a type can be shown at all: the inherent constant is there for types with `Debug` only, and goes first.
struct Shown<T>(PhantomData<T>);
trait NotShown {
    const AT_ALL: bool = false;
}
impl<T> NotShown for Shown<T> {}
impl<T: Debug> Shown<T> {
    const AT_ALL: bool = true;
}

/// What holds more secrets than it can redact has no `Debug`: this does not compile otherwise.
const _: () = {
    assert!(Shown::<Secret>::AT_ALL, "the question itself");
    assert!(!Shown::<daemon::Plan>::AT_ALL, "Plan");
    assert!(!Shown::<store::Key>::AT_ALL, "Key");
    assert!(!Shown::<store::Store>::AT_ALL, "Store");
    assert!(!Shown::<vault::Vault>::AT_ALL, "Vault");
    assert!(!Shown::<secretfs::cli::store::Command>::AT_ALL, "the command line of `store put`");
};

/// Whether a type can be sent over the control socket or printed as JSON, found out in the same way.
struct Sent<T>(PhantomData<T>);
trait NotSent {
    const AT_ALL: bool = false;
}
impl<T> NotSent for Sent<T> {}
impl<T: serde::Serialize> Sent<T> {
    const AT_ALL: bool = true;
}

const _: () = {
    assert!(Sent::<secretfs::control::status::Status>::AT_ALL, "the question itself");
    assert!(!Sent::<SecretBytes>::AT_ALL, "SecretBytes");
    assert!(!Sent::<Secret>::AT_ALL, "Secret");
    assert!(!Sent::<Snapshot>::AT_ALL, "Snapshot");
};

/// Set in the process that shall panic.
const CHILD: &str = "SECRETFS_TEST_PANIC";

/// In a child of the test below: two panics, in a process that was hardened. Elsewhere: nothing.
#[test]
fn child() {
    let Ok(value) = std::env::var(CHILD) else { return };
    daemon::harden();
    let looked_at = format!("{value}-\u{e9}");
    let cut =
        std::thread::Builder::new().name("cut".into()).spawn(move || looked_at[1..looked_at.len() - 1].len());
    assert!(cut.unwrap().join().is_err());
    let fixed = std::thread::spawn(|| panic!("a fixed text"));
    assert!(fixed.join().is_err());
}

#[test]
fn a_panic_says_where_but_not_what_it_was_looking_at() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hygiene::child", "--nocapture"])
        .env(CHILD, "canary")
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("thread `cut` panicked at tests/it/hygiene.rs:"), "{shown}");
    assert!(shown.contains("a fixed text"), "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}
