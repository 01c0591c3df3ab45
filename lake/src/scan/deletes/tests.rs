//! Row-level deletes of real tables: what is read of a table, value by value, and what is read of its files.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_datasource::source::DataSourceExec;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;
use iceberg::TableUpdate;
use iceberg::metadata_columns::{RESERVED_FIELD_ID_DELETE_FILE_PATH, RESERVED_FIELD_ID_DELETE_FILE_POS};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, FormatVersion, Literal, Struct,
};
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY};
use townlake_common::{ErrorCode, Principal, QueryContext, QueryId};

use crate::scan::fixture::{LakeCodec, code};
use crate::testing::{Lake, as_text, file};
use crate::{LakeTable, LoadedTable, PartitionField, PositionDeletes, TableChange};

fn with_id(name: &str, of: DataType, id: i32) -> Field {
    Field::new(name, of, true).with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_string(), id.to_string())]))
}

/// Writes a delete file and returns its record for a manifest.
fn delete_file(
    lake: &Lake,
    name: &str,
    content: DataContentType,
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
    more: impl FnOnce(&mut DataFileBuilder),
) -> DataFile {
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let path = lake.folder.path().join(format!("warehouse/s/t/data/{name}.parquet"));
    let mut writer = ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let delete = file(&lake.location("t"), name, Struct::empty(), |f| {
        f.content(content)
            .record_count(rows.num_rows() as u64)
            .file_size_in_bytes(std::fs::metadata(&path).unwrap().len());
        more(f);
    });
    delete.data_file
}

fn positions(lake: &Lake, name: &str, rows: &[(&str, i64)]) -> DataFile {
    positions_with(lake, name, rows, |_| {})
}

/// The same with more in its record.
fn positions_with(lake: &Lake, name: &str, rows: &[(&str, i64)], more: impl FnOnce(&mut DataFileBuilder)) -> DataFile {
    let fields = vec![
        with_id("file_path", DataType::Utf8, RESERVED_FIELD_ID_DELETE_FILE_PATH),
        with_id("pos", DataType::Int64, RESERVED_FIELD_ID_DELETE_FILE_POS),
    ];
    let paths: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(path, _)| path)));
    let places: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, pos)| *pos)));
    delete_file(lake, name, DataContentType::PositionDeletes, fields, vec![paths, places], more)
}

fn equality(lake: &Lake, name: &str, keys: Vec<(Field, ArrayRef)>, partition: Struct) -> DataFile {
    let ids = keys.iter().map(|(field, _)| crate::schema::field_id(field).unwrap()).collect();
    let (fields, columns) = keys.into_iter().unzip();
    delete_file(lake, name, DataContentType::EqualityDeletes, fields, columns, |f| {
        f.equality_ids(Some(ids)).partition(partition);
    })
}

fn ids(values: Vec<Option<i64>>) -> (Field, ArrayRef) {
    (with_id("id", DataType::Int64, 1), Arc::new(Int64Array::from(values)))
}

fn texts(values: Vec<Option<&str>>) -> (Field, ArrayRef) {
    (with_id("v", DataType::Utf8, 2), Arc::new(StringArray::from(values)))
}

/// Rows `(id, v)`.
fn rows(ids: impl IntoIterator<Item = i64>) -> RecordBatch {
    let ids: Vec<i64> = ids.into_iter().collect();
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(ids.iter().map(|id| format!("v{id}"))));
    let ids: ArrayRef = Arc::new(Int64Array::from(ids));
    RecordBatch::try_from_iter([("id", ids), ("v", texts)]).unwrap()
}

async fn table() -> (Lake, SessionContext) {
    let lake = Lake::create(&[("id", DataType::Int64), ("v", DataType::Utf8)], &[]).await;
    let context = lake.context();
    (lake, context)
}

async fn insert(lake: &Lake, context: &SessionContext, batch: RecordBatch) -> String {
    let files = lake.insert(context, "t", batch).await;
    assert_eq!(files.len(), 1);
    files[0].data_file.file_path().to_string()
}

fn one(values: &[&str]) -> Vec<Vec<String>> {
    values.iter().map(|value| vec![value.to_string()]).collect()
}

