//! Owns who reads what version: fields that a thread opens one after the other come from one.
//! Does not know files or handles; it chooses between two snapshots.
//!
//! The rule. A thread that opened a field is *pinned* to that version of the secret for the window. Meanwhile a field that
//! it has not opened yet is served from there, though a newer version is held. Opening a field again moves the thread to
//! the newest version: so a program that re-reads what it watches sees the change at once. Once a pin has ended it is as if
//! nothing had been opened.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::pin::{Pin, What};
use super::{Caller, SecretFs};
use crate::cache::{Changed, SecretRef, Snapshot};
use crate::clock::Moment;
use crate::errno::Failure;
use crate::number_hash::BuildNumberHash;
use crate::render::View;
use crate::tree::inode::{INodeNo, Node, Place};

/// How long a thread is pinned, unless set otherwise.
pub const PAIR_WINDOW: Duration = Duration::from_secs(2);

/// Threads that open something at once seldom meet in one of these.
const SHARDS: usize = 16;
/// Readers remembered in one shard; the oldest goes first. In all shards some thousand.
const MOST_IN_SHARD: usize = 256;
/// While there are pins their ends are looked for at least and at most this often: bytes outlive the end by no more.
const LOOK: Duration = Duration::from_millis(250);
const SHORTEST_SLEEP: Duration = Duration::from_millis(20);

/// Who reads what version.
pub(super) struct Pairs {
    window: Duration,
    /// Each guards the readers whose key falls to it; held for a map operation only, never while bytes are erased.
    shards: [Mutex<Shard>; SHARDS],
    /// Guards the news of what the cache found changed; held to take them.
    news: Mutex<UnboundedReceiver<Changed>>,
    /// Guards who is told of versions that were served late, and what of; held for a push or a send, which never waits.
    late: Mutex<Late>,
    pinned: Notify,
}

type Shard = HashMap<Key, Reader, BuildNumberHash>;

/// A secret's keyed hash and a thread, in one number.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(u64);

/// One thread, and one secret that it reads.
struct Reader {
    caller: Caller,
    of: SecretRef,
    pin: Option<Pin>,
    /// Handles of the secret's directory that the thread has opened and that are open still.
    directories: u32,
    /// Since when there is one.
    directory_since: Moment,
}

#[derive(Default)]
struct Late {
    subscribers: Vec<UnboundedSender<Changed>>,
    due: Vec<(Moment, Changed)>,
}

/// One open of a file.
struct Opening<'a> {
    key: Key,
    caller: Caller,
    of: &'a SecretRef,
    what: What<'a>,
    newest: &'a Arc<Snapshot>,
    now: Moment,
}

enum Choice {
    Newest,
    Older(Arc<Snapshot>),
    /// That depends on whether the backend has denied the secret since the pin began.
    DeniedSince,
}

/// As long as this lives, its thread holds a handle of a secret's directory.
pub(super) struct DirectoryHold {
    pairs: Arc<Pairs>,
    key: Key,
}

impl Pairs {
    /// Nobody reads anything yet. `news` are those of the cache that the snapshots come from.
    pub(super) fn new(window: Duration, news: UnboundedReceiver<Changed>) -> Self {
        Self {
            window,
            shards: std::array::from_fn(|_| Mutex::default()),
            news: Mutex::new(news),
            late: Mutex::default(),
            pinned: Notify::new(),
        }
    }

    /// Notes that `caller` opens the file `node`, and gives the older version that it gets in place of the newest.
    pub(super) fn older(
        &self,
        node: &Node,
        caller: Caller,
        newest: &Arc<Snapshot>,
        now: Moment,
    ) -> Option<Arc<Snapshot>> {
        let (of, what) = match &node.place {
            Place::Field { of, field, .. } => (of, What::Field(field)),
            // What is known of a secret is told as it is now.
            Place::View { view: View::Meta, .. } => return None,
            Place::View { of, view, .. } => (of, What::Whole(*view)),
            _ => return None,
        };
        // A thread that cannot be seen from here is any of them.
        if caller == Caller(0) {
            return None;
        }
        let opening = Opening { key: Key::new(node.secret, caller), caller, of, what, newest, now };
        let (mut choice, mut freed) = self.choose(&opening, false);
        if matches!(choice, Choice::DeniedSince) {
            self.forget_denied();
            drop(freed);
            (choice, freed) = self.choose(&opening, true);
        }
        // Erased here, after the lock.
        drop(freed);
        let Choice::Older(snapshot) = choice else { return None };
        self.note_late(of, newest, now);
        Some(snapshot)
    }

