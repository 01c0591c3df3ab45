//! The HTTP door: health, readiness and metrics. It gives out no data and asks for no credentials.

mod metrics;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use townlake_common::{Error, Result};
use townlake_connectors::SourceConnections;
use townlake_store::Store;

pub use metrics::{Metrics, OpenStream, RunningQuery};

use crate::scheduling::Scheduler;
use crate::session::SessionStore;

/// What the answers are made of.
#[derive(Clone)]
pub struct HttpDoor {
    /// Counters of this coordinator.
    pub metrics: Arc<Metrics>,
    /// Whose executors are counted.
    pub scheduler: Arc<Scheduler>,
    /// Whose health decides readiness.
    pub store: Store,
    /// Whose sessions are counted.
    pub sessions: SessionStore,
    /// Whose breakers are told.
    pub sources: Arc<SourceConnections>,
    /// Cancelled when the coordinator stops: it is not ready from then on.
    pub stopping: CancellationToken,
}

/// Serves until `stopping` is cancelled.
///
/// Errors: the listener failed.
pub async fn serve(listener: TcpListener, door: HttpDoor) -> Result<()> {
    let stopping = door.stopping.clone();
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(exposition))
        .with_state(door);
    axum::serve(listener, router)
        .with_graceful_shutdown(stopping.cancelled_owned())
        .await
        .map_err(|e| Error::internal("the http door failed").with_source(e))
}

/// Ready to take queries: not stopping, in touch with the cluster, and the store, without which no query may start, answers.
async fn ready(State(door): State<HttpDoor>) -> Response {
    if door.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    if !door.scheduler.is_ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not in the member list\n").into_response();
    }
    match door.store.recent_queries(1).await {
        Ok(_) => "ready\n".into_response(),
        Err(error) => {
            tracing::warn!(code = %error.code(), "not ready: the store does not answer");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", error.code())).into_response()
        }
    }
}

async fn exposition(State(door): State<HttpDoor>) -> Response {
    let executors =
        door.scheduler.nodes().iter().filter(|node| node.role() == townlake_cluster::Role::Executor).count();
    match door.metrics.exposition(executors, door.scheduler.slots(), door.sessions.len(), &door.sources) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::error!(code = %error.code(), "metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
