//! Owns the spelling of single values: durations, sizes, modes, users and groups, paths of trees.
//! Does not know which key or option a value belongs to; the command line and the configuration file share it.

use std::time::Duration;

use crate::hooks::Signal;

/// The longest duration taken, so that adding one to any clock cannot overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Units that can be reloaded, or whose main process can get a signal.
const KINDS_OF_UNITS: [&str; 5] = ["service", "socket", "mount", "swap", "scope"];

/// Why a text is not the value that was asked for. Says what is expected and never holds the text:
/// somebody may have pasted a secret in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// Not `60s` or the like.
    #[error("expected a duration such as \"60s\" or \"1h 30m\"")]
    Duration,
    /// Zero, or so long that clocks overflow.
    #[error("expected a duration longer than zero and at most 365 days")]
    DurationRange,
    /// Not `60s` or the like, and not zero either.
    #[error("expected a duration such as \"60s\" or \"1h 30m\", at most 365 days, or 0")]
    DurationOrZero,
    /// Not `64MiB` or the like.
    #[error("expected a size such as \"64MiB\" (units B, KiB, MiB, GiB), at least one byte")]
    Size,
    /// Not octal, or above 0777.
    #[error("expected octal digits in quotes, at most \"0777\", such as \"0400\"")]
    Mode,
    /// Write or execute permission on files that can be neither written nor run.
    #[error("the mount is read-only and nothing in it can be run; use \"{use_instead:04o}\"")]
    ModeBits {
        /// The nearest mode that only reads.
        use_instead: u32,
    },
    /// Not a number that can own a file, and no name either.
    #[error("expected a user by name or number, such as \"app\" or 1000")]
    User,
    /// The system knows no such user.
    #[error("there is no user of this name on this system; create it or give its number")]
    UnknownUser,
    /// Not a number that can own a file, and no name either.
    #[error("expected a group by name or number, such as \"app\" or 1000")]
    Group,
    /// The system knows no such group.
    #[error("there is no group of this name on this system; create it or give its number")]
    UnknownGroup,
    /// Not a path of folders below the mountpoint.
    #[error(
        "expected a path such as \"/db\" (\"/\" is the whole mount), without empty, `.` or `..` segments"
    )]
    TreePath,
    /// A segment that the filesystem keeps for itself.
    #[error("`.json`, `.env` and `.meta` are names that every secret has; choose another")]
    ReservedName,
    /// A segment that no file system could show.
    #[error("a segment of a path is at most 255 bytes long")]
    LongName,
    /// Not where an auth method is mounted.
    #[error("expected where the auth method is mounted, such as \"approle\", without `auth/` in front")]
    AuthMount,
    /// No signal that tells a program something.
    #[error("expected one of the signals HUP, INT, QUIT, USR1, USR2, ALRM, TERM, WINCH, KILL in quotes")]
    Signal,
    /// Not the name of one unit, with its kind.
    #[error("expected a systemd unit with its ending, such as \"nginx.service\"")]
    Unit,
}

/// A duration of at least a nanosecond and at most 365 days, as humantime reads it: `60s`, `5m`, `1h 30m`.
pub fn duration(text: &str) -> Result<Duration, Bad> {
    // humantime's own error names the unit it did not know, which is a piece of the text
    let duration = humantime::parse_duration(text).map_err(|_| Bad::Duration)?;
    if duration.is_zero() || duration > LONGEST {
        return Err(Bad::DurationRange);
    }
    Ok(duration)
}

/// A duration as [`duration`] has it, or zero: `0`, `0s`.
pub fn duration_or_zero(text: &str) -> Result<Duration, Bad> {
    let duration = humantime::parse_duration(text).map_err(|_| Bad::DurationOrZero)?;
    if duration > LONGEST { Err(Bad::DurationOrZero) } else { Ok(duration) }
}

