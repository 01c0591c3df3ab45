//! The row-level deletes of a scan: which files hold them, which data files they apply to, and what was read of them.
//!
//! Positions become a row selection of the data file, so that the reader skips rows, pages and row groups by itself. Rows
//! that equality deletes name are taken out of what the reader gives. A delete file is read when the first data file needs
//! it, once in a task, whatever number of data files it applies to; what is kept of it counts as memory of the query.

mod budget;
mod equality;
mod file;
mod plan;
mod positions;
#[cfg(test)]
mod tests;
mod vector;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::DataFusionError;
use datafusion::common::runtime::SpawnedTask;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt, TryStreamExt};
use parquet::arrow::arrow_reader::RowSelection;
use tokio::sync::OnceCell;
use townlake_common::{Error, ErrorCode, Result};
use townlake_proto::lake::{DeleteFile, DeletedFile, ScanDeletes as Recipe};

use self::budget::Budget;
pub(super) use self::equality::KeyFilter;
use self::equality::Keys;
use self::file::Source;
pub(crate) use self::plan::{recipe, with_key_columns};
use self::positions::Positions;
use super::conform::field_id;
use super::readers;
use crate::location::one_spelling;

/// Delete files that one data file waits for at the same time.
const READS_AT_ONCE: usize = 8;

/// The deletes of one scan. Partitions that run in one process share it, and with it what was read.
pub(crate) struct ScanDeletes {
    recipe: Recipe,
    /// By the data file's key.
    data: HashMap<String, usize>,
    /// Rows of each data file, by its URI in [`one_spelling`]: positions of other files, or behind the last row, are not kept.
    rows: Arc<HashMap<String, u64>>,
    /// One a delete file; that of a file of equality deletes stays empty.
    positions: Vec<OnceCell<Arc<Positions>>>,
    groups: Vec<Group>,
    runtime: Arc<RuntimeEnv>,
    budget: Arc<Budget>,
}

/// Equality deletes of the same columns that apply to the same partition.
struct Group {
    files: Vec<DeleteFile>,
    /// The columns that are compared: where they stand in the scan, and what they are.
    columns: Vec<(usize, FieldRef)>,
    keys: OnceCell<Arc<Keys>>,
}

/// What must be left out of one data file.
pub(super) struct Deleted {
    /// Of the whole file; `None`: by position nothing is deleted.
    pub selection: Option<RowSelection>,
    /// The columns that [`Deleted::filter`] compares, in its order.
    pub columns: Vec<Column>,
    /// `None`: nothing is deleted by value.
    pub filter: Option<KeyFilter>,
}

impl ScanDeletes {
    /// The deletes that a recipe describes. `columns` are those of the scan, with the ones that are compared.
    ///
    /// Errors: `INTERNAL` for a recipe that is not consistent.
    pub(crate) fn new(table: &str, recipe: Recipe, columns: &Schema, runtime: &Arc<RuntimeEnv>) -> Result<Self> {
        let data = recipe.data.iter().enumerate().map(|(number, file)| (file.path.clone(), number));
        let rows = recipe.data.iter().map(|file| (one_spelling(&file.uri).into_owned(), file.rows));
        Ok(Self {
            data: data.collect(),
            rows: Arc::new(rows.collect()),
            positions: recipe.files.iter().map(|_| OnceCell::new()).collect(),
            groups: groups(table, &recipe, columns)?,
            runtime: Arc::clone(runtime),
            budget: Arc::new(Budget::new(table, &runtime.memory_pool)),
            recipe,
        })
    }

    /// What [`ScanDeletes::new`] makes the same of on another node, which reads the data files with these keys only.
    pub(crate) fn to_recipe(&self, keys: &HashSet<&str>) -> Option<Recipe> {
        plan::part(&self.recipe, keys)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.recipe.data.is_empty()
    }

    /// How many delete files there are.
    pub(super) fn files(&self) -> usize {
        self.recipe.files.len()
    }

    /// The data file with this key, if some of its rows may be deleted.
    pub(super) fn of(&self, key: &str) -> Option<&DeletedFile> {
        self.recipe.data.get(*self.data.get(key)?)
    }

    /// Reads what applies to one data file, as far as nobody has done so.
    ///
    /// Errors: `FILE_NOT_FOUND`, `DATA_CORRUPT` and those of the object store, naming the delete file; `MEMORY_LIMIT`.
    pub(super) async fn load(&self, file: &DeletedFile, metrics: &ExecutionPlanMetricsSet) -> Result<Deleted> {
        let read = MetricBuilder::new(metrics).global_counter("delete_files_read");
        let applies: Vec<(usize, &DeleteFile)> = file.deletes.iter().map(|n| self.file(*n)).collect::<Result<_>>()?;
        let (by_value, by_position): (Vec<_>, Vec<_>) =
            applies.into_iter().partition(|(_, delete)| !delete.equality_ids.is_empty());
        let positions =
            by_position.into_iter().map(|(number, delete)| self.positions(number, delete, &file.uri, &read).boxed());
        let positions: Vec<_> = at_once(positions.collect()).await?;
        let numbers: BTreeSet<u32> = by_value.iter().map(|(_, delete)| delete.group).collect();
        let groups = numbers.into_iter().map(|number| self.group(number)).collect::<Result<Vec<_>>>()?;
        let keys: Vec<_> = at_once(groups.iter().map(|group| self.keys(group, &read).boxed()).collect()).await?;
        let of_file = positions.iter().filter_map(|positions| positions.of(&file.uri));
        let columns = groups.iter().flat_map(|group| &group.columns);
        Ok(Deleted {
            selection: positions::selection(of_file, file.rows),
            columns: columns.map(|(index, field)| Column::new(field.name(), *index)).collect(),
            filter: (!keys.is_empty()).then(|| KeyFilter::new(keys, file.sequence_number)),
        })
    }

