//! Changes of real tables, and what is read of files that are older than the change.

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float32Array, Int32Array, RecordBatch, StringArray, StructArray};
use arrow::datatypes::{DataType, Field, Fields};
use townlake_common::{ErrorCode, Result};

use super::*;
use crate::TableVersion;
use crate::testing::{Lake, create_table};

fn path(name: &str) -> Vec<String> {
    name.split('.').map(str::to_string).collect()
}

fn add(name: &str, of: DataType, position: Option<Position>) -> TableChange {
    let column = Arc::new(Field::new("unnamed", of, true));
    TableChange::AddColumn { path: path(name), column, position, if_not_exists: false }
}

fn rename(from: &str, to: &str) -> TableChange {
    TableChange::RenameColumn { path: path(from), to: to.to_string() }
}

fn drop_column(name: &str) -> TableChange {
    TableChange::DropColumn { path: path(name), if_exists: false }
}

fn field(column: &str, transform: &str) -> PartitionField {
    PartitionField { column: column.to_string(), transform: transform.to_string() }
}

fn create(name: &str, kind: ReferenceKind, snapshot: Option<i64>) -> CreateReference {
    CreateReference {
        name: name.to_string(),
        kind,
        snapshot,
        if_taken: IfTaken::Refuse,
        max_age_ms: None,
        min_snapshots: None,
        max_snapshot_age_ms: None,
    }
}

async fn alter(lake: &Lake, changes: &[TableChange]) -> Result<bool> {
    lake.catalog.alter_table("s", "t", changes).await.map(|done| done.unwrap())
}

async fn refused(lake: &Lake, change: TableChange) -> Error {
    let before = lake.load("t").await.metadata_location.clone();
    let error = alter(lake, &[change]).await.unwrap_err();
    assert_eq!(lake.load("t").await.metadata_location, before, "nothing was committed");
    error
}

fn pair() -> Fields {
    Fields::from(vec![Field::new("x", DataType::Int32, true), Field::new("y", DataType::Utf8, true)])
}

/// `s.t (a int, f float, d decimal(5, 2), name varchar, pair struct(x int, y varchar))` with one row.
async fn lake() -> (Lake, datafusion::prelude::SessionContext) {
    let columns = [
        ("a", DataType::Int32),
        ("f", DataType::Float32),
        ("d", DataType::Decimal128(5, 2)),
        ("name", DataType::Utf8),
        ("pair", DataType::Struct(pair())),
    ];
    let lake = Lake::create(&columns, &[]).await;
    let context = lake.context();
    let x: ArrayRef = Arc::new(Int32Array::from(vec![7]));
    let y: ArrayRef = Arc::new(StringArray::from(vec!["why"]));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("a", Arc::new(Int32Array::from(vec![1]))),
        ("f", Arc::new(Float32Array::from(vec![0.5]))),
        ("d", Arc::new(Decimal128Array::from(vec![12_345]).with_precision_and_scale(5, 2).unwrap())),
        ("name", Arc::new(StringArray::from(vec!["old"]))),
        ("pair", Arc::new(StructArray::new(pair(), vec![x, y], None))),
    ];
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    lake.insert(&context, "t", rows).await;
    (lake, context)
}

#[tokio::test]
async fn old_files_are_read_in_the_columns_of_today() {
    let (lake, context) = lake().await;
    let changes = [
        add("first", DataType::Int64, Some(Position::First)),
        add("pair.z", DataType::Float64, Some(Position::After("x".to_string()))),
        rename("name", "label"),
        rename("pair.x", "w"),
        TableChange::SetType { path: path("a"), to: DataType::Int64 },
        TableChange::SetType { path: path("f"), to: DataType::Float64 },
        TableChange::SetType { path: path("d"), to: DataType::Decimal128(12, 2) },
        TableChange::SetType { path: path("pair.w"), to: DataType::Int64 },
        TableChange::MoveColumn { path: path("pair"), position: Position::After("first".to_string()) },
    ];
    assert!(alter(&lake, &changes).await.unwrap());
    let table = lake.load("t").await;
    let names: Vec<_> = table.arrow_schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["first", "pair", "a", "f", "d", "label"]);
    let ids: Vec<_> = table.iceberg_schema.as_struct().fields().iter().map(|field| field.id).collect();
    assert_eq!(ids, [8, 5, 1, 2, 3, 4], "ids stay, new ones are above all that were");
    let rows = lake.rows(&context, "t", "SELECT first, pair, a, f, d, label, arrow_typeof(a) FROM t").await;
    assert_eq!(rows, [["", "{w: 7, z: , y: why}", "1", "0.5", "123.45", "old", "Int64"]]);
    // the same name again is another column
    alter(&lake, &[drop_column("label"), add("label", DataType::Utf8, None)]).await.unwrap();
    assert_eq!(lake.rows(&context, "t", "SELECT label FROM t WHERE label IS NULL").await, [[""]]);
}

