//! Peers that run beside us.

use std::path::Path;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use townlake_common::{Error, ErrorCode, Result};

use crate::Engine;

/// Stock DataFusion in this process, over plain Parquet folders, as a user of the library gets it.
pub struct SingleProcess {
    name: String,
    context: SessionContext,
}

impl SingleProcess {
    /// An engine with `threads` partitions. Run it on a runtime with as many worker threads.
    pub fn new(threads: usize) -> Self {
        let config = SessionConfig::new().with_target_partitions(threads);
        Self { name: format!("DataFusion, {threads} threads"), context: SessionContext::new_with_config(config) }
    }

    /// Makes the Parquet files of a folder a table.
    pub async fn register(&self, table: &str, folder: &Path) -> Result<()> {
        let options = ParquetReadOptions::default();
        self.context.register_parquet(table, folder.to_string_lossy(), options).await.map_err(failed)
    }
}

#[async_trait]
impl Engine for SingleProcess {
    fn name(&self) -> &str {
        &self.name
    }

    async fn run(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        self.context.sql(sql).await.map_err(failed)?.collect().await.map_err(failed)
    }
}

fn failed(error: datafusion::error::DataFusionError) -> Error {
    Error::new(ErrorCode::Internal, format!("single-process DataFusion: {}", error.strip_backtrace()))
}
