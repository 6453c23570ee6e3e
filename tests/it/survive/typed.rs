//! Owns the promise about a passphrase that somebody has typed: they are asked once, however many workers die.
//! Does not know other keys of a store.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::mount::lifecycle::is_mounted;
use crate::support::mount::{possible, run, secretfs, signal, wait_until, workers_of};
use crate::support::{available, program};

const PASSPHRASE: &str = "canary horse";

/// A program at a terminal of its own, which script(1) makes.
struct Terminal {
    script: Child,
    /// What was shown so far.
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn start(line: &str) -> Self {
        let mut command = Command::new("script");
        command.args(["-qfec", line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = command.stderr(Stdio::null()).spawn().unwrap();
        let shown = Arc::<Mutex<String>>::default();
        let (mut output, shows) = (script.stdout.take().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                shows.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Self { script, shown }
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Whether it shows what is typed.
    fn echoes(&self) -> bool {
        let mut stty = Command::new("stty");
        stty.arg("-a").arg("-F").arg(format!("/proc/{}/fd/0", self.program())).env("LC_ALL", "C");
        let said = stty.output().unwrap();
        !String::from_utf8_lossy(&said.stdout).split_whitespace().any(|word| word == "-echo")
    }

    /// The program that runs at it.
    fn program(&self) -> u32 {
        let script = self.script.id();
        let children = std::fs::read_to_string(format!("/proc/{script}/task/{script}/children")).unwrap();
        children.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn a_typed_passphrase_is_asked_for_once_whatever_becomes_of_workers() {
    let Some(()) = available("mount", possible()) else { return };
    let Some(_) = available("script", program("script")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().canonicalize().unwrap().join(name);
    std::fs::write(path("typed"), PASSPHRASE).unwrap();
    std::fs::set_permissions(path("typed"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let store = |words: &[&str]| {
        let mut command = secretfs();
        run(command
            .arg("store")
            .args(words)
            .arg("--passphrase-file")
            .arg("typed")
            .current_dir(folder.path()));
    };
    store(&["init", "s.age"]);
    store(&["put", "s.age", "api-key", "value=canary-value"]);
    // Nobody can ask for it again in another way.
    std::fs::remove_file(path("typed")).unwrap();
    std::fs::create_dir(path("mnt")).unwrap();
    let (program, at) = (env!("CARGO_BIN_EXE_secretfs"), path("mnt"));
    // To try a passphrase takes a second, and several where others want the processor.
    let line = format!(
        "exec env SECRETFS_LOG=trace {program} mount --deadline 25s store:{} {}",
        path("s.age").display(),
        at.display()
    );
    let mut terminal = Terminal::start(&line);
    wait_until("it asks", || terminal.shown().contains("Passphrase of"));
    // The question comes before the terminal is told to show nothing.
    wait_until("nothing is shown", || !terminal.echoes());
    let mut input = terminal.script.stdin.take().unwrap();
    writeln!(input, "{PASSPHRASE}").unwrap();
    wait_until("it is mounted", || is_mounted(&at));
    let holder = terminal.program();
    let read = || std::fs::read_to_string(at.join("api-key/value"));
    assert_eq!(read().unwrap(), "canary-value");
    for _ in 0..2 {
        let worker = workers_of(holder)[0];
        signal(worker, "KILL");
        assert_eq!(read().unwrap(), "canary-value");
        assert_ne!(workers_of(holder), [worker]);
    }
    let worker = workers_of(holder);
    run(secretfs().arg("upgrade").arg(&at));
    assert_ne!(workers_of(holder), worker);
    assert_eq!(read().unwrap(), "canary-value");
    // As Ctrl-C does, from the terminal itself.
    input.write_all(b"\x03").unwrap();
    wait_until("it has ended", || !is_mounted(&at) && !Path::new(&format!("/proc/{holder}")).exists());
    let shown = terminal.shown();
    assert_eq!(shown.matches("Passphrase of").count(), 1, "{shown}");
    assert!(!shown.contains("canary"), "{shown}");
}
