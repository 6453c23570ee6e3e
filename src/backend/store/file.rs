//! Owns the store's file: the lock between writers, and replacing it so that a crash leaves old or new.
//! Does not know how it is encrypted, what the document means or who asks.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags};

use super::cipher::{decrypt, decryptor, encrypt};
use super::document::{BadDocument, Document};
use super::key::Key;
use crate::printable::printable_path;

/// The largest store, in bytes of the encrypted file. All of it is held in memory while it is used.
pub const LIMIT: u64 = 256 << 20;

/// Why the file cannot be used. Holds nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no file.
    #[error("store {} does not exist: make it with `secretfs store init`", printable_path(.0))]
    Missing(PathBuf),
    /// `init` never replaces anything.
    #[error("{} exists already: remove it first or choose another name", printable_path(.0))]
    Exists(PathBuf),
    /// The key is not the one the file was encrypted to.
    #[error("{key} cannot decrypt {}", printable_path(.file))]
    WrongKey {
        /// "the identity FILE" or "the passphrase".
        key: String,
        /// The store.
        file: PathBuf,
    },
    /// An identity was given for a file that wants a passphrase.
    #[error("{} is encrypted with a passphrase: give it with --passphrase-file", printable_path(.0))]
    NeedsPassphrase(PathBuf),
    /// A passphrase was given for a file that wants an identity.
    #[error("{} is not encrypted with a passphrase: give its identity with --identity", printable_path(.0))]
    NeedsIdentity(PathBuf),
    /// What is wrong with the bytes.
    #[error("{}: {why}", printable_path(.file))]
    Corrupt {
        /// The store.
        file: PathBuf,
        /// In fixed words.
        why: &'static str,
    },
    /// It decrypts, but is no store.
    #[error("{} decrypts but cannot be used: {bad}", printable_path(.file))]
    Document {
        /// The store.
        file: PathBuf,
        /// Where and why.
        bad: BadDocument,
    },
    /// Larger than [`LIMIT`].
    #[error("{} would be larger than the limit of 256 MiB: split it into several stores", printable_path(.0))]
    TooLarge(PathBuf),
    /// The operating system refuses.
    #[error("cannot {doing} {}: {error}", printable_path(.file))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        file: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
}

/// A number that is another one after every write, by one stat(2); 0 when the file cannot be seen.
pub(super) fn generation(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |found| stamp(&found))
}

fn stamp(found: &Metadata) -> u64 {
    let mut hasher = DefaultHasher::new();
    (found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()).hash(&mut hasher);
    // chmod changes ctime alone, and may be what a failed read waits for
    (found.ctime(), found.ctime_nsec()).hash(&mut hasher);
    hasher.finish().max(1)
}

/// Whether the file is encrypted with a passphrase, judged by its header.
pub fn needs_passphrase(path: &Path) -> Result<bool, Error> {
    let mut start = Vec::new();
    // A header holds a line or two for each recipient: 1 MiB is thousands of them.
    open(path)?.take(1 << 20).read_to_end(&mut start).map_err(|error| io_error("read", path, error))?;
    Ok(decryptor(&start, path)?.is_scrypt())
}

/// Decrypts the whole file; says of which generation it was. Takes no lock: a file is only ever replaced.
pub fn load(path: &Path, key: &Key) -> Result<(u64, Document), Error> {
    read(&open(path)?, path, key)
}

/// Makes a new store; fails when anything has this name.
pub fn create(path: &Path, document: &Document, key: &Key) -> Result<(), Error> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::AlreadyExists => Error::Exists(path.to_owned()),
        _ => io_error("create", path, error),
    };
    if path.symlink_metadata().is_ok() {
        return Err(Error::Exists(path.to_owned()));
    }
    let bytes = encrypt(document, key, path)?;
    // No lock can be held on what does not exist: the process id keeps two makers apart.
    let beside = beside(path, &format!("init-{}", std::process::id())).map_err(failed)?;
    write_beside(&beside, |file| file.write_all(&bytes), || without_replacing(&beside, path)).map_err(failed)
}

