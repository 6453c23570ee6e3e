//! Owns the promises that a value is nowhere but where it is served: in no `Debug`, no message of a panic, and below
//! `hygiene/` in no memory longer than said. Does not know how a value is erased.

mod canaries;
mod connections;
mod memory;
mod pages;

use std::fmt::Debug;
use std::marker::PhantomData;
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use secretfs::backend::aws;
use secretfs::backend::store::{self, Document, KeySource, SecretPath};
use secretfs::backend::vault::{self, TokenSource};
use secretfs::cache::Snapshot;
use secretfs::clock::Clock;
use secretfs::daemon;
use secretfs::secret::{Field, Form, Secret, SecretBytes, Version};

use crate::support::mount::possible;

/// Another process's memory can be read by root alone: secretfs makes itself undumpable.
pub fn readable_memory() -> Result<(), String> {
    possible()?;
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("not root".into()) }
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
