//! Owns what the service manager keeps of a mount while its holder is exchanged: the descriptors, and what they are.
//! Does not know what a holder does with them.
//!
//! systemd hands what was stored to the next process of the same unit (file descriptor store, sd_pid_notify_with_fds(3)). As long as
//! it has the kernel's descriptor the mount lives: whoever reads waits, and notices nothing else.
#![allow(unsafe_code)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::MemfdFlags;
use sd_notify::NotifyState;
use serde::{Deserialize, Serialize};

use super::start::PROTOCOL;
use super::way;
use crate::fuse::{self, MountPoint, Offered};
use crate::hands::Place;

/// What each descriptor is called there (`FDNAME=`).
const ABOUT: &str = "about";
const REQUESTS: &str = "requests";
const JOURNAL: &str = "journal";
const LEDGER: &str = "ledger";
/// Longer than any description.
const LONGEST: u64 = 64 << 10;

/// What is to be known of a mount to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    protocol: u32,
    at: OsString,
    device: Option<String>,
    /// An older program does not say it.
    #[serde(default)]
    number: Option<u64>,
    offered: Offered,
    why_untouchable: Option<String>,
    since: SystemTime,
}

/// Of [`About`] what other versions of this program say in the same words.
#[derive(Deserialize)]
struct Whereabouts {
    at: OsString,
    device: Option<String>,
    #[serde(default)]
    number: Option<u64>,
}

/// What the service manager has of an earlier mount.
pub struct Left {
    /// The mount, if it lives and is in its place still.
    pub(super) mount: Option<Kept>,
    /// What was made for it and is to be given back, whatever has become of the mount itself.
    pub(super) ledger: Vec<OwnedFd>,
}

impl Left {
    /// What the service manager has kept for us. What is of no use it lets go of. To be called once, and first of all: nobody else may take
    /// these descriptors for theirs.
    pub fn take() -> Self {
        Self::of(stored())
    }

    fn of(mut stored: Vec<(String, OwnedFd)>) -> Self {
        let is_nothing = stored.is_empty();
        let ledger = all(&mut stored, LEDGER);
        let mount = Kept::of(&mut stored);
        if mount.is_none() && !is_nothing {
            tracing::warn!(
                "what systemd has kept of an earlier mount cannot be used: the mount is made anew"
            );
            forget_mount();
        }
        Self { mount, ledger }
    }

    /// Whether there is the mount that is to be made at `mountpoint`. The place itself is not looked at: to look would be to ask a mount
    /// that nobody serves yet.
    pub fn is_at(&self, mountpoint: &Path) -> bool {
        self.mount.as_ref().is_some_and(|mount| mount.is_at(mountpoint))
    }

    /// Whether `folder` (absolute, without links) is the mount or lies in it. It is not looked at either.
    pub fn hides(&self, folder: &Path) -> bool {
        self.mount.as_ref().is_some_and(|mount| folder.starts_with(&mount.place.at))
    }

    /// Lets go of the mount: it is taken out of the tree, and whoever waits for it is told. What was made for it is for the next mount to
    /// give back.
    pub fn give_up_mount(&mut self) {
        let Some(mount) = self.mount.take() else { return };
        if let Err(error) = mount.place.detach_in_use() {
            tracing::warn!("an earlier mount is not taken out of the tree: {error}");
        }
        forget_mount();
    }
}

/// A mount that was made by an earlier process of this unit, and lives.
pub(super) struct Kept {
    pub(super) requests: OwnedFd,
    pub(super) place: MountPoint,
    pub(super) offered: Offered,
    pub(super) why_untouchable: Option<String>,
    pub(super) since: SystemTime,
    pub(super) journal: Vec<OwnedFd>,
    pub(super) ledger: Vec<OwnedFd>,
}

