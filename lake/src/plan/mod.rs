//! From a snapshot to the data files that a query must read.

mod avro_guard;
pub(crate) mod bounds;
#[cfg(test)]
mod delete_tests;
pub(crate) mod deletes;
pub(crate) mod file_bounds;
pub(crate) mod manifest_file;
#[cfg(test)]
mod manifest_file_tests;
pub(crate) mod manifests;
#[cfg(test)]
mod metadata_tests;
pub(crate) mod partition_filters;
mod pruning;
#[cfg(test)]
mod pruning_proof_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::logical_expr::Expr;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use iceberg::spec::{
    Datum, ManifestContentType, ManifestFile, PartitionField, PrimitiveLiteral, PrimitiveType, Transform, Type,
};
use townlake_common::{Error, ErrorCode, Result};

use self::file_bounds::FileBounds;
use self::manifests::ManifestFiles;
use self::pruning::{Buckets, Containers, Pruner};
use crate::format::unsupported;
use crate::{ColumnBounds, DeleteFile, FilePlan, LoadedTable, PlannedFile};

/// Manifests that are fetched and decoded at the same time.
const MANIFESTS_AT_ONCE: usize = 16;

/// The live data files of the table's snapshot that can hold rows that match all `filters`, each with the delete files that
/// apply to it.
///
/// Errors: `FORMAT_NOT_SUPPORTED` naming table and feature for whatever would be read wrongly: equality deletes on nested
/// columns, encryption, nested default values, files that are not Parquet. `DATA_CORRUPT` for a manifest that holds other files
/// than the manifest list says.
pub async fn plan_files(table: &LoadedTable, filters: &[Expr]) -> Result<FilePlan> {
    table.check_readable()?;
    let Some(snapshot) = &table.snapshot else { return Ok(FilePlan::default()) };
    let manifests = manifests::list(&table.objects, snapshot, table.metadata.format_version()).await?;
    let (deletes, data): (Vec<_>, Vec<_>) =
        manifests.iter().filter(|m| may_be_live(m)).cloned().partition(|m| m.content == ManifestContentType::Deletes);

    let pruner = Pruner::new(filters, Arc::clone(&table.iceberg_schema), Arc::clone(&table.arrow_schema));
    let counted: u64 = data.iter().map(live_files).sum();
    let kept = keep_manifests(table, &pruner, &data);
    let mut plan = FilePlan { pruned_manifests: data.len() - kept.len(), ..FilePlan::default() };
    let mut opened = open(table, kept);
    let mut seen = 0;
    while let Some(manifest) = opened.try_next().await? {
        seen += manifest.files.len();
        let files = keep_files(&pruner, &manifest);
        plan.pruned_files += manifest.files.len() - files.len();
        plan.files.extend(files);
    }
    plan.total_files = seen.max(usize::try_from(counted).unwrap_or(usize::MAX));
    plan.files.sort_by(|a, b| a.path.cmp(&b.path));
    // Deletes of a partition apply to data of that partition: where no row there can match, neither is needed.
    let manifests: Vec<_> = open(table, keep_manifests(table, &pruner, &deletes)).try_collect().await?;
    deletes::assign(&mut plan, manifests.iter().flat_map(|manifest| &manifest.deletes));
    Ok(plan)
}

/// All live delete files of the table's snapshot, also those that apply to no data file.
///
/// Errors: as [`plan_files`].
pub(crate) async fn delete_files(table: &LoadedTable) -> Result<Vec<Arc<DeleteFile>>> {
    let Some(snapshot) = &table.snapshot else { return Ok(Vec::new()) };
    let manifests = manifests::list(&table.objects, snapshot, table.metadata.format_version()).await?;
    let deletes = manifests.iter().filter(|m| may_be_live(m) && m.content == ManifestContentType::Deletes);
    let manifests: Vec<_> = open(table, deletes.cloned().collect()).try_collect().await?;
    Ok(manifests.iter().flat_map(|manifest| manifest.deletes.iter().cloned()).collect())
}

/// The manifests as they arrive, unless something in one of them is refused.
fn open(
    table: &LoadedTable,
    manifests: Vec<ManifestFile>,
) -> impl Stream<Item = Result<Arc<ManifestFiles>>> + Unpin + Send {
    let open = move |manifest| async move {
        let files = manifests::files(table, &manifest).await?;
        files.refused.as_ref().map_or(Ok(()), |feature| Err(unsupported(table, feature)))?;
        // Read as the other kind, they would bring rows back, or lose them.
        let (misplaced, kind) = match manifest.content {
            ManifestContentType::Data => (!files.deletes.is_empty(), "data"),
            ManifestContentType::Deletes => (!files.files.is_empty(), "delete"),
        };
        if misplaced {
            let message = format!("the manifest {} should have {kind} files only", manifest.manifest_path);
            return Err(Error::new(ErrorCode::DataCorrupt, message));
        }
        Ok(files)
    };
    Box::pin(stream::iter(manifests).map(open).buffer_unordered(MANIFESTS_AT_ONCE))
}