#[tokio::test]
async fn what_would_break_old_rows_or_other_engines_is_refused() {
    let (lake, _) = lake().await;
    let text = TableChange::SetType { path: path("a"), to: DataType::Utf8 };
    let error = refused(&lake, text).await;
    assert_eq!(error.code(), ErrorCode::NotSupported);
    assert!(error.message().contains("int") && error.message().contains("string"), "{error}");
    for (name, to) in [("d", DataType::Decimal128(12, 3)), ("d", DataType::Decimal128(4, 2)), ("f", DataType::Float16)]
    {
        let narrower = TableChange::SetType { path: path(name), to };
        // a half float is kept as a float
        let expected = if name == "f" { None } else { Some(ErrorCode::NotSupported) };
        assert_eq!(alter(&lake, &[narrower]).await.err().map(|error| error.code()), expected);
    }
    for (change, code) in [
        (add("NAME", DataType::Utf8, None), ErrorCode::AlreadyExists),
        (add("pair.X", DataType::Utf8, None), ErrorCode::AlreadyExists),
        (rename("a", "F"), ErrorCode::AlreadyExists),
        (rename("nam", "label"), ErrorCode::ColumnNotFound),
        (add("other.x", DataType::Utf8, None), ErrorCode::ColumnNotFound),
        (add("b", DataType::Utf8, Some(Position::After("none".to_string()))), ErrorCode::ColumnNotFound),
        (TableChange::DropNotNull { path: path("pair.none") }, ErrorCode::ColumnNotFound),
    ] {
        assert_eq!(refused(&lake, change.clone()).await.code(), code, "{change:?}");
    }
    let error = refused(&lake, rename("nam", "label")).await;
    assert!(error.hint().unwrap().contains("name"), "{error}");
    assert!(alter(&lake, &[rename("a", "A")]).await.unwrap(), "the case of a column's own name may change");
    let quiet = TableChange::DropColumn { path: path("none"), if_exists: true };
    assert!(!alter(&lake, &[quiet]).await.unwrap());
    let all = ["A", "f", "d", "name", "pair"].map(drop_column);
    assert_eq!(alter(&lake, &all).await.unwrap_err().code(), ErrorCode::InvalidQuery, "one column stays");
    assert!(lake.catalog.alter_table("s", "none", &[]).await.unwrap().is_none());
}

#[tokio::test]
async fn lists_and_maps_keep_their_shape() {
    let lake = Lake::empty().await;
    let element = Arc::new(Field::new_list_field(DataType::Struct(pair()), true));
    lake.catalog.create_table(create_table("t", &[("l", DataType::List(element))], &[])).await.unwrap();
    alter(&lake, &[add("l.element.z", DataType::Int32, None)]).await.unwrap();
    let table = lake.load("t").await;
    assert_eq!(table.iceberg_schema.field_by_name("l.element.z").map(|field| field.id), Some(5));
    for change in [rename("l.element", "item"), drop_column("l.element"), add("l.other", DataType::Int32, None)] {
        let code = refused(&lake, change.clone()).await.code();
        assert!(matches!(code, ErrorCode::NotSupported | ErrorCode::InvalidQuery), "{change:?}: {code}");
    }
}

#[tokio::test]
async fn a_table_that_is_too_deep_is_not_made() {
    let lake = Lake::create(&[("a", DataType::Int32)], &[]).await;
    let level = |of: DataType| DataType::Struct(Fields::from(vec![Field::new("x", of, true)]));
    let ten = (0..10).fold(DataType::Int32, |of, _| level(of));
    for (path, taken) in
        [("c", true), (&*format!("c{}.y", ".x".repeat(9)), true), (&*format!("c{}.z", ".x".repeat(9)), true)]
    {
        assert_eq!(alter(&lake, &[add(path, ten.clone(), None)]).await.is_ok(), taken, "{path}");
    }
    let deep = format!("c{}.y{}.w", ".x".repeat(9), ".x".repeat(9));
    assert!(alter(&lake, &[add(&deep, ten.clone(), None)]).await.is_ok());
    let deeper = format!("{deep}{}.v", ".x".repeat(9));
    assert_eq!(refused(&lake, add(&deeper, ten, None)).await.code(), ErrorCode::NotSupported);
    assert!(lake.again().await.load("s", "t", None).await.unwrap().is_some(), "what was made can be read");
}

