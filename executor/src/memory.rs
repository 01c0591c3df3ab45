//! Memory of tasks. Each task gets its share of the executor's memory by the slots that it takes, in a pool of its own:
//! a task over its share spills, and one that cannot spill fails alone.

use std::sync::{Arc, Weak};

use ballista_executor::runtime_cache::SessionRuntimeCache;
use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionConfig;
use parking_lot::Mutex;
use townlake_engine::runtime;

/// Gives each task its runtime: object stores, caches and spill files are the executor's, memory is its own.
pub(crate) struct TaskMemory {
    base: Arc<RuntimeEnv>,
    bytes_per_slot: usize,
    pools: Mutex<Vec<Weak<dyn MemoryPool>>>,
}

impl TaskMemory {
    /// Splits `bytes` over `slots`.
    pub(crate) fn new(base: Arc<RuntimeEnv>, bytes: u64, slots: usize) -> Self {
        let share = bytes / u64::try_from(slots.max(1)).unwrap_or(u64::MAX);
        let bytes_per_slot = usize::try_from(share).unwrap_or(usize::MAX).max(1);
        Self { base, bytes_per_slot, pools: Mutex::default() }
    }

    /// What running tasks hold now, in bytes.
    pub(crate) fn reserved(&self) -> usize {
        let mut pools = self.pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.iter().filter_map(Weak::upgrade).map(|pool| pool.reserved()).sum()
    }
}

impl SessionRuntimeCache for TaskMemory {
    fn produce_runtime(&self, _session: &str, _config: &SessionConfig, slots: u32) -> Result<Arc<RuntimeEnv>> {
        let slots = usize::try_from(slots.max(1)).unwrap_or(usize::MAX);
        let runtime = runtime::with_memory(&self.base, self.bytes_per_slot.saturating_mul(slots))?;
        let mut pools = self.pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&runtime.memory_pool));
        Ok(runtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::execution::memory_pool::MemoryConsumer;

    #[test]
    fn a_task_gets_its_share_and_no_more() {
        let memory = TaskMemory::new(Arc::default(), 1000, 4);
        let runtime = memory.produce_runtime("s", &SessionConfig::new(), 2).unwrap();
        let other = memory.produce_runtime("s", &SessionConfig::new(), 1).unwrap();
        let held = MemoryConsumer::new("join").register(&runtime.memory_pool);
        held.try_grow(500).unwrap();
        assert!(held.try_grow(1).is_err());
        MemoryConsumer::new("sort").register(&other.memory_pool).try_grow(250).unwrap();
        assert_eq!(memory.reserved(), 500);
        drop((held, runtime));
        assert_eq!(memory.reserved(), 0);
    }
}