impl Kept {
    fn of(stored: &mut Vec<(String, OwnedFd)>) -> Option<Self> {
        let said = content(take(stored, ABOUT)?).ok()?;
        let Whereabouts { at, device, number } = serde_json::from_slice(&said).ok()?;
        let place = MountPoint { at: PathBuf::from(at), device, number };
        let about = serde_json::from_slice(&said).ok().filter(|about: &About| about.protocol == PROTOCOL);
        let (Some(about), Some(requests)) = (about, take(stored, REQUESTS)) else {
            // Whoever looks at its place would wait for it, and nobody is going to serve it.
            if let Err(error) = place.detach_in_use() {
                tracing::warn!("an earlier mount is not taken out of the tree: {error}");
            }
            return None;
        };
        // The one before may have been told to unmount, and died over it; somebody may have mounted anew in its place.
        let lives = fuse::lives(requests.as_fd());
        let is_there = lives && place.is_ours().unwrap_or(false);
        // It was moved, and whoever looks at it there would wait for nobody.
        if lives
            && !is_there
            && let Err(error) = place.detach_in_use()
        {
            tracing::warn!("an earlier mount is not taken out of the tree: {error}");
        }
        is_there.then(|| Self {
            requests,
            place,
            offered: about.offered,
            why_untouchable: about.why_untouchable,
            since: about.since,
            journal: all(stored, JOURNAL),
            ledger: vec![],
        })
    }

    fn is_at(&self, mountpoint: &Path) -> bool {
        way::end(mountpoint, &self.place.at).is_some_and(|end| end == self.place.at)
    }

    /// Has the service manager keep the mount for the next process of this unit; whether there is one that does.
    pub(super) fn keep(&self) -> bool {
        // systemd says how much it keeps since 254; for those before our unit says it. One that keeps nothing takes what it is given, and
        // drops it.
        let may = std::env::var("FDSTORE").is_ok_and(|most| most != "0");
        // What a process has taken and not answered must be asked again of the next one.
        if std::env::var_os("NOTIFY_SOCKET").is_none() || !may || !self.offered.can_resend() {
            return false;
        }
        let about = About {
            protocol: PROTOCOL,
            at: self.place.at.clone().into_os_string(),
            device: self.place.device.clone(),
            number: self.place.number,
            offered: self.offered,
            why_untouchable: self.why_untouchable.clone(),
            since: self.since,
        };
        let stored = write(&about).and_then(|about| {
            store(ABOUT, &[&about])?;
            store(JOURNAL, &self.journal.iter().collect::<Vec<_>>())?;
            // One that it has already it does not take twice.
            store(LEDGER, &self.ledger.iter().collect::<Vec<_>>())?;
            // Last: with it the mount outlives us.
            store(REQUESTS, &[&self.requests])
        });
        if let Err(error) = &stored {
            tracing::warn!("systemd keeps nothing of the mount for a restart: {}", error.kind());
        }
        stored.is_ok()
    }

    /// What the hands need to know of it.
    ///
    /// # Errors
    /// Why its files cannot be touched, in words.
    pub(super) fn touchable(&self) -> Result<Place, String> {
        fuse::place(&self.place.at, self.place.device.as_deref(), self.why_untouchable.as_deref())
    }
}

/// Has the service manager let go of what it has.
pub(super) fn forget() {
    forget_mount();
    remove(LEDGER);
}

/// The same but for the ledger, which the next mount has: should we be gone before that one is made, it is there still.
pub(super) fn forget_mount() {
    for name in [REQUESTS, ABOUT, JOURNAL] {
        remove(name);
    }
}

fn remove(name: &str) {
    let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

fn store(name: &str, files: &[&OwnedFd]) -> io::Result<()> {
    let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &files)
}

fn stored() -> Vec<(String, OwnedFd)> {
    let Ok(listed) = sd_notify::listen_fds_with_names() else { return vec![] };
    // SAFETY: the service manager has put these descriptors there for this very process (`LISTEN_PID`), which has opened and closed
    // none since it began, and nobody else takes them: this is called once.
    listed.map(|(number, name)| (name, unsafe { OwnedFd::from_raw_fd(number) })).collect()
}

fn take(stored: &mut Vec<(String, OwnedFd)>, name: &str) -> Option<OwnedFd> {
    let at = stored.iter().position(|(known, _)| known == name)?;
    Some(stored.remove(at).1)
}

fn all(stored: &mut Vec<(String, OwnedFd)>, name: &str) -> Vec<OwnedFd> {
    std::iter::from_fn(|| take(stored, name)).collect()
}

