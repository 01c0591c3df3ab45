//! The outputs of tasks wherever they are: how they are removed.

use std::sync::Arc;

use townlake_common::Result;

use super::OutputMemory;
use crate::directories::Directories;

/// The outputs of one executor.
pub(crate) struct Outputs {
    /// Those in files.
    pub(crate) directories: Directories,
    /// Those in memory.
    pub(crate) memory: Arc<OutputMemory>,
}

impl Outputs {
    /// Removes the output of these stages of a job, or of the whole job when `stages` is empty. Nothing there is no error.
    ///
    /// Errors: those of [`Directories::remove_job`].
    pub(crate) async fn remove_job(&self, job: &str, stages: &[u32]) -> Result<()> {
        self.memory.remove_job(job, stages);
        self.directories.remove_job(job, stages).await
    }

    /// Whether no job's output is left: nobody can want anything more from this executor.
    pub(crate) async fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.directories.is_empty().await
    }
}
