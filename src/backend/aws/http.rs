//! Owns the SDK's way to the network: the HTTPS client, whom it trusts, how long it keeps a connection, how much it reads.
//! Does not know what is asked. Its errors name the host and a cause from a fixed list, never a text that came from outside.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_secretsmanager::config::{HttpClient, RuntimeComponents, SharedHttpClient};
use aws_sdk_secretsmanager::error::ConnectorError;
use aws_smithy_http_client::{Connector, proxy::ProxyConfig, tls};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use http_body_util::{LengthLimitError, Limited};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::super::Error;
use super::super::short_lived::ShortLived;
use super::retry;

/// How long an idle connection stays open: its buffers may hold bytes of a secret until it closes.
const IDLE: Duration = Duration::from_secs(10);

/// A client that reads no body beyond `max_body` bytes, heeds the proxy variables of the environment, follows no redirect,
/// and trusts the system's certificates (`SSL_CERT_FILE`, `SSL_CERT_DIR`) or, as the AWS tools do, those of `AWS_CA_BUNDLE`.
pub(super) fn client(max_body: usize, connectors: Arc<Connectors>) -> Result<SharedHttpClient, Error> {
    let tls = match std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
        None => tls::TlsContext::default(),
        Some(path) => trusting(&std::fs::read(path).map_err(|_| unusable_bundle())?)?,
    };
    Ok(SharedHttpClient::new(Bounded { max_body, tls, connectors }))
}

/// Trusts the certificates in `pem` alone. They are checked here because the SDK's client panics on bad ones.
fn trusting(pem: &[u8]) -> Result<tls::TlsContext, Error> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|_| unusable_bundle())?).map_err(|_| unusable_bundle())?;
    }
    if roots.is_empty() {
        return Err(unusable_bundle());
    }
    let store = tls::TrustStore::empty().with_pem_certificate(pem);
    tls::TlsContext::builder().with_trust_store(store).build().map_err(|_| unusable_bundle())
}

fn unusable_bundle() -> Error {
    Error::Unreachable("AWS_CA_BUNDLE does not name a file of PEM certificates".into())
}

/// One connection pool for each pair of timeouts (ours, and those of the credential providers). Replaced by an empty list, it
/// closes all connections: the SDK asks for a connector at every request.
pub(super) type Connectors = ShortLived<Vec<(Timeouts, SharedHttpConnector)>>;
type Timeouts = (Option<Duration>, Option<Duration>);

struct Bounded {
    max_body: usize,
    tls: tls::TlsContext,
    connectors: Arc<Connectors>,
}

impl fmt::Debug for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded").field("max_body", &self.max_body).finish_non_exhaustive()
    }
}

impl HttpClient for Bounded {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        parts: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let timeouts = (settings.connect_timeout(), settings.read_timeout());
        self.connectors.with(|connectors| {
            if let Some((_, connector)) = connectors.iter().find(|(key, _)| *key == timeouts) {
                return connector.clone();
            }
            let connector = self.connector(settings, parts);
            connectors.push((timeouts, connector.clone()));
            connector
        })
    }
}

impl Bounded {
    fn connector(&self, settings: &HttpConnectorSettings, parts: &RuntimeComponents) -> SharedHttpConnector {
        let mut builder = Connector::builder()
            .connector_settings(settings.clone())
            .pool_idle_timeout(IDLE)
            .proxy_config(ProxyConfig::from_env());
        builder.set_sleep_impl(parts.sleep_impl());
        let provider = tls::Provider::rustls(tls::rustls_provider::CryptoMode::AwsLc);
        let inner = builder.tls_provider(provider).tls_context(self.tls.clone()).build();
        SharedHttpConnector::new(BoundedConnector {
            max_body: self.max_body,
            inner: SharedHttpConnector::new(inner),
        })
    }
}

