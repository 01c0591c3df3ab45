//! The moment that a query reads: chosen once per query and catalog, so that all tables and splits are of the same state.

use std::time::{SystemTime, UNIX_EPOCH};

use townlake_common::{Error, QueryContext, Result};

/// A moment in µs since 1970.
pub(crate) struct Snapshot(pub i64);

impl Snapshot {
    /// The moment of `query` in this catalog: now, the first time.
    pub async fn of(query: &QueryContext, catalog: &str) -> Result<i64> {
        let pin = query.pin(&format!("bigquery {catalog}"), || async { Self::take() }).await?;
        Ok(pin.0)
    }

    fn take() -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().and_then(|now| i64::try_from(now.as_micros()).ok());
        now.map(Self).ok_or_else(|| Error::internal("the clock of this node is before 1970"))
    }
}