const IDS: &str = "SELECT id FROM t ORDER BY id";

/// The answer after a way through the codec, and the counters of the scan.
async fn remote(lake: &Lake, context: &SessionContext, sql: &str) -> (Vec<Vec<String>>, MetricsSet) {
    context.deregister_table("t").unwrap();
    context.register_table("t", LakeTable::new(lake.load("t").await)).unwrap();
    let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let node = PhysicalPlanNode::try_from_physical_plan(plan, &LakeCodec).unwrap();
    assert!(!format!("{node:?}").contains("ParquetScan("), "a leaf went without its deletes");
    let decoded = node.try_into_physical_plan(&context.task_ctx(), &LakeCodec).unwrap();
    let answer = collect(Arc::clone(&decoded), context.task_ctx()).await.unwrap();
    (as_text(&answer), scan_metrics(&decoded).expect("a scan"))
}

fn scan_metrics(plan: &Arc<dyn ExecutionPlan>) -> Option<MetricsSet> {
    if plan.is::<DataSourceExec>() {
        return plan.metrics();
    }
    plan.children().into_iter().find_map(scan_metrics)
}

fn count(metrics: &MetricsSet, name: &str) -> usize {
    metrics.sum_by_name(name).map_or(0, |value| value.as_usize())
}

#[tokio::test]
async fn rows_are_deleted_by_position() {
    let (lake, context) = table().await;
    let a = insert(&lake, &context, rows(0..5)).await;
    let b = insert(&lake, &context, rows(10..13)).await;
    // One file for both, not sorted, with a row twice, one that is not there and a data file that is not there.
    let first = positions(&lake, "p1", &[(&b, 0), (&a, 4), (&a, 1), (&a, 1), (&a, 5), (&a, i64::MAX), ("gone", 3)]);
    lake.commit_deletes("t", 0, vec![first]).await;
    assert_eq!(lake.rows(&context, "t", IDS).await, one(&["0", "2", "3", "11", "12"]));
    let second = positions(&lake, "p2", &[(&a, 0), (&b, 1), (&b, 2)]);
    lake.commit_deletes("t", 0, vec![second]).await;
    assert_eq!(lake.rows(&context, "t", IDS).await, one(&["2", "3"]));
    assert_eq!(lake.rows(&context, "t", "SELECT v FROM t WHERE id < 3").await, one(&["v2"]));
    assert_eq!(lake.rows(&context, "t", "SELECT count(*), min(id), max(v) FROM t").await, [["2", "2", "v3"]]);
    // A limit that the first file would meet, were its rows all there.
    assert_eq!(lake.rows(&context, "t", "SELECT count(*) FROM (SELECT id FROM t LIMIT 4)").await, one(&["2"]));
    let explained = lake.rows(&context, "t", "EXPLAIN SELECT count(*) FROM t").await;
    assert!(explained.iter().flatten().any(|text| text.contains("delete_files=2")), "{explained:?}");
    // The first file's rows are all that is older than the deletes.
    insert(&lake, &context, rows(20..22)).await;
    let (answer, metrics) = remote(&lake, &context, "SELECT id FROM t").await;
    assert_eq!(answer.len(), 4);
    assert_eq!(count(&metrics, "delete_files_read"), 2, "once for two data files");
}

