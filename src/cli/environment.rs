//! Owns what the commands take from the process's environment, read once at the start.
//! Does not know any command.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::secret::SecretBytes;

/// The variables that the commands heed. An empty variable counts as none.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `SECRETFS_IDENTITY`: the age identity file.
    pub identity: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`, when it is absolute, as its specification demands.
    pub config_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `VISUAL`, else `EDITOR`: a command for the shell.
    pub editor: Option<OsString>,
    /// Passphrases that somebody has typed already, by the file of their store: of no variable, but from whoever started this
    /// process.
    pub passphrases: HashMap<PathBuf, Arc<SecretBytes>>,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = |name| variable(name).map(PathBuf::from);
        Self {
            identity: path("SECRETFS_IDENTITY"),
            config_home: path("XDG_CONFIG_HOME").filter(|path| path.is_absolute()),
            home: path("HOME"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
            editor: variable("VISUAL").or_else(|| variable("EDITOR")),
            passphrases: HashMap::new(),
        }
    }

    /// The age identity to use when none is named: `SECRETFS_IDENTITY`, else `$XDG_CONFIG_HOME/secretfs/identity`,
    /// else `~/.config/secretfs/identity`. Nothing when there is no home.
    pub fn identity_file(&self) -> Option<PathBuf> {
        let config = || self.config_home.clone().or_else(|| self.home.as_deref().map(dot_config));
        self.identity.clone().or_else(|| config().map(|folder| folder.join("secretfs/identity")))
    }
}

fn dot_config(home: &Path) -> PathBuf {
    home.join(".config")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_looked_for_in_the_documented_order() {
        let mut environment = Environment { home: Some("/h".into()), ..Environment::default() };
        assert_eq!(environment.identity_file(), Some("/h/.config/secretfs/identity".into()));
        environment.config_home = Some("/c".into());
        assert_eq!(environment.identity_file(), Some("/c/secretfs/identity".into()));
        environment.identity = Some("/i".into());
        assert_eq!(environment.identity_file(), Some("/i".into()));
        assert_eq!(Environment::default().identity_file(), None);
    }
}
