//! Health and metrics over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::RwLock;
use townlake_cluster::Seat;
use townlake_connectors::SourceConnections;

use crate::exchange::Outputs;
use crate::memory::TaskMemory;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::runner::Runner;

/// What health is judged by.
pub(crate) struct Health {
    pub(crate) seat: Arc<RwLock<Option<Box<dyn Seat>>>>,
    pub(crate) runner: Runner,
    pub(crate) outbox: Outbox,
    pub(crate) memory: Arc<TaskMemory>,
    pub(crate) outputs: Arc<Outputs>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sources: Arc<SourceConnections>,
}

/// `/healthz`: the process lives. `/readyz`: it is in the member list and takes tasks. `/metrics`: for Prometheus.
pub(crate) fn router(health: Arc<Health>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn ready(State(health): State<Arc<Health>>) -> (StatusCode, &'static str) {
    if health.runner.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining");
    }
    match health.seat.read().await.as_ref() {
        Some(seat) if seat.is_held() => (StatusCode::OK, "ready"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "not in the member list"),
    }
}

async fn metrics(State(health): State<Arc<Health>>) -> Response {
    let (exchange, budgets) = (health.outputs.memory.used(), health.sources.budgets());
    match health.metrics.text(health.memory.reserved(), exchange, health.outbox.len(), &budgets) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::error!(?error, "the metrics cannot be shown");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
