//! Owns where the control socket of a mount lies, and who may put one there.
//! Does not know what is said over it.
//!
//! The place follows from the mount table alone: the device number of the mount and the user who mounted. So a client
//! finds it without touching the mount, which may hang, may not let it in (root in a user's mount) or may be seen through
//! a bind mount in a container, whose files lie in another namespace than ours: an extended attribute of the mount that
//! names the socket would fail in all three. A container sees a socket only where somebody gives it the folder: who may
//! read secrets may not for that reason wipe them.

use std::ffi::OsStr;
use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

use crate::printable::printable_path;

/// Where root keeps them.
const OF_ROOT: &str = "/run/secretfs";
/// How long whoever listens at a place already may take to say so, or to leave it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it is asked meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no socket. One line; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Unclaimed {
    /// A living process listens there: one whose mount had this number before and that has not ended yet.
    #[error("another process still listens at {}", printable_path(.0))]
    InUse(PathBuf),
    /// There is no place for one. Says of each what is wrong with it.
    #[error("no folder to put it in: {0}")]
    Nowhere(String),
}

/// A socket in its place; removed with this value, before it stops listening.
#[derive(Debug)]
pub struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    file: (u64, u64),
}

/// Where the socket of the mount with this device number is to be found when `owner` mounted it, best first.
/// `runtime` is `$XDG_RUNTIME_DIR` of that user.
pub(super) fn places(owner: u32, device: &str, runtime: Option<&OsStr>) -> Vec<PathBuf> {
    let runtime = runtime.map(Path::new).filter(|folder| folder.is_absolute());
    let of_root = (owner == 0).then(|| PathBuf::from(OF_ROOT));
    let folders = of_root.into_iter().chain(runtime.map(|folder| folder.join("secretfs"))).chain([
        // Where systemd puts that folder: for those who ask without the variable (root, cron, su).
        PathBuf::from(format!("/run/user/{owner}/secretfs")),
        PathBuf::from(format!("/tmp/secretfs-{owner}")),
    ]);
    let mut places: Vec<PathBuf> = folders.map(|folder| folder.join(file_name(device))).collect();
    places.dedup();
    places
}

/// The folder that a mount of ours puts its socket into, where it can be had.
pub fn folder() -> Option<PathBuf> {
    folders().into_iter().next()
}

/// Every folder that a mount of ours may put its socket into, best first; whether it is there or not.
pub fn folders() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR");
    let places = places(rustix::process::geteuid().as_raw(), "", runtime.as_deref());
    places.iter().filter_map(|place| place.parent()).map(Path::to_owned).collect()
}

/// Makes the first of [`folders`] that can be had, as [`claim`] would: for a process that has the rights to, before one claims a
/// socket that has not. Which one it is.
///
/// # Errors
/// See [`Unclaimed::Nowhere`].
pub fn make_folder() -> Result<PathBuf, Unclaimed> {
    let mut refused = Vec::new();
    for folder in folders() {
        match own_folder(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) => refused.push(format!("{}: {error}", printable_path(&folder))),
        }
    }
    Err(Unclaimed::Nowhere(refused.join("; ")))
}

/// Puts a socket for the mount with this device number where its clients look for it.
///
/// # Errors
/// See [`Unclaimed`].
pub async fn claim(device: &str) -> Result<Socket, Unclaimed> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR");
    let us = rustix::process::geteuid().as_raw();
    let mut refused = Vec::new();
    for place in places(us, device, runtime.as_deref()) {
        match claim_in_time(&place).await {
            Ok(socket) => return Ok(socket),
            Err(ClaimError::InUse) => return Err(Unclaimed::InUse(place)),
            Err(error) => {
                let folder = place.parent().unwrap_or(&place);
                refused.push(format!("{}: {error}", printable_path(folder)));
            }
        }
    }
    Err(Unclaimed::Nowhere(refused.join("; ")))
}

