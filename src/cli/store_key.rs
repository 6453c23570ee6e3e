//! Owns the options that name a store's key, and the question for a passphrase.
//! Does not know what the key is used for.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::failure::Failure;
use crate::backend::store::{FileError, Key, KeySource, create_identity, needs_passphrase};
use crate::secret::SecretBytes;

/// How the store is opened.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct KeyOptions {
    /// The age identity file [default: $SECRETFS_IDENTITY, else $XDG_CONFIG_HOME/secretfs/identity]
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// A file that holds the passphrase of the store
    #[arg(long, value_name = "FILE", conflicts_with = "identity")]
    pub passphrase_file: Option<PathBuf>,
}

impl KeyOptions {
    /// Where the key of the store `file` comes from. Asks for a passphrase when the file wants one, none was named and
    /// somebody sits at the terminal.
    pub fn source(&self, file: &Path, environment: &Environment) -> Result<KeySource, Failure> {
        if let Some(file) = &self.passphrase_file {
            return Ok(KeySource::PassphraseFile(file.clone()));
        }
        if let Some(typed) = environment.passphrases.get(file) {
            return Ok(KeySource::Passphrase(SecretBytes::new(typed.expose().to_vec())));
        }
        if self.identity.is_none() && wants_passphrase(file)? {
            if !std::io::stdin().is_terminal() {
                return Err(FileError::NeedsPassphrase(file.to_owned()).into());
            }
            return Ok(KeySource::Passphrase(ask(&format!("Passphrase of {}: ", file.display()))?));
        }
        self.identity_file(environment).map(KeySource::Identity)
    }

    /// The key of an existing store.
    pub(super) fn load(&self, file: &Path, environment: &Environment) -> Result<Key, Failure> {
        Ok(self.source(file, environment)?.load()?)
    }

    /// The key of a store that is about to be made: an identity that does not exist is made as well. Says whether it was.
    pub(super) fn make(
        &self,
        prompt: bool,
        environment: &Environment,
    ) -> Result<(Key, Option<PathBuf>), Failure> {
        if let Some(file) = &self.passphrase_file {
            return Ok((Key::from_passphrase_file(file)?, None));
        }
        if prompt {
            if !std::io::stdin().is_terminal() {
                return Err(Failure::usage(
                    "--passphrase asks at the terminal: use --passphrase-file FILE here",
                ));
            }
            let passphrase = ask("New passphrase: ")?;
            if passphrase.expose() != ask("The same again: ")?.expose() {
                return Err(Failure::usage("the two passphrases differ: nothing was made"));
            }
            return Ok((Key::from_passphrase(passphrase)?, None));
        }
        let file = self.identity_file(environment)?;
        if file.symlink_metadata().is_ok() {
            return Ok((Key::from_identity_file(&file)?, None));
        }
        create_identity(&file)?;
        Ok((Key::from_identity_file(&file)?, Some(file)))
    }

    fn identity_file(&self, environment: &Environment) -> Result<PathBuf, Failure> {
        let nowhere =
            || Failure::configuration("no place for an identity is known: name its file with --identity");
        self.identity.clone().or_else(|| environment.identity_file()).ok_or_else(nowhere)
    }
}

fn wants_passphrase(file: &Path) -> Result<bool, Failure> {
    match needs_passphrase(file) {
        // A mount may be made before its store is.
        Err(FileError::Missing(_)) => Ok(false),
        answer => Ok(answer?),
    }
}

fn ask(question: &str) -> Result<SecretBytes, Failure> {
    let failed = |error| Failure::io(format!("cannot ask for the passphrase: {error}"));
    rpassword::prompt_password(question).map(SecretBytes::from).map_err(failed)
}