#[tokio::test]
async fn deletes_that_spell_their_data_file_in_another_way_apply() {
    let (lake, context) = table().await;
    let a = insert(&lake, &context, rows(0..5)).await;
    insert(&lake, &context, rows(10..12)).await;
    let other = a.replace("file://", "file:");
    assert_ne!(a, other);
    // By their content alone, by bounds, and by the file that the record names.
    lake.commit_deletes("t", 0, vec![positions(&lake, "p1", &[(&other, 0)])]).await;
    let bound = || HashMap::from([(RESERVED_FIELD_ID_DELETE_FILE_PATH, Datum::string(other.clone()))]);
    let bounded = positions_with(&lake, "p2", &[(&other, 1)], |f| {
        f.lower_bounds(bound()).upper_bounds(bound());
    });
    lake.commit_deletes("t", 0, vec![bounded]).await;
    let named = positions_with(&lake, "p3", &[(&other, 2)], |f| {
        f.referenced_data_file(Some(other.clone()));
    });
    lake.commit_deletes("t", 0, vec![named]).await;
    assert_eq!(lake.rows(&context, "t", IDS).await, one(&["3", "4", "10", "11"]));
    assert_eq!(remote(&lake, &context, IDS).await.0, one(&["3", "4", "10", "11"]));

    // None is lost when they become one file.
    let table = lake.load("t").await;
    let query = QueryContext::new(QueryId::generate(), Principal::new("ann", vec![]));
    let merging = PositionDeletes::plan(&table).await.unwrap();
    assert_eq!(merging.count(), 3);
    let plan = merging.write_plan(&context.state(), &query).await.unwrap().unwrap();
    let written = merging.written(&collect(plan, context.task_ctx()).await.unwrap()).unwrap();
    lake.catalog.commit_delta(&table, &merging.delta(written), &query.id).await.unwrap().unwrap();
    assert_eq!(lake.rows(&context, "t", IDS).await, one(&["3", "4", "10", "11"]));
}

#[tokio::test]
async fn rows_are_deleted_by_value_where_they_are_older() {
    let (lake, context) = table().await;
    insert(&lake, &context, rows(0..6)).await;
    let none = Struct::empty;
    lake.commit_deletes("t", 0, vec![equality(&lake, "e1", vec![ids(vec![Some(1), Some(4)])], none())]).await;
    insert(&lake, &context, rows([1, 2, 10])).await;
    let expected = one(&["0", "1", "2", "2", "3", "5", "10"]);
    assert_eq!(lake.rows(&context, "t", IDS).await, expected);
    // Of two columns, in another order than the table's; the row must have both values.
    let both = vec![texts(vec![Some("v2"), Some("v3")]), ids(vec![Some(2), Some(99)])];
    lake.commit_deletes("t", 0, vec![equality(&lake, "e2", both, none())]).await;
    let expected = one(&["0", "1", "3", "5", "10"]);
    assert_eq!(lake.rows(&context, "t", IDS).await, expected);
    // Key columns are read and not shown, whatever is asked for.
    assert_eq!(lake.rows(&context, "t", "SELECT count(*) FROM t").await, one(&["5"]));
    assert_eq!(lake.rows(&context, "t", "SELECT v FROM t WHERE id > 4 ORDER BY v").await, one(&["v10", "v5"]));
    assert_eq!(lake.rows(&context, "t", "SELECT id + 1 FROM t WHERE v = 'v3'").await, one(&["4"]));
    assert_eq!(lake.rows(&context, "t", "SELECT count(*) FROM (SELECT id FROM t LIMIT 6)").await, one(&["5"]));
    let all = lake.rows(&context, "t", "SELECT * FROM t WHERE id = 10").await;
    assert_eq!(all, [["10", "v10"]]);
    let (mut answer, metrics) = remote(&lake, &context, "SELECT v, id FROM t WHERE id >= 1").await;
    answer.sort();
    assert_eq!(answer, [["v1", "1"], ["v10", "10"], ["v3", "3"], ["v5", "5"]]);
    assert_eq!(count(&metrics, "delete_files_read"), 2);
}

/// A Puffin file with these vectors, one record for each. `damage` changes its bytes, `more` the records.
fn vectors(
    lake: &Lake,
    of: &[(&str, &[u64])],
    damage: impl FnOnce(&mut Vec<u8>),
    more: impl Fn(&mut DataFileBuilder),
) -> Vec<DataFile> {
    let path = lake.folder.path().join("warehouse/s/t/data/broken.puffin");
    let mut bytes = b"PFA1".to_vec();
    let mut places = Vec::new();
    for (_, rows) in of {
        let blob = super::vector::encode(&rows.iter().copied().collect());
        places.push((bytes.len() as i64, blob.len() as i64));
        bytes.extend(blob);
    }
    let size = bytes.len() as u64;
    damage(&mut bytes);
    std::fs::write(&path, &bytes).unwrap();
    let record = |((data_file, rows), (offset, length)): (&(&str, &[u64]), (i64, i64))| {
        let vector = file(&lake.location("t"), "v", Struct::empty(), |f| {
            f.content(DataContentType::PositionDeletes)
                .file_format(DataFileFormat::Puffin)
                .file_path(format!("file://{}", path.display()))
                .file_size_in_bytes(size)
                .record_count(rows.len() as u64)
                .referenced_data_file(Some(data_file.to_string()))
                .content_offset(Some(offset))
                .content_size_in_bytes(Some(length));
            more(f);
        });
        vector.data_file
    };
    of.iter().zip(places).map(record).collect()
}

