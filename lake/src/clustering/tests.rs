//! Rows over files: the new files have the same rows and their bounds are apart.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionConfig;
use iceberg::spec::{Literal, PrimitiveLiteral};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use townlake_common::{ErrorCode, Principal, QueryContext, QueryId};

use super::{Clustering, RowOrder};
use crate::testing::Lake;
use crate::{PartitionField, SortKey, WrittenFile, plan_files, written_files};

const SEED: u64 = 11;
const COLUMNS: [(&str, DataType); 4] =
    [("id", DataType::Int64), ("x", DataType::Float64), ("name", DataType::Utf8), ("p", DataType::Int64)];

/// Rows in no order: `id` counts, `x` is any number, some names are null, `p` is 0, 1 or 2.
fn rows(count: i64, rng: &mut StdRng) -> RecordBatch {
    let mut ids: Vec<i64> = (0..count).collect();
    ids.shuffle(rng);
    let x: Float64Array = ids.iter().map(|_| Some(rng.random_range(-1e9..1e9))).collect();
    let names: StringArray =
        ids.iter().map(|id| (id % 10 != 0).then(|| format!("name {:05}", id * 7919 % count))).collect();
    let p: Int64Array = ids.iter().map(|id| Some(id % 3)).collect();
    let columns: [(&str, ArrayRef); 4] =
        [("id", Arc::new(Int64Array::from(ids))), ("x", Arc::new(x)), ("name", Arc::new(names)), ("p", Arc::new(p))];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

/// A table of 4000 rows in four files whose bounds are all the same.
async fn table(partition: &[PartitionField]) -> Lake {
    let lake = Lake::create(&COLUMNS, partition).await;
    let (context, rows) = (lake.context(), rows(4000, &mut StdRng::seed_from_u64(SEED)));
    for n in 0..4 {
        lake.insert(&context, "t", rows.slice(n * 1000, 1000)).await;
    }
    lake
}

/// The files that the rows of the table are written into in this order by `tasks` tasks, by path.
async fn clustered(lake: &Lake, order: RowOrder, tasks: usize) -> Vec<WrittenFile> {
    let table = lake.load("t").await;
    let context = lake.context_with(SessionConfig::new().with_target_partitions(3));
    let (state, query) = (context.state(), QueryContext::new(QueryId::generate(), Principal::new("ann", vec![])));
    let clustering = Clustering::new(&table, &order).unwrap();
    let files = plan_files(&table, &[]).await.unwrap();
    let plan = clustering.sample_plan(&table, files.clone(), &state, &query).unwrap();
    let samples = collect(plan, context.task_ctx()).await.unwrap();
    let ranges = clustering.ranges(&samples, tasks).unwrap();
    let plan = clustering.rewrite_plan(&table, files, ranges, &state, &query).unwrap();
    let answers = collect(plan, context.task_ctx()).await.unwrap();
    written_files(&answers, &table).unwrap()
}

/// The least and the greatest value of a column in each file, the files in the order of these.
fn bounds(files: &[WrittenFile], id: i32) -> Vec<(PrimitiveLiteral, PrimitiveLiteral)> {
    let of = |file: &WrittenFile| {
        let bound = |datum: Option<&iceberg::spec::Datum>| datum.unwrap().literal().clone();
        (bound(file.data_file.lower_bounds().get(&id)), bound(file.data_file.upper_bounds().get(&id)))
    };
    let mut bounds: Vec<_> = files.iter().map(of).collect();
    bounds.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
    bounds
}

fn are_apart(bounds: &[(PrimitiveLiteral, PrimitiveLiteral)]) -> bool {
    bounds.windows(2).all(|pair| pair[0].1.partial_cmp(&pair[1].0) == Some(std::cmp::Ordering::Less))
}

fn by(column: &str, descending: bool, nulls_first: bool) -> SortKey {
    SortKey { descending, nulls_first, ..SortKey::ascending(column) }
}

#[tokio::test]
async fn files_of_an_order_have_ranges_of_their_own() {
    let lake = table(&[]).await;
    for (key, id) in [(by("id", false, true), 1), (by("x", true, false), 2), (by("name", false, false), 3)] {
        let files = clustered(&lake, RowOrder::Keys(vec![key.clone()]), 4).await;
        assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 4000);
        assert_eq!(files.len(), 4, "{key:?}");
        assert!(are_apart(&bounds(&files, id)), "{key:?}: {:?}", bounds(&files, id));
        assert!(files.iter().all(|file| (700..1300).contains(&file.rows)), "{key:?}");
        assert!(files.iter().all(|file| file.data_file.sort_order_id().is_none()));
    }
}

