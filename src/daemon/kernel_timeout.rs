//! Owns the comparison of our deadline with the time after which the kernel gives up on a FUSE filesystem.
//! Does not know how a request is answered in time.

use std::path::Path;
use std::time::Duration;

/// Linux 6.15 and later: Documentation/admin-guide/sysctl/fs.rst, seconds, 0 for none.
const SETTINGS: &str = "/proc/sys/fs/fuse";

/// What the system administrator has set; zero is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Limits {
    /// `fs.fuse.default_request_timeout`: for a filesystem that asks for no other, as ours.
    default: u64,
    /// `fs.fuse.max_request_timeout`: for all.
    most: u64,
}

/// What to warn of before a mount: that the kernel may end it because we take as long as the deadline allows for an answer.
pub(super) fn warning(deadline: Duration) -> Option<String> {
    let read = |name: &str| {
        let text = std::fs::read_to_string(Path::new(SETTINGS).join(name)).ok()?;
        text.trim().parse().ok()
    };
    let limits = Limits {
        default: read("default_request_timeout").unwrap_or(0),
        most: read("max_request_timeout").unwrap_or(0),
    };
    limits.warning(deadline)
}

impl Limits {
    /// The one that ends a mount first, by its name.
    fn shortest(self) -> Option<(&'static str, u64)> {
        let default = ("fs.fuse.default_request_timeout", self.default);
        let most = ("fs.fuse.max_request_timeout", self.most);
        [default, most].into_iter().filter(|(_, seconds)| *seconds > 0).min_by_key(|(_, seconds)| *seconds)
    }

    /// As long as the deadline is too short: an answer is sent at the deadline, not before.
    fn warning(self, deadline: Duration) -> Option<String> {
        let (name, seconds) = self.shortest()?;
        (Duration::from_secs(seconds) <= deadline).then(|| {
            let deadline = deadline.as_secs_f64();
            format!(
                "the kernel may end this mount while a backend is slow: {name} is {seconds} s, and the deadline {deadline} s; \
                 set it to 0 or above the deadline and mount again (`sysctl -w {name}=0`), or set a shorter deadline"
            )
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn warned(default: u64, most: u64, deadline: u64) -> Option<String> {
        Limits { default, most }.warning(Duration::from_secs(deadline))
    }

    #[test]
    fn a_kernel_that_is_more_patient_than_we_are_is_nothing_to_warn_of() {
        for (default, most) in [(0, 0), (60, 0), (0, 60), (60, 60), (6, 600)] {
            assert_eq!(warned(default, most, 5), None, "{default} {most}");
        }
    }

    #[test]
    fn the_shorter_of_two_is_named_with_what_to_set() {
        let shortest = [
            (2, 0, "fs.fuse.default_request_timeout is 2 s, and the deadline 5 s"),
            (5, 0, "fs.fuse.default_request_timeout is 5 s"),
            (0, 3, "fs.fuse.max_request_timeout is 3 s"),
            (60, 3, "fs.fuse.max_request_timeout is 3 s"),
            (3, 4, "fs.fuse.default_request_timeout is 3 s"),
        ];
        for (default, most, says) in shortest {
            let text = warned(default, most, 5).unwrap();
            assert!(text.contains(says) && text.contains("sysctl -w fs.fuse."), "{text}");
        }
    }
}
