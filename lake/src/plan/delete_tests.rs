//! Which delete files a data file gets, over real manifests.

use arrow::datatypes::{DataType, Field};
use datafusion::logical_expr::{col, lit};
use iceberg::metadata_columns::RESERVED_FIELD_ID_DELETE_FILE_PATH as FILE_PATH;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Literal, ManifestContentType, Struct,
};
use townlake_common::ErrorCode;

use crate::testing::{Lake, file};
use crate::{DropPartitionField, PartitionField, TableChange, plan_files};

const POSITIONS: DataContentType = DataContentType::PositionDeletes;
const EQUALITY: DataContentType = DataContentType::EqualityDeletes;

/// A delete file that is not there.
fn delete(
    lake: &Lake,
    name: &str,
    partition: Struct,
    content: DataContentType,
    more: impl FnOnce(&mut DataFileBuilder),
) -> DataFile {
    let delete = file(&lake.location("t"), name, partition, |f| {
        f.content(content);
        if content == EQUALITY {
            f.equality_ids(Some(vec![1]));
        }
        more(f);
    });
    delete.data_file
}

/// The data files by name, each with the names of its delete files; and how many delete files the plan has.
async fn assigned(lake: &Lake) -> (Vec<(String, Vec<String>)>, usize) {
    let plan = plan_files(lake.load("t").await.as_ref(), &[]).await.unwrap();
    let name = |path: &str| path.rsplit('/').next().unwrap().trim_end_matches(".parquet").to_string();
    let deletes = |numbers: &[usize]| {
        let mut names: Vec<_> = numbers.iter().map(|n| name(&plan.deletes[*n].path)).collect();
        names.sort();
        names
    };
    (plan.files.iter().map(|file| (name(&file.path), deletes(&file.deletes))).collect(), plan.deletes.len())
}

fn of(name: &str, deletes: &[&str]) -> (String, Vec<String>) {
    (name.to_string(), deletes.iter().map(ToString::to_string).collect())
}

#[tokio::test]
async fn what_cannot_be_deleted_right_is_refused_by_name() {
    type Change = fn(&mut DataFileBuilder);
    let cases: [(&str, DataContentType, Change); 6] = [
        ("deletion vectors without a data file or place", POSITIONS, |f| {
            f.file_format(DataFileFormat::Puffin);
        }),
        ("delete files in Avro", POSITIONS, |f| {
            f.file_format(DataFileFormat::Avro);
        }),
        ("equality deletes on the nested column pair.x", EQUALITY, |f| {
            f.equality_ids(Some(vec![1, 3]));
        }),
        ("equality deletes on the nested column pair", EQUALITY, |f| {
            f.equality_ids(Some(vec![2]));
        }),
        ("an unknown column (field id 99)", EQUALITY, |f| {
            f.equality_ids(Some(vec![99]));
        }),
        ("equality deletes without columns", EQUALITY, |f| {
            f.equality_ids(None);
        }),
    ];
    let pair = DataType::Struct(vec![Field::new("x", DataType::Int32, true)].into());
    for (name, content, more) in cases {
        let lake = Lake::create(&[("id", DataType::Int64), ("pair", pair.clone())], &[]).await;
        lake.append("t", vec![file(&lake.location("t"), "a", Struct::empty(), |_| {})]).await;
        lake.commit_deletes("t", 0, vec![delete(&lake, "d", Struct::empty(), content, more)]).await;
        let table = lake.load("t").await;
        let error = plan_files(&table, &[col("id").eq(lit(1_i64))]).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::FormatNotSupported);
        assert!(error.message().contains("lake.s.t") && error.message().contains(name), "{name}: {error}");
    }
}

#[tokio::test]
async fn deletes_in_a_manifest_of_data_are_an_error() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    lake.append("t", vec![file(&lake.location("t"), "a", Struct::empty(), |_| {})]).await;
    let deletes = vec![delete(&lake, "d", Struct::empty(), POSITIONS, |_| {})];
    lake.commit_deletes_as(ManifestContentType::Data, "t", 0, deletes).await;
    let error = plan_files(lake.load("t").await.as_ref(), &[]).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DataCorrupt);
    assert!(error.message().contains("should have data files only"), "{error}");
}

