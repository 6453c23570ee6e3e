//! Owns the promises to programs that watch files of a mount with inotify: what they are told, when, and at whose cost.

mod events;
mod rotations;
mod unmount;

/// The events of a change of one file, as those who watch `at` get them.
fn written(at: &str) -> [String; 3] {
    ["MODIFY", "ATTRIB", "CLOSE_WRITE"].map(|event| format!("{at} {event}"))
}

/// Whether the program can tell of changes here: it needs the right to mount.
fn can_tell() -> Result<(), String> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err("not root".into()) }
}
