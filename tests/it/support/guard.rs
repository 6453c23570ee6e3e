//! Owns servers that end with whoever started them: with their owner's value, and with the test process, however it goes.
//! Does not know which servers these are.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs the server, and stops it when its own standard input ends, as it does when nobody is left who could write to it. A scratch
/// folder that is still there then is removed: after a kill nobody else would.
const WRAPPER: &str = r#""$@" >"$GUARD_FOLDER/server.log" 2>&1 & child=$!; read gone
kill -s "$GUARD_SIGNAL" $child 2>/dev/null; wait $child; rm -rf "$GUARD_FOLDER""#;

/// A running server; dropping it stops the server and waits for its end.
pub struct Guard {
    wrapper: Child,
}

impl Guard {
    /// Starts a server that stays in the foreground. `signal` (`QUIT`) makes it stop at once, its own processes included. What it
    /// prints goes to `server.log` in `folder`, its scratch folder, which is removed after it.
    ///
    /// Fails with a reason where there is no shell; a server that does not start shows in its log.
    pub fn start(server: &Command, signal: &str, folder: &Path) -> Result<Self, String> {
        let mut command = Command::new("sh");
        command.args(["-c", WRAPPER, "sh"]).arg(server.get_program()).args(server.get_args());
        command.env("GUARD_FOLDER", folder).env("GUARD_SIGNAL", signal).current_dir("/");
        // A group of its own: Ctrl-C at a terminal would end the wrapper before it stops the server.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Ok(Self { wrapper: command.spawn().map_err(|e| format!("sh: {e}"))? })
    }

    /// The process that waits for the end; the server is its only child.
    pub fn id(&self) -> u32 {
        self.wrapper.id()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.wrapper.stdin.take());
        let _ = self.wrapper.wait();
    }
}
