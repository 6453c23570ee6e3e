//! Owns one call of Vault's API: how a path is spelled, which headers it carries, what a status means.
//! Does not know engines or secrets, and not how bytes travel.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode};
use rustify::client::Client as _;
use rustify::endpoint::{Endpoint, MiddleWare as _};
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::Deserialize;
use tokio::sync::OnceCell;
use vaultrs::api::{EndpointMiddleware, EndpointResult};
use zeroize::Zeroizing;

use super::config::{Config, ConfigError, Setting, TokenSource};
use super::http::{Transport, our_error};
use crate::backend::issuer::{Parent, ParentId};
use crate::backend::{Error, retry_after};
use crate::clock::{Clock, Moment};
use crate::{path::BackendPath, printable::printable_path, trusted_file};

/// Longest encoded path that is sent, in bytes. Vault's storage takes keys up to 32 KiB; an `http::Uri` up to 64 KiB.
const MAX_PATH: usize = 48 << 10;
const NO_TOKEN: &str = "no token: set VAULT_TOKEN or run `vault login`";

/// `GET /v1/PATH`, with a query where there is one: `list=true`, which unlike the method LIST passes every proxy, or the
/// number of a version. Or `POST /v1/PATH`, with a body of JSON.
pub(super) struct Call {
    path: String,
    query: String,
    /// What is posted; none for a `GET`.
    body: Option<Zeroizing<Vec<u8>>>,
}

impl Call {
    /// Reads `segments`, encoded one by one. A segment that could be misread on the way is [`Error::NotFound`]:
    /// Vault cannot hold a secret of that name.
    pub(super) fn read<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        Ok(Self { path: encode(segments)?, query: String::new(), body: None })
    }

    /// Writes `body`, which is JSON and may hold a secret, to `segments`.
    pub(super) fn write<'a>(
        segments: impl IntoIterator<Item = &'a str>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Self, Error> {
        Ok(Self { body: Some(body), ..Self::read(segments)? })
    }

    /// Reads version `number` of what is at `segments` (KV version 2).
    pub(super) fn read_version<'a>(
        segments: impl IntoIterator<Item = &'a str>,
        number: u32,
    ) -> Result<Self, Error> {
        Ok(Self { query: format!("version={number}"), ..Self::read(segments)? })
    }

    /// Lists the folder at `segments`.
    pub(super) fn list<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut path = encode(segments)?;
        path.push('/');
        Ok(Self { path, query: "list=true".to_owned(), body: None })
    }

    /// Lists at most `limit` names of the folder at `segments`, those that follow `after` (OpenBao; Vault ignores both).
    pub(super) fn list_page<'a>(
        segments: impl IntoIterator<Item = &'a str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Self, Error> {
        let mut call = Self::list(segments)?;
        if let Some(after) = after {
            call.query.push_str("&after=");
            percent_encode(after, &mut call.query);
        }
        call.query.push_str(&format!("&limit={limit}"));
        // An `http::Uri` would refuse it as well.
        if call.path.len() + call.query.len() > MAX_PATH {
            return Err(Error::Malformed("a listing names a secret that is too long to go on from"));
        }
        Ok(call)
    }
}

impl Endpoint for Call {
    type Response = ();
    const REQUEST_BODY_TYPE: RequestType = RequestType::JSON;
    const RESPONSE_BODY_TYPE: ResponseType = ResponseType::JSON;

    fn path(&self) -> String {
        self.path.clone()
    }

    fn method(&self) -> RequestMethod {
        if self.body.is_some() { RequestMethod::POST } else { RequestMethod::GET }
    }

    /// The trait's own would encode the path a second time, and drop `..` instead of refusing it.
    fn request(&self, base: &str) -> Result<Request<Vec<u8>>, ClientError> {
        let mut url = format!("{base}/{}", self.path);
        if !self.query.is_empty() {
            url.push('?');
            url.push_str(&self.query);
        }
        let request = Request::builder().uri(&url);
        let request = match &self.body {
            Some(body) => request
                .method(Method::POST)
                .header(CONTENT_TYPE, "application/json")
                .body(Vec::from(body.as_slice())),
            None => request.method(Method::GET).body(Vec::new()),
        };
        request.map_err(|source| ClientError::RequestBuildError { source, method: self.method(), url })
    }
}

