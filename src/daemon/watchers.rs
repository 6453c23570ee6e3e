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
/// Whoever takes over looks so soon: nobody has looked meanwhile. And again until it is settled what was missed.
const SOON: Duration = Duration::from_millis(100);
/// Looks in a hurry; then the backend does not answer.
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
    let mut hurried = 0;
    loop {
        let is_settled = unsettled.as_ref().is_some_and(Unsettled::is_empty);
        let pause = if is_settled || hurried > HURRIED { period } else { SOON };
        tokio::time::sleep(pause).await;
        if pause == SOON && unsettled.is_some() {
            // What was asked for is on its way: there is no need to look.
            hurried += 1;
        } else {
            hurried += u32::from(pause == SOON);
            match hands.watched().await {
                Ok(inodes) => {
                    let inodes: Vec<INodeNo> = inodes.into_iter().map(INodeNo).collect();
                    fs.note_watched(inodes.iter().copied());
                    unsettled.get_or_insert_with(|| fs.unsettled(inodes));
                }
                // Then only what is opened stays refreshed.
                Err(trouble) => tracing::debug!("cannot see who watches files: {trouble}"),
            }
        }
        if let Some(unsettled) = &mut unsettled {
            fs.settle(unsettled).into_iter().for_each(&tell);
        }
    }
}
