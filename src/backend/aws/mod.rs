//! Owns AWS Secrets Manager as a backend: one secret's value at a version, and the names and versions of a folder.
//! Does not know files or caching. The only module that names an AWS crate.

mod config;
mod fault;
mod http;
mod listing;
mod name;
mod retry;
mod version;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use aws_config::identity::IdentityCache;
use aws_config::timeout::TimeoutConfig;
use aws_config::{ConfigLoader, Region, SdkConfig};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{StalledStreamProtectionConfig, retry::RetryConfig};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use tokio::sync::OnceCell;

pub use config::Config;

use self::fault::{Asked, Bounds, meaning};
use self::listing::Costly;
use self::version::{CURRENT, Wanted};
use super::json_fields::fields_of_object;
use super::{Backend, Error, Kind, Listing, Versions};
use crate::clock::{Clock, Moment};
use crate::path::BackendPath;
use crate::secret::{Field, Form, Secret, SecretBytes, Version};

/// The one field of a secret that is no JSON object.
const BLOB_FIELD: &str = "value";
/// AWS Secrets Manager in one account and region.
pub struct Aws {
    config: Config,
    given: Option<SdkConfig>,
    client: OnceCell<Client>,
    connectors: Arc<http::Connectors>,
    costly: Costly,
}

impl Aws {
    /// A backend that has not been to the network: region, credentials and connections are looked for at the first call,
    /// and again at the next where that failed. Needs no runtime.
    pub fn new(config: Config) -> Self {
        Self::made(config, None)
    }

    /// For a program that has an SDK configuration of its own: region, endpoint and credentials are taken from `sdk`,
    /// the bounds from `config`, whose other fields are not looked at.
    pub fn from_sdk_config(sdk: SdkConfig, config: Config) -> Self {
        Self::made(config, Some(sdk))
    }

    fn made(config: Config, given: Option<SdkConfig>) -> Self {
        let connectors = Arc::new(http::Connectors::new(vec![], Clock::System));
        Self { config, given, client: OnceCell::new(), connectors, costly: Costly::new(Clock::System) }
    }

    fn bounds(&self) -> Bounds {
        Bounds { deadline: self.config.deadline, max_body: self.config.max_body }
    }

    async fn within_deadline<T>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let deadline = self.config.deadline;
        tokio::time::timeout(deadline, work).await.unwrap_or(Err(Error::TimedOut(deadline)))
    }

    async fn client(&self) -> Result<&Client, Error> {
        self.client.get_or_try_init(|| self.connect()).await
    }

    async fn connect(&self) -> Result<Client, Error> {
        let deadline = self.config.deadline;
        let http = http::client(self.config.max_body, self.connectors.clone())?;
        let sdk = match &self.given {
            Some(sdk) => sdk.clone(),
            None => self.loader().http_client(http.clone()).load().await,
        };
        if sdk.region().is_none() {
            return Err(Error::Unreachable(
                "no AWS region: set AWS_REGION or `region` in the backend's configuration".into(),
            ));
        }
        // Half the deadline to connect, so that a dead address leaves time for another.
        let timeouts =
            TimeoutConfig::builder().connect_timeout(deadline / 2).operation_timeout(deadline).build();
        // A second request for a hiccup; whoever calls has a patience of his own for an outage.
        let retries = RetryConfig::standard().with_max_attempts(2).with_initial_backoff(deadline / 20);
        // Longer than any call: what ends a slow load is the call's own deadline.
        let identities = IdentityCache::lazy().load_timeout(deadline.saturating_mul(2)).build();
        let mut builder = aws_sdk_secretsmanager::config::Builder::from(&sdk)
            .http_client(http)
            .identity_cache(identities)
            .timeout_config(timeouts)
            .retry_config(retries)
            .retry_classifier(retry::TooLargeIsFinal)
            .retry_classifier(retry::BusyIsFinal)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(url) = self.config.endpoint_url.as_ref().filter(|_| self.given.is_none()) {
            builder = builder.endpoint_url(url);
        }
        Ok(Client::from_conf(builder.build()))
    }

    fn loader(&self) -> ConfigLoader {
        let mut loader = aws_config::from_env();
        if let Some(region) = &self.config.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(profile) = &self.config.profile {
            loader = loader.profile_name(profile);
        }
        loader
    }

    /// The secret called exactly `name`, at the version that is wanted.
    ///
    /// A name that ends like an ARN may be answered with another secret, whose suffix it is, or with that one's refusal.
    /// The name in the answer decides; where it is not ours, the list of names has the full ARN, which means one secret only.
    async fn read_named(&self, name: &str, wanted: &Wanted<'_>) -> Result<Secret, Error> {
        let first = self.value(name, name, wanted).await;
        if !name::ends_like_an_arn(name) || !matches!(first, Err(Error::NotFound | Error::Forbidden)) {
            return first;
        }
        match self.arn(name).await {
            Ok(Some(arn)) => self.value(&arn, name, wanted).await,
            // Not listed, or we may not list: the first answer stands.
            Ok(None) | Err(Error::Forbidden) => first,
            Err(error) => Err(error),
        }
    }

    /// The value of what `id` means to the service, provided that it is called `name` and is the version that is wanted.
    async fn value(&self, id: &str, name: &str, wanted: &Wanted<'_>) -> Result<Secret, Error> {
        let request = self.client().await?.get_secret_value().secret_id(id);
        let request = match wanted {
            Wanted::Stage(stage) => request.version_stage(*stage),
            Wanted::Id(id) => request.version_id(*id),
        };
        let answer =
            request.send().await.map_err(|failure| meaning(&failure, Asked::Value, self.bounds()))?;
        match &answer.name {
            None => Err(Error::Malformed("it has no Name")),
            Some(theirs) if theirs != name => Err(Error::NotFound),
            Some(_) if !wanted.is_what(answer.version_id(), answer.version_stages()) => {
                Err(Error::Malformed("it is another version than was asked for"))
            }
            Some(_) => secret_of(answer),
        }
    }
}

