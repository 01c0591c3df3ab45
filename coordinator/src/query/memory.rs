//! Memory of the queries that run in the coordinator: each has a share of its own, over which it fails alone, and all
//! together hold no more than `limits.coordinator_memory`.

use std::fmt;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use townlake_common::{Error, ErrorCode};

/// One query may hold one part of this many of the whole.
const SHARES: usize = 4;

/// The runtime of one query over the runtime of all: memory of its own, the rest shared.
pub(super) fn runtime_of_query(all: &RuntimeEnv) -> Arc<RuntimeEnv> {
    let pool = QueryPool::new(Arc::clone(&all.memory_pool));
    Arc::new(RuntimeEnv { memory_pool: Arc::new(pool), ..all.clone() })
}

/// An error of a query that ran here, which says whose memory was too small.
pub(super) fn of_coordinator(error: Error) -> Error {
    match error.code() {
        ErrorCode::MemoryLimit => error.with_hint(format!(
            "a query that runs in the coordinator may hold 1/{SHARES} of limits.coordinator_memory; raise it, or join and \
             group less at once"
        )),
        _ => error,
    }
}

/// The memory of one query: a fair share for each of its operators that spill, within its share of the whole.
#[derive(Debug)]
struct QueryPool {
    own: FairSpillPool,
    all: Arc<dyn MemoryPool>,
}

impl QueryPool {
    fn new(all: Arc<dyn MemoryPool>) -> Self {
        let bytes = match all.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes,
            MemoryLimit::Infinite | MemoryLimit::Unknown => usize::MAX,
        };
        Self { own: FairSpillPool::new((bytes / SHARES).max(1)), all }
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &'static str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.all.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.all.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.own.try_grow(reservation, additional)?;
        self.all.try_grow(reservation, additional).inspect_err(|_| self.own.shrink(reservation, additional))
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.own.memory_limit()
    }
}

impl fmt::Display for QueryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the query's share: {}", self.own)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;

    use super::*;

    #[test]
    fn a_query_has_its_share_and_all_have_the_whole() {
        let all = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(GreedyMemoryPool::new(1000))).build().unwrap();
        let runtimes: Vec<_> = (0..5).map(|_| runtime_of_query(&all)).collect();
        let held: Vec<_> =
            runtimes.iter().map(|runtime| MemoryConsumer::new("join").register(&runtime.memory_pool)).collect();
        held[0].try_grow(250).unwrap();
        assert!(held[0].try_grow(1).is_err(), "a query over its share fails");
        held[1].try_grow(250).unwrap();
        held[2].try_grow(250).unwrap();
        held[3].try_grow(200).unwrap();
        assert!(held[4].try_grow(100).is_err(), "the whole is a limit as well");
        assert_eq!((all.memory_pool.reserved(), runtimes[4].memory_pool.reserved()), (950, 0));
        held[4].try_grow(50).unwrap();
        drop((held, runtimes));
        assert_eq!(all.memory_pool.reserved(), 0);
    }

    #[test]
    fn the_hint_names_the_setting() {
        let error = of_coordinator(Error::new(ErrorCode::MemoryLimit, "too much").with_hint("raise executor.memory"));
        assert!(error.hint().unwrap().contains("limits.coordinator_memory"), "{error}");
        assert_eq!(of_coordinator(Error::internal("x")).hint(), None);
    }
}
