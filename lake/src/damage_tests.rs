//! Damaged and hostile files of a table: each is an error that names the file, and none takes memory that its size does not.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::error::DataFusionError;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use townlake_common::{Error, ErrorCode};

use crate::testing::Lake;

/// A table with one data file, and a session.
async fn table() -> Lake {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
    let rows = RecordBatch::try_from_iter_with_nullable([("id", ids, true)]).unwrap();
    lake.insert(&lake.context(), "t", rows).await;
    lake
}

/// The one file of the table with this in its path.
fn find(lake: &Lake, part: &str) -> PathBuf {
    let folder = PathBuf::from(lake.location("t").strip_prefix("file://").unwrap());
    let files = ["metadata", "data"].into_iter().flat_map(|sub| fs::read_dir(folder.join(sub)).unwrap());
    let mut found: Vec<_> =
        files.map(|file| file.unwrap().path()).filter(|path| path.to_string_lossy().contains(part)).collect();
    found.sort();
    found.pop().unwrap()
}

/// What reading the table answers once its newest file with `part` in its name was changed so. The error names the file.
async fn after(part: &str, damage: impl Fn(&[u8]) -> Option<Vec<u8>>) -> ErrorCode {
    let lake = table().await;
    let path = find(&lake, part);
    match damage(&fs::read(&path).unwrap()) {
        Some(bytes) => fs::write(&path, bytes).unwrap(),
        None => fs::remove_file(&path).unwrap(),
    }
    let error = lake.try_rows(&lake.context(), "t", "select sum(id) from t").await.unwrap_err();
    let name = path.file_name().unwrap().to_string_lossy().to_string();
    let text = format!("{error} {}", typed(&error).map(|error| format!("{error:?}")).unwrap_or_default());
    assert!(text.contains(&name), "{part}: {name} is not named: {text}");
    // Read once more by another session: what failed is in no cache.
    assert!(lake.try_rows(&lake.context(), "t", "select sum(id) from t").await.is_err());
    match error.find_root() {
        // The engine gives errors of Parquet their codes.
        DataFusionError::ParquetError(_) if text.contains("not found") => ErrorCode::FileNotFound,
        DataFusionError::ParquetError(_) => ErrorCode::DataCorrupt,
        _ => crate::scan::fixture::code(error),
    }
}

fn typed(error: &DataFusionError) -> Option<&Error> {
    match error.find_root() {
        DataFusionError::External(error) => error.downcast_ref::<Error>(),
        _ => None,
    }
}

fn half(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(bytes[..bytes.len() / 2].to_vec())
}

fn noise(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(bytes.iter().enumerate().map(|(n, _)| (n * 131 % 251) as u8).collect())
}

#[tokio::test]
async fn files_that_are_cut_noise_empty_or_gone() {
    for part in ["snap-", "-m0.avro"] {
        assert_eq!(after(part, half).await, ErrorCode::DataCorrupt, "{part}");
        assert_eq!(after(part, noise).await, ErrorCode::DataCorrupt, "{part}");
        assert_eq!(after(part, |_| Some(Vec::new())).await, ErrorCode::DataCorrupt, "{part}");
        assert_eq!(after(part, |_| None).await, ErrorCode::FileNotFound, "{part}");
    }
    assert_eq!(after(".parquet", half).await, ErrorCode::DataCorrupt);
    assert_eq!(after(".parquet", noise).await, ErrorCode::DataCorrupt);
    assert_eq!(after(".parquet", |_| None).await, ErrorCode::FileNotFound);
}

/// An Avro file up to where its first block begins.
fn header(file: &[u8]) -> &[u8] {
    let marker = &file[file.len() - 16..];
    let end = file.windows(16).position(|window| window == marker).unwrap();
    &file[..end + 16]
}