#[tokio::test]
async fn what_partitions_a_table_stays_until_it_does_not() {
    let lake = Lake::create(&[("id", DataType::Int64), ("r", DataType::Utf8)], &[field("r", "identity")]).await;
    let error = refused(&lake, drop_column("r")).await;
    assert_eq!(error.code(), ErrorCode::InvalidQuery);
    assert!(error.message().contains("partitions") && error.hint().unwrap().contains("PARTITION FIELD r"), "{error}");
    let bucket = || TableChange::AddPartitionField { field: field("id", "bucket[4]"), name: None };
    alter(&lake, &[bucket()]).await.unwrap();
    assert_eq!(refused(&lake, bucket()).await.code(), ErrorCode::AlreadyExists);
    let named = |name: &str| TableChange::DropPartitionField(DropPartitionField::Named(name.to_string()));
    assert_eq!(refused(&lake, named("none")).await.code(), ErrorCode::ColumnNotFound);
    alter(&lake, &[named("r")]).await.unwrap();
    alter(&lake, &[drop_column("r")]).await.unwrap();
    let table = lake.load("t").await;
    let spec = table.metadata.default_partition_spec();
    let fields: Vec<_> = spec.fields().iter().map(|field| (field.name.as_str(), field.field_id)).collect();
    assert_eq!(fields, [("id_bucket", 1001)]);
    assert_eq!(table.metadata.partition_specs_iter().len(), 3, "old files keep their spec");
    let made = DropPartitionField::Made(field("id", "bucket[4]"));
    alter(&lake, &[TableChange::DropPartitionField(made)]).await.unwrap();
    assert!(lake.load("t").await.metadata.default_partition_spec().is_unpartitioned());
}

#[tokio::test]
async fn files_of_several_partitionings_are_read_together() {
    let lake = Lake::create(&[("id", DataType::Int32), ("r", DataType::Utf8)], &[field("r", "identity")]).await;
    let context = lake.context();
    let insert = async |id: i32, r: &str| {
        let columns: Vec<(&str, ArrayRef)> =
            vec![("id", Arc::new(Int32Array::from(vec![id]))), ("r", Arc::new(StringArray::from(vec![r])))];
        lake.insert(&context, "t", RecordBatch::try_from_iter(columns).unwrap()).await;
    };
    insert(1, "a").await;
    alter(&lake, &[TableChange::AddPartitionField { field: field("id", "bucket[4]"), name: None }]).await.unwrap();
    insert(2, "b").await;
    let named = DropPartitionField::Named("r".to_string());
    alter(&lake, &[TableChange::DropPartitionField(named)]).await.unwrap();
    insert(3, "c").await;
    let rows = lake.rows(&context, "t", "SELECT id, r FROM t ORDER BY id").await;
    assert_eq!(rows, [["1", "a"], ["2", "b"], ["3", "c"]]);
    assert_eq!(lake.rows(&context, "t", "SELECT id FROM t WHERE r = 'b' AND id = 2").await, [["2"]]);
    alter(&lake, &[drop_column("r")]).await.unwrap();
    assert_eq!(lake.rows(&context, "t", "SELECT * FROM t ORDER BY id").await, [["1"], ["2"], ["3"]]);
}

