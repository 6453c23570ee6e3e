//! Owns one exchange over HTTP: a request, a bounded answer, redirects only to where we were told to go.
//! Does not know tokens, paths of the API or JSON, nor how long a connection lives.

use std::error::Error as _;
use std::io::ErrorKind;

use async_trait::async_trait;
use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use reqwest::Url;
use rustify::errors::ClientError;
use zeroize::Zeroizing;

use super::config::{Config, ConfigError, origin};
use super::connections::Connections;
use crate::backend::Error;
use crate::clock::{Clock, Moment};

/// The body of an error answer is read (and thrown away, but for one question) up to this size, so that its connection can be used again.
const DRAINED: u64 = 16 << 10;

/// Longest list of errors that is looked at, in bytes; Vault's are shorter by far.
const LOOKED_AT: usize = 4 << 10;
/// How Vault and OpenBao say that it is the token that is refused and not the path (`logical.ErrInvalidToken`).
const INVALID_TOKEN: &[u8] = b"invalid token";

/// Goes with the answer 403: the server says that the token is invalid.
#[derive(Clone)]
pub(super) struct TokenInvalid;

/// Sends requests to one origin and reads answers up to a limit.
///
/// vaultrs's own client follows redirects with the token in hand and buffers bodies of any size, so this one takes its
/// place under rustify's `Client` trait. Only `send` is ours to call: `execute` of that trait puts bodies into errors.
pub(super) struct Transport {
    connections: Connections,
    base: Url,
    origin: String,
    max_body: usize,
}

impl Transport {
    /// A client for the configured address. Reads the CA file; contacts nobody.
    pub(super) fn new(config: &Config, clock: Clock) -> Result<Self, ConfigError> {
        let base = config.base_url()?;
        let connections = Connections::new(config, &base, clock)?;
        Ok(Self { connections, origin: origin(&base), base, max_body: config.max_body })
    }

    /// Closes connections that may hold what was read a while before `now`.
    pub(super) fn tidy(&self, now: Moment) {
        self.connections.tidy(now);
    }

    /// `https://host:port`, for messages.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// The same with the path below which the API lies.
    pub(super) fn address(&self) -> String {
        format!("{}{}", self.origin, self.base.path().trim_end_matches('/'))
    }

