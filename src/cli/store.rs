//! Owns the commands `secretfs store ...`: what each does to the file, and what it prints.
//! Does not know the file's format, its encryption or its locks.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::edit::Desk;
use super::environment::Environment;
pub use super::failure::Failure;
use super::import::{Secrets, read as import};
use super::key_values;
pub use super::show::Format;
use super::show::{get, list, no_secret};
pub use super::store_key::KeyOptions;
use crate::backend::store::{
    Document, FileError, Key, SecretPath, change, create, is_recipient, load, parse_fields, pretty_fields,
};

/// Keep secrets in one encrypted file.
// No `Debug`: the fields of `put` are secret.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make an empty store
    Init {
        /// The store to make; nothing is ever overwritten
        file: PathBuf,
        /// Who else can read it, as an age public key (age1...); may be given several times
        #[arg(long = "recipient", value_name = "AGE1...", conflicts_with_all = ["passphrase", "passphrase_file"])]
        recipients: Vec<String>,
        /// Encrypt with a passphrase, which is asked for
        #[arg(long, conflicts_with_all = ["identity", "passphrase_file"])]
        passphrase: bool,
        /// What opens it
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Put a secret: all its fields, as a new version
    Put {
        /// The store
        file: PathBuf,
        /// The secret, like team/api-key
        path: String,
        /// KEY=VALUE, KEY=@FILE, KEY=- (standard input), KEY=\@TEXT; or a JSON object in @FILE or -
        #[arg(required = true, value_name = "KEY=VALUE")]
        fields: Vec<OsString>,
        /// What opens it
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Show a secret
    Get {
        /// The store
        file: PathBuf,
        /// The secret
        path: String,
        /// Only this field: its exact bytes, nothing added
        #[arg(long, value_name = "KEY", conflicts_with = "format")]
        field: Option<String>,
        /// How the fields are shown
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
        /// What opens it
        #[command(flatten)]
        key: KeyOptions,
    },
    /// List secrets, and folders with a slash
    Ls {
        /// The store
        file: PathBuf,
        /// The folder [default: the root]
        prefix: Option<String>,
        /// What opens it
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Remove a secret
    Rm {
        /// The store
        file: PathBuf,
        /// The secret
        path: String,
        /// What opens it
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Edit a secret as JSON in $VISUAL or $EDITOR; the text is never on disk
    Edit {
        /// The store
        file: PathBuf,
        /// The secret; a new one is made when there is none
        path: String,
        /// What opens it
        #[command(flatten)]
        key: KeyOptions,
    },
    /// Put many secrets from JSON {"path": {"key": "value"}}, or one from a .env file
    Import {
        /// The store
        file: PathBuf,
        /// The file to read, or - for standard input
        source: PathBuf,
        /// Where the keys of a .env file go [default: the file's name without .env]
        #[arg(long)]
        path: Option<String>,
        /// What opens it
        #[command(flatten)]
        key: KeyOptions,
    },
}

/// Does what the command says.
pub fn run(command: Command, environment: &Environment) -> Result<(), Failure> {
    match command {
        Command::Init { file, recipients, passphrase, key } => {
            init(&file, recipients, passphrase, &key, environment)
        }
        Command::Put { file, path, fields, key } => {
            let path = SecretPath::parse(&path)?;
            let fields = key_values::fields(&fields)?;
            put(&file, &key.load(&file, environment)?, vec![(path, fields)])
        }
        Command::Get { file, path, field, format, key } => {
            let path = SecretPath::parse(&path)?;
            let (_, document) = load(&file, &key.load(&file, environment)?)?;
            get(&document, &path, field.as_deref(), format)
        }
        Command::Ls { file, prefix, key } => {
            let (_, document) = load(&file, &key.load(&file, environment)?)?;
            list(&document, prefix.as_deref().unwrap_or_default())
        }
        Command::Rm { file, path, key } => {
            let path = SecretPath::parse(&path)?;
            change(&file, &key.load(&file, environment)?, |document| {
                if document.remove(&path) { Ok(()) } else { Err(no_secret(&path)) }
            })
        }
        Command::Edit { file, path, key } => {
            let path = SecretPath::parse(&path)?;
            edit(&file, &key.load(&file, environment)?, path, environment)
        }
        Command::Import { file, source, path, key } => {
            let secrets = import(&source, path.as_deref())?;
            put(&file, &key.load(&file, environment)?, secrets)
        }
    }
}

fn init(
    file: &Path,
    others: Vec<String>,
    ask_passphrase: bool,
    key: &KeyOptions,
    environment: &Environment,
) -> Result<(), Failure> {
    // Not shown in the message: somebody may have pasted the secret key instead.
    if let Some(at) = others.iter().position(|text| !is_recipient(text)) {
        return Err(Failure::usage(format!("recipient {} is not an age public key (age1...)", at + 1)));
    }
    if file.symlink_metadata().is_ok() {
        return Err(FileError::Exists(file.to_owned()).into());
    }
    let (key, made) = key.make(ask_passphrase, environment)?;
    if let Some(identity) = made {
        let identity = identity.display();
        notice(&format!(
            "made a new identity: {identity}\nkeep a copy of it: without it nobody can read the store"
        ));
    }
    let mut recipients = key.public_keys();
    for other in others {
        if !recipients.contains(&other) {
            recipients.push(other);
        }
    }
    Ok(create(file, &Document::new(recipients), &key)?)
}

fn put(file: &Path, key: &Key, secrets: Secrets) -> Result<(), Failure> {
    change(file, key, |document| {
        for (path, fields) in secrets {
            document.put(path, fields, SystemTime::now());
        }
        Ok(())
    })
}

fn edit(file: &Path, key: &Key, path: SecretPath, environment: &Environment) -> Result<(), Failure> {
    let (_, document) = load(file, key)?;
    let kept = document.get(path.as_str());
    let version = kept.map(|kept| kept.version);
    let before = pretty_fields(kept.map_or(&[], |kept| &kept.fields));
    let before = before.map_err(|_| Failure::data("a field cannot be written as JSON"))?;
    drop(document);

    let desk = Desk::lay(&before, environment)?;
    let text = loop {
        let text = desk.edit(environment)?;
        if text.expose() == before.as_slice() {
            notice("nothing was changed");
            return Ok(());
        }
        let why = match parse_fields(text.expose()) {
            Ok(fields) if !fields.is_empty() => break text,
            Ok(_) => "a secret has at least one field (`secretfs store rm` removes it)".to_owned(),
            Err(bad) => bad.to_string(),
        };
        if !agreed(&format!("{why}. Edit again?"), true)? {
            return Err(Failure::data(format!("{why}; nothing was changed")));
        }
    };
    let mut overwrite = false;
    loop {
        let fields = parse_fields(text.expose()).map_err(|bad| Failure::data(bad.to_string()))?;
        let mut conflict = false;
        let done = change(file, key, |document| {
            conflict = !overwrite && document.get(path.as_str()).map(|kept| kept.version) != version;
            if conflict {
                return Err(Failure::io(format!(
                    "{path} was changed by another writer meanwhile: edit it again"
                )));
            }
            document.put(path.clone(), fields, SystemTime::now());
            Ok(())
        });
        let Err(failure) = done else { return Ok(()) };
        let question = if conflict {
            format!("{path} was changed by another writer meanwhile. Replace it?")
        } else {
            format!("{failure}. Try again?")
        };
        // What was typed is lost with a no, so only the loss of another's work is not the habit.
        if !agreed(&question, !conflict)? {
            return Err(failure);
        }
        overwrite |= conflict;
    }
}

/// A question at the terminal; without one the answer is no.
fn agreed(question: &str, unless_told: bool) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(false);
    }
    let choice = if unless_told { "[Y/n]" } else { "[y/N]" };
    let mut answer = String::new();
    let asked = write!(std::io::stderr(), "{question} {choice} ");
    let read = asked.and_then(|()| std::io::stdin().read_line(&mut answer));
    // The end of input is a no, also where yes is the habit: it would ask for ever.
    if read.map_err(|error| Failure::io(format!("cannot ask: {error}")))? == 0 {
        return Ok(false);
    }
    Ok(match answer.trim() {
        "" => unless_told,
        answer => answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes"),
    })
}

fn notice(text: &str) {
    // A notice that nobody can read is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}
