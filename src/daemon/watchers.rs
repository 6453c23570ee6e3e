//! Owns the question, now and then, who watches files of the mount: what is watched is kept refreshed, so that its watchers are
//! told although nobody opens it. Does not know how it is refreshed.
//!
//! There is no FUSE request for a watch: inotify pins the inode in the kernel and asks nobody.

use std::sync::Arc;
use std::time::Duration;

use crate::fs::SecretFs;
use crate::hands::Client;
use crate::tree::inode::INodeNo;

/// Not more often than this, however short the TTL.
const SHORTEST: Duration = Duration::from_secs(1);
/// Whoever takes over looks so soon, since nobody has looked meanwhile.
const SOON: Duration = Duration::from_millis(100);

/// Has the hands look once every `period`, until dropped; less often where looking takes them long.
pub(super) async fn note_watched_forever(fs: Arc<SecretFs>, hands: Client, period: Duration) {
    let period = period.max(SHORTEST);
    let mut pause = if fs.is_successor() { SOON } else { period };
    loop {
        tokio::time::sleep(pause).await;
        pause = period;
        match hands.watched().await {
            Ok(inodes) => fs.note_watched(inodes.into_iter().map(INodeNo).collect::<Vec<_>>()),
            // Then only what is opened stays refreshed.
            Err(trouble) => tracing::debug!("cannot see who watches files: {trouble}"),
        }
    }
}
