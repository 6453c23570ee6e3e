//! Owns `secretfs demo`: the tour of the README, run for real in a folder of its own.
//! Does not know anything that a user could not type.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::failure::Failure;

/// `secretfs demo`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Leave the mount for you to explore, and say how to end it
    #[arg(long)]
    keep: bool,
}

/// Makes a store, mounts it, shows it, changes it under the mount, and takes everything away again.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let tour = Tour::new()?;
    let shown = tour.show();
    if arguments.keep && shown.is_ok() {
        return tour.leave();
    }
    let cleared = tour.clear();
    shown.and(cleared)
}

struct Tour {
    program: PathBuf,
    folder: PathBuf,
}

impl Tour {
    fn new() -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|e| Failure::io(format!("cannot find myself: {e}")))?;
        let folder = std::env::temp_dir().join(format!("secretfs-demo-{}", std::process::id()));
        // 0700: the example secrets are nobody's business either.
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|error| Failure::cannot("make", &folder, &error))?;
        let mount = folder.join("secrets");
        DirBuilder::new()
            .mode(0o700)
            .create(&mount)
            .map_err(|error| Failure::cannot("make", &mount, &error))?;
        Ok(Self { program, folder })
    }

    fn show(&self) -> Result<(), Failure> {
        say(
            "\n# An encrypted store with three secrets in it. The key is an age identity made for this demo.",
        );
        self.secretfs(&["store", "init", "store.age", "--identity", "identity"])?;
        self.secretfs(&["store", "put", "store.age", "api-key", "value=12345", "--identity", "identity"])?;
        let database = ["user=app", "password=correct horse battery staple", "port=5432"];
        self.secretfs(
            &[&["store", "put", "store.age", "team/database"], &database[..], &["--identity", "identity"]]
                .concat(),
        )?;
        self.secretfs(&[
            "store",
            "put",
            "store.age",
            "team/mail/smtp",
            "password=sesame",
            "--identity",
            "identity",
        ])?;
        say("\n# On disk it is ciphertext.");
        self.run("head", &["-c", "22", "store.age"])?;
        say("\n\n# Mounted, every secret is a directory and every field a file.");
        self.secretfs(&["mount", "store:store.age", "secrets", "--identity", "identity", "--daemon"])?;
        self.run("ls", &["-lR", "secrets"])?;
        say("\n# A program reads a file: exactly the bytes of the value, no newline added.");
        self.run("cat", &["secrets/api-key/value"])?;
        say("\n\n# A whole secret at one version, for programs that want it so.");
        self.run("cat", &["secrets/team/database/.json"])?;
        self.run("cat", &["secrets/team/database/.env"])?;
        say("\n# Somebody puts a new value. The mount shows it with the next open: no restart, no remount.");
        self.secretfs(&[
            "store",
            "put",
            "store.age",
            "api-key",
            "value=67890-rotated",
            "--identity",
            "identity",
        ])?;
        self.run("cat", &["secrets/api-key/value"])?;
        say("\n\n# Who serves this path? Never the value.");
        self.secretfs(&["explain", "secrets/api-key/value"])?;
        say("\n# The mount is read-only; a name that is not there is not there.");
        self.fails("sh", &["-c", "echo x > secrets/api-key/value"])?;
        self.fails("cat", &["secrets/api-key/nothing"])
    }

    fn leave(&self) -> Result<(), Failure> {
        let folder = self.folder.display();
        say(&format!("\n# Left for you in {folder}/secrets. When you have seen enough:"));
        say(&format!("secretfs unmount {folder}/secrets && rm -r {folder}"));
        Ok(())
    }

    fn clear(&self) -> Result<(), Failure> {
        let mount = self.folder.join("secrets");
        let mounted =
            crate::mounts::ours().unwrap_or_default().iter().any(|m| m.at.starts_with(&self.folder));
        if mounted {
            say("\n# And away.");
            self.secretfs(&["unmount", "secrets"])?;
        }
        std::fs::remove_dir(&mount).map_err(|error| Failure::cannot("remove", &mount, &error))?;
        std::fs::remove_dir_all(&self.folder).map_err(|error| Failure::cannot("remove", &self.folder, &error))
    }

    fn secretfs(&self, arguments: &[&str]) -> Result<(), Failure> {
        self.shown("secretfs", self.program.as_os_str(), arguments, true)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), Failure> {
        self.shown(program, OsStr::new(program), arguments, true)
    }

    fn fails(&self, program: &str, arguments: &[&str]) -> Result<(), Failure> {
        self.shown(program, OsStr::new(program), arguments, false)
    }

    /// Prints a command as one would type it and runs it in the demo's folder; it must end as expected.
    fn shown(&self, name: &str, program: &OsStr, arguments: &[&str], well: bool) -> Result<(), Failure> {
        let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
        say(&format!("$ {name} {}", words.join(" ")));
        let status = Command::new(program).args(arguments).current_dir(&self.folder).status();
        let status = status.map_err(|error| Failure::cannot("run", Path::new(program), &error))?;
        if status.success() == well {
            return Ok(());
        }
        let how = if well { "failed" } else { "should have failed" };
        Err(Failure::io(format!("the demo's `{name} {}` {how}", words.join(" "))))
    }
}

fn quoted(word: &str) -> String {
    if word.contains([' ', '>']) { format!("'{word}'") } else { word.to_owned() }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