    /// `data_file` is the one that a deletion vector is of; Parquet files name theirs themselves.
    async fn positions(
        &self,
        number: usize,
        delete: &DeleteFile,
        data_file: &str,
        read: &Count,
    ) -> Result<Arc<Positions>> {
        let cell = self.positions.get(number).ok_or_else(|| inconsistent("a delete file", number))?;
        let load = || async {
            read.add(1);
            let (budget, uri) = (Arc::clone(&self.budget), &delete.uri);
            let positions = match delete.vector {
                Some(place) => {
                    let (url, delete) = (store_of(delete)?, delete.clone());
                    let store = self.runtime.object_store(url).map_err(|e| no_store(&delete, e))?;
                    let read = async move { vector::read(&store, &delete, &place, &budget).await };
                    Positions::of_one(data_file, alone(uri, read).await?)
                }
                None => {
                    let (source, rows) = (self.source(delete)?, Arc::clone(&self.rows));
                    alone(uri, async move { Positions::read(source, &rows, &budget).await }).await?
                }
            };
            Ok(Arc::new(positions))
        };
        cell.get_or_try_init(load).await.cloned()
    }

    async fn keys(&self, group: &Group, read: &Count) -> Result<Arc<Keys>> {
        let load = || async {
            let sources = group.files.iter().map(|delete| self.source(delete)).collect::<Result<Vec<_>>>()?;
            read.add(sources.len());
            let fields: Vec<FieldRef> = group.columns.iter().map(|(_, field)| Arc::clone(field)).collect();
            let budget = Arc::clone(&self.budget);
            let uri = group.files.iter().map(|file| file.uri.as_str()).collect::<Vec<_>>().join(", ");
            alone(&uri, async move { Keys::read(sources, &fields, &budget).await }).await.map(Arc::new)
        };
        group.keys.get_or_try_init(load).await.cloned()
    }

    fn source(&self, delete: &DeleteFile) -> Result<Source> {
        let readers = readers(&store_of(delete)?, &self.runtime).map_err(|e| no_store(delete, e))?;
        Source::open(&readers, delete)
    }

    fn file(&self, number: u32) -> Result<(usize, &DeleteFile)> {
        let number = number as usize;
        let file = self.recipe.files.get(number).ok_or_else(|| inconsistent("a delete file", number))?;
        Ok((number, file))
    }

    fn group(&self, number: u32) -> Result<&Group> {
        self.groups.get(number as usize).ok_or_else(|| inconsistent("a group of delete files", number as usize))
    }
}

impl fmt::Debug for ScanDeletes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanDeletes").field("files", &self.files()).finish_non_exhaustive()
    }
}

fn groups(table: &str, recipe: &Recipe, columns: &Schema) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for file in recipe.files.iter().filter(|file| !file.equality_ids.is_empty()) {
        let (number, known) = (file.group as usize, groups.len());
        match groups.get_mut(number) {
            Some(group) => group.files.push(file.clone()),
            // Groups are numbered as their first files come.
            None if number == known => {
                let columns = file.equality_ids.iter().map(|id| key_column(table, *id, columns));
                let columns = columns.collect::<Result<_>>()?;
                groups.push(Group { files: vec![file.clone()], columns, keys: OnceCell::new() });
            }
            None => return Err(inconsistent("a group of delete files", number)),
        }
    }
    Ok(groups)
}

/// The column that stands for the field `id`: the last one with the id, behind the table's own.
fn key_column(table: &str, id: i32, columns: &Schema) -> Result<(usize, FieldRef)> {
    let index = columns.fields().iter().rposition(|field| field_id(field) == Some(id));
    let found = index.and_then(|index| Some((index, Arc::clone(columns.fields().get(index)?))));
    found.ok_or_else(|| Error::internal(format!("a scan of {table} has no column with the field id {id}")))
}

fn store_of(delete: &DeleteFile) -> Result<ObjectStoreUrl> {
    ObjectStoreUrl::parse(&delete.object_store_url).map_err(|e| no_store(delete, e))
}

fn no_store(delete: &DeleteFile, error: DataFusionError) -> Error {
    Error::internal(format!("the delete file {} has no store", delete.uri)).with_source(error)
}

fn inconsistent(what: &str, number: usize) -> Error {
    Error::internal(format!("the recipe of a scan has no {what} {number}"))
}

/// The results in the order of the reads.
async fn at_once<T>(reads: Vec<BoxFuture<'_, Result<T>>>) -> Result<Vec<T>> {
    stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await
}

/// Runs it as a task of its own: beside the scan, and so that a decoder that panics on hostile bytes ends alone.
async fn alone<T: Send + 'static>(uri: &str, read: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    SpawnedTask::spawn(read).await.unwrap_or_else(|panicked| {
        let message = format!("the delete file {uri} cannot be decoded");
        Err(Error::new(ErrorCode::DataCorrupt, message).with_source(panicked))
    })
}