#[derive(Debug)]
struct BoundedConnector {
    max_body: usize,
    inner: SharedHttpConnector,
}

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (host, max_body) = (host_of(request.uri()), self.max_body);
        let answer = self.inner.call(request);
        HttpConnectorFuture::new(async move {
            let mut response = answer.await.map_err(|error| without_text(host, &error))?;
            retry::hide_wait(response.headers_mut());
            let body = std::mem::replace(response.body_mut(), SdkBody::taken());
            *response.body_mut() = SdkBody::from_body_1_x(Limited::new(body, max_body));
            Ok(response)
        })
    }
}

/// The same kind of error (the SDK decides by it whether to try again) around a text of ours.
fn without_text(host: String, error: &ConnectorError) -> ConnectorError {
    let cause = if error.is_timeout() { "no connection in time" } else { cause_of(error) };
    let ours = Box::new(NoAnswer { host, cause });
    if error.is_timeout() {
        ConnectorError::timeout(ours)
    } else if error.is_io() {
        ConnectorError::io(ours)
    } else if error.is_user() {
        ConnectorError::user(ours)
    } else {
        ConnectorError::other(ours, error.as_other())
    }
}

/// A request that had no answer: where it went, and why in our own words.
#[derive(Debug, thiserror::Error)]
#[error("{host}: {cause}")]
pub(super) struct NoAnswer {
    host: String,
    cause: &'static str,
}

/// `https://user:password@host:port/path` without all that is not host and port.
fn host_of(uri: &str) -> String {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.escape_debug().to_string()
}

fn cause_of(error: &(dyn StdError + 'static)) -> &'static str {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = cause_in(error) {
            return cause;
        }
        // An io::Error passes over the error it wraps when asked for its source.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    "no connection could be made: is the address right?"
}

/// What one error of a chain says by itself.
fn cause_in(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    if error.is::<rustls::Error>() {
        return Some("TLS failed: the certificate is not trusted, or this is no TLS server");
    }
    match error.downcast_ref().map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) => return Some("connection refused"),
        Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => return Some("no route"),
        Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof) => {
            return Some(CLOSED);
        }
        _ => {}
    }
    // Private types of hyper, whose texts are fixed.
    match error.to_string().as_str() {
        "dns error" => Some("the name cannot be resolved"),
        "connection closed before message completed" => Some(CLOSED),
        _ => None,
    }
}

const CLOSED: &str = "the connection was closed without an answer";

/// What is to be known of a failed call, looked up in the chain of its causes.
pub(super) enum Known<'a> {
    /// The body was larger than allowed.
    TooLarge,
    /// The credential providers failed.
    Credentials(&'a CredentialsError),
    /// A host gave no answer.
    NoAnswer(&'a NoAnswer),
}

/// The first cause in the chain that says something we know.
pub(super) fn known_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<Known<'a>> {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return Some(Known::TooLarge);
        }
        if let Some(error) = error.downcast_ref() {
            return Some(Known::Credentials(error));
        }
        if let Some(error) = error.downcast_ref() {
            return Some(Known::NoAnswer(error));
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_shown_without_what_else_a_url_holds() {
        assert_eq!(host_of("https://me:canary@sm.example:8443/path?q#f"), "sm.example:8443");
        assert_eq!(host_of("http://127.0.0.1:5000"), "127.0.0.1:5000");
        assert_eq!(host_of("nonsense"), "nonsense");
    }

    #[test]
    fn a_bundle_without_a_certificate_is_refused_and_does_not_panic() {
        let broken = "-----BEGIN CERTIFICATE-----\nMIIBcanary\n-----END CERTIFICATE-----\n";
        for pem in ["", "canary", broken] {
            assert_eq!(trusting(pem.as_bytes()).unwrap_err(), unusable_bundle());
        }
    }

    #[test]
    fn the_text_of_an_error_is_left_behind_and_its_kind_is_kept() {
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "canary");
        let error = without_text("h:1".into(), &ConnectorError::io(refused.into()));
        assert!(error.is_io());
        assert_eq!(error.into_source().to_string(), "h:1: connection refused");
    }
}
