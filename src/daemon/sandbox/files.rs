//! Owns what a worker may do with files, ports and sockets of others: the rules for Landlock (landlock(7)).
//! Does not know which files a backend names.
//!
//! A rule of Landlock holds for an inode and all that is below it. A file that is replaced by a rename is another inode, so it
//! is its folder that must be named.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    make_bitflags, path_beneath_rules,
};

use super::Rules;
use crate::daemon::way::way;

/// What may be read on every machine. Folders, because most of what is in them is replaced by renames.
pub(super) const MACHINE: [&str; 15] = [
    // resolv.conf, hosts, nsswitch.conf, gai.conf and the authorities that vouch for servers
    "/etc",
    // the C library's own parts (libnss_*.so, which it loads when a name is looked up), authorities, time zones
    "/usr",
    "/lib",
    "/lib64",
    // where NixOS keeps both
    "/nix/store",
    // where SUSE keeps authorities
    "/var/lib/ca-certificates",
    // the status of a caller, the mount table, settings of the kernel
    "/proc",
    // how many processors there are, and how many of them are ours
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/urandom",
    // name lookup by a service: its configuration, its answers in shared memory, its socket
    "/run/systemd/resolve",
    "/run/nscd",
    "/var/cache/nscd",
    "/var/lib/sss",
];

/// Where the C library may ask a service for the address of a name.
const SERVICES: [&str; 3] = ["/run/systemd/resolve", "/run/nscd", "/var/lib/sss/pipes"];

/// The newest rules that are known here, whatever the kernel knows of them.
const NEWEST: ABI = ABI::V10;

const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
const SOCKETS: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadDir | MakeSock | RemoveFile | ResolveUnix});

/// What must be named so that a file can be read, and another that takes its place.
///
/// - The folder that it lies in when every link is followed; for a file in `/`, the file itself, which then cannot be replaced.
/// - The folder of every link on the way that leads to something below that same folder: such a link is there to be turned to
///   the next set of files, as Kubernetes does with `..data`. Links out of their folder belong to the machine (`/var/run`), and
///   folders like /home hold more than what was named, so those do not count.
/// - A folder itself where one was named.
///
/// A folder that is not there yet cannot be named, and the one above it would allow more than was asked for: then the file is
/// seen by the next worker that is started.
pub(super) fn places(file: &Path) -> Vec<PathBuf> {
    let way = way(file);
    let links = way.links.into_iter().filter(|link| link.inward && link.folder.components().count() > 2);
    let mut places: Vec<PathBuf> = links.map(|link| link.folder).collect();
    let root = Path::new("/");
    if let Some(end) = way.folders.last().filter(|end| *end != root) {
        let folder = end.parent().filter(|folder| *folder != root && !end.is_dir());
        places.push(folder.unwrap_or(end).to_owned());
    }
    places
}

/// Which of the measures hold.
pub(super) struct Restricted {
    pub(super) files: Result<(), String>,
    pub(super) ports: Result<(), String>,
    pub(super) abstract_sockets: Result<(), String>,
    pub(super) socket_files: Result<(), String>,
}

/// Restricts this thread, and those that it will start, to the rules.
pub(super) fn restrict(rules: &Rules) -> Restricted {
    let why_not = |why: String| Restricted {
        files: Err(why.clone()),
        ports: Err(why.clone()),
        abstract_sockets: Err(why.clone()),
        socket_files: Err(why),
    };
    let status = match apply(rules) {
        Ok(status) => status,
        Err(error) => return why_not(error.to_string()),
    };
    let known = match status.landlock {
        LandlockStatus::NotEnabled => return why_not("turned off when the system was started".to_owned()),
        LandlockStatus::NotImplemented => return why_not("not in this kernel".to_owned()),
        LandlockStatus::Available { effective_abi, .. } => effective_abi,
    };
    if status.ruleset == RulesetStatus::NotEnforced {
        return why_not("the system does not hold to it".to_owned());
    }
    let since = |abi, linux: &str| {
        if known >= abi { Ok(()) } else { Err(format!("needs Linux {linux}")) }
    };
    Restricted {
        files: Ok(()),
        ports: since(ABI::V4, "6.7"),
        abstract_sockets: since(ABI::V6, "6.12"),
        socket_files: since(ABI::V9, "7.1"),
    }
}

fn apply(rules: &Rules) -> Result<RestrictionStatus, RulesetError> {
    let reading = rules.read.iter().map(PathBuf::as_path);
    let services = SERVICES.iter().map(Path::new);
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        // Connections out are what a worker is for, whatever the port; UDP is how names are looked up.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(reading, READ))?
        .add_rules(path_beneath_rules(services, AccessFs::ResolveUnix))?
        .add_rules(rules.write.iter().filter_map(|folder| {
            let folder = PathFd::new(folder).ok()?;
            Some(Ok::<_, RulesetError>(PathBeneath::new(folder, SOCKETS)))
        }))?
        .restrict_self()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_and_what_takes_its_place_are_followed_and_nothing_wider() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().canonicalize().unwrap();
        let path = |name: &str| folder.join(name);
        for name in ["token/..2024", "elsewhere", "home"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        // As Kubernetes lays out a volume.
        symlink("..2024", path("token/..data")).unwrap();
        symlink("..data/token", path("token/token")).unwrap();
        assert_eq!(places(&path("token/token")), [path("token"), path("token"), path("token/..2024")]);
        // A link out of its folder: what it leads to, but not what lies beside it.
        symlink(path("elsewhere/file"), path("home/out")).unwrap();
        assert_eq!(places(&path("home/out")), [path("elsewhere")]);
        symlink("../elsewhere", path("home/up")).unwrap();
        assert_eq!(places(&path("home/up/file")), [path("elsewhere")]);
        // A plain file that is there, one that is not, and a folder.
        std::fs::write(path("home/file"), "").unwrap();
        assert_eq!(places(&path("home/file")), [path("home")]);
        assert_eq!(places(&path("home/none")), [path("home")]);
        assert_eq!(places(&path("home")), [path("home")]);
        assert_eq!(places(&path("none/none")), [path("none")], "which is not there: no rule comes of it");
    }

    #[test]
    fn the_root_folder_is_never_named() {
        assert_eq!(places(Path::new("/canary-file")), [Path::new("/canary-file")]);
        assert!(places(Path::new("/")).is_empty());
        assert!(!places(Path::new("/var/run/none/none")).contains(&PathBuf::from("/var")));
        assert!(!places(Path::new("/bin/sh")).contains(&PathBuf::from("/")), "a link in the root folder");
    }
}
