//! Fewer and bigger manifests: what planning a query reads. The files in them stay as they are.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use iceberg::spec::{Datum, ManifestContentType, ManifestFile, PrimitiveLiteral, PrimitiveType};
use townlake_common::Result;

use crate::LoadedTable;
use crate::plan::{manifests, may_be_live};
use crate::write::number;

const TARGET: &str = "commit.manifest.target-size-bytes";
/// What Iceberg takes by default.
const DEFAULT_TARGET: u64 = 8 << 20;

/// Manifests of a snapshot that are to be merged. Those of one bin become one, or one for each schema that they were written
/// with.
#[derive(Debug)]
pub(crate) struct ManifestRewrite {
    pub bins: Vec<Vec<ManifestFile>>,
}

impl ManifestRewrite {
    /// Chooses manifests that fit together into fewer: of one partition spec, and neighbours by their partitions.
    ///
    /// Errors: `INVALID_ARGUMENT` for a table property that is no size; those of reading the manifest list.
    pub async fn plan(table: &LoadedTable) -> Result<Self> {
        let Some(snapshot) = &table.snapshot else { return Ok(Self { bins: Vec::new() }) };
        let target = number(table.metadata.properties(), TARGET, DEFAULT_TARGET)?;
        let listed = manifests::list(&table.objects, snapshot, table.metadata.format_version()).await?;
        let mut groups: BTreeMap<(bool, i32), Vec<ManifestFile>> = BTreeMap::new();
        for manifest in listed.iter().filter(|manifest| may_be_live(manifest)) {
            if manifest.key_metadata.is_some() {
                return Err(crate::format::unsupported(table, "is encrypted"));
            }
            let deletes = manifest.content == ManifestContentType::Deletes;
            groups.entry((deletes, manifest.partition_spec_id)).or_default().push(manifest.clone());
        }
        let bins = groups.into_iter().flat_map(|((_, spec), group)| bins(group, &types_of(table, spec), target));
        Ok(Self { bins: bins.filter(|bin| bin.len() > 1).collect() })
    }

    /// The paths of the manifests that go.
    pub fn replaced(&self) -> HashSet<&str> {
        self.bins.iter().flatten().map(|manifest| manifest.manifest_path.as_str()).collect()
    }
}

/// Manifests in the order of their partitions, cut where a bin would become larger than `target` bytes.
fn bins(mut group: Vec<ManifestFile>, types: &[PrimitiveType], target: u64) -> Vec<Vec<ManifestFile>> {
    group.sort_by(|a, b| {
        let by_partition = compare(&lower_bounds(a, types), &lower_bounds(b, types));
        by_partition.then(a.sequence_number.cmp(&b.sequence_number))
    });
    let mut bins: Vec<Vec<ManifestFile>> = Vec::new();
    let mut filled = u64::MAX;
    for manifest in group {
        let bytes = u64::try_from(manifest.manifest_length).unwrap_or(target);
        match bins.last_mut().filter(|_| filled.saturating_add(bytes) <= target) {
            Some(bin) => bin.push(manifest),
            None => {
                bins.push(vec![manifest]);
                filled = 0;
            }
        }
        filled = filled.saturating_add(bytes);
    }
    bins
}

/// The types of partition values; none where the table has not the columns any more. Then manifests stay in their order.
fn types_of(table: &LoadedTable, spec: i32) -> Vec<PrimitiveType> {
    let spec = table.metadata.partition_spec_by_id(spec);
    let of = spec.and_then(|spec| spec.partition_type(table.metadata.current_schema()).ok());
    let fields = of.iter().flat_map(|of| of.fields());
    fields.map_while(|field| field.field_type.as_primitive_type().cloned()).collect()
}

fn lower_bounds(manifest: &ManifestFile, types: &[PrimitiveType]) -> Vec<Option<PrimitiveLiteral>> {
    let fields = manifest.partitions.iter().flatten().zip(types);
    let lower = fields.map(|(field, of)| {
        let bound = field.lower_bound.as_ref()?;
        Some(Datum::try_from_bytes(bound, of.clone()).ok()?.literal().clone())
    });
    lower.collect()
}

fn compare(a: &[Option<PrimitiveLiteral>], b: &[Option<PrimitiveLiteral>]) -> Ordering {
    a.partial_cmp(b).unwrap_or(Ordering::Equal)
}
