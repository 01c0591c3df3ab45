//! Pruning over real manifests, written by the commit path into a catalog in a temporary folder.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit};
use iceberg::spec::{Datum, Literal, Struct};

use crate::testing::{Lake, file};
use crate::{PartitionField, plan_files};

fn partition(column: &str, transform: &str) -> PartitionField {
    PartitionField { column: column.to_string(), transform: transform.to_string() }
}

/// The names of the files that a query with this filter reads.
async fn read(lake: &Lake, filter: Expr) -> Vec<String> {
    let table = lake.load("t").await;
    let plan = plan_files(&table, &[filter]).await.unwrap();
    assert_eq!(plan.total_files, 3, "{plan:?}");
    plan.files.iter().map(|f| f.path.rsplit('/').next().unwrap().trim_end_matches(".parquet").to_string()).collect()
}

#[tokio::test]
async fn bounds_prune_files() {
    let lake = Lake::create(&[("id", DataType::Int64), ("x", DataType::Float64)], &[]).await;
    let range = |name: &str, low: i64, high: i64| {
        file(&lake.location("t"), name, Struct::empty(), |f| {
            f.lower_bounds([(1, Datum::long(low)), (2, Datum::double(0.0))].into());
            f.upper_bounds([(1, Datum::long(high)), (2, Datum::double(1.0))].into());
            f.null_value_counts([(1, 0)].into());
            // Of "a" it is known that there is no NaN, of the others not.
            f.nan_value_counts(if name == "a" { [(2, 0)].into() } else { [].into() });
        })
    };
    lake.append("t", vec![range("a", 0, 9), range("b", 10, 19), range("c", 20, 29)]).await;
    assert_eq!(read(&lake, col("id").eq(lit(15_i64))).await, ["b"]);
    assert_eq!(read(&lake, col("id").lt(lit(10_i64))).await, ["a"]);
    assert_eq!(read(&lake, col("t.id").gt_eq(lit(19_i64))).await, ["b", "c"]);
    assert_eq!(read(&lake, col("id").is_null()).await, [""; 0]);
    assert_eq!(read(&lake, col("x").gt(lit(5.0))).await, ["b", "c"], "NaN is greater than 5");
    assert_eq!(read(&lake, col("x").eq(lit(-0.0))).await, ["a", "b", "c"]);
    let table = lake.load("t").await;
    let plan = plan_files(&table, &[]).await.unwrap();
    assert_eq!(plan.files[0].column(1).null_count, Some(0));
    assert!(!plan.files[0].column(1).exact);
}

#[tokio::test]
async fn identity_day_and_bucket_partitions_prune_manifests_and_files() {
    let columns = [("region", DataType::Utf8), ("at", timestamp()), ("id", DataType::Int64)];
    let fields = [partition("region", "identity"), partition("at", "day"), partition("id", "bucket[16]")];
    let lake = Lake::create(&columns, &fields).await;
    let bucket_of_7 = bucket(7);
    let put = |name: &str, region: &str, day: i32, bucket: i32| {
        let values = [Literal::string(region), Literal::date(day), Literal::int(bucket)];
        file(&lake.location("t"), name, Struct::from_iter(values.map(Some)), |_| {})
    };
    // One manifest each.
    lake.append("t", vec![put("a", "eu", 19_000, bucket_of_7)]).await;
    lake.append("t", vec![put("b", "us", 19_001, (bucket_of_7 + 1) % 16)]).await;
    lake.append("t", vec![put("c", "us", 19_002, bucket_of_7)]).await;

    let text = |v: &str| lit(ScalarValue::Utf8View(Some(v.to_string())));
    let micros = |day: i64| lit(ScalarValue::TimestampMicrosecond(Some(day * 86_400_000_000), None));
    assert_eq!(read(&lake, col("region").eq(text("us"))).await, ["b", "c"]);
    assert_eq!(read(&lake, col("region").not_eq(text("us"))).await, ["a"]);
    assert_eq!(read(&lake, col("at").gt_eq(micros(19_001))).await, ["b", "c"]);
    assert_eq!(read(&lake, col("at").lt(micros(19_001))).await, ["a"]);
    assert_eq!(read(&lake, col("id").eq(lit(7_i64))).await, ["a", "c"]);
    assert_eq!(read(&lake, col("id").in_list(vec![lit(7_i64), lit(7_i64)], false)).await, ["a", "c"]);
    assert_eq!(read(&lake, col("id").not_eq(lit(7_i64))).await, ["a", "b", "c"]);
    assert_eq!(read(&lake, col("id").is_null()).await, [""; 0]);

    let table = lake.load("t").await;
    let plan = plan_files(&table, &[col("region").eq(text("us")), col("id").eq(lit(7_i64))]).await.unwrap();
    assert_eq!((plan.files.len(), plan.pruned_manifests, plan.pruned_files), (1, 2, 0));
    let region = &plan.files[0].column(1);
    assert!(region.exact && region.lower == Some(ScalarValue::Utf8View(Some("us".to_string()))));
}