async fn upgrade(lake: &Lake) {
    lake.update("t", vec![TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V3 }]).await;
}

#[tokio::test]
async fn a_deletion_vector_is_all_the_positions_of_its_data_file() {
    let (lake, context) = table().await;
    let a = insert(&lake, &context, rows(0..5)).await;
    let b = insert(&lake, &context, rows(10..13)).await;
    let c = insert(&lake, &context, rows(20..22)).await;
    lake.commit_deletes("t", 0, vec![positions(&lake, "p", &[(&a, 0), (&b, 0)])]).await;
    upgrade(&lake).await;
    let by_value = equality(&lake, "e", vec![ids(vec![Some(12), Some(3)])], Struct::empty());
    lake.commit_deletes("t", 0, vec![by_value]).await;
    lake.commit_deletes("t", 0, vectors(&lake, &[(&a, &[1, 4, 9]), (&c, &[0])], |_| {}, |_| {})).await;
    // Row 0 of the first file is back: the vector takes the place of the older file. Of the second it still counts.
    let expected = one(&["0", "2", "11", "21"]);
    assert_eq!(lake.rows(&context, "t", IDS).await, expected);
    let (answer, metrics) = remote(&lake, &context, IDS).await;
    assert_eq!((answer, count(&metrics, "delete_files_read")), (expected, 4));
    assert_eq!(lake.rows(&context, "t", "SELECT count(*) FROM t").await, one(&["4"]));
}

#[tokio::test]
async fn a_broken_vector_is_an_error_that_names_its_file() {
    type Damage = fn(&mut Vec<u8>);
    type Change = fn(&mut DataFileBuilder);
    let cases: [(&str, Damage, Change); 6] = [
        ("cut short", |bytes| bytes.truncate(20), |_| {}),
        ("wrong checksum", |bytes| *bytes.last_mut().unwrap() ^= 1, |_| {}),
        ("wrong checksum", |bytes| bytes[12] ^= 1, |_| {}),
        ("cut short", |bytes| bytes[7] ^= 1, |_| {}),
        (
            "deletes 2 rows of a data file where 3 are said",
            |_| {},
            |f| {
                f.record_count(3);
            },
        ),
        (
            "is shorter than where its deletion vector lies",
            |_| {},
            |f| {
                f.content_offset(Some(i64::MAX));
            },
        ),
    ];
    for (what, damage, change) in cases {
        let (lake, context) = table().await;
        let a = insert(&lake, &context, rows(0..5)).await;
        upgrade(&lake).await;
        lake.commit_deletes("t", 0, vectors(&lake, &[(&a, &[1, 2])], damage, change)).await;
        let error = lake.try_rows(&context, "t", IDS).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(code(error), ErrorCode::DataCorrupt, "{what}: {text}");
        assert!(text.contains("broken.puffin") && text.contains(what), "{what}: {text}");
    }
}

#[tokio::test]
async fn a_limit_stops_only_at_rows_that_are_left() {
    let (lake, context) = table().await;
    insert(&lake, &context, rows(0..1000)).await;
    let gone = (0..990).map(Some).collect();
    lake.commit_deletes("t", 0, vec![equality(&lake, "e", vec![ids(gone)], Struct::empty())]).await;
    for (limit, expected) in [(5, "5"), (10, "10"), (50, "10")] {
        let sql = format!("SELECT count(*) FROM (SELECT id FROM t LIMIT {limit})");
        assert_eq!(lake.rows(&context, "t", &sql).await, one(&[expected]));
        assert_eq!(remote(&lake, &context, &sql).await.0, one(&[expected]));
    }
}

