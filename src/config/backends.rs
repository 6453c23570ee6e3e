//! Owns `[backend.NAME]`: which kind each backend is and what it is told.
//! Does not know what a backend does with it, and reads no environment.

use std::path::PathBuf;
use std::time::Duration;

use toml_edit::{Document, Item, TableLike};

use super::keys::Table;
use super::reader::Section;
use super::shape::{At, entries, hint, list, place, shown, type_name};
use super::{LoginSettings, Reading, units};
use crate::leases;

const BACKEND_TYPES: [&str; 3] = ["vault", "aws", "store"];

/// One backend; what is none comes from the environment, as docs/configuration.md says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendSettings {
    /// HashiCorp Vault or OpenBao.
    Vault {
        /// An `http` or `https` URL.
        address: Option<String>,
        /// The namespace to read in.
        namespace: Option<String>,
        /// Where its token comes from.
        login: LoginSettings,
        /// A PEM file of authorities.
        ca_cert: Option<PathBuf>,
        /// The longest that one request may take.
        client_timeout: Option<Duration>,
        /// What holds for its leases.
        leases: leases::Limits,
    },
    /// AWS Secrets Manager.
    Aws {
        /// The region.
        region: Option<String>,
        /// The profile.
        profile: Option<String>,
        /// An `http` or `https` URL instead of the region's.
        endpoint_url: Option<String>,
    },
    /// The embedded store.
    Store {
        /// The encrypted file.
        file: PathBuf,
        /// An age identity; nobody else can write it. Never together with `passphrase_file`.
        identity: Option<PathBuf>,
        /// A file with a passphrase; nobody else can write it.
        passphrase_file: Option<PathBuf>,
    },
}

/// A backend that the file names; without settings when they are wrong.
pub(super) struct FoundBackend {
    pub(super) name: String,
    pub(super) at: usize,
    pub(super) settings: Option<BackendSettings>,
}

impl FoundBackend {
    /// Whether it can make secrets on demand; `None` where that cannot be told.
    pub(super) fn makes_secrets(&self) -> Option<bool> {
        self.settings.as_ref().map(|settings| matches!(settings, BackendSettings::Vault { .. }))
    }
}

impl<'a> Reading<'a> {
    /// Every backend that the file names; what is wrong is noted.
    pub(super) fn backends(&self, document: &'a Document<&str>) -> Vec<FoundBackend> {
        let Some((key, item)) = document.get_key_value("backend") else {
            self.notes.add(
                0,
                "missing table [backend.NAME]; add one with `type = \"vault\"`, \"aws\" or \"store\"".into(),
            );
            return Vec::new();
        };
        let Some(table) = item.as_table_like() else {
            let text = format!("`backend`: expected tables [backend.NAME], found {}", type_name(item));
            self.notes.add(place(key, item), text);
            return Vec::new();
        };
        if table.is_empty() {
            self.notes.add(
                place(key, item),
                "[backend] is empty; write [backend.NAME], with a name of your choice".into(),
            );
        }
        entries(table).filter_map(|(key, item)| self.backend(key.get(), place(key, item), item)).collect()
    }

    fn backend(&self, name: &str, at: usize, item: &'a Item) -> Option<FoundBackend> {
        let Some(table) = item.as_table_like() else {
            let text = format!(
                "unknown key `{}` in [backend]; write [backend.NAME], with a name of your choice",
                shown(name)
            );
            self.notes.add(at, text);
            return None;
        };
        let label = format!("[backend.{}]", shown(name));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            self.notes.add(
                at,
                format!("{label}: a backend's name is made of letters, digits, `-` and `_`; rename it"),
            );
        }
        let settings = self.backend_settings(label, at, table);
        Some(FoundBackend { name: name.to_owned(), at, settings })
    }

    fn backend_settings(
        &self,
        label: String,
        at: usize,
        table: &'a dyn TableLike,
    ) -> Option<BackendSettings> {
        let section = Section::new(self.notes, label, at, table).knows(Table::Backend);
        section.require("type");
        let kind = section.filled("type")?;
        match kind.value {
            "vault" => {
                let section = section.knows(Table::Vault);
                section.refuse_unknown();
                let client_timeout = section.parsed("client_timeout", units::duration);
                Some(BackendSettings::Vault {
                    address: section.address("address"),
                    namespace: owned(section.filled("namespace")),
                    // A login that is wrong is noted, so that no settings come of it; the backend's type is known all the same.
                    login: self.login(&section).unwrap_or_default(),
                    ca_cert: self.file(&section, "ca_cert", ""),
                    client_timeout: client_timeout.map(|found| found.value),
                    leases: lease_limits(&section),
                })
            }
            "aws" => {
                let section = section.knows(Table::Aws);
                section.refuse_unknown();
                Some(BackendSettings::Aws {
                    region: owned(section.filled("region")),
                    profile: owned(section.filled("profile")),
                    endpoint_url: section.address("endpoint_url"),
                })
            }
            "store" => self.store(&section.knows(Table::Store)),
            unknown => {
                let hint = hint(unknown, &BACKEND_TYPES);
                section.refuse("type", kind.at, format!("expected one of {}; {hint}", list(&BACKEND_TYPES)));
                None
            }
        }
    }

    fn store(&self, section: &Section<'a>) -> Option<BackendSettings> {
        section.refuse_unknown();
        section.require("file");
        let file = self.file(section, "file", "; make it with `secretfs store init`");
        let identity = self.credential_file(section, "identity");
        let passphrase_file = self.credential_file(section, "passphrase_file");
        if let (Some(_), Some(found)) = (section.text("identity"), section.text("passphrase_file")) {
            section.refuse(
                "passphrase_file",
                found.at,
                "a store has an `identity` or a passphrase; remove one of the two",
            );
        }
        Some(BackendSettings::Store { file: file?, identity, passphrase_file })
    }
}

fn lease_limits(section: &Section<'_>) -> leases::Limits {
    let default = leases::Limits::default();
    let max_leases = section.count("max_leases").and_then(|count| usize::try_from(count).ok());
    leases::Limits {
        max_leases: max_leases.unwrap_or(default.max_leases),
        keep_leases: section.switch("keep_leases").unwrap_or(default.keep_leases),
    }
}

fn owned(found: Option<At<&str>>) -> Option<String> {
    found.map(|found| found.value.to_owned())
}
