//! Owns the look, now and then, at who watches files of the mount: what is watched is kept refreshed, so that its watchers are
//! told although nobody opens it. Does not know how it is refreshed.
//!
//! There is no FUSE request for a watch: inotify pins the inode in the kernel and asks nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::fs::SecretFs;
use crate::tree::inode::INodeNo;
use crate::watched;

/// Looking takes at most this part of one core's time: where there are very many processes, it is done less often.
const SHARE: u32 = 100;
/// Not more often than this, however short the TTL.
const SHORTEST: Duration = Duration::from_secs(1);

/// Looks once every `period`, until dropped. `device` is the mount's, as `major:minor`.
pub(super) async fn note_watched_forever(fs: Arc<SecretFs>, device: String, period: Duration) {
    let period = period.max(SHORTEST);
    let mut pause = period;
    loop {
        tokio::time::sleep(pause).await;
        let device = device.clone();
        let look = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            (watched::inodes_on(&device), began.elapsed())
        });
        let Ok((watched, took)) = look.await else { return };
        pause = period.max(took * SHARE);
        match watched {
            Ok(inodes) => fs.note_watched(inodes.into_iter().map(INodeNo).collect::<Vec<_>>()),
            // Then only what is opened stays refreshed.
            Err(error) => tracing::debug!("cannot see who watches files: {error}"),
        }
    }
}
