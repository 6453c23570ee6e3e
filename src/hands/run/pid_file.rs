//! Owns sending a signal to the process that a PID file names, and to no other.
//! Does not know why it is sent.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open, pidfd_send_signal};

use super::super::job::Signal;

/// Bytes that are looked at: a number and a line break are at most eleven.
const LOOKED_AT: u64 = 64;

/// Why no signal was sent. Says what to do where something can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// It cannot be opened.
    #[error("the PID file cannot be read: {0}")]
    Unreadable(ErrorKind),
    /// A link at the end of the path.
    #[error("the PID file is a link; give the path of the file itself")]
    Link,
    /// A folder, a pipe, a device.
    #[error("the PID file is no regular file")]
    NotAFile,
    /// Somebody else could have written any number.
    #[error("users other than its owner can write the PID file; run `chmod go-w` on it")]
    Writable,
    /// Its owner may not send signals to that process, so we do not in their place.
    #[error(
        "the PID file belongs neither to root, nor to this program's user, nor to the user whose process it names"
    )]
    Foreign,
    /// No number above one in the first line.
    #[error("the first line of the PID file is not the number of a process")]
    NoNumber,
    /// A number above one, but our own.
    #[error("the PID file names secretfs itself")]
    Ourselves,
    /// Nobody has this number (any more).
    #[error("no process has the number in the PID file: it is not running")]
    NotRunning,
    /// kill(2) refuses.
    #[error("this program's user may not send a signal to the process in the PID file")]
    Forbidden,
    /// Anything else.
    #[error("the system does not send the signal: {0}")]
    System(ErrorKind),
}

/// Sends `signal` to the process whose number stands in the first line of the file at `path`; the number.
///
/// The process is held by a descriptor (pidfd_open(2)) before its owner is looked at, so the one that is looked at is the
/// one that gets the signal, even if it ends meanwhile and its number goes to another.
pub(super) fn signal(path: &Path, signal: Signal) -> Result<i32, Trouble> {
    let (number, owner) = read(path)?;
    let pid = Pid::from_raw(number).ok_or(Trouble::NoNumber)?;
    if pid == rustix::process::getpid() {
        return Err(Trouble::Ourselves);
    }
    // EINVAL: a thread that is no process (pidfd_open(2)).
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| match error {
        Errno::SRCH | Errno::INVAL => Trouble::NotRunning,
        other => trouble(other),
    })?;
    if owner != 0 && owner != geteuid().as_raw() {
        let runs_as = std::fs::metadata(format!("/proc/{number}")).map(|found| found.uid());
        if runs_as.ok() != Some(owner) {
            return Err(Trouble::Foreign);
        }
    }
    pidfd_send_signal(process, signal.number()).map_err(trouble)?;
    Ok(number)
}

/// The number in the file, and who owns the file.
fn read(path: &Path) -> Result<(i32, u32), Trouble> {
    // NONBLOCK: a pipe without a writer would keep us waiting. NOFOLLOW: whoever can write the folder could lead us to
    // the PID file of another program.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP => Trouble::Link,
        other => Trouble::Unreadable(std::io::Error::from(other).kind()),
    })?;
    let file = std::fs::File::from(file);
    let found = file.metadata().map_err(|error| Trouble::Unreadable(error.kind()))?;
    if !found.is_file() {
        return Err(Trouble::NotAFile);
    }
    if found.mode() & 0o022 != 0 {
        return Err(Trouble::Writable);
    }
    let mut bytes = Vec::new();
    file.take(LOOKED_AT).read_to_end(&mut bytes).map_err(|error| Trouble::Unreadable(error.kind()))?;
    Ok((number(&bytes).ok_or(Trouble::NoNumber)?, found.uid()))
}

/// The number in the first line, above one: zero and below mean groups of processes to kill(2), one is init.
fn number(bytes: &[u8]) -> Option<i32> {
    let line = bytes.split(|byte| *byte == b'\n').next()?.trim_ascii();
    let digits = std::str::from_utf8(line).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().filter(|number| *number > 1)
}

fn trouble(error: Errno) -> Trouble {
    match error {
        Errno::SRCH => Trouble::NotRunning,
        Errno::PERM | Errno::ACCESS => Trouble::Forbidden,
        other => Trouble::System(std::io::Error::from(other).kind()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    use super::*;

    fn hangup() -> Signal {
        Signal::named("HUP").unwrap()
    }

    fn file(folder: &tempfile::TempDir, content: &str) -> std::path::PathBuf {
        let path = folder.path().join("pid");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    #[test]
    fn one_number_above_one_stands_in_the_first_line() {
        for (text, expected) in [("42", 42), ("42\n", 42), ("  42 \n/more lines\n5432\n", 42), ("0042", 42)] {
            assert_eq!(number(text.as_bytes()), Some(expected), "{text:?}");
        }
        for text in ["", "\n42", "0", "1", "-1", "-42", "+42", "4 2", "42x", "0x2a", "4294967338", "\u{664}"]
        {
            assert_eq!(number(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(number(b"\xff"), None);
    }

    #[test]
    fn the_process_gets_the_signal_and_then_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = sleeper();
        let path = file(&folder, &format!("{}\n", child.id()));
        assert_eq!(signal(&path, hangup()), Ok(i32::try_from(child.id()).unwrap()));
        assert_eq!(child.wait().unwrap().signal(), Some(1));
        assert_eq!(signal(&path, hangup()), Err(Trouble::NotRunning));
    }

    #[test]
    fn what_cannot_be_trusted_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| signal(path, hangup()).unwrap_err();
        assert_eq!(refused(&folder.path().join("none")), Trouble::Unreadable(ErrorKind::NotFound));
        assert_eq!(refused(folder.path()), Trouble::NotAFile);
        assert_eq!(refused(Path::new("/dev/null")), Trouble::NotAFile);
        assert_eq!(refused(&file(&folder, "1\n")), Trouble::NoNumber);
        assert_eq!(refused(&file(&folder, &std::process::id().to_string())), Trouble::Ourselves);
        let mut child = sleeper();
        let path = file(&folder, &child.id().to_string());
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(refused(&link), Trouble::Link);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert_eq!(refused(&path), Trouble::Writable);
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(refused(&pipe), Trouble::NotAFile);
        // only root can give a file away
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        if chown(&path, Some(65534), None).is_ok() {
            assert_eq!(refused(&path), Trouble::Foreign, "its owner could not signal our process");
        }
        assert!(child.try_wait().unwrap().is_none(), "nothing was sent");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_service_may_name_its_own_process() {
        use std::os::unix::process::CommandExt;
        let folder = tempfile::tempdir().unwrap();
        // only root can become another user
        let Ok(mut child) =
            Command::new("/bin/sleep").arg("600").uid(65534).gid(65534).current_dir("/").spawn()
        else {
            return;
        };
        let path = file(&folder, &child.id().to_string());
        chown(&path, Some(65534), None).unwrap();
        assert!(signal(&path, hangup()).is_ok());
        assert_eq!(child.wait().unwrap().signal(), Some(1));
    }
}