/// A number of bytes above zero: digits and `B`, `KiB`, `MiB` or `GiB`.
pub fn size(text: &str) -> Result<u64, Bad> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(Bad::Size)?;
    let (digits, unit) = text.split_at_checked(unit_at).ok_or(Bad::Size)?;
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(Bad::Size),
    };
    let number: u64 = digits.parse().map_err(|_| Bad::Size)?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0).ok_or(Bad::Size)
}

/// The permission bits of files: octal, and reading only.
pub fn mode(text: &str) -> Result<u32, Bad> {
    // from_str_radix alone would take a sign
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Bad::Mode);
    }
    let mode = u32::from_str_radix(text, 8).map_err(|_| Bad::Mode)?;
    if mode > 0o777 {
        return Err(Bad::Mode);
    }
    match mode & 0o444 {
        kept if kept == mode => Ok(mode),
        0 => Err(Bad::ModeBits { use_instead: 0o400 }),
        kept => Err(Bad::ModeBits { use_instead: kept }),
    }
}

/// A user's number, from a number or a name that this system knows.
pub fn user(text: &str) -> Result<u32, Bad> {
    number_or_name(text, Bad::User, || {
        uzers::get_user_by_name(text).map(|user| user.uid()).ok_or(Bad::UnknownUser)
    })
}

/// A group's number, from a number or a name that this system knows.
pub fn group(text: &str) -> Result<u32, Bad> {
    number_or_name(text, Bad::Group, || {
        uzers::get_group_by_name(text).map(|group| group.gid()).ok_or(Bad::UnknownGroup)
    })
}

/// Whether `number` can own a file. The largest is "no change" to chown(2) and names nobody.
pub(super) fn owner_number(number: i64) -> Option<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX)
}

/// The segments of a tree's path below the mountpoint; none for `/`. A leading slash is optional.
pub fn tree_path(text: &str) -> Result<Vec<String>, Bad> {
    if text == "/" {
        return Ok(Vec::new());
    }
    text.strip_prefix('/').unwrap_or(text).split('/').map(tree_segment).collect()
}

fn tree_segment(segment: &str) -> Result<String, Bad> {
    match segment {
        "" | "." | ".." => Err(Bad::TreePath),
        _ if segment.chars().any(char::is_control) => Err(Bad::TreePath),
        ".json" | ".env" | ".meta" => Err(Bad::ReservedName),
        _ if segment.len() > 255 => Err(Bad::LongName),
        _ => Ok(segment.to_owned()),
    }
}

/// Where an auth method of Vault is mounted: what follows `auth/`, without slashes around it.
pub fn auth_mount(text: &str) -> Result<String, Bad> {
    let mount = text.trim_matches('/');
    let good = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.chars().any(char::is_control);
    let given = mount.split('/').next() != Some("auth") && mount.split('/').all(good);
    if given { Ok(mount.to_owned()) } else { Err(Bad::AuthMount) }
}

/// A signal by its name, with or without `SIG`.
pub fn signal(text: &str) -> Result<Signal, Bad> {
    Signal::named(text).ok_or(Bad::Signal)
}

/// The name of one unit (systemd.unit(5)): no pattern of several, and nothing that reads as an option.
pub fn unit(text: &str) -> Result<String, Bad> {
    let sign = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    let good = text.len() <= 255 && !text.starts_with(['-', '.']) && text.bytes().all(sign);
    let named = text.rsplit_once('.').is_some_and(|(_, kind)| KINDS_OF_UNITS.contains(&kind));
    if good && named { Ok(text.to_owned()) } else { Err(Bad::Unit) }
}

