//! The runtime environment: object stores, spill files, memory, caches.

use std::path::Path;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, GreedyMemoryPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use townlake_lake::LakeObjects;

/// Stack of each thread that plans or runs queries, in bytes; pages that are not touched cost nothing. Expressions and plans
/// are walked by recursion, and this bears the deepest that the coordinator lets through.
pub const THREAD_STACK_BYTES: usize = 16 << 20;

/// Memory for Parquet footers and page indexes that were read, in bytes.
const METADATA_CACHE_BYTES: usize = 64 << 20;

/// A runtime environment whose object stores are the lake's, which spills to `spill_dir` (made when missing) and whose
/// queries together may hold `memory` bytes. Each query or task is given a pool of its own over it or in its place
/// ([`with_memory`]): this one knows no fairness.
///
/// Errors: `spill_dir` cannot be made.
pub fn runtime_env(lake: &LakeObjects, memory: u64, spill_dir: &Path) -> Result<Arc<RuntimeEnv>> {
    std::fs::create_dir_all(spill_dir)?;
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![spill_dir.to_path_buf()]));
    RuntimeEnvBuilder::new()
        .with_object_store_registry(lake.registry())
        .with_disk_manager_builder(disk)
        .with_metadata_cache_limit(METADATA_CACHE_BYTES)
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(usize::try_from(memory).unwrap_or(usize::MAX))))
        .build_arc()
}

/// `base` with a memory pool of its own of `bytes`: what spills is spread fairly, what cannot spill takes what is left.
/// Object stores, spill files and caches stay shared.
pub fn with_memory(base: &RuntimeEnv, bytes: usize) -> Result<Arc<RuntimeEnv>> {
    RuntimeEnvBuilder::from_runtime_env(base).with_memory_pool(Arc::new(FairSpillPool::new(bytes))).build_arc()
}