/// Reads, changes and replaces the store while holding its lock. Nothing is written when `change` fails.
pub fn change<T, E: From<Error>>(
    path: &Path,
    key: &Key,
    change: impl FnOnce(&mut Document) -> Result<T, E>,
) -> Result<T, E> {
    let (target, locked) = lock(path)?;
    let (_, mut document) = read(&locked, path, key)?;
    let result = change(&mut document)?;
    let bytes = encrypt(&document, key, path)?;
    replace(&target, &locked, &bytes).map_err(|error| io_error("replace", &target, error))?;
    Ok(result)
}

pub(super) fn io_error(doing: &'static str, path: &Path, error: io::Error) -> Error {
    Error::Io { doing, file: path.to_owned(), error }
}

fn open(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::Missing(path.to_owned()),
        _ => io_error("read", path, error),
    })
}

/// The lock is on the file itself, so whoever gets it must see that the name still means this file:
/// the writer before may have put a new one in its place.
fn lock(path: &Path) -> Result<(PathBuf, File), Error> {
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => Error::Missing(path.to_owned()),
        _ => io_error("lock", path, error),
    };
    loop {
        let target = fs::canonicalize(path).map_err(failed)?;
        // NFS locks need a descriptor that may write; a read-only file has to do without.
        let both = OpenOptions::new().read(true).write(true).open(&target);
        let file = both.or_else(|_| File::open(&target)).map_err(failed)?;
        while let Err(error) = file.lock() {
            if error.kind() != ErrorKind::Interrupted {
                return Err(failed(error));
            }
        }
        if is_at(&file, &target) {
            return Ok((target, file));
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(a), Ok(b)) = (file.metadata(), path.symlink_metadata()) else { return false };
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn read(file: &File, path: &Path, key: &Key) -> Result<(u64, Document), Error> {
    let failed = |error| io_error("read", path, error);
    let found = file.metadata().map_err(failed)?;
    let mut encrypted = Vec::with_capacity(usize::try_from(found.size().min(LIMIT)).unwrap_or(0));
    file.take(LIMIT + 1).read_to_end(&mut encrypted).map_err(failed)?;
    if encrypted.len() as u64 > LIMIT {
        return Err(Error::TooLarge(path.to_owned()));
    }
    let plaintext = decrypt(&encrypted, path, key)?;
    let document =
        Document::parse(&plaintext).map_err(|bad| Error::Document { file: path.to_owned(), bad })?;
    Ok((stamp(&found), document))
}

/// `.NAME.SUFFIX` in the directory of `path`.
fn beside(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".");
    hidden.push(suffix);
    Ok(path.with_file_name(hidden))
}

fn replace(target: &Path, old: &File, bytes: &[u8]) -> io::Result<()> {
    let new = beside(target, "new")?;
    let fill = |file: &mut File| {
        file.write_all(bytes)?;
        keep_attributes(file, &old.metadata()?)
    };
    let put_in_place = || {
        // Somebody who moves files about without our lock must not have his work replaced by ours.
        if is_at(old, target) {
            fs::rename(&new, target)
        } else {
            Err(ErrorKind::StaleNetworkFileHandle.into())
        }
    };
    write_beside(&new, fill, put_in_place)
}

/// Writes a new file, has it put in place, and makes both durable. A file left by a killed writer is removed first.
fn write_beside(
    new: &Path,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
    put_in_place: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match fs::remove_file(new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    let done = fill(&mut file).and_then(|()| file.sync_all()).and_then(|()| put_in_place());
    if done.is_err() {
        let _ = fs::remove_file(new);
        return done;
    }
    let directory = new.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// Owner, group and mode stay as they were; the time of change always grows, so that no two generations are equal.
fn keep_attributes(file: &File, old: &Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
        // Only root may give a file away; anybody may keep a group he is in, and without it a team would be locked out.
        std::os::unix::fs::fchown(file, Some(old.uid()), Some(old.gid()))
            .or_else(|_| std::os::unix::fs::fchown(file, None, Some(old.gid())))?;
    }
    file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    let later = old.modified()? + Duration::from_nanos(1);
    file.set_modified(SystemTime::now().max(later))
}

/// rename(2) that fails when the name is taken; link(2) on file systems that cannot.
fn without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        done => done.map_err(io::Error::from),
    }
}
