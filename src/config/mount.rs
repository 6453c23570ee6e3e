//! Owns `[mount]`: what holds for the whole mount, and every default, shared with the command line.
//! Does not know how to mount.

use std::path::PathBuf;
use std::time::Duration;

use toml_edit::Document;

use super::keys::Table;
use super::reader::Section;
use super::shape::{At, place, type_name};
use super::{Reading, units};

/// How long an answer of a backend is served, unless something else is said.
pub const DEFAULT_TTL: Duration = Duration::from_secs(60);
/// How much older than that it may become while the backend does not answer, unless something else is said.
pub const DEFAULT_MAX_STALE: Duration = Duration::from_secs(3600);
/// How long a denial is believed, unless something else is said.
pub const DEFAULT_NEGATIVE_TTL: Duration = Duration::from_secs(1);
/// How long a thread gets the fields of a secret from one version, unless something else is said.
pub const DEFAULT_PAIR_WINDOW: Duration = Duration::from_secs(2);
/// The longest wait for a backend, unless something else is said.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// Permissions of files, unless something else is said.
pub const DEFAULT_MODE: u32 = 0o400;
/// The largest value served, in bytes, unless something else is said.
pub const DEFAULT_MAX_VALUE_SIZE: u64 = 1 << 20;
/// What is kept in memory, in bytes, unless something else is said.
pub const DEFAULT_MAX_CACHE: u64 = 64 << 20;
/// Requests to one backend at once, unless something else is said.
pub const DEFAULT_MAX_IN_FLIGHT: u32 = 64;
/// Requests to one backend per second, unless something else is said.
pub const DEFAULT_MAX_RATE: u32 = 1000;

/// Crashes that are survived within a minute, unless something else is said.
pub const DEFAULT_MAX_CRASHES: u32 = 5;
/// How long the process that serves may be silent, unless something else is said.
pub const DEFAULT_WATCHDOG: Duration = Duration::from_secs(10);

/// What holds for the whole mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSettings {
    /// Where to mount; the command line may say it instead.
    pub mountpoint: Option<PathBuf>,
    /// Whether users other than the one who mounts may look.
    pub allow_other: bool,
    /// Owner shown; none is the user who mounts.
    pub uid: Option<u32>,
    /// Group shown; none is that of the user who mounts.
    pub gid: Option<u32>,
    /// Permissions of files; no bit of it writes or executes.
    pub mode: u32,
    /// How long an answer is served.
    pub ttl: Duration,
    /// How much older than `ttl` an answer may become while its backend does not answer; zero: not at all.
    pub max_stale: Duration,
    /// How long a denial is believed.
    pub negative_ttl: Duration,
    /// How long a thread gets the fields of a secret from one version; zero: not at all.
    pub pair_window: Duration,
    /// The longest wait for a backend.
    pub deadline: Duration,
    /// The largest value served, in bytes.
    pub max_value_size: u64,
    /// What is kept in memory, in bytes; not below `max_value_size`.
    pub max_cache: u64,
    /// Requests to one backend at once.
    pub max_in_flight: u32,
    /// Requests to one backend per second.
    pub max_rate: u32,
    /// Crashes of the process that serves that are survived within a minute.
    pub max_crashes: u32,
    /// One that does not answer for so long is replaced.
    pub watchdog: Duration,
}

impl Default for MountSettings {
    fn default() -> Self {
        Self {
            mountpoint: None,
            allow_other: false,
            uid: None,
            gid: None,
            mode: DEFAULT_MODE,
            ttl: DEFAULT_TTL,
            max_stale: DEFAULT_MAX_STALE,
            negative_ttl: DEFAULT_NEGATIVE_TTL,
            pair_window: DEFAULT_PAIR_WINDOW,
            deadline: DEFAULT_DEADLINE,
            max_value_size: DEFAULT_MAX_VALUE_SIZE,
            max_cache: DEFAULT_MAX_CACHE,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
            max_rate: DEFAULT_MAX_RATE,
            max_crashes: DEFAULT_MAX_CRASHES,
            watchdog: DEFAULT_WATCHDOG,
        }
    }
}

impl Reading<'_> {
    /// `[mount]`, with the defaults for what is not there or wrong; what is wrong is noted.
    pub(super) fn mount(&self, document: &Document<&str>) -> MountSettings {
        let mut mount = MountSettings::default();
        let Some((key, item)) = document.get_key_value("mount") else {
            return mount;
        };
        let at = place(key, item);
        let Some(table) = item.as_table_like() else {
            self.notes.add(at, format!("`mount`: expected a table [mount], found {}", type_name(item)));
            return mount;
        };
        let section = Section::new(self.notes, "[mount]".into(), at, table).knows(Table::Mount);
        section.refuse_unknown();
        mount.mountpoint = self.path(&section, "mountpoint").map(|(_, path)| path);
        mount.allow_other = section.switch("allow_other").unwrap_or(mount.allow_other);
        mount.uid = section.owner("uid", units::user);
        mount.gid = section.owner("gid", units::group);
        mount.mode = section.parsed("mode", units::mode).map_or(mount.mode, |found| found.value);
        mount.ttl = section.parsed("ttl", units::duration).map_or(mount.ttl, |found| found.value);
        let zero = |name, default| {
            section.parsed(name, units::duration_or_zero).map_or(default, |found: At<_>| found.value)
        };
        mount.max_stale = zero("max_stale", mount.max_stale);
        mount.pair_window = zero("pair_window", mount.pair_window);
        mount.negative_ttl =
            section.parsed("negative_ttl", units::duration).map_or(mount.negative_ttl, |found| found.value);
        mount.deadline =
            section.parsed("deadline", units::duration).map_or(mount.deadline, |found| found.value);
        mount.max_rate = section.count("max_rate").unwrap_or(mount.max_rate);
        mount.max_crashes = section.count("max_crashes").unwrap_or(mount.max_crashes);
        mount.watchdog =
            section.parsed("watchdog", units::duration).map_or(mount.watchdog, |found| found.value);
        mount.max_in_flight = section.count("max_in_flight").unwrap_or(mount.max_in_flight);
        let value_size = section.parsed("max_value_size", units::size);
        let cache = section.parsed("max_cache", units::size);
        mount.max_value_size = value_size.map_or(mount.max_value_size, |found| found.value);
        mount.max_cache = cache.map_or(mount.max_cache, |found| found.value);
        if mount.max_cache < mount.max_value_size
            && let Some(at) = cache.map(|found| found.at).or(value_size.map(|found| found.at))
        {
            section.refuse("max_cache", at, "this is below `max_value_size`; make it at least as large");
        }
        mount
    }
}