/// A number as Avro has it.
fn long(value: i64) -> Vec<u8> {
    let (mut rest, mut bytes) = (((value << 1) ^ (value >> 63)) as u64, Vec::new());
    while rest > 0x7f {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

#[tokio::test]
async fn blocks_that_state_more_than_there_is() {
    for part in ["snap-", "-m0.avro"] {
        for length in [2 << 30, 400 << 20, -5, i64::MIN, i64::MAX] {
            let hostile = |file: &[u8]| Some([header(file), &long(1), &long(length), &[0; 40]].concat());
            let before = peak();
            assert_eq!(after(part, hostile).await, ErrorCode::DataCorrupt, "{part} {length}");
            assert!(peak() - before < 200 << 20, "{part} {length} took {} bytes", peak() - before);
        }
    }
}

/// The most memory that this process has had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

/// So many bytes of nothing, in few.
fn bomb<W: Write>(mut writer: W, bytes: usize, finish: impl Fn(W) -> Vec<u8>) -> Vec<u8> {
    let nothing = vec![0; 1 << 20];
    (0..bytes >> 20).for_each(|_| writer.write_all(&nothing).unwrap());
    finish(writer)
}

#[tokio::test]
async fn a_block_that_inflates_without_end_is_not_inflated() {
    let block = bomb(DeflateEncoder::new(Vec::new(), Compression::fast()), 600 << 20, |w| w.finish().unwrap());
    assert!(block.len() < 8 << 20);
    let hostile = |file: &[u8]| {
        let header = header(file);
        // Whatever the codec was: the header of ours is written anew.
        let marker = &header[header.len() - 16..];
        let entries = [("avro.codec", "deflate"), ("avro.schema", "\"null\"")];
        let entries = entries
            .map(|(key, value)| [long(key.len() as i64), key.into(), long(value.len() as i64), value.into()].concat());
        let header = [b"Obj\x01".to_vec(), long(2), entries.concat(), long(0), marker.to_vec()].concat();
        Some([header, long(1), long(block.len() as i64), block.clone(), marker.to_vec()].concat())
    };
    let before = peak();
    assert_eq!(after("-m0.avro", hostile).await, ErrorCode::DataCorrupt);
    assert!(peak() - before < 200 << 20, "{}", peak() - before);
}

/// Makes this the metadata of the table.
async fn point_to(lake: &Lake, location: &str) {
    let url = format!("sqlite://{}/catalog.db", lake.folder.path().display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    let update = sqlx::query("UPDATE iceberg_tables SET metadata_location = $1").bind(location);
    assert_eq!(update.execute(&pool).await.unwrap().rows_affected(), 1);
    pool.close().await;
}

#[tokio::test]
async fn metadata_that_is_cut_noise_gone_or_a_bomb() {
    let bomb = bomb(GzEncoder::new(Vec::new(), Compression::fast()), 300 << 20, |w| w.finish().unwrap());
    type Damage<'a> = &'a dyn Fn(&[u8]) -> Option<Vec<u8>>;
    let cases: [(Damage<'_>, ErrorCode); 5] = [
        (&half, ErrorCode::DataCorrupt),
        (&noise, ErrorCode::DataCorrupt),
        (&|_| Some(Vec::new()), ErrorCode::DataCorrupt),
        (&|_| None, ErrorCode::FileNotFound),
        (&|_| Some(bomb.clone()), ErrorCode::DataCorrupt),
    ];
    for (damage, code) in cases {
        let lake = table().await;
        // The newest one, which the process has read while it wrote: a copy under another name is in no cache.
        let path = find(&lake, ".metadata.json");
        let name = path.file_name().unwrap().to_string_lossy().to_string();
        let copy = path.with_file_name(name.replace(".metadata.json", "0.metadata.json"));
        if let Some(bytes) = damage(&fs::read(&path).unwrap()) {
            fs::write(&copy, bytes).unwrap();
        }
        point_to(&lake, &format!("file://{}", copy.display())).await;
        let error = lake.catalog.load("s", "t", None).await.unwrap_err();
        assert_eq!(error.code(), code, "{error:?}");
        let copy = copy.file_name().unwrap().to_string_lossy().to_string();
        assert!(format!("{error:?} {error}").contains(&copy), "{error:?}");
    }
}
