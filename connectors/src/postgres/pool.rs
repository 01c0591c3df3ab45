//! A bounded number of connections to one server: this process's share of the catalog's budget (`share.rs`).
//!
//! The share counts open connections: those in use hold a place, idle ones are taken before a new one is opened. At
//! most half of it may be held by snapshots, which live as long as their query, so that scans always proceed. Where rows may be
//! written, a quarter of a coordinator's share is for that alone: the scans that they come from must not wait for them.
//! Whoever waits is served in the order of asking. A look-up of a plan waits a limited time. A snapshot waits as long as
//! the query that wants it may: more queries than snapshots queue here, and their cancel or time limit ends the wait.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{CancelToken, Client, NoTls, SimpleQueryMessage};
use townlake_common::config::PostgresCatalog;
use townlake_common::{Error, ErrorCode, QueryContext, QueryId, Result};

use super::cancel;
use super::error::{self, Server};
use super::sql::literal;
use super::tls::Tls;
use crate::bounded::Bounded;
use crate::breaker::Breaker;
use crate::full::Retry;
use crate::places::{Place, Places};
use crate::share::{Budget, Share, Standing};

/// How long a look-up waits for a connection before it says that the budget is used up.
const PLANNING_WAIT: Duration = Duration::from_secs(60);
/// A server that is gone without a word is noticed this long after the last sign of life: the kernel asks after
/// `KEEPALIVE_IDLE` of silence, and gives up when nothing was answered for `UNANSWERED`. A server that is only slow answers
/// such probes, however long it computes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const UNANSWERED: Duration = Duration::from_secs(30);
/// How long an unused connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// How long the end of an abandoned statement may take before its connection is simply closed.
const FAREWELL: Duration = Duration::from_secs(1);

/// How the keys begin under which queries pin their snapshots.
pub(crate) const PIN_PREFIX: &str = "postgres ";

/// What every transaction is set to, so that a value's text is the same on every server. All of it is local to the transaction: behind a
/// pooler (pgbouncer) the next one runs on another connection of the server, and this one serves others.
const SETTINGS: &str = "SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL TimeZone = 'UTC'; \
     SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; SET LOCAL lc_monetary = 'C'; \
     SET LOCAL standard_conforming_strings = on; SET LOCAL client_min_messages = error";

/// The time limits that an administrator gave to the account: they are meant for people at a prompt, and would end a scan or
/// a snapshot in the middle of its query, which has a limit of its own. Not every version knows each.
const TIME_LIMITS: [&str; 3] = ["statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout"];

/// A server that computes notices only when asked to that its client was killed. Not every version and platform can.
const CHECK_INTERVAL: &str = "client_connection_check_interval";
const NOTICE_A_DEAD_CLIENT: &str = "SET LOCAL client_connection_check_interval = '1s'";

/// What a connection is for: it decides how long one waits for it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// A look-up while planning: short.
    Planning,
    /// The snapshot of a query: held until the query ends. Queues as long as its query may.
    Snapshot(&'a QueryContext),
    /// Rows that are written. Queues like a split.
    Write,
    /// A split: queues as long as it takes; whoever does not want to wait drops the stream.
    Split,
}

impl Purpose<'_> {
    /// Whether it is what a query begins with. The rest belongs to queries that have reached the server already.
    fn is_planning(self) -> bool {
        matches!(self, Self::Planning | Self::Snapshot(_))
    }

    /// Whether to go on waiting. Two queries that each hold a snapshot of one catalog and wait for that of the other would
    /// wait for ever: a query that holds one already gives up in time.
    fn is_patient(self) -> bool {
        match self {
            Self::Planning => false,
            Self::Snapshot(query) => !query.pin_keys().iter().any(|key| key.starts_with(PIN_PREFIX)),
            Self::Split | Self::Write => true,
        }
    }
}

/// The connections of this process to one server.
pub(crate) struct Pool {
    server: Server,
    config: tokio_postgres::Config,
    tls: Tls,
    connect_timeout: Duration,
    planning_wait: Duration,
    budget: Budget,
    takes_rows: bool,
    /// For all but writes.
    places: Arc<Places>,
    /// How many of those may be snapshots.
    snapshots: Arc<Places>,
    writes: Arc<Places>,
    idle: Mutex<Vec<Idle>>,
    breaker: Breaker,
}

