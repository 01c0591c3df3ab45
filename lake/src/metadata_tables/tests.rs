//! Each metadata table over metadata whose values are known.

use std::collections::HashMap;

use arrow::datatypes::DataType;
use arrow::util::pretty::pretty_format_batches;
use datafusion::prelude::SessionContext;
use iceberg::spec::{DataContentType, Datum, Literal, Struct};
use townlake_common::ErrorCode;

use super::MetadataTable;
use crate::testing::{Lake, file};
use crate::{PartitionField, TableVersion};

/// A table partitioned by month with one snapshot of two files and one of a third.
async fn lake() -> (Lake, i64, i64) {
    let field = PartitionField { column: "day".to_string(), transform: "month".to_string() };
    let lake = Lake::create(&[("id", DataType::Int64), ("day", DataType::Date32)], &[field]).await;
    let month = |month: Option<i32>| Struct::from_iter([month.map(Literal::int)]);
    let ids = |low, high| {
        move |f: &mut iceberg::spec::DataFileBuilder| {
            f.lower_bounds(HashMap::from([(1, Datum::long(low)), (2, Datum::date(19_000))]))
                .upper_bounds(HashMap::from([(1, Datum::long(high)), (2, Datum::date(19_010))]))
                .null_value_counts(HashMap::from([(1, 0), (2, 1)]))
                .split_offsets(Some(vec![4]));
        }
    };
    let location = lake.location("t");
    let files =
        vec![file(&location, "a", month(Some(649)), ids(1, 5)), file(&location, "b", month(Some(649)), ids(-7, 2))];
    let first = lake.append("t", files).await;
    let second = lake.append("t", vec![file(&location, "c", month(None), |_| {})]).await;
    (lake, first, second)
}

async fn show(lake: &Lake, of: &str, at: Option<TableVersion>, sql: &str) -> String {
    let table = lake.catalog.load("s", "t", at.as_ref()).await.unwrap().unwrap();
    let provider = MetadataTable::find(&table, of).unwrap().provider(table, at.as_ref()).unwrap();
    let context = SessionContext::new();
    context.register_table("m", provider).unwrap();
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    pretty_format_batches(&batches).unwrap().to_string()
}

#[tokio::test]
async fn files_of_each_snapshot() {
    let (lake, first, _) = lake().await;
    let sql = "SELECT right(file_path, 9) AS path, content, file_format, spec_id, partition, record_count, lower_bounds, \
               readable_metrics::varchar LIKE '%\"id\":{%\"lower_bound\":-7%' AS metrics FROM m ORDER BY path";
    let now = show(&lake, "files", None, sql).await;
    let row = "| b.parquet | 0       | PARQUET     | 0       | {day_month: 649} | 10           | {1: -7, 2: 2022-01-08} | true    |";
    assert!(now.contains(row), "{now}");
    assert!(now.contains("| c.parquet | 0       | PARQUET     | 0       | {day_month: }    |"), "{now}");
    let then = show(&lake, "files", Some(TableVersion::SnapshotId(first)), sql).await;
    assert!(then.contains("b.parquet") && !then.contains("c.parquet"), "{then}");
}

#[tokio::test]
async fn delete_files_are_files_too() {
    let (lake, ..) = lake().await;
    lake.append_deletes("t", DataContentType::EqualityDeletes, |f| {
        f.equality_ids(Some(vec![1])).partition(Struct::from_iter([Some(Literal::int(649))]));
    })
    .await;
    let counted =
        show(&lake, "files", None, "SELECT content, count(*), max(equality_ids) FROM m GROUP BY 1 ORDER BY 1").await;
    assert!(counted.contains("| 0       | 3 ") && counted.contains("| 2       | 1        | [1]"), "{counted}");
    let data = show(&lake, "partitions", None, "SELECT sum(file_count) AS n FROM m").await;
    assert!(data.contains("| 3 |"), "{data}");
}

#[tokio::test]
async fn partitions_add_up() {
    let (lake, ..) = lake().await;
    let sql = "SELECT partition, record_count, file_count, total_size, data['id'] AS id, data['day'] AS day FROM m \
               ORDER BY record_count DESC";
    let shown = show(&lake, "partitions", None, sql).await;
    let id = "{min: -7, max: 5, null_count: 0, nan_count: }";
    let row = format!("| {{day_month: 649}} | 20           | 2          | 2000       | {id} |");
    assert!(shown.contains(&row), "{shown}");
    assert!(shown.contains("{min: 2022-01-08, max: 2022-01-18, null_count: 2, nan_count: }"), "{shown}");
    // the third file has no metrics
    assert!(shown.contains("{min: , max: , null_count: , nan_count: }"), "{shown}");
}

#[tokio::test]
async fn manifests_have_readable_summaries() {
    let (lake, first, second) = lake().await;
    let sql = format!(
        "SELECT added_snapshot_id = {first} AS first, added_data_files_count AS files, added_rows_count AS rows, \
         partition_summaries FROM m ORDER BY first DESC"
    );
    let shown = show(&lake, "manifests", None, &sql).await;
    let summary = "[{contains_null: false, contains_nan: false, lower_bound: 2024-02, upper_bound: 2024-02}]";
    assert!(shown.contains(&format!("| true  | 2     | 20   | {summary}")), "{shown}");
    assert!(shown.contains("| false | 1     | 10   | [{contains_null: true,"), "{shown}");
    let both = show(
        &lake,
        "snapshots",
        None,
        "SELECT snapshot_id, parent_id, operation, summary['added-data-files'] AS n FROM m",
    )
    .await;
    let rows: Vec<Vec<&str>> = both.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    let (first_id, second_id) = (first.to_string(), second.to_string());
    assert!(rows.contains(&vec!["", &first_id, "", "append", "2", ""]), "{both}");
    assert!(rows.contains(&vec!["", &second_id, &first_id, "append", "1", ""]), "{both}");
    let history = show(&lake, "history", None, "SELECT * FROM m WHERE is_current_ancestor").await;
    assert!(history.contains(&first.to_string()) && history.contains(&second.to_string()), "{history}");
    let refs = show(&lake, "refs", None, "SELECT name, type, snapshot_id FROM m").await;
    assert!(refs.contains(&format!("| main | BRANCH | {second} |")), "{refs}");
}

#[tokio::test]
async fn what_there_is_not_is_named() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let table = lake.load("t").await;
    let error = MetadataTable::find(&table, "file").unwrap_err();
    assert_eq!(error.code(), ErrorCode::TableNotFound);
    assert!(error.hint().unwrap().contains("did you mean \"t$files\"?"), "{error}");
    assert!(MetadataTable::find(&table, "elsewhere").unwrap_err().hint().unwrap().contains("$snapshots"));
    let version = Some(&TableVersion::SnapshotId(1));
    let error = MetadataTable::Refs.provider(table, version).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotSupported);
    for of in MetadataTable::ALL.map(|(name, _)| name) {
        let rows = show(&lake, of, None, "SELECT count(*) AS n FROM m").await;
        assert!(rows.contains("| 0 |"), "{of} of an empty table: {rows}");
    }
    let taken = crate::testing::create_table("x$files", &[("id", DataType::Int64)], &[]);
    assert_eq!(lake.catalog.create_table(taken).await.unwrap_err().code(), ErrorCode::InvalidQuery);
}