#[tokio::test]
async fn both_kinds_together_and_an_insert_after_them() {
    let (lake, context) = table().await;
    let a = insert(&lake, &context, rows(0..6)).await;
    let by_value = equality(&lake, "e", vec![ids(vec![Some(0), Some(5)])], Struct::empty());
    lake.commit_deletes("t", 0, vec![positions(&lake, "p", &[(&a, 2), (&a, 5)]), by_value]).await;
    assert_eq!(lake.rows(&context, "t", IDS).await, one(&["1", "3", "4"]));
    insert(&lake, &context, rows([0, 2])).await;
    assert_eq!(lake.rows(&context, "t", IDS).await, one(&["0", "1", "2", "3", "4"]));
    assert_eq!(remote(&lake, &context, IDS).await.0, one(&["0", "1", "2", "3", "4"]));
}

#[tokio::test]
async fn null_equals_null_and_nan_equals_nan() {
    let lake = Lake::create(&[("id", DataType::Int64), ("v", DataType::Utf8), ("d", DataType::Float64)], &[]).await;
    let context = lake.context();
    let odd_nan = f64::from_bits(0x7ff8_0000_0000_0001);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(vec![Some(1), None, None, Some(2), Some(3)])) as ArrayRef, true),
        ("v", Arc::new(StringArray::from(vec![None, Some("x"), None, None, Some("y")])) as ArrayRef, true),
        (
            "d",
            Arc::new(Float64Array::from(vec![Some(odd_nan), None, Some(0.5), Some(1.0), Some(-0.0)])) as ArrayRef,
            true,
        ),
    ]);
    insert(&lake, &context, batch.unwrap()).await;
    let sql = "SELECT coalesce(id, -1), coalesce(v, '-') FROM t ORDER BY 1, 2";
    let keys = vec![ids(vec![None, Some(2)]), texts(vec![None, None])];
    lake.commit_deletes("t", 0, vec![equality(&lake, "e1", keys, Struct::empty())]).await;
    assert_eq!(lake.rows(&context, "t", sql).await, [["-1", "x"], ["1", "-"], ["3", "y"]]);
    let doubles: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 0.0]));
    let keys = vec![(with_id("d", DataType::Float64, 3), doubles)];
    lake.commit_deletes("t", 0, vec![equality(&lake, "e2", keys, Struct::empty())]).await;
    assert_eq!(lake.rows(&context, "t", sql).await, [["-1", "x"], ["3", "y"]]);
}

#[tokio::test]
async fn one_column_can_be_the_key_of_several_groups() {
    let (lake, context) = table().await;
    insert(&lake, &context, rows(0..6)).await;
    let by_id = equality(&lake, "e1", vec![ids(vec![Some(0)])], Struct::empty());
    let keys = vec![texts(vec![Some("v1"), Some("v9")]), ids(vec![Some(1), Some(2)])];
    let by_both = equality(&lake, "e2", keys, Struct::empty());
    let by_text = equality(&lake, "e3", vec![texts(vec![Some("v3")])], Struct::empty());
    lake.commit_deletes("t", 0, vec![by_id, by_both, by_text]).await;
    assert_eq!(lake.rows(&context, "t", IDS).await, one(&["2", "4", "5"]));
    let sql = "SELECT v, id FROM t WHERE v > 'v2' ORDER BY id DESC LIMIT 1";
    assert_eq!(remote(&lake, &context, sql).await.0, [["v5", "5"]]);
    assert_eq!(remote(&lake, &context, "SELECT count(*) FROM t").await.0, one(&["3"]));
}

#[tokio::test]
async fn an_upgraded_table_keeps_its_deletes_and_its_past() {
    let (lake, context) = table().await;
    let a = insert(&lake, &context, rows(0..5)).await;
    let before = lake.load("t").await;
    let by_value = equality(&lake, "e", vec![ids(vec![Some(4)])], Struct::empty());
    lake.commit_deletes("t", 0, vec![positions(&lake, "p", &[(&a, 0)]), by_value]).await;
    upgrade(&lake).await;
    assert_eq!(lake.rows(&context, "t", IDS).await, one(&["1", "2", "3"]));
    let past = LoadedTable { snapshot: before.snapshot.clone(), ..lake.load("t").await.as_ref().clone() };
    context.register_table("past", LakeTable::new(Arc::new(past))).unwrap();
    let answer = context.sql("SELECT count(*), min(id) FROM past").await.unwrap().collect().await.unwrap();
    assert_eq!(as_text(&answer), [["5", "0"]]);
}

