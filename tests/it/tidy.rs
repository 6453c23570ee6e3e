//! Owns the rules of the house: which module may import what, and what no file may do.
//! Does not know Rust beyond words, signs and paths (tidy/source.rs).

mod checks;
mod source;

use std::collections::BTreeSet;
use std::path::Path as FilePath;

use source::{Path, Token, closing, matches, paths, tokens};

/// A crate, the one folder that may name it, and why. A `*` at the end stands for any ending.
const CONFINED: [(&str, &str, &str); 12] = [
    ("fuser", "src/fuse/", "only the adapter knows the kernel's protocol"),
    ("vaultrs", "src/backend/vault/", "only the Vault backend knows its client"),
    ("rustify", "src/backend/vault/", "only the Vault backend knows its client"),
    ("reqwest", "src/backend/vault/", "only the Vault backend speaks HTTP through it"),
    ("aws_*", "src/backend/aws/", "only the AWS backend knows the SDK"),
    ("age", "src/backend/store/", "only the store knows its encryption"),
    ("moka", "src/cache/", "moka does not erase; only the cache knows how to live with that"),
    ("clap", "src/cli/", "only the command line reads arguments"),
    ("toml_edit", "src/config/", "only the configuration reads TOML"),
    ("sd_notify", "src/daemon/", "only the daemon talks to systemd"),
    ("landlock", "src/daemon/", "only the daemon puts its worker into a sandbox"),
    ("seccompiler", "src/daemon/", "only the daemon puts its worker into a sandbox"),
];

/// Who may start a thread, a task or a process, and why. Everything else is called by somebody who waits for it.
const SPAWNS: [(&str, &str); 20] = [
    (
        "src/daemon/worker/mod.rs",
        "whoever listens to the holder waits; a ping is answered by those who answer programs",
    ),
    (
        "src/daemon/worker/parts.rs",
        "the composition root: the refresh loop, the hooks, the control socket, the news for watchers",
    ),
    ("src/daemon/worker/succession.rs", "what is held goes over while programs are answered"),
    ("src/daemon/holder/process.rs", "the worker, and whoever listens to it and waits for its end"),
    ("src/hooks/mod.rs", "each hook waits for its own time"),
    ("src/hands/mod.rs", "each worker is talked to by a thread of its own"),
    ("src/hands/client.rs", "answers of the hands come in any order, to threads and to tasks"),
    (
        "src/hands/conversation.rs",
        "what one order takes holds up no other; looking through /proc waits for the kernel",
    ),
    ("src/hands/touch/mod.rs", "an operation on the mount waits for the worker that serves it"),
    ("src/hands/run/mod.rs", "a program or a PID file may be on a network"),
    ("src/hands/run/program.rs", "the programs of hooks; what starts one and what waits for it blocks"),
    ("src/fuse/hand_over.rs", "a request that must wait, with its deadline"),
    ("src/fuse/invalidate.rs", "dropping a page may wait for a read of it, so never within a request"),
    ("src/fuse/mount.rs", "fuser's own threads"),
    ("src/fuse/touch/mod.rs", "what has changed is told one after the other; each waits for the hands"),
    ("src/backend/store/mod.rs", "decryption takes a second of computing"),
    (
        "src/backend/vault/auth/mod.rs",
        "a login goes on though its reader gives up: its token must not be lost",
    ),
    ("src/backend/vault/auth/file.rs", "a home folder may be on a network"),
    ("src/cli/background.rs", "the process that serves, for --daemon"),
    ("src/cli/edit.rs", "the user's editor"),
];

/// Files that may hold `unsafe`, and why.
const UNSAFE: [(&str, &str); 7] = [
    (
        "src/daemon/kept.rs",
        "descriptors that systemd has put into the process are numbers in the environment",
    ),
    ("src/erasing.rs", "an allocator is unsafe by nature"),
    (
        "src/fuse/take_over.rs",
        "what stands behind a descriptor of fuser's is exchanged, which no safe call does",
    ),
    ("src/hands/touch/files.rs", "close_range(2) is in no safe crate, since it closes what others may use"),
    ("src/mounts/attributes.rs", "mount_setattr(2) is in libc only, as a bare system call"),
    (
        "tests/it/sandbox/raw.rs",
        "calls that are refused, by their bare numbers: safe crates do not have most",
    ),
    ("tests/it/support/page_cache.rs", "cachestat(2) is a bare system call, and mmap(2) is unsafe by nature"),
];
/// Files that may name a raw error number, and why. All others give a `Failure`.
const RAW_ERRNO: [(&str, &str); 1] = [("src/errno.rs", "the table of them")];
/// Files whose first lines say something else, and why.
const OTHER_HEAD: [(&str, &str); 1] = [("src/lib.rs", "the front page of the documentation")];
/// Modules beside the backends in src/backend that all of them share.
const SHARED_BY_BACKENDS: [&str; 5] = ["issuer", "json_fields", "retry_after", "short_lived", "tokens"];
/// Longest file, in lines.
const LONGEST: usize = 500;
/// Lints that keep a panic, a leak or an unfinished thought out.
const KEPT_LINTS: [&str; 12] = [
    "unwrap_used",
    "expect_used",
    "panic",
    "indexing_slicing",
    "await_holding_lock",
    "dbg_macro",
    "print_stdout",
    "print_stderr",
    "todo",
    "unimplemented",
    "unsafe_code",
    "all",
];

