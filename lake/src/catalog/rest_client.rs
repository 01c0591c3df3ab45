//! HTTP to an Iceberg REST catalog: configuration, prefix, retries, and typed errors.

use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use townlake_common::config::IcebergCatalog;
use townlake_common::{Error, ErrorCode, Result, Secret};
use url::Url;

use super::rest_login::{Login, Token};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a call is made again that had no effect, and how long to wait before the first time.
const RETRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Whoever says to come back later than that is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A call without an answer is not made again where that took longer: a statement waits for it.
const QUICK: Duration = Duration::from_secs(5);
/// Longest text of the server's that goes into a message of ours.
const SERVER_TEXT_LIMIT: usize = 300;
/// What a segment of a path has as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A client of one REST catalog.
pub(crate) struct RestClient {
    catalog: String,
    http: reqwest::Client,
    /// The server's root, without `/v1`.
    server: Url,
    /// Path segments between `v1` and the resource.
    prefix: Vec<String>,
    login: Login,
    /// Whether the server is asked to vend access to the stores of tables.
    delegated: bool,
}

/// An answer of the server: any status, but 401 only after a fresh token.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: Value,
    /// When the server wants to be asked again.
    retry_after: Option<Duration>,
}

impl RestClient {
    /// Asks the server for its configuration; the server's overrides win over ours, ours over its defaults.
    pub async fn connect(catalog: &str, config: &IcebergCatalog) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("townlake/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::internal("the HTTP client cannot be made").with_source(e))?;
        let mut client = Self {
            catalog: catalog.to_string(),
            http,
            server: server_url(catalog, config.uri.expose())?,
            prefix: Vec::new(),
            login: Login::from_config(catalog, config)?,
            delegated: false,
        };
        let mut query = Vec::new();
        if !config.warehouse.is_empty() {
            query.push(("warehouse", config.warehouse.as_str()));
        }
        let answer = client.call(Method::GET, &["config"], &query, None).await?.success(catalog)?;
        let setting = |name: &str| {
            let from = |group: &str| answer.get(group)?.get(name)?.as_str().map(str::to_string);
            from("overrides").or_else(|| from("defaults"))
        };
        if let Some(uri) = setting("uri") {
            client.server = server_url(catalog, &uri)?;
        }
        if let Some(prefix) = setting("prefix") {
            client.prefix = prefix.split('/').filter(|s| !s.is_empty()).map(str::to_string).collect();
        }
        Ok(client)
    }

    /// The same, that asks the server to vend access with each table.
    pub fn delegated(self) -> Self {
        Self { delegated: true, ..self }
    }

