//! From planned delete files to the recipe of a scan.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::Result;
use townlake_common::Error;
use townlake_proto::lake::{DeleteFile as File, DeletedFile, DeletionVector, ScanDeletes as Recipe};

use super::super::{KeyedFiles, external};
use crate::plan::deletes::{Partition, key_field, partition};
use crate::schema::arrow_field;
use crate::types::{DeleteFile, DeleteKind, FilePlan, LoadedTable};

/// The table's columns, and behind them those that equality deletes compare: under names of their own, for a column may
/// have been dropped, renamed, or replaced by another one of its name.
pub(crate) fn with_key_columns(table: &LoadedTable, plan: &FilePlan) -> Result<SchemaRef> {
    let ids = plan.deletes.iter().filter_map(|delete| match &delete.kind {
        DeleteKind::Equality(ids) => Some(ids),
        DeleteKind::Positions { .. } | DeleteKind::Vector { .. } => None,
    });
    let ids: BTreeSet<i32> = ids.flatten().copied().collect();
    if ids.is_empty() {
        return Ok(Arc::clone(&table.arrow_schema));
    }
    let keys = ids.into_iter().map(|id| {
        let field = key_field(id, &table.iceberg_schema, &table.metadata).ok_or_else(|| {
            external(Error::internal(format!("{} has no column with the field id {id}", table.full_name())))
        })?;
        let field = arrow_field(field).map_err(external)?.as_ref().clone();
        Ok(Arc::new(field.with_name(format!("\u{1}key {id}")).with_nullable(true)))
    });
    let keys = keys.collect::<Result<Vec<FieldRef>>>()?;
    let columns = table.arrow_schema.fields().iter().cloned().chain(keys);
    Ok(Arc::new(Schema::new(columns.collect::<Vec<_>>())))
}

/// The deletes of these data files, which lie in one store.
pub(crate) fn recipe(table: &LoadedTable, plan: &FilePlan, files: &KeyedFiles<'_>) -> Result<Recipe> {
    let needed: BTreeSet<usize> = files.iter().flat_map(|(_, _, planned)| &planned.deletes).copied().collect();
    let (mut groups, mut numbers) = (HashMap::new(), HashMap::new());
    let mut recipe = Recipe::default();
    for number in needed {
        let Some(delete) = plan.deletes.get(number) else { continue };
        numbers.insert(number, u32::try_from(recipe.files.len()).map_err(too_many)?);
        recipe.files.push(file(table, delete, &mut groups)?);
    }
    for (path, _, planned) in files.iter().filter(|(_, _, planned)| !planned.deletes.is_empty()) {
        recipe.data.push(DeletedFile {
            path: path.to_string(),
            uri: planned.path.clone(),
            rows: planned.record_count,
            sequence_number: planned.data_sequence_number,
            deletes: planned.deletes.iter().filter_map(|number| numbers.get(number).copied()).collect(),
        });
    }
    Ok(recipe)
}

/// The part of a recipe that the data files with these keys need; `None`: no row of them is deleted.
pub(super) fn part(recipe: &Recipe, keys: &HashSet<&str>) -> Option<Recipe> {
    let data = recipe.data.iter().filter(|file| keys.contains(file.path.as_str()));
    let mut part = Recipe { files: Vec::new(), data: data.cloned().collect() };
    let needed: BTreeSet<u32> = part.data.iter().flat_map(|file| file.deletes.iter().copied()).collect();
    let (mut numbers, mut groups) = (HashMap::new(), HashMap::new());
    for number in needed {
        let Some(mut file) = recipe.files.get(number as usize).cloned() else { continue };
        // Neither outgrows the count of those of the whole recipe.
        numbers.insert(number, part.files.len() as u32);
        if !file.equality_ids.is_empty() {
            let next = groups.len() as u32;
            file.group = *groups.entry(file.group).or_insert(next);
        }
        part.files.push(file);
    }
    for file in &mut part.data {
        file.deletes = file.deletes.iter().filter_map(|number| numbers.get(number).copied()).collect();
    }
    (!part.data.is_empty()).then_some(part)
}

/// Which equality deletes can be looked up together.
type Scope = (Vec<i32>, Option<Partition>);

fn file(table: &LoadedTable, delete: &DeleteFile, groups: &mut HashMap<Scope, u32>) -> Result<File> {
    let (url, path) = table.objects.object_store_url(&delete.path).map_err(external)?;
    let mut file = File {
        object_store_url: url.as_str().to_string(),
        path: path.to_string(),
        uri: delete.path.clone(),
        size: delete.size,
        sequence_number: delete.data_sequence_number,
        ..File::default()
    };
    match &delete.kind {
        DeleteKind::Positions { .. } => {}
        DeleteKind::Vector { offset, length, rows, .. } => {
            file.vector = Some(DeletionVector { offset: *offset, length: *length, rows: *rows });
        }
        DeleteKind::Equality(ids) => {
            let of = (!delete.is_global).then(|| partition(delete.spec_id, &delete.partition));
            let next = u32::try_from(groups.len()).map_err(too_many)?;
            file.group = *groups.entry((ids.clone(), of)).or_insert(next);
            file.equality_ids.clone_from(ids);
        }
    }
    Ok(file)
}

fn too_many(error: std::num::TryFromIntError) -> datafusion::common::DataFusionError {
    external(Error::internal("a scan has more delete files than can be counted").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_carries_the_deletes_of_its_own_files() {
        let delete = |uri: &str, ids: &[i32], group: u32| File {
            uri: uri.to_string(),
            equality_ids: ids.to_vec(),
            group,
            ..File::default()
        };
        let data = |path: &str, deletes: &[u32]| DeletedFile {
            path: path.to_string(),
            deletes: deletes.to_vec(),
            ..DeletedFile::default()
        };
        let whole = Recipe {
            files: vec![delete("p", &[], 0), delete("k", &[1], 0), delete("l", &[2], 1), delete("m", &[2], 1)],
            data: vec![data("a", &[0, 1]), data("b", &[2, 3]), data("c", &[0, 3])],
        };
        let of = |keys: &[&str]| part(&whole, &keys.iter().copied().collect());
        assert_eq!(of(&["a", "b", "c", "d"]), Some(whole.clone()));
        assert_eq!(of(&["d"]), None);
        let c = Recipe { files: vec![delete("p", &[], 0), delete("m", &[2], 0)], data: vec![data("c", &[0, 1])] };
        assert_eq!(of(&["c"]), Some(c));
    }
}
