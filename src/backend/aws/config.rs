//! Owns what an operator may say about AWS; whatever is left unsaid comes from the environment, as in every AWS tool.
//! Does not know TOML, nor how the SDK takes these.

use std::fmt;
use std::time::Duration;

/// How to reach AWS Secrets Manager. `None` everywhere is the standard chain: `AWS_PROFILE`, `AWS_REGION`,
/// `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SECRETS_MANAGER`, `AWS_ACCESS_KEY_ID`, web identity, SSO, ECS and EC2 roles.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// The region, over `AWS_REGION` and the profile's.
    pub region: Option<String>,
    /// The profile of `~/.aws/config`, over `AWS_PROFILE`.
    pub profile: Option<String>,
    /// The endpoint of Secrets Manager alone (not of STS or SSO), over `AWS_ENDPOINT_URL`.
    pub endpoint_url: Option<String>,
    /// Bounds every call as a whole: credentials, retries, all pages of a listing.
    pub deadline: Duration,
    /// The largest body of one answer, in bytes. It holds a value as JSON (Secrets Manager's own limit for a value is
    /// 64 KiB) or one page of 100 secrets of a listing with their descriptions and tags, which can be some 2 MiB.
    pub max_body: usize,
}

impl Default for Config {
    /// The environment's chain, 5 seconds, 4 MiB.
    fn default() -> Self {
        Self {
            region: None,
            profile: None,
            endpoint_url: None,
            deadline: Duration::from_secs(5),
            max_body: 4 * 1024 * 1024,
        }
    }
}

/// Without the endpoint itself: somebody may have written a password into the URL.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, profile, endpoint_url, deadline, max_body } = self;
        f.debug_struct("Config")
            .field("region", region)
            .field("profile", profile)
            .field("endpoint_url", &endpoint_url.as_ref().map(|_| "[set]"))
            .field("deadline", deadline)
            .field("max_body", max_body)
            .finish()
    }
}