    /// One call of a resource under `/v1/<prefix>`. Path segments are encoded here.
    ///
    /// A call that had no effect is made again a few times: one that is refused for now (429), and one that only reads and
    /// has no answer or that of a server which is busy or away (502, 503, 504).
    ///
    /// Errors: `SOURCE_UNAVAILABLE` where no answer came (the call may have had its effect), `SOURCE_DENIED`.
    pub async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let url = self.url(path);
        let request = || {
            let mut request = self.http.request(method.clone(), url.clone()).query(query);
            if self.delegated {
                request = request.header("X-Iceberg-Access-Delegation", "vended-credentials");
            }
            match body {
                Some(body) => request.json(body),
                None => request,
            }
        };
        let mut attempt = 0;
        loop {
            let began = Instant::now();
            let answer = self.authorized(&request).await;
            let pause = match &answer {
                Ok(answer) => answer.pause(&method, attempt),
                Err(error) if error.is_retryable() && method == Method::GET && began.elapsed() < QUICK => {
                    Some(pause(attempt))
                }
                Err(_) => None,
            };
            let Some(pause) = pause.filter(|_| attempt < RETRIES) else { return answer };
            tracing::debug!(catalog = %self.catalog, %method, attempt, ?pause, "a call of the REST server is made again");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// One request as whoever we are; once more with a fresh token where ours has expired, for a refused call had no effect.
    async fn authorized(&self, request: &(dyn Fn() -> RequestBuilder + Sync)) -> Result<Answer> {
        let Some(token) = self.bearer(None).await? else { return self.send(request()).await };
        let answer = self.send(request().bearer_auth(token.expose())).await?;
        if !matches!(answer.status.as_u16(), 401 | 419) || !self.login.can_renew() {
            return Ok(answer);
        }
        match self.bearer(Some(&token)).await? {
            Some(token) => self.send(request().bearer_auth(token.expose())).await,
            None => Ok(answer),
        }
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.server.clone();
        let mut whole = format!("{}/v1", url.path().trim_end_matches('/'));
        // The server's prefix is encoded already (Nessie's is `main%7Cwarehouse`).
        for segment in &self.prefix {
            whole.extend(["/", segment]);
        }
        for segment in path {
            whole.push('/');
            whole.extend(utf8_percent_encode(segment, ENCODED));
        }
        url.set_path(&whole);
        url
    }

    async fn send(&self, request: RequestBuilder) -> Result<Answer> {
        let unreachable = |error: reqwest::Error| {
            // `without_url`: the URL may hold credentials.
            let message = format!("the REST server of catalog {} does not answer", self.catalog);
            Error::new(ErrorCode::SourceUnavailable, message).with_source(error.without_url()).retryable()
        };
        let response = request.send().await.map_err(unreachable)?;
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let bytes = response.bytes().await.map_err(unreachable)?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), retry_after })
    }

    /// The token to call with, another one than `refused`.
    async fn bearer(&self, refused: Option<&Secret>) -> Result<Option<Secret>> {
        let credentials = match &self.login {
            Login::None => return Ok(None),
            Login::Bearer(token) => return Ok(Some(token.clone())),
            Login::ClientCredentials(credentials) => credentials,
        };
        let mut held = credentials.held.lock().await;
        if let Some(token) = held.as_ref().filter(|token| token.is_good(refused)) {
            return Ok(Some(token.text.clone()));
        }
        let mut own = self.server.clone();
        own.path_segments_mut()
            .map_err(|()| invalid_uri(&self.catalog))?
            .pop_if_empty()
            .extend(["v1", "oauth", "tokens"]);
        let answer = self.send(self.http.post(credentials.server(own)).form(&credentials.form())).await?;
        let token = Token::of_answer(&self.catalog, answer)?;
        let text = token.text.clone();
        *held = Some(token);
        Ok(Some(text))
    }
}

impl Answer {
    /// How long to wait before the call is made again; `None`: this is the answer.
    fn pause(&self, method: &Method, attempt: u32) -> Option<Duration> {
        let had_no_effect = match self.status.as_u16() {
            429 => true,
            502..=504 => method == Method::GET,
            _ => false,
        };
        let wanted = self.retry_after.map_or_else(|| pause(attempt), |after| after + pause(0) / 2);
        Some(wanted).filter(|wanted| had_no_effect && *wanted <= LONGEST_PAUSE)
    }

    /// The body of a success, else the typed error.
    pub fn success(self, catalog: &str) -> Result<Value> {
        if self.status.is_success() { Ok(self.body) } else { Err(self.error(catalog)) }
    }

    /// The body, or `None` where the thing does not exist.
    pub fn found(self, catalog: &str) -> Result<Option<Value>> {
        if self.status == StatusCode::NOT_FOUND { Ok(None) } else { self.success(catalog).map(Some) }
    }

    /// The typed error of a failure, with what the server says about it.
    pub fn error(&self, catalog: &str) -> Error {
        let said = self.body.get("error").and_then(|e| e.get("message")).and_then(Value::as_str).unwrap_or("no reason");
        let said: String = said.lines().next().unwrap_or_default().chars().take(SERVER_TEXT_LIMIT).collect();
        let status = self.status.as_u16();
        let message = format!("the REST server of catalog {catalog} answers {status}: {said}");
        match status {
            401 | 403 | 419 => Error::new(ErrorCode::SourceDenied, message)
                .with_hint("check `token` or `credential` of the catalog and their rights"),
            429 | 500..=599 => Error::new(ErrorCode::SourceUnavailable, message).retryable(),
            _ => Error::new(ErrorCode::SourceError, message),
        }
    }
}

/// Longer each time, and not the same for all who wait.
fn pause(attempt: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.saturating_pow(attempt)).mul_f64(rand::random_range(0.5..1.5))
}

/// The seconds of the header; as a date it is not waited for.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

fn server_url(catalog: &str, uri: &str) -> Result<Url> {
    http_url(uri).ok_or_else(|| invalid_uri(catalog))
}

/// The URL, if it is one of HTTP.
pub(super) fn http_url(uri: &str) -> Option<Url> {
    Url::parse(uri).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

fn invalid_uri(catalog: &str) -> Error {
    Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}: `uri` of a REST catalog must be http(s)://…"))
}
