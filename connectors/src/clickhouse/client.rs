//! Statements over HTTP: a bounded number at a time (this process's share of the catalog's budget), each with an id under which it is killed when
//! nobody wants its answer any more.
//!
//! The budget counts running statements. A look-up of a plan waits a limited time for a place; a split waits as long as it
//! takes. User and password travel in headers, so that no URL has them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{RequestBuilder, Response};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::time::timeout;
use townlake_common::config::ClickHouseCatalog;
use townlake_common::{Error, ErrorCode, QueryId, Result};
use url::Url;

use super::error::Server;
use super::sql::literal;
use crate::bounded::Bound;
use crate::breaker::Breaker;
use crate::full::Retry;
use crate::http::authorities;
use crate::places::Place;

/// How long a look-up waits for a place in the budget before it says that this is used up.
const PLANNING_WAIT: Duration = Duration::from_secs(60);
/// How long the answer to a look-up may take.
const PLANNING_TIME: Duration = Duration::from_secs(60);
/// A server that is gone without a word is noticed this long after the last sign of life.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const UNANSWERED: Duration = Duration::from_secs(30);
/// Idle connections are kept for less than the three seconds after which old servers close them: one that the server closes just
/// now would fail a statement.
const IDLE_TIME: Duration = Duration::from_secs(1);
/// How long the end of an abandoned statement may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// The largest answer to a look-up in bytes.
const LOOK_UP_LIMIT: usize = 64 << 20;
/// As much of an error's text is read.
const TEXT_LIMIT: usize = 16 << 10;

/// Settings of a statement, by name.
pub(crate) type Settings = Vec<(String, String)>;

/// A way to one server.
pub(crate) struct Client {
    server: Server,
    http: reqwest::Client,
    url: Url,
    bound: Bound,
    planning_wait: Duration,
    breaker: Breaker,
}

