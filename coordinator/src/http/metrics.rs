//! What this coordinator counts, for Prometheus.

use std::sync::Arc;

use prometheus::proto::MetricFamily;
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use townlake_common::{Error, ErrorCode, Result};
use townlake_connectors::{BreakerState, SourceConnections};

/// The counters of one coordinator. Each has its own registry, so that several live in one process.
pub struct Metrics {
    registry: Registry,
    queries: IntCounterVec,
    running: IntGauge,
    executors: IntGauge,
    slots: IntGauge,
    sessions: IntGauge,
    streams: IntGauge,
    bytes_sent: IntCounter,
    calls: IntCounterVec,
}

impl Metrics {
    /// Counters at zero.
    ///
    /// Errors: an internal fault, two counters of one name.
    pub fn new() -> Result<Self> {
        Self::register().map_err(|e| Error::internal("the metrics cannot be registered").with_source(e))
    }

    fn register() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let metrics = Self {
            queries: IntCounterVec::new(
                Opts::new("townlake_queries_total", "Statements that ended, by state (finished, failed, cancelled)."),
                &["state"],
            )?,
            running: IntGauge::new("townlake_queries_running", "Statements that run now.")?,
            executors: IntGauge::new("townlake_executors", "Executors in the member list.")?,
            slots: IntGauge::new("townlake_executor_slots", "Task slots of the executors that are alive.")?,
            sessions: IntGauge::new("townlake_sessions", "Sessions that are kept.")?,
            streams: IntGauge::new("townlake_result_streams", "Results that clients read now.")?,
            bytes_sent: IntCounter::new("townlake_result_bytes_total", "Bytes of results given to clients.")?,
            calls: IntCounterVec::new(
                Opts::new("townlake_flight_refused_total", "Flight calls refused at the door, by error code."),
                &["code"],
            )?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.queries.clone()))?;
        metrics.registry.register(Box::new(metrics.running.clone()))?;
        metrics.registry.register(Box::new(metrics.executors.clone()))?;
        metrics.registry.register(Box::new(metrics.slots.clone()))?;
        metrics.registry.register(Box::new(metrics.sessions.clone()))?;
        metrics.registry.register(Box::new(metrics.streams.clone()))?;
        metrics.registry.register(Box::new(metrics.bytes_sent.clone()))?;
        metrics.registry.register(Box::new(metrics.calls.clone()))?;
        Ok(metrics)
    }

    /// Counts a call that was refused for lack of identity or session.
    pub fn call_refused(&self, code: ErrorCode) {
        self.calls.with_label_values(&[code.as_str()]).inc();
    }

    /// Counts a statement as running until the guard is told how it ended, or is dropped (cancelled).
    pub fn query_started(self: &Arc<Self>) -> RunningQuery {
        self.running.inc();
        RunningQuery { metrics: Arc::clone(self), state: "cancelled" }
    }

    /// Counts a result stream as open until the guard is dropped.
    pub fn stream_opened(self: &Arc<Self>) -> OpenStream {
        self.streams.inc();
        OpenStream { metrics: Arc::clone(self) }
    }

    /// The text that Prometheus reads, with the gauges as they are now.
    ///
    /// Errors: an internal fault of the encoder.
    pub fn exposition(
        &self,
        executors: usize,
        slots: usize,
        sessions: usize,
        sources: &SourceConnections,
    ) -> Result<String> {
        self.executors.set(as_gauge(executors));
        self.slots.set(as_gauge(slots));
        self.sessions.set(as_gauge(sessions));
        let mut text = Vec::new();
        let of_sources = families(&sources.breakers())
            .map_err(|e| Error::internal("the metrics of the sources cannot be registered").with_source(e))?;
        let of_budgets = townlake_engine::budget_metrics::families(&sources.budgets())?;
        let families: Vec<_> = self.registry.gather().into_iter().chain(of_sources).chain(of_budgets).collect();
        TextEncoder::new()
            .encode(&families, &mut text)
            .map_err(|e| Error::internal("the metrics cannot be written").with_source(e))?;
        String::from_utf8(text).map_err(|e| Error::internal("the metrics are not text").with_source(e))
    }
}

/// What the breakers have seen. Made anew each time: catalogs come and go.
fn families(breakers: &[BreakerState]) -> prometheus::Result<Vec<MetricFamily>> {
    let registry = Registry::new();
    let open = IntGaugeVec::new(
        Opts::new(
            "townlake_source_breaker_open",
            "Whether queries of the catalog are refused: it could not be reached.",
        ),
        &["catalog"],
    )?;
    let failures = IntCounterVec::new(
        Opts::new("townlake_source_failures_total", "Look-ups that did not reach the source of the catalog."),
        &["catalog"],
    )?;
    let refused = IntCounterVec::new(
        Opts::new("townlake_source_refused_total", "Look-ups that were refused without a try, after such failures."),
        &["catalog"],
    )?;
    for breaker in breakers {
        let of = [breaker.catalog.as_str()];
        open.with_label_values(&of).set(breaker.is_open.into());
        failures.with_label_values(&of).inc_by(breaker.failures);
        refused.with_label_values(&of).inc_by(breaker.refused);
    }
    registry.register(Box::new(open))?;
    registry.register(Box::new(failures))?;
    registry.register(Box::new(refused))?;
    Ok(registry.gather())
}

/// A statement that runs. Dropped without a verdict, it counts as cancelled: its client went away.
pub struct RunningQuery {
    metrics: Arc<Metrics>,
    state: &'static str,
}

impl RunningQuery {
    /// All rows were read.
    pub fn finished(&mut self) {
        self.state = "finished";
    }

    /// It failed, or was cancelled by a request.
    pub fn failed(&mut self, code: ErrorCode) {
        self.state = if code == ErrorCode::Cancelled { "cancelled" } else { "failed" };
    }
}

impl Drop for RunningQuery {
    fn drop(&mut self) {
        self.metrics.running.dec();
        self.metrics.queries.with_label_values(&[self.state]).inc();
    }
}

/// A result that a client reads.
pub struct OpenStream {
    metrics: Arc<Metrics>,
}

impl OpenStream {
    /// Counts bytes given to the client.
    pub fn sent(&self, bytes: usize) {
        self.metrics.bytes_sent.inc_by(bytes as u64);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.metrics.streams.dec();
    }
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