fn path(name: &str) -> Vec<String> {
    vec![name.to_string()]
}

#[tokio::test]
async fn key_columns_are_found_by_field_id_through_every_change() {
    let lake = Lake::create(&[("k", DataType::Int32), ("v", DataType::Utf8)], &[]).await;
    let context = lake.context();
    let batch = |keys: Vec<i32>, texts: Vec<&str>| {
        let keys: ArrayRef = Arc::new(Int32Array::from(keys));
        RecordBatch::try_from_iter([("k", keys), ("v", Arc::new(StringArray::from(texts)) as ArrayRef)]).unwrap()
    };
    insert(&lake, &context, batch(vec![1, 2, 3, 4], vec!["a", "b", "c", "d"])).await;
    let ints: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let keys = vec![(with_id("k", DataType::Int32, 1), ints)];
    lake.commit_deletes("t", 0, vec![equality(&lake, "narrow", keys, Struct::empty())]).await;
    let alter = async |change| assert!(lake.catalog.alter_table("s", "t", &[change]).await.unwrap().unwrap());
    // The key is renamed and widened, another column takes its name.
    alter(TableChange::RenameColumn { path: path("k"), to: "key".to_string() }).await;
    alter(TableChange::SetType { path: path("key"), to: DataType::Int64 }).await;
    let new = |name: &str| {
        let column = Arc::new(Field::new(name, DataType::Int64, true));
        TableChange::AddColumn { path: path(name), column, position: None, if_not_exists: false }
    };
    alter(new("k")).await;
    assert_eq!(lake.rows(&context, "t", "SELECT v FROM t ORDER BY v").await, one(&["b", "c", "d"]));
    let wide = |name: &str, keys: Vec<i64>| {
        let keys: ArrayRef = Arc::new(Int64Array::from(keys));
        equality(&lake, name, vec![(with_id("key", DataType::Int64, 1), keys)], Struct::empty())
    };
    lake.commit_deletes("t", 0, vec![wide("wide", vec![2, 1 << 40])]).await;
    assert_eq!(lake.rows(&context, "t", "SELECT key, v, k FROM t ORDER BY v").await, [["3", "c", ""], ["4", "d", ""]]);
    // The old files lack the new column: there it is null, and null is what is deleted.
    let lacking: ArrayRef = Arc::new(Int64Array::from(vec![None, Some(7)]));
    let threes: ArrayRef = Arc::new(Int64Array::from(vec![3, 4]));
    let keys = vec![(with_id("k", DataType::Int64, 3), lacking), (with_id("key", DataType::Int64, 1), threes)];
    lake.commit_deletes("t", 0, vec![equality(&lake, "lacking", keys, Struct::empty())]).await;
    assert_eq!(lake.rows(&context, "t", "SELECT v FROM t ORDER BY v").await, one(&["d"]));
    // The key is dropped; what it deleted stays deleted.
    alter(TableChange::DropColumn { path: path("key"), if_exists: false }).await;
    assert_eq!(lake.rows(&context, "t", "SELECT * FROM t").await, [["d", ""]]);
    assert_eq!(remote(&lake, &context, "SELECT v FROM t").await.0, one(&["d"]));
}

#[tokio::test]
async fn deletes_of_a_partition_stay_in_it() {
    let by = |column: &str| PartitionField { column: column.to_string(), transform: "identity".to_string() };
    let lake = Lake::create(&[("id", DataType::Int64), ("v", DataType::Utf8)], &[by("v")]).await;
    let context = lake.context_with(SessionConfig::new().with_target_partitions(4));
    let ids_of: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 1, 2]));
    let parts: ArrayRef = Arc::new(StringArray::from(vec!["eu", "eu", "us", "us"]));
    lake.insert(&context, "t", RecordBatch::try_from_iter([("id", ids_of), ("v", parts)]).unwrap()).await;
    let at = |part: &str| Struct::from_iter([Some(Literal::string(part))]);
    let in_eu = equality(&lake, "eu", vec![ids(vec![Some(1)])], at("eu"));
    let in_us = equality(&lake, "us", vec![ids(vec![Some(2)])], at("us"));
    lake.commit_deletes("t", 0, vec![in_eu, in_us]).await;
    let sql = "SELECT v, id FROM t ORDER BY v";
    assert_eq!(lake.rows(&context, "t", sql).await, [["eu", "2"], ["us", "1"]]);
    assert_eq!(remote(&lake, &context, sql).await.0, [["eu", "2"], ["us", "1"]]);
}

