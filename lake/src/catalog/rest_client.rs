//! HTTP to an Iceberg REST catalog: configuration, prefix, credentials, and typed errors.

use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use townlake_common::config::IcebergCatalog;
use townlake_common::{Error, ErrorCode, Result, Secret};
use url::Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// A token is renewed this long before it expires.
const TOKEN_MARGIN: Duration = Duration::from_secs(60);
const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// What a segment of a path has as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Longest text of the server's that goes into a message of ours.
const SERVER_TEXT_LIMIT: usize = 300;

/// A client of one REST catalog.
pub(crate) struct RestClient {
    catalog: String,
    http: reqwest::Client,
    /// The server's root, without `/v1`.
    server: Url,
    /// Path segments between `v1` and the resource.
    prefix: Vec<String>,
    login: Login,
    token: Mutex<Option<Token>>,
    /// Whether the server is asked to vend access to the stores of tables.
    delegated: bool,
}

enum Login {
    None,
    Bearer(Secret),
    ClientCredentials { id: String, secret: Secret, scope: String },
}

struct Token {
    text: Secret,
    renew_at: Instant,
}

/// An answer of the server: any status but 401 after a fresh token.
pub(crate) struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<u64>,
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
            token: Mutex::default(),
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
    /// Errors: `SOURCE_UNAVAILABLE` where no answer came (the call may have had its effect), `SOURCE_DENIED`.
    pub async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut fresh = false;
        loop {
            let mut request = self.http.request(method.clone(), self.url(path)).query(query);
            if self.delegated {
                request = request.header("X-Iceberg-Access-Delegation", "vended-credentials");
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(token) = self.bearer(fresh).await? {
                request = request.bearer_auth(token.expose());
            }
            let answer = self.send(request).await?;
            let expired = matches!(answer.status.as_u16(), 401 | 419);
            if !expired || fresh || !matches!(self.login, Login::ClientCredentials { .. }) {
                return Ok(answer);
            }
            fresh = true; // a refused call had no effect: once more with a new token
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
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    async fn bearer(&self, fresh: bool) -> Result<Option<Secret>> {
        let (id, secret, scope) = match &self.login {
            Login::None => return Ok(None),
            Login::Bearer(token) => return Ok(Some(token.clone())),
            Login::ClientCredentials { id, secret, scope } => (id, secret, scope),
        };
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| !fresh && Instant::now() < token.renew_at) {
            return Ok(Some(token.text.clone()));
        }
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", id),
            ("client_secret", secret.expose()),
            ("scope", scope),
        ];
        let mut url = self.server.clone();
        url.path_segments_mut()
            .map_err(|()| invalid_uri(&self.catalog))?
            .pop_if_empty()
            .extend(["v1", "oauth", "tokens"]);
        let answer = self.send(self.http.post(url).form(&form)).await?;
        let denied = || {
            let message = format!("the REST server of catalog {} gives no token for our credentials", self.catalog);
            Error::new(ErrorCode::SourceDenied, message).with_hint("check `credential` and `scope` of the catalog")
        };
        match answer.status.as_u16() {
            200..=299 => {}
            429 | 500..=599 => return Err(answer.error(&self.catalog)), // busy or down: nothing is said of our credentials
            _ => return Err(denied()),
        }
        let answer: TokenAnswer = serde_json::from_value(answer.body).map_err(|e| denied().with_source(e))?;
        let life = answer.expires_in.map_or(DEFAULT_TOKEN_LIFE, Duration::from_secs);
        let text = Secret::new(answer.access_token);
        *token = Some(Token { text: text.clone(), renew_at: Instant::now() + life.saturating_sub(TOKEN_MARGIN) });
        Ok(Some(text))
    }
}

impl Login {
    fn from_config(catalog: &str, config: &IcebergCatalog) -> Result<Self> {
        if let Some(token) = &config.token {
            return Ok(Self::Bearer(token.clone()));
        }
        let Some(credential) = &config.credential else { return Ok(Self::None) };
        let scope = config.scope.clone().unwrap_or_else(|| "catalog".to_string());
        let Some((id, secret)) = credential.expose().split_once(':') else {
            let message = format!("catalogs.{catalog}: `credential` must be `id:secret`");
            return Err(Error::new(ErrorCode::ConfigInvalid, message));
        };
        Ok(Self::ClientCredentials { id: id.to_string(), secret: Secret::new(secret), scope })
    }
}

impl Answer {
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

fn server_url(catalog: &str, uri: &str) -> Result<Url> {
    let url = Url::parse(uri).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    url.ok_or_else(|| invalid_uri(catalog))
}

fn invalid_uri(catalog: &str) -> Error {
    Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}: `uri` of a REST catalog must be http(s)://…"))
}
