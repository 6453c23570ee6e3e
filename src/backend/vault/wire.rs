//! Owns one exchange with a given token: the request as it was meant, the answer as a body or an error.
//! Does not know where tokens come from, or what is asked.

use std::time::Duration;

use rustify::client::Client as _;
use rustify::endpoint::{Endpoint as _, MiddleWare as _};
use vaultrs::api::EndpointMiddleware;
use zeroize::Zeroizing;

use super::api::{Call, meaning, wait};
use super::http::{TokenInvalid, Transport, our_error};
use crate::backend::Error;

/// The server, the namespace, and how long one exchange of our own may take.
pub(super) struct Wire {
    pub(super) transport: Transport,
    /// Without slashes around it.
    pub(super) namespace: Option<String>,
    /// For exchanges that no caller bounds.
    pub(super) limit: Duration,
}

/// No body was had.
pub(super) struct NoBody {
    pub(super) error: Error,
    /// The server says by itself that it is the token that it refuses (Vault since 1.12, OpenBao; older servers do not tell).
    pub(super) token_invalid: bool,
}

impl From<Error> for NoBody {
    fn from(error: Error) -> Self {
        Self { error, token_invalid: false }
    }
}

impl Wire {
    /// What vaultrs needs to make a request with `token`, which is text that a header can hold; an empty one is none.
    pub(super) fn middleware(&self, token: String) -> EndpointMiddleware {
        EndpointMiddleware { token, version: "v1".to_owned(), wrap: None, namespace: self.namespace.clone() }
    }

    /// The body of a 2xx answer; everything else is an error.
    pub(super) async fn send(
        &self,
        call: &Call,
        middleware: &EndpointMiddleware,
    ) -> Result<Zeroizing<Vec<u8>>, NoBody> {
        let mut request = call.request(self.transport.base()).map_err(our_error)?;
        middleware.request(call, &mut request).map_err(our_error)?;
        // The middleware parsed and joined: what it made must be what was meant, byte by byte.
        if !call.is_what_is_sent(request.uri()) {
            return Err(Error::NotFound.into());
        }
        let response = self.transport.send(request).await.map_err(our_error)?;
        match meaning(response.status(), wait(response.headers())) {
            None => Ok(Zeroizing::new(response.into_body())),
            Some(error) => {
                Err(NoBody { error, token_invalid: response.extensions().get::<TokenInvalid>().is_some() })
            }
        }
    }

    /// As [`Self::send`], within the limit.
    pub(super) async fn send_within(
        &self,
        call: &Call,
        middleware: &EndpointMiddleware,
    ) -> Result<Zeroizing<Vec<u8>>, NoBody> {
        let answer = tokio::time::timeout(self.limit, self.send(call, middleware)).await;
        answer.unwrap_or(Err(Error::TimedOut(self.limit).into()))
    }
}
