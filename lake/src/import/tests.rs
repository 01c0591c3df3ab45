//! Folders of Parquet files become tables.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use arrow::datatypes::DataType;
use parquet::arrow::ArrowWriter;
use townlake_common::{ErrorCode, QueryId};

use super::Imported;
use crate::plan_files;
use crate::testing::Lake;

fn put(lake: &Lake, name: &str, columns: Vec<(&str, ArrayRef)>) -> PathBuf {
    let path = lake.folder.path().join("warehouse/old").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path
}

fn location(lake: &Lake) -> String {
    format!("file://{}/warehouse/old/", lake.folder.path().display())
}

fn ints(values: &[i32]) -> ArrayRef {
    Arc::new(Int32Array::from(values.to_vec()))
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

async fn migrate(lake: &Lake, table: &str) -> townlake_common::Result<Imported> {
    lake.catalog.migrate("s", table, &location(lake), &QueryId::generate()).await
}

#[tokio::test]
async fn a_folder_becomes_a_table_of_its_files_where_they_lie() {
    let lake = Lake::empty().await;
    let time: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_500, 2_500]));
    let float: ArrayRef = Arc::new(Float32Array::from(vec![0.5, 1.5]));
    put(&lake, "day=2024-01-01/a%20b=x%2Fy/f.parquet", vec![("id", ints(&[1, 2])), ("at", time), ("f", float)]);
    let longs: ArrayRef = Arc::new(Int64Array::from(vec![1 << 40]));
    let double: ArrayRef = Arc::new(Float64Array::from(vec![0.25]));
    let null = "day=__HIVE_DEFAULT_PARTITION__/a%20b=z/g.parquet";
    put(&lake, null, vec![("id", longs), ("f", double), ("more", texts(&["m"]))]);
    put(&lake, "_temporary/h.parquet", vec![("x", ints(&[1]))]);
    std::fs::write(lake.folder.path().join("warehouse/old/_SUCCESS"), b"").unwrap();
    assert_eq!(migrate(&lake, "t").await.unwrap(), Imported { files: 2, rows: 3 });

    let context = lake.context();
    let rows = lake.rows(&context, "t", "SELECT id, at, f, more, day, \"a b\" FROM t ORDER BY id").await;
    assert_eq!(rows[0], ["1", "1970-01-01T00:00:00.000001", "0.5", "", "2024-01-01", "x/y"]);
    assert_eq!(rows[2], ["1099511627776", "", "0.25", "m", "", "z"]);
    let table = lake.load("t").await;
    let plan = plan_files(&table, &[]).await.unwrap();
    assert!(plan.files.iter().all(|file| file.path.contains("/warehouse/old/day=")), "nothing is copied");
    // Bounds and partitions prune.
    assert_eq!(lake.rows(&context, "t", "SELECT count(*) FROM t WHERE day = DATE '2024-01-01'").await, [["2"]]);
    let file = plan.files.iter().find(|file| file.record_count == 2).unwrap();
    let bounds = file.column(1);
    assert_eq!((bounds.null_count, bounds.lower.unwrap().to_string()), (Some(0), "1".to_string()));
    assert_eq!(file.column(2).lower, None, "a bound in another unit is none");
    assert_eq!(file.column(3).upper, None, "nobody has counted NaN");
}

#[tokio::test]
async fn files_come_into_a_table_that_is_there() {
    let columns = [("id", DataType::Int64), ("name", DataType::Utf8)];
    let lake = Lake::create(&columns, &[]).await;
    let context = lake.context();
    let own = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("name", texts(&["own"])),
    ]);
    lake.insert(&context, "t", own.unwrap()).await;
    put(&lake, "a.parquet", vec![("name", texts(&["x", "y"])), ("id", ints(&[10, 11]))]);
    put(&lake, "b.parquet", vec![("id", ints(&[12]))]);
    let add = async || {
        let table = lake.load("t").await;
        lake.catalog.add_files(&table, &location(&lake), &QueryId::generate()).await
    };
    let commits = lake.load("t").await.metadata.metadata_log().len();
    assert_eq!(add().await.unwrap(), Imported { files: 2, rows: 3 });
    let now = lake.load("t").await;
    assert_eq!(now.metadata.metadata_log().len(), commits + 1, "files and mapping come in one commit");
    let all = [["1", "own"], ["10", "x"], ["11", "y"], ["12", ""]];
    assert_eq!(lake.rows(&context, "t", "SELECT * FROM t ORDER BY id").await, all);
    assert_eq!(add().await.unwrap_err().code(), ErrorCode::AlreadyExists);

    let unknown = put(&lake, "c.parquet", vec![("ID", ints(&[1]))]);
    let refused = |error: townlake_common::Error, name: &str| {
        assert!(error.code() == ErrorCode::NotSupported && error.message().contains(name), "{error}");
    };
    std::fs::remove_file(lake.folder.path().join("warehouse/old/a.parquet")).unwrap();
    std::fs::remove_file(lake.folder.path().join("warehouse/old/b.parquet")).unwrap();
    refused(add().await.unwrap_err(), "no column ID");
    std::fs::remove_file(unknown).unwrap();
    let wrong = put(&lake, "d.parquet", vec![("id", texts(&["one"]))]);
    refused(add().await.unwrap_err(), "column id is Utf8View there");
    std::fs::remove_file(wrong).unwrap();
    put(&lake, "p=1/e.parquet", vec![("id", ints(&[1]))]);
    refused(add().await.unwrap_err(), "not partitioned by it");
}

#[tokio::test]
async fn what_makes_no_table_leaves_none() {
    let lake = Lake::empty().await;
    assert_eq!(migrate(&lake, "t").await.unwrap_err().code(), ErrorCode::FileNotFound);
    let a = put(&lake, "a.parquet", vec![("id", ints(&[1]))]);
    let b = put(&lake, "b.parquet", vec![("id", texts(&["x"]))]);
    let error = migrate(&lake, "t").await.unwrap_err();
    assert!(error.message().contains("column id is Int32 in") && error.message().contains("b.parquet"), "{error}");
    std::fs::write(&b, b"PAR1 this is none PAR1").unwrap();
    let error = migrate(&lake, "t").await.unwrap_err();
    assert!(error.code() == ErrorCode::DataCorrupt && error.message().contains("b.parquet"), "{error}");
    std::fs::remove_file(b).unwrap();
    let c = put(&lake, "p=1/c.parquet", vec![("id", ints(&[1]))]);
    assert!(migrate(&lake, "t").await.unwrap_err().message().contains("not partitioned by the same"));
    std::fs::remove_file(a).unwrap();
    std::fs::remove_file(c).unwrap();
    let field = arrow::datatypes::Field::new("id", DataType::Int32, true)
        .with_metadata([(parquet::arrow::PARQUET_FIELD_ID_META_KEY.to_string(), "7".to_string())].into());
    let batch = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(vec![field])), vec![ints(&[1])]).unwrap();
    let path = lake.folder.path().join("warehouse/old/d.parquet");
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let error = migrate(&lake, "t").await.unwrap_err();
    assert!(error.code() == ErrorCode::NotSupported && error.message().contains("field ids"), "{error}");
    assert!(lake.catalog.load("s", "t", None).await.unwrap().is_none());
    let outside = lake.catalog.migrate("s", "t", "file:///etc", &QueryId::generate()).await.unwrap_err();
    assert_eq!(outside.code(), ErrorCode::PermissionDenied);
    assert!(path.exists(), "whatever happens, the files are the user's");
}
