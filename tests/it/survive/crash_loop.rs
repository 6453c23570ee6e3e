//! Owns the promise about workers that cannot live: the mount ends as configured, whoever reads is told EIO, and nobody hangs.
//! Does not know workers that live on.

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::available;
use crate::support::mount::{HANG, Mount, Plan, Store, possible, signal, wait_until};

fn store() -> Store {
    let store = Store::new();
    store.put("api-key", &["value=canary-value"]);
    store
}

/// A mount of the store by a configuration.
fn planned(store: &Store, settings: &str) -> Plan {
    let plan = Mount::of("");
    let (file, identity) = (store.file(), store.identity());
    let text = format!(
        "[mount]\n{settings}\n[backend.s]\ntype = \"store\"\nfile = {file:?}\nidentity = {identity:?}\n\
         [[tree]]\npath = \"/\"\nbackend = \"s\"\n"
    );
    let config = plan.folder().join("config.toml");
    std::fs::write(&config, text).unwrap();
    plan.arg("--config").arg(config)
}

/// Readers who read until they are told that it is over; the error number that each got, and after how long.
fn readers(mount: &Mount) -> mpsc::Receiver<(i32, Duration)> {
    let (tell, told) = mpsc::channel();
    for _ in 0..8 {
        let (tell, file): (_, PathBuf) = (tell.clone(), mount.path("api-key/value"));
        std::thread::spawn(move || {
            loop {
                let began = Instant::now();
                match std::fs::read(&file) {
                    Ok(value) => assert_eq!(value, b"canary-value"),
                    Err(error) => {
                        let _ = tell.send((error.raw_os_error().unwrap(), began.elapsed()));
                        return;
                    }
                }
            }
        });
    }
    told
}

/// That the mount has ended as it is to end, and that those who read were told.
fn ends_as_configured(mut mount: Mount, told: &mpsc::Receiver<(i32, Duration)>) -> Mount {
    assert_eq!(mount.ended(), Some(70), "{}", mount.log());
    assert!(!mount.is_mounted());
    for _ in 0..8 {
        let (errno, took) = told.recv_timeout(HANG).expect("a reader hangs");
        // ENOENT: opened after the mount was out of the tree. ENOTCONN: at the moment of its end.
        assert!([libc::EIO, libc::ENOENT, libc::ENOTCONN].contains(&errno), "{errno}");
        eprintln!("told {errno} after {took:?}");
    }
    assert_eq!(std::fs::read_dir(&mount.at).unwrap().count(), 0, "the mount point is as it was");
    let log = mount.log();
    assert!(log.contains("workers crash too often: the mount is given up"), "{log}");
    mount
}

#[test]
fn workers_that_are_killed_again_and_again_end_the_mount_and_a_later_start_works() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let mount = planned(&store, "max_crashes = 4").start();
    let told = readers(&mount);
    let (mut killed, start) = (Vec::new(), Instant::now());
    while mount.is_mounted() {
        assert!(start.elapsed() < HANG, "it goes on:\n{}", mount.log());
        if let Some(worker) = mount.worker_now().filter(|worker| !killed.contains(worker)) {
            if !mount.answers(Duration::from_millis(500)) {
                continue;
            }
            signal(worker, "KILL");
            killed.push(worker);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(killed.len(), 5, "one more than may be");
    let mount = ends_as_configured(mount, &told);
    assert!(mount.log().contains("a worker was killed"), "{}", mount.log());
    drop(mount);
    let later = planned(&store, "max_crashes = 4").start();
    assert_eq!(later.read("api-key/value").unwrap(), b"canary-value");
}

#[test]
fn whoever_has_waited_for_a_worker_that_never_came_is_told_so() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let mount = planned(&store, "max_crashes = 6").start();
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
    // Without it no worker can start.
    std::fs::rename(store.identity(), store.folder.path().join("gone")).unwrap();
    let began = Instant::now();
    signal(mount.worker(), "KILL");
    let told = readers(&mount);
    let mut errors = Vec::new();
    for _ in 0..8 {
        errors.push(told.recv_timeout(HANG).expect("a reader hangs"));
    }
    assert!(errors.iter().any(|(errno, _)| *errno == libc::EIO), "{errors:?}");
    eprintln!("told after {:?}: {errors:?}", began.elapsed());
    let told = {
        let (tell, told) = mpsc::channel();
        errors.into_iter().for_each(|error| tell.send(error).unwrap());
        told
    };
    let mount = ends_as_configured(mount, &told);
    assert!(mount.log().contains("a worker ended with exit code 78"), "{}", mount.log());
    std::fs::rename(store.folder.path().join("gone"), store.identity()).unwrap();
    drop(mount);
    let later = planned(&store, "").start();
    assert_eq!(later.read("api-key/value").unwrap(), b"canary-value");
}

#[test]
fn a_worker_that_cannot_be_started_for_a_while_comes_as_soon_as_it_can() {
    let Some(()) = available("mount", possible()) else { return };
    let store = store();
    let mount = planned(&store, "max_crashes = 1000").start();
    let kept = store.folder.path().join("gone");
    std::fs::rename(store.identity(), &kept).unwrap();
    let told = readers(&mount);
    signal(mount.worker(), "KILL");
    wait_until("it has tried three times", || mount.log().matches("ended with exit code").count() >= 3);
    std::fs::rename(&kept, store.identity()).unwrap();
    wait_until("it serves again", || mount.answers(HANG));
    assert_eq!(mount.read("api-key/value").unwrap(), b"canary-value");
    assert!(told.try_recv().is_err(), "a reader was told an error");
}
