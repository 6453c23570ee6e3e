//! Owns what a Vault client needs to know before it speaks: address, token, CA, limits; and how the environment spells them.
//! Does not know HTTP or any Vault API.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use crate::secret::SecretBytes;

/// Where the Vault command line looks when nothing is set.
const DEFAULT_ADDRESS: &str = "https://127.0.0.1:8200";
/// `VAULT_CLIENT_TIMEOUT` of the Vault command line.
const DEFAULT_CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// One call may take this long unless the mount says otherwise (`--deadline`).
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);
/// Making a secret may take this long where the user sets no limit: one that hangs must not stand in the way of the next for ever.
const LONGEST_ISSUE: Duration = Duration::from_secs(600);
/// An answer may be this large: a value of 1 MiB, base64 or `\u` escapes, and the envelope around it.
const DEFAULT_MAX_BODY: usize = 8 << 20;

/// Everything a client is built from. Fields that the environment does not set can be overwritten before `build`.
pub struct Config {
    /// `https://host:port`, with a base path where a proxy wants one.
    pub address: String,
    /// Where the token comes from.
    pub token: TokenSource,
    /// Namespace of Vault Enterprise or OpenBao, relative to the root.
    pub namespace: Option<String>,
    /// PEM bundle that replaces the system's certificate authorities.
    pub ca_cert: Option<PathBuf>,
    /// Accept any certificate. For laboratories only; a warning is logged.
    pub skip_verify: bool,
    /// The user's own limit for one call (`VAULT_CLIENT_TIMEOUT`).
    pub client_timeout: Duration,
    /// The mount's limit for one call; the shorter of the two counts.
    pub deadline: Duration,
    /// Largest answer in bytes; a larger one is never read to its end.
    pub max_body: usize,
}

/// Where a token comes from. It is read at the first call, not when the client is built.
#[derive(Debug)]
pub enum TokenSource {
    /// The token itself.
    Literal(SecretBytes),
    /// A file that holds it, with white space around it ignored.
    File(PathBuf),
    /// A login makes it.
    AppRole(AppRole),
    /// None is known: every call fails and says what to set.
    Absent,
}

/// A login as a machine: a role id, and mostly a secret id (Vault's `auth/approle/login`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppRole {
    /// Where the auth method is mounted: the segments after `auth/`, without slashes around them.
    pub mount: String,
    /// Which role.
    pub role_id: RoleId,
    /// What proves it; `None` for a role that asks for none (`bind_secret_id=false`).
    pub secret_id: Option<SecretId>,
}

/// Where the id of a role comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum RoleId {
    /// The id itself.
    Literal(String),
    /// A file that holds it, with white space around it ignored.
    File(PathBuf),
}

/// A role id is no secret, but half of a login: a literal one is not shown.
impl fmt::Debug for RoleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Where a secret id comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretId {
    /// A file, with white space around what it holds ignored.
    pub file: PathBuf,
    /// The file holds a token that is unwrapped once and gives the secret id (`vault write -wrap-ttl=...`).
    pub wrapped: bool,
}

/// Which setting is wrong. Named by its key in the configuration file and its variable in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `address`, `VAULT_ADDR`
    Address,
    /// `token`, `VAULT_TOKEN`
    Token,
    /// `namespace`, `VAULT_NAMESPACE`
    Namespace,
    /// `ca_cert`, `VAULT_CACERT`
    CaCert,
    /// `client_timeout`, `VAULT_CLIENT_TIMEOUT`
    ClientTimeout,
    /// `skip_verify`, `VAULT_SKIP_VERIFY`
    SkipVerify,
}

impl Setting {
    /// The key in the configuration file.
    pub fn key(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Token => "token",
            Self::Namespace => "namespace",
            Self::CaCert => "ca_cert",
            Self::ClientTimeout => "client_timeout",
            Self::SkipVerify => "skip_verify",
        }
    }

    /// The variable in the environment, without `VAULT_` or `BAO_`.
    fn variable(self) -> &'static str {
        match self {
            Self::Address => "ADDR",
            Self::Token => "TOKEN",
            Self::Namespace => "NAMESPACE",
            Self::CaCert => "CACERT",
            Self::ClientTimeout => "CLIENT_TIMEOUT",
            Self::SkipVerify => "SKIP_VERIFY",
        }
    }
}

/// A setting that cannot work. Never holds the value of the setting, which may carry a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} (VAULT_{}): {problem}", .setting.key(), .setting.variable())]
pub struct ConfigError {
    /// Which one.
    pub setting: Setting,
    /// What is wrong with it and what to do.
    pub problem: String,
}