struct Idle {
    wire: Wire,
    since: Instant,
}

/// An open connection: the client half, and the task that drives the socket.
struct Wire {
    client: Client,
    driver: JoinHandle<()>,
    /// What transactions of this server begin with.
    settings: String,
    /// Whether the server was a standby when it was connected.
    is_standby: bool,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort(); // closes the socket at once, whatever the server is about to send
    }
}

impl Pool {
    /// A pool without connections.
    ///
    /// Errors: `CONFIG_INVALID`, naming the catalog and never its URL.
    pub fn new(catalog: &str, settings: &PostgresCatalog) -> Result<Arc<Self>> {
        let wrong = |what: &str| Error::new(ErrorCode::ConfigInvalid, format!("catalogs.{catalog}.url {what}"));
        let mut config: tokio_postgres::Config = settings.url.expose().parse().map_err(|_| {
            wrong("is not a Postgres URL")
                .with_hint("postgres://user:password@host:port/database; TLS is the key `tls`")
        })?;
        if config.get_hosts().is_empty() {
            return Err(wrong("names no host"));
        }
        let tls = Tls::new(catalog, settings.tls, config.get_ssl_mode(), settings.tls_ca.as_deref())?;
        config.ssl_mode(tls.mode).application_name("townlake").connect_timeout(settings.connect_timeout);
        config.keepalives(true).keepalives_idle(KEEPALIVE_IDLE).keepalives_interval(KEEPALIVE_INTERVAL);
        config.tcp_user_timeout(UNANSWERED);
        let takes_rows = !settings.writers.is_empty();
        // A snapshot and a look-up, and one to write.
        let coordinator_least = 2 + usize::from(takes_rows);
        let budget = Budget { connections: settings.connections, coordinator_least };
        let server = Server { catalog: catalog.to_string(), host: host_of(&config) };
        let reaches = format!("Postgres at {}", server.host);
        let pool = Arc::new(Self {
            breaker: Breaker::new(catalog, reaches, settings.breaker_failures, settings.breaker_pause),
            server,
            config,
            tls,
            connect_timeout: settings.connect_timeout,
            planning_wait: PLANNING_WAIT,
            budget,
            takes_rows,
            places: Places::new(0),
            snapshots: Places::new(0),
            writes: Places::new(0),
            idle: Mutex::default(),
        });
        pool.set_share(Standing::Alone.share(budget));
        Ok(pool)
    }

    /// Which server this is, for errors.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// What stands before its look-ups.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Closes the idle connections, and forgets that the server could not be reached.
    pub fn refresh(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
        self.breaker.reset();
    }

    /// A connection inside a transaction (read-only, but to write) that runs under the name of `query`: a fresh snapshot, or `snapshot`.
    ///
    /// Errors: `RESOURCE_EXHAUSTED` when a look-up waits too long for the budget, or the snapshot of a query that holds one
    /// of another catalog; `SOURCE_UNAVAILABLE` at once where the breaker says so; else what the server says.
    pub async fn begin(
        self: &Arc<Self>,
        query: &QueryId,
        purpose: Purpose<'_>,
        snapshot: Option<&str>,
    ) -> Result<Connection> {
        if !purpose.is_planning() {
            let permits = self.permits(purpose).await?;
            let mut retry = Retry::new();
            loop {
                match self.begin_with(Arc::clone(&permits), query, purpose, snapshot).await {
                    Err(error) if error::is_full(&error) && retry.pause(&self.server.catalog).await => {}
                    begun => return begun,
                }
            }
        }
        self.breaker.check()?;
        let permits = self.permits(purpose).await?;
        let attempt = self.breaker.enter()?;
        let begun = self.begin_with(permits, query, purpose, snapshot).await;
        match &begun {
            // It starts up, or has too many clients: it is there.
            Err(error) if error::is_answer(error) => attempt.reached(),
            _ => attempt.ended(&begun),
        }
        begun
    }

