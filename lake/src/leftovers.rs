//! Data files of a write that its commit does not hold: of tasks that ended well in a job that did not, and of attempts
//! that were made twice.
//!
//! A task takes back its own files when it fails. Those that it has told of are the coordinator's, and those of an attempt
//! whose executor was lost are nobody's. All of them begin with the id of their query, and nobody else's do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use object_store::path::{Path, PathPart};
use townlake_common::{Error, ErrorCode, QueryId, Result};

use crate::objects::from_object_store;
use crate::write::data_location;
use crate::{LakeCatalog, LoadedTable, WrittenFile};

/// When it is looked again for files of tasks that were still running. What comes later stays as an orphan.
const LATER: Duration = Duration::from_secs(10);
/// More folders than that are listed as one.
const MAX_FOLDERS: usize = 64;

/// What a write may leave behind. Dropped without a word, also when its query is cancelled, all files of the write are
/// deleted: so before its commit begins it goes where the commit runs, and is settled there.
#[derive(Debug)]
pub struct Leftovers {
    catalog: Arc<LakeCatalog>,
    table: Arc<LoadedTable>,
    query: QueryId,
    /// The URIs of the files that are to be committed.
    told: HashSet<String>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Failed,
    Committed,
    Unknown,
}

impl Leftovers {
    /// Of a write that begins.
    pub fn new(catalog: &Arc<LakeCatalog>, table: &Arc<LoadedTable>, query: &QueryId) -> Self {
        let (catalog, table, query) = (Arc::clone(catalog), Arc::clone(table), query.clone());
        Self { catalog, table, query, told: HashSet::new(), fate: Fate::Failed }
    }

    /// These files are to be committed.
    pub fn without(mut self, files: &[WrittenFile]) -> Self {
        self.told.extend(files.iter().map(|file| file.data_file.file_path().to_string()));
        self
    }

    /// The commit has ended so. Where nobody knows how, nothing is deleted.
    pub fn settle(mut self, error: Option<&Error>) {
        self.fate = match error {
            None if self.told.is_empty() => Fate::Unknown, // a write without rows leaves nothing
            None => Fate::Committed,
            Some(error) if error.code() == ErrorCode::CommitStateUnknown => Fate::Unknown,
            Some(_) => Fate::Failed,
        };
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        let (fate, told) = (self.fate, std::mem::take(&mut self.told));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (catalog, table, query) = (Arc::clone(&self.catalog), Arc::clone(&self.table), self.query.clone());
        match fate {
            Fate::Unknown => {}
            Fate::Committed => {
                runtime.spawn(async move {
                    tokio::time::sleep(LATER).await;
                    report(&table, &query, delete_others(&table, &query, &told).await);
                });
            }
            Fate::Failed => {
                runtime.spawn(async move {
                    report(&table, &query, delete_all(&catalog, &table, &query).await);
                    tokio::time::sleep(LATER).await;
                    report(&table, &query, delete_all(&catalog, &table, &query).await);
                });
            }
        }
    }
}

fn report(table: &LoadedTable, query: &QueryId, deleted: Result<usize>) {
    let table = table.full_name();
    match deleted {
        Ok(0) => {}
        Ok(files) => {
            tracing::info!(%table, %query, files, "data files that the commit of a write does not hold are deleted")
        }
        Err(error) => tracing::warn!(%table, %query, ?error, "data files of a write may be left"),
    }
}

/// Deletes the files of a write that failed; none if the table has a commit of it after all.
async fn delete_all(catalog: &LakeCatalog, table: &LoadedTable, query: &QueryId) -> Result<usize> {
    if catalog.has_commit_of(table, query).await? {
        return Ok(0);
    }
    delete(table, query, Place::Below(data_location(&table.metadata)), &HashSet::new()).await
}

/// Deletes the files of a write that are not among those that it has committed, in the folders where those are: an attempt
/// has the rows of the attempt that won, so it has their partitions.
async fn delete_others(table: &LoadedTable, query: &QueryId, committed: &HashSet<String>) -> Result<usize> {
    let folders = committed.iter().filter_map(|uri| uri.rsplit_once('/')).map(|(folder, _)| folder);
    let folders: HashSet<&str> = folders.collect();
    let place = match folders.len() {
        0..=MAX_FOLDERS => Place::In(folders.into_iter().map(str::to_string).collect()),
        _ => Place::Below(data_location(&table.metadata)),
    };
    delete(table, query, place, committed).await
}