/// The modules of the library from top to ground, and the backends.
struct House {
    order: Vec<String>,
    backends: Vec<String>,
}

struct File {
    path: String,
    text: String,
}

#[test]
fn the_house_is_tidy() {
    let root = FilePath::new(env!("CARGO_MANIFEST_DIR"));
    let files: Vec<File> = ["src", "tests", "benches"].iter().flat_map(|folder| read(root, folder)).collect();
    assert!(files.len() > 50, "only {} files found", files.len());
    let house = House::of(&files);
    let mut faults: Vec<String> = files.iter().flat_map(|file| faults(&house, file)).collect();
    faults.extend(bare_dependencies(&std::fs::read_to_string(root.join("Cargo.toml")).unwrap()));
    faults.extend(idle_exceptions(&files));
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

fn read(root: &FilePath, folder: &str) -> Vec<File> {
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return vec![] };
    let mut files = Vec::new();
    for entry in entries.map(Result::unwrap) {
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            files.extend(read(root, &path));
        } else if path.ends_with(".rs") {
            files.push(File { text: std::fs::read_to_string(root.join(&path)).unwrap(), path });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

impl House {
    /// As src/lib.rs and src/backend/mod.rs list their modules.
    fn of(files: &[File]) -> Self {
        let modules = |path: &str| -> Vec<String> {
            let file = files.iter().find(|file| file.path == path).unwrap();
            let tokens = tokens(&file.text);
            let named =
                (0..tokens.len()).filter(|at| tokens[*at].text == "mod" && matches(&tokens, at + 2, &[";"]));
            named.map(|at| tokens[at + 1].text.to_owned()).collect()
        };
        let mut backends = modules("src/backend/mod.rs");
        backends.retain(|name| !SHARED_BY_BACKENDS.contains(&name.as_str()));
        Self { order: modules("src/lib.rs"), backends }
    }

    fn height(&self, module: &str) -> Option<usize> {
        self.order.iter().rev().position(|known| known == module)
    }
}

/// Everything that is wrong with a file, as `path:line: what, and why not`.
fn faults(house: &House, file: &File) -> Vec<String> {
    let mut tokens = tokens(&file.text);
    if file.path.ends_with("/tests.rs") || !file.path.starts_with("src/") {
        tokens.iter_mut().for_each(|token| token.test = true);
    }
    let mut found = Vec::new();
    let lines = file.text.lines().count();
    if lines > LONGEST {
        found.push((lines, format!("longer than {LONGEST} lines: it owns more than one thing")));
    }
    words(file, &tokens, &mut found);
    if file.path.starts_with("src/") {
        head(file, &mut found);
        for path in paths(&tokens) {
            let fault = import(house, file, &path)
                .or_else(|| confined(file, &path))
                .or_else(|| raw_errno(file, &path));
            found.extend(fault.map(|fault| (path.line, fault)));
        }
    }
    found.into_iter().map(|(line, fault)| format!("{}:{line}: {fault}", file.path)).collect()
}

fn head(file: &File, found: &mut Vec<(usize, String)>) {
    let mut lines = file.text.lines();
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if is_listed(&OTHER_HEAD, file) {
        return;
    }
    if !first.starts_with("//! Owns ") {
        found.push((1, "the first line says what the file owns: `//! Owns ...`".into()));
    }
    if !second.starts_with("//! Does not know ") && !second.contains(" Does not know ") {
        found.push((2, "the second line says what the file does not know: `//! Does not know ...`".into()));
    }
}

/// Rules that a word and its neighbours break.
fn words(file: &File, tokens: &[Token<'_>], found: &mut Vec<(usize, String)>) {
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |at| tokens[at].text);
        let after = |next: usize| tokens.get(at + next).map_or("", |token| token.text);
        let fault = match token.text {
            "unsafe" if !is_listed(&UNSAFE, file) => {
                "`unsafe`: a safe crate has it, or UNSAFE names the file and says why"
            }
            "extern" if after(1) == "crate" => "`extern crate` hides imports from this check",
            _ if token.test => continue,
            "spawn" | "spawn_blocking" | "spawn_local" | "spawn_scoped"
                if after(1) == "(" && before != "fn" && !is_listed(&SPAWNS, file) =>
            {
                "starts something that nobody waits for: the daemon does, or SPAWNS names the file and says why"
            }
            "println" | "print" | "eprintln" | "eprint" | "dbg" if after(1) == "!" => {
                "prints where it stands: output belongs to the command line, the rest is logged"
            }
            "allow" | "expect" if after(1) == "(" && ["[", ",", "("].contains(&before) => {
                let end = closing(tokens, at + 1).min(tokens.len());
                let mut lints = tokens[at..end].iter().map(|token| token.text);
                let listed = |lint: &str| lint == "unsafe_code" && is_listed(&UNSAFE, file);
                if lints.any(|lint| KEPT_LINTS.contains(&lint) && !listed(lint)) {
                    "allows what may panic, print or be unsafe: outside tests, handle it"
                } else {
                    continue;
                }
            }
            _ => continue,
        };
        found.push((token.line, fault.to_owned()));
    }
}

/// The modules that a file is: `src/fs/resolve.rs` is `fs`, `resolve`.
fn module_of(path: &str) -> Vec<&str> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let segments = path.split('/').filter(|segment| !["mod", "lib", "main"].contains(segment));
    segments.collect()
}

