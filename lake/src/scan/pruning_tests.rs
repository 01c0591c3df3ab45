//! What the reader leaves out within a file: row groups, pages, and rows while it reads (late materialisation).

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::physical_plan::metrics::{MetricValue, MetricsSet};
use datafusion::physical_plan::{ExecutionPlan, collect};
use datafusion::prelude::SessionContext;
use datafusion_datasource::source::DataSourceExec;
use iceberg::spec::{Literal, NestedField, PrimitiveType, Schema, Type, UnboundPartitionSpec};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::fixture::{Lake, planned, register, write};
use crate::plan::bounds;
use crate::{LoadedTable, schema};

const ROWS: i64 = 200_000;

fn field(id: i32, name: &str, of: PrimitiveType) -> NestedField {
    NestedField::optional(id, name, Type::Primitive(of))
}

/// A table of one file with several row groups and many pages; its columns were renamed and added to since. `k` ascends,
/// `v` is its text backwards.
async fn evolved(lake: &Lake, context: &SessionContext) {
    let old = vec![field(1, "id", PrimitiveType::Long).into(), field(2, "text", PrimitiveType::String).into()];
    let new = vec![
        field(3, "id", PrimitiveType::Long).with_initial_default(Literal::long(7)).into(),
        field(2, "v", PrimitiveType::String).into(),
        field(1, "k", PrimitiveType::Long).into(),
    ];
    let [old, new] = [old, new].map(|fields| Schema::builder().with_fields(fields).build().unwrap());
    let properties = [("write.parquet.row-group-size-bytes", "1000000")];
    let table = lake.table(old, UnboundPartitionSpec::builder().build(), &properties);
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ROWS));
    let backwards = |key: i64| key.to_string().chars().rev().collect::<String>();
    let texts: ArrayRef = Arc::new(StringViewArray::from_iter_values((0..ROWS).map(backwards)));
    let rows = RecordBatch::try_from_iter_with_nullable([("id", keys, true), ("text", texts, true)]).unwrap();
    let pieces = (0..ROWS as usize).step_by(10_000).map(|from| rows.slice(from, 10_000)).collect();
    let plan = planned(&write(context, &table, vec![pieces]).await.unwrap());
    assert_eq!(plan.files.len(), 1);
    let file = std::fs::File::open(plan.files[0].path.strip_prefix("file://").unwrap()).unwrap();
    let groups = SerializedFileReader::new(file).unwrap().num_row_groups();
    assert!(groups > 2, "{groups}");
    let table = LoadedTable { arrow_schema: schema::to_arrow(&new).unwrap(), iceberg_schema: Arc::new(new), ..table };
    register(context, &table, plan);
}

/// The answer, and what the scan has counted.
async fn answer(context: &SessionContext, query: &str) -> (String, MetricsSet) {
    let plan = context.sql(query).await.unwrap().create_physical_plan().await.unwrap();
    let rows = collect(Arc::clone(&plan), context.task_ctx()).await.unwrap();
    (pretty_format_batches(&rows).unwrap().to_string(), scan_metrics(&plan).expect("a scan"))
}

fn scan_metrics(plan: &Arc<dyn ExecutionPlan>) -> Option<MetricsSet> {
    // Not one of rows in memory.
    if let Some(metrics) = plan.metrics().filter(|metrics| metrics.sum_by_name("bytes_scanned").is_some()) {
        assert!(plan.is::<DataSourceExec>());
        return Some(metrics);
    }
    plan.children().into_iter().find_map(scan_metrics)
}

/// How many were pruned, and how many not.
fn pruned(metrics: &MetricsSet, name: &str) -> (usize, usize) {
    match metrics.sum_by_name(name) {
        Some(MetricValue::PruningMetrics { pruning_metrics, .. }) => {
            (pruning_metrics.pruned(), pruning_metrics.matched())
        }
        other => panic!("{name}: {other:?}"),
    }
}

fn count(metrics: &MetricsSet, name: &str) -> usize {
    metrics.sum_by_name(name).map_or(0, |value| value.as_usize())
}

#[tokio::test]
async fn row_groups_and_pages_are_pruned_by_field_id() {
    let lake = Lake::new();
    let context = lake.context(1, false);
    evolved(&lake, &context).await;
    let (text, metrics) =
        answer(&context, "select min(v) as v, sum(id) as s from t where k between 150000 and 150009").await;
    assert!(text.contains("| 000051 | 70 |"), "{text}");
    let (groups, kept) = pruned(&metrics, "row_groups_pruned_statistics");
    assert!(groups > 0 && kept == 1, "{groups} {kept}");
    let (rows, kept) = pruned(&metrics, "page_index_rows_pruned");
    assert!(rows > 0 && kept >= 10, "{rows} {kept}");
    assert_eq!(count(&metrics, "pushdown_rows_pruned"), 0);
}