impl Client {
    /// A client without connections.
    ///
    /// Errors: `CONFIG_INVALID`, naming the catalog and never its URL.
    pub fn new(catalog: &str, settings: &ClickHouseCatalog) -> Result<Arc<Self>> {
        let wrong = |what: &str| {
            Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}.url {what}"))
                .with_hint("http://user:password@host:8123/ or https://…")
        };
        let mut url: Url = settings.url.expose().parse().map_err(|_| wrong("is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("is not an HTTP URL"));
        }
        let host = url.host_str().ok_or_else(|| wrong("names no host"))?;
        let host = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("has parameters"));
        }
        let headers = credentials(&url).ok_or_else(|| wrong("has a user or password that no header can carry"))?;
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(wrong("is not a URL"));
        }
        let mut http = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("townlake/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(settings.connect_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE_IDLE)
            .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
            .tcp_user_timeout(UNANSWERED)
            .pool_idle_timeout(IDLE_TIME);
        for certificate in authorities(catalog, "tls_ca", settings.tls_ca.as_deref())? {
            http = http.add_root_certificate(certificate);
        }
        let http = http
            .build()
            .map_err(|error| Error::internal("the HTTP client cannot be made").with_source(error.without_url()))?;
        let reaches = format!("ClickHouse at {host}");
        Ok(Arc::new(Self {
            breaker: Breaker::new(catalog, reaches, settings.breaker_failures, settings.breaker_pause),
            server: Server { catalog: catalog.to_string(), host },
            http,
            url,
            bound: Bound::new(settings.connections),
            planning_wait: PLANNING_WAIT,
        }))
    }

    /// Which server this is, for errors.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// What bounds its statements.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// What stands before its look-ups.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// The rows of a small look-up, which ends with `FORMAT JSONEachRow`.
    ///
    /// Errors: `RESOURCE_EXHAUSTED` when it waits too long for the budget; `SOURCE_UNAVAILABLE` at once where the breaker says so;
    /// else what the server says.
    pub async fn look_up<T: DeserializeOwned>(
        self: &Arc<Self>,
        query: &QueryId,
        doing: &str,
        sql: &str,
    ) -> Result<Vec<T>> {
        self.breaker.check()?;
        let permit = timeout(self.planning_wait, self.permit()).await.map_err(|_| self.used_up())??;
        let attempt = self.breaker.enter()?;
        let answer = self.look_up_in(query, doing, sql, Some(permit)).await;
        attempt.ended(&answer);
        Ok(answer?.0)
    }

    /// The same outside the budget, for whoever has a place in it, and the name of the server that answered.
    pub async fn look_up_beside<T: DeserializeOwned>(
        self: &Arc<Self>,
        query: &QueryId,
        doing: &str,
        sql: &str,
    ) -> Result<(Vec<T>, Option<String>)> {
        self.look_up_in(query, doing, sql, None).await
    }

    async fn look_up_in<T: DeserializeOwned>(
        self: &Arc<Self>,
        query: &QueryId,
        doing: &str,
        sql: &str,
        mut permit: Option<Place>,
    ) -> Result<(Vec<T>, Option<String>)> {
        // The server waits with the status until it has the whole answer.
        let settings = vec![("wait_end_of_query".to_string(), "1".to_string())];
        let read = async {
            let mut answer = self.begin(query, doing, sql, &settings, &mut permit).await?;
            let mut body = Vec::new();
            let server = answer.server.take();
            while let Some(chunk) = answer.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > LOOK_UP_LIMIT {
                    return Err(self.server.corrupt("a look-up of more than 64 MiB"));
                }
            }
            Ok((body, server))
        };
        let (body, server) = timeout(PLANNING_TIME, read).await.map_err(|_| self.too_slow(doing))??;
        let body = String::from_utf8_lossy(&body);
        let rows = body.lines().filter(|line| !line.is_empty()).map(|line| {
            serde_json::from_str(line).map_err(|_| match super::error::code_in(line) {
                Some(code) => self.server.exception(doing, Some(code), line),
                None => self.server.corrupt("a look-up that is not JSON"),
            })
        });
        Ok((rows.collect::<Result<_>>()?, server))
    }

    /// Begins a statement whose answer is read piece by piece, when there is a place for it.
    pub async fn open(
        self: &Arc<Self>,
        query: &QueryId,
        doing: &str,
        sql: &str,
        settings: &Settings,
    ) -> Result<Answer> {
        let permit = loop {
            match timeout(self.planning_wait, self.permit()).await {
                Ok(permit) => break permit?,
                Err(_) => {
                    let Server { catalog, host } = &self.server;
                    tracing::info!(%catalog, %host, "all connections are in use: a split still waits for one");
                }
            }
        };
        let mut retry = Retry::new();
        let mut permit = Some(permit);
        loop {
            match self.begin(query, doing, sql, settings, &mut permit).await {
                Err(error) if super::error::is_full(&error) => match retry.pause(&self.server.catalog).await {
                    true => {}
                    false => return Err(error),
                },
                begun => return begun,
            }
        }
    }

    async fn permit(&self) -> Result<Place> {
        self.bound.places().take().await
    }

    fn too_slow(&self, doing: &str) -> Error {
        let hint = format!(
            "a look-up may take {} s, which no setting changes: see what keeps the server",
            PLANNING_TIME.as_secs()
        );
        self.server.timed_out(doing).with_hint(hint)
    }

    fn used_up(&self) -> Error {
        let Server { catalog, host } = &self.server;
        let message = format!("catalog {catalog}: all connections to ClickHouse at {host} are in use");
        let hint = format!("run fewer queries at a time or raise `connections` in [catalogs.{catalog}]");
        Error::new(ErrorCode::ResourceExhausted, message).with_hint(hint).retryable()
    }

    /// Begins a statement. It has the place from when the server takes it.
    async fn begin(
        self: &Arc<Self>,
        query: &QueryId,
        doing: &str,
        sql: &str,
        settings: &Settings,
        permit: &mut Option<Place>,
    ) -> Result<Answer> {
        let id = format!("townlake-{query}-{}", uuid::Uuid::new_v4().simple());
        let request = self.request(&id, sql, settings);
        let permit_here = permit.take();
        let runtime = Handle::current();
        let mut running = Running { client: Arc::clone(self), id, permit: permit_here, runtime, is_over: false };
        let mut response = request.send().await.map_err(|error| {
            running.is_over = error.is_connect();
            self.server.unreachable(doing, error)
        })?;
        let status = response.status();
        if !status.is_success() {
            running.is_over = true;
            let code = response.headers().get("x-clickhouse-exception-code");
            let code = code.and_then(|code| code.to_str().ok()?.parse().ok());
            let text = text_of(&mut response).await;
            // It did not take the statement: who asks again has the place still.
            *permit = running.permit.take();
            let is_exception = code.is_some() || super::error::code_in(&text).is_some();
            return Err(match is_exception {
                true => self.server.exception(doing, code, &text),
                false => self.server.refused(doing, status.as_u16()),
            });
        }
        let server = response.headers().get("x-clickhouse-server-display-name");
        let server = server.and_then(|name| name.to_str().ok()).map(str::to_string);
        Ok(Answer { response, doing: doing.to_string(), server, running })
    }

    fn request(&self, id: &str, sql: &str, settings: &Settings) -> RequestBuilder {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("query_id", id).extend_pairs(settings);
        self.http.post(url).body(sql.to_string())
    }

    /// Asks the server to end a statement. Best effort: its connection is closed all the same.
    async fn kill(&self, id: &str) {
        let sql = format!("KILL QUERY WHERE query_id = {} ASYNC", literal(id));
        let killer = format!("{id}-kill");
        let sent = timeout(FAREWELL, self.request(&killer, &sql, &Settings::new()).send()).await;
        if !matches!(sent, Ok(Ok(answer)) if answer.status().is_success()) {
            tracing::debug!(catalog = %self.server.catalog, "the server could not be asked to end a statement");
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

/// The headers of user and password; `None` for what no header can carry.
fn credentials(url: &Url) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let parts = [("x-clickhouse-user", Some(url.username())), ("x-clickhouse-key", url.password())];
    for (name, text) in parts {
        let Some(text) = text.filter(|text| !text.is_empty()) else { continue };
        let mut value = HeaderValue::from_bytes(&percent_decode_str(text).collect::<Vec<_>>()).ok()?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
    Some(headers)
}

async fn text_of(response: &mut Response) -> String {
    let mut text = Vec::new();
    while let Ok(Ok(Some(chunk))) = timeout(FAREWELL, response.chunk()).await {
        text.extend_from_slice(&chunk);
        if text.len() > TEXT_LIMIT {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A statement on the server. Dropped before it is over, it is killed there; its place in the budget is free only then.
struct Running {
    client: Arc<Client>,
    id: String,
    permit: Option<Place>,
    runtime: Handle,
    is_over: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (client, id, permit) = (Arc::clone(&self.client), std::mem::take(&mut self.id), self.permit.take());
        self.runtime.spawn(async move {
            client.kill(&id).await;
            drop(permit);
        });
    }
}

/// The answer to a statement, as it comes. Dropped before its end, it closes the connection and kills the statement.
pub(crate) struct Answer {
    response: Response,
    doing: String,
    /// The name of the server that answers: behind one URL there may be several.
    pub server: Option<String>,
    running: Running,
}

impl Answer {
    /// The next piece; `None` at the end. The server is not asked for more than was taken.
    pub async fn chunk(&mut self) -> Result<Option<bytes::Bytes>> {
        match self.response.chunk().await {
            Ok(Some(chunk)) => Ok(Some(chunk)),
            Ok(None) => {
                self.running.is_over = true;
                self.running.permit = None;
                Ok(None)
            }
            Err(error) => Err(self.running.client.server.unreachable(&self.doing, error)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use townlake_common::Secret;
    use townlake_common::config::CatalogConfig;

    use super::*;

    pub(crate) fn settings(url: &str) -> ClickHouseCatalog {
        let toml = format!("[catalogs.ch]\ntype = \"clickhouse\"\nurl = \"{url}\"\nconnect_timeout = \"300ms\"");
        match townlake_common::config::Config::from_toml(&toml).unwrap().catalogs.remove("ch") {
            Some(CatalogConfig::ClickHouse(catalog)) => *catalog,
            _ => panic!("not a ClickHouse catalog"),
        }
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_named_without_its_password() {
        let client = Client::new("ch", &settings("http://reader:hunter2@127.0.0.1:1/")).unwrap();
        let error = client.look_up::<()>(&QueryId::generate(), "look", "SELECT 1").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SourceUnavailable);
        assert!(error.is_retryable());
        let text = format!("{error:?} {client:?}");
        assert!(text.contains("ch") && text.contains("127.0.0.1:1"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("reader") && !text.contains("http://"), "{text}");
    }

    #[test]
    fn a_wrong_url_is_not_quoted() {
        for url in [
            "http://reader:hunter2@host:notaport/",
            "tcp://reader:hunter2@host/",
            "hunter2",
            "http://host/?password=hunter2",
            "http://reader:hunter2%0a@host/",
        ] {
            let mut wrong = settings("http://h");
            wrong.url = Secret::new(url);
            let error = Client::new("ch", &wrong).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ConfigInvalid, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_hidden() {
        let headers = credentials(&"http://an%40n:p%3Aw@h/".parse().unwrap()).unwrap();
        assert_eq!(
            (&headers["x-clickhouse-user"], &headers["x-clickhouse-key"]),
            (&"an@n".parse().unwrap(), &"p:w".parse().unwrap())
        );
        assert!(!format!("{headers:?}").contains("p:w"), "{headers:?}");
    }

    #[tokio::test]
    async fn a_look_up_does_not_wait_for_ever() {
        let mut settings = settings("http://127.0.0.1:1");
        settings.connections = 1;
        let mut client = Arc::into_inner(Client::new("ch", &settings).unwrap()).unwrap();
        client.planning_wait = Duration::from_millis(20);
        let client = Arc::new(client);
        let held = client.permit().await.unwrap();
        let error = client.look_up::<()>(&QueryId::generate(), "look", "SELECT 1").await.unwrap_err();
        assert!(error.code() == ErrorCode::ResourceExhausted && error.is_retryable(), "{error}");
        drop(held);
        let error = client.look_up::<()>(&QueryId::generate(), "look", "SELECT 1").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SourceUnavailable, "{error}");
    }
}