/// Imports go down the list of src/lib.rs.
fn import(house: &House, file: &File, path: &Path<'_>) -> Option<String> {
    let own = module_of(&file.path);
    if file.path == "src/main.rs" {
        let good = path.segments[0] != "secretfs" || path.segments.get(1) == Some(&"cli");
        return (!good).then(|| "main knows the command line only".to_owned());
    }
    let target = resolve(&own, path)?;
    let spelled = path.segments.join("::");
    let (Some(own_height), Some(top)) = (own.first().and_then(|own| house.height(own)), target.first())
    else {
        return (!own.is_empty())
            .then(|| format!("`{spelled}` names the whole crate, which hides what is imported"));
    };
    let Some(height) = house.height(top) else {
        return Some(format!("`{spelled}`: src/lib.rs lists no module `{top}`"));
    };
    let ground = house.height("backend");
    if height > own_height {
        let why = if Some(own_height) < ground {
            "the ground imports only ground"
        } else {
            "imports go down the list of src/lib.rs, never up"
        };
        return Some(format!("`{}` imports `{spelled}`: {why}", own[0]));
    }
    let other =
        target.get(1).filter(|name| own[0] == "backend" && *top == "backend" && own.get(1) != Some(name));
    let other = other.filter(|name| own.len() > 1 && house.backends.iter().any(|known| known == *name))?;
    Some(format!("`{}` imports backend `{other}`: a backend knows no other", own[1]))
}

/// The path from the crate's root; nothing for what is outside of the crate or below the file itself.
fn resolve<'a>(own: &[&'a str], path: &Path<'a>) -> Option<Vec<&'a str>> {
    let mut here: Vec<&str> = own.iter().chain(&path.inside).copied().collect();
    let mut segments = path.segments.iter().copied().peekable();
    match segments.next()? {
        "crate" => here.clear(),
        "self" => {}
        "super" => drop(here.pop()),
        _ => return None,
    }
    while segments.next_if_eq(&"super").is_some() {
        here.pop();
    }
    here.extend(segments.filter(|segment| !["self", "*"].contains(segment)));
    Some(here)
}

fn confined(file: &File, path: &Path<'_>) -> Option<String> {
    let named = |krate: &str| match krate.strip_suffix('*') {
        Some(start) => path.segments[0].starts_with(start),
        None => path.segments[0] == krate,
    };
    let (_, home, why) = CONFINED.iter().find(|(krate, ..)| named(krate))?;
    (!file.path.starts_with(home)).then(|| format!("`{}` outside {home}: {why}", path.segments[0]))
}

fn raw_errno(file: &File, path: &Path<'_>) -> Option<String> {
    let number = path.segments.get(1).filter(|_| path.segments[0] == "libc")?;
    let is_errno =
        number.starts_with('E') && number.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let is_fault = is_errno && !is_listed(&RAW_ERRNO, file);
    is_fault.then(|| {
        format!(
            "`libc::{number}`: the errno table is in src/errno.rs; give a `Failure`, or use `io::ErrorKind`"
        )
    })
}

fn is_listed(exceptions: &[(&str, &str)], file: &File) -> bool {
    exceptions.iter().any(|(path, _)| *path == file.path)
}

/// Dependencies that stand without a comment of their own.
fn bare_dependencies(manifest: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut section, mut before) = ("", "");
    for (at, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        }
        let in_list =
            section.ends_with("dependencies") && line.contains('=') && !line.starts_with(['#', ' ', ']']);
        let of_its_own = line.starts_with('[') && section.contains("dependencies.");
        if (in_list || of_its_own) && !before.starts_with('#') {
            faults.push(format!("Cargo.toml:{}: no comment above says why it is here: {line}", at + 1));
        }
        before = line;
    }
    faults
}

/// Exceptions that nothing needs any more.
fn idle_exceptions(files: &[File]) -> Vec<String> {
    let has = |path: &str, words: &[&str]| {
        let file = files.iter().find(|file| file.path == path);
        file.is_some_and(|file| {
            tokens(&file.text)
                .iter()
                .any(|token| !token.test && words.iter().any(|word| token.text.starts_with(word)))
        })
    };
    let lists =
        [(&SPAWNS[..], &["spawn"][..]), (&UNSAFE[..], &["unsafe"][..]), (&RAW_ERRNO[..], &["libc"][..])];
    let mut idle = BTreeSet::new();
    for (list, words) in lists {
        idle.extend(list.iter().filter(|(path, _)| !has(path, words)).map(|(path, _)| *path));
    }
    idle.into_iter()
        .map(|path| format!("{path}: is an exception in tests/it/tidy.rs that it does not need"))
        .collect()
}