#[tokio::test]
async fn late_materialisation_filters_rows_while_reading() {
    let lake = Lake::new();
    let (late, early) = (lake.context(1, true), lake.context(1, false));
    evolved(&lake, &late).await;
    let query = "select count(k) as n, min(k) as least, max(id) as id from t where v like '%321' and id = 7";
    let (text, metrics) = answer(&late, query).await;
    // 123 and 123 456 and …: keys that begin with 123.
    assert!(text.contains("| 1111 | 123   | 7  |"), "{text}");
    assert_eq!(count(&metrics, "pushdown_rows_pruned"), ROWS as usize - 1111);
    assert_eq!(count(&metrics, "pushdown_rows_matched"), 1111);
    let table = late.table_provider("t").await.unwrap();
    early.register_table("t", table).unwrap();
    let (same, metrics) = answer(&early, query).await;
    assert_eq!((same, count(&metrics, "pushdown_rows_pruned")), (text, 0));
}

/// A table of one file with ten row groups; `k` is scattered, so that bounds of groups tell nothing, and has bloom filters.
async fn scattered(lake: &Lake, context: &SessionContext) {
    let schema = Schema::builder().with_fields(vec![field(1, "k", PrimitiveType::Long).into()]).build().unwrap();
    let table = lake.table(schema, UnboundPartitionSpec::builder().build(), &[]);
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values((0..10_000).map(|n| n * 7919 % 10_007 * 2)));
    let rows = RecordBatch::try_new(Arc::clone(&table.arrow_schema), vec![keys]).unwrap();
    let mut plan = planned(&write(context, &table, vec![vec![rows.clone()]]).await.unwrap());
    let path = lake.folder.path().join("s/t/data/bloom.parquet");
    let properties = WriterProperties::builder().set_bloom_filter_enabled(true).set_max_row_group_row_count(Some(1000));
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties.build())).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    plan.files[0].path = format!("file://{}", path.display());
    plan.files[0].size = std::fs::metadata(&path).unwrap().len();
    register(context, &table, plan);
}

#[tokio::test]
async fn bloom_filters_prune_row_groups() {
    let lake = Lake::new();
    let context = lake.context(1, false);
    scattered(&lake, &context).await;
    let (text, metrics) = answer(&context, "select count(*) as n from t where k = 10000").await;
    assert!(text.contains("| 1 |"), "{text}");
    let (groups, kept) = pruned(&metrics, "row_groups_pruned_bloom_filter");
    assert!(groups >= 8 && kept >= 1, "{groups} {kept}");
    // Odd numbers lie between the bounds of every group and in none.
    let (text, metrics) = answer(&context, "select count(*) as n from t where k = 10001").await;
    assert!(text.contains("| 0 |"), "{text}");
    assert_eq!(pruned(&metrics, "row_groups_pruned_statistics").0, 0);
    assert!(pruned(&metrics, "row_groups_pruned_bloom_filter").0 >= 9);
}

/// A table of ten files; `k` is 0 to 999 in the first one, 1000 to 1999 in the next.
async fn ten_files(lake: &Lake, context: &SessionContext) {
    let fields = vec![field(1, "k", PrimitiveType::Long).into(), field(2, "v", PrimitiveType::Long).into()];
    let schema = Schema::builder().with_fields(fields).build().unwrap();
    let table = lake.table(schema, UnboundPartitionSpec::builder().build(), &[]);
    let partition = |n: i64| {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(n * 1000..(n + 1) * 1000));
        vec![RecordBatch::try_new(Arc::clone(&table.arrow_schema), vec![Arc::clone(&keys), keys]).unwrap()]
    };
    let files = write(context, &table, (0..10).map(partition).collect()).await.unwrap();
    let mut plan = planned(&files);
    for (planned, written) in plan.files.iter_mut().zip(&files) {
        planned.set_column(1, bounds::of_column(&written.data_file, 1, &PrimitiveType::Long));
    }
    plan.files.sort_by_key(|file| file.column(1).lower.unwrap().to_string().parse::<i64>().unwrap());
    register(context, &table, plan);
}

#[tokio::test]
async fn dynamic_filters_of_joins_and_of_the_first_rows_reach_the_file_list() {
    let lake = Lake::new();
    let context = lake.context(1, false);
    ten_files(&lake, &context).await;
    let join = "select sum(t.v) as s from t join (values (4007), (4009)) as x(k) on t.k = x.k";
    let (text, metrics) = answer(&context, join).await;
    assert!(text.contains("| 8016 |"), "{text}");
    assert_eq!(pruned(&metrics, "files_ranges_pruned_statistics"), (9, 1));
    let (text, metrics) = answer(&context, "select k, v from t order by k limit 2").await;
    assert!(text.contains("| 0 | 0 |") && text.contains("| 1 | 1 |"), "{text}");
    let (files, kept) = pruned(&metrics, "files_ranges_pruned_statistics");
    assert!(files >= 8 && kept >= 1, "{files} {kept}");
}
