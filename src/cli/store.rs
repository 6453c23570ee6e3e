//! Owns the commands `secretfs store ...`: what each does to the file, and what it prints.
//! Does not know the file's format, its encryption or its locks.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use zeroize::Zeroizing;

use super::edit::Desk;
use super::environment::Environment;
pub use super::failure::Failure;
pub use super::store_key::KeyOptions;
use super::{dotenv, key_values};
use crate::backend::store::{
    BadPath, Document, FileError, Kept, Key, SecretPath, Spelled, change, create, is_recipient, load,
    parse_fields, parse_secrets, pretty_fields,
};
use crate::path::BackendPath;
use crate::secret::{Field, SecretBytes};

/// What a put or an import brings.
type Secrets = Vec<(SecretPath, Vec<Field>)>;

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

/// How `get` shows a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Keys and values for people
    Table,
    /// All of it for programs
    Json,
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

fn no_secret(path: &SecretPath) -> Failure {
    Failure::no_input(format!("there is no secret {path}: `secretfs store ls` shows what there is"))
}

/// What `get --format json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    path: &'a str,
    version: u64,
    created: String,
    fields: Spelled<'a>,
}

fn get(document: &Document, path: &SecretPath, field: Option<&str>, format: Format) -> Result<(), Failure> {
    let kept = document.get(path.as_str()).ok_or_else(|| no_secret(path))?;
    if let Some(name) = field {
        let field = kept.fields.iter().find(|field| field.name == name);
        let none = || Failure::no_input(format!("the secret {path} has no field {}", name.escape_debug()));
        return print(field.ok_or_else(none)?.value.expose());
    }
    match format {
        Format::Table => print(table(kept).as_bytes()),
        Format::Json => {
            let created = humantime::format_rfc3339(kept.created).to_string();
            let fields = Spelled(&kept.fields);
            let shown = Shown { path: path.as_str(), version: kept.version, created, fields };
            let json = serde_json::to_vec_pretty(&shown).map(Zeroizing::new);
            let mut json = json.map_err(|_| Failure::data("a field cannot be written as JSON"))?;
            json.push(b'\n');
            print(&json)
        }
    }
}

fn table(kept: &Kept) -> Zeroizing<String> {
    let names: Vec<String> = kept.fields.iter().map(|field| printable(&field.name)).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("Key".len());
    let mut table = Zeroizing::new(format!("{:width$}    Value\n{:width$}    -----\n", "Key", "---"));
    for (name, field) in names.iter().zip(&kept.fields) {
        let value = match field.value.expose_str() {
            Some(text) => printable(text),
            None => format!("({} bytes, not text: see them with --field)", field.value.len()),
        };
        let value = Zeroizing::new(value);
        table.push_str(&format!("{name:width$}    {}\n", *value));
    }
    table
}

/// Control characters escaped, so that a value cannot drive the terminal or forge a line.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn list(document: &Document, prefix: &str) -> Result<(), Failure> {
    let folder = BackendPath::parse(prefix).map_err(|_| BadPath)?;
    let none =
        || Failure::no_input(format!("there is no folder {folder}: `secretfs store ls FILE` shows the top"));
    let listing = document.list(&folder).ok_or_else(none)?;
    let mut lines = String::new();
    for entry in listing.entries() {
        let name = printable(&entry.name);
        if entry.secret {
            lines.push_str(&format!("{name}\n"));
        }
        if entry.folder {
            lines.push_str(&format!("{name}/\n"));
        }
    }
    print(lines.as_bytes())
}

fn edit(file: &Path, key: &Key, path: SecretPath, environment: &Environment) -> Result<(), Failure> {
    let (_, document) = load(file, key)?;
    let kept = document.get(path.as_str());
    let version = kept.map(|kept| kept.version);
    let before = pretty_fields(kept.map_or(&[], |kept| &kept.fields));
    let before = before.map_err(|_| Failure::data("a field cannot be written as JSON"))?;
    drop(document);

    let desk = Desk::lay(&before, environment)?;
    let fields = loop {
        let after = desk.edit(environment)?;
        if after.expose() == before.as_slice() {
            notice("nothing was changed");
            return Ok(());
        }
        let why = match parse_fields(after.expose()) {
            Ok(fields) if !fields.is_empty() => break fields,
            Ok(_) => "a secret has at least one field (`secretfs store rm` removes it)".to_owned(),
            Err(bad) => bad.to_string(),
        };
        if !agreed(&format!("{why}. Edit again?"), true)? {
            return Err(Failure::data(format!("{why}; nothing was changed")));
        }
    };
    let changed_by_others =
        |document: &Document| document.get(path.as_str()).map(|kept| kept.version) != version;
    let (_, now) = load(file, key)?;
    let overwrite =
        changed_by_others(&now) && agreed(&format!("{path} was changed meanwhile. Replace it?"), false)?;
    drop(now);
    change(file, key, |document| {
        if changed_by_others(document) && !overwrite {
            return Err(Failure::io(format!(
                "{path} was changed by another writer meanwhile; your text was not kept"
            )));
        }
        document.put(path.clone(), fields, SystemTime::now());
        Ok(())
    })
}

fn import(source: &Path, path: Option<&str>) -> Result<Secrets, Failure> {
    let standard_input = source.as_os_str() == "-";
    let (bytes, name) = if standard_input {
        (key_values::read_standard_input()?, "standard input".into())
    } else {
        (key_values::read_file(source)?, source.to_string_lossy())
    };
    if bytes.expose().trim_ascii_start().starts_with(b"{") {
        if path.is_some() {
            return Err(Failure::usage("--path is for .env files: JSON holds its own paths"));
        }
        return import_json(&bytes, &name);
    }
    let path = match path {
        Some(path) => SecretPath::parse(path)?,
        None => stem(source)
            .filter(|_| !standard_input)
            .ok_or_else(|| Failure::usage("where do the keys go? name the secret with --path PATH"))?,
    };
    let text =
        bytes.expose_str().ok_or_else(|| Failure::data(format!("{name} is neither JSON nor UTF-8 text")))?;
    let fields = dotenv::parse(text).map_err(|bad| Failure::data(format!("{name}: {bad}")))?;
    if fields.is_empty() {
        return Err(Failure::data(format!("{name} holds no KEY=VALUE")));
    }
    Ok(vec![(path, fields)])
}

fn import_json(json: &SecretBytes, name: &str) -> Result<Secrets, Failure> {
    let secrets = parse_secrets(json.expose()).map_err(|bad| Failure::data(format!("{name}: {bad}")))?;
    let checked = secrets.into_iter().map(|(path, fields)| {
        let shown = path.escape_debug();
        let checked =
            SecretPath::parse(&path).map_err(|bad| Failure::data(format!("{name}: \"{shown}\": {bad}")))?;
        if fields.is_empty() {
            return Err(Failure::data(format!("{name}: {checked} has no field")));
        }
        Ok((checked, fields))
    });
    checked.collect()
}

/// `prod.env` and `.env.prod` are `prod`; `.env` says nothing.
fn stem(source: &Path) -> Option<SecretPath> {
    let name = source.file_name()?.to_str()?;
    let stem = name.strip_prefix(".env.").or_else(|| name.strip_suffix(".env")).unwrap_or(name);
    SecretPath::parse(stem).ok()
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

fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        // Whoever reads has seen enough: `get | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|error| Failure::io(format!("cannot write to standard output: {error}"))),
    }
}
