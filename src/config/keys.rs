//! Owns the table of every key: where it stands, its type, its default and its meaning.
//! Does not know how a file is read; docs/configuration.md has the same tables, and a test compares them.

use super::units::Bad;

/// A table of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// `[mount]`.
    Mount,
    /// What every `[backend.NAME]` has.
    Backend,
    /// `[backend.NAME]` with `type = "vault"`.
    Vault,
    /// `[backend.NAME]` with `type = "aws"`.
    Aws,
    /// `[backend.NAME]` with `type = "store"`.
    Store,
    /// `[[tree]]`.
    Tree,
    /// `[[secret]]`.
    Secret,
    /// `[[freshness]]`.
    Freshness,
    /// `[[hook]]`.
    Hook,
}

impl Table {
    /// Every table, in the order of the documentation.
    pub const ALL: [Table; 9] = [
        Self::Mount,
        Self::Backend,
        Self::Vault,
        Self::Aws,
        Self::Store,
        Self::Tree,
        Self::Secret,
        Self::Freshness,
        Self::Hook,
    ];

    /// The heading in docs/configuration.md.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Mount => "`[mount]`",
            Self::Backend => "`[backend.NAME]`",
            Self::Vault => "`[backend.NAME]` with `type = \"vault\"`",
            Self::Aws => "`[backend.NAME]` with `type = \"aws\"`",
            Self::Store => "`[backend.NAME]` with `type = \"store\"`",
            Self::Tree => "`[[tree]]`",
            Self::Secret => "`[[secret]]`",
            Self::Freshness => "`[[freshness]]`",
            Self::Hook => "`[[hook]]`",
        }
    }
}

/// The type of a value, as the documentation names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any string.
    Text,
    /// `true` or `false`.
    Switch,
    /// A whole number from 1 to [`MOST`].
    Count,
    /// Such as `"60s"`.
    Duration,
    /// The same, or zero.
    DurationOrZero,
    /// Such as `"64MiB"`.
    Size,
    /// Octal in quotes.
    Mode,
    /// A name or a number.
    User,
    /// A name or a number.
    Group,
    /// A path of the local file system.
    Path,
    /// `http://` or `https://`.
    Address,
    /// A path below the mountpoint.
    TreePath,
    /// A pattern over such paths.
    Pattern,
    /// One of these, or an array of them.
    Patterns,
    /// Names of fields.
    Names,
    /// What an engine is told.
    Parameters,
    /// A program and its arguments.
    Command,
    /// By its name.
    Signal,
    /// What `systemctl` calls one.
    Unit,
}

/// The largest [`Kind::Count`].
pub const MOST: u32 = 65536;

impl Kind {
    /// The word in the documentation's type column.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "string",
            Self::Switch => "boolean",
            Self::Count => "integer",
            Self::Duration => "duration",
            Self::Size => "size",
            Self::Mode => "mode",
            Self::User => "user",
            Self::Group => "group",
            Self::Path => "path",
            Self::Address => "URL",
            Self::TreePath => "path in the mount",
            Self::DurationOrZero => "duration or 0",
            Self::Pattern => "pattern",
            Self::Patterns => "pattern, or array of patterns",
            Self::Command | Self::Names => "array of strings",
            Self::Parameters => "table",
            Self::Signal => "signal",
            Self::Unit => "systemd unit",
        }
    }

    /// What an error message says was expected.
    pub(super) fn expected(self) -> String {
        match self {
            Self::Text => "expected a string in quotes".into(),
            Self::Switch => "expected true or false".into(),
            Self::Count => format!("expected a whole number from 1 to {MOST}"),
            Self::Duration => Bad::Duration.to_string(),
            Self::Size => Bad::Size.to_string(),
            Self::Mode => Bad::Mode.to_string(),
            Self::User => Bad::User.to_string(),
            Self::Group => Bad::Group.to_string(),
            Self::Path => "expected a path in quotes".into(),
            Self::Address => "expected a URL such as \"https://vault.example:8200\"".into(),
            Self::TreePath => Bad::TreePath.to_string(),
            Self::DurationOrZero => Bad::DurationOrZero.to_string(),
            Self::Pattern => "expected a pattern such as \"/team/*/db\" or \"/prod/**\"".into(),
            Self::Patterns => {
                "expected a pattern such as \"/team/*/db\" or \"/prod/**\", or an array of patterns".into()
            }
            Self::Names => {
                "expected an array of names in quotes, such as [\"username\", \"password\"]".into()
            }
            Self::Parameters => {
                "expected a table such as { common_name = \"web.example\", ttl = \"24h\" }".into()
            }
            Self::Command => "expected an array of a program and its arguments, such as \
                              [\"/usr/bin/logger\", \"rotated\"]"
                .into(),
            Self::Signal => Bad::Signal.to_string(),
            Self::Unit => Bad::Unit.to_string(),
        }
    }
}