    fn choose(&self, opening: &Opening<'_>, denials_are_known: bool) -> (Choice, Option<Arc<Snapshot>>) {
        let &Opening { key, caller, of, what, newest, now } = opening;
        let mut shard = self.shard(key);
        let Some(reader) = shard.get_mut(&key) else {
            let pin = Pin::first(what, newest, now).filter(|_| !self.window.is_zero());
            // What was denied before a pin begins is not to end it later.
            if pin.is_some() && !denials_are_known {
                return (Choice::DeniedSince, None);
            }
            let freed = pin.and_then(|pin| {
                self.pinned.notify_one();
                insert(&mut shard, key, Reader::new(caller, of, Some(pin), now))
            });
            return (Choice::Newest, freed);
        };
        if !reader.is(caller, of) {
            // Two readers with one number: as good as never, and the first one keeps it.
            return (Choice::Newest, None);
        }
        let covered = reader.is_covered();
        let ended = reader.pin.take_if(|pin| pin.end(self.window, covered) <= now);
        if let Some(pin) = &mut reader.pin {
            if pin.is_of(&newest.secret) {
                return (Choice::Newest, pin.open_newest(what, newest, now));
            }
            if let Some(at) = pin.position_of_older(what) {
                if !denials_are_known {
                    return (Choice::DeniedSince, None);
                }
                return (Choice::Older(pin.open_older(at)), None);
            }
        }
        if !what.is_in(&newest.secret) {
            return (Choice::Newest, ended.map(Pin::into_snapshot));
        }
        let pin = Pin::first(what, newest, now).filter(|_| !self.window.is_zero() || reader.directories > 0);
        if pin.is_some() && !denials_are_known {
            return (Choice::DeniedSince, ended.map(Pin::into_snapshot));
        }
        if pin.is_some() && reader.pin.is_none() {
            self.pinned.notify_one();
        }
        let freed = std::mem::replace(&mut reader.pin, pin).or(ended);
        if reader.is_idle() {
            shard.remove(&key);
        }
        (Choice::Newest, freed.map(Pin::into_snapshot))
    }

    /// Notes that `caller` holds a handle of the directory of `of` from `now` on.
    fn hold(self: &Arc<Self>, key: Key, caller: Caller, of: &SecretRef, now: Moment) -> DirectoryHold {
        let mut shard = self.shard(key);
        let freed = match shard.get_mut(&key) {
            Some(reader) => {
                if reader.directories == 0 {
                    reader.directory_since = now;
                }
                reader.directories = reader.directories.saturating_add(1);
                None
            }
            None => {
                let reader = Reader { directories: 1, ..Reader::new(caller, of, None, now) };
                insert(&mut shard, key, reader)
            }
        };
        drop(shard);
        drop(freed);
        DirectoryHold { pairs: self.clone(), key }
    }

    /// The backend has said of some secrets that they are gone, or forbidden: no older version of them is served.
    fn forget_denied(&self) {
        let mut denied = Vec::new();
        {
            let mut news = self.news.lock().unwrap_or_else(|e| e.into_inner());
            while let Ok(changed) = news.try_recv() {
                if changed.version.is_none() {
                    denied.push(changed.of);
                }
            }
        }
        if !denied.is_empty() {
            self.unpin(|reader| denied.contains(&reader.of));
        }
    }

    /// Ends the pins of these readers; the earliest end of those that are left.
    fn unpin(&self, ends: impl Fn(&Reader) -> bool) -> Option<Moment> {
        let mut next = None;
        for shard in &self.shards {
            let mut freed = Vec::new();
            let mut shard = shard.lock().unwrap_or_else(|e| e.into_inner());
            shard.retain(|_, reader| {
                if ends(reader) {
                    freed.extend(reader.pin.take());
                }
                next = earlier(next, reader.end(self.window));
                !reader.is_idle()
            });
            drop(shard);
            // Erased here, after the lock.
            drop(freed);
        }
        next
    }

    /// Lets go of versions whose pins have ended by `now`, and tells whom they were late for; when to look again.
    fn sweep(&self, now: Moment) -> Option<Moment> {
        self.forget_denied();
        let next = self.unpin(|reader| reader.end(self.window).is_some_and(|end| end <= now));
        earlier(next, self.late().tell(now))
    }

    fn note_late(&self, of: &SecretRef, newest: &Snapshot, now: Moment) {
        let mut late = self.late();
        let Late { subscribers, due } = &mut *late;
        if subscribers.is_empty() {
            return;
        }
        let news = Changed { of: of.clone(), version: Some(newest.secret.version.clone()) };
        // One for each secret, and no more than there are readers.
        if let Some((_, known)) = due.iter_mut().find(|(_, known)| known.of == *of) {
            *known = news;
        } else if due.len() < SHARDS * MOST_IN_SHARD {
            due.push((now.plus(self.window), news));
        }
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        // The map takes its own bits from the other end of a product of this number.
        let at = usize::try_from(key.0 >> 32).unwrap_or(0) % SHARDS;
        let [first, ..] = &self.shards;
        self.shards.get(at).unwrap_or(first).lock().unwrap_or_else(|e| e.into_inner())
    }

