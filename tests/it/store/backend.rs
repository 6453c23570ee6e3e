//! Owns the tests of the store as a backend: it follows its file, forgets, and says why it cannot read.
//! Does not know the commands beyond what makes a store.

use std::time::Duration;

use secretfs::backend::store::{Config, KeySource, Store};
use secretfs::backend::{Backend, Error};
use secretfs::clock::Clock;
use secretfs::path::BackendPath;

use super::Home;
use crate::support::mount::HANG;

fn at(path: &str) -> BackendPath {
    BackendPath::parse(path).unwrap()
}

fn backend(home: &Home, clock: Clock) -> Store {
    let config = Config { file: home.path("s.age"), key: KeySource::Identity(home.identity()) };
    Store::new(config, clock).unwrap()
}

#[tokio::test]
async fn the_backend_follows_the_file() {
    let home = Home::with_store();
    let store = backend(&home, Clock::manual());
    assert!(store.list(&BackendPath::root()).await.unwrap().entries().is_empty());
    assert_eq!(store.read(&at("a")).await.unwrap_err(), Error::NotFound);
    let mut generations = vec![store.generation()];
    for turn in 1..=3 {
        home.ok(&["put", "s.age", "dir/a", &format!("k=canary{turn}")]);
        let secret = store.read(&at("dir/a")).await.unwrap();
        assert_eq!(secret.field("k").unwrap().value.expose(), format!("canary{turn}").as_bytes());
        assert_eq!(secret.version.as_str(), turn.to_string());
        assert!(secret.created.unwrap().elapsed().unwrap() < Duration::from_secs(600));
        generations.push(store.generation());
    }
    generations.sort_unstable();
    generations.dedup();
    assert_eq!(generations.len(), 4, "every write is another generation");
    assert!(store.list(&BackendPath::root()).await.unwrap().get("dir").unwrap().folder);
    assert_eq!(store.list(&at("dir/a")).await.unwrap_err(), Error::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_that_writes_wakes_who_waits_and_no_other_does() {
    let home = Home::with_store();
    let store = backend(&home, Clock::System);
    let is_quiet = async || tokio::time::timeout(Duration::from_millis(100), store.changed()).await.is_err();
    for command in [
        &["put", "s.age", "dir/a", "k=canary"][..],
        &["get", "s.age", "dir/a"],
        &["ls", "s.age"],
        &["put", "s.age", "dir/a", "k=canary"],
        &["rm", "s.age", "dir/a"],
    ] {
        assert!(is_quiet().await, "before {command:?}");
        home.ok(command);
        if ["put", "rm"].contains(&command[0]) {
            tokio::time::timeout(HANG, store.changed()).await.unwrap_or_else(|_| panic!("{command:?}"));
            assert_eq!(store.read(&at("dir/a")).await.is_ok(), command[0] == "put");
        }
    }
    assert!(is_quiet().await);
}

#[tokio::test]
async fn the_backend_forgets_what_is_not_used() {
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a", "k=canary"]);
    let clock = Clock::manual();
    let store = backend(&home, clock.clone());
    assert!(!store.holds_plaintext());
    store.read(&at("a")).await.unwrap();
    clock.advance(Duration::from_secs(9));
    store.read(&at("a")).await.unwrap();
    clock.advance(Duration::from_secs(9));
    store.tidy(clock.now());
    assert!(store.holds_plaintext());
    clock.advance(Duration::from_secs(1));
    store.tidy(clock.now());
    assert!(!store.holds_plaintext());
    store.read(&at("a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_closed_store_get_one_answer() {
    let home = Home::with_store();
    home.ok(&["put", "s.age", "a", "k=canary"]);
    let store = std::sync::Arc::new(backend(&home, Clock::System));
    // Some give up at once: the others must not wait for them for ever.
    let impatient = store.clone();
    let _ = tokio::time::timeout(Duration::ZERO, impatient.read(&at("a"))).await;
    let readers = (0..50).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.read(&at("a")).await.map(|secret| secret.fields.len()) })
    });
    for reader in readers.collect::<Vec<_>>() {
        assert_eq!(reader.await.unwrap(), Ok(1));
    }
}

#[tokio::test]
async fn the_backend_says_why_it_cannot_read() {
    let home = Home::with_store();
    home.ok(&["init", "other.age", "--identity", "other"]);
    let open = |file: &str| {
        let config = Config { file: home.path(file), key: KeySource::Identity(home.identity()) };
        Store::new(config, Clock::System).unwrap()
    };
    let why = |error: Error| {
        assert!(!error.is_answer());
        error.to_string()
    };
    let missing = open("none.age");
    assert_eq!(missing.generation(), Some(0));
    assert!(why(missing.read(&at("a")).await.unwrap_err()).contains("make it with `secretfs store init`"));
    home.ok(&["init", "none.age"]);
    assert_eq!(missing.read(&at("a")).await.unwrap_err(), Error::NotFound, "it heals by itself");
    let wrong = open("other.age");
    for _ in 0..2 {
        assert!(why(wrong.read(&at("a")).await.unwrap_err()).contains("cannot decrypt"));
    }
    home.write("bad.age", "canary");
    let bad = open("bad.age").list(&BackendPath::root()).await.unwrap_err();
    assert!(matches!(bad, Error::Malformed(_)) && !bad.to_string().contains("canary"));
    let config = Config { file: home.path("s.age"), key: KeySource::Identity(home.path("nothing")) };
    let Err(error) = Store::new(config, Clock::System) else {
        panic!("a missing key is a wrong configuration")
    };
    assert!(error.to_string().contains("nothing"));
}
