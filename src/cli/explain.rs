//! Owns `secretfs explain`: finds the mount a path lies in and asks it.
//! Does not know how the mount knows; it asks through an extended attribute, so file permissions apply.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::failure::Failure;
use super::in_mount::InMount;
use super::output;
use crate::errno;

/// Longest name of an extended attribute (XATTR_NAME_MAX, linux/limits.h).
const XATTR_NAME_MAX: usize = 255;
/// Room for the answer: a dozen lines, two paths of 4 KiB among them.
const ANSWER_MAX: usize = 64 * 1024;

/// `secretfs explain PATH`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// A path in a mount, whether it is there or not
    path: PathBuf,
}

/// Prints what the mount says of a path. A path that cannot be read is an answer, not a failure.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let InMount { mount, below } = InMount::of(&arguments.path)?;
    let mut text = format!("mount: {}\nsource: {}\n", mount.at.display(), mount.source);
    text.push_str(&asked(&mount.at, &below)?);
    output::print(text.as_bytes())
}

/// The answer for the deepest name on the way that can be asked about: the first that is not there, or the last; for no
/// name that of the mount's root.
fn asked(mount: &Path, below: &Path) -> Result<String, Failure> {
    let mut parent = mount.to_owned();
    let mut names = below.components().peekable();
    while let Some(Component::Normal(name)) = names.next() {
        let here = parent.join(name);
        let is_last = names.peek().is_none();
        if is_last || !here.is_dir() {
            let text = ask_about(&parent, name)?;
            return Ok(if !is_last && here.is_file() { below_a_file(&text) } else { text });
        }
        parent = here;
    }
    ask(mount, b"user.secretfs.explain")
}

/// The answer about a file, made one about something below it, which cannot be.
fn below_a_file(text: &str) -> String {
    let failure = errno::Failure::NotADirectory;
    let known = text.lines().filter(|line| !line.starts_with("readable: "));
    let readable = format!("readable: no: {} ({failure})", failure.errno().name());
    known.chain([readable.as_str()]).fold(String::new(), |text, line| text + line + "\n")
}

fn ask_about(parent: &Path, name: &OsStr) -> Result<String, Failure> {
    let attribute = [b"user.secretfs.explain.", name.as_bytes()].concat();
    if attribute.len() > XATTR_NAME_MAX {
        return Err(Failure::usage(format!(
            "the name `{}` is too long to be asked about (233 bytes at most)",
            name.to_string_lossy().escape_debug()
        )));
    }
    ask(parent, &attribute)
}

fn ask(directory: &Path, attribute: &[u8]) -> Result<String, Failure> {
    let mut buffer = vec![0; ANSWER_MAX];
    let length = rustix::fs::getxattr(directory, attribute, &mut buffer[..])
        .map_err(|error| Failure::cannot("ask about names in", directory, &error.into()))?;
    buffer.truncate(length);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}