#[tokio::test]
async fn bounds_leave_out_deletes_that_cannot_apply() {
    let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
    let ids = |f: &mut DataFileBuilder, low: i64, high: i64, nulls: u64| {
        f.lower_bounds([(1, Datum::long(low))].into()).upper_bounds([(1, Datum::long(high))].into());
        f.null_value_counts([(1, nulls)].into());
    };
    let location = lake.location("t");
    let data = |name: &str, low, high, nulls| file(&location, name, Struct::empty(), |f| ids(f, low, high, nulls));
    lake.append("t", vec![data("a", 0, 9, 0), data("b", 10, 19, 0), data("n", 10, 19, 1)]).await;
    let path = |name: &str| format!("{location}/data/{name}.parquet");
    let positions =
        |name: &str, more: &dyn Fn(&mut DataFileBuilder)| delete(&lake, name, Struct::empty(), POSITIONS, |f| more(f));
    let between = |name: &str, low: &str, high: &str| {
        delete(&lake, name, Struct::empty(), POSITIONS, |f| {
            f.lower_bounds([(FILE_PATH, Datum::string(path(low)))].into());
            f.upper_bounds([(FILE_PATH, Datum::string(path(high)))].into());
        })
    };
    let keys =
        |name: &str, low, high, nulls| delete(&lake, name, Struct::empty(), EQUALITY, |f| ids(f, low, high, nulls));
    let deletes = vec![
        positions("named", &|f| {
            f.referenced_data_file(Some(path("b")));
        }),
        between("one", "a", "a"),
        between("two", "a", "b"),
        between("none", "x", "z"),
        positions("all", &|_| {}),
        keys("low", 0, 5, 0),
        keys("far", 100, 200, 0),
        keys("null", 100, 200, 1),
    ];
    lake.commit_deletes("t", 0, deletes).await;
    // Newer than every delete.
    lake.append("t", vec![data("newer", 0, 9, 0)]).await;
    let expected = vec![
        of("a", &["all", "low", "one", "two"]),
        of("b", &["all", "named", "two"]),
        of("n", &["all", "null"]),
        of("newer", &[]),
    ];
    assert_eq!(assigned(&lake).await, (expected, 6));
}

#[tokio::test]
async fn deletes_apply_by_sequence_and_partition() {
    let by_p = || PartitionField { column: "p".to_string(), transform: "identity".to_string() };
    let lake = Lake::create(&[("id", DataType::Int64), ("p", DataType::Int32)], &[by_p()]).await;
    let location = lake.location("t");
    let at = |p: i32| Struct::from_iter([Some(Literal::int(p))]);
    let data = |name: &str, p: i32| file(&location, name, at(p), |_| {});
    lake.append("t", vec![data("a1", 1), data("a2", 2)]).await;
    let delete = |name: &str, partition, content| delete(&lake, name, partition, content, |_| {});
    lake.commit_deletes("t", 0, vec![delete("e1", at(1), EQUALITY), delete("p2", at(2), POSITIONS)]).await;
    lake.append("t", vec![data("b1", 1), data("b2", 2)]).await;
    // From now on the table is not partitioned, and the column is wider.
    let drop = TableChange::DropPartitionField(DropPartitionField::Made(by_p()));
    lake.catalog.alter_table("s", "t", &[drop]).await.unwrap();
    let widen = TableChange::SetType { path: vec!["p".to_string()], to: DataType::Int64 };
    lake.catalog.alter_table("s", "t", &[widen]).await.unwrap();
    let now = lake.load("t").await.metadata.default_partition_spec_id();
    assert_ne!(now, 0);
    let everywhere = delete("everywhere", Struct::empty(), EQUALITY);
    lake.commit_deletes("t", now, vec![everywhere, delete("nowhere", Struct::empty(), POSITIONS)]).await;
    let wide = delete("wide", Struct::from_iter([Some(Literal::long(2))]), EQUALITY);
    lake.commit_deletes("t", 0, vec![wide]).await;
    let expected = vec![
        of("a1", &["e1", "everywhere"]),
        of("a2", &["everywhere", "p2", "wide"]),
        of("b1", &["everywhere"]),
        of("b2", &["everywhere", "wide"]),
    ];
    assert_eq!(assigned(&lake).await, (expected, 4));
    // Of a partition that no row can be in, deletes are not opened either.
    let plan = plan_files(lake.load("t").await.as_ref(), &[col("p").eq(lit(1_i64))]).await.unwrap();
    assert_eq!((plan.files.len(), plan.deletes.len()), (2, 2));
}
