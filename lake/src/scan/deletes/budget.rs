//! The memory that the deletes of a scan may take.

use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use townlake_common::{Error, ErrorCode, Result};

/// The most that one scan keeps of its deletes, whatever memory there is: a table beyond that is in need of compaction.
const LIMIT: usize = 1 << 30;

/// Counts what is kept until the scan is dropped.
pub(super) struct Budget {
    table: String,
    reservation: MemoryReservation,
    limit: usize,
}

impl Budget {
    pub(super) fn new(table: &str, pool: &Arc<dyn MemoryPool>) -> Self {
        let reservation = MemoryConsumer::new(format!("deletes of {table}")).register(pool);
        Self { table: table.to_string(), reservation, limit: LIMIT }
    }

    /// Takes `bytes` more.
    ///
    /// Errors: `MEMORY_LIMIT` when the pool or the limit has no room for them.
    pub(super) fn grow(&self, bytes: usize) -> Result<()> {
        let all = self.reservation.size().saturating_add(bytes);
        let refused = || {
            let message = format!("the row-level deletes of {} take more than {} MiB", self.table, all >> 20);
            Error::new(ErrorCode::MemoryLimit, message)
                .with_hint("compact the table, so that its deletes are applied, or give the query more memory")
        };
        if all > self.limit {
            return Err(refused());
        }
        self.reservation.try_grow(bytes).map_err(|error| refused().with_source(error))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn it_ends_at_the_limit_and_at_the_pool() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1000));
        let budget = Budget { limit: 700, ..Budget::new("lake.s.t", &pool) };
        budget.grow(600).unwrap();
        let error = budget.grow(200).unwrap_err();
        assert_eq!(error.code(), ErrorCode::MemoryLimit);
        assert!(error.message().contains("lake.s.t"), "{error}");
        let other = Budget::new("lake.s.t", &pool);
        assert_eq!(other.grow(500).unwrap_err().code(), ErrorCode::MemoryLimit);
        drop(budget);
        other.grow(500).unwrap();
        assert_eq!(pool.reserved(), 500);
    }
}
