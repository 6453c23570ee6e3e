//! Owns `mount.fuse.secretfs`, what mount(8) runs for the type `fuse.secretfs`: its arguments, as `secretfs mount` has them,
//! and its exit codes. Does not know how a mount is made.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::background;
use super::failure::Failure;
use super::options::MountOptions;
use crate::mounts::SOURCE_PREFIX;

/// What the program is called when mount(8) runs it: mount(8), EXTERNAL HELPERS.
const NAME: &str = "mount.fuse.secretfs";

/// Options of mount(8) and fstab(5) that say when and by whom something is mounted, or what changes nothing about a mount of
/// ours; mount.fuse(8) keeps the same away from its programs. `rw` is in what mount(8) passes where nobody has said `ro`.
const NOT_FOR_US: [&str; 31] = [
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "async",
    "sync",
    "dirsync",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "symfollow",
    "nosymfollow",
    "comment",
];
/// Options that are arguments of `secretfs mount` of the same name.
const ARGUMENTS: [&str; 2] = ["identity", "passphrase_file"];

/// What mount(8) asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    places: Vec<OsString>,
    options: Vec<String>,
    /// `-f`: everything but the mount.
    fake: bool,
    /// `-s`: what is not known is left out.
    sloppy: bool,
    verbose: bool,
}

/// Whether this program was called as the helper of mount(8), by its first argument.
pub(super) fn is_meant(argv0: Option<&OsStr>) -> bool {
    argv0.is_some_and(|name| Path::new(name).file_name() == Some(OsStr::new(NAME)))
}

/// Mounts in the background as `secretfs mount --daemon` does.
pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let request = Request::parse(arguments)?;
    let arguments = request.arguments()?;
    if request.verbose {
        let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
        let _ = writeln!(std::io::stdout(), "{NAME}: secretfs mount --daemon {}", words.join(" "));
    }
    if request.fake { Ok(()) } else { background::start(OsStr::new("mount"), arguments) }
}

/// The exit code of mount(8) for a failure: 1 wrong use or no permission, 2 a failure of the system, 32 no mount.
pub(super) fn exit_code(failure: &Failure) -> u8 {
    match failure.code() {
        64 | 77 => 1,
        74 => 2,
        _ => 32,
    }
}

impl Request {
    /// `SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`.
    fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, Failure> {
        let mut request = Self::default();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let Some(letters) = argument.as_bytes().strip_prefix(b"-").filter(|rest| !rest.is_empty()) else {
                request.places.push(argument);
                continue;
            };
            for letter in letters {
                match letter {
                    b's' => request.sloppy = true,
                    b'f' => request.fake = true,
                    b'v' => request.verbose = true,
                    // There is no /etc/mtab to leave out.
                    b'n' => {}
                    b'o' => {
                        let text = value(&mut arguments, "-o")?.into_string();
                        let text = text.map_err(|_| Failure::usage("-o: options are not valid UTF-8"))?;
                        request.options.push(text);
                    }
                    b't' => {
                        if value(&mut arguments, "-t")? != "fuse.secretfs" {
                            return Err(Failure::usage("-t: the type is fuse.secretfs"));
                        }
                    }
                    // Its files would be looked for where the mount is to be, and whoever lives there could exchange them.
                    b'N' => {
                        return Err(Failure::usage(
                            "-N is not supported: run mount in that namespace, with nsenter(1)",
                        ));
                    }
                    _ => return Err(Failure::usage(usage())),
                }
            }
        }
        Ok(request)
    }

    /// The arguments of `secretfs mount`.
    fn arguments(&self) -> Result<Vec<OsString>, Failure> {
        let [source, at] = self.places.as_slice() else { return Err(Failure::usage(usage())) };
        let mut arguments = Vec::new();
        let mut ours = Vec::new();
        for option in self.options.iter().flat_map(|options| options.split(',')) {
            let (name, value) =
                option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            let is_comment = name.starts_with("x-") || name.starts_with("X-");
            if is_comment || NOT_FOR_US.contains(&name) {
                continue;
            }
            match value {
                _ if name == "remount" => {
                    return Err(Failure::usage("-o remount: unmount it and mount it again instead"));
                }
                Some(value) if ARGUMENTS.contains(&name) => {
                    arguments.push(format!("--{}={value}", name.replace('_', "-")).into());
                }
                _ if self.sloppy && !MountOptions::knows(name) => {}
                _ => ours.push(option),
            }
        }
        // Here already, so that `mount -f` checks them.
        let ours = ours.join(",");
        MountOptions::parse(std::slice::from_ref(&ours))?;
        if !ours.is_empty() {
            arguments.extend(["-o".into(), ours.into()]);
        }
        // As the mount table shows it: written like this in fstab, `mount -a` sees that it is mounted already.
        let bytes = source.as_bytes();
        let source = OsStr::from_bytes(bytes.strip_prefix(SOURCE_PREFIX.as_bytes()).unwrap_or(bytes));
        let is_source =
            ["vault:", "aws:", "store:"].iter().any(|kind| source.as_bytes().starts_with(kind.as_bytes()));
        if Path::new(source).is_absolute() {
            arguments.extend(["--config".into(), source.to_owned(), "--".into(), at.clone()]);
        } else if is_source {
            arguments.extend(["--".into(), source.to_owned(), at.clone()]);
        } else {
            return Err(Failure::usage(format!(
                "`{}` is no source: write vault:ENGINE[/PREFIX], aws:[NAME-PREFIX], store:FILE or the absolute path of a configuration",
                source.to_string_lossy().escape_debug()
            )));
        }
        Ok(arguments)
    }
}

