//! Owns the editing of a secret in the user's editor: a file that lies in memory only and is erased afterwards.
//! Does not know stores or what the text means.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::environment::Environment;
use super::failure::Failure;
use super::key_values::read_file;
use crate::secret::SecretBytes;

/// statfs(2) types of the file systems that live in memory (linux/magic.h).
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// A file to edit, in a directory of its own in memory. Dropping it erases all that lies in the directory.
pub(super) struct Desk {
    directory: PathBuf,
    file: PathBuf,
}

impl Desk {
    /// Puts `text` on a file system that is verified to be in memory; refuses when there is none.
    pub(super) fn lay(text: &[u8], environment: &Environment) -> Result<Self, Failure> {
        let places = environment.runtime_dir.iter().map(PathBuf::as_path).chain([Path::new("/dev/shm")]);
        for place in places.filter(|place| is_in_memory(place)) {
            let Some(directory) = make_directory(place) else { continue };
            let desk = Self { file: directory.join("secret.json"), directory };
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&desk.file);
            made.and_then(|mut file| file.write_all(text))
                .map_err(|e| Failure::cannot("write", &desk.file, &e))?;
            return Ok(desk);
        }
        let why =
            "no directory in memory to edit in: set XDG_RUNTIME_DIR to one on a tmpfs that you can write";
        Err(Failure::configuration(why))
    }

    /// Runs the editor on the file and gives back what it left there.
    pub(super) fn edit(&self, environment: &Environment) -> Result<SecretBytes, Failure> {
        let editor = environment.editor.clone().unwrap_or_else(|| "vi".into());
        let mut command = OsString::from(&editor);
        command.push(" \"$@\"");
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).arg(&editor).args(leave_no_trace(&editor)).arg(&self.file);
        let status = run(shell).map_err(|error| Failure::cannot("run", Path::new(&editor), &error))?;
        match status.code() {
            Some(0) => read_file(&self.file),
            Some(126 | 127) => Err(Failure::configuration(
                "the editor cannot be run: set VISUAL or EDITOR; nothing was changed",
            )),
            _ => Err(Failure::io("the editor failed: nothing was changed")),
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Err(error) = erase(&self.directory) {
            tracing::error!("cannot erase {}: {error}; erase it by hand", self.directory.display());
        }
    }
}

/// Vim keeps undo, swap and register files elsewhere, on disk; it can be told not to.
fn leave_no_trace(editor: &OsStr) -> &'static [&'static str] {
    let program = editor.to_str().and_then(|line| line.split_whitespace().next()).unwrap_or_default();
    match Path::new(program).file_name().and_then(OsStr::to_str) {
        Some("vim" | "nvim") => &["-n", "-i", "NONE", "-c", "set noundofile nobackup nowritebackup"],
        _ => &[],
    }
}

fn is_in_memory(place: &Path) -> bool {
    rustix::fs::statfs(place).is_ok_and(|found| {
        #[allow(clippy::unnecessary_cast)] // the type of f_type depends on the architecture
        let magic = found.f_type as i64 & 0xffff_ffff;
        magic == TMPFS_MAGIC || magic == RAMFS_MAGIC
    })
}

/// A new directory for us alone; nothing when `place` does not let us.
fn make_directory(place: &Path) -> Option<PathBuf> {
    for attempt in 0..100 {
        let directory = place.join(format!("secretfs-edit-{}-{attempt}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => return Some(directory),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            Err(_) => return None,
        }
    }
    None
}

/// Waits for the editor, and survives the signals that would leave its file behind: Ctrl-C goes to the editor too, which
/// knows better; being told to end (TERM, HUP) ends the editor, and the caller erases.
fn run(mut command: Command) -> io::Result<ExitStatus> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _interrupt = signal(SignalKind::interrupt())?;
        let _quit = signal(SignalKind::quit())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut editor = command.spawn()?;
        loop {
            if let Some(status) = editor.try_wait()? {
                return Ok(status);
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                _ = terminate.recv() => return end(&mut editor),
                _ = hang_up.recv() => return end(&mut editor),
            }
        }
    })
}

fn end(editor: &mut std::process::Child) -> io::Result<ExitStatus> {
    editor.kill()?;
    editor.wait()?;
    Ok(ExitStatus::from_raw(libc::SIGTERM))
}

/// Overwrites and removes every file below `directory`, backup and swap files of editors too, then the directory.
/// What cannot be overwritten is still removed.
fn erase(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let found = entry.metadata()?;
        if found.is_dir() {
            erase(&entry.path())?;
            continue;
        }
        if found.is_file() {
            let overwrite = |mut file| io::copy(&mut io::repeat(0).take(found.len()), &mut file);
            let _ = OpenOptions::new().write(true).open(entry.path()).and_then(overwrite);
        }
        fs::remove_file(entry.path())?;
    }
    fs::remove_dir(directory)
}
