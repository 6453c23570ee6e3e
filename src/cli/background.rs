//! Owns `--daemon`: a second process that serves, and a first one that waits until it is ready.
//! Does not know what is served.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{FileType, Mode, OFlags};

use super::failure::Failure;

/// What the second process says when programs can use the mount.
const READY: &[u8] = b"ready\n";

/// Starts this program again with `command --announce arguments`, and returns when its mount is ready. When it is
/// not to be, the reason has been printed already (standard error is shared) and its exit code is ours.
pub(super) fn start(command: &OsStr, arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::io(format!("cannot start in the background: {error}"));
    let program = std::env::current_exe().map_err(cannot)?;
    let mut child = Command::new(program)
        // Where the file itself has the name of the helper of mount(8) this one is no helper.
        .arg0("secretfs")
        .arg(command)
        .arg("--announce")
        .args(arguments)
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(READY.len() as u64).read_to_end(&mut said).map_err(cannot)?;
    }
    if said == READY {
        return Ok(());
    }
    let status = child.wait().map_err(cannot)?;
    Err(Failure::told(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(70)))
}

/// Called by the second process when its mount is ready: says so, and leaves the terminal, the folder it was started in
/// and the pipes of whoever started it. Logs go on to standard error only when that is a file or a device of its own.
pub(super) fn announce() -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(READY)?;
    out.flush()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    let log = rustix::fs::fstat(rustix::stdio::stderr())?;
    if FileType::from_raw_mode(log.st_mode) != FileType::RegularFile {
        rustix::stdio::dup2_stderr(&null)?;
    }
    // Fails only for a process that leads a group already, which then has no terminal to leave.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    Ok(())
}
