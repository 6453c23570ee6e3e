//! Owns the promises of the hands on real mounts: they touch nothing outside of theirs, and a worker that dies holds up no other.
//! Does not know secretfs's own filesystem; tests/it/watch.rs has that.

use std::ffi::OsStr;
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, Filesystem, INodeNo, MountOption, ReplyEntry, Request, Session,
};
use rustix::mount::{MountFlags, UnmountFlags};
use secretfs::hands::{Action, Client, Hands, Job, Place, Trouble};

use crate::support::available;
use crate::support::inotify::Watcher;
use crate::support::mount::{HANG, Store, possible, signal};

/// Whether this test may mount.
fn can_mount() -> Option<()> {
    available("mount", possible())?;
    let root = rustix::process::geteuid().is_root();
    available("root", if root { Ok(()) } else { Err("not root".to_owned()) })
}

/// What is mounted at `at`, by its device.
fn place(at: &Path) -> Place {
    let device = at.metadata().unwrap().dev();
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    Place { at: at.to_owned(), device }
}

/// A filesystem in memory whose owner is not trusted, read-only for everybody.
struct Memory {
    folder: tempfile::TempDir,
    at: PathBuf,
}

impl Memory {
    fn mount() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap().join("mnt");
        std::fs::create_dir(&at).unwrap();
        rustix::mount::mount("none", &at, "tmpfs", MountFlags::empty(), None).unwrap();
        Self { folder, at }
    }

    /// A file that was written long ago.
    fn old(path: &Path) -> PathBuf {
        let file = std::fs::File::create(path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        path.to_owned()
    }

    fn seal(&self) {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(&self.at, flags, "").unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
    }
}

fn is_old(path: &Path) -> bool {
    path.symlink_metadata().unwrap().mtime() == 0
}

fn touch(client: &Client, path: &[&str], changed: &[&str], gone: &[&str]) -> Result<(), Trouble> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    client.touch(&owned(path), &owned(changed), &owned(gone), false)
}

#[test]
fn nothing_outside_of_the_mount_is_touched_whatever_the_mount_shows() {
    let Some(()) = can_mount() else { return };
    let memory = Memory::mount();
    let outside = memory.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let victim = Memory::old(&outside.join("victim"));
    std::fs::create_dir_all(memory.at.join("dir/sub")).unwrap();
    let (file, old) = (Memory::old(&memory.at.join("dir/k")), Memory::old(&memory.at.join("dir/old")));
    symlink(&outside, memory.at.join("way")).unwrap();
    symlink(&victim, memory.at.join("dir/link")).unwrap();
    symlink("/proc/self/cwd", memory.at.join("magic")).unwrap();
    // Another filesystem within.
    rustix::mount::mount("none", memory.at.join("dir/sub"), "tmpfs", MountFlags::empty(), None).unwrap();
    let other = Memory::old(&memory.at.join("dir/sub/other"));
    memory.seal();
    assert!(std::fs::write(memory.at.join("dir/new"), "").is_err(), "read-only for everybody");

    let hands = Hands::new(Ok(place(&memory.at)), memory.at.clone(), vec![]).unwrap();
    let client = hands.client().unwrap();
    assert_eq!(touch(&client, &["dir"], &["k"], &["old"]), Ok(()));
    assert!(!is_old(&file) && !is_old(&old));
    for (path, changed, gone) in [
        (&["way"][..], &["victim"][..], &[][..]),
        (&["way"], &[], &["victim"]),
        (&["dir"], &["link"], &[]),
        (&["dir", "sub"], &["other"], &[]),
        (&["dir", "sub"], &[], &["other"]),
        (&["magic"], &["x"], &[]),
        (&["dir", "..", "..", "outside"], &["victim"], &[]),
        (&["dir"], &["../../outside/victim"], &[]),
        (&[], &[], &["dir/k"]),
    ] {
        assert!(touch(&client, path, changed, gone).is_err(), "{path:?} {changed:?} {gone:?}");
    }
    // The link itself, which is the mount's own.
    let _ = touch(&client, &["dir"], &[], &["link"]);
    assert!(is_old(&victim), "outside");
    assert!(is_old(&other), "another filesystem");
    drop(hands);
    rustix::mount::unmount(memory.at.join("dir/sub"), UnmountFlags::DETACH).unwrap();
}

