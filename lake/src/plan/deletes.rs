//! Which delete files apply to which data files, by the rules of the Iceberg specification ("Scan Planning"):
//!
//! * positions: the data is not newer than the deletes, and in the same partition (or named by the delete file); none of
//!   them where a deletion vector applies, which holds them all;
//! * equality: the data is older than the deletes, and in the same partition, or the deletes' spec has no partitions.
//!
//! Beyond the rules, bounds tell of many pairs that they have nothing in common: such a delete file is not read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use iceberg::metadata_columns::RESERVED_FIELD_ID_DELETE_FILE_PATH;
use iceberg::spec::{
    DataContentType, DataFile, Datum, ManifestEntry, NestedField, PartitionSpec, PrimitiveLiteral, Schema, Struct,
    TableMetadata, Transform,
};

use super::bounds;
use crate::location::one_spelling;
use crate::{ColumnBounds, DeleteFile, DeleteKind, FilePlan, PlannedFile};

/// Why a delete file cannot be applied; `format` is what it is written in, if not Parquet.
pub(super) fn refusal(
    file: &DataFile,
    format: Option<&str>,
    schema: &Schema,
    metadata: &TableMetadata,
) -> Option<String> {
    let positions = file.content_type() == DataContentType::PositionDeletes;
    if positions && (format == Some("Puffin") || file.content_offset().is_some()) {
        let refused = format != Some("Puffin") || vector(file).is_none();
        return refused.then(|| "has deletion vectors without a data file or place".to_string());
    }
    if let Some(format) = format {
        return Some(format!("has delete files in {format}"));
    }
    if positions {
        return None;
    }
    let ids = file.equality_ids().unwrap_or_default();
    if ids.is_empty() {
        return Some("has equality deletes without columns".to_string());
    }
    ids.into_iter().find_map(|id| refused_key(id, schema, metadata))
}

fn refused_key(id: i32, schema: &Schema, metadata: &TableMetadata) -> Option<String> {
    if let Some(field) = key_field(id, schema, metadata) {
        let name = &field.name;
        if !field.field_type.is_primitive() {
            return Some(format!("has equality deletes on the nested column {name}"));
        }
        // A file that lacks the column would read as null what its partition says.
        let mut partitioned = metadata.partition_specs_iter().flat_map(|spec| spec.fields());
        let is_partition = partitioned.any(|f| f.source_id == id && f.transform == Transform::Identity);
        let is_dropped = schema.field_by_id(id).is_none();
        return (is_dropped && is_partition)
            .then(|| format!("has equality deletes on the dropped partition column {name}"));
    }
    let schemas = std::iter::once(schema).chain(metadata.schemas_iter().map(Arc::as_ref));
    let name = schemas.into_iter().find_map(|schema| schema.name_by_field_id(id));
    Some(match name {
        Some(name) => format!("has equality deletes on the nested column {name}"),
        None => format!("has equality deletes on an unknown column (field id {id})"),
    })
}

/// The top-level column `id` as the schema has it, or as the last schema had it before the column was dropped.
pub(crate) fn key_field<'a>(id: i32, schema: &'a Schema, metadata: &'a TableMetadata) -> Option<&'a NestedField> {
    let top = |schema: &'a Schema| schema.as_struct().fields().iter().find(|field| field.id == id);
    let earlier = || metadata.schemas_iter().filter_map(|s| top(s).map(|field| (s.schema_id(), field)));
    let last_of = || earlier().max_by_key(|(schema, _)| *schema).map(|(_, field)| field);
    top(schema).or_else(last_of).map(Arc::as_ref)
}

/// What planning needs of a delete file that is not refused.
pub(super) fn planned(
    entry: &ManifestEntry,
    data_sequence_number: i64,
    spec: &PartitionSpec,
    schema: &Schema,
) -> DeleteFile {
    let file = &entry.data_file;
    let kind = match file.content_type() {
        DataContentType::EqualityDeletes => {
            let mut ids = file.equality_ids().unwrap_or_default();
            ids.sort_unstable();
            ids.dedup();
            DeleteKind::Equality(ids)
        }
        _ => vector(file).unwrap_or_else(|| DeleteKind::Positions { data_files: data_files(file) }),
    };
    let columns = match &kind {
        DeleteKind::Equality(ids) => ids.iter().filter_map(|id| Some((*id, key_bounds(file, *id, schema)?))).collect(),
        _ => HashMap::new(),
    };
    DeleteFile {
        path: file.file_path().to_string(),
        size: file.file_size_in_bytes(),
        spec_id: spec.spec_id(),
        partition: file.partition().clone(),
        is_global: spec.is_unpartitioned(),
        data_sequence_number,
        kind,
        columns,
    }
}

fn key_bounds(file: &DataFile, id: i32, schema: &Schema) -> Option<ColumnBounds> {
    let primitive = schema.field_by_id(id)?.field_type.as_primitive_type()?;
    Some(bounds::of_column(file, id, primitive))
}

fn vector(file: &DataFile) -> Option<DeleteKind> {
    let length = u64::try_from(file.content_size_in_bytes()?).ok()?;
    let offset = u64::try_from(file.content_offset()?).ok()?;
    let data_file = one_spelling(&file.referenced_data_file()?).into_owned();
    Some(DeleteKind::Vector { data_file, offset, length, rows: file.record_count() })
}

