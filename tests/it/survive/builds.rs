//! Owns the exchange of a program's file, as a package does it: another file is moved into its place.
//! Does not know who runs it.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::mount::{Mount, secretfs};

/// Two builds of the program, of which one is in place. The mount must be of [`crate::support::mount::Plan::installed`].
pub struct Builds {
    folder: PathBuf,
    installed: AtomicUsize,
}

impl Builds {
    /// What the mount runs, and another build of the same: other bytes in another file.
    pub fn of(mount: &Mount) -> Self {
        let folder = mount.folder.path().to_owned();
        let [one, other] = [0, 1].map(|number| folder.join(format!("build-{number}")));
        std::fs::hard_link(folder.join("secretfs"), &one).unwrap();
        std::fs::copy(&one, &other).unwrap();
        let mut end = std::fs::OpenOptions::new().append(true).open(other).unwrap();
        end.write_all(b"another build").unwrap();
        Self { folder, installed: AtomicUsize::new(0) }
    }

    /// Puts the other build into the place of the one that is there.
    pub fn install_other(&self) {
        let number = 1 - self.installed.load(Ordering::SeqCst);
        self.install(&self.folder.join(format!("build-{number}")));
        self.installed.store(number, Ordering::SeqCst);
    }

    /// Puts this file there.
    pub fn install(&self, file: &Path) {
        let new = self.folder.join("secretfs.new");
        std::fs::hard_link(file, &new).unwrap();
        std::fs::rename(new, self.folder.join("secretfs")).unwrap();
    }

    /// Puts the build back that was there before [`Builds::install`].
    pub fn restore(&self) {
        self.install(&self.folder.join(format!("build-{}", self.installed.load(Ordering::SeqCst))));
    }

    /// Makes a file of these bytes that can be run, to be installed.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let file = self.folder.join(name);
        std::fs::write(&file, bytes).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        file
    }

    /// Whether this process runs what is in place now.
    pub fn runs(&self, pid: u32) -> bool {
        let identity = |file: &Path| std::fs::metadata(file).map(|found| (found.dev(), found.ino())).unwrap();
        identity(Path::new(&format!("/proc/{pid}/exe"))) == identity(&self.folder.join("secretfs"))
    }
}

/// `secretfs upgrade MOUNTPOINT`.
pub fn upgrade(mount: &Mount) -> Command {
    let mut command = secretfs();
    command.arg("upgrade").arg(&mount.at);
    command
}

/// What it said, in one line.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}