/// Makes calls with the configured token. The token is read at the first call that finds one.
pub(super) struct Api {
    transport: Transport,
    token: TokenSource,
    namespace: Option<String>,
    /// Holds the token as a `String`, because vaultrs wants one; it goes nowhere else.
    middleware: OnceCell<EndpointMiddleware>,
}

impl Api {
    pub(super) fn new(config: Config) -> Result<Self, ConfigError> {
        let transport = Transport::new(&config, Clock::System)?;
        let namespace =
            config.namespace.map(|name| name.trim_matches('/').to_owned()).filter(|name| !name.is_empty());
        if namespace.as_deref().is_some_and(|name| !is_header_text(name.as_bytes())) {
            return Err(ConfigError::new(Setting::Namespace, "holds characters that no namespace has"));
        }
        if let TokenSource::Literal(token) = &config.token
            && !is_header_text(token.expose().trim_ascii())
        {
            return Err(ConfigError::new(Setting::Token, "holds characters that no token has"));
        }
        Ok(Self { transport, token: config.token, namespace, middleware: OnceCell::new() })
    }

    /// `https://host:port`, for messages.
    pub(super) fn origin(&self) -> &str {
        self.transport.origin()
    }

    /// Closes connections that may hold what was read a while before `now`.
    pub(super) fn tidy(&self, now: Moment) {
        self.transport.tidy(now);
    }

    /// The configured namespace, without slashes around it.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The body of a 2xx answer; everything else is an error.
    pub(super) async fn call(&self, call: &Call) -> Result<Zeroizing<Vec<u8>>, Error> {
        Ok(self.call_noting(call).await?.0)
    }

    /// As [`Self::call`], with the token that it was made with.
    pub(super) async fn call_noting(&self, call: &Call) -> Result<(Zeroizing<Vec<u8>>, ParentId), Error> {
        let middleware = self.middleware.get_or_try_init(|| self.load_middleware()).await?;
        let mut request = call.request(self.transport.base()).map_err(our_error)?;
        middleware.request(call, &mut request).map_err(our_error)?;
        // The middleware parsed and joined: what it made must be what was meant, byte by byte.
        if request.uri().path().strip_prefix("/v1/") != Some(&call.path)
            || request.uri().query().unwrap_or_default() != call.query
        {
            return Err(Error::NotFound);
        }
        let response = self.transport.send(request).await.map_err(our_error)?;
        match meaning(response.status(), wait(response.headers())) {
            None => Ok((Zeroizing::new(response.into_body()), ParentId(0))),
            Some(error) => Err(error),
        }
    }

    /// What is known of the token that something was made with.
    pub(super) fn parent(&self, _parent: ParentId) -> Parent {
        Parent::Lives(None)
    }

    /// Ready when [`Self::parent`] may answer otherwise than before.
    pub(super) async fn parents_changed(&self) {
        std::future::pending().await
    }

    async fn load_middleware(&self) -> Result<EndpointMiddleware, Error> {
        let token = match &self.token {
            TokenSource::Literal(token) => header_text(token.expose()),
            TokenSource::AppRole(_) | TokenSource::Absent => {
                return Err(Error::Unreachable(NO_TOKEN.to_owned()));
            }
            TokenSource::File(path) => {
                let file = path.clone();
                // A home folder may be on a network: never wait for it on a thread that serves others.
                let read = tokio::task::spawn_blocking(move || trusted_file::read(&file)).await;
                match read {
                    Ok(Ok(content)) => header_text(&content.bytes),
                    Ok(Err(trusted_file::Refusal::Missing)) => {
                        return Err(Error::Unreachable(NO_TOKEN.to_owned()));
                    }
                    Ok(Err(refusal)) => {
                        let file = printable_path(path);
                        return Err(Error::Unreachable(format!("no token from `{file}`: {refusal}")));
                    }
                    Err(_) => {
                        return Err(Error::Unreachable(
                            "the token file was not read: shutting down".to_owned(),
                        ));
                    }
                }
            }
        };
        // An invalid header value would make the middleware panic.
        let token = token.filter(|token| !token.is_empty()).ok_or_else(|| {
            Error::Unreachable(
                "what is set as the token is none: set VAULT_TOKEN or run `vault login`".to_owned(),
            )
        })?;
        Ok(EndpointMiddleware {
            token,
            version: "v1".to_owned(),
            wrap: None,
            namespace: self.namespace.clone(),
        })
    }
}

