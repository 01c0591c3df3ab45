//! Which tables a folder holds: a file is one, and so is a folder with all files below it.

use std::collections::BTreeMap;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use townlake_common::{Error, ErrorCode, Result};

use super::formats::Format;
use super::store::Store;

/// More files than that are not looked through.
const MOST_FILES: usize = 100_000;

/// One table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub name: String,
    pub format: Format,
    /// Sorted by path; at least one.
    pub files: Vec<ObjectMeta>,
}

/// The tables, sorted by name; with `only`, that one at most is complete. Files of no known ending, and those whose name or folder begins with
/// `_` or `.`, are none of ours.
///
/// Errors: `SOURCE_UNAVAILABLE` at once where the breaker says so; `FORMAT_NOT_SUPPORTED` for a folder of several formats, where it is asked for; `RESOURCE_EXHAUSTED`; those of the store.
pub(crate) async fn tables(store: &Store, only: Option<&str>) -> Result<Vec<Table>> {
    let attempt = store.breaker.enter()?;
    let tables = list(store, only).await;
    attempt.ended(&tables);
    tables
}

async fn list(store: &Store, only: Option<&str>) -> Result<Vec<Table>> {
    let mut found: BTreeMap<String, Table> = BTreeMap::new();
    let mut mixed = Vec::new();
    let mut listed = match only {
        Some(name) => files_of(store, name).await?,
        None => store.objects.list(Some(&store.root)),
    };
    let mut count = 0;
    loop {
        let file = match listed.try_next().await {
            Ok(Some(file)) => file,
            Ok(None) => break,
            Err(error) => return Err(store.unlisted(error).await),
        };
        count += 1;
        if count > MOST_FILES {
            let message = format!("catalog {}: there are more than {MOST_FILES} files", store.catalog);
            return Err(Error::new(ErrorCode::ResourceExhausted, message)
                .with_hint("let `location` name a smaller folder, or load the files into an Iceberg table"));
        }
        let Some((name, format)) = place(store, &file) else { continue };
        if only.is_some_and(|only| only != name) || file.size == 0 {
            continue;
        }
        let table =
            found.entry(name.clone()).or_insert_with(|| Table { name: name.clone(), format, files: Vec::new() });
        if table.format != format {
            mixed.push(name);
        }
        table.files.push(file);
    }
    if let Some(name) = mixed.iter().find(|name| only == Some(name.as_str())) {
        let message = format!("table {}.default.{name}: its folder holds files of several formats", store.catalog);
        return Err(
            Error::new(ErrorCode::FormatNotSupported, message).with_hint("give each format a folder of its own")
        );
    }
    let mut tables: Vec<_> = found.into_values().filter(|table| !mixed.contains(&table.name)).collect();
    tables.iter_mut().for_each(|table| table.files.sort_by(|left, right| left.location.cmp(&right.location)));
    Ok(tables)
}

/// What may be of one table: the files of the folder itself, and those below the folder of its name.
async fn files_of<'s>(store: &'s Store, name: &str) -> Result<BoxStream<'s, object_store::Result<ObjectMeta>>> {
    let beside = match store.objects.list_with_delimiter(Some(&store.root)).await {
        Ok(found) => futures::stream::iter(found.objects.into_iter().map(Ok)),
        Err(error) => return Err(store.unlisted(error).await),
    };
    // A name that is no path has no folder.
    Ok(match Path::parse(format!("{}/{name}", store.root).trim_start_matches('/')) {
        Ok(folder) => beside.chain(store.objects.list(Some(&folder))).boxed(),
        Err(_) => beside.boxed(),
    })
}

/// The table of a file, and its format.
fn place(store: &Store, file: &ObjectMeta) -> Option<(String, Format)> {
    let parts: Vec<_> = file.location.prefix_match(&store.root)?.collect();
    if parts.iter().any(|part| part.as_ref().starts_with(['_', '.'])) {
        return None;
    }
    let (stem, format) = Format::of(parts.last()?.as_ref())?;
    match parts.as_slice() {
        [_] => Some((stem.to_string(), format)),
        [folder, ..] => Some((folder.as_ref().to_string(), format)),
        [] => None,
    }
}
