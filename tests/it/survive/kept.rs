//! Owns the promise of a mount that a service manager keeps: its holder's death is a pause, from the first moment on.
//! Does not know systemd (tests/it/booted/drills.rs): the manager here keeps what it is given, and starts nobody.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use crate::support::available;
use crate::support::fake::{Fake, Reply};
use crate::support::fake_vault;
use crate::support::mount::{HANG, Mount, possible, run, secretfs, signal, wait_until};

/// Keeps every descriptor that comes to its socket.
struct Manager {
    is_over: Arc<AtomicBool>,
    keeping: JoinHandle<Vec<OwnedFd>>,
}

impl Manager {
    fn at(socket: &Path) -> Self {
        let socket = UnixDatagram::bind(socket).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let is_over = Arc::<AtomicBool>::default();
        let over = is_over.clone();
        let keeping = std::thread::spawn(move || {
            let mut kept = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let (mut room, mut space) = ([0; 512], [MaybeUninit::uninit(); 256]);
                let mut files = RecvAncillaryBuffer::new(&mut space);
                let _ =
                    recvmsg(&socket, &mut [IoSliceMut::new(&mut room)], &mut files, RecvFlags::CMSG_CLOEXEC);
                for message in files.drain() {
                    if let RecvAncillaryMessage::ScmRights(files) = message {
                        kept.extend(files);
                    }
                }
            }
            kept
        });
        Self { is_over, keeping }
    }

    /// Lets go of all of them; how many there were.
    fn let_go(self) -> usize {
        self.is_over.store(true, Ordering::SeqCst);
        self.keeping.join().unwrap().len()
    }
}

#[test]
fn the_death_of_the_very_first_holder_is_a_pause_for_who_waits_and_no_error() {
    let Some(()) = available("mount", possible()) else { return };
    let is_asked = Arc::<AtomicBool>::default();
    let asked = is_asked.clone();
    let fake = Fake::start_keeping(move |request| match fake_vault::asked(request) {
        (path, _) if path[0] == "sys" => fake_vault::kv2("kv"),
        (_, true) => fake_vault::keys(&[json!("a")]),
        _ => {
            asked.store(true, Ordering::SeqCst);
            Reply::Silence
        }
    });
    let plan = Mount::of("");
    let (config, socket) = (plan.folder().join("config.toml"), plan.folder().join("notify"));
    let text = format!(
        "[mount]\ndeadline = \"5m\"\n[backend.b]\ntype = \"vault\"\naddress = \"{}\"\n[[tree]]\npath = \"/\"\nbackend = \"b\"\nsource = \"kv\"\n",
        fake.endpoint()
    );
    std::fs::write(&config, text).unwrap();
    let manager = Manager::at(&socket);
    let variables = [("VAULT_TOKEN", "canary-token"), ("FDSTORE", "16")];
    let mut mount =
        plan.arg("--config").arg(config).envs(variables).envs([("NOTIFY_SOCKET", socket)]).start();
    let (worker, file) = (mount.worker(), mount.path("a/k"));
    let (tell, told) = channel();
    let reader =
        std::thread::spawn(move || tell.send(std::fs::read(file).map_err(|error| error.raw_os_error())));
    wait_until("somebody waits for the backend", || is_asked.load(Ordering::SeqCst));
    signal(mount.pid(), "KILL");
    mount.ended();
    // The manager here kills nobody: it ends by itself.
    wait_until("its worker is gone", || {
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    });
    assert_eq!(told.recv_timeout(Duration::from_millis(500)), Err(RecvTimeoutError::Timeout), "it waits");
    assert_eq!(manager.let_go(), 6);
    let told = told.recv_timeout(HANG).unwrap().unwrap_err().unwrap();
    assert!([libc::ENOTCONN, libc::ECONNABORTED].contains(&told), "{told}");
    reader.join().unwrap().unwrap();
    run(secretfs().arg("unmount").arg(&mount.at));
}
