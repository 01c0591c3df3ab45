//! The connection budgets of sources, for Prometheus: the same on coordinators and executors.

use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts, Registry};
use townlake_common::{Error, Result};
use townlake_connectors::BudgetState;

/// A gauge: its name, what it tells, and where that is.
type Gauge = (&'static str, &'static str, fn(&BudgetState) -> usize);

const GAUGES: [Gauge; 4] = [
    (
        "townlake_source_connections_budget",
        "Connections to the source of the catalog that all nodes may have together.",
        |state| state.budget,
    ),
    ("townlake_source_connections_share", "How many of them this node may have.", |state| state.share),
    ("townlake_source_connections_used", "How many of them this node works with.", |state| state.used),
    (
        "townlake_source_connections_needed",
        "What all nodes need together at the least; a smaller budget is not kept.",
        |state| state.needed,
    ),
];

/// The budgets as metrics. Made anew each time: catalogs come and go.
///
/// Errors: `INTERNAL`, which two gauges of one name would be.
pub fn families(budgets: &[BudgetState]) -> Result<Vec<MetricFamily>> {
    made(budgets).map_err(|e| Error::internal("the metrics of connection budgets cannot be registered").with_source(e))
}

fn made(budgets: &[BudgetState]) -> prometheus::Result<Vec<MetricFamily>> {
    let registry = Registry::new();
    for (name, help, value) in GAUGES {
        let gauge = IntGaugeVec::new(Opts::new(name, help), &["catalog"])?;
        for state in budgets {
            let value = i64::try_from(value(state)).unwrap_or(i64::MAX);
            gauge.with_label_values(&[state.catalog.as_str()]).set(value);
        }
        registry.register(Box::new(gauge))?;
    }
    Ok(registry.gather())
}