#[test]
fn where_another_filesystem_covers_the_mount_it_is_not_touched() {
    let Some(()) = can_mount() else { return };
    let memory = Memory::mount();
    let ours = place(&memory.at);
    let hands = Hands::new(Ok(ours), memory.at.clone(), vec![]).unwrap();
    let client = hands.client().unwrap();
    rustix::mount::mount("none", &memory.at, "tmpfs", MountFlags::empty(), None).unwrap();
    let file = Memory::old(&memory.at.join("k"));
    let trouble = touch(&client, &[], &["k"], &[]).unwrap_err();
    assert!(trouble.not_found, "{trouble}");
    assert!(is_old(&file));
    rustix::mount::unmount(&memory.at, UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_clone_is_gone_when_the_hands_rest_and_soon_when_nobody_says_so() {
    let Some(()) = can_mount() else { return };
    for says_so in [true, false] {
        let memory = Memory::mount();
        Memory::old(&memory.at.join("k"));
        let hands = Hands::new(Ok(place(&memory.at)), memory.at.clone(), vec![]).unwrap();
        let client = hands.client().unwrap();
        // Another order is to follow at once.
        let device = memory.at.metadata().unwrap().dev();
        let thread = hands.touching_thread().unwrap();
        let touch = |more| client.touch(&[], &["k".to_owned()], &[], more).unwrap();
        let is_kept = (0..100).any(|_| {
            touch(true);
            clones(thread, device) == 1
        });
        assert!(is_kept, "made anew for each");
        if says_so {
            client.rest().unwrap();
            assert_eq!(clones(thread, device), 0);
            touch(false);
            assert_eq!(clones(thread, device), 0);
        }
        drop(client);
        let began = SystemTime::now();
        while clones(thread, device) > 0 {
            assert!(began.elapsed().unwrap() < HANG, "a clone is left");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// How many clones of this filesystem a thread holds: descriptors of its root that no path leads to.
fn clones(thread: u32, of: u64) -> usize {
    let held = std::fs::read_dir(format!("/proc/self/task/{thread}/fd")).unwrap().flatten();
    let is_clone = |fd: &Path| {
        fd.read_link().is_ok_and(|link| link == Path::new("/"))
            && fd.metadata().is_ok_and(|found| found.dev() == of)
    };
    held.filter(|fd| is_clone(&fd.path())).count()
}

/// A filesystem whose every lookup waits for the test to answer it.
struct Slow {
    asked: Sender<(u32, String, ReplyEntry)>,
}

impl Filesystem for Slow {
    fn lookup(&self, request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _ = self.asked.send((request.pid(), name.to_string_lossy().into_owned(), reply));
    }
}

fn slow(at: &Path) -> (BackgroundSession, Receiver<(u32, String, ReplyEntry)>) {
    let (asked, questions) = channel();
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("slow".into())];
    let session = Session::new(Slow { asked }, at, &config).unwrap();
    (session.spawn().unwrap(), questions)
}

#[test]
fn a_thread_that_hangs_for_a_worker_that_died_goes_on_for_the_next_and_holds_up_nothing_else() {
    let Some(()) = can_mount() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().canonicalize().unwrap().join("mnt");
    std::fs::create_dir(&at).unwrap();
    let (session, questions) = slow(&at);
    let device = secretfs_device(&at);
    let hook = Job {
        action: Action::Exec { program: "/bin/true".into(), arguments: vec![], user: None },
        interval: Duration::ZERO,
        timeout: HANG,
        log_output: true,
    };
    let hands = Hands::new(Ok(Place { at: at.clone(), device }), at.clone(), vec![hook]).unwrap();
    let thread = hands.touching_thread().unwrap();
    // Else the end of this process would wait for a thread that hangs in a mount which it keeps alive.
    let open = std::fs::read_dir(format!("/proc/self/task/{thread}/fd")).unwrap().flatten();
    let open: Vec<_> = open.filter_map(|fd| fd.path().read_link().ok()).collect();
    assert_eq!(open, ["/dev/null"; 3].map(PathBuf::from));

    let (ours, theirs) = UnixStream::pair().unwrap();
    hands.serve(theirs).unwrap();
    let crash = ours.try_clone().unwrap();
    let first = Client::over(ours, hands.touching_thread()).unwrap();
    let touching = std::thread::spawn(move || touch(&first, &["first"], &["k"], &[]));
    let (pid, name, reply) = questions.recv_timeout(HANG).unwrap();
    assert_eq!((pid, name.as_str()), (thread, "first"), "the worker knows for whose sake it is asked");
    crash.shutdown(Shutdown::Both).unwrap();
    assert!(touching.join().unwrap().is_err(), "who ordered it does not hang");

    let second = hands.client().unwrap();
    assert!(second.touching().unwrap().is(pid), "what is left over is known by the next worker");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let outcome = tokio::time::timeout(HANG, second.run(0, vec![], false)).await.unwrap();
        assert!(!outcome.failed, "{outcome:?}");
        assert!(tokio::time::timeout(HANG, second.watched()).await.unwrap().is_ok());
    });
    let ordering = second.clone();
    let touching = std::thread::spawn(move || touch(&ordering, &["second"], &["k"], &[]));
    // As the next worker answers what the kernel asks again.
    reply.error(Errno::EAGAIN);
    let (pid, name, reply) = questions.recv_timeout(HANG).unwrap();
    assert_eq!((pid, name.as_str()), (thread, "second"));
    reply.error(Errno::EAGAIN);
    assert!(touching.join().unwrap().is_err());
    assert_eq!(second.rest(), Ok(()));
    drop(hands);
    session.umount_and_join().unwrap();
}

#[test]
fn a_program_that_is_killed_while_it_touches_is_gone() {
    let Some(()) = can_mount() else { return };
    let store = Store::new();
    let fields = |turn: u32| (0..300).map(move |field| format!("k{field}=canary-{turn}"));
    let put = |turn| {
        let fields: Vec<_> = fields(turn).collect();
        store.put("many", &fields.iter().map(String::as_str).collect::<Vec<_>>());
    };
    for turn in 0..10 {
        put(turn * 2);
        let mut mount = store.mount().start();
        let watched: Vec<_> =
            mount.ls("many").unwrap().iter().map(|name| mount.path("many").join(name)).collect();
        for file in &watched {
            std::fs::read(file).unwrap();
        }
        let watcher = Watcher::on(watched.iter().map(|file| ("k", file.as_path())));
        put(turn * 2 + 1);
        watcher.wait(&["k CLOSE_WRITE"]);
        signal(mount.pid(), "KILL");
        // Whatever it was waiting for, the kernel lets it go.
        assert_eq!(mount.ended(), None);
        drop(watcher);
        rustix::mount::unmount(&mount.at, UnmountFlags::DETACH).unwrap();
    }
}

/// The device of a mount that answers nothing, as the table of mounts has it.
fn secretfs_device(at: &Path) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == at.to_str()).unwrap();
    line.split(' ').nth(2).unwrap().to_owned()
}