    async fn begin_with(
        self: &Arc<Self>,
        permits: Arc<Permits>,
        query: &QueryId,
        purpose: Purpose<'_>,
        snapshot: Option<&str>,
    ) -> Result<Connection> {
        let adopt = snapshot.map(|id| format!("SET TRANSACTION SNAPSHOT {};", literal(id))).unwrap_or_default();
        let name = literal(&format!("townlake {query}"));
        let mode = match purpose {
            Purpose::Write => "READ COMMITTED READ WRITE",
            _ => "REPEATABLE READ READ ONLY",
        };
        let begin = format!("BEGIN ISOLATION LEVEL {mode}; {adopt} SET LOCAL application_name = {name}; ");
        let refused = |error| match snapshot {
            Some(_) => self.server.lost_snapshot(error),
            None => self.server.error("begin a transaction", error),
        };
        // An idle connection may have died unnoticed (a server that was restarted): then the next one, at last a new one.
        while let Some(wire) = self.take_idle() {
            let begin = format!("{begin}{}", wire.settings);
            let connection = self.lend(wire, permits.clone());
            match timeout(self.connect_timeout, connection.client()?.batch_execute(&begin)).await {
                Ok(Ok(())) => return Ok(connection),
                Ok(Err(error)) if error.as_db_error().is_some() => return Err(refused(error)),
                _ => drop(connection),
            }
        }
        let wire = self.connect().await?;
        let begin = format!("{begin}{}", wire.settings);
        let connection = self.lend(wire, permits);
        match timeout(self.connect_timeout, connection.client()?.batch_execute(&begin)).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(error)) => Err(refused(error)),
            Err(_) => Err(self.server.timed_out("begin a transaction")),
        }
    }

    async fn permits(&self, purpose: Purpose<'_>) -> Result<Arc<Permits>> {
        let take = async {
            let held = match purpose {
                Purpose::Write if self.takes_rows => vec![self.writes.take().await?],
                Purpose::Snapshot(_) => vec![self.snapshots.take().await?, self.places.take().await?],
                Purpose::Planning | Purpose::Split | Purpose::Write => vec![self.places.take().await?],
            };
            Ok(Arc::new(Permits { _held: held }))
        };
        // One future for the whole wait: it keeps its place in the queue.
        let mut take = pin!(take);
        loop {
            if let Ok(taken) = timeout(self.planning_wait, &mut take).await {
                return taken;
            }
            let Server { catalog, host } = &self.server;
            if !purpose.is_patient() {
                let message = format!("catalog {catalog}: all connections to Postgres at {host} are in use");
                let hint = format!(
                    "run fewer queries at a time or raise `connections` in [catalogs.{catalog}], which all nodes share"
                );
                return Err(Error::new(ErrorCode::ResourceExhausted, message).with_hint(hint).retryable());
            }
            tracing::info!(%catalog, %host, "all connections are in use: a query still waits for one");
        }
    }

    fn take_idle(&self) -> Option<Wire> {
        let mut idle = self.idle.lock();
        idle.retain(|entry| !entry.wire.client.is_closed() && entry.since.elapsed() < IDLE_TIME);
        idle.pop().map(|entry| entry.wire)
    }

    async fn connect(&self) -> Result<Wire> {
        let doing = "connect";
        let opened = timeout(self.connect_timeout, async {
            let plain = self.tls.mode == SslMode::Disable || is_local(&self.config);
            let (client, driver) = match &self.tls.connector {
                Some(tls) if !plain => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    (client, tokio::spawn(drive(connection)))
                }
                _ => {
                    let (client, connection) = self.config.connect(NoTls).await?;
                    (client, tokio::spawn(drive(connection)))
                }
            };
            let mut wire = Wire { client, driver, settings: String::new(), is_standby: false };
            (wire.settings, wire.is_standby) = self.get_to_know(&wire.client).await?;
            Ok(wire)
        });
        match opened.await {
            Ok(Ok(wire)) => Ok(wire),
            Ok(Err(error)) => Err(self.server.error(doing, error)),
            Err(_) => Err(self.server.timed_out(doing)),
        }
    }

    /// What transactions of this server begin with ([`SETTINGS`], and what it knows of the others), and whether it is a standby.
    async fn get_to_know(&self, client: &Client) -> std::result::Result<(String, bool), tokio_postgres::Error> {
        let names =
            TIME_LIMITS.iter().chain([&CHECK_INTERVAL]).map(|name| literal(name)).collect::<Vec<_>>().join(", ");
        let ask = format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = 0; \
             SELECT name FROM pg_catalog.pg_settings WHERE name IN ({names}) \
             UNION ALL SELECT 'standby' WHERE pg_catalog.pg_is_in_recovery(); COMMIT"
        );
        let answer = client.simple_query(&ask).await?;
        let known = |wanted: &str| {
            answer.iter().any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some(wanted)))
        };
        let mut settings = SETTINGS.to_string();
        for limit in TIME_LIMITS.iter().filter(|limit| known(limit)) {
            settings.push_str(&format!("; SET LOCAL {limit} = 0"));
        }
        if known(CHECK_INTERVAL) {
            match client.batch_execute(&format!("BEGIN READ ONLY; {NOTICE_A_DEAD_CLIENT}; COMMIT")).await {
                Ok(()) => settings.push_str(&format!("; {NOTICE_A_DEAD_CLIENT}")),
                Err(error) if error.as_db_error().is_some() => {
                    tracing::debug!(catalog = %self.server.catalog, "the server cannot watch for clients that are gone");
                    client.batch_execute("ROLLBACK").await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok((settings, known("standby")))
    }

    fn lend(self: &Arc<Self>, wire: Wire, permits: Arc<Permits>) -> Connection {
        Connection { pool: Arc::clone(self), wire: Some(wire), permits: Some(permits), runtime: Handle::current() }
    }

    /// Keeps a connection for the next user, who has its place then; unless there are idle ones enough.
    fn give_back(self: &Arc<Self>, wire: Wire) {
        let mut idle = self.idle.lock();
        if idle.len() >= self.places.free_without_one() {
            return;
        }
        idle.push(Idle { wire, since: Instant::now() });
        drop(idle);
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(IDLE_TIME).await;
            if let Some(pool) = pool.upgrade() {
                pool.idle.lock().retain(|entry| entry.since.elapsed() < IDLE_TIME);
            }
        });
    }

    /// Asks the server to end the running statement of another connection. Best effort: the socket is closed after it.
    async fn cancel(&self, token: CancelToken) {
        let tls = self.tls.connector.clone().filter(|_| !is_local(&self.config));
        if cancel::send(&self.config, tls, token).await.is_err() {
            tracing::debug!(catalog = %self.server.catalog, "the server could not be asked to cancel a statement");
        }
    }
}