#[async_trait]
impl Backend for Aws {
    fn kind(&self) -> Kind {
        Kind::Aws
    }

    async fn read(&self, path: &BackendPath) -> Result<Secret, Error> {
        let name = path.joined();
        if !name::is_legal(&name) {
            return Err(Error::NotFound);
        }
        self.within_deadline(self.read_named(&name, &Wanted::Stage(CURRENT))).await
    }

    async fn read_version(&self, path: &BackendPath, version: &Version) -> Result<Secret, Error> {
        let name = path.joined();
        if !name::is_legal(&name) {
            return Err(Error::NotFound);
        }
        self.within_deadline(async {
            for wanted in Wanted::called(version.as_str()) {
                match self.read_named(&name, &wanted).await {
                    Err(Error::NotFound) => {}
                    answer => return answer,
                }
            }
            Err(Error::NotFound)
        })
        .await
    }

    /// `ListSecrets` is eventually consistent (API reference): a version that was put a moment ago may be missing here when a
    /// read gives it already, for some seconds, and once in a while an older one is told after a newer one.
    async fn versions(&self, path: &BackendPath) -> Result<Option<Versions>, Error> {
        let prefix = path.name_prefix();
        if !path.is_root() && !name::is_legal(&prefix) || self.costly.contains(&prefix) {
            return Ok(None);
        }
        let answer = match self.versions_in(prefix.clone()).await {
            // Names may be read and not listed; and descriptions and tags are longer than some limit on a value allows.
            Err(Error::Forbidden | Error::TooLarge { .. }) => None,
            answer => answer?,
        };
        if answer.is_none() {
            self.costly.note(prefix);
        }
        Ok(answer)
    }

    async fn list(&self, path: &BackendPath) -> Result<Listing, Error> {
        let prefix = path.name_prefix();
        if !path.is_root() && !name::is_legal(&prefix) {
            return Err(Error::NotFound);
        }
        let listing = self.within_deadline(self.names_below(prefix)).await?;
        if listing.entries().is_empty() && !path.is_root() { Err(Error::NotFound) } else { Ok(listing) }
    }

    fn tidy(&self, now: Moment) {
        if self.connectors.is_due(now) {
            self.connectors.replace(vec![]);
        }
    }
}

/// A JSON object has a field for each key; any other string, and binary, is one field called `value`.
fn secret_of(answer: GetSecretValueOutput) -> Result<Secret, Error> {
    let blob = |value| vec![Field { name: BLOB_FIELD.to_owned(), value, form: Form::Text }];
    let fields = match (answer.secret_string, answer.secret_binary) {
        (Some(text), _) => fields_of_object(&text).unwrap_or_else(|| blob(SecretBytes::from(text))),
        (None, Some(bytes)) => blob(SecretBytes::new(bytes.into_inner())),
        (None, None) => return Err(Error::Malformed("it has neither SecretString nor SecretBinary")),
    };
    Ok(Secret {
        fields,
        version: Version::new(answer.version_id.unwrap_or_default()),
        created: answer.created_date.and_then(|date| SystemTime::try_from(date).ok()),
        expires: None,
    })
}