/// `data` of an answer; `None` when it is null. serde's own text may quote the input, so it goes nowhere.
pub(super) fn data<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<Option<T>, Error> {
    let result: EndpointResult<T> = serde_json::from_slice(body)
        .map_err(|_| Error::Malformed("not the JSON that Vault's API documents"))?;
    Ok(result.data)
}

/// Whether every segment can be sent at all.
pub(super) fn is_sendable(path: &BackendPath) -> bool {
    encode(path.segments()).is_ok()
}

/// Percent-encodes each segment byte by byte and joins them: the result has exactly as many segments, whoever parses it.
fn encode<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<String, Error> {
    let mut path = String::with_capacity(96);
    for segment in segments {
        if matches!(segment, "" | "." | "..") || segment.contains(|c: char| c.is_control() || c == '/') {
            return Err(Error::NotFound);
        }
        if !path.is_empty() {
            path.push('/');
        }
        percent_encode(segment, &mut path);
        if path.len() > MAX_PATH {
            return Err(Error::NotFound);
        }
    }
    Ok(path)
}

/// Appends `text` with every byte that is not unreserved (RFC 3986, 2.3) as `%XX`: it means the same in a path and in a query.
fn percent_encode(text: &str, to: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.') {
            to.push(char::from(byte));
        } else {
            to.push('%');
            for digit in [byte >> 4, byte & 15] {
                to.push(HEX.get(usize::from(digit)).copied().map_or('0', char::from));
            }
        }
    }
}

fn meaning(status: StatusCode, wait: Option<Duration>) -> Option<Error> {
    match (status.as_u16(), wait) {
        (200..=299, _) => None,
        (403, _) => Some(Error::Forbidden),
        (404, _) => Some(Error::NotFound),
        // Rate limit quotas, and a server that is sealed, overloaded or behind a proxy that says when to come again.
        (status @ (429 | 503), Some(retry_after)) => Some(Error::Busy { status, retry_after }),
        (other, _) => Some(Error::Status(other)),
    }
}

