//! Owns the passage between the document's plaintext and the bytes of an age file.
//! Does not know where the bytes lie.

use std::io::{Read, Write};
use std::path::Path;

use age::{DecryptError, Decryptor, Encryptor, x25519};
use zeroize::Zeroizing;

use super::document::Document;
use super::file::{Error, LIMIT, io_error};
use super::key::{Key, Secret, passphrase_identity, passphrase_recipient};

/// Reads the header.
pub(super) fn decryptor<'a>(encrypted: &'a [u8], path: &Path) -> Result<Decryptor<&'a [u8]>, Error> {
    let corrupt = |why| Error::Corrupt { file: path.to_owned(), why };
    Decryptor::new_buffered(encrypted).map_err(|error| match error {
        _ if encrypted.is_empty() => corrupt("the file is empty"),
        _ if encrypted.starts_with(b"-----BEGIN AGE") => {
            corrupt("it is armored; a store is a binary age file")
        }
        DecryptError::InvalidHeader if encrypted.starts_with(b"age-encryption.org/v1\n") => {
            corrupt("its age header is damaged")
        }
        _ => corrupt("it is not an age file"),
    })
}

/// The plaintext; all of it is authenticated before any of it is used.
pub(super) fn decrypt(encrypted: &[u8], path: &Path, key: &Key) -> Result<Zeroizing<Vec<u8>>, Error> {
    let corrupt = |why| Error::Corrupt { file: path.to_owned(), why };
    let wrong = || Error::WrongKey { key: key.origin().to_owned(), file: path.to_owned() };
    let decryptor = decryptor(encrypted, path)?;
    let by_passphrase = decryptor.is_scrypt();
    let reader = match (&key.secret, by_passphrase) {
        (Secret::Identities(_), true) => return Err(Error::NeedsPassphrase(path.to_owned())),
        (Secret::Passphrase(_), false) => return Err(Error::NeedsIdentity(path.to_owned())),
        (Secret::Identities(identities), false) => {
            decryptor.decrypt(identities.iter().map(|one| one as &dyn age::Identity))
        }
        (Secret::Passphrase(passphrase), true) => {
            decryptor.decrypt(std::iter::once(&passphrase_identity(passphrase) as _))
        }
    };
    let mut reader = reader.map_err(|error| match error {
        DecryptError::NoMatchingKeys => wrong(),
        DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed if by_passphrase => wrong(),
        DecryptError::ExcessiveWork { .. } => corrupt("its passphrase costs more work than is accepted"),
        _ => corrupt("its age header is damaged"),
    })?;
    let mut plaintext = Zeroizing::new(Vec::with_capacity(encrypted.len()));
    reader
        .read_to_end(&mut plaintext)
        .map_err(|_| corrupt("it is damaged or cut off: restore it from a backup"))?;
    Ok(plaintext)
}

/// Encrypts with the passphrase, or to all recipients that the document names.
pub(super) fn encrypt(document: &Document, key: &Key, path: &Path) -> Result<Vec<u8>, Error> {
    let corrupt = |why| Error::Corrupt { file: path.to_owned(), why };
    let failed = |error| io_error("encrypt", path, error);
    let plaintext = document.to_json().map_err(|_| corrupt("a field cannot be written as JSON"))?;
    let encryptor = match &key.secret {
        Secret::Passphrase(passphrase) => {
            Encryptor::with_recipients(std::iter::once(&passphrase_recipient(passphrase) as _))
        }
        Secret::Identities(_) => {
            let parsed = document.recipients().iter().map(|text| text.parse::<x25519::Recipient>());
            let recipients = parsed.collect::<Result<Vec<_>, _>>();
            let recipients =
                recipients.map_err(|_| corrupt("a recipient in it is not an age public key (age1...)"))?;
            Encryptor::with_recipients(recipients.iter().map(|one| one as _))
        }
    };
    let encryptor = encryptor.map_err(|_| corrupt("it names no recipients to encrypt to"))?;
    let mut encrypted = Vec::with_capacity(plaintext.len() + plaintext.len() / 1024 + 4096);
    let mut writer = encryptor.wrap_output(&mut encrypted).map_err(failed)?;
    writer.write_all(&plaintext).and_then(|()| writer.finish().map(drop)).map_err(failed)?;
    if encrypted.len() as u64 > LIMIT {
        return Err(Error::TooLarge(path.to_owned()));
    }
    Ok(encrypted)
}
