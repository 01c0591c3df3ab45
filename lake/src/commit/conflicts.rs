//! What others did to a table since a statement read it, where the statement's change would undo it or build on what is gone.
//!
//! The rules are those of Iceberg's `BaseRowDelta` and `BaseOverwriteFiles`: the data files that a change touches must still
//! be there; where it writes their rows anew, nobody may have deleted from them; with serializable isolation, no row may have
//! come that the change would have touched.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{ManifestContentType, ManifestFile, TableMetadata};
use townlake_common::{Error, ErrorCode, Result};

use super::delta::Delta;
use crate::plan::{deletes, manifests, may_be_live, plan_files};
use crate::types::{FilePlan, LoadedTable};

const MANIFESTS_AT_ONCE: usize = 16;

/// Checks `delta`, which was made for `planned`, against `current`, which is the same table as it is now.
///
/// Errors: `COMMIT_CONFLICT`; those of reading manifests.
pub(super) async fn check(planned: &LoadedTable, current: &LoadedTable, delta: &Delta) -> Result<()> {
    if current.snapshot_id() == planned.snapshot_id() {
        return Ok(());
    }
    if !descends(&current.metadata, current.snapshot_id(), planned.snapshot_id()) {
        return Err(conflict(current, "was set back to another snapshot"));
    }
    let since = planned.snapshot.as_ref().map_or(0, |snapshot| snapshot.sequence_number());
    let Some(snapshot) = &current.snapshot else { return Ok(()) };
    let listed = manifests::list(&current.objects, snapshot, current.metadata.format_version()).await?;
    let (of_deletes, of_data): (Vec<_>, Vec<_>) =
        listed.iter().filter(|m| may_be_live(m)).cloned().partition(|m| m.content == ManifestContentType::Deletes);
    if !delta.touched.is_empty() && !are_live(current, of_data, delta).await? {
        return Err(conflict(current, "lost or rewrote rows that this statement changes"));
    }
    if delta.moves_rows && has_new_deletes(current, of_deletes, since, delta).await? {
        return Err(conflict(current, "lost or changed rows that this statement changes"));
    }
    if let Some(filters) = &delta.conflicting
        && plan_files(current, filters).await?.files.iter().any(|file| file.data_sequence_number > since)
    {
        return Err(conflict(current, "may have got rows that this statement would have changed"));
    }
    Ok(())
}

fn conflict(table: &LoadedTable, what: &str) -> Error {
    let message = format!("by another writer, table {} {what} meanwhile", table.full_name());
    Error::new(ErrorCode::CommitConflict, message).with_hint("run the statement again")
}

/// Whether `ancestor` is in the history of `snapshot`. Every history begins with the empty table.
fn descends(metadata: &TableMetadata, mut snapshot: Option<i64>, ancestor: Option<i64>) -> bool {
    let Some(ancestor) = ancestor else { return true };
    while let Some(id) = snapshot {
        if id == ancestor {
            return true;
        }
        snapshot = metadata.snapshot_by_id(id).and_then(|snapshot| snapshot.parent_snapshot_id());
    }
    false
}

async fn are_live(table: &LoadedTable, of_data: Vec<ManifestFile>, delta: &Delta) -> Result<bool> {
    let mut wanted: HashSet<&str> = delta.touched.iter().map(|file| file.path.as_str()).collect();
    let mut opened = stream::iter(of_data)
        .map(|manifest| async move { manifests::files(table, &manifest).await })
        .buffer_unordered(MANIFESTS_AT_ONCE);
    while let Some(manifest) = opened.try_next().await? {
        for file in &manifest.files {
            wanted.remove(file.path.as_str());
        }
        if wanted.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn has_new_deletes(table: &LoadedTable, manifests: Vec<ManifestFile>, since: i64, delta: &Delta) -> Result<bool> {
    let new = manifests.into_iter().filter(|manifest| manifest.sequence_number > since);
    let opened: Vec<_> = stream::iter(new.collect::<Vec<_>>())
        .map(|manifest| async move { manifests::files(table, &manifest).await })
        .buffer_unordered(MANIFESTS_AT_ONCE)
        .try_collect()
        .await?;
    let new = opened.iter().flat_map(|manifest| &manifest.deletes).filter(|d| d.data_sequence_number > since);
    let mut plan = FilePlan::default();
    plan.files.extend(delta.touched.iter().map(|file| {
        let mut file = file.clone();
        file.deletes.clear();
        file
    }));
    deletes::assign(&mut plan, new);
    Ok(!plan.deletes.is_empty())
}
