//! Owns the connections to the server: whom they trust, and that none of them lives long.
//! Does not know what is asked over them.

use std::time::Duration;

use reqwest::{Certificate, Client, Url};

use super::config::{Config, ConfigError, Setting};
use crate::backend::short_lived::ShortLived;
use crate::clock::{Clock, Moment};

/// Idle connections are closed after this long: their buffers hold what was last read, and closing frees and wipes them.
const IDLE: Duration = Duration::from_secs(5);

/// A client, replaced now and then by one with connections of its own.
pub(super) struct Connections {
    trust: Trust,
    client: ShortLived<Client>,
}

/// What a client is made from. Read once: a file that changes or breaks while we run changes nothing.
struct Trust {
    tls: bool,
    loopback: bool,
    /// In place of the system's.
    authorities: Option<Vec<Certificate>>,
    skip_verify: bool,
}

impl Connections {
    /// To the configured server. Reads the CA file; contacts nobody.
    pub(super) fn new(config: &Config, base: &Url, clock: Clock) -> Result<Self, ConfigError> {
        let trust = Trust {
            tls: base.scheme() != "http",
            loopback: is_loopback(base),
            authorities: config.ca_cert.as_deref().map(authorities).transpose()?,
            skip_verify: config.skip_verify,
        };
        if trust.skip_verify {
            tracing::warn!(
                "TLS certificates are not verified (VAULT_SKIP_VERIFY): anybody on the way can read the token"
            );
        }
        let client = trust.client().map_err(|_| {
            ConfigError::new(
                Setting::CaCert,
                match &config.ca_cert {
                    Some(path) => format!("`{}` holds a certificate that cannot be used", path.display()),
                    None => "the system has no certificate authorities: set it to the PEM file of Vault's CA"
                        .to_owned(),
                },
            )
        })?;
        Ok(Self { trust, client: ShortLived::new(client, clock) })
    }

    /// The client to use for one request.
    pub(super) fn client(&self) -> Client {
        self.client.with(|client| client.clone())
    }

    /// Closes connections that may hold what was read a while before `now`.
    pub(super) fn tidy(&self, now: Moment) {
        if !self.client.is_due(now) {
            return;
        }
        match self.trust.client() {
            Ok(next) => self.client.replace(next),
            Err(_) => tracing::warn!(
                "connections are kept longer than usual: the system's certificate authorities cannot be read any more"
            ),
        }
    }
}

impl Trust {
    /// vaultrs's own client follows redirects with the token in hand; this one follows none.
    fn client(&self) -> reqwest::Result<Client> {
        let mut builder = Client::builder()
            .user_agent(concat!("secretfs/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true)
            .pool_idle_timeout(IDLE);
        if self.loopback {
            // As Go's ProxyFromEnvironment, which the Vault command line uses: never a proxy for this machine.
            builder = builder.no_proxy();
        }
        if !self.tls {
            // Without TLS there is nothing to verify, and loading the system's authorities takes tens of milliseconds.
            builder = builder.tls_certs_only(Vec::new());
        } else if let Some(authorities) = &self.authorities {
            builder = builder.tls_certs_only(authorities.clone());
        }
        if self.skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        builder.build()
    }
}

fn authorities(path: &std::path::Path) -> Result<Vec<Certificate>, ConfigError> {
    let wrong = |problem: String| ConfigError::new(Setting::CaCert, problem);
    let pem = std::fs::read(path)
        .map_err(|e| wrong(format!("`{}` cannot be read: {}", path.display(), e.kind())))?;
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        return Err(wrong(format!("`{}` holds no PEM certificate", path.display())));
    }
    Ok(certificates)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_that_cannot_work_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let config = Config { ca_cert: Some(file.clone()), ..Config::default() };
        let url: Url = "https://vault.example".parse().unwrap();
        let build = || Connections::new(&config, &url, Clock::manual()).map(|_| ());
        assert_eq!(build().unwrap_err().setting, Setting::CaCert);
        for content in ["", "canary", "-----BEGIN CERTIFICATE-----\nY2FuYXJ5\n-----END CERTIFICATE-----\n"] {
            std::fs::write(&file, content).unwrap();
            let error = build().unwrap_err();
            assert!(error.to_string().contains("ca.pem") && !error.to_string().contains("canary"), "{error}");
        }
    }

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for (url, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://vault", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