    async fn call(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, Error> {
        let (parts, body) = request.into_parts();
        let body = Zeroizing::new(body);
        let mut headers = parts.headers;
        for value in headers.values_mut() {
            value.set_sensitive(true);
        }
        let url = self.locate(&parts.uri)?;
        let mut answer = self.exchange(&parts.method, &url, &headers, &body).await?;
        // The others turn a POST into a GET (RFC 9110, 15.4).
        let keeps_method = parts.method == Method::GET || matches!(answer.status().as_u16(), 307 | 308);
        if answer.status().is_redirection() && keeps_method {
            let url = self.redirected(&url, answer.headers())?;
            drop(answer);
            answer = self.exchange(&parts.method, &url, &headers, &body).await?;
            if answer.status().is_redirection() {
                return Err(Error::Unreachable(format!("{} redirects in a circle", self.origin)));
            }
        }
        let mut response = Response::new(Vec::new());
        *response.status_mut() = answer.status();
        // The one header that says something to us.
        if let Some(wait) = answer.headers().get(RETRY_AFTER) {
            response.headers_mut().insert(RETRY_AFTER, wait.clone());
        }
        if answer.status().is_success() {
            *response.body_mut() = self.body(&mut answer).await?;
        } else if answer.content_length().is_some_and(|length| length <= DRAINED) {
            let mut start = Zeroizing::new(Vec::new());
            while let Ok(Some(chunk)) = answer.chunk().await {
                let room = LOOKED_AT.saturating_sub(start.len()).min(chunk.len());
                start.extend_from_slice(chunk.get(..room).unwrap_or_default());
            }
            if answer.status() == StatusCode::FORBIDDEN
                && start.windows(INVALID_TOKEN.len()).any(|part| part == INVALID_TOKEN)
            {
                response.extensions_mut().insert(TokenInvalid);
            }
        }
        Ok(response)
    }

    /// The URL below the configured base, exactly as spelled: what the parser would rewrite is never sent.
    fn locate(&self, uri: &Uri) -> Result<Url, Error> {
        let path = format!("{}{}", self.base.path().trim_end_matches('/'), uri.path());
        let mut url = self.base.clone();
        url.set_path(&path);
        url.set_query(uri.query());
        if url.path() == path && url.query() == uri.query() { Ok(url) } else { Err(Error::NotFound) }
    }

    /// Where one redirect may lead: another path of the same scheme, host and port.
    fn redirected(&self, from: &Url, headers: &HeaderMap) -> Result<Url, Error> {
        let to =
            headers.get(LOCATION).and_then(|value| value.to_str().ok()).and_then(|to| from.join(to).ok());
        let Some(to) = to else {
            return Err(Error::Unreachable(format!("{} redirects to nowhere", self.origin)));
        };
        if to.origin() != self.base.origin() {
            return Err(Error::Unreachable(format!(
                "{} redirects to {}, which is not followed: set the address (VAULT_ADDR) to it if it is yours",
                self.origin,
                origin(&to)
            )));
        }
        let mut url = self.base.clone();
        url.set_path(to.path());
        url.set_query(to.query());
        Ok(url)
    }

    /// Sends once, and once more when a kept connection turned out to be dead: a GET changes nothing.
    async fn exchange(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<reqwest::Response, Error> {
        let client = self.connections.client();
        let send = || {
            let mut request = reqwest::Request::new(method.clone(), url.clone());
            *request.headers_mut() = headers.clone();
            if !body.is_empty() {
                *request.body_mut() = Some(body.to_vec().into());
            }
            client.execute(request)
        };
        match send().await {
            Ok(answer) => Ok(answer),
            Err(error) if error.is_request() && !error.is_connect() && method == Method::GET => {
                send().await.map_err(|error| self.failure(&error))
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    async fn body(&self, answer: &mut reqwest::Response) -> Result<Vec<u8>, Error> {
        let too_large = Error::TooLarge { limit: self.max_body };
        let announced = usize::try_from(answer.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
        if announced > self.max_body {
            return Err(too_large);
        }
        let mut body = Vec::with_capacity(announced);
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.failure(&error))? {
            if body.len().saturating_add(chunk.len()) > self.max_body {
                return Err(too_large);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// A fixed text per cause. The error's own text is looked at but never passed on.
    fn failure(&self, error: &reqwest::Error) -> Error {
        let origin = &self.origin;
        let mut source = error.source();
        while let Some(cause) = source {
            let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if let Some(reason) = reason(kind, &cause.to_string()) {
                return Error::Unreachable(format!("{reason} ({origin})"));
            }
            source = cause.source();
        }
        Error::Unreachable(if error.is_connect() {
            format!("no connection to {origin}")
        } else {
            format!("{origin} closed the connection before the answer was complete")
        })
    }
}

#[async_trait]
impl rustify::client::Client for Transport {
    fn base(&self) -> &str {
        &self.origin
    }

    async fn send(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, ClientError> {
        self.call(request).await.map_err(|error| ClientError::GenericError { source: error.into() })
    }
}

/// The error that [`Transport`] put into rustify's.
pub(super) fn our_error(error: ClientError) -> Error {
    match error {
        ClientError::GenericError { source } => {
            source.downcast().unwrap_or(Error::Malformed("the request could not be made"))
        }
        _ => Error::Malformed("the request could not be made"),
    }
}

fn reason(kind: Option<ErrorKind>, text: &str) -> Option<&'static str> {
    // rustls and the resolver wrap their errors in plain text; these are their fixed beginnings.
    if text.contains("invalid peer certificate") {
        return Some(if text.contains("not valid for") {
            "the TLS certificate is for another name"
        } else if text.contains("xpired") {
            "the TLS certificate has expired"
        } else {
            "the TLS certificate is not trusted: set VAULT_CACERT to the file of its CA"
        });
    }
    if text.contains("corrupt message") {
        return Some("it does not speak TLS: is the address http:// rather than https://?");
    }
    if text.contains("dns error") || text.contains("failed to lookup address") {
        return Some("the host name cannot be resolved");
    }
    match kind? {
        ErrorKind::ConnectionRefused => Some("connection refused"),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
            Some("connection reset")
        }
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some("no route"),
        ErrorKind::TimedOut => Some("no answer to the connection attempt"),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn transport(address: &str) -> Transport {
        Transport::new(&Config { address: address.to_owned(), ..Config::default() }, Clock::manual()).unwrap()
    }

    fn redirect(transport: &Transport, location: &str) -> Result<String, Error> {
        let from = transport.locate(&Uri::from_static("/v1/secret/data/a")).unwrap();
        let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
        transport.redirected(&from, &headers).map(String::from)
    }

    #[test]
    fn a_redirect_stays_on_scheme_host_and_port() {
        let plain = transport("http://127.0.0.1:8200");
        assert_eq!(redirect(&plain, "/v1/x?y=1").unwrap(), "http://127.0.0.1:8200/v1/x?y=1");
        assert_eq!(redirect(&plain, "http://127.0.0.1:8200/v1/x").unwrap(), "http://127.0.0.1:8200/v1/x");
        for elsewhere in [
            "http://127.0.0.1:8201/",
            "http://evil.example:8200/",
            "https://127.0.0.1:8200/",
            "//evil.example/",
            "file:///x",
        ] {
            assert!(matches!(redirect(&plain, elsewhere), Err(Error::Unreachable(_))), "{elsewhere}");
        }
        let tls = transport("https://vault.example");
        assert!(redirect(&tls, "https://vault.example:443/v1/x").is_ok());
        assert!(redirect(&tls, "http://vault.example/v1/x").is_err(), "a downgrade");
        let error = redirect(&tls, "https://me:canary@other.example/?canary").unwrap_err().to_string();
        assert!(error.contains("https://other.example:443") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn a_base_path_stays_in_front_and_nothing_is_rewritten() {
        let based = transport("https://proxy.example/vault/");
        let url = based.locate(&Uri::from_static("/v1/secret/data/a%2Fb?list=true")).unwrap();
        assert_eq!(url.as_str(), "https://proxy.example/vault/v1/secret/data/a%2Fb?list=true");
        for climbing in ["/v1/secret/../sys", "/v1/secret/%2e%2e/sys", "/v1/./sys"] {
            assert_eq!(based.locate(&Uri::from_static(climbing)).unwrap_err(), Error::NotFound, "{climbing}");
        }
    }
}
