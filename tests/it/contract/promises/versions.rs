//! Owns the promises about versions and changes: what every backend keeps, tells and wakes for, as far as it does at all.
//! Does not know a backend.

use std::time::Duration;

use secretfs::backend::{Error, Versions};
use secretfs::secret::Version;
use serde_json::json;

use super::{Make, Place, Subject, entries, text};
use crate::support::mount::HANG;

pub(in crate::contract) async fn an_older_version_is_read_by_its_name_where_they_are_kept(make: Make) {
    let Some(subject) = make(Place::Shared) else { return };
    let mut versions = Vec::new();
    for turn in 1..=3 {
        subject.put("dir/a", &json!({"k": format!("canary {turn}"), format!("only{turn}"): "canary"}));
        versions.push(subject.read("dir/a").await.unwrap().version);
    }
    let read = async |path: &str, version: &Version| {
        subject.backend.read_version(&subject.path(path), version).await
    };
    for (turn, version) in (1..).zip(&versions) {
        if subject.differs.keeps_versions {
            let secret = read("dir/a", version).await.unwrap();
            assert_eq!((text(&secret, "k"), secret.fields.len()), (&*format!("canary {turn}"), 2));
            assert_eq!(secret.version, *version);
        } else {
            assert_eq!(read("dir/a", version).await.unwrap_err(), Error::NotFound);
        }
        for path in ["", "dir", "dir/b", "dir/a/k"] {
            assert_eq!(read(path, version).await.unwrap_err(), Error::NotFound, "{path:?}");
        }
    }
    for none in ["", "0", "-1", "01", "999999", "99999999999999999999", "no such", "..", "a/b", "\n", "é"] {
        assert_eq!(read("dir/a", &Version::new(none)).await.unwrap_err(), Error::NotFound, "{none:?}");
    }
    subject.hand.delete("dir/a");
    assert_eq!(read("dir/a", &versions[0]).await.unwrap_err(), Error::NotFound);
}

impl Subject {
    async fn versions(&self, folder: &str) -> Option<Versions> {
        self.backend.versions(&self.path(folder)).await.unwrap()
    }
}

pub(in crate::contract) async fn a_folder_tells_the_versions_that_a_read_gives(make: Make) {
    let Some(subject) = make(Place::Own) else { return };
    for path in ["dir/a", "dir/b", "dir/b", "dir/c", "dir/c/deeper", "dir/sub/d", "dirr", "top"] {
        subject.put(path, &json!({"k": format!("canary of {path}")}));
    }
    let agrees = async |folder: &str| {
        let told = subject.versions(folder).await.unwrap();
        assert!(told.requests >= 1);
        let listing = subject.list(folder).await.unwrap();
        let secrets = listing.entries().iter().filter(|entry| entry.secret).map(|entry| &entry.name);
        let secrets: Vec<&String> = secrets.collect();
        let alive = told.current.iter().filter(|(_, version)| version.is_some());
        assert_eq!(alive.map(|(name, _)| name).collect::<Vec<_>>(), secrets, "{folder:?}");
        for name in secrets {
            let read = subject.backend.read(&subject.path(folder).child(name).unwrap()).await.unwrap();
            assert_eq!(told.current[name].as_ref(), Some(&read.version), "{folder:?} {name}");
        }
        told
    };
    if subject.versions("dir").await.is_none() {
        assert!(!subject.differs.tells_versions);
        assert_eq!(subject.versions("dir").await, None, "not now and then");
        assert_eq!(entries(&subject.list("dir").await.unwrap()), ["a", "b", "c c/", "sub/"]);
        return;
    }
    assert!(subject.differs.tells_versions);
    let before = agrees("dir").await;
    for folder in ["", "dir/c", "dir/sub"] {
        agrees(folder).await;
    }
    subject.put("dir/b", &json!({"k": "canary again"}));
    subject.put("dir/new", &json!({"k": "canary"}));
    subject.hand.delete("dir/a");
    let after = agrees("dir").await;
    assert_eq!(after.current.get("c"), before.current.get("c"), "what did not change has not moved");
    assert_ne!(after.current["b"], before.current["b"]);
    assert!(after.current["new"].is_some());
    assert_eq!(after.current.get("a").cloned().flatten(), None);
    for nowhere in ["none", "top", "di", "dir/a"] {
        assert_eq!(subject.versions(nowhere).await.unwrap().current.len(), 0, "{nowhere}");
    }
}

pub(in crate::contract) async fn whoever_waits_for_a_change_is_woken_by_each(make: Make) {
    let Some(subject) = make(Place::Shared) else { return };
    let is_quiet =
        async || tokio::time::timeout(Duration::from_millis(100), subject.backend.changed()).await.is_err();
    subject.put("a", &json!({"k": "canary"}));
    if subject.backend.generation().is_none() {
        assert!(is_quiet().await, "never, where there is no generation");
        return;
    }
    let woken = async |what: &str| {
        let woken = tokio::time::timeout(HANG, subject.backend.changed()).await;
        woken.unwrap_or_else(|_| panic!("never woken: {what}"));
    };
    woken("by what came before the wait").await;
    for round in 0..5 {
        assert!(is_quiet().await, "nothing changed since");
        let before = subject.backend.generation();
        let waiting = tokio::spawn({
            let backend = subject.backend.clone();
            async move { tokio::time::timeout(HANG, backend.changed()).await }
        });
        tokio::task::yield_now().await;
        if round == 3 {
            subject.hand.delete("a");
        } else {
            subject.put("a", &json!({"k": format!("canary {round}")}));
        }
        waiting.await.unwrap().expect("woken");
        assert_ne!(subject.backend.generation(), before);
        let read = subject.read("a").await;
        assert_eq!(read.is_err(), round == 3, "whoever is woken reads the new value");
        if let Ok(secret) = read {
            assert_eq!(text(&secret, "k"), format!("canary {round}"));
        }
    }
}