#[tokio::test]
async fn files_within_one_manifest_are_pruned_by_their_bucket() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[partition("id", "bucket[4]")]).await;
    let put = |name: &str, bucket: Option<i32>| {
        file(&lake.location("t"), name, Struct::from_iter([bucket.map(Literal::int)]), |_| {})
    };
    lake.append("t", vec![put("a", Some(0)), put("b", Some(3)), put("n", None)]).await;
    let wanted = (0..).find(|id| bucket_in(*id, 4) == 3).unwrap();
    assert_eq!(read(&lake, col("id").eq(lit(wanted))).await, ["b"]);
    assert_eq!(read(&lake, col("id").is_null()).await, ["n"]);
}

#[tokio::test]
async fn partition_values_of_floats_are_constants_and_no_exact_bounds() {
    let columns = [("f", DataType::Float32), ("d", DataType::Float64)];
    let lake = Lake::create(&columns, &[partition("f", "identity"), partition("d", "identity")]).await;
    let put = |name: &str, f: Option<f32>, d: Option<f64>| {
        let values = [f.map(Literal::float), d.map(Literal::double)];
        file(&lake.location("t"), name, Struct::from_iter(values), |_| {})
    };
    let files = [put("a", Some(f32::NAN), Some(10.1)), put("b", Some(-0.0), Some(f64::INFINITY)), put("c", None, None)];
    lake.append("t", files.to_vec()).await;
    let files = plan_files(lake.load("t").await.as_ref(), &[]).await.unwrap().files;
    let double = |v| ScalarValue::Float64(Some(v));
    let [a, b, c] = &files[..] else { panic!("{files:?}") };
    assert!(matches!(a.constants[&1], ScalarValue::Float32(Some(v)) if v.is_nan()));
    assert_eq!((&a.constants[&2], &b.constants[&2]), (&double(10.1), &double(f64::INFINITY)));
    assert!(matches!(b.constants[&1], ScalarValue::Float32(Some(v)) if v == 0.0 && v.is_sign_negative()));
    assert!(c.constants.is_empty() && c.column(1).null_count == Some(c.record_count));
    assert_eq!((a.column(1).null_count, &a.column(1).lower), (Some(0), &None));
    assert!(!a.column(2).exact && a.column(2).lower == Some(double(10.1)));
    assert_eq!(read(&lake, col("d").gt(lit(11.0))).await, ["b"]);
    assert_eq!(read(&lake, col("f").is_null()).await, ["c"]);
}

fn timestamp() -> DataType {
    DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, None)
}

fn bucket(id: i64) -> i32 {
    bucket_in(id, 16)
}

/// By the book: murmur3 (x86, 32 bits, seed 0) of the eight bytes, sign bit off, modulo.
fn bucket_in(id: i64, count: i32) -> i32 {
    let hash = murmur3::murmur3_32(&mut &id.to_le_bytes()[..], 0).unwrap();
    (hash & 0x7fff_ffff) as i32 % count
}
