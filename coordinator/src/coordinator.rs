//! Wires one coordinator from a configuration, and takes it down again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use townlake_cluster::Membership;
use townlake_common::config::Config;
use townlake_common::{Error, ErrorCode, Result};
use townlake_connectors::share::ProcessRole;
use townlake_engine::standing::Follower;
use townlake_governance::{Authenticator, Signer};
use townlake_store::Store;

use crate::flight::admission::Admission;
use crate::flight::tokens::Tokens;
use crate::flight::{self, Door, FlightSql};
use crate::http::{self, HttpDoor, Metrics};
use crate::maintenance::ScheduledMaintenance;
use crate::query::QueryService;
use crate::scheduling::Scheduler;
use crate::session::{SessionLimits, SessionStore};

/// How often forgotten sessions, statements and results are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// How long a stopping coordinator lets clients finish what they read.
const DRAIN: Duration = Duration::from_secs(10);

/// One coordinator: the public doors, planning and scheduling.
pub struct Coordinator;

/// A running coordinator. Dropping it stops it at once; [`CoordinatorHandle::shutdown`] lets clients finish.
pub struct CoordinatorHandle {
    /// Where Flight SQL listens.
    pub flight_addr: SocketAddr,
    /// Where HTTP listens.
    pub http_addr: SocketAddr,
    /// Where the scheduler listens for executors.
    pub internal_addr: SocketAddr,
    queries: Arc<QueryService>,
    scheduler: Arc<Scheduler>,
    /// The doors stop taking calls.
    closing: CancellationToken,
    /// The scheduler stops and leaves the member list: after the last query.
    stopping: CancellationToken,
    doors: JoinSet<Result<()>>,
    sweeper: AbortHandle,
    maintenance: AbortHandle,
}

impl Coordinator {
    /// Starts a coordinator: returns when it serves.
    ///
    /// Errors: `CONFIG_INVALID` for a wrong configuration or an address that cannot be taken, `STORE_UNAVAILABLE`,
    /// `MEMBERSHIP_UNAVAILABLE`.
    pub async fn start(config: Config, membership: Arc<dyn Membership>) -> Result<CoordinatorHandle> {
        let config = Arc::new(config);
        let flight_listener = listen("server.flight", config.server.flight).await?;
        let http_listener = listen("server.http", config.server.http).await?;
        let internal_listener = listen("cluster.internal", config.cluster.internal).await?;
        let (flight_addr, http_addr) = (address(&flight_listener)?, address(&http_listener)?);
        warn_of_clear_text("server.flight", flight_addr);

        let store = Store::open(&config.store.url).await?;
        let authenticator = Arc::new(Authenticator::new(&config.auth)?);
        let tokens = Tokens::new(Arc::new(Signer::new(config.auth.signing_key.as_ref())?));
        let metrics = Arc::new(Metrics::new()?);
        let sessions = SessionStore::new(SessionLimits::with_ttl(config.limits.session_ttl));

        let stopping = CancellationToken::new();
        let closing = CancellationToken::new();
        // A start that fails half way takes down what runs already.
        let undo = stopping.clone().drop_guard();
        let scheduler = Scheduler::start(&config, Arc::clone(&membership), internal_listener, stopping.clone()).await?;
        let internal_addr = scheduler.internal_addr();
        let queries = QueryService::new(Arc::clone(&config), Arc::clone(&scheduler), store.clone()).await?;
        let sources = Arc::clone(queries.catalogs().sources());
        let shares = Follower::new(sources, scheduler.incarnation(), ProcessRole::Coordinator);
        tokio::spawn(shares.follow(membership, stopping.clone()));

        let admission = Arc::new(Admission::new(authenticator, sessions.clone(), tokens.clone()));
        let service = FlightSql::new(
            Arc::clone(&queries),
            Arc::clone(&scheduler),
            sessions.clone(),
            tokens,
            Arc::clone(&metrics),
            &config.limits,
        );
        let sweeper = tokio::spawn(sweep(service.clone())).abort_handle();
        let scheduled = ScheduledMaintenance::new(
            Arc::clone(&queries),
            store.clone(),
            scheduler.incarnation(),
            &config.maintenance,
        );
        let maintenance = tokio::spawn(scheduled.run(closing.clone())).abort_handle();
        let mut doors = JoinSet::new();
        doors.spawn(flight::serve(flight_listener, Door::new(admission, service), closing.clone()));
        let http_door = HttpDoor {
            metrics,
            scheduler: Arc::clone(&scheduler),
            store,
            sessions,
            sources: Arc::clone(queries.catalogs().sources()),
            stopping: closing.clone(),
        };
        doors.spawn(http::serve(http_listener, http_door));

        undo.disarm();
        tracing::info!(
            flight = %flight_addr,
            http = %http_addr,
            internal = %internal_addr,
            incarnation = scheduler.incarnation(),
            "coordinator listens"
        );
        Ok(CoordinatorHandle {
            flight_addr,
            http_addr,
            internal_addr,
            queries,
            scheduler,
            closing,
            stopping,
            doors,
            sweeper,
            maintenance,
        })
    }
}

impl CoordinatorHandle {
    /// What plans and runs statements, for calls from the same process.
    pub fn queries(&self) -> &Arc<QueryService> {
        &self.queries
    }

    /// Runs until a door fails, which it does not do by itself.
    ///
    /// Errors: what the door reports.
    pub async fn wait(&mut self) -> Result<()> {
        match self.doors.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => Err(Error::internal("a door of the coordinator failed").with_source(error)),
            None => Ok(()),
        }
    }

    /// Stops: no new calls; what clients read may end for ten seconds, then it is cancelled; then the scheduler leaves.
    pub async fn shutdown(mut self) {
        tracing::info!("coordinator stops");
        self.closing.cancel();
        if tokio::time::timeout(DRAIN, self.doors_closed()).await.is_err() {
            tracing::info!("queries that run are cancelled: the time to finish is over");
            self.queries.registry().cancel_all();
            self.doors.shutdown().await;
        }
        self.stopping.cancel();
        self.scheduler.left().await;
    }

    async fn doors_closed(&mut self) {
        while let Some(closed) = self.doors.join_next().await {
            if let Ok(Err(error)) = closed {
                tracing::error!(?error, "a door failed");
            }
        }
    }
}

impl Drop for CoordinatorHandle {
    fn drop(&mut self) {
        self.closing.cancel();
        self.stopping.cancel();
        self.sweeper.abort();
        self.maintenance.abort();
    }
}

async fn sweep(service: FlightSql) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        service.expire();
    }
}

/// Passwords and tokens come with every call.
fn warn_of_clear_text(key: &str, door: SocketAddr) {
    if !door.ip().to_canonical().is_loopback() {
        tracing::warn!(
            setting = key,
            %door,
            "the door is open to other machines, and passwords, tokens and rows cross in clear: put TLS in front of it"
        );
    }
}

async fn listen(key: &str, wanted: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(wanted).await.map_err(|error| {
        Error::new(ErrorCode::ConfigInvalid, format!("{key}: cannot listen on {wanted}: {}", error.kind()))
            .with_hint("is another server running? port 0 takes a free one")
            .with_source(error)
    })
}

fn address(listener: &TcpListener) -> Result<SocketAddr> {
    listener.local_addr().map_err(|e| Error::internal("a listener has no address").with_source(e))
}
