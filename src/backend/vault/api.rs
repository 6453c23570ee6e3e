//! Owns one call of Vault's API: how a path is spelled, which headers it carries, what a status means.
//! Does not know engines or secrets, and not how bytes travel.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use rustify::endpoint::Endpoint;
use rustify::enums::{RequestMethod, RequestType, ResponseType};
use rustify::errors::ClientError;
use serde::Deserialize;
use vaultrs::api::EndpointResult;
use zeroize::Zeroizing;

use super::auth::{Auth, Use};
use super::config::{Config, ConfigError, Setting, TokenSource};
use super::http::Transport;
use super::wire::{NoBody, Wire};
use crate::backend::issuer::{Parent, ParentId};
use crate::backend::{Error, retry_after};
use crate::clock::{Clock, Moment};
use crate::path::BackendPath;

/// Longest encoded path that is sent, in bytes. Vault's storage takes keys up to 32 KiB; an `http::Uri` up to 64 KiB.
const MAX_PATH: usize = 48 << 10;

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

impl Call {
    /// Whether a request to `uri` asks for exactly this.
    pub(super) fn is_what_is_sent(&self, uri: &Uri) -> bool {
        uri.path().strip_prefix("/v1/") == Some(&self.path) && uri.query().unwrap_or_default() == self.query
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

/// Makes calls with the token of the moment, whose whole life is the business of `auth`.
pub(super) struct Api {
    auth: Auth,
}

impl Api {
    pub(super) fn new(config: Config) -> Result<Self, ConfigError> {
        let transport = Transport::new(&config, Clock::System)?;
        let limit = config.call_limit();
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
        let wire = Wire { transport, namespace, limit };
        Ok(Self { auth: Auth::new(wire, config.token, Clock::System) })
    }

    /// Where the token of the moment comes from.
    pub(super) fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Closes connections that may hold what was read a while before `now`.
    pub(super) fn tidy(&self, now: Moment) {
        self.auth.wire().transport.tidy(now);
    }

    /// The configured namespace, without slashes around it.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.auth.wire().namespace.as_deref()
    }

    /// The server and the namespace. No namespace has a space in it.
    pub(super) fn whereabouts(&self) -> String {
        format!("{} {}", self.auth.wire().transport.address(), self.namespace().unwrap_or_default())
    }

    /// The body of a 2xx answer; everything else is an error.
    pub(super) async fn call(&self, call: &Call) -> Result<Zeroizing<Vec<u8>>, Error> {
        Ok(self.call_with(call, Use::Read).await?.0)
    }

    /// As [`Self::call`], with the token that it was made with: for what ends with that token.
    pub(super) async fn call_noting(&self, call: &Call) -> Result<(Zeroizing<Vec<u8>>, ParentId), Error> {
        self.call_with(call, Use::Lease).await
    }

    async fn call_with(&self, call: &Call, purpose: Use) -> Result<(Zeroizing<Vec<u8>>, ParentId), Error> {
        let mut token = self.auth.token(purpose).await?;
        let mut again = true;
        loop {
            let NoBody { error, token_invalid } = match self.auth.wire().send(call, &token.middleware).await {
                Ok(body) => {
                    self.auth.is_good(&token);
                    return Ok((body, token.id));
                }
                Err(why) => why,
            };
            match (error == Error::Forbidden, std::mem::take(&mut again)) {
                (true, true) => {}
                (true, false) if token_invalid => return Err(self.auth.refused()),
                _ => return Err(error),
            }
            // Whether it is the token or the path: with another token, once more.
            token = match self.auth.other_than(&token, token_invalid, purpose).await? {
                Some(other) => other,
                None => return Err(error),
            };
        }
    }

    /// What is known of a token that something was made with.
    pub(super) fn parent(&self, parent: ParentId) -> Parent {
        self.auth.parent(parent)
    }

    /// Ready when [`Self::parent`] may answer otherwise than before. For one who waits.
    pub(super) async fn parents_changed(&self) {
        self.auth.parents_changed().await;
    }

    /// Keeps the token alive, for as long as it is polled.
    pub(super) async fn tend(&self) {
        self.auth.tend().await;
    }

    /// Gives back the tokens that logins of ours have made, but for those that are `kept`; none is made any more.
    pub(super) async fn close(&self, kept: &[String]) {
        self.auth.close(kept).await;
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

pub(super) fn meaning(status: StatusCode, wait: Option<Duration>) -> Option<Error> {
    match (status.as_u16(), wait) {
        (200..=299, _) => None,
        (403, _) => Some(Error::Forbidden),
        (404, _) => Some(Error::NotFound),
        // Rate limit quotas, and a server that is sealed, overloaded or behind a proxy that says when to come again.
        (status @ (429 | 503), Some(retry_after)) => Some(Error::Busy { status, retry_after }),
        (other, _) => Some(Error::Status(other)),
    }
}

pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    retry_after::of_header(headers.get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

pub(super) fn is_header_text(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_graphic)
}

pub(super) fn header_text(bytes: &[u8]) -> Option<String> {
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
    use rustify::endpoint::MiddleWare as _;
    use vaultrs::api::EndpointMiddleware;

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
    fn another_address_or_namespace_is_somewhere_else_and_the_same_in_other_words_is_not() {
        let at = |address: &str, namespace: Option<&str>| {
            let (address, namespace) = (address.to_owned(), namespace.map(str::to_owned));
            Api::new(Config { address, namespace, ..Config::default() }).unwrap().whereabouts()
        };
        let here = at("https://v.example", None);
        for (address, namespace) in [
            ("https://w.example", None),
            ("https://v.example:8200", None),
            ("http://v.example", None),
            ("https://v.example/vault", None),
            ("https://v.example", Some("team")),
        ] {
            assert_ne!(at(address, namespace), here, "{address} {namespace:?}");
        }
        for (address, namespace) in [("https://v.example:443/", Some("/")), ("https://V.EXAMPLE", Some(""))] {
            assert_eq!(at(address, namespace), here, "{address} {namespace:?}");
        }
        assert_eq!(at("https://v.example", Some("/team/")), at("https://v.example", Some("team")));
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

    #[test]
    fn the_answer_keeps_nothing_of_a_broken_body() {
        let error = data::<serde_json::Value>(b"{\"data\": {\"password\": \"canary").unwrap_err();
        assert!(matches!(error, Error::Malformed(_)) && !error.to_string().contains("canary"));
    }
}