#[derive(Debug, thiserror::Error)]
enum ClaimError {
    #[error("in use")]
    InUse,
    #[error("it belongs to user {0}: remove it")]
    Foreign(u32),
    #[error("users other than its owner can write it: run `chmod go-w` on it")]
    Writable,
    #[error("something that is no socket lies in it under our name")]
    Occupied,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A process whose mount had this number a moment ago is given the time to end.
async fn claim_in_time(path: &Path) -> Result<Socket, ClaimError> {
    for _ in 0..PATIENCE.as_millis() / PAUSE.as_millis() {
        match claim_at(path).await {
            Err(ClaimError::InUse) => tokio::time::sleep(PAUSE).await,
            result => return result,
        }
    }
    claim_at(path).await
}

async fn claim_at(path: &Path) -> Result<Socket, ClaimError> {
    let Some(folder) = path.parent() else { return Err(io::Error::from(io::ErrorKind::InvalidInput).into()) };
    own_folder(folder)?;
    match path.symlink_metadata() {
        Ok(found) if !found.file_type().is_socket() => return Err(ClaimError::Occupied),
        Ok(_) if is_alive(path).await => return Err(ClaimError::InUse),
        // Of a process that is dead: it cannot be another's that is about to listen, for the number is ours now.
        Ok(_) => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Nobody else can have come in meanwhile: the folder is ours alone. A sandboxed process may change no mode; its umask has
    // seen to it already.
    let made = path.symlink_metadata()?;
    if made.mode() & 0o7777 != 0o600 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    }
    let file = identity(&made);
    Ok(Socket { listener, path: path.to_owned(), file })
}

/// Makes sure that the folder is there and that nobody but us can put anything in it, or something else in its place.
fn own_folder(folder: &Path) -> Result<(), ClaimError> {
    let us = rustix::process::geteuid().as_raw();
    if let Some(above) = folder.parent() {
        let above = std::fs::metadata(above)?;
        if above.uid() != us && above.uid() != 0 {
            return Err(ClaimError::Foreign(above.uid()));
        }
        // In a folder like /tmp (sticky) nobody but the owner of what is in it can rename or remove it.
        if above.mode() & 0o022 != 0 && above.mode() & 0o1000 == 0 {
            return Err(ClaimError::Writable);
        }
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    // Not through a link, which somebody else may have put there.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(io::Error::from)?;
    let found = rustix::fs::fstat(&opened).map_err(io::Error::from)?;
    if found.st_uid != us {
        return Err(ClaimError::Foreign(found.st_uid));
    }
    // What others could write they may have written already.
    if found.st_mode & 0o022 != 0 {
        return Err(ClaimError::Writable);
    }
    if found.st_mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(&opened, Mode::RWXU).map_err(io::Error::from)?;
    }
    Ok(())
}

/// Whether a process listens there; one that is too busy to answer does (unix(7): EAGAIN).
async fn is_alive(path: &Path) -> bool {
    let refused =
        |error: io::Error| matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
    match tokio::time::timeout(PATIENCE, UnixStream::connect(path)).await {
        Ok(connected) => !connected.is_err_and(refused),
        Err(_) => true,
    }
}

fn file_name(device: &str) -> String {
    let plain = |c: char| if c.is_ascii_digit() { c } else { '-' };
    device.chars().map(plain).collect::<String>() + ".sock"
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

impl Socket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether clients still find it: somebody may clean up folders of temporary files.
    pub(super) fn is_in_place(&self) -> bool {
        self.path.symlink_metadata().is_ok_and(|found| identity(&found) == self.file)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // While we listen nobody takes the place (see `claim_at`), so what is ours now stays ours until it is removed.
        if self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("secretfs").join("0-51.sock");
        (folder, place)
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_place_follows_from_owner_and_device() {
        let found = |owner, runtime: Option<&str>| -> Vec<String> {
            let places = places(owner, "0:51", runtime.map(OsStr::new));
            places.iter().map(|place| place.display().to_string()).collect()
        };
        let rest = |owner: u32| {
            [format!("/run/user/{owner}/secretfs/0-51.sock"), format!("/tmp/secretfs-{owner}/0-51.sock")]
        };
        assert_eq!(found(7, None), rest(7));
        assert_eq!(found(7, Some("/run/user/7")), rest(7), "each once");
        assert_eq!(found(7, Some("relative")), rest(7), "XDG: a relative path is to be ignored");
        assert_eq!(found(7, Some("/x"))[0], "/x/secretfs/0-51.sock");
        assert_eq!(found(0, None)[0], "/run/secretfs/0-51.sock");
        assert_eq!(file_name("../etc:1"), "-------1.sock");
    }

    #[test]
    fn the_folder_can_be_made_before_any_socket() {
        let made = make_folder().unwrap();
        assert!(folders().contains(&made));
        assert_eq!(mode(&made), 0o700);
        assert_eq!(folder(), folders().first().cloned());
    }

    #[tokio::test]
    async fn folder_and_socket_are_the_owners_alone_and_the_socket_goes_with_its_process() {
        let (_scratch, place) = scratch();
        let socket = claim_at(&place).await.unwrap();
        assert_eq!((mode(place.parent().unwrap()), mode(&place)), (0o700, 0o600));
        assert!(socket.is_in_place());
        drop(socket);
        assert!(!place.exists());
        std::fs::set_permissions(place.parent().unwrap(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let _socket = claim_at(&place).await.unwrap();
        assert_eq!(mode(place.parent().unwrap()), 0o700, "tightened");
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let (_scratch, place) = scratch();
        let living = claim_at(&place).await.unwrap();
        assert!(matches!(claim_at(&place).await, Err(ClaimError::InUse)));
        assert!(living.is_in_place());
        // what a killed process leaves behind
        let dead = std::os::unix::net::UnixListener::bind(place.with_file_name("dead")).unwrap();
        drop(dead);
        std::fs::rename(place.with_file_name("dead"), &place).unwrap();
        assert!(!living.is_in_place());
        let new = claim_at(&place).await.unwrap();
        drop(living);
        assert!(new.is_in_place(), "the end of one leaves the other's socket alone");
    }

    #[tokio::test]
    async fn a_place_is_taken_as_soon_as_it_is_left() {
        let (_scratch, place) = scratch();
        let ending = claim_at(&place).await.unwrap();
        let leave = async {
            tokio::time::sleep(PAUSE).await;
            drop(ending);
        };
        let (claimed, ()) = tokio::join!(claim_in_time(&place), leave);
        assert!(claimed.unwrap().is_in_place());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let (_scratch, place) = scratch();
        std::fs::create_dir(place.parent().unwrap()).unwrap();
        std::fs::write(&place, "mine").unwrap();
        std::fs::set_permissions(place.parent().unwrap(), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(claim_at(&place).await, Err(ClaimError::Occupied)));
        assert_eq!(std::fs::read(&place).unwrap(), b"mine");
    }

    #[tokio::test]
    async fn a_folder_that_others_could_have_prepared_is_refused() {
        let (scratch, place) = scratch();
        let folder = place.parent().unwrap();
        std::fs::create_dir(folder).unwrap();
        for mode in [0o777, 0o720] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(claim_at(&place).await, Err(ClaimError::Writable)), "{mode:o}");
        }
        std::fs::remove_dir(folder).unwrap();
        std::fs::create_dir(scratch.path().join("elsewhere")).unwrap();
        symlink(scratch.path().join("elsewhere"), folder).unwrap();
        assert!(matches!(claim_at(&place).await, Err(ClaimError::Io(_))), "a link");
        std::fs::remove_file(folder).unwrap();
        // only root can give a folder away; for others the rule is the same comparison
        std::fs::create_dir(folder).unwrap();
        if chown(folder, Some(65534), None).is_ok() {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
            assert!(matches!(claim_at(&place).await, Err(ClaimError::Foreign(65534))));
        }
    }

    #[tokio::test]
    async fn a_folder_in_a_place_where_others_can_exchange_it_is_refused() {
        let (scratch, place) = scratch();
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(claim_at(&place).await, Err(ClaimError::Writable)));
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(claim_at(&place).await.is_ok());
    }
}
