//! What a scan is, as it travels to executors, and its splits.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion_proto::protobuf;
use object_store::ObjectMeta;
use prost::Message;
use townlake_common::{Error, ErrorCode, Result};
use townlake_proto::files as wire;

use super::KIND;
use super::formats::Format;
use crate::scan::{Estimate, unreadable};

/// Parquet files are cut into pieces of at least so many bytes.
const PIECE_BYTES: u64 = 32 << 20;

/// One scan of one table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recipe {
    pub catalog: String,
    pub table: String,
    pub format: Format,
    /// The columns that are read, and the same on the wire.
    pub schema: SchemaRef,
    pub encoded_schema: Vec<u8>,
    /// Rows per split.
    pub limit: Option<u64>,
    /// The filters that stayed with us, each with the reason.
    pub local_filters: Vec<String>,
    /// How many files.
    pub files: u64,
    pub estimate: Estimate,
}

/// A file, or the part of a Parquet file whose row groups have their middle in a range of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Split {
    pub path: String,
    /// What the file was when the scan was planned.
    pub size: u64,
    pub version: String,
    pub start: u64,
    pub end: u64,
}

/// A schema on the wire.
///
/// Errors: `FORMAT_NOT_SUPPORTED` for a type that no plan can carry.
pub(crate) fn encode_schema(table: &str, schema: &Schema) -> Result<Vec<u8>> {
    let encoded = protobuf::Schema::try_from(schema).map_err(|error| {
        let message = format!("table {table}: a column of its files has a type that is not read");
        Error::new(ErrorCode::FormatNotSupported, message).with_source(error)
    })?;
    Ok(encoded.encode_to_vec())
}

impl Recipe {
    /// The recipe on the wire.
    pub fn to_wire(&self) -> wire::Scan {
        wire::Scan {
            catalog: self.catalog.clone(),
            table: self.table.clone(),
            format: self.format.to_wire().into(),
            schema: self.encoded_schema.clone(),
            limit: self.limit,
            local_filters: self.local_filters.clone(),
            files: self.files,
            bytes: self.estimate.bytes,
        }
    }

    /// The recipe that [`Recipe::to_wire`] wrote.
    ///
    /// Errors: `INTERNAL` for what another build wrote.
    pub fn from_wire(scan: wire::Scan) -> Result<Self> {
        let schema =
            protobuf::Schema::decode(scan.schema.as_slice()).map_err(|error| unreadable(KIND).with_source(error))?;
        let schema = Schema::try_from(&schema).map_err(|error| unreadable(KIND).with_source(error))?;
        Ok(Self {
            format: Format::from_wire(scan.format()).ok_or_else(|| unreadable(KIND))?,
            schema: Arc::new(schema),
            encoded_schema: scan.schema,
            catalog: scan.catalog,
            table: scan.table,
            limit: scan.limit,
            local_filters: scan.local_filters,
            files: scan.files,
            estimate: Estimate { bytes: scan.bytes, ..Estimate::default() },
        })
    }
}

impl Split {
    /// Pieces of a file: about `bytes` each where it is Parquet, else the whole.
    pub fn cut(file: &ObjectMeta, format: Format, bytes: u64) -> impl Iterator<Item = Self> {
        let piece = if format == Format::Parquet { bytes.max(PIECE_BYTES) } else { file.size }.max(1);
        let pieces = file.size.div_ceil(piece);
        let (path, version, size) = (file.location.to_string(), version(file), file.size);
        (0..pieces).map(move |n| Self {
            path: path.clone(),
            size,
            version: version.clone(),
            start: n * piece,
            end: if n + 1 == pieces { u64::MAX } else { (n + 1) * piece },
        })
    }

    /// Whether a file is what it was.
    pub fn is_of(&self, file: &ObjectMeta) -> bool {
        self.size == file.size && self.version == version(file)
    }

    /// The split on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let Self { path, size, version, start, end } = self.clone();
        wire::Split { path, size, version, start, end }.encode_to_vec()
    }

    /// The split that [`Split::encode`] wrote.
    ///
    /// Errors: `INTERNAL` for bytes of another build.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let split = wire::Split::decode(bytes).map_err(|error| unreadable(KIND).with_source(error))?;
        let wire::Split { path, size, version, start, end } = split;
        Ok(Self { path, size, version, start, end })
    }
}

/// What changes when a file does: its tag, else its time in seconds, for a list of a store may tell parts of them that a file does not.
fn version(file: &ObjectMeta) -> String {
    file.e_tag.clone().unwrap_or_else(|| file.last_modified.timestamp().to_string())
}