#[tokio::test]
async fn branches_and_tags() {
    let (lake, _) = lake().await;
    let first = lake.load("t").await.snapshot_id().unwrap();
    let branch = |name| create(name, ReferenceKind::Branch, None);
    let make = |create| TableChange::CreateReference(create);
    alter(&lake, &[make(branch("b")), make(create("v1", ReferenceKind::Tag, Some(first)))]).await.unwrap();
    let second = lake
        .append("t", vec![crate::testing::file(&lake.location("t"), "x", iceberg::spec::Struct::empty(), |_| {})])
        .await;
    let at = async |name: &str| {
        let table = lake.catalog.load("s", "t", Some(&TableVersion::Reference(name.to_string()))).await;
        table.map(|table| table.unwrap().snapshot_id())
    };
    assert_eq!((at("b").await.unwrap(), at("v1").await.unwrap()), (Some(first), Some(first)));
    assert_eq!(at("main").await.unwrap(), Some(second));
    let error = at("v2").await.unwrap_err();
    assert_eq!((error.code(), error.hint()), (ErrorCode::SnapshotNotFound, Some("did you mean 'v1'?")));

    assert_eq!(refused(&lake, make(branch("b"))).await.code(), ErrorCode::AlreadyExists);
    let missing = make(create("w", ReferenceKind::Tag, Some(1)));
    assert_eq!(refused(&lake, missing).await.code(), ErrorCode::SnapshotNotFound);
    let keep = make(CreateReference { if_taken: IfTaken::Keep, ..branch("b") });
    assert!(!alter(&lake, &[keep]).await.unwrap());
    let replace = |kind| make(CreateReference { if_taken: IfTaken::Replace, ..create("b", kind, None) });
    assert_eq!(refused(&lake, replace(ReferenceKind::Tag)).await.code(), ErrorCode::AlreadyExists);
    alter(&lake, &[replace(ReferenceKind::Branch)]).await.unwrap();
    assert_eq!(at("b").await.unwrap(), Some(second));

    let drop = |name: &str, kind| TableChange::DropReference { name: name.to_string(), kind, if_exists: false };
    for (name, code) in
        [("main", ErrorCode::InvalidQuery), ("v1", ErrorCode::InvalidQuery), ("x", ErrorCode::SnapshotNotFound)]
    {
        assert_eq!(refused(&lake, drop(name, ReferenceKind::Branch)).await.code(), code, "{name}");
    }
    alter(&lake, &[drop("v1", ReferenceKind::Tag), drop("b", ReferenceKind::Branch)]).await.unwrap();
    assert!(at("v1").await.is_err() && at("b").await.is_err());
}

#[tokio::test]
async fn properties_comments_and_null() {
    let (lake, _) = lake().await;
    let pairs = vec![("k".to_string(), "v".to_string())];
    let comment = |comment: Option<&str>| TableChange::Comment(comment.map(str::to_string));
    alter(&lake, &[TableChange::SetProperties(pairs), comment(Some("about"))]).await.unwrap();
    let column = TableChange::CommentColumn { path: path("a"), comment: Some("what it is".to_string()) };
    alter(&lake, &[column]).await.unwrap();
    let table = lake.load("t").await;
    assert_eq!(
        (table.metadata.properties()["k"].as_str(), table.metadata.properties()["comment"].as_str()),
        ("v", "about")
    );
    assert_eq!(table.described().field(0).metadata().get("comment").map(String::as_str), Some("what it is"));
    assert!(!table.arrow_schema.field(0).metadata().contains_key("comment"), "scans know nothing of it");
    let unset = |keys: &[&str], if_exists| TableChange::UnsetProperties {
        keys: keys.iter().map(ToString::to_string).collect(),
        if_exists,
    };
    assert_eq!(refused(&lake, unset(&["x"], false)).await.code(), ErrorCode::InvalidArgument);
    alter(&lake, &[unset(&["x", "k"], true), comment(None)]).await.unwrap();
    assert!(lake.load("t").await.metadata.properties().is_empty());
    for key in ["location", "format-version"] {
        let set = TableChange::SetProperties(vec![(key.to_string(), "1".to_string())]);
        let code = refused(&lake, set).await.code();
        assert!(matches!(code, ErrorCode::InvalidArgument | ErrorCode::InvalidQuery), "{key}: {code}");
    }
}

#[tokio::test]
async fn a_table_gets_another_name() {
    let (lake, context) = lake().await;
    let catalog = &lake.catalog;
    catalog.create_table(create_table("taken", &[("a", DataType::Int32)], &[])).await.unwrap();
    let to = async |name: &str| catalog.rename_table(("s", "t"), ("s", name)).await;
    assert_eq!(to("taken").await.unwrap_err().code(), ErrorCode::AlreadyExists);
    assert_eq!(to("x$refs").await.unwrap_err().code(), ErrorCode::InvalidQuery);
    assert_eq!(catalog.rename_table(("s", "t"), ("none", "u")).await.unwrap_err().code(), ErrorCode::SchemaNotFound);
    assert!(to("u").await.unwrap() && !to("u2").await.unwrap());
    assert_eq!(lake.rows(&context, "u", "SELECT name FROM t").await, [["old"]]);
    assert_eq!(catalog.list_tables("s").await.unwrap(), ["taken", "u"]);
}