fn value(arguments: &mut impl Iterator<Item = OsString>, option: &str) -> Result<OsString, Failure> {
    arguments.next().ok_or_else(|| Failure::usage(format!("{option} needs a value")))
}

fn usage() -> String {
    format!(
        "usage: {NAME} SOURCE DIRECTORY [-sfnv] [-o OPTIONS]; mount(8) calls it for the type fuse.secretfs"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Result<String, String> {
        let request = Request::parse(words.iter().map(OsString::from));
        let arguments =
            request.and_then(|request| request.arguments()).map_err(|failure| failure.to_string())?;
        Ok(arguments.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn it_is_told_by_its_name() {
        for name in ["mount.fuse.secretfs", "/sbin/mount.fuse.secretfs"] {
            assert!(is_meant(Some(OsStr::new(name))));
        }
        for name in ["secretfs", "/sbin/mount.fuse", "/mount.fuse.secretfs/secretfs", ""] {
            assert!(!is_meant(Some(OsStr::new(name))), "{name}");
        }
        assert!(!is_meant(None));
    }

    #[test]
    fn a_source_and_a_configuration_become_a_mount() {
        assert_eq!(arguments(&["vault:secret", "/m", "-o", "rw"]).unwrap(), "-- vault:secret /m");
        let config = ["/etc/secretfs/config.toml", "/m", "-n", "-o", "rw,allow_other,uid=3"];
        assert_eq!(
            arguments(&config).unwrap(),
            "-o allow_other,uid=3 --config /etc/secretfs/config.toml -- /m"
        );
        let store = ["secretfs#store:/s.age", "/m", "-o", "rw,identity=/i,nofail"];
        assert_eq!(arguments(&store).unwrap(), "--identity=/i -- store:/s.age /m");
        assert!(arguments(&["config.toml", "/m"]).unwrap_err().contains("is no source"));
        assert!(arguments(&["vault:secret"]).unwrap_err().starts_with("usage: "));
    }

    #[test]
    fn what_is_for_mount_itself_is_taken_and_what_is_unknown_is_named() {
        let theirs = "rw,defaults,noauto,nofail,_netdev,user,nosuid,nodev,noexec,noatime,ro,x-systemd.requires=a,X-b,comment=c";
        let passed = arguments(&["aws:", "/m", "-o", theirs]).unwrap();
        assert_eq!(passed, "-o nosuid,nodev,noexec,noatime,ro -- aws: /m");
        let unknown = ["aws:", "/m", "-o", "rw,allow_othr"];
        assert!(arguments(&unknown).unwrap_err().starts_with("-o allow_othr: there is no such option"));
        assert_eq!(arguments(&["aws:", "/m", "-sv", "-o", "canary=1,ro"]).unwrap(), "-o ro -- aws: /m");
        for (wrong, says) in
            [("exec", "always ro"), ("ttl=never", "-o ttl: "), ("remount,ro", "-o remount: ")]
        {
            assert!(arguments(&["aws:", "/m", "-s", "-o", wrong]).unwrap_err().contains(says), "{wrong}");
        }
        assert!(arguments(&["aws:", "/m", "-N", "/proc/1/ns/mnt"]).unwrap_err().contains("nsenter"));
        assert!(arguments(&["aws:", "/m", "-o"]).unwrap_err().contains("needs a value"));
        assert!(arguments(&["aws:", "/m", "-x"]).unwrap_err().starts_with("usage: "));
        assert!(arguments(&["aws:", "/m", "-t", "fuse.sshfs"]).is_err());
    }

    #[test]
    fn exit_codes_are_those_of_mount() {
        let codes = [
            (Failure::usage(""), 1),
            (Failure::permission(""), 1),
            (Failure::io(""), 2),
            (Failure::configuration(""), 32),
            (Failure::no_input(""), 32),
            (Failure::told(71), 32),
        ];
        for (failure, code) in codes {
            assert_eq!(exit_code(&failure), code, "{}", failure.code());
        }
    }
}
