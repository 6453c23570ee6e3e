//! Owns the question, now and then, who watches files of the mount: what is watched is kept refreshed, so that its watchers are
//! told although nobody opens it. Does not know how it is refreshed.
//!
//! There is no FUSE request for a watch: inotify pins the inode in the kernel and asks nobody.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::Changed;
use crate::fs::{SecretFs, Unsettled};
use crate::hands::Client;
use crate::tree::inode::INodeNo;

/// Not more often than this, however short the TTL.
const SHORTEST: Duration = Duration::from_secs(1);
/// Whoever takes over looks so soon, since nobody has looked meanwhile, and tries again until it is settled what was missed.
const SOON: Duration = Duration::from_millis(100);
/// So often; then the backend does not answer, and there is no hurry.
const HURRIED: u32 = 20;

/// Has the hands look once every `period`, until dropped; less often where looking takes them long. `tell` is given what
/// watchers have missed before this worker began.
pub(super) async fn note_watched_forever(
    fs: Arc<SecretFs>,
    hands: Client,
    period: Duration,
    tell: impl Fn(Changed),
) {
    let period = period.max(SHORTEST);
    // None: nobody has looked yet who watched when this worker began.
    let mut unsettled = if fs.is_successor() { None } else { Some(Unsettled::default()) };
    for _ in 0..HURRIED {
        if unsettled.as_ref().is_some_and(Unsettled::is_empty) {
            break;
        }
        tokio::time::sleep(SOON).await;
        if unsettled.is_none() {
            unsettled = look(&fs, &hands).await.map(|watched| fs.unsettled(watched));
        }
        unsettled.iter_mut().flat_map(|left| fs.settle(left)).for_each(&tell);
    }
    let mut unsettled = unsettled.unwrap_or_default();
    loop {
        tokio::time::sleep(period).await;
        look(&fs, &hands).await;
        fs.settle(&mut unsettled).into_iter().for_each(&tell);
    }
}

/// Who watches; nothing where that cannot be seen. Then only what is opened stays refreshed.
async fn look(fs: &SecretFs, hands: &Client) -> Option<Vec<INodeNo>> {
    let watched = hands.watched().await.inspect_err(|trouble| {
        tracing::debug!("cannot see who watches files: {trouble}");
    });
    let inodes: Vec<INodeNo> = watched.ok()?.into_iter().map(INodeNo).collect();
    fs.note_watched(inodes.iter().copied());
    Some(inodes)
}
