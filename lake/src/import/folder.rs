//! The Parquet files below a folder: their footers, and what their folders say of partitions.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::parquet_to_arrow_schema;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use percent_encoding::percent_decode_str;
use townlake_common::{Error, ErrorCode, Result};

use crate::ObjectAccess;
use crate::objects::{from_object_store, visible_parts};
use crate::schema::field_id;

const FOOTERS_AT_ONCE: usize = 16;
/// What is read of a file's end at first: most footers are smaller.
const TAIL_BYTES: u64 = 64 << 10;
/// A larger footer is no footer.
const MAX_FOOTER_BYTES: u64 = 256 << 20;
/// How Hive and Spark write a partition without a value.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

pub(super) struct Folder {
    /// Sorted by their URIs, one at least.
    pub files: Vec<ParquetFile>,
}

pub(super) struct ParquetFile {
    pub uri: String,
    /// Bytes.
    pub size: u64,
    pub footer: Arc<ParquetMetaData>,
    /// The columns of the file; none has a field id.
    pub columns: SchemaRef,
    /// What its folders say, from the outermost on; a partition without a value is NULL.
    pub partition: Vec<(String, Option<String>)>,
}

impl Folder {
    /// Reads the footers of all `*.parquet` files below a folder. Files and folders that begin with `_` or `.` are no data.
    ///
    /// Errors: `FILE_NOT_FOUND` where there is none; `DATA_CORRUPT` for a damaged file; `NOT_SUPPORTED` for one with field
    /// ids, which would be taken for those of this table; those of the object store.
    pub async fn read(objects: &ObjectAccess, location: &str) -> Result<Self> {
        let location = location.trim_end_matches('/');
        let (store, folder) = objects.object_store(location)?;
        let failed = |error| from_object_store(location, error);
        let mut listed: Vec<ObjectMeta> = store.list(Some(&folder)).try_collect().await.map_err(failed)?;
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        let data = listed.into_iter().filter_map(|file| {
            let parts = visible_parts(&file.location, &folder)?;
            let is_data = parts.last().is_some_and(|name| name.to_lowercase().ends_with(".parquet"));
            is_data.then_some((parts, file))
        });
        let reading = data.map(|(parts, file)| {
            let (store, uri) = (Arc::clone(&store), format!("{location}/{}", parts.join("/")));
            async move { ParquetFile::read(store, uri, &parts, &file).await }
        });
        let reading = stream::iter(reading.collect::<Vec<_>>()).buffered(FOOTERS_AT_ONCE);
        let files: Vec<ParquetFile> = reading.try_collect().await?;
        if files.is_empty() {
            let message = format!("there is no Parquet file below {location}");
            return Err(Error::new(ErrorCode::FileNotFound, message).with_hint("their names end with .parquet"));
        }
        Ok(Self { files })
    }

    /// The columns that folders are named by: the same for all files.
    ///
    /// Errors: `NOT_SUPPORTED` where they differ.
    pub fn partition_columns(&self) -> Result<Vec<String>> {
        let names = |file: &ParquetFile| file.partition.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let Some(first) = self.files.first() else { return Ok(Vec::new()) };
        let columns = names(first);
        match self.files.iter().find(|file| names(file) != columns) {
            None => Ok(columns),
            Some(other) => {
                let message = format!("{} and {} are not partitioned by the same columns", first.uri, other.uri);
                Err(Error::new(ErrorCode::NotSupported, message).with_hint("take one of their folders at a time"))
            }
        }
    }
}

impl ParquetFile {
    async fn read(store: Arc<dyn ObjectStore>, uri: String, parts: &[String], file: &ObjectMeta) -> Result<Self> {
        let footer = footer(&store, &uri, file).await?;
        let damaged = |error| Error::new(ErrorCode::DataCorrupt, format!("{uri} has no columns")).with_source(error);
        let columns = parquet_to_arrow_schema(footer.file_metadata().schema_descr(), None).map_err(damaged)?;
        if columns.flattened_fields().into_iter().any(|field| field_id(field).is_some()) {
            let message = format!("{uri} has field ids, which are those of another table");
            return Err(Error::new(ErrorCode::NotSupported, message)
                .with_hint("register_table takes a whole Iceberg table; townlake load copies rows"));
        }
        let folders = parts.split_last().map(|(_, folders)| folders).unwrap_or_default();
        let partition = folders.iter().filter_map(|folder| folder.split_once('='));
        let decoded = |text: &str| {
            let decoded = percent_decode_str(text).decode_utf8();
            decoded.map(|text| text.into_owned()).map_err(|error| {
                let message = format!("the folder {text} of {uri} is not UTF-8");
                Error::new(ErrorCode::NotSupported, message).with_source(error)
            })
        };
        let partition = partition.map(|(name, value)| {
            let value = if value == HIVE_NULL { None } else { Some(decoded(value)?) };
            Ok((decoded(name)?, value))
        });
        let partition = partition.collect::<Result<Vec<_>>>()?;
        Ok(Self { size: file.size, footer: Arc::new(footer), columns: Arc::new(columns), partition, uri })
    }
}

async fn footer(store: &Arc<dyn ObjectStore>, uri: &str, file: &ObjectMeta) -> Result<ParquetMetaData> {
    let damaged = |error| Error::new(ErrorCode::DataCorrupt, format!("{uri} is no Parquet file")).with_source(error);
    let mut wanted = TAIL_BYTES.min(file.size);
    loop {
        let range = file.size.saturating_sub(wanted)..file.size;
        let tail = store.get_range(&file.location, range).await.map_err(|error| from_object_store(uri, error))?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&tail, file.size) {
            Ok(()) => return reader.finish().map_err(damaged),
            Err(ParquetError::NeedMoreData(needed)) if (needed as u64) > wanted => {
                wanted = needed as u64;
                if wanted > MAX_FOOTER_BYTES.min(file.size) {
                    let message = format!("{uri} says that its footer has {wanted} bytes");
                    return Err(Error::new(ErrorCode::DataCorrupt, message));
                }
            }
            Err(error) => return Err(damaged(error)),
        }
    }
}
