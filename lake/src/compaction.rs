//! Which data files of a table are better written anew: small ones, those that rows are deleted of, and those that are
//! partitioned as the table was before.

use std::collections::{HashMap, HashSet};

use townlake_common::Result;

use crate::plan::deletes::partition;
use crate::plan::plan_files;
use crate::types::{FilePlan, LoadedTable, PlannedFile};
use crate::write::target_file_bytes;

/// What a compaction reads.
#[derive(Debug, Clone)]
pub struct Compaction {
    /// All files of the table.
    pub all: FilePlan,
    /// Those that are written anew, with the deletes that apply to them.
    pub chosen: FilePlan,
    /// How many files their rows need.
    pub files_needed: usize,
}

/// Which files are written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those below so many bytes, and all with deletes or of another partition spec than today's. A partition in which the rows
    /// need as many files as they have is left alone.
    Small {
        threshold: u64,
    },
    All,
}

/// Chooses files. `among`: no others than these.
///
/// Errors: those of [`plan_files`]; `INVALID_ARGUMENT` for a table property that is no size.
pub async fn plan_compaction(table: &LoadedTable, which: Which, among: Option<&FilePlan>) -> Result<Compaction> {
    let target = target_file_bytes(table)?;
    let all = plan_files(table, &[]).await?;
    let today = table.metadata.default_partition_spec_id();
    let among: Option<HashSet<&str>> = among.map(|plan| plan.files.iter().map(|file| file.path.as_str()).collect());
    let mut groups: HashMap<_, Vec<&PlannedFile>> = HashMap::new();
    for file in all.files.iter().filter(|file| among.as_ref().is_none_or(|some| some.contains(file.path.as_str()))) {
        let is_small = match which {
            Which::Small { threshold } => file.size < threshold,
            Which::All => true,
        };
        if is_small || !file.deletes.is_empty() || file.spec_id != today {
            groups.entry(partition(file.spec_id, &file.partition)).or_default().push(file);
        }
    }
    groups.retain(|(spec, _), files| {
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        let needed = usize::try_from(bytes.div_ceil(target)).unwrap_or(usize::MAX);
        which == Which::All
            || *spec != today
            || files.len() > needed
            || files.iter().any(|file| !file.deletes.is_empty())
    });
    let mut files: Vec<PlannedFile> = groups.into_values().flatten().cloned().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let bytes: u64 = files.iter().map(|file| file.size).sum();
    let files_needed = usize::try_from(bytes.div_ceil(target)).unwrap_or(usize::MAX);
    let chosen = FilePlan { files, deletes: all.deletes.clone(), total_files: all.total_files, ..FilePlan::default() };
    Ok(Compaction { all, chosen, files_needed })
}