#[tokio::test]
async fn a_broken_delete_file_is_an_error_that_names_it() {
    let fails = async |what: &str, expected: ErrorCode, make: &dyn Fn(&Lake, &str) -> DataFile| {
        let (lake, context) = table().await;
        let a = insert(&lake, &context, rows(0..5)).await;
        lake.commit_deletes("t", 0, vec![make(&lake, &a)]).await;
        let error = lake.try_rows(&context, "t", IDS).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("broken.parquet"), "{what}: {text}");
        assert_eq!(code(error), expected, "{what}: {text}");
    };
    let place = |lake: &Lake| lake.folder.path().join("warehouse/s/t/data/broken.parquet");
    fails("missing", ErrorCode::FileNotFound, &|lake, a| {
        let delete = positions(lake, "broken", &[(a, 1)]);
        std::fs::remove_file(place(lake)).unwrap();
        delete
    })
    .await;
    fails("cut short", ErrorCode::DataCorrupt, &|lake, a| {
        let delete = positions(lake, "broken", &[(a, 1)]);
        let bytes = std::fs::read(place(lake)).unwrap();
        std::fs::write(place(lake), &bytes[..bytes.len() / 2]).unwrap();
        delete
    })
    .await;
    fails("noise", ErrorCode::DataCorrupt, &|lake, a| {
        let delete = positions(lake, "broken", &[(a, 1)]);
        let size = std::fs::read(place(lake)).unwrap().len();
        std::fs::write(place(lake), vec![7; size]).unwrap();
        delete
    })
    .await;
    fails("damaged pages", ErrorCode::DataCorrupt, &|lake, a| {
        let delete = positions(lake, "broken", &[(a, 1)]);
        let mut bytes = std::fs::read(place(lake)).unwrap();
        bytes[4..60].fill(0xff);
        std::fs::write(place(lake), bytes).unwrap();
        delete
    })
    .await;
    fails("negative", ErrorCode::DataCorrupt, &|lake, a| positions(lake, "broken", &[(a, 1), (a, -1)])).await;
    fails("no positions", ErrorCode::DataCorrupt, &|lake, _| {
        let (field, column) = ids(vec![Some(1)]);
        delete_file(lake, "broken", DataContentType::PositionDeletes, vec![field], vec![column], |_| {})
    })
    .await;
    fails("no key column", ErrorCode::DataCorrupt, &|lake, _| {
        let (field, column) = texts(vec![Some("v1")]);
        delete_file(lake, "broken", DataContentType::EqualityDeletes, vec![field], vec![column], |f| {
            f.equality_ids(Some(vec![1]));
        })
    })
    .await;
    fails("another type", ErrorCode::DataCorrupt, &|lake, _| {
        let column: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
        equality(lake, "broken", vec![(with_id("id", DataType::Utf8, 1), column)], Struct::empty())
    })
    .await;
    fails("nulls", ErrorCode::DataCorrupt, &|lake, a| {
        let fields = vec![Field::new("pos", DataType::Int64, true), Field::new("file_path", DataType::Utf8, true)];
        let places: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let paths: ArrayRef = Arc::new(StringArray::from(vec![a, a]));
        delete_file(lake, "broken", DataContentType::PositionDeletes, fields, vec![places, paths], |_| {})
    })
    .await;
}

