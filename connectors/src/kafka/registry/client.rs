//! The registry over HTTP. What it says of an id never changes and is kept; the newest schema of a subject is believed for a
//! minute. Answers are bounded in time and size, redirects are not followed, and the login is in headers, so that no URL has it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use moka::future::Cache;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use townlake_common::config::{KafkaCatalog, KafkaFormat};
use townlake_common::{Error, ErrorCode, Result};
use url::Url;

use super::table::ValueTable;
use super::writer::Writer;
use super::{Definition, Reference, schema_type};
use crate::http::{authorities, innermost, is_tls};

/// The newest schema of a subject is believed so long.
const NEWEST_TIME: Duration = Duration::from_secs(60);
/// An id that there is not may be there later.
const UNKNOWN_TIME: Duration = Duration::from_secs(10);
/// Schemas that are kept.
const KEPT: u64 = 2000;
/// The largest answer in bytes.
const ANSWER_LIMIT: usize = 4 << 20;
/// The most schemas that one refers to, with those that they refer to, and how deep.
const MOST_REFERENCES: usize = 200;
const DEEPEST_REFERENCE: usize = 20;
/// The most bytes that a schema has with all that it refers to.
const DEFINITION_LIMIT: usize = 16 << 20;
/// Tries, and the pause between them.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(300);

/// A table as its newest schema has it: how often the registry had been refreshed when it was asked, the subject, the format, the message.
type TableKey = (u64, String, KafkaFormat, Option<String>);

/// A way to the registry of one catalog.
pub(crate) struct Registry {
    catalog: String,
    /// `host:port`.
    host: String,
    http: reqwest::Client,
    url: Url,
    request_timeout: Duration,
    tables: Cache<TableKey, Arc<ValueTable>>,
    writers: Cache<u32, Arc<Writer>>,
    unknown: Cache<u32, ()>,
    refreshes: AtomicU64,
}

/// What the registry says of a schema.
#[derive(Debug, Deserialize)]
struct Answer {
    schema: String,
    /// None: Avro.
    #[serde(rename = "schemaType", default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Pointer>>,
}

#[derive(Debug, Deserialize)]
struct Pointer {
    name: String,
    subject: String,
    version: i64,
}

/// What it says when it does not.
#[derive(Debug, Deserialize)]
struct Refusal {
    error_code: i64,
}