fn wait(headers: &HeaderMap) -> Option<Duration> {
    retry_after::of_header(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

fn is_header_text(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_graphic)
}

fn header_text(bytes: &[u8]) -> Option<String> {
    let bytes = bytes.trim_ascii();
    if !is_header_text(bytes) {
        return None;
    }
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(text: &str) -> Vec<u8> {
        let mut bytes = text.bytes();
        let mut decoded = Vec::new();
        while let Some(byte) = bytes.next() {
            if byte == b'%' {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                decoded.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            } else {
                decoded.push(byte);
            }
        }
        decoded
    }

    fn segment() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>().prop_map(|text| text.replace('/', "")),
            "[%.2eEfF\\\\?#;:@ ]{0,8}",
            Just("..".to_owned()),
            Just("%2e%2e".to_owned()),
        ]
    }

    proptest! {
        #[test]
        fn a_sent_path_is_the_prefix_and_the_same_segments(
            segments in prop::collection::vec(segment(), 1..6),
            kind in 0..4,
            after: String,
        ) {
            let full = ["secret", "data"].into_iter().chain(segments.iter().map(String::as_str));
            let (list, call) = match kind {
                0 => (false, Call::read(full)),
                1 => (false, Call::read_version(full, 7)),
                2 => (true, Call::list(full)),
                _ => (true, Call::list_page(full, Some(&after), 1000)),
            };
            let Ok(call) = call else {
                let refusable = |s: &String| s.is_empty() || s == "." || s == ".." || s.chars().any(char::is_control);
                prop_assert!(segments.iter().any(refusable));
                return Ok(());
            };
            // Through both parsers that stand between us and the wire.
            let mut request = call.request("https://vault.example:8200").unwrap();
            let middleware = EndpointMiddleware { token: "t".into(), version: "v1".into(), wrap: None, namespace: None };
            middleware.request(&call, &mut request).unwrap();
            let url = reqwest::Url::parse(&request.uri().to_string()).unwrap();
            let rest = url.path().strip_prefix("/v1/secret/data/").unwrap();
            let rest = if list { rest.strip_suffix('/').unwrap() } else { rest };
            let found: Vec<Vec<u8>> = rest.split('/').map(decode).collect();
            let expected: Vec<Vec<u8>> = segments.iter().map(|s| s.as_bytes().to_vec()).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(request.uri().query().unwrap_or_default(), &call.query);
            prop_assert_eq!(url.query().unwrap_or_default(), &call.query);
            let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            let expected = match kind {
                0 => vec![],
                1 => vec![("version", "7")],
                2 => vec![("list", "true")],
                _ => vec![("list", "true"), ("after", after.as_str()), ("limit", "1000")],
            };
            prop_assert!(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected));
            prop_assert_eq!(url.fragment(), None);
        }
    }

    #[test]
    fn what_could_be_misread_is_refused_before_it_is_sent() {
        for bad in ["", ".", "..", "a\nb", "\u{7f}", "\u{85}", "a/b"] {
            assert_eq!(encode(["secret", bad]), Err(Error::NotFound), "{bad:?}");
        }
        assert_eq!(encode(["x".repeat(MAX_PATH + 1).as_str()]), Err(Error::NotFound));
        assert_eq!(encode(["a b", "%2e", "ü", "..."]).unwrap(), "a%20b/%252e/%C3%BC/...");
    }

    #[test]
    fn a_status_means_what_the_table_says() {
        let of = |code| meaning(StatusCode::from_u16(code).unwrap(), None);
        assert_eq!(of(200), None);
        assert_eq!(of(204), None);
        assert_eq!(of(403), Some(Error::Forbidden));
        assert_eq!(of(404), Some(Error::NotFound));
        for code in [400, 412, 429, 472, 500, 503] {
            assert_eq!(of(code), Some(Error::Status(code)));
        }
        let retry_after = Duration::from_secs(7);
        let asked = |code| meaning(StatusCode::from_u16(code).unwrap(), Some(retry_after));
        for status in [429, 503] {
            assert_eq!(asked(status), Some(Error::Busy { status, retry_after }));
        }
        for (code, expected) in [(403, Error::Forbidden), (404, Error::NotFound), (500, Error::Status(500))] {
            assert_eq!(asked(code), Some(expected));
        }
        assert_eq!(asked(200), None);
    }

    #[test]
    fn a_name_too_long_to_go_on_from_is_an_error_and_no_request() {
        let error = Call::list_page(["secret"], Some(&"x".repeat(MAX_PATH)), 1000).err().unwrap();
        assert!(matches!(error, Error::Malformed(_)), "{error:?}");
    }

    #[test]
    fn a_token_or_namespace_that_is_no_header_is_refused_without_showing_it() {
        let with_token = |token: &str| {
            Api::new(Config { token: TokenSource::Literal(token.to_owned().into()), ..Config::default() })
        };
        let error = with_token("canary\nX-Evil: 1").err().unwrap();
        assert_eq!(error.setting, Setting::Token);
        assert!(!error.to_string().contains("canary"));
        let error = Api::new(Config { namespace: Some("a b".into()), ..Config::default() }).err().unwrap();
        assert_eq!(error.setting, Setting::Namespace);
        assert_eq!(header_text(b" hvs.x\n").as_deref(), Some("hvs.x"));
    }

    #[tokio::test]
    async fn without_a_token_the_first_call_says_what_to_set_and_a_later_one_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(".vault-token");
        let api = Api::new(Config { token: TokenSource::File(file.clone()), ..Config::default() }).unwrap();
        assert_eq!(api.load_middleware().await.unwrap_err(), Error::Unreachable(NO_TOKEN.to_owned()));
        std::fs::write(&file, "canary-token\n").unwrap();
        assert_eq!(api.load_middleware().await.unwrap().token, "canary-token");
        std::fs::write(&file, "canary \x01 token").unwrap();
        let error = api.load_middleware().await.unwrap_err().to_string();
        assert!(error.contains("VAULT_TOKEN") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn the_answer_keeps_nothing_of_a_broken_body() {
        let error = data::<serde_json::Value>(b"{\"data\": {\"password\": \"canary").unwrap_err();
        assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"));
    }
}