impl ConfigError {
    pub(super) fn new(setting: Setting, problem: impl Into<String>) -> Self {
        Self { setting, problem: problem.into() }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: DEFAULT_ADDRESS.to_owned(),
            token: TokenSource::Absent,
            namespace: None,
            ca_cert: None,
            skip_verify: false,
            client_timeout: DEFAULT_CLIENT_TIMEOUT,
            deadline: DEFAULT_DEADLINE,
            max_body: DEFAULT_MAX_BODY,
        }
    }
}

impl Config {
    /// As the Vault and OpenBao command lines read the environment: `BAO_*` wins over `VAULT_*`, an empty variable is
    /// an unset one, and without a token variable `~/.vault-token` is read once it exists.
    pub fn from_environment(env: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let raw = |setting: Setting| {
            let named =
                |prefix| env(&format!("{prefix}_{}", setting.variable())).filter(|value| !value.is_empty());
            named("BAO").or_else(|| named("VAULT"))
        };
        let text = |setting| match raw(setting).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(ConfigError::new(setting, "is not valid UTF-8")),
        };
        let mut config = Self::default();
        if let Some(address) = text(Setting::Address)? {
            config.address = address;
        }
        config.token = match text(Setting::Token)? {
            Some(token) => TokenSource::Literal(token.into()),
            None => match env("HOME").filter(|home| !home.is_empty()) {
                Some(home) => TokenSource::File(PathBuf::from(home).join(".vault-token")),
                None => TokenSource::Absent,
            },
        };
        config.namespace = text(Setting::Namespace)?;
        config.ca_cert = raw(Setting::CaCert).map(PathBuf::from);
        if let Some(timeout) = text(Setting::ClientTimeout)? {
            let parsed = parse_timeout(&timeout).ok_or_else(|| {
                ConfigError::new(Setting::ClientTimeout, "is no duration: write seconds (60) or 1m30s")
            })?;
            // Zero means "no limit" to the command line; the deadline still bounds every call.
            config.client_timeout = if parsed.is_zero() { Duration::MAX } else { parsed };
        }
        if let Some(skip) = text(Setting::SkipVerify)? {
            config.skip_verify = parse_bool(&skip)
                .ok_or_else(|| ConfigError::new(Setting::SkipVerify, "is neither true nor false"))?;
        }
        Ok(config)
    }

    /// The address as a URL that is known to have a host and nothing that a base address cannot have.
    pub(super) fn base_url(&self) -> Result<Url, ConfigError> {
        let wrong = |problem: &str| ConfigError::new(Setting::Address, problem);
        let url = Url::parse(&self.address)
            .map_err(|_| wrong("is no URL: write it as https://vault.example.com:8200"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("must start with https:// (or http://)"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(wrong("names no host"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("must not have a `?` or `#` part"));
        }
        Ok(url)
    }

    /// How long the server may take to make a secret: a database may be slow, and who gives up leaves behind what is made all
    /// the same. No reader waits for longer than the deadline, which is why that does not count here.
    pub(super) fn issue_limit(&self) -> Duration {
        self.client_timeout.min(LONGEST_ISSUE)
    }

    /// How long one call may take.
    pub(super) fn call_limit(&self) -> Duration {
        self.client_timeout.min(self.deadline)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address =
            self.base_url().map(|url| origin(&url)).unwrap_or_else(|_| "[not a usable URL]".to_owned());
        f.debug_struct("Config")
            .field("address", &address)
            .field("token", &self.token)
            .field("namespace", &self.namespace)
            .field("ca_cert", &self.ca_cert)
            .field("skip_verify", &self.skip_verify)
            .field("client_timeout", &self.client_timeout)
            .field("deadline", &self.deadline)
            .field("max_body", &self.max_body)
            .finish()
    }
}

/// `https://host:port` of a URL: what a message may show, without user, password, path or query.
pub(super) fn origin(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

/// Seconds as a bare number, or a duration as Go spells it (`1m30s`, `1.5h`, `500ms`).
/// Source: `parseutil.ParseDurationSecond` of go-secure-stdlib.
fn parse_timeout(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        total =
            total.checked_add(Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

/// As Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn config(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn literal(config: &Config) -> Option<&[u8]> {
        if let TokenSource::Literal(token) = &config.token { Some(token.expose()) } else { None }
    }

    #[test]
    fn an_empty_environment_gives_the_defaults_of_the_command_line() {
        let config = config(&[]).unwrap();
        assert_eq!(config.address, "https://127.0.0.1:8200");
        assert_eq!(config.client_timeout, Duration::from_secs(60));
        assert!(matches!(config.token, TokenSource::Absent));
        assert!(config.namespace.is_none() && config.ca_cert.is_none() && !config.skip_verify);
    }

    #[test]
    fn bao_wins_over_vault_and_empty_is_unset() {
        let both = config(&[
            ("VAULT_ADDR", "http://v:1"),
            ("BAO_ADDR", "http://b:2"),
            ("BAO_TOKEN", ""),
            ("VAULT_TOKEN", "canary-t"),
        ]);
        let both = both.unwrap();
        assert_eq!(both.address, "http://b:2");
        assert_eq!(literal(&both), Some(b"canary-t".as_slice()));
    }

    #[test]
    fn every_variable_is_understood() {
        let config = config(&[
            ("VAULT_NAMESPACE", "team/sub"),
            ("VAULT_CACERT", "/ca.pem"),
            ("VAULT_CLIENT_TIMEOUT", "1m30s"),
            ("VAULT_SKIP_VERIFY", "true"),
            ("HOME", "/home/u"),
        ])
        .unwrap();
        assert_eq!(config.namespace.as_deref(), Some("team/sub"));
        assert_eq!(config.ca_cert, Some(PathBuf::from("/ca.pem")));
        assert_eq!(config.client_timeout, Duration::from_secs(90));
        assert!(config.skip_verify);
        assert!(
            matches!(&config.token, TokenSource::File(path) if path == &PathBuf::from("/home/u/.vault-token"))
        );
    }

    #[test]
    fn a_wrong_variable_is_named_and_its_value_is_not_shown() {
        for (name, value, setting) in [
            ("VAULT_CLIENT_TIMEOUT", "canary", Setting::ClientTimeout),
            ("BAO_SKIP_VERIFY", "canary", Setting::SkipVerify),
        ] {
            let error = config(&[(name, value)]).unwrap_err();
            assert_eq!(error.setting, setting);
            assert!(
                error.to_string().contains(setting.key()) && !error.to_string().contains("canary"),
                "{error}"
            );
        }
        for address in
            ["canary", "unix:///canary", "ftp://canary", "https://", "http://canary/?q", "http://canary/#f"]
        {
            let error = config(&[("VAULT_ADDR", address)]).unwrap().base_url().unwrap_err();
            assert!(error.to_string().starts_with("address (VAULT_ADDR): "), "{error}");
            assert!(!error.to_string().contains("canary"));
        }
    }

    #[test]
    fn durations_are_seconds_or_as_go_writes_them() {
        for (text, millis) in [
            ("60", Some(60_000)),
            ("1m30s", Some(90_000)),
            ("1.5h", Some(5_400_000)),
            ("250ms", Some(250)),
            ("0", Some(0)),
        ] {
            assert_eq!(parse_timeout(text), millis.map(Duration::from_millis), "{text}");
        }
        for text in ["", "s", "1", "-1s", "1x", "1..2s", "1s2", "99999999999999999999h"] {
            assert_eq!(parse_timeout(text).is_some(), text == "1", "{text}");
        }
        let unlimited = config(&[("VAULT_CLIENT_TIMEOUT", "0")]).unwrap();
        assert_eq!((unlimited.call_limit(), unlimited.issue_limit()), (DEFAULT_DEADLINE, LONGEST_ISSUE));
    }

    #[test]
    fn making_a_secret_may_take_longer_than_the_deadline_but_not_than_the_client_timeout() {
        for (timeout, call, issue) in [("60", 5, 60), ("2", 2, 2)] {
            let config = config(&[("VAULT_CLIENT_TIMEOUT", timeout)]).unwrap();
            let limits = (config.call_limit().as_secs(), config.issue_limit().as_secs());
            assert_eq!(limits, (call, issue));
        }
    }

    #[test]
    fn debug_shows_no_role_id() {
        let secret_id = Some(SecretId { file: "/s".into(), wrapped: true });
        let role_id = RoleId::Literal("canary".to_owned());
        let login = AppRole { mount: "approle".to_owned(), role_id, secret_id };
        let shown = format!("{:?}", TokenSource::AppRole(login));
        assert!(!shown.contains("canary") && shown.contains("Literal(..)"), "{shown}");
    }

    #[test]
    fn debug_shows_neither_token_nor_password() {
        let config = config(&[("VAULT_ADDR", "https://me:canary@v/"), ("VAULT_TOKEN", "canary")]).unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("canary") && shown.contains("https://v:443"), "{shown}");
    }
}
