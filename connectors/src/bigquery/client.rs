//! The way to one project: REST for what there is, gRPC for rows, a bounded number of both at a time per process.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::transport::Channel;
use townlake_common::config::{BigQueryCatalog, BigQueryCompression};
use townlake_common::{Error, ErrorCode, Result};
use url::Url;

use super::auth::Tokens;
use super::channel;
use super::error::Server;
use crate::bounded::Bound;
use crate::breaker::Breaker;
use crate::places::Place;

/// Google's doors.
const REST: &str = "https://bigquery.googleapis.com";
const GRPC: &str = "https://bigquerystorage.googleapis.com";
/// How long a look-up waits for a place in the budget before it says that this is used up.
const PLANNING_WAIT: Duration = Duration::from_secs(60);
/// How long the answer to a look-up may take.
pub(crate) const PLANNING_TIME: Duration = Duration::from_secs(60);
/// A server that is gone without a word is noticed this long after the last sign of life.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The largest answer in bytes.
const ANSWER_LIMIT: usize = 64 << 20;
/// Tries of what changes nothing, and the first pause between them.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// A way to one project.
pub(crate) struct Client {
    server: Server,
    http: reqwest::Client,
    rest: Url,
    grpc: String,
    channel: OnceCell<Channel>,
    tokens: Tokens,
    bound: Bound,
    breaker: Breaker,
    pub settings: Settings,
}

/// What the configuration says of reading.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub project: String,
    pub billing_project: String,
    pub maximum_bytes: Option<u64>,
    pub compression: BigQueryCompression,
    pub connect_timeout: Duration,
    pub read_timeout: Duration,
    pub job_timeout: Duration,
    /// 0: as many as the session has partitions.
    pub max_splits: usize,
}

