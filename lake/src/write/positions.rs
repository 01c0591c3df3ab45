//! Position delete files: which rows of which data files are gone.
//!
//! One delete file for each data file (Iceberg's granularity `file`), so that a scan reads only what it needs and one can
//! be replaced without the others. Rows are sorted by position, as the specification asks for ("Position Delete Files").

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use datafusion::execution::memory_pool::MemoryReservation;
use futures::{StreamExt, TryStreamExt, stream};
use iceberg::metadata_columns::{RESERVED_FIELD_ID_DELETE_FILE_PATH, RESERVED_FIELD_ID_DELETE_FILE_POS};
use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Datum, Struct};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use roaring::RoaringTreemap;
use townlake_common::{Error, ErrorCode, Result};

use super::files::Finished;
use super::row_delta::RowDeltaSpec;
use super::upload::{Untold, Upload};
use crate::objects::from_object_store;

/// Delete files that are written at the same time.
const WRITTEN_AT_ONCE: usize = 8;
/// Rows of a delete file that are encoded at once.
const BATCH_ROWS: usize = 1 << 16;

/// The rows that one task has found to be gone.
pub(super) struct Positions {
    spec: Arc<RowDeltaSpec>,
    /// By the number of the data file.
    files: BTreeMap<i64, Gone>,
    memory: MemoryReservation,
}

#[derive(Default)]
struct Gone {
    rows: RoaringTreemap,
    /// How many of them are not written anew.
    for_good: u64,
}

impl Positions {
    pub(super) fn new(spec: Arc<RowDeltaSpec>, memory: MemoryReservation) -> Self {
        Self { spec, files: BTreeMap::new(), memory }
    }

    /// The row is gone; `anew`: its new state is written.
    ///
    /// Errors: `CONSTRAINT_VIOLATION` for one that was gone already, where the statement may touch each row once.
    pub(super) fn add(&mut self, file: i64, position: i64, anew: bool) -> Result<()> {
        let position = u64::try_from(position).map_err(|e| self.unknown(file).with_source(e))?;
        let gone = self.files.entry(file).or_default();
        let is_new = gone.rows.insert(position);
        gone.for_good += u64::from(is_new && !anew);
        if is_new || !self.spec.once {
            return Ok(());
        }
        let message = format!("a row of {} is changed twice by one statement", self.spec.write.table);
        Err(Error::new(ErrorCode::ConstraintViolation, message)
            .with_hint("more than one row of the source matches it: make the source unique in what it is joined on"))
    }

    /// Tells the memory pool what is held.
    ///
    /// Errors: `MEMORY_LIMIT`.
    pub(super) fn account(&mut self) -> Result<()> {
        let held = self.files.values().map(|gone| gone.rows.serialized_size()).sum();
        self.memory.try_resize(held).map_err(|e| {
            let message =
                format!("the changed rows of {} need more memory than the query may have", self.spec.write.table);
            Error::new(ErrorCode::MemoryLimit, message).with_source(e)
        })
    }

    /// Writes the delete files. From here on the caller answers for them.
    pub(super) async fn finish(self, store: &Arc<dyn ObjectStore>) -> Result<(Vec<Finished>, Untold)> {
        let Self { spec, files, memory } = self;
        let writing = files.into_iter().map(|(number, gone)| {
            let (spec, store) = (Arc::clone(&spec), Arc::clone(store));
            async move { write(&spec, store, number, gone).await }
        });
        let (mut finished, mut untold) = (Vec::new(), Untold::new(Arc::clone(store)));
        let mut writing = stream::iter(writing.collect::<Vec<_>>()).buffer_unordered(WRITTEN_AT_ONCE);
        while let Some((file, its)) = writing.try_next().await? {
            untold.take_over(its);
            finished.push(file);
        }
        drop(memory);
        Ok((finished, untold))
    }

    fn unknown(&self, file: i64) -> Error {
        Error::internal(format!("a changed row of {} lies nowhere in file {file}", self.spec.write.table))
    }
}

async fn write(
    spec: &RowDeltaSpec,
    store: Arc<dyn ObjectStore>,
    number: i64,
    gone: Gone,
) -> Result<(Finished, Untold)> {
    let data_file = usize::try_from(number).ok().and_then(|number| spec.data_files.get(number)).ok_or_else(|| {
        Error::internal(format!("a changed row of {} lies in the unknown file {number}", spec.write.table))
    })?;
    let name = format!("{}-{number:05}-{}-deletes.parquet", spec.write.query_id, uuid::Uuid::new_v4().simple());
    let uri = format!("{}/{name}", spec.write.data_location.trim_end_matches('/'));
    let key = format!("{}/{name}", spec.write.data_path.as_ref());
    let path = Path::parse(key.trim_start_matches('/'))
        .map_err(|e| Error::internal(format!("{uri} is not a path that a store takes")).with_source(e))?;
    let rows = gone.rows.len();
    let encoded = encode(data_file, &gone.rows)
        .map_err(|e| Error::internal(format!("the delete file {uri} cannot be encoded")).with_source(e))?;
    let bytes = encoded.len() as u64;
    let mut upload = Upload::new(store, path);
    upload.put(encoded).await.map_err(|e| from_object_store(&uri, e))?;
    let untold = upload.finish().await.map_err(|e| from_object_store(&uri, e))?;
    let bound = HashMap::from([(RESERVED_FIELD_ID_DELETE_FILE_PATH, Datum::string(data_file))]);
    // Its partition is that of the data file, which the coordinator knows.
    let record = DataFileBuilder::default()
        .content(DataContentType::PositionDeletes)
        .file_path(uri.clone())
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .record_count(rows)
        .file_size_in_bytes(bytes)
        .lower_bounds(bound.clone())
        .upper_bounds(bound)
        .referenced_data_file(Some(data_file.clone()))
        .build()
        .map_err(|e| Error::internal(format!("the record of {uri} is not complete")).with_source(e))?;
    Ok((Finished { data_file: record, rows: gone.for_good, bytes }, untold))
}

fn encode(data_file: &str, rows: &RoaringTreemap) -> parquet::errors::Result<Bytes> {
    let id = |id: i32| HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_string(), id.to_string())]);
    let schema = Arc::new(Schema::new(vec![
        Field::new("file_path", DataType::Utf8, false).with_metadata(id(RESERVED_FIELD_ID_DELETE_FILE_PATH)),
        Field::new("pos", DataType::Int64, false).with_metadata(id(RESERVED_FIELD_ID_DELETE_FILE_POS)),
    ]));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(concat!("townlake ", env!("CARGO_PKG_VERSION")).to_string())
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))?;
    let mut rows = rows.iter().filter_map(|row| i64::try_from(row).ok());
    loop {
        let positions: Vec<i64> = rows.by_ref().take(BATCH_ROWS).collect();
        if positions.is_empty() {
            break;
        }
        let paths: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(data_file, positions.len())));
        let columns = vec![paths, Arc::new(Int64Array::from(positions)) as ArrayRef];
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), columns)?)?;
    }
    Ok(Bytes::from(writer.into_inner()?))
}
