//! Owns what opens a store: age identities and passphrases, and the trust in the files that hold them.
//! Does not know the store's file or its content.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use age::secrecy::{ExposeSecret, SecretString};
use age::x25519;
use zeroize::Zeroizing;

use crate::printable::printable_path;
use crate::secret::SecretBytes;
use crate::trusted_file::{self, Refusal};

/// scrypt's cost as a power of two, the default of the age tool: about a second, 256 MiB while it runs.
/// Fixed and not measured, so that a busy machine does not weaken a file.
const WORK_FACTOR: u8 = 18;

/// The highest cost accepted from a file: about 16 seconds and 4 GiB, the limit of the age tool.
const MAX_WORK_FACTOR: u8 = 22;

/// Why a key cannot be used. Names the file and never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error("there is no {what} at {}: {hint}", printable_path(.file))]
    Missing {
        /// "identity" or "passphrase file".
        what: &'static str,
        /// Where it was looked for.
        file: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// Somebody else could have put another key in its place.
    #[error("{} can be changed by other users: make it yours and run `chmod go-w` on it", printable_path(.0))]
    Untrusted(PathBuf),
    /// The content is not what it should be.
    #[error("{}: {why}", printable_path(.file))]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong, with the number of the line.
        why: String,
    },
    /// The passphrase that was given cannot be one.
    #[error("a passphrase is UTF-8 text and not empty")]
    Passphrase,
    /// The operating system refuses.
    #[error("cannot {doing} {}: {error}", printable_path(.file))]
    Io {
        /// "read" or "create".
        doing: &'static str,
        /// The file.
        file: PathBuf,
        /// Its reason.
        error: io::Error,
    },
}

/// What opens a store, and locks it again. Erased when dropped; has no `Debug`.
pub struct Key {
    pub(super) secret: Secret,
    origin: String,
}

pub(super) enum Secret {
    Identities(Vec<x25519::Identity>),
    Passphrase(SecretBytes),
}

impl Key {
    /// Reads an identity file as `age-keygen` writes it: lines of `AGE-SECRET-KEY-1...`, empty lines and `#` comments.
    pub fn from_identity_file(file: &Path) -> Result<Self, ConfigError> {
        let hint =
            "make one with `secretfs store init` or `age-keygen -o FILE`, or name yours with --identity";
        let text = read_trusted(file, "identity", hint)?;
        let bad = |why: String| ConfigError::Content { file: file.to_owned(), why };
        let text = std::str::from_utf8(&text).map_err(|_| bad("it is not an age identity file".into()))?;
        let mut identities = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = line.parse::<x25519::Identity>();
            let why = || bad(format!("line {} is not an age identity (AGE-SECRET-KEY-1...)", at + 1));
            identities.push(identity.map_err(|_| why())?);
        }
        if identities.is_empty() {
            return Err(bad("it holds no age identity (AGE-SECRET-KEY-1...)".into()));
        }
        let origin = format!("the identity {}", printable_path(file));
        Ok(Self { secret: Secret::Identities(identities), origin })
    }

    /// Reads a passphrase: the whole file, without the newline at its end.
    pub fn from_passphrase_file(file: &Path) -> Result<Self, ConfigError> {
        let mut text = read_trusted(file, "passphrase file", "write the passphrase into it, mode 0600")?;
        if text.last() == Some(&b'\n') {
            text.pop();
            if text.last() == Some(&b'\r') {
                text.pop();
            }
        }
        let bad = |why: &str| ConfigError::Content { file: file.to_owned(), why: why.into() };
        Self::from_passphrase(text.into()).map_err(|_| bad("the passphrase must be UTF-8 text and not empty"))
    }

    /// A passphrase that a person typed.
    pub fn from_passphrase(passphrase: SecretBytes) -> Result<Self, ConfigError> {
        if passphrase.expose_str().is_none_or(str::is_empty) {
            return Err(ConfigError::Passphrase);
        }
        Ok(Self { secret: Secret::Passphrase(passphrase), origin: "the passphrase".into() })
    }

    /// The public keys (`age1...`) of the identities; none for a passphrase.
    pub fn public_keys(&self) -> Vec<String> {
        match &self.secret {
            Secret::Identities(identities) => {
                identities.iter().map(|one| one.to_public().to_string()).collect()
            }
            Secret::Passphrase(_) => Vec::new(),
        }
    }

    /// How messages call it: "the identity FILE" or "the passphrase".
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }
}

/// The passphrase as age takes it, to encrypt.
pub(super) fn passphrase_recipient(passphrase: &SecretBytes) -> age::scrypt::Recipient {
    let mut recipient = age::scrypt::Recipient::new(secret_string(passphrase));
    recipient.set_work_factor(WORK_FACTOR);
    recipient
}

/// The passphrase as age takes it, to decrypt.
pub(super) fn passphrase_identity(passphrase: &SecretBytes) -> age::scrypt::Identity {
    let mut identity = age::scrypt::Identity::new(secret_string(passphrase));
    identity.set_max_work_factor(MAX_WORK_FACTOR);
    identity
}

fn secret_string(passphrase: &SecretBytes) -> SecretString {
    SecretString::from(passphrase.expose_str().unwrap_or_default())
}

/// Whether `text` is the public key of an identity (`age1...`); only then can a store be encrypted to it.
pub fn is_recipient(text: &str) -> bool {
    text.parse::<x25519::Recipient>().is_ok()
}

/// Makes a new identity at `file` (mode 0600, its directory 0700) in the format of `age-keygen`; never replaces one.
pub fn create_identity(file: &Path) -> Result<(), ConfigError> {
    let failed = |error| ConfigError::Io { doing: "create", file: file.to_owned(), error };
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    let identity = x25519::Identity::generate();
    let created = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
    let text = Zeroizing::new(format!(
        "# created: {created}\n# public key: {}\n{}\n",
        identity.to_public(),
        identity.to_string().expose_secret()
    ));
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    let written = made.write_all(text.as_bytes()).and_then(|()| made.sync_all());
    if let Err(error) = written {
        // An identity that is cut off would pass for one that was lost.
        let _ = fs::remove_file(file);
        return Err(failed(error));
    }
    // The name must survive a crash as well: a store encrypted to a lost identity is lost.
    File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all()).map_err(failed)
}

/// Reads a file of keys that only we or root can have written.
fn read_trusted(
    file: &Path,
    what: &'static str,
    hint: &'static str,
) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
    let named = || file.to_owned();
    let content = trusted_file::read(file).map_err(|refusal| match refusal {
        Refusal::Missing => ConfigError::Missing { what, file: named(), hint },
        Refusal::Writable | Refusal::Foreign(_) => ConfigError::Untrusted(named()),
        Refusal::Unreadable(kind) => ConfigError::Io { doing: "read", file: named(), error: kind.into() },
        Refusal::Folder | Refusal::NotAFile | Refusal::TooLarge => {
            ConfigError::Content { file: named(), why: refusal.to_string() }
        }
    })?;
    if content.others_can_read {
        tracing::warn!("{} can be read by other users: run `chmod go=` on it", printable_path(file));
    }
    Ok(content.bytes)
}