/// A manifest whose counts are missing is taken to have live files.
pub(crate) fn may_be_live(manifest: &ManifestFile) -> bool {
    manifest.has_added_files() || manifest.has_existing_files()
}

fn live_files(manifest: &ManifestFile) -> u64 {
    u64::from(manifest.added_files_count.unwrap_or(0)) + u64::from(manifest.existing_files_count.unwrap_or(0))
}

fn keep_manifests(table: &LoadedTable, pruner: &Pruner, manifests: &[ManifestFile]) -> Vec<ManifestFile> {
    let (bounds, buckets): (Vec<_>, Vec<_>) = manifests.iter().map(|manifest| summary(table, manifest)).unzip();
    let bounds = FileBounds::new(&bounds);
    let keep = pruner.may_match(&Containers { bounds: &bounds, count: manifests.len(), rows: None, buckets });
    manifests.iter().zip(keep).filter(|(_, keep)| *keep).map(|(manifest, _)| manifest.clone()).collect()
}

/// What a manifest's partition summaries say about source columns.
fn summary(table: &LoadedTable, manifest: &ManifestFile) -> (HashMap<i32, ColumnBounds>, Vec<Buckets>) {
    let (mut columns, mut buckets) = (HashMap::<i32, ColumnBounds>::new(), Vec::new());
    let spec = table.metadata.partition_spec_by_id(manifest.partition_spec_id);
    let (Some(spec), Some(summaries)) = (spec, &manifest.partitions) else { return (columns, buckets) };
    for (field, summary) in spec.fields().iter().zip(summaries) {
        let Some(source) = bounds::source_type(&table.iceberg_schema, field) else { continue };
        let is_float = matches!(source, PrimitiveType::Float | PrimitiveType::Double);
        if is_float && summary.contains_nan != Some(false) {
            continue;
        }
        let value = |bound: &Option<_>| partition_value(field, source, bound.as_ref());
        let (Some(low), Some(high)) = (value(&summary.lower_bound), value(&summary.upper_bound)) else { continue };
        let entry = columns.entry(field.source_id).or_default();
        if !summary.contains_null && !matches!(field.transform, Transform::Void | Transform::Unknown) {
            entry.null_count = Some(0);
        }
        let (lower, upper) = bounds::source_range(&field.transform, &low, &high, source);
        entry.lower = entry.lower.take().or(lower);
        entry.upper = entry.upper.take().or(upper);
        buckets.extend(bucket_range(field, &low, &high));
    }
    (columns, buckets)
}

fn partition_value<B: AsRef<[u8]>>(
    field: &PartitionField,
    source: &PrimitiveType,
    bytes: Option<&B>,
) -> Option<PrimitiveLiteral> {
    let result = field.transform.result_type(&Type::Primitive(source.clone())).ok()?;
    let datum = Datum::try_from_bytes(bytes?.as_ref(), result.as_primitive_type()?.clone()).ok()?;
    Some(datum.literal().clone())
}

fn bucket_range(field: &PartitionField, low: &PrimitiveLiteral, high: &PrimitiveLiteral) -> Option<Buckets> {
    match (field.transform, low, high) {
        (Transform::Bucket(count), PrimitiveLiteral::Int(low), PrimitiveLiteral::Int(high)) => {
            Some(Buckets { column: field.source_id, count, low: *low, high: *high })
        }
        _ => None,
    }
}

fn keep_files(pruner: &Pruner, manifest: &ManifestFiles) -> Vec<PlannedFile> {
    let with_buckets = manifest.spec.fields().iter().any(|field| matches!(field.transform, Transform::Bucket(_)));
    let buckets = manifest.files.iter().filter(|_| with_buckets).map(|file| buckets(file, manifest)).collect();
    let (count, rows) = (manifest.files.len(), Some(Arc::clone(&manifest.rows)));
    let keep = pruner.may_match(&Containers { bounds: &manifest.bounds, count, rows, buckets });
    manifest.files.iter().zip(keep).filter(|(_, keep)| *keep).map(|(file, _)| file.clone()).collect()
}

fn buckets(file: &PlannedFile, manifest: &ManifestFiles) -> Vec<Buckets> {
    let fields = manifest.spec.fields().iter().zip(file.partition.fields());
    let buckets = fields.filter_map(|(field, value)| {
        let value = value.as_ref()?.as_primitive_literal()?;
        bucket_range(field, &value, &value)
    });
    buckets.collect()
}
