//! Owns the promises to programs that watch files of a mount with inotify: what they are told, when, and at whose cost.

mod events;
mod unmount;

/// The events of a change of one file, as those who watch `at` get them.
fn written(at: &str) -> [String; 3] {
    ["MODIFY", "ATTRIB", "CLOSE_WRITE"].map(|event| format!("{at} {event}"))
}
