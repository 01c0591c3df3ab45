//! What is answered from metadata alone: the data files of these tables are not there, so that no other answer can come.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::{col, lit};
use iceberg::spec::{DataContentType, Datum, Literal, Struct};

use super::partition_filters::PartitionColumns;
use crate::testing::{Lake, file};
use crate::{ColumnBounds, DropPartitionField, PartitionField, TableChange, WrittenFile, plan_files};

fn partition(column: &str, transform: &str) -> PartitionField {
    PartitionField { column: column.to_string(), transform: transform.to_string() }
}

/// The one row of an answer, which no file was read for.
async fn answer(lake: &Lake, sql: &str) -> Vec<String> {
    assert!(!reads(lake, sql).await, "{sql} reads files");
    let rows = lake.rows(&lake.context(), "t", sql).await;
    assert_eq!(rows.len(), 1, "{sql}");
    rows.into_iter().next().unwrap()
}

/// Whether EXPLAIN shows a scan.
async fn reads(lake: &Lake, sql: &str) -> bool {
    let plan = lake.rows(&lake.context(), "t", &format!("explain {sql}")).await;
    plan.iter().any(|row| row[1].contains("DataSourceExec"))
}

/// Ten rows each: `id` 0 to 9, 10 to 19, …, of which one is null.
async fn numbered() -> Lake {
    let at = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = [
        ("id", DataType::Int64),
        ("name", DataType::Utf8),
        ("x", DataType::Float64),
        ("at", at),
        ("d", DataType::Decimal128(9, 2)),
    ];
    let lake = Lake::create(&columns, &[]).await;
    let put = |n: i64| {
        file(&lake.location("t"), &n.to_string(), Struct::empty(), |f| {
            let decimal = |v: i64| Datum::decimal_from_str(format!("{v}.25")).unwrap();
            let bounds = |v: i64| {
                let of = [
                    (1, Datum::long(v)),
                    (2, Datum::string(format!("n{v}"))),
                    (3, Datum::double(v as f64)),
                    (4, Datum::timestamp_micros(v)),
                    (5, decimal(v)),
                ];
                of.into()
            };
            f.lower_bounds(bounds(n * 10)).upper_bounds(bounds(n * 10 + 9));
            f.null_value_counts([(1, 1), (2, 0), (3, 0), (4, 0), (5, 0)].into()).nan_value_counts([(3, 0)].into());
        })
    };
    lake.append("t", vec![put(0), put(1)]).await;
    lake.append("t", vec![put(2)]).await;
    lake
}

#[tokio::test]
async fn counts_and_extremes_are_answered_without_reading() {
    let lake = numbered().await;
    assert_eq!(answer(&lake, "select count(*), count(id), count(name) from t").await, ["30", "27", "30"]);
    let extremes = "select min(id), max(id), max(at), min(d), count(*) from t";
    assert_eq!(answer(&lake, extremes).await, ["0", "29", "1970-01-01T00:00:00.000029", "0.25", "30"]);
    for sql in [
        "select max(name) from t",
        "select min(x) from t",
        "select count(*) from t where id > 5",
        "select min(id) from t where id > 5",
        "select count(distinct id) from t",
        "select sum(id) from t",
        "select count(*) from t group by name",
    ] {
        assert!(reads(&lake, sql).await, "{sql}");
    }
}

#[tokio::test]
async fn a_property_of_the_table_turns_extremes_off() {
    let lake = numbered().await;
    let off = TableChange::SetProperties(vec![("townlake.min-max-from-metadata".to_string(), "false".to_string())]);
    lake.catalog.alter_table("s", "t", &[off]).await.unwrap().unwrap();
    assert!(reads(&lake, "select min(id) from t").await);
    assert_eq!(answer(&lake, "select count(*) from t").await, ["30"]);
}

#[tokio::test]
async fn a_file_without_bounds_hides_extremes_unless_it_has_only_nulls() {
    let lake = numbered().await;
    let put = |name: &str, nulls: u64| {
        file(&lake.location("t"), name, Struct::empty(), |f| {
            f.null_value_counts([(1, nulls)].into());
        })
    };
    lake.append("t", vec![put("nulls", 10)]).await;
    assert_eq!(answer(&lake, "select max(id), count(id) from t").await, ["29", "27"]);
    lake.append("t", vec![put("unknown", 0)]).await;
    assert!(reads(&lake, "select max(id) from t").await);
    assert_eq!(answer(&lake, "select count(*), count(id) from t").await, ["50", "37"]);
}