impl Bounded for Pool {
    fn budget(&self) -> Budget {
        self.budget
    }

    fn share(&self) -> usize {
        self.places.all() + self.writes.all()
    }

    fn used(&self) -> usize {
        self.places.taken() + self.writes.taken()
    }

    fn set_share(&self, share: Share) {
        let writes = match share.connections {
            all @ 3.. if share.plans && self.takes_rows => (all / 4).max(1),
            _ => 0,
        };
        let others = share.connections - writes;
        self.places.resize(others);
        self.snapshots.resize((others / 2).max(others.min(1)));
        self.writes.resize(writes);
        let mut idle = self.idle.lock();
        let surplus = idle.len().saturating_sub(self.places.free());
        let closed: Vec<_> = idle.drain(..surplus).collect();
        drop(idle);
        drop(closed);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Places in the budget, held until the connection is closed or idle again.
struct Permits {
    _held: Vec<Place>,
}

/// A connection in a transaction. Dropped before [`Connection::finish`], its statement is ended on the server and the
/// connection closed; its place in the budget is free only then.
pub(crate) struct Connection {
    pool: Arc<Pool>,
    wire: Option<Wire>,
    permits: Option<Arc<Permits>>,
    runtime: Handle,
}

impl Connection {
    /// The driver's client.
    pub fn client(&self) -> Result<&Client> {
        self.wire.as_ref().map(|wire| &wire.client).ok_or_else(|| Error::internal("a connection is used after its end"))
    }

    /// Which server it goes to, for errors.
    pub fn server(&self) -> &Server {
        &self.pool.server
    }

    /// Makes sure that what was read of a snapshot is whole. On a standby it may not be: replay waits for (and then ends) the transactions
    /// that it found in its way, and one that joins a snapshot after that is not among them. The one that exported it is: while it
    /// lives, nothing that it sees has been removed.
    pub async fn check_snapshot(&self, id: &str) -> Result<()> {
        if !self.wire.as_ref().is_some_and(|wire| wire.is_standby) {
            return Ok(());
        }
        let join = format!(
            "COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            literal(id)
        );
        self.client()?.batch_execute(&join).await.map_err(|error| self.server().lost_snapshot(error))
    }

    /// Ends the transaction and keeps the connection for the next user. A connection that cannot is closed.
    pub async fn finish(mut self) {
        let Ok(client) = self.client() else { return };
        let ended = timeout(FAREWELL, client.batch_execute("COMMIT")).await;
        if matches!(ended, Ok(Ok(())))
            && let Some(wire) = self.wire.take()
        {
            self.pool.give_back(wire);
        }
    }

    /// Ends a transaction in which statements were prepared, and closes the connection. The driver keeps some of its own (it looks up
    /// types with them): behind a pooler they would lie about in a connection that others use next.
    pub async fn finish_prepared(mut self) {
        let Ok(client) = self.client() else { return };
        let ended = timeout(FAREWELL, client.batch_execute("DEALLOCATE ALL; COMMIT")).await;
        if matches!(ended, Ok(Ok(()))) {
            self.wire = None;
            self.permits = None;
        }
    }

    /// Commits what was written, and closes the connection: it is one beside the budget.
    ///
    /// Errors: `COMMIT_STATE_UNKNOWN` where no answer came, else what the server says (a deferred constraint, for one).
    pub async fn commit(self) -> Result<()> {
        let answer = self.client()?.batch_execute("COMMIT").await;
        match answer {
            Ok(()) => Ok(()),
            Err(error) if error.as_db_error().is_some() => Err(self.server().error("commit", error)),
            Err(error) => {
                let Server { catalog, host } = self.server();
                let message = format!("catalog {catalog}: Postgres at {host} was lost while the rows were committed");
                Err(Error::new(ErrorCode::CommitStateUnknown, message)
                    .with_hint("look whether the rows are there before they are written again")
                    .with_source(error))
            }
        }
    }

    /// As [`Connection::finish`], for those who cannot wait.
    pub fn finish_later(self) {
        let runtime = self.runtime.clone();
        runtime.spawn(self.finish());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let (Some(wire), permits) = (self.wire.take(), self.permits.take()) else { return };
        let pool = Arc::clone(&self.pool);
        self.runtime.spawn(async move {
            if !wire.client.is_closed() {
                let farewell = async {
                    pool.cancel(wire.client.cancel_token()).await;
                    // Its end, and not only the request for it: the budget counts what runs, and pgbouncer before 1.21 may crash when a
                    // client leaves while its cancel is under way (pgbouncer/pgbouncer#822).
                    wire.client.batch_execute("ROLLBACK").await
                };
                let _ = timeout(FAREWELL, farewell).await;
            }
            drop(wire);
            drop(permits);
        });
    }
}

/// Drives a socket until it is closed. What goes wrong reaches whoever waits for an answer.
async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to postgres ended");
    }
}