/// An answer that is no success.
pub(crate) struct Refused {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Client {
    /// A client without connections.
    ///
    /// Errors: `CONFIG_INVALID`.
    pub fn new(catalog: &str, config: &BigQueryCatalog) -> Result<Arc<Self>> {
        let door = |key: &str, given: Option<&String>, google: &str| -> Result<Url> {
            let text = given.map_or(google, String::as_str);
            let url = text.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            url.filter(|url| url.path() == "/" && url.username().is_empty() && url.query().is_none()).ok_or_else(|| {
                Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}.{key} is not http://host:port"))
            })
        };
        let rest = door("rest_endpoint", config.emulator_rest.as_ref().or(config.rest_endpoint.as_ref()), REST)?;
        let grpc = door("grpc_endpoint", config.emulator_grpc.as_ref().or(config.grpc_endpoint.as_ref()), GRPC)?;
        let host = rest.host_str().unwrap_or_default();
        let host = rest.port().map_or(host.to_string(), |port| format!("{host}:{port}"));
        let server = Server { catalog: catalog.to_string(), host };
        let http = reqwest::Client::builder()
            .user_agent(concat!("townlake/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(config.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .build()
            .map_err(|error| Error::internal("the HTTP client cannot be made").with_source(error.without_url()))?;
        let tokens = match (&config.emulator_rest, &config.key_file) {
            (Some(_), _) => Tokens::nobody(server.clone(), http.clone()),
            (None, Some(path)) => Tokens::of_key_file(path, server.clone(), http.clone())?,
            (None, None) => Tokens::of_machine(server.clone(), http.clone()),
        };
        let settings = Settings {
            project: config.project.clone(),
            billing_project: config.billing_project.clone().unwrap_or_else(|| config.project.clone()),
            maximum_bytes: config.maximum_bytes_billed.map(|bytes| bytes.as_u64()),
            compression: config.compression,
            connect_timeout: config.connect_timeout,
            read_timeout: config.read_timeout,
            job_timeout: config.job_timeout,
            max_splits: config.max_splits,
        };
        let bound = Bound::new(config.connections);
        let grpc = grpc.as_str().trim_end_matches('/').to_string();
        let reaches = format!("BigQuery at {}", server.host);
        let breaker = Breaker::new(catalog, reaches, config.breaker_failures, config.breaker_pause);
        Ok(Arc::new(Self { server, http, rest, grpc, channel: OnceCell::new(), tokens, bound, breaker, settings }))
    }

    /// Which server this is, for errors.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where access tokens come from.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The channel to the Storage API.
    pub async fn channel(&self) -> Result<Channel> {
        let make = || async { channel::open(&self.grpc, self.settings.connect_timeout) };
        Ok(self.channel.get_or_try_init(make).await?.clone())
    }

    /// `host:port` of the Storage API, as errors tell it.
    pub fn storage_server(&self) -> Server {
        let host = self.grpc.split_once("://").map_or(self.grpc.as_str(), |(_, host)| host);
        Server { host: host.to_string(), ..self.server.clone() }
    }

    /// What stands before its look-ups.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// What bounds its calls.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// A place in the budget for a look-up.
    ///
    /// Errors: `RESOURCE_EXHAUSTED` (retryable) when it waits too long; `SOURCE_UNAVAILABLE` at once where the breaker says so.
    pub async fn place(&self) -> Result<Place> {
        self.breaker.check()?;
        timeout(PLANNING_WAIT, self.bound.places().take()).await.map_err(|_| {
            let catalog = &self.server.catalog;
            let message = format!("catalog {catalog}: all connections to BigQuery are in use");
            let hint = format!("run fewer queries at a time or raise `connections` in [catalogs.{catalog}]");
            Error::new(ErrorCode::ResourceExhausted, message).with_hint(hint).retryable()
        })?
    }

    /// A place in the budget for a split, however long it takes.
    pub async fn patient_place(&self) -> Result<Place> {
        loop {
            match timeout(PLANNING_WAIT, self.bound.places().take()).await {
                Ok(place) => return place,
                Err(_) => {
                    let catalog = &self.server.catalog;
                    tracing::info!(%catalog, "all connections are in use: a split still waits for one");
                }
            }
        }
    }

    /// As [`Client::get`], for what a query begins with: the breaker stands before it.
    pub async fn look_up<T: DeserializeOwned>(
        &self,
        doing: &str,
        path: &[&str],
        parameters: &[(&str, String)],
    ) -> Result<Option<T>> {
        let attempt = self.breaker.enter()?;
        let answer = self.get(doing, &self.settings.project, path, parameters).await;
        attempt.ended(&answer);
        answer
    }

    /// What is at a path below the project; `None` when there is nothing. In a place of the budget that the caller holds.
    pub async fn get<T: DeserializeOwned>(
        &self,
        doing: &str,
        project: &str,
        path: &[&str],
        parameters: &[(&str, String)],
    ) -> Result<Option<T>> {
        let answer = async {
            let mut tries = 1;
            loop {
                let request = self.request(Method::GET, project, path)?.query(parameters);
                let answered = self.send(doing, request).await;
                let error = match answered {
                    Ok(Ok(body)) => return Ok(Some(body)),
                    Ok(Err(refused)) if refused.status == 404 => return Ok(None),
                    Ok(Err(refused)) => self.server.refused(doing, refused.status, &refused.body),
                    Err(error) => error,
                };
                if !error.is_retryable() || tries == TRIES {
                    return Err(error);
                }
                tokio::time::sleep(PAUSE * 2u32.pow(tries)).await;
                tries += 1;
            }
        };
        let body = timeout(PLANNING_TIME, answer).await;
        match body.map_err(|_| self.server.timed_out(doing, PLANNING_TIME.as_secs(), None))?? {
            None => Ok(None),
            Some(body) => self.parsed(&body).map(Some),
        }
    }

    /// Sends a body to a path below the project. Once: what it does is not done twice.
    pub async fn post<T: DeserializeOwned>(
        &self,
        doing: &str,
        project: &str,
        path: &[&str],
        parameters: &[(&str, String)],
        body: &Value,
    ) -> Result<std::result::Result<T, Refused>> {
        let request = self.request(Method::POST, project, path)?.query(parameters).json(body);
        let answer = timeout(PLANNING_TIME, self.send(doing, request)).await;
        match answer.map_err(|_| self.server.timed_out(doing, PLANNING_TIME.as_secs(), None))?? {
            Ok(body) => Ok(Ok(self.parsed(&body)?)),
            Err(refused) => Ok(Err(refused)),
        }
    }

    fn parsed<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        serde_json::from_slice(body).map_err(|_| self.server.corrupt("an answer that is not the JSON of the API"))
    }

    fn request(&self, method: Method, project: &str, path: &[&str]) -> Result<RequestBuilder> {
        let mut url = self.rest.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().extend(["bigquery", "v2", "projects", project]).extend(path);
            }
            Err(()) => return Err(Error::internal("BigQuery's URL has no path")),
        }
        Ok(self.http.request(method, url))
    }

    async fn send(&self, doing: &str, mut request: RequestBuilder) -> Result<std::result::Result<Vec<u8>, Refused>> {
        if let Some(token) = self.tokens.token().await? {
            request = request.bearer_auth(token.expose());
        }
        let mut answer = request.send().await.map_err(|error| self.server.unreachable(doing, error))?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.server.unreachable(doing, error))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_LIMIT {
                return Err(self.server.corrupt("an answer of more than 64 MiB"));
            }
        }
        if status.as_u16() == 401 {
            self.tokens.forget().await;
        }
        Ok(if status.is_success() { Ok(body) } else { Err(Refused { status: status.as_u16(), body }) })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}