/// Where to look for files.
enum Place {
    /// In these folders and below.
    Below(String),
    /// In these folders themselves: there a store can begin its list at the query's id, and ids ascend with time.
    In(Vec<String>),
}

async fn delete(table: &LoadedTable, query: &QueryId, place: Place, committed: &HashSet<String>) -> Result<usize> {
    let kept = committed.iter().map(|uri| table.objects.object_store(uri).map(|(_, path)| path));
    let kept = kept.collect::<Result<HashSet<Path>>>()?;
    let prefix = format!("{query}-");
    let (folders, direct) = match place {
        Place::Below(folder) => (vec![folder], false),
        Place::In(folders) => (folders, true),
    };
    let mut deleted = 0;
    for folder in folders {
        let (store, path) = table.objects.object_store(&folder)?;
        let failed = |error| from_object_store(&folder, error);
        let listed = match direct {
            true => store.list_with_offset(Some(&path), &below(&path, query.as_str())),
            false => store.list(Some(&path)),
        };
        let listed: Vec<_> = listed.map_ok(|file| file.location).try_collect().await.map_err(failed)?;
        let ours = |path: &Path| path.filename().is_some_and(|name| name.starts_with(&prefix)) && !kept.contains(path);
        let ours: Vec<_> = listed.into_iter().filter(ours).map(Ok).collect();
        let gone = store.delete_stream(futures::stream::iter(ours).boxed()).filter(|result| {
            // Another has taken it back already.
            let missing = matches!(result, Err(object_store::Error::NotFound { .. }));
            futures::future::ready(!missing)
        });
        let gone: Vec<Path> = gone.try_collect().await.map_err(failed)?;
        deleted += gone.len();
    }
    Ok(deleted)
}

fn below(folder: &Path, name: &str) -> Path {
    folder.parts().chain(std::iter::once(PathPart::from(name))).collect()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use iceberg::spec::Struct;

    use super::*;
    use crate::testing::{Lake, file};

    /// A file of this query in the table's data folder, and its record.
    fn written(lake: &Lake, folder: &str, query: &QueryId, n: usize) -> (std::path::PathBuf, WrittenFile) {
        let name = format!("{folder}{query}-{n:05}-x");
        let record = file(&lake.location("t"), &name, Struct::empty(), |_| {});
        let path = std::path::PathBuf::from(record.data_file.file_path().strip_prefix("file://").unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, b"x").unwrap();
        (path, record)
    }

    async fn lake() -> (Lake, Arc<LoadedTable>) {
        let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
        let table = lake.load("t").await;
        (lake, table)
    }

    #[tokio::test]
    async fn a_write_that_fails_or_is_cancelled_leaves_no_file_and_takes_none_of_another() {
        let (lake, table) = lake().await;
        let (ours, other) = (QueryId::generate(), QueryId::generate());
        let (a, _) = written(&lake, "", &ours, 1);
        let (b, _) = written(&lake, "day=1/", &ours, 2);
        let (c, _) = written(&lake, "day=1/", &other, 1);
        drop(Leftovers::new(&lake.catalog, &table, &ours));
        for _ in 0..500 {
            if !a.exists() && !b.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!((a.exists(), b.exists(), c.exists()), (false, false, true));
    }

    #[tokio::test]
    async fn of_a_write_that_is_committed_only_other_files_go() {
        let (lake, table) = lake().await;
        let (ours, other) = (QueryId::generate(), QueryId::generate());
        let (a, record) = written(&lake, "", &ours, 1);
        let (twice, _) = written(&lake, "", &ours, 1 + 1);
        let (c, _) = written(&lake, "", &other, 1);
        lake.catalog.commit_append(&table, vec![record.clone()], &ours).await.unwrap();
        // A failure that comes after the commit all the same finds it.
        assert_eq!(delete_all(&lake.catalog, &table, &ours).await.unwrap(), 0);
        let committed = HashSet::from([record.data_file.file_path().to_string()]);
        assert_eq!(delete_others(&table, &ours, &committed).await.unwrap(), 1);
        assert_eq!((a.exists(), twice.exists(), c.exists()), (true, false, true));
    }

    #[tokio::test]
    async fn nothing_is_deleted_where_nobody_knows() {
        let (lake, table) = lake().await;
        let ours = QueryId::generate();
        let (a, record) = written(&lake, "", &ours, 1);
        let leftovers = Leftovers::new(&lake.catalog, &table, &ours).without(&[record]);
        let unknown = Error::new(ErrorCode::CommitStateUnknown, "lost");
        leftovers.settle(Some(&unknown));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(a.exists());
    }
}