fn is_local(config: &tokio_postgres::Config) -> bool {
    config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)))
}

fn host_of(config: &tokio_postgres::Config) -> String {
    let ports = config.get_ports();
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
    let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(index)),
        Host::Unix(path) => format!("{}:{}", path.display(), port(index)),
    });
    hosts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use townlake_common::config::CatalogConfig;
    use townlake_common::{Principal, Secret};

    use super::*;

    fn settings(url: &str) -> PostgresCatalog {
        let toml = format!("[catalogs.crm]\ntype = \"postgres\"\nurl = \"{url}\"\nconnect_timeout = \"300ms\"");
        match townlake_common::config::Config::from_toml(&toml).unwrap().catalogs.remove("crm") {
            Some(CatalogConfig::Postgres(catalog)) => *catalog,
            _ => panic!("not a Postgres catalog"),
        }
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_named_without_its_password() {
        let pool = Pool::new("crm", &settings("postgres://reader:hunter2@127.0.0.1:1/crm")).unwrap();
        let error = pool.begin(&QueryId::generate(), Purpose::Planning, None).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::SourceUnavailable);
        assert!(error.is_retryable());
        let text = format!("{error:?} {pool:?}");
        assert!(text.contains("crm") && text.contains("127.0.0.1:1"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("reader"), "{text}");
    }

    /// Whether this wait is over, soon after it should have been.
    async fn is_over<T>(wait: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
        timeout(Duration::from_millis(300), wait).await.ok()
    }

    fn context() -> Arc<QueryContext> {
        QueryContext::new(QueryId::generate(), Principal::anonymous())
    }

    /// A pool of four connections, two of them for snapshots, whose look-ups wait 20 ms.
    fn small_pool() -> Pool {
        let mut config = settings("postgres://127.0.0.1:1/crm");
        config.connections = 4;
        let mut pool = Arc::into_inner(Pool::new("crm", &config).unwrap()).unwrap();
        pool.planning_wait = Duration::from_millis(20);
        pool
    }

    #[tokio::test]
    async fn queries_wait_for_a_snapshot_in_order_and_as_long_as_it_takes() {
        let pool = small_pool();
        let queries: [_; 4] = std::array::from_fn(|_| context());
        let first = pool.permits(Purpose::Snapshot(&queries[0])).await.unwrap();
        let second = pool.permits(Purpose::Snapshot(&queries[1])).await.unwrap();
        let mut third = Box::pin(pool.permits(Purpose::Snapshot(&queries[2])));
        let mut fourth = Box::pin(pool.permits(Purpose::Snapshot(&queries[3])));
        assert!(is_over(&mut third).await.is_none() && is_over(&mut fourth).await.is_none());
        // Meanwhile splits and look-ups have the other half.
        let split = pool.permits(Purpose::Split).await.unwrap();
        drop(pool.permits(Purpose::Planning).await.unwrap());
        drop(first);
        assert!(is_over(&mut fourth).await.is_none(), "the third asked before");
        let third = is_over(&mut third).await.unwrap().unwrap();
        drop(second);
        assert!(is_over(&mut fourth).await.unwrap().is_ok());
        drop((third, split));
    }

    #[tokio::test]
    async fn a_query_that_holds_another_snapshot_does_not_wait_for_ever() {
        let pool = small_pool();
        let (first, second, holder) = (context(), context(), context());
        let held = [
            pool.permits(Purpose::Snapshot(&first)).await.unwrap(),
            pool.permits(Purpose::Snapshot(&second)).await.unwrap(),
        ];
        holder.pin("postgres erp", || async { Ok(()) }).await.unwrap();
        let error = pool.permits(Purpose::Snapshot(&holder)).await.err().unwrap();
        assert!(error.code() == ErrorCode::ResourceExhausted && error.is_retryable(), "{error}");
        drop(held);
        assert!(pool.permits(Purpose::Snapshot(&holder)).await.is_ok());
    }

    #[test]
    fn a_server_that_vanishes_is_noticed() {
        let pool = Pool::new("crm", &settings("postgres://127.0.0.1/crm")).unwrap();
        assert!(pool.config.get_keepalives());
        assert_eq!(pool.config.get_keepalives_idle(), Duration::from_secs(30));
        assert_eq!(pool.config.get_tcp_user_timeout(), Some(&Duration::from_secs(30)));
        assert_eq!(pool.config.get_connect_timeout(), Some(&Duration::from_millis(300)));
    }

    #[test]
    fn a_wrong_url_is_not_quoted() {
        let mut wrong = settings("postgres://127.0.0.1/crm");
        wrong.url = Secret::new("postgres://reader:hunter2@host:notaport/crm");
        let error = Pool::new("crm", &wrong).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ConfigInvalid);
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