impl Registry {
    /// The registry of a catalog, if it names one. Nothing is connected yet.
    ///
    /// Errors: `CONFIG_INVALID`, which has nothing of the login.
    pub fn new(catalog: &str, config: &KafkaCatalog) -> Result<Option<Arc<Self>>> {
        let Some(url) = &config.schema_registry else { return Ok(None) };
        let wrong =
            |key: &str, what: &str| Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}.{key} {what}"));
        let url: Url = url.expose().parse().map_err(|_| wrong("schema_registry", "is not a URL"))?;
        let host = url.host_str().ok_or_else(|| wrong("schema_registry", "names no host"))?;
        let host = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        let headers =
            headers(config).ok_or_else(|| wrong("schema_registry_token", "is one that no header can carry"))?;
        let mut http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("townlake/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.connect_timeout)
            .timeout(config.request_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        let ca = config.schema_registry_ca.as_deref();
        for certificate in authorities(catalog, "schema_registry_ca", ca)? {
            http = http.add_root_certificate(certificate);
        }
        let http = http.build();
        let http =
            http.map_err(|error| Error::internal("the HTTP client cannot be made").with_source(error.without_url()))?;
        Ok(Some(Arc::new(Self {
            catalog: catalog.to_string(),
            host,
            http,
            url,
            request_timeout: config.request_timeout,
            tables: Cache::builder().max_capacity(KEPT).time_to_live(NEWEST_TIME).build(),
            writers: Cache::new(KEPT),
            unknown: Cache::builder().max_capacity(KEPT).time_to_live(UNKNOWN_TIME).build(),
            refreshes: AtomicU64::new(0),
        })))
    }

    /// Forgets which schema of a subject was the newest, and which ids there were not.
    pub fn refresh(&self) {
        self.refreshes.fetch_add(1, Ordering::Relaxed);
        self.tables.invalidate_all();
        self.unknown.invalidate_all();
    }

    /// The table that the newest schema of a subject describes; `name` is the table's.
    ///
    /// Errors: `TABLE_NOT_FOUND` where there is no such subject, `FORMAT_NOT_SUPPORTED` for a schema that no table has.
    pub async fn table(
        &self,
        name: &str,
        subject: &str,
        format: KafkaFormat,
        message: Option<&str>,
    ) -> Result<Arc<ValueTable>> {
        let key = (self.refreshes.load(Ordering::Relaxed), subject.to_string(), format, message.map(str::to_string));
        let made = self.tables.try_get_with(key, self.newest(name, subject, format, message)).await;
        made.map_err(|error: Arc<Error>| Error::clone(&error))
    }

    async fn newest(
        &self,
        name: &str,
        subject: &str,
        format: KafkaFormat,
        message: Option<&str>,
    ) -> Result<Arc<ValueTable>> {
        let doing = format!("find the newest schema of subject {subject}");
        let answer: Option<Answer> = self.get(&["subjects", subject, "versions", "latest"], &doing).await?;
        let Some(answer) = answer else {
            let text = format!("{}: there is no subject {subject} for table {name}", self.place());
            return Err(Error::new(ErrorCode::TableNotFound, text)
                .with_hint("`subject` of the table names another; producers register a schema when they first write"));
        };
        let refused = |what: String| {
            let text = format!("table {name}: the newest schema of subject {subject} {what}");
            Error::new(ErrorCode::FormatNotSupported, text)
                .with_hint("define the table with format = \"raw\" to see its bytes")
        };
        if answer.type_name() != schema_type(format) {
            return Err(refused(format!("is of the type {}, not {}", answer.type_name(), schema_type(format))));
        }
        let mut definition = self.definition(answer).await?;
        definition.message = message.map(str::to_string);
        let table = ValueTable::new(format, definition);
        Ok(Arc::new(table.map_err(|fault| refused(format!("cannot be a table: {}", fault.0)))?))
    }

    /// The schema of an id; `None` when the registry has none.
    pub async fn writer(&self, id: u32) -> Result<Option<Arc<Writer>>> {
        if let Some(known) = self.writers.get(&id).await {
            return Ok(Some(known));
        }
        // Registries count from 1 to the largest positive number of 32 bits.
        if i32::try_from(id).is_err() || self.unknown.get(&id).await.is_some() {
            return Ok(None);
        }
        let doing = format!("find schema {id}");
        let Some(answer) = self.get::<Answer>(&["schemas", "ids", &id.to_string()], &doing).await? else {
            self.unknown.insert(id, ()).await;
            return Ok(None);
        };
        let kind = answer.type_name().to_string();
        let writer = Arc::new(Writer::new(&kind, &self.definition(answer).await?));
        self.writers.insert(id, Arc::clone(&writer)).await;
        Ok(Some(writer))
    }

    /// A schema with all that it refers to.
    async fn definition(&self, answer: Answer) -> Result<Definition> {
        let mut found = Found { seen: Vec::new(), references: Vec::new(), bytes: answer.schema.len() };
        self.references(answer.references.unwrap_or_default(), 0, &mut found).await?;
        Ok(Definition { text: answer.schema, references: found.references, message: None })
    }

    /// What refers to nothing comes first.
    fn references<'f>(&'f self, wanted: Vec<Pointer>, depth: usize, found: &'f mut Found) -> BoxFuture<'f, Result<()>> {
        async move {
            for Pointer { name, subject, version } in wanted {
                if found.seen.contains(&name) {
                    continue;
                }
                found.seen.push(name.clone());
                let doing = format!("find version {version} of subject {subject}, which a schema refers to");
                if found.seen.len() > MOST_REFERENCES || depth > DEEPEST_REFERENCE {
                    return Err(self.corrupt("a schema that refers to too many others, or too deeply"));
                }
                let answer: Option<Answer> =
                    self.get(&["subjects", &subject, "versions", &version.to_string()], &doing).await?;
                let Some(answer) = answer else {
                    let text = format!("{}: there is no version {version} of subject {subject}", self.place());
                    return Err(Error::new(ErrorCode::SourceError, text).with_hint("a schema refers to it"));
                };
                found.bytes += answer.schema.len();
                if found.bytes > DEFINITION_LIMIT {
                    return Err(self.corrupt("a schema of more than 16 MiB, with what it refers to"));
                }
                self.references(answer.references.unwrap_or_default(), depth + 1, found).await?;
                found.references.push(Reference { name, text: answer.schema });
            }
            Ok(())
        }
        .boxed()
    }

    /// What is at a path; `None` where the registry says that there is nothing.
    async fn get<T: DeserializeOwned>(&self, path: &[&str], doing: &str) -> Result<Option<T>> {
        let mut url = self.url.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().extend(path);
            }
            Err(()) => return Err(Error::internal("the registry's URL has no path")),
        }
        let mut tries = 1;
        loop {
            match self.ask(&url, doing).await {
                Err(error) if error.is_retryable() && tries < TRIES => tokio::time::sleep(PAUSE * tries).await,
                Err(error) => return Err(error),
                Ok(None) => return Ok(None),
                Ok(Some(body)) => {
                    let parsed = serde_json::from_slice(&body);
                    return parsed.map(Some).map_err(|_| self.corrupt("an answer that is not the JSON of the API"));
                }
            }
            tries += 1;
        }
    }

    async fn ask(&self, url: &Url, doing: &str) -> Result<Option<Vec<u8>>> {
        // The limit of the client begins anew with each piece of the body: this is for all of it.
        let answer = tokio::time::timeout(self.request_timeout, async {
            let mut answer = self.http.get(url.clone()).send().await.map_err(|error| self.unreachable(doing, error))?;
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(doing, error))? {
                if body.len() + chunk.len() > ANSWER_LIMIT {
                    return Err(self.corrupt("an answer of more than 4 MiB"));
                }
                body.extend_from_slice(&chunk);
            }
            Ok((answer.status(), body))
        });
        let (status, body) = answer.await.map_err(|_| self.timed_out(doing))??;
        if status.is_success() {
            return Ok(Some(body));
        }
        // 40401: no subject, 40402: no version, 40403: no schema. Who has never heard of us says 404 in another way.
        let refusal = serde_json::from_slice::<Refusal>(&body).ok();
        if status == StatusCode::NOT_FOUND
            && refusal.is_some_and(|refusal| (40400..40500).contains(&refusal.error_code))
        {
            return Ok(None);
        }
        Err(self.refused(status, doing))
    }

    fn place(&self) -> String {
        format!("catalog {}: schema registry {}", self.catalog, self.host)
    }

    fn refused(&self, status: StatusCode, doing: &str) -> Error {
        let text = format!("{} answered with HTTP status {} to: {doing}", self.place(), status.as_u16());
        let catalog = &self.catalog;
        match status.as_u16() {
            401 | 403 | 407 => Error::new(ErrorCode::SourceDenied, text).with_hint(format!(
                "see `schema_registry_user` and `schema_registry_password`, or `schema_registry_token`, in [catalogs.{catalog}]"
            )),
            429 | 500..=504 => Error::new(ErrorCode::SourceUnavailable, text).retryable(),
            300..=399 => Error::new(ErrorCode::SourceError, text)
                .with_hint("a redirect is not followed: name its target in `schema_registry`"),
            _ => Error::new(ErrorCode::SourceError, text)
                .with_hint("`schema_registry` has the whole way to Confluent's API, of Apicurio: http://host/apis/ccompat/v7"),
        }
    }

    fn unreachable(&self, doing: &str, error: reqwest::Error) -> Error {
        if error.is_timeout() {
            return self.timed_out(doing);
        }
        let error = error.without_url();
        let reason = innermost(&error);
        if is_tls(&error) {
            return Error::new(ErrorCode::SourceDenied, format!("{}: TLS failed: {reason}", self.place()))
                .with_hint(format!("see `schema_registry_ca` in [catalogs.{}]", self.catalog))
                .with_source(error);
        }
        Error::new(ErrorCode::SourceUnavailable, format!("{} cannot be reached to {doing}: {reason}", self.place()))
            .with_hint("check that the registry runs and accepts HTTP connections from here")
            .with_source(error)
            .retryable()
    }

    fn timed_out(&self, doing: &str) -> Error {
        let text = format!("{} did not answer in time: {doing}", self.place());
        Error::new(ErrorCode::SourceUnavailable, text)
            .with_hint(format!("the limit is `request_timeout` in [catalogs.{}]", self.catalog))
            .retryable()
    }

    fn corrupt(&self, what: &str) -> Error {
        Error::new(ErrorCode::DataCorrupt, format!("{} sent {what}", self.place()))
    }
}

/// What is gathered of the schemas that one refers to.
struct Found {
    seen: Vec<String>,
    references: Vec<Reference>,
    bytes: usize,
}

impl Answer {
    fn type_name(&self) -> &str {
        self.schema_type.as_deref().unwrap_or("AVRO")
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("catalog", &self.catalog).field("host", &self.host).finish_non_exhaustive()
    }
}

/// The headers of every request; `None` for a login that no header can carry.
fn headers(config: &KafkaCatalog) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/vnd.schemaregistry.v1+json, application/json"));
    let login = match (&config.schema_registry_user, &config.schema_registry_password, &config.schema_registry_token) {
        (Some(user), Some(password), _) => {
            use base64::Engine as _;
            let both = format!("{}:{}", user.expose(), password.expose());
            Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(both)))
        }
        (_, _, Some(token)) => Some(format!("Bearer {}", token.expose())),
        _ => None,
    };
    if let Some(login) = login {
        let mut value = HeaderValue::from_str(&login).ok()?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Some(headers)
}
