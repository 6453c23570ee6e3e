//! Owns the promise that telling never keeps a mount: it ends in moments, whoever unmounts, however much changes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use secretfs::fuse::Unmounted;

use crate::support::available;
use crate::support::mount::{HANG, possible};
use crate::support::rig::Rig;

const ROUNDS: usize = 20;

/// A mount of many watched secrets, all of which change at full speed while `then` runs.
fn in_a_storm<T>(then: impl FnOnce(&Rig) -> T) -> Option<(Rig, T)> {
    let rig = Rig::mount(&[]);
    available("root", rig.tells())?;
    let secrets: Vec<String> = (0..20).map(|number| format!("team/s{number}")).collect();
    for secret in &secrets {
        rig.backend.put(secret, &[("k", b"canary")]);
    }
    for secret in &secrets {
        std::fs::read(rig.at.join(secret).join("k")).unwrap();
    }
    let stop = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                turn += 1;
                for secret in &secrets {
                    rig.rotate(secret, &[("k", &format!("canary-{turn}"))]);
                }
            }
        });
        std::thread::sleep(Duration::from_millis(60));
        let result = then(&rig);
        stop.store(true, Ordering::Relaxed);
        result
    });
    Some((rig, result))
}

#[test]
fn the_programs_own_end_is_clean_in_a_storm_of_changes() {
    let Some(()) = available("mount", possible()) else { return };
    for _ in 0..ROUNDS {
        let Some((rig, ())) = in_a_storm(|_| ()) else { return };
        assert_eq!(rig.unmount(), Unmounted::Cleanly);
    }
}

#[test]
fn somebody_elses_unmount_succeeds_and_ends_the_session_in_a_storm_of_changes() {
    let Some(()) = available("mount", possible()) else { return };
    for round in 0..ROUNDS {
        let storm = in_a_storm(|rig| {
            let unmounted = unmount(&rig.at, UnmountFlags::NOFOLLOW);
            let over = async { tokio::time::timeout(HANG, rig.mounted.over()).await };
            (unmounted, rig.runtime.block_on(over))
        });
        let Some((_rig, (unmounted, over))) = storm else { return };
        assert_eq!(unmounted, Ok(()), "round {round}");
        assert!(over.is_ok(), "round {round}: the session goes on");
    }
}