fn write(about: &About) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("secretfs-about", MemfdFlags::CLOEXEC)?);
    let bytes = serde_json::to_vec(about).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    file.write_all(&bytes)?;
    Ok(file.into())
}

fn content(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut file = File::from(file);
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn about(at: &str) -> About {
        let offered = r#"{"major":7,"minor":44,"max_readahead":1,"flags":5}"#;
        About {
            protocol: PROTOCOL,
            at: at.into(),
            device: Some("0:77".into()),
            number: Some(7),
            offered: serde_json::from_str(offered).unwrap(),
            why_untouchable: None,
            since: SystemTime::now(),
        }
    }

    #[test]
    fn what_was_written_about_a_mount_is_read_again_and_nonsense_is_refused() {
        let about = about("/secrets");
        let said = content(write(&about).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<About>(&said).unwrap(), about);
        // What a later version may have added is no reason not to find the mount.
        let newer = r#"{"protocol":1000,"at":{"Unix":[47,115]},"device":"0:77","more":[1]}"#;
        let found: Whereabouts = serde_json::from_str(newer).unwrap();
        assert_eq!((found.at, found.device), ("/s".into(), Some("0:77".into())));
        let nonsense = rustix::fs::memfd_create("nonsense", MemfdFlags::CLOEXEC).unwrap();
        File::from(nonsense.try_clone().unwrap()).write_all(b"{\"protocol\":").unwrap();
        assert!(Kept::of(&mut vec![(ABOUT.to_owned(), nonsense)]).is_none());
    }

    #[test]
    fn a_mount_that_is_not_in_its_place_any_more_is_not_kept() {
        let about = about("/nowhere/secrets");
        let file = || write(&about).unwrap();
        let mut stored = vec![(ABOUT.to_owned(), file()), (REQUESTS.to_owned(), file())];
        assert!(Kept::of(&mut stored).is_none());
        assert!(Kept::of(&mut vec![(REQUESTS.to_owned(), file())]).is_none());
    }

    #[test]
    fn what_was_made_for_a_mount_is_not_lost_with_it() {
        let file = || rustix::fs::memfd_create("some", MemfdFlags::CLOEXEC).unwrap();
        let names = |about| vec![(ABOUT, about), (JOURNAL, file()), (JOURNAL, file()), (REQUESTS, file())];
        let newer = || {
            let said = file();
            let text = br#"{"protocol":1000,"at":{"Unix":[47,115]},"device":"0:77"}"#;
            File::from(said.try_clone().unwrap()).write_all(text).unwrap();
            said
        };
        // Of a mount that is not in its place any more, of another version, of one that nothing is known of, of none.
        let gone = write(&about("/nowhere/secrets")).unwrap();
        for mut stored in [names(gone), names(newer()), names(file()), vec![]] {
            stored.extend([(LEDGER, file()), (LEDGER, file())]);
            let left = Left::of(stored.into_iter().map(|(name, file)| (name.to_owned(), file)).collect());
            assert!(left.mount.is_none());
            assert_eq!(left.ledger.len(), 2);
        }
        assert!(Left::of(vec![]).ledger.is_empty());
    }

    #[test]
    fn a_mount_is_known_by_every_name_of_its_place() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().canonicalize().unwrap();
        let at = folder.join("mnt");
        std::fs::create_dir_all(at.join("below")).unwrap();
        std::os::unix::fs::symlink("mnt", folder.join("link")).unwrap();
        std::os::unix::fs::symlink(&folder, folder.join("folder")).unwrap();
        let requests = rustix::fs::memfd_create("requests", MemfdFlags::CLOEXEC).unwrap();
        let About { offered, since, .. } = about("/");
        let place = MountPoint { at: at.clone(), device: None, number: None };
        let (journal, ledger) = (vec![], vec![]);
        let kept = Kept { requests, place, offered, why_untouchable: None, since, journal, ledger };
        for name in ["mnt", "link", "folder/mnt", "folder/link", "folder/folder/link/"] {
            assert!(kept.is_at(&folder.join(name)), "{name}");
        }
        for name in ["", "other", "mnt/below", "link/below"] {
            assert!(!kept.is_at(&folder.join(name)), "{name}");
        }
    }
}