/// The one data file that positions are of, or the bounds of their paths (which may be cut: still bounds), in one spelling.
fn data_files(file: &DataFile) -> Option<(String, String)> {
    if let Some(path) = file.referenced_data_file() {
        let path = one_spelling(&path).into_owned();
        return Some((path.clone(), path));
    }
    let text = |bound: Option<&Datum>| match bound?.literal() {
        PrimitiveLiteral::String(text) => Some(text.clone()),
        _ => None,
    };
    let id = RESERVED_FIELD_ID_DELETE_FILE_PATH;
    let (lower, upper) = (text(file.lower_bounds().get(&id))?, text(file.upper_bounds().get(&id))?);
    // Bounds of several spellings are none of the one; what lies between two of one scheme has that scheme.
    let scheme = |path: &str| match path.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://"),
        None => path.split('/').next().unwrap_or_default().to_string(),
    };
    let bounds = (one_spelling(&lower).into_owned(), one_spelling(&upper).into_owned());
    (scheme(&lower) == scheme(&upper)).then_some(bounds)
}

/// Gives each data file of the plan its delete files, and the plan those that some data file needs.
pub(crate) fn assign<'a>(plan: &mut FilePlan, deletes: impl Iterator<Item = &'a Arc<DeleteFile>>) {
    let index = Index::new(deletes.collect());
    if index.all.is_empty() {
        return;
    }
    let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
    for file in &mut plan.files {
        file.deletes = index.of(file);
        numbers.extend(file.deletes.iter().map(|delete| (*delete, 0)));
    }
    for (number, (delete, new)) in numbers.iter_mut().enumerate() {
        *new = number;
        plan.deletes.extend(index.all.get(*delete).map(|delete| Arc::clone(delete)));
    }
    for delete in plan.files.iter_mut().flat_map(|file| &mut file.deletes) {
        *delete = numbers.get(delete).copied().unwrap_or(*delete);
    }
}

/// A partition across schema changes: values that were widened since are the same values.
pub(crate) type Partition = (i32, Vec<Option<PrimitiveLiteral>>);

/// The partition of a file of the spec `spec_id`.
pub(crate) fn partition(spec_id: i32, values: &Struct) -> Partition {
    let widened = |value: PrimitiveLiteral| match value {
        PrimitiveLiteral::Int(v) => PrimitiveLiteral::Long(i64::from(v)),
        PrimitiveLiteral::Float(v) => PrimitiveLiteral::Double(f64::from(v.0).into()),
        other => other,
    };
    let values = values.fields().iter().map(|value| Some(widened(value.as_ref()?.as_primitive_literal()?)));
    (spec_id, values.collect())
}

/// The delete files by where they may apply.
struct Index<'a> {
    all: Vec<&'a Arc<DeleteFile>>,
    by_data_file: HashMap<&'a str, Vec<usize>>,
    by_partition: HashMap<Partition, Vec<usize>>,
    everywhere: Vec<usize>,
}

impl<'a> Index<'a> {
    fn new(all: Vec<&'a Arc<DeleteFile>>) -> Self {
        let (mut by_data_file, mut by_partition) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        let mut everywhere = Vec::new();
        for (number, delete) in all.iter().enumerate() {
            match &delete.kind {
                DeleteKind::Positions { data_files: Some((first, last)) } if first == last => {
                    by_data_file.entry(first.as_str()).or_default().push(number);
                }
                DeleteKind::Vector { data_file, .. } => {
                    by_data_file.entry(data_file.as_str()).or_default().push(number);
                }
                DeleteKind::Equality(_) if delete.is_global => everywhere.push(number),
                _ => by_partition.entry(partition(delete.spec_id, &delete.partition)).or_default().push(number),
            }
        }
        Self { all, by_data_file, by_partition, everywhere }
    }

    /// The numbers of those that apply to `file`, ascending.
    fn of(&self, file: &PlannedFile) -> Vec<usize> {
        let none = Vec::new();
        let named = self.by_data_file.get(one_spelling(&file.path).as_ref()).unwrap_or(&none);
        let beside = self.by_partition.get(&partition(file.spec_id, &file.partition)).unwrap_or(&none);
        let candidates = named.iter().chain(beside).chain(&self.everywhere).copied();
        let applies = |number: &usize| self.all.get(*number).is_some_and(|delete| applies(delete, file));
        let mut found: Vec<usize> = candidates.filter(applies).collect();
        if found.iter().any(|number| matches!(self.kind(*number), Some(DeleteKind::Vector { .. }))) {
            found.retain(|number| !matches!(self.kind(*number), Some(DeleteKind::Positions { .. })));
        }
        found.sort_unstable();
        found
    }

    fn kind(&self, number: usize) -> Option<&DeleteKind> {
        self.all.get(number).map(|delete| &delete.kind)
    }
}

fn applies(delete: &DeleteFile, file: &PlannedFile) -> bool {
    match &delete.kind {
        DeleteKind::Positions { data_files } => {
            let path = one_spelling(&file.path);
            let names = data_files
                .as_ref()
                .is_none_or(|(first, last)| (first.as_str()..=last.as_str()).contains(&path.as_ref()));
            names && file.data_sequence_number <= delete.data_sequence_number
        }
        DeleteKind::Vector { .. } => file.data_sequence_number <= delete.data_sequence_number,
        DeleteKind::Equality(ids) => {
            file.data_sequence_number < delete.data_sequence_number
                && !ids.iter().any(|id| are_disjoint(&file.column(*id), delete.columns.get(id)))
        }
    }
}

/// Whether no value of one column can equal one of the other; null equals null.
fn are_disjoint(a: &ColumnBounds, b: Option<&ColumnBounds>) -> bool {
    let Some(b) = b else { return false };
    if a.null_count != Some(0) && b.null_count != Some(0) {
        return false;
    }
    let below = |a: &ColumnBounds, b: &ColumnBounds| match (&a.upper, &b.lower) {
        (Some(upper), Some(lower)) => upper < lower,
        _ => false,
    };
    below(a, b) || below(b, a)
}