#[tokio::test]
async fn deletes_forbid_it() {
    let lake = numbered().await;
    lake.append_deletes("t", DataContentType::PositionDeletes, |_| {}).await;
    for sql in ["select count(*) from t", "select min(id) from t"] {
        assert!(reads(&lake, sql).await, "{sql}");
    }
}

async fn put(lake: &Lake, name: &str, values: &[Option<Literal>]) -> WrittenFile {
    let spec = lake.load("t").await.metadata.default_partition_spec_id();
    let mut file = file(&lake.location("t"), name, Struct::from_iter(values.iter().cloned()), |f| {
        f.partition_spec_id(spec);
    });
    file.spec_id = spec;
    file
}

#[tokio::test]
async fn partitions_decide_filters_for_all_of_their_rows() {
    let columns = [("region", DataType::Utf8), ("p", DataType::Int32), ("id", DataType::Int64)];
    let lake = Lake::create(&columns, &[partition("region", "identity"), partition("p", "identity")]).await;
    let text = |v: &str| Some(Literal::string(v));
    let files = [
        ("a", text("eu"), Some(Literal::int(1))),
        ("b", text("eu"), None),
        ("c", text("us"), Some(Literal::int(2))),
        ("d", None, Some(Literal::int(3))),
    ];
    for (name, region, p) in files {
        lake.append("t", vec![put(&lake, name, &[region, p]).await]).await;
    }
    // Another spec, in which the columns are partitions of their own still.
    let bucket = TableChange::AddPartitionField { field: partition("id", "bucket[4]"), name: None };
    lake.catalog.alter_table("s", "t", &[bucket]).await.unwrap().unwrap();
    lake.append("t", vec![put(&lake, "e", &[text("uk"), Some(Literal::int(1)), Some(Literal::int(3))]).await]).await;
    for (filter, rows) in [
        ("region = 'eu'", 20),
        ("region <> 'eu'", 20),
        ("region like 'u%'", 20),
        ("upper(region) = 'UK'", 10),
        ("region is null", 10),
        ("region is not null and p is null", 10),
        ("region in ('uk', 'us') or p = 3", 30),
        ("p between 1 and 2", 30),
        ("p + 1 > 3", 10),
        ("region || p = 'uk1'", 10),
        ("not (p = 1)", 20),
        ("p = 77", 0),
    ] {
        assert_eq!(
            answer(&lake, &format!("select count(*) from t where {filter}")).await,
            [rows.to_string()],
            "{filter}"
        );
    }
    assert_eq!(answer(&lake, "select min(p), max(p), count(p) from t where region <> 'eu'").await, ["1", "2", "20"]);
    assert!(reads(&lake, "select count(*) from t where region = 'eu' and id = 7").await);
    assert!(reads(&lake, "select count(*) from t where random() < 0.5 and region = 'eu'").await);
    // What fails for a value that there is fails so here, too.
    let failed = lake.try_rows(&lake.context(), "t", "select count(*) from t where 1 / (p - 1) > 0").await;
    assert!(failed.unwrap_err().to_string().to_lowercase().contains("divide by zero"));

    let drop = TableChange::DropPartitionField(DropPartitionField::Made(partition("region", "identity")));
    lake.catalog.alter_table("s", "t", &[drop]).await.unwrap().unwrap();
    assert!(reads(&lake, "select count(*) from t where region = 'eu'").await, "a spec without it");
    assert_eq!(answer(&lake, "select count(*) from t where p = 1").await, ["20"]);
}

#[tokio::test]
async fn a_partition_that_does_not_say_its_value_is_an_error_that_names_the_file() {
    let lake = Lake::create(&[("p", DataType::Int32)], &[partition("p", "identity")]).await;
    lake.append("t", vec![put(&lake, "a", &[Some(Literal::int(1))]).await]).await;
    let table = lake.load("t").await;
    let filters = [col("p").eq(lit(1_i32))];
    let mut plan = plan_files(&table, &filters).await.unwrap();
    plan.files[0].set_column(1, ColumnBounds::default());
    let error = PartitionColumns::of(&table).apply(&filters, &table, &mut plan).unwrap_err();
    assert!(error.to_string().contains("data/a.parquet does not say the value of p"), "{error}");
}