/// What holds when a key is not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// The key must be there.
    Required,
    /// This value, spelled as in the file.
    Is(&'static str),
    /// Something else decides; said in words.
    Otherwise(&'static str),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Where it stands.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// What holds without it.
    pub absent: Absent,
    /// One line for the documentation.
    pub meaning: &'static str,
}

/// The keys of `table` in the order of the documentation.
pub fn of(table: Table) -> impl Iterator<Item = &'static Key> {
    ALL.iter().filter(move |key| key.table == table)
}

/// Every key; one line each, so that it reads as the table it is.
#[rustfmt::skip]
pub const ALL: &[Key] = &[
    key(Table::Mount, "mountpoint", Kind::Path, Absent::Otherwise("MOUNTPOINT of the command line"), "The folder to mount on. The command line wins."),
    key(Table::Mount, "allow_other", Kind::Switch, Absent::Is("false"), "Lets users other than the one who mounts in, as far as modes and owners allow."),
    key(Table::Mount, "uid", Kind::User, Absent::Otherwise("the user who mounts"), "The owner that files and folders show."),
    key(Table::Mount, "gid", Kind::Group, Absent::Otherwise("the group of the user who mounts"), "The group that files and folders show."),
    key(Table::Mount, "mode", Kind::Mode, Absent::Is("\"0400\""), "Permissions of files. Folders can be searched by whoever may read the files."),
    key(Table::Mount, "ttl", Kind::Duration, Absent::Is("\"60s\""), "How long an answer of a backend is served before the backend is asked again."),
    key(Table::Mount, "max_stale", Kind::DurationOrZero, Absent::Is("\"1h\""), "How much older than `ttl` an answer may become while its backend does not answer. 0: an outage is an error as soon as `ttl` is over."),
    key(Table::Mount, "negative_ttl", Kind::Duration, Absent::Is("\"1s\""), "How long \"no such secret\" and \"forbidden\" are believed; `ttl`, where that is shorter."),
    key(Table::Mount, "pair_window", Kind::DurationOrZero, Absent::Is("\"2s\""), "How long a thread that has opened one field of a secret gets the other fields from the same version. 0: only while it holds the secret's directory open."),
    key(Table::Mount, "deadline", Kind::Duration, Absent::Is("\"5s\""), "The longest that a reader waits for a backend; then it gets `ETIMEDOUT`."),
    key(Table::Mount, "max_value_size", Kind::Size, Absent::Is("\"1MiB\""), "The largest value that is served; above it the reader gets `EFBIG`."),
    key(Table::Mount, "max_cache", Kind::Size, Absent::Is("\"64MiB\""), "How much of all backends' answers is kept in memory. Not below `max_value_size`."),
    key(Table::Mount, "max_in_flight", Kind::Count, Absent::Is("64"), "Requests to one backend at once; more than that wait, until their deadline."),
    key(Table::Mount, "max_rate", Kind::Count, Absent::Is("1000"), "Requests to one backend per second; more than that wait, until their deadline."),
    key(Table::Mount, "max_crashes", Kind::Count, Absent::Is("5"), "How many crashes of the process that serves are survived within a minute; one more ends the mount, and readers get `EIO`."),
    key(Table::Mount, "watchdog", Kind::Duration, Absent::Is("\"10s\""), "A process that serves and does not answer for so long is replaced."),
    key(Table::Backend, "type", Kind::Text, Absent::Required, "Which kind of backend: `\"vault\"` (also for OpenBao), `\"aws\"` or `\"store\"`."),
    key(Table::Vault, "address", Kind::Address, Absent::Otherwise("`VAULT_ADDR`, `BAO_ADDR`"), "The server."),
    key(Table::Vault, "namespace", Kind::Text, Absent::Otherwise("`VAULT_NAMESPACE`, `BAO_NAMESPACE`"), "The namespace to read in."),
    key(Table::Vault, "token_file", Kind::Path, Absent::Otherwise("`VAULT_TOKEN`, `BAO_TOKEN`, `~/.vault-token`"), "A file with the token."),
    key(Table::Vault, "auth", Kind::Text, Absent::Is("\"token\""), "How the backend logs in: `\"token\"`, or `\"approle\"`."),
    key(Table::Vault, "auth_mount", Kind::Text, Absent::Is("\"approle\""), "With `auth = \"approle\"`: where the method is mounted, without `auth/` in front."),
    key(Table::Vault, "role_id", Kind::Text, Absent::Otherwise("`role_id_file`"), "With `auth = \"approle\"`: the role."),
    key(Table::Vault, "role_id_file", Kind::Path, Absent::Otherwise("`role_id`"), "With `auth = \"approle\"`: a file with the role. Not together with `role_id`."),
    key(Table::Vault, "secret_id_file", Kind::Path, Absent::Otherwise("no secret id, for a role with `bind_secret_id=false`"), "With `auth = \"approle\"`: a file with the secret id."),
    key(Table::Vault, "secret_id_wrapped", Kind::Switch, Absent::Is("false"), "Whether that file holds a wrapping token, which is unwrapped once and gives the secret id."),
    key(Table::Vault, "ca_cert", Kind::Path, Absent::Otherwise("`VAULT_CACERT`, `BAO_CACERT`, the system's"), "A PEM file with the authorities that may vouch for the server."),
    key(Table::Vault, "client_timeout", Kind::Duration, Absent::Otherwise("`VAULT_CLIENT_TIMEOUT`, `BAO_CLIENT_TIMEOUT`"), "The longest that one request may take; `deadline` still holds."),
    key(Table::Vault, "max_leases", Kind::Count, Absent::Is("1000"), "Leases held at once; one more cannot be opened (`EDQUOT`)."),
    key(Table::Vault, "keep_leases", Kind::Switch, Absent::Is("false"), "Whether leases are left to end by themselves when the mount ends; else they are revoked."),
    key(Table::Aws, "region", Kind::Text, Absent::Otherwise("the AWS chain (`AWS_REGION`, the profile)"), "The region of the secrets."),
    key(Table::Aws, "profile", Kind::Text, Absent::Otherwise("the AWS chain (`AWS_PROFILE`)"), "The profile of `~/.aws/config` to use."),
    key(Table::Aws, "endpoint_url", Kind::Address, Absent::Otherwise("the AWS chain (`AWS_ENDPOINT_URL`)"), "Another endpoint than the region's, such as a VPC endpoint."),
    key(Table::Store, "file", Kind::Path, Absent::Required, "The store, made by `secretfs store init`."),
    key(Table::Store, "identity", Kind::Path, Absent::Otherwise("`SECRETFS_IDENTITY`, then `secretfs/identity` in `$XDG_CONFIG_HOME`"), "The age identity that opens the store. Not together with `passphrase_file`."),
    key(Table::Store, "passphrase_file", Kind::Path, Absent::Otherwise("no passphrase"), "A file with the passphrase that opens the store."),
    key(Table::Tree, "path", Kind::TreePath, Absent::Required, "Where the tree stands in the mount. `\"/\"` is for a tree that is the only one."),
    key(Table::Tree, "backend", Kind::Text, Absent::Required, "The NAME of a `[backend.NAME]`."),
    key(Table::Tree, "source", Kind::Text, Absent::Is("\"\""), "The path in the backend that the tree shows; for Vault the engine comes first: `\"secret/team\"`."),
    key(Table::Tree, "ttl", Kind::Duration, Absent::Otherwise("`ttl` of `[mount]`"), "As in `[mount]`, for this tree."),
    key(Table::Tree, "max_stale", Kind::DurationOrZero, Absent::Otherwise("`max_stale` of `[mount]`"), "As in `[mount]`, for this tree."),
    key(Table::Tree, "method", Kind::Text, Absent::Otherwise("what the engine is known to want"), "How secrets made on demand are asked for: `\"read\"` or `\"write\"`."),
    key(Table::Tree, "parameters", Kind::Parameters, Absent::Otherwise("none"), "What the engine is told: strings, integers, booleans and arrays of strings."),
    key(Table::Tree, "fields", Kind::Names, Absent::Otherwise("what the engine is known to give"), "The names of the fields, which are shown before there is a secret."),
    key(Table::Tree, "overlap", Kind::Duration, Absent::Otherwise("a tenth of the life of the lease"), "How long before the end of a lease its successor is made; at most half of its life."),
    key(Table::Tree, "idle_revoke", Kind::Duration, Absent::Otherwise("never"), "A lease that nobody has opened for this long is revoked."),
    key(Table::Tree, "mode", Kind::Mode, Absent::Otherwise("`mode` of `[mount]`"), "Permissions of the tree's files."),
    key(Table::Tree, "owner", Kind::User, Absent::Otherwise("`uid` of `[mount]`"), "The owner that the tree's files and folders show."),
    key(Table::Tree, "group", Kind::Group, Absent::Otherwise("`gid` of `[mount]`"), "The group that the tree's files and folders show."),
    key(Table::Secret, "path", Kind::TreePath, Absent::Required, "The folder of the secret in the mount."),
    key(Table::Secret, "backend", Kind::Text, Absent::Required, "The NAME of a `[backend.NAME]` with `type = \"vault\"`."),
    key(Table::Secret, "source", Kind::Text, Absent::Required, "Where the backend makes it, the engine first: `\"database/creds/app\"`, `\"pki/issue/web\"`."),
    key(Table::Secret, "method", Kind::Text, Absent::Otherwise("what the engine is known to want"), "How it is asked for: `\"read\"` or `\"write\"`."),
    key(Table::Secret, "parameters", Kind::Parameters, Absent::Otherwise("none"), "What the engine is told: strings, integers, booleans and arrays of strings."),
    key(Table::Secret, "fields", Kind::Names, Absent::Otherwise("what the engine is known to give"), "The names of the fields, which are shown before there is a secret."),
    key(Table::Secret, "overlap", Kind::Duration, Absent::Otherwise("a tenth of the life of the lease"), "How long before the end of a lease its successor is made; at most half of its life."),
    key(Table::Secret, "idle_revoke", Kind::Duration, Absent::Otherwise("never"), "A lease that nobody has opened for this long is revoked."),
    key(Table::Secret, "mode", Kind::Mode, Absent::Otherwise("`mode` of `[mount]`"), "Permissions of the secret's files."),
    key(Table::Secret, "owner", Kind::User, Absent::Otherwise("`uid` of `[mount]`"), "The owner that the secret's files and folder show."),
    key(Table::Secret, "group", Kind::Group, Absent::Otherwise("`gid` of `[mount]`"), "The group that the secret's files and folder show."),
    key(Table::Freshness, "path", Kind::Pattern, Absent::Required, "The secrets and folders that this is about."),
    key(Table::Freshness, "ttl", Kind::Duration, Absent::Otherwise("what the tree has"), "As in `[mount]`, for these."),
    key(Table::Freshness, "max_stale", Kind::DurationOrZero, Absent::Otherwise("what the tree has"), "As in `[mount]`, for these."),
    key(Table::Hook, "path", Kind::Patterns, Absent::Required, "The secrets that this is about."),
    key(Table::Hook, "exec", Kind::Command, Absent::Otherwise("`signal` or `reload`"), "Runs this program, an absolute path, with these arguments. No shell reads them."),
    key(Table::Hook, "signal", Kind::Signal, Absent::Otherwise("`exec` or `reload`"), "Sends this signal, to `pid_file` or `unit`."),
    key(Table::Hook, "reload", Kind::Unit, Absent::Otherwise("`exec` or `signal`"), "Runs `systemctl reload` for this unit."),
    key(Table::Hook, "pid_file", Kind::Path, Absent::Otherwise("`unit`"), "With `signal`: the file that holds the number of the process."),
    key(Table::Hook, "unit", Kind::Unit, Absent::Otherwise("`pid_file`"), "With `signal`: the unit whose main process gets it, by `systemctl kill`."),
    key(Table::Hook, "user", Kind::User, Absent::Otherwise("the user who mounts"), "With `exec`: who the program runs as, with that user's own group and no other. Only root can set it."),
    key(Table::Hook, "debounce", Kind::DurationOrZero, Absent::Is("\"1s\""), "How long a change waits for others that go into the same run."),
    key(Table::Hook, "interval", Kind::DurationOrZero, Absent::Is("\"10s\""), "From the beginning of one run to that of the next at least."),
    key(Table::Hook, "timeout", Kind::Duration, Absent::Is("\"30s\""), "How long a program may run; then it gets SIGTERM, and five seconds later SIGKILL, with all of its process group."),
    key(Table::Hook, "log_output", Kind::Switch, Absent::Is("true"), "Whether what a program prints goes to the log, up to 64 KiB of each run."),
];

const fn key(table: Table, name: &'static str, kind: Kind, absent: Absent, meaning: &'static str) -> Key {
    Key { table, name, kind, absent, meaning }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_once_in_its_table() {
        for (i, key) in ALL.iter().enumerate() {
            let twin =
                ALL.iter().skip(i + 1).find(|other| other.table == key.table && other.name == key.name);
            assert!(twin.is_none(), "{} twice in {:?}", key.name, key.table);
        }
    }
}