#[tokio::test]
async fn a_z_order_keeps_both_columns_near() {
    let lake = table(&[]).await;
    let files = clustered(&lake, RowOrder::ZOrder(vec!["id".to_string(), "x".to_string()]), 4).await;
    assert_eq!(files.len(), 4);
    // Four files of a square have a quarter each: half of either column, give or take what the samples are off.
    for file in bounds(&files, 1) {
        let (PrimitiveLiteral::Long(low), PrimitiveLiteral::Long(high)) = file else { panic!("{file:?}") };
        assert!(high - low < 2500, "{low} to {high}");
    }
    for file in bounds(&files, 2) {
        let (PrimitiveLiteral::Double(low), PrimitiveLiteral::Double(high)) = file else { panic!("{file:?}") };
        assert!(high.0 - low.0 < 1.25e9, "{low} to {high}");
    }
}

#[tokio::test]
async fn rows_go_by_their_partition_first() {
    let by_p = PartitionField { column: "p".to_string(), transform: "identity".to_string() };
    let lake = table(&[by_p]).await;
    let files = clustered(&lake, RowOrder::Keys(vec![by("id", false, true)]), 4).await;
    // Three partitions, and three places where the ranges are cut.
    assert!((4..=6).contains(&files.len()), "{}", files.len());
    for p in 0..3 {
        let is_of = |file: &&WrittenFile| file.data_file.partition().fields() == [Some(Literal::long(p))];
        let files: Vec<WrittenFile> = files.iter().filter(is_of).cloned().collect();
        assert!(are_apart(&bounds(&files, 1)), "{:?}", bounds(&files, 1));
    }
}

#[tokio::test]
async fn the_order_of_the_table_is_told_in_its_files() {
    let lake = table(&[]).await;
    let error = Clustering::new(lake.load("t").await.as_ref(), &RowOrder::OfTable).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    let bucket = PartitionField { column: "id".to_string(), transform: "bucket[8]".to_string() };
    let keys = vec![SortKey { by: bucket, ..by("id", false, true) }, by("id", true, true)];
    lake.catalog.alter_table("s", "t", &[crate::TableChange::SetSortOrder(keys)]).await.unwrap();
    let files = clustered(&lake, RowOrder::OfTable, 2).await;
    assert!(files.len() == 2 && files.iter().all(|file| file.data_file.sort_order_id() == Some(1)));

    // What is written from now on is sorted so, too: in each bucket the greatest id first.
    let more = rows(100, &mut StdRng::seed_from_u64(SEED));
    let written = lake.insert(&lake.context(), "t", more).await;
    assert_eq!(written[0].data_file.sort_order_id(), Some(1));
    let rows = read(&lake, written[0].data_file.file_path());
    let buckets: Vec<i32> = rows.iter().map(|id| bucket_of(*id)).collect();
    assert!(buckets.is_sorted() && buckets.first() != buckets.last(), "{buckets:?}");
    let falls = |pair: &[i64]| pair[0] > pair[1] || bucket_of(pair[0]) != bucket_of(pair[1]);
    assert!(rows.windows(2).all(falls), "{rows:?}");
}

/// The ids of a file in the order in which they lie there.
fn read(lake: &Lake, uri: &str) -> Vec<i64> {
    let file = std::fs::File::open(uri.strip_prefix("file://").unwrap()).unwrap();
    assert!(uri.contains(lake.folder.path().to_str().unwrap()));
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(file, 1000).unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    let ids = batches.iter().flat_map(|batch| {
        (0..batch.num_rows()).map(|row| match ScalarValue::try_from_array(batch.column(0), row).unwrap() {
            ScalarValue::Int64(Some(id)) => id,
            other => panic!("{other}"),
        })
    });
    ids.collect()
}

fn bucket_of(id: i64) -> i32 {
    let hash = murmur3::murmur3_32(&mut id.to_le_bytes().as_slice(), 0).unwrap() as i32;
    (hash & i32::MAX) % 8
}

#[test]
fn z_orders_and_orders_are_refused_with_what_is_wrong() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lake = runtime.block_on(Lake::create(&COLUMNS, &[]));
    let table = runtime.block_on(lake.load("t"));
    let refused = |order: RowOrder, code: ErrorCode, text: &str| {
        let error = Clustering::new(&table, &order).unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.message().contains(text), "{error}");
    };
    refused(RowOrder::ZOrder(vec!["id".to_string()]), ErrorCode::InvalidArgument, "2 to 8 columns, not 1");
    let twice = vec!["id".to_string(), "id".to_string()];
    refused(RowOrder::ZOrder(twice), ErrorCode::InvalidQuery, "by id twice");
    refused(RowOrder::Keys(vec![by("nothing", false, true)]), ErrorCode::ColumnNotFound, "nothing");
}
