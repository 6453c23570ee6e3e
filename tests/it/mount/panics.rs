//! Owns the promise that a mount which nobody reads the requests of any more is not taken for one that was unmounted.
//! Does not know what a worker does about it: it ends as in a crash, and the next one serves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secretfs::backend::{Backend, Error, Kind, Listing};
use secretfs::fuse::SessionEnd;
use secretfs::path::BackendPath;
use secretfs::secret::Secret;

use crate::support::available;
use crate::support::mount::{HANG, possible};
use crate::support::rig::Rig;

/// Whoever asks it for anything panics.
struct Panics;

#[async_trait]
impl Backend for Panics {
    fn kind(&self) -> Kind {
        Kind::Store
    }

    async fn read(&self, _path: &BackendPath) -> Result<Secret, Error> {
        panic!("asked for a secret")
    }

    async fn list(&self, _path: &BackendPath) -> Result<Listing, Error> {
        panic!("asked for a folder")
    }
}

#[test]
fn a_session_whose_threads_have_panicked_has_not_been_unmounted() {
    let Some(()) = available("mount", possible()) else { return };
    let rig = Rig::mount_of(Arc::new(Panics), Duration::from_secs(5), &[]);
    // One for each thread.
    for name in ["a", "b"] {
        assert!(std::fs::metadata(rig.at.join(name)).is_err());
    }
    let over = async { tokio::time::timeout(HANG, rig.mounted.over()).await };
    assert_eq!(rig.runtime.block_on(over).unwrap(), SessionEnd::Failed);
    let at = rig.at.clone();
    drop(rig);
    assert!(!super::lifecycle::is_mounted(&at), "it is taken away all the same");
}
