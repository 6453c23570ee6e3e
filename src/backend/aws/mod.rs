//! Owns AWS Secrets Manager as a backend: one secret's current value, and the names of a folder.
//! Does not know files or caching. The only module that names an AWS crate.

mod config;
mod fault;
mod http;
mod name;

use std::time::SystemTime;

use async_trait::async_trait;
use aws_config::identity::IdentityCache;
use aws_config::timeout::TimeoutConfig;
use aws_config::{ConfigLoader, Region, SdkConfig};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::{StalledStreamProtectionConfig, retry::RetryConfig};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, SecretListEntry};
use tokio::sync::OnceCell;

pub use config::Config;

use self::fault::{Asked, Bounds, meaning};
use super::json_fields::fields_of_object;
use super::{Backend, Error, Kind, Listing};
use crate::path::BackendPath;
use crate::secret::{Field, Form, Secret, SecretBytes, Version};

/// The only version that is served: the label moves when a secret rotates.
const CURRENT: &str = "AWSCURRENT";
/// The one field of a secret that is no JSON object.
const BLOB_FIELD: &str = "value";
/// Secrets in one page of a listing: the most that the API gives.
const PAGE: i32 = 100;
/// Secrets that one account and region can hold (AWS quota): a listing that goes on beyond it is no listing.
const ACCOUNT_HOLDS: usize = 500_000;

/// AWS Secrets Manager in one account and region.
pub struct Aws {
    config: Config,
    given: Option<SdkConfig>,
    client: OnceCell<Client>,
}

impl Aws {
    /// A backend that has not been to the network: region, credentials and connections are looked for at the first call,
    /// and again at the next where that failed. Needs no runtime.
    pub fn new(config: Config) -> Self {
        Self { config, given: None, client: OnceCell::new() }
    }

    /// For a program that has an SDK configuration of its own: region, endpoint and credentials are taken from `sdk`,
    /// the bounds from `config`, whose other fields are not looked at.
    pub fn from_sdk_config(sdk: SdkConfig, config: Config) -> Self {
        Self { config, given: Some(sdk), client: OnceCell::new() }
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
        let http = http::client(self.config.max_body)?;
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
        let retries = RetryConfig::standard().with_max_attempts(2).with_initial_backoff(deadline / 20);
        // Longer than any call: what ends a slow load is the call's own deadline.
        let identities = IdentityCache::lazy().load_timeout(deadline.saturating_mul(2)).build();
        let mut builder = aws_sdk_secretsmanager::config::Builder::from(&sdk)
            .http_client(http)
            .identity_cache(identities)
            .timeout_config(timeouts)
            .retry_config(retries)
            .retry_classifier(http::TooLargeIsFinal)
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

    /// The secret called exactly `name`.
    ///
    /// A name that ends like an ARN may be answered with another secret, whose suffix it is, or with that one's refusal.
    /// The name in the answer decides; where it is not ours, the list of names has the full ARN, which means one secret only.
    async fn read_named(&self, name: &str) -> Result<Secret, Error> {
        let first = self.value(name, name).await;
        if !name::ends_like_an_arn(name) || !matches!(first, Err(Error::NotFound | Error::Forbidden)) {
            return first;
        }
        match self.arn(name).await {
            Ok(Some(arn)) => self.value(&arn, name).await,
            // Not listed, or we may not list: the first answer stands.
            Ok(None) | Err(Error::Forbidden) => first,
            Err(error) => Err(error),
        }
    }

    /// The current value of what `id` means to the service, provided that it is called `name`.
    async fn value(&self, id: &str, name: &str) -> Result<Secret, Error> {
        let request = self.client().await?.get_secret_value().secret_id(id).version_stage(CURRENT);
        let answer =
            request.send().await.map_err(|failure| meaning(&failure, Asked::Value, self.bounds()))?;
        match &answer.name {
            None => Err(Error::Malformed("it has no Name")),
            Some(theirs) if theirs != name => Err(Error::NotFound),
            Some(_) => secret_of(answer),
        }
    }

    /// The full ARN of the secret called exactly `name`.
    async fn arn(&self, name: &str) -> Result<Option<String>, Error> {
        let mut pages = Pages::new(name.to_owned());
        while let Some(page) = pages.next(self).await? {
            let exact = page
                .into_iter()
                .find(|secret| secret.name() == Some(name) && secret.deleted_date().is_none());
            if let Some(secret) = exact {
                return Ok(secret.arn);
            }
        }
        Ok(None)
    }

    async fn names_below(&self, prefix: String) -> Result<Listing, Error> {
        let mut folder = name::Folder::new(prefix.clone());
        let mut pages = Pages::new(prefix);
        while let Some(page) = pages.next(self).await? {
            for secret in page.iter().filter(|secret| secret.deleted_date().is_none()) {
                folder.add(secret.name().unwrap_or_default());
            }
            if folder.len() > ACCOUNT_HOLDS {
                return Err(Error::Malformed("it lists more secrets than an account can hold"));
            }
        }
        Ok(folder.into_listing())
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
        self.within_deadline(self.read_named(&name)).await
    }

    async fn list(&self, path: &BackendPath) -> Result<Listing, Error> {
        let prefix = path.name_prefix();
        if !path.is_root() && !name::is_legal(&prefix) {
            return Err(Error::NotFound);
        }
        let listing = self.within_deadline(self.names_below(prefix)).await?;
        if listing.entries().is_empty() && !path.is_root() { Err(Error::NotFound) } else { Ok(listing) }
    }
}

/// All secrets whose names begin with a prefix, page by page.
struct Pages {
    prefix: String,
    token: Option<String>,
    ended: bool,
}

impl Pages {
    fn new(prefix: String) -> Self {
        Self { prefix, token: None, ended: false }
    }

    /// The next page; `None` after the last.
    async fn next(&mut self, aws: &Aws) -> Result<Option<Vec<SecretListEntry>>, Error> {
        if self.ended {
            return Ok(None);
        }
        let mut request =
            aws.client().await?.list_secrets().max_results(PAGE).set_next_token(self.token.take());
        if !self.prefix.is_empty() {
            request = request
                .filters(Filter::builder().key(FilterNameStringType::Name).values(&self.prefix).build());
        }
        let answer = request.send().await.map_err(|failure| meaning(&failure, Asked::Names, aws.bounds()))?;
        self.token = answer.next_token.filter(|token| !token.is_empty());
        self.ended = self.token.is_none();
        Ok(Some(answer.secret_list.unwrap_or_default()))
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
