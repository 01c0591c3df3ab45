//! What the executor counts, for Prometheus.

use std::sync::Arc;

use ballista_core::JobId;
use ballista_executor::execution_engine::QueryStageExecutor;
use ballista_executor::metrics::ExecutorMetricsCollector;
use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};
use townlake_common::{Error, Result};
use townlake_connectors::BudgetState;

/// The numbers of one executor, in a registry of their own: a test runs several in one process.
pub(crate) struct Metrics {
    registry: Registry,
    /// Tasks that run now.
    pub(crate) running: IntGauge,
    /// Tasks that have ended, by result: `done`, `failed`, `cancelled`.
    pub(crate) ended: IntCounterVec,
    /// Bytes that tasks wrote for others to fetch.
    pub(crate) shuffle_written: IntCounter,
    /// Bytes that others fetched.
    pub(crate) shuffle_served: IntCounter,
    memory_reserved: IntGauge,
    exchange_memory: IntGauge,
    outbox: IntGauge,
}

impl Metrics {
    /// All at zero.
    ///
    /// Errors: `INTERNAL` for a name that is used twice.
    pub(crate) fn new() -> Result<Self> {
        Self::build().map_err(|error| Error::internal("the metrics cannot be registered").with_source(error))
    }

    fn build() -> prometheus::Result<Self> {
        let metrics = Self {
            registry: Registry::new(),
            running: IntGauge::new("townlake_executor_tasks_running", "Tasks that run now.")?,
            ended: IntCounterVec::new(
                Opts::new("townlake_executor_tasks_total", "Tasks that have ended, by result."),
                &["result"],
            )?,
            shuffle_written: IntCounter::new(
                "townlake_executor_shuffle_written_bytes_total",
                "Bytes that tasks wrote for others to fetch.",
            )?,
            shuffle_served: IntCounter::new(
                "townlake_executor_shuffle_served_bytes_total",
                "Bytes that others fetched.",
            )?,
            memory_reserved: IntGauge::new(
                "townlake_executor_memory_reserved_bytes",
                "Memory that running tasks hold.",
            )?,
            exchange_memory: IntGauge::new(
                "townlake_executor_exchange_memory_bytes",
                "Output of tasks that is in memory.",
            )?,
            outbox: IntGauge::new("townlake_executor_outbox_reports", "Reports that no coordinator has acknowledged.")?,
        };
        for result in ["done", "failed", "cancelled"] {
            metrics.ended.with_label_values(&[result]);
        }
        metrics.registry.register(Box::new(metrics.running.clone()))?;
        metrics.registry.register(Box::new(metrics.ended.clone()))?;
        metrics.registry.register(Box::new(metrics.shuffle_written.clone()))?;
        metrics.registry.register(Box::new(metrics.shuffle_served.clone()))?;
        metrics.registry.register(Box::new(metrics.memory_reserved.clone()))?;
        metrics.registry.register(Box::new(metrics.exchange_memory.clone()))?;
        metrics.registry.register(Box::new(metrics.outbox.clone()))?;
        Ok(metrics)
    }

    /// The text that Prometheus reads, with the gauges set to these values.
    ///
    /// Errors: `INTERNAL` when a number cannot be written.
    pub(crate) fn text(
        &self,
        memory_reserved: usize,
        exchange: usize,
        outbox: usize,
        budgets: &[BudgetState],
    ) -> Result<Vec<u8>> {
        self.memory_reserved.set(i64::try_from(memory_reserved).unwrap_or(i64::MAX));
        self.exchange_memory.set(i64::try_from(exchange).unwrap_or(i64::MAX));
        self.outbox.set(i64::try_from(outbox).unwrap_or(i64::MAX));
        let mut families = self.registry.gather();
        families.extend(townlake_engine::budget_metrics::families(budgets)?);
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&families, &mut text)
            .map_err(|error| Error::internal("the metrics cannot be written").with_source(error))?;
        Ok(text)
    }
}

/// Ballista hands each finished stage to a collector. The operators' numbers travel with the status already.
pub(crate) struct NoCollector;

impl ExecutorMetricsCollector for NoCollector {
    fn record_stage(&self, _: &JobId, _: usize, _: usize, _: Arc<dyn QueryStageExecutor>) {}
}
