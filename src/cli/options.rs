//! Owns the `-o` options of mount(8): what they mean, and which are taken without effect.
//! Does not know what is mounted.

use std::time::Duration;

use super::failure::Failure;
use crate::config::units;

/// What `-o` said; `None` where it said nothing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    pub(super) allow_other: bool,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mode: Option<u32>,
    pub(super) ttl: Option<Duration>,
    pub(super) max_stale: Option<Duration>,
    pub(super) deadline: Option<Duration>,
}

/// Every option and what it takes. Those with [`Takes::Nothing`] but `allow_other` are how every mount of ours is made anyway.
const KNOWN: [(&str, Takes); 15] = [
    ("allow_other", Takes::Nothing),
    ("uid", Takes::Value),
    ("gid", Takes::Value),
    ("mode", Takes::Value),
    ("ttl", Takes::Value),
    ("max_stale", Takes::Value),
    ("deadline", Takes::Value),
    ("ro", Takes::Nothing),
    ("nosuid", Takes::Nothing),
    ("nodev", Takes::Nothing),
    ("noexec", Takes::Nothing),
    ("noatime", Takes::Nothing),
    ("default_permissions", Takes::Nothing),
    ("_netdev", Takes::Nothing),
    ("nofail", Takes::Nothing),
];

/// What no mount of ours can be.
const NEVER: [&str; 5] = ["rw", "suid", "dev", "exec", "atime"];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
}

impl MountOptions {
    /// Options as mount(8) has them: comma separated, `-o` several times, the last word counts.
    pub(super) fn parse(given: &[String]) -> Result<Self, Failure> {
        let mut options = Self::default();
        for option in given.iter().flat_map(|given| given.split(',')).filter(|option| !option.is_empty()) {
            options.take(option)?;
        }
        Ok(options)
    }

    /// Whether something is said about an option of this name: what it does, or why it cannot be.
    pub(super) fn knows(name: &str) -> bool {
        NEVER.contains(&name) || KNOWN.iter().any(|(known, _)| *known == name)
    }

    fn take(&mut self, option: &str) -> Result<(), Failure> {
        let (name, value) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        if NEVER.contains(&name) {
            return Err(Failure::usage(format!(
                "-o {name}: a mount of secrets is always ro,nosuid,nodev,noexec,noatime"
            )));
        }
        let Some((_, takes)) = KNOWN.iter().find(|(known, _)| *known == name) else {
            let name = name.escape_debug();
            return Err(Failure::usage(format!(
                "-o {name}: there is no such option; {}",
                nearest(&name.to_string())
            )));
        };
        let value = match (takes, value) {
            (Takes::Value, Some(value)) => value,
            (Takes::Nothing, None) => "",
            (Takes::Value, None) => {
                return Err(Failure::usage(format!("-o {name} needs a value: -o {name}=...")));
            }
            (Takes::Nothing, Some(_)) => return Err(Failure::usage(format!("-o {name} takes no value"))),
        };
        let wrong = |bad: units::Bad| Failure::usage(format!("-o {name}: {bad}"));
        match name {
            "allow_other" => self.allow_other = true,
            "uid" => self.uid = Some(units::user(value).map_err(wrong)?),
            "gid" => self.gid = Some(units::group(value).map_err(wrong)?),
            "mode" => self.mode = Some(units::mode(value).map_err(wrong)?),
            "ttl" => self.ttl = Some(units::duration(value).map_err(wrong)?),
            "max_stale" => self.max_stale = Some(units::duration_or_zero(value).map_err(wrong)?),
            "deadline" => self.deadline = Some(units::duration(value).map_err(wrong)?),
            _ => {}
        }
        Ok(())
    }
}

fn nearest(name: &str) -> String {
    let close = KNOWN.iter().map(|(known, _)| (strsim::damerau_levenshtein(known, name), known));
    match close.min().filter(|(distance, _)| *distance <= (name.len() / 2).min(3)) {
        Some((_, known)) => format!("did you mean `{known}`?"),
        None => format!("there are {}", KNOWN.map(|(known, _)| known).join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountOptions, String> {
        MountOptions::parse(&[text.to_owned()]).map_err(|failure| failure.to_string())
    }

    #[test]
    fn options_are_those_of_mount() {
        let options = parse("ro,allow_other,uid=1000,mode=0440,ttl=5m,nosuid").unwrap();
        assert_eq!((options.allow_other, options.uid, options.mode), (true, Some(1000), Some(0o440)));
        assert_eq!(options.ttl, Some(Duration::from_secs(300)));
        assert_eq!(parse("max_stale=0").unwrap().max_stale, Some(Duration::ZERO));
        assert_eq!(parse(""), Ok(MountOptions::default()));
    }

    #[test]
    fn wrong_options_say_what_to_write() {
        assert_eq!(
            parse("allow_othr").unwrap_err(),
            "-o allow_othr: there is no such option; did you mean `allow_other`?"
        );
        assert_eq!(parse("uid").unwrap_err(), "-o uid needs a value: -o uid=...");
        assert_eq!(parse("ro=1").unwrap_err(), "-o ro takes no value");
        assert!(parse("rw").unwrap_err().contains("always ro"));
        assert!(parse("max_stale=long").unwrap_err().ends_with("or 0"));
        assert!(parse("mode=0777").unwrap_err().starts_with("-o mode: "));
    }
}
