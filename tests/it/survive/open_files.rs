//! Owns the promise about files that are open while workers die: the bytes that they had, or ESTALE, and never those of another
//! version or of another file.
//! Does not know files that are opened anew (kills.rs).

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use super::crowd::{Bad, Crowd};
use super::drill;
use super::grove::{EACH, Grove, Secret};
use super::kills::{LIFE, SETTINGS, pauses};

/// Who holds files open.
const HOLDERS: usize = 8;

/// One file that stays open, and the version that it showed at first.
struct Held {
    secret: Secret,
    file: File,
    version: u64,
}

impl Held {
    fn open(secret: &Secret) -> Result<Self, Bad> {
        let failed = |error: std::io::Error| Bad::Failed(format!("{}: {error}", secret.file.display()));
        let file = File::open(&secret.file).map_err(failed)?;
        let version = secret.check(&bytes(&file).map_err(failed)?).map_err(Bad::Wrong)?;
        Ok(Self { secret: secret.clone(), file, version })
    }

    /// Reads it again; false where it is stale.
    fn look(&self) -> Result<bool, Bad> {
        let at = self.secret.file.display();
        match bytes(&self.file) {
            Ok(value) => match self.secret.check(&value).map_err(Bad::Wrong)? {
                same if same == self.version => Ok(true),
                other => {
                    Err(Bad::Wrong(format!("{at} was opened as version {}, and shows {other}", self.version)))
                }
            },
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Ok(false),
            Err(error) => Err(Bad::Failed(format!("{at}, open: {error}"))),
        }
    }
}

/// All of an open file, from whoever serves the mount and not from the kernel's pages.
fn bytes(file: &File) -> std::io::Result<Vec<u8>> {
    fadvise(file.as_fd(), 0, None, Advice::DontNeed)?;
    let mut bytes = [0; 256];
    let read = file.read_at(&mut bytes, 0)?;
    Ok(bytes[..read].to_vec())
}

/// Somebody who holds these open and looks at one after the other, and opens anew what is stale.
fn holder(secrets: &[Secret], stale: &Arc<AtomicUsize>) -> impl FnMut(usize) -> Result<(), Bad> + use<> {
    let stale = stale.clone();
    let mut held: Vec<Held> = secrets.iter().map(|secret| Held::open(secret).unwrap()).collect();
    move |round| {
        let at = round % held.len();
        if !held[at].look()? {
            stale.fetch_add(1, Ordering::SeqCst);
            held[at] = Held::open(&held[at].secret)?;
        }
        Ok(())
    }
}

#[test]
fn a_thousand_files_that_are_open_while_workers_die_keep_their_versions_or_are_stale() {
    let Some(grove) = Grove::new(SETTINGS) else { return };
    let stale = Arc::<AtomicUsize>::default();
    let parts = grove.secrets.chunks(grove.secrets.len() / HOLDERS);
    let crowd = Crowd::start(parts.map(|part| holder(part, &stale)).collect::<Vec<_>>());
    let kept: Vec<Held> = grove.secrets.iter().map(|secret| Held::open(secret).unwrap()).collect();
    let (times, rotations) = (drill(5, 100), 10);
    for round in 0..times {
        // So that what is open has versions of all ages when the worker dies.
        for number in 0..rotations {
            grove.rotate((round * rotations + number * 37) % EACH);
            std::thread::sleep(LIFE / 2 / rotations as u32);
        }
        std::thread::sleep(LIFE / 2);
        grove.mount.kill_worker();
    }
    crowd.go_on_for(grove.secrets.len());
    let tally = crowd.stop();
    tally.none_failed("files that are open, and kills");
    pauses(&tally, Duration::from_millis(250), &grove.mount);
    let looks = kept.iter().map(|held| held.look().unwrap_or_else(|bad| panic!("{bad:?}")));
    let same = looks.filter(|same| *same).count();
    eprintln!(
        "  {same} of {} same after {times} kills, the others stale; of the others {} were stale on the way",
        kept.len(),
        stale.load(Ordering::SeqCst)
    );
    // What has not changed is still to be had.
    let unchanged = kept.iter().filter(|held| held.secret.versions() == 1);
    for held in unchanged {
        assert!(held.look().unwrap(), "{} has not changed, and is stale", held.secret.file.display());
    }
}