#[tokio::test]
async fn deletes_count_as_memory_of_the_query() {
    let (lake, context) = table().await;
    insert(&lake, &context, rows(0..20_000)).await;
    let keys = (0..10_000).map(|id| Some(id * 2)).collect();
    lake.commit_deletes("t", 0, vec![equality(&lake, "e", vec![ids(keys)], Struct::empty())]).await;
    let sql = "SELECT count(*), min(id), sum(id) FROM t";
    assert_eq!(lake.rows(&context, "t", sql).await, [["10000", "1", "100000000"]]);
    let runtime = context.runtime_env();
    let pool = Arc::new(GreedyMemoryPool::new(200_000));
    let small = datafusion::execution::runtime_env::RuntimeEnv { memory_pool: pool, ..runtime.as_ref().clone() };
    let state = datafusion::execution::SessionStateBuilder::new_from_existing(context.state());
    let small = SessionContext::new_with_state(state.with_runtime_env(Arc::new(small)).build());
    let error = lake.try_rows(&small, "t", sql).await.unwrap_err();
    assert!(error.to_string().contains("the row-level deletes of lake.s.t"), "{error}");
    assert_eq!(code(error), ErrorCode::MemoryLimit);
}

#[tokio::test]
async fn pruning_and_late_materialisation_go_on() {
    let (lake, _) = table().await;
    let property = ("write.parquet.row-group-size-bytes".to_string(), "1000000".to_string());
    lake.catalog.alter_table("s", "t", &[TableChange::SetProperties(vec![property])]).await.unwrap();
    let late = |late: bool| {
        let mut config = SessionConfig::new().with_target_partitions(3);
        config.options_mut().execution.parquet.pushdown_filters = late;
        config.options_mut().optimizer.repartition_file_min_size = 1;
        lake.context_with(config)
    };
    let context = late(false);
    let many = rows(0..200_000);
    let pieces: Vec<_> = (0..20).map(|n| many.slice(n * 10_000, 10_000)).collect();
    let a = insert_pieces(&lake, &context, pieces).await;
    // Every hundredth row by position, and some keys.
    let places: Vec<(&str, i64)> = (0..2000).map(|n| (a.as_str(), n * 100)).collect();
    let keys = equality(&lake, "e", vec![ids(vec![Some(150_001), Some(150_003)])], Struct::empty());
    lake.commit_deletes("t", 0, vec![positions(&lake, "p", &places), keys]).await;
    let all = lake.rows(&context, "t", "SELECT count(*), sum(id) FROM t").await;
    let sum = (0..200_000_i64).filter(|id| id % 100 != 0 && *id != 150_001 && *id != 150_003).sum::<i64>();
    assert_eq!(all, [["197998".to_string(), sum.to_string()]], "in several ranges of one file");
    for pushed in [false, true] {
        let context = late(pushed);
        let sql = "SELECT v FROM t WHERE id BETWEEN 149999 AND 150004";
        let (mut answer, metrics) = remote(&lake, &context, sql).await;
        answer.sort();
        assert_eq!(answer, one(&["v149999", "v150002", "v150004"]));
        let pruned = |name: &str| match metrics.sum_by_name(name) {
            Some(datafusion::physical_plan::metrics::MetricValue::PruningMetrics { pruning_metrics, .. }) => {
                (pruning_metrics.pruned(), pruning_metrics.matched())
            }
            other => panic!("{name}: {other:?}"),
        };
        let (groups, kept) = pruned("row_groups_pruned_statistics");
        assert!(groups > 0 && kept == 1, "{groups} {kept}");
        assert!(pruned("page_index_rows_pruned").0 > 0);
        // The row 150 000 is deleted by position: it is not even filtered.
        assert_eq!(count(&metrics, "pushdown_rows_matched"), if pushed { 5 } else { 0 });
    }
}

async fn insert_pieces(lake: &Lake, context: &SessionContext, pieces: Vec<RecordBatch>) -> String {
    let table = lake.load("t").await;
    let schema = pieces[0].schema();
    let input = datafusion::datasource::memory::MemorySourceConfig::try_new_exec(&[pieces], schema, None).unwrap();
    let query = townlake_common::QueryId::generate();
    let answers = collect(crate::write_plan(&table, input, &query).unwrap(), context.task_ctx()).await.unwrap();
    let files = crate::written_files(&answers, &table).unwrap();
    lake.catalog.commit_append(&table, files.clone(), &query).await.unwrap().unwrap();
    assert_eq!(files.len(), 1);
    files[0].data_file.file_path().to_string()
}