    fn late(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl SecretFs {
    /// The same filesystem with another time that a thread is pinned; zero pins only threads that hold a handle of the
    /// secret's directory.
    #[must_use]
    pub fn with_pair_window(self, window: Duration) -> Self {
        let pairs = Arc::new(Pairs::new(window, self.cache.subscribe()));
        Self { pairs, ..self }
    }

    /// Lets go of versions that nobody is bound to any more at `now`; when to look again, if there is anything.
    pub fn sweep_pins(&self, now: Moment) -> Option<Moment> {
        self.pairs.sweep(now)
    }

    /// The background task of pins: sleeps while there are none. Runs until dropped; the daemon spawns it.
    pub async fn sweep_pins_forever(self: Arc<Self>) {
        loop {
            let now = self.cache.clock().now();
            match self.sweep_pins(now) {
                // Not to the end alone: a version that expires sooner may have been pinned meanwhile, and the timer stands
                // still while the machine sleeps.
                Some(next) => tokio::time::sleep(next.since(now).clamp(SHORTEST_SLEEP, LOOK)).await,
                None => self.pairs.pinned.notified().await,
            }
        }
    }

    /// Erases everything now but what is open.
    pub fn flush(&self) {
        self.cache.flush();
        self.pairs.unpin(|_| true);
    }

    /// News from now on of secrets that somebody was given an older version of, for a pair's sake, when the window is over:
    /// as if they had changed then. A program that was told of a change and read an older version after all is told again.
    pub fn subscribe_to_late(&self) -> UnboundedReceiver<Changed> {
        let (sender, receiver) = unbounded_channel();
        self.pairs.late().subscribers.push(sender);
        receiver
    }

    /// Notes that a thread opens a directory; nothing, where it cannot be seen or this is none of one secret.
    pub(super) fn hold_directory(
        &self,
        ino: INodeNo,
        caller: Caller,
    ) -> Result<Option<DirectoryHold>, Failure> {
        let node = self.node(ino)?;
        let Place::Directory { of, .. } = &node.place else { return Ok(None) };
        if caller == Caller(0) {
            return Ok(None);
        }
        let key = Key::new(node.secret, caller);
        Ok(Some(self.pairs.hold(key, caller, of, self.cache.clock().now())))
    }
}

/// Adds a reader; where there are too many, the oldest makes room. Gives back the version that was freed.
fn insert(shard: &mut Shard, key: Key, reader: Reader) -> Option<Arc<Snapshot>> {
    let oldest = (shard.len() >= MOST_IN_SHARD)
        .then(|| shard.iter().min_by_key(|(_, reader)| reader.since()).map(|(key, _)| *key));
    let oldest = oldest.flatten().and_then(|key| shard.remove(&key));
    shard.insert(key, reader);
    oldest.and_then(|reader| reader.pin).map(Pin::into_snapshot)
}

fn earlier(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl Reader {
    fn new(caller: Caller, of: &SecretRef, pin: Option<Pin>, now: Moment) -> Self {
        Self { caller, of: of.clone(), pin, directories: 0, directory_since: now }
    }

    fn is(&self, caller: Caller, of: &SecretRef) -> bool {
        self.caller == caller && self.of == *of
    }

    /// Whether the version was got after the directory was opened, through whose handle the thread may go on reading it.
    fn is_covered(&self) -> bool {
        let since = self.pin.as_ref().map(Pin::since);
        self.directories > 0 && since.is_some_and(|since| since >= self.directory_since)
    }

    fn end(&self, window: Duration) -> Option<Moment> {
        self.pin.as_ref().map(|pin| pin.end(window, self.is_covered()))
    }

    fn since(&self) -> Moment {
        self.pin.as_ref().map_or(self.directory_since, Pin::since)
    }

    fn is_idle(&self) -> bool {
        self.pin.is_none() && self.directories == 0
    }
}

impl Late {
    /// Sends what is due; when the next is.
    fn tell(&mut self, now: Moment) -> Option<Moment> {
        let Self { subscribers, due } = self;
        due.retain(|(at, news)| {
            if *at <= now {
                subscribers.retain(|to| to.send(news.clone()).is_ok());
            }
            *at > now
        });
        due.iter().map(|(at, _)| *at).min()
    }
}

impl Key {
    fn new(secret: u64, caller: Caller) -> Self {
        // Thread ids lie close together: spread (Fibonacci hashing).
        Self(secret ^ u64::from(caller.0).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

impl Drop for DirectoryHold {
    fn drop(&mut self) {
        let mut shard = self.pairs.shard(self.key);
        let mut freed = None;
        if let Some(reader) = shard.get_mut(&self.key) {
            reader.directories = reader.directories.saturating_sub(1);
            if reader.is_idle() {
                freed = shard.remove(&self.key);
            }
        }
        drop(shard);
        drop(freed);
    }
}

impl std::fmt::Debug for DirectoryHold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirectoryHold")
    }
}

#[cfg(test)]
mod tests;