fn number_or_name(text: &str, bad: Bad, named: impl FnOnce() -> Result<u32, Bad>) -> Result<u32, Bad> {
    if text.is_empty() {
        return Err(bad);
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().and_then(owner_number).ok_or(bad);
    }
    named()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("60"), Err(Bad::Duration));
        assert_eq!(duration("fast"), Err(Bad::Duration));
        assert_eq!(duration("0s"), Err(Bad::DurationRange));
        assert_eq!(duration("366days"), Err(Bad::DurationRange));
    }

    #[test]
    fn some_durations_may_be_zero() {
        for zero in ["0", "0s", "0h 0ms"] {
            assert_eq!(duration_or_zero(zero), Ok(Duration::ZERO), "{zero}");
        }
        assert_eq!(duration_or_zero("1h 30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "60", "never", "-1s", "366days"] {
            assert_eq!(duration_or_zero(bad), Err(Bad::DurationOrZero), "{bad}");
        }
    }

    #[test]
    fn signals_and_units_are_names() {
        assert_eq!(signal("HUP").map(Signal::name), Ok("HUP"));
        assert!(Signal::ALL.iter().all(|signal| Bad::Signal.to_string().contains(signal.name())));
        for good in ["nginx.service", "getty@tty1.service", "a-b_c:d\\x2d.mount"] {
            assert_eq!(unit(good).as_deref(), Ok(good));
        }
        let long = format!("{}.service", "a".repeat(256));
        for bad in
            ["", "nginx", "nginx.conf", "--help.service", ".service", "*.service", "a b.service", &long]
        {
            assert_eq!(unit(bad), Err(Bad::Unit), "{bad}");
        }
    }

    #[test]
    fn auth_mounts_are_paths_below_auth() {
        assert_eq!(auth_mount("approle").as_deref(), Ok("approle"));
        assert_eq!(auth_mount("/team/approle/").as_deref(), Ok("team/approle"));
        for bad in ["", "/", "auth/approle", "a//b", "..", "a/../b", "a\nb"] {
            assert_eq!(auth_mount(bad), Err(Bad::AuthMount), "{bad}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("1MiB"), Ok(1 << 20));
        assert_eq!(size("64 KiB"), Ok(64 << 10));
        assert_eq!(size("1B"), Ok(1));
        for bad in ["", "1", "MiB", "1MB", "1.5MiB", "-1MiB", "0MiB", "99999999999GiB", "1mib"] {
            assert_eq!(size(bad), Err(Bad::Size), "{bad}");
        }
    }

    #[test]
    fn modes_only_read() {
        assert_eq!(mode("0400"), Ok(0o400));
        assert_eq!(mode("444"), Ok(0o444));
        assert_eq!(mode("0000"), Ok(0));
        assert_eq!(mode("0640"), Err(Bad::ModeBits { use_instead: 0o440 }));
        assert_eq!(mode("0111"), Err(Bad::ModeBits { use_instead: 0o400 }));
        for bad in ["", "0o400", "+400", "8", "1777", "4400", "000000400", "rw"] {
            assert_eq!(mode(bad), Err(Bad::Mode), "{bad}");
        }
    }

    #[test]
    fn owners_are_names_or_numbers() {
        assert_eq!(user("root"), Ok(0));
        assert_eq!(user("1000"), Ok(1000));
        assert_eq!(user("4294967295"), Err(Bad::User));
        assert_eq!(user(""), Err(Bad::User));
        assert_eq!(user("no-such-user-here"), Err(Bad::UnknownUser));
        assert_eq!(user("ro\0ot"), Err(Bad::UnknownUser));
        assert_eq!(group("root"), Ok(0));
        assert_eq!(group("no-such-group-here"), Err(Bad::UnknownGroup));
    }

    #[test]
    fn tree_paths_are_plain_segments() {
        assert_eq!(tree_path("/"), Ok(vec![]));
        assert_eq!(tree_path("/db/main").unwrap(), ["db", "main"]);
        assert_eq!(tree_path("db").unwrap(), ["db"]);
        for bad in ["", "//", "/db/", "/a//b", "/./a", "/a/..", "/a\nb"] {
            assert_eq!(tree_path(bad), Err(Bad::TreePath), "{bad}");
        }
        assert_eq!(tree_path("/a/.json"), Err(Bad::ReservedName));
        assert_eq!(tree_path(&"a".repeat(256)), Err(Bad::LongName));
    }
}
