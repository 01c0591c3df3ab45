//! Scans of files that are older than the table's schema, and their recipes.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, Int32Array, Int32Builder, Int64Array, ListBuilder, MapBuilder, MapFieldNames, RecordBatch,
    StringViewArray, StringViewBuilder, StructArray,
};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::physical_plan::{ExecutionPlan, collect, replace_children_if_necessary};
use datafusion::prelude::SessionContext;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;
use datafusion_proto::protobuf::physical_plan_node::PhysicalPlanType;
use iceberg::spec::{
    ListType, Literal, MapType, NestedField, PrimitiveType, Schema, StructType, Type, UnboundPartitionSpec,
};
use townlake_common::ErrorCode;
use townlake_common::config::Config;

use super::fixture::{Lake, LakeCodec, code, context_over, planned, register, sql, write};
use crate::types::{ColumnBounds, FilePlan, LoadedTable};
use crate::{LakeObjects, LakeTable, schema};

fn primitive(t: PrimitiveType) -> Type {
    Type::Primitive(t)
}

fn old_schema() -> Schema {
    let info = StructType::new(vec![
        NestedField::optional(7, "x", primitive(PrimitiveType::Int)).into(),
        NestedField::optional(8, "y", primitive(PrimitiveType::String)).into(),
    ]);
    let tags = ListType::new(NestedField::list_element(9, primitive(PrimitiveType::String), false).into());
    let props = MapType::new(
        NestedField::map_key_element(10, primitive(PrimitiveType::String)).into(),
        NestedField::map_value_element(11, primitive(PrimitiveType::Int), false).into(),
    );
    let fields = vec![
        NestedField::required(1, "id", primitive(PrimitiveType::Int)).into(),
        NestedField::optional(2, "name", primitive(PrimitiveType::String)).into(),
        NestedField::optional(3, "score", primitive(PrimitiveType::Float)).into(),
        NestedField::optional(4, "info", Type::Struct(info)).into(),
        NestedField::optional(5, "tags", Type::List(tags)).into(),
        NestedField::optional(6, "props", Type::Map(props)).into(),
        NestedField::optional(12, "gone", primitive(PrimitiveType::String)).into(),
    ];
    Schema::builder().with_fields(fields).build().unwrap()
}

/// Everything that may happen to a table: columns and nested fields renamed, widened, moved, added, dropped, and one
/// that was dropped and added again under its name.
fn new_schema(old: &Schema) -> Schema {
    let id = |name: &str| old.field_id_by_name(name).unwrap();
    let info = StructType::new(vec![
        NestedField::optional(100, "new", primitive(PrimitiveType::String)).into(),
        NestedField::optional(id("info.y"), "text", primitive(PrimitiveType::String)).into(),
        NestedField::optional(id("info.x"), "y", primitive(PrimitiveType::Long)).into(),
    ]);
    let element = NestedField::list_element(id("tags.element"), primitive(PrimitiveType::String), false);
    let props = MapType::new(
        NestedField::map_key_element(id("props.key"), primitive(PrimitiveType::String)).into(),
        NestedField::map_value_element(id("props.value"), primitive(PrimitiveType::Long), false).into(),
    );
    let fields = vec![
        NestedField::optional(101, "gone", primitive(PrimitiveType::String)).into(),
        NestedField::optional(id("name"), "title", primitive(PrimitiveType::String)).into(),
        NestedField::required(id("id"), "name", primitive(PrimitiveType::Long)).into(),
        NestedField::optional(id("score"), "score", primitive(PrimitiveType::Double)).into(),
        NestedField::optional(id("info"), "info", Type::Struct(info)).into(),
        NestedField::optional(id("tags"), "tags", Type::List(ListType::new(element.into()))).into(),
        NestedField::optional(id("props"), "props", Type::Map(props)).into(),
        NestedField::required(102, "since", primitive(PrimitiveType::Int)).with_initial_default(Literal::int(7)).into(),
    ];
    Schema::builder().with_fields(fields).build().unwrap()
}

fn with_schema(table: &LoadedTable, columns: Schema) -> LoadedTable {
    LoadedTable {
        arrow_schema: schema::to_arrow(&columns).unwrap(),
        iceberg_schema: Arc::new(columns),
        ..table.clone()
    }
}

fn rows(first: i32) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int32Array::from(vec![first, first + 1, first + 2]));
    let names: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), Some("b"), None]));
    let scores: ArrayRef = Arc::new(Float32Array::from(vec![Some(0.5), None, Some(2.5)]));
    let x: ArrayRef = Arc::new(Int32Array::from(vec![Some(10), Some(20), None]));
    let y: ArrayRef = Arc::new(StringViewArray::from(vec!["p", "q", "r"]));
    let names_of = |name: &str, t| Arc::new(arrow::datatypes::Field::new(name, t, true));
    let info = StructArray::from(vec![(names_of("x", DataType::Int32), x), (names_of("y", DataType::Utf8View), y)]);
    let mut tags = ListBuilder::new(StringViewBuilder::new());
    tags.append_value([Some("t1"), None]);
    tags.append_null();
    tags.append_value([Some("t2")]);
    let entries = MapFieldNames { entry: "entries".into(), key: "keys".into(), value: "values".into() };
    let mut props = MapBuilder::new(Some(entries), StringViewBuilder::new(), Int32Builder::new());
    for value in 0..3 {
        props.keys().append_value(format!("k{value}"));
        props.values().append_value(value);
        props.append(true).unwrap();
    }
    let gone: ArrayRef = Arc::new(StringViewArray::from(vec!["lost"; 3]));
    RecordBatch::try_from_iter_with_nullable([
        ("id", ids, true),
        ("name", names, true),
        ("score", scores, true),
        ("info", Arc::new(info) as ArrayRef, true),
        ("tags", Arc::new(tags.finish()) as ArrayRef, true),
        ("props", Arc::new(props.finish()) as ArrayRef, true),
        ("gone", gone, true),
    ])
    .unwrap()
}

/// A table with two files of the old schema, as it is now.
async fn evolved(lake: &Lake, context: &SessionContext) -> (LoadedTable, FilePlan) {
    let old = lake.table(old_schema(), UnboundPartitionSpec::builder().build(), &[]);
    let files = write(context, &old, vec![vec![rows(1)], vec![rows(11)]]).await.unwrap();
    assert_eq!(files.len(), 2);
    (with_schema(&old, new_schema(&old.iceberg_schema)), planned(&files))
}

const EVERYTHING: &str = "select * from t order by name";

#[tokio::test]
async fn columns_are_found_by_field_id_at_every_depth() {
    let lake = Lake::new();
    let context = lake.context(2, true);
    let (table, plan) = evolved(&lake, &context).await;
    register(&context, &table, plan);
    let answer = sql(&context, EVERYTHING).await.unwrap();
    assert_eq!(
        answer,
        "\
+------+-------+------+-------+---------------------------+--------+---------+-------+
| gone | title | name | score | info                      | tags   | props   | since |
+------+-------+------+-------+---------------------------+--------+---------+-------+
|      | a     | 1    | 0.5   | {new: , text: p, y: 10}   | [t1, ] | {k0: 0} | 7     |
|      | b     | 2    |       | {new: , text: q, y: 20}   |        | {k1: 1} | 7     |
|      |       | 3    | 2.5   | {new: , text: r, y: }     | [t2]   | {k2: 2} | 7     |
|      | a     | 11   | 0.5   | {new: , text: p, y: 10}   | [t1, ] | {k0: 0} | 7     |
|      | b     | 12   |       | {new: , text: q, y: 20}   |        | {k1: 1} | 7     |
|      |       | 13   | 2.5   | {new: , text: r, y: }     | [t2]   | {k2: 2} | 7     |
+------+-------+------+-------+---------------------------+--------+---------+-------+"
            .replace("}   |", "} |")
            .replace("}     |", "}   |")
            .replace("| info                      |", "| info                    |")
            .replace("+---------------------------+", "+-------------------------+")
    );
}

#[tokio::test]
async fn filters_mean_the_same_in_the_reader_as_above_it() {
    let lake = Lake::new();
    let (late, early) = (lake.context(2, true), lake.context(2, false));
    let (table, plan) = evolved(&lake, &late).await;
    register(&late, &table, plan.clone());
    register(&early, &table, plan);
    for (filter, names) in [
        ("title = 'b'", vec![2, 12]),
        ("name > 2", vec![3, 11, 12, 13]),
        ("gone is not null", vec![]),
        ("gone = 'lost'", vec![]),
        ("gone is null and score < 1.0", vec![1, 11]),
        ("since = 7 and title is null", vec![3, 13]),
        ("since <> 7", vec![]),
        ("info['y'] = 20", vec![2, 12]),
        ("info['text'] = 'p' or name = 13", vec![1, 11, 13]),
        ("info['new'] is not null", vec![]),
        ("array_has(tags, 't2')", vec![3, 13]),
        ("tags is null", vec![2, 12]),
    ] {
        let query = format!("select array_agg(name order by name) as names from t where {filter}");
        let late = sql(&late, &query).await.unwrap();
        let early = sql(&early, &query).await.unwrap();
        assert_eq!(late, early, "{filter}");
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let expected = if names.is_empty() { "|       |".to_string() } else { format!("[{}]", names.join(", ")) };
        assert!(late.contains(&expected), "{filter}: {late}");
    }
}

#[tokio::test]
async fn explain_names_table_snapshot_files_and_filter() {
    let lake = Lake::new();
    let context = lake.context(2, true);
    let (table, plan) = evolved(&lake, &context).await;
    register(&context, &table, plan);
    let text = sql(&context, "explain select score from t where title = 'b'").await.unwrap();
    for part in ["table=lake.s.t, snapshot=none, files=2/3", "predicate=title@1 = b", "projection=[score]"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("FilterExec"), "{text}");
    let count = sql(&context, "explain select count(*) from t").await.unwrap();
    assert!(!count.contains("DataSourceExec"), "{count}");
    assert!(sql(&context, "select count(*) from t").await.unwrap().contains("| 6 "));
    let limited = "select count(*) from (select name from t limit 2)";
    assert!(sql(&context, limited).await.unwrap().contains("| 2 "));
}

#[tokio::test]
async fn a_required_column_without_values_is_an_error() {
    let lake = Lake::new();
    let context = lake.context(1, true);
    let (table, plan) = evolved(&lake, &context).await;
    let mut fields = table.iceberg_schema.as_struct().fields().to_vec();
    fields.push(NestedField::required(200, "must", primitive(PrimitiveType::Int)).into());
    let table = with_schema(&table, Schema::builder().with_fields(fields).build().unwrap());
    register(&context, &table, plan);
    assert_eq!(code(sql(&context, "select must from t").await.unwrap_err()), ErrorCode::DataCorrupt);
    assert!(sql(&context, "select title from t").await.is_ok());
}

#[tokio::test]
async fn constants_of_a_partition_stand_for_columns_that_a_file_lacks() {
    let lake = Lake::new();
    let context = lake.context(1, true);
    let (table, mut plan) = evolved(&lake, &context).await;
    let value = Some(ScalarValue::Utf8View(Some("here".to_string())));
    let constant = ColumnBounds { null_count: Some(0), lower: value.clone(), upper: value, exact: true };
    plan.files[0].set_column(101, constant);
    plan.files[1].set_column(101, ColumnBounds { null_count: Some(3), ..Default::default() });
    register(&context, &table, plan);
    let text = sql(&context, "select gone, count(name) as n from t group by gone order by gone").await.unwrap();
    assert!(text.contains("| here | 3 |") && text.contains("|      | 3 |"), "{text}");
}

#[tokio::test]
async fn float_constants_of_a_partition_do_so_too_and_reach_executors() {
    let lake = Lake::new();
    let context = lake.context(2, true);
    let (table, mut plan) = evolved(&lake, &context).await;
    let mut fields = table.iceberg_schema.as_struct().fields().to_vec();
    fields.push(NestedField::optional(201, "d", primitive(PrimitiveType::Double)).into());
    fields.push(NestedField::optional(202, "f", primitive(PrimitiveType::Float)).into());
    let table = with_schema(&table, Schema::builder().with_fields(fields).build().unwrap());
    let real = |v| ScalarValue::Float32(Some(v));
    plan.files[0].constants = [(201, ScalarValue::Float64(Some(f64::NAN))), (202, real(10.1))].into();
    // The second file has the column `score` itself: what its partition says is not asked.
    plan.files[1].constants = [(202, real(-0.0)), (3, ScalarValue::Float64(Some(1e9)))].into();
    register(&context, &table, plan);
    let answers = async |query: &str| {
        let plan = context.sql(query).await.unwrap().create_physical_plan().await.unwrap();
        let node = PhysicalPlanNode::try_from_physical_plan(Arc::clone(&plan), &LakeCodec).unwrap();
        let decoded = node.try_into_physical_plan(&context.task_ctx(), &LakeCodec).unwrap();
        let mut texts = Vec::new();
        for plan in [plan, decoded] {
            let rows = collect(plan, context.task_ctx()).await.unwrap();
            texts.push(arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string());
        }
        assert_eq!(texts[0], texts[1], "{query}");
        texts.remove(0)
    };
    let text = answers("select d, f, score from t where title = 'a' order by f desc").await;
    assert!(text.contains("| NaN | 10.1 | 0.5   |") && text.contains("|     | -0.0 | 0.5   |"), "{text}");
    assert!(answers("select count(name) as n from t where f > 10").await.contains("| 3 |"));
}

/// Each has the same keys: only the store tells their files apart.
#[tokio::test]
async fn one_key_in_two_warehouses_is_two_files() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let catalog = |name: &str, folder: &tempfile::TempDir| {
        format!(
            "[catalogs.{name}]\ntype = \"iceberg\"\ncatalog = \"sql\"\nuri = \"sqlite:///tmp/none.db\"\n\
             warehouse = \"file://{}\"\n",
            folder.path().display()
        )
    };
    let text = catalog("one", &folders[0]) + &catalog("two", &folders[1]);
    let objects = LakeObjects::from_config(&Config::from_toml(&text).unwrap().catalogs).unwrap();
    let context = context_over(&objects, 1, false);
    let columns = Schema::builder()
        .with_fields(vec![NestedField::optional(1, "id", primitive(PrimitiveType::Long)).into()])
        .build()
        .unwrap();
    let mut sizes = Vec::new();
    for (name, folder, id) in [("one", &folders[0], 1_i64), ("two", &folders[1], 2)] {
        let lake = Lake::new();
        let spec = UnboundPartitionSpec::builder().build();
        let location = format!("file://{}/data", folder.path().display());
        let table = lake.table(columns.clone(), spec, &[("write.data.path", &location)]);
        let objects = objects.access(name).unwrap().clone();
        let table = LoadedTable { catalog: name.to_string(), objects, ..table };
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![id; 10]));
        let rows = RecordBatch::try_from_iter_with_nullable([("id", ids, true)]).unwrap();
        let mut plan = planned(&write(&context, &table, vec![vec![rows]]).await.unwrap());
        let same = folder.path().join("data/same.parquet");
        std::fs::rename(plan.files[0].path.strip_prefix("file://").unwrap(), &same).unwrap();
        plan.files[0].path = format!("file://{}", same.display());
        sizes.push(plan.files[0].size);
        register(&context, &table, plan);
        let text = sql(&context, &format!("select count(*) as n from t where id = {id}")).await.unwrap();
        assert!(text.contains("| 10 |"), "{name}: {text}");
    }
    assert_eq!(sizes[0], sizes[1], "else the size tells them apart");
    let cache = context.runtime_env().cache_manager.get_file_metadata_cache();
    assert_eq!(cache.len(), 2);
}

#[tokio::test]
async fn files_without_ids_need_a_name_mapping() {
    let lake = Lake::new();
    let context = lake.context(1, true);
    let file = lake.folder.path().join("s/t/data/plain.parquet");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let plain = rows(1).project(&[0, 1, 3]).unwrap();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&file).unwrap(), plain.schema(), None).unwrap();
    writer.write(&plain).unwrap();
    writer.close().unwrap();
    let mut table = lake.table(old_schema(), UnboundPartitionSpec::builder().build(), &[]);
    let mut plan = planned(&write(&context, &table, vec![vec![rows(1)]]).await.unwrap());
    plan.files[0].path = format!("file://{}", file.display());
    plan.files[0].size = std::fs::metadata(&file).unwrap().len();
    plan.files[0].bounds = Default::default();
    register(&context, &table, plan.clone());
    assert_eq!(code(sql(&context, "select id from t").await.unwrap_err()), ErrorCode::FormatNotSupported);

    let id = |name: &str| table.iceberg_schema.field_id_by_name(name).unwrap();
    let mapping = format!(
        r#"[{{"field-id": {}, "names": ["id"]}}, {{"field-id": {}, "names": ["name"]}},
            {{"field-id": {}, "names": ["info"], "fields": [{{"field-id": {}, "names": ["y"]}}]}}]"#,
        id("id"),
        id("name"),
        id("info"),
        id("info.y")
    );
    table =
        lake.table(old_schema(), UnboundPartitionSpec::builder().build(), &[("schema.name-mapping.default", &mapping)]);
    register(&context, &table, plan);
    let text = sql(&context, "select id, info['y'] as y, info['x'] as x, gone from t where name = 'b'").await.unwrap();
    assert!(text.contains("| 2  | q |   |      |"), "{text}");
}

#[tokio::test]
async fn a_scan_for_nobody_is_refused() {
    let lake = Lake::new();
    let table = lake.table(old_schema(), UnboundPartitionSpec::builder().build(), &[]);
    let context = SessionContext::new();
    context.register_table("t", LakeTable::new(Arc::new(table))).unwrap();
    assert_eq!(code(sql(&context, "select * from t").await.unwrap_err()), ErrorCode::Internal);
}

#[tokio::test]
async fn a_decoded_scan_reads_what_the_scan_reads() {
    let lake = Lake::new();
    let context = lake.context(3, true);
    let (table, plan) = evolved(&lake, &context).await;
    register(&context, &table, plan);
    for query in [
        "select * from t",
        "select title, name + 1 as n from t where title = 'b' and score is null",
        "select gone, info['text'] as text, since from t where name > 2 and gone is null",
        "select name from t limit 4",
    ] {
        let plan = context.sql(query).await.unwrap().create_physical_plan().await.unwrap();
        let node = PhysicalPlanNode::try_from_physical_plan(Arc::clone(&plan), &LakeCodec).unwrap();
        let debug = format!("{node:?}");
        assert!(!debug.contains("ParquetScan("), "a leaf went without its adapter: {debug}");
        let decoded = node.try_into_physical_plan(&context.task_ctx(), &LakeCodec).unwrap();
        let display = |plan: &Arc<dyn ExecutionPlan>| {
            datafusion::physical_plan::displayable(plan.as_ref()).indent(true).to_string()
        };
        assert_eq!(display(&decoded), display(&plan), "{query}");
        let sorted = async |plan| {
            let rows = collect(plan, context.task_ctx()).await.unwrap();
            let text = arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
            let mut lines: Vec<_> = text.lines().map(str::to_string).collect();
            lines.sort();
            lines
        };
        let (direct, remote) = (sorted(Arc::clone(&plan)).await, sorted(decoded).await);
        assert!(direct.len() > 4);
        if !query.contains("limit") {
            assert_eq!(direct, remote, "{query}");
        }
        assert_eq!(direct.len(), remote.len(), "{query}");
    }
}

#[tokio::test]
async fn a_scan_alone_is_an_extension_and_carries_the_principal() {
    let lake = Lake::new();
    let context = lake.context(1, false);
    let (table, plan) = evolved(&lake, &context).await;
    let state = context.state();
    let scan = super::scan_plan(&table, plan, "ann", &state, None, Some(5_000_000_000)).unwrap();
    let node = PhysicalPlanNode::try_from_physical_plan(Arc::clone(&scan), &LakeCodec).unwrap();
    let Some(PhysicalPlanType::Extension(extension)) = &node.physical_plan_type else { panic!("{node:?}") };
    let recipe = <townlake_proto::lake::Recipe as prost::Message>::decode(extension.node.as_slice()).unwrap();
    let Some(townlake_proto::lake::recipe::Node::Scan(recipe)) = recipe.node else { panic!("not a scan") };
    assert_eq!((recipe.principal.as_str(), recipe.table.as_str()), ("ann", "lake.s.t"));
    let decoded = node.try_into_physical_plan(&context.task_ctx(), &LakeCodec).unwrap();
    assert_eq!(decoded.fetch(), Some(5_000_000_000), "a limit is not cut to 32 bits");
    let with_statistics = |plan: &Arc<dyn ExecutionPlan>| {
        datafusion::physical_plan::displayable(plan.as_ref()).set_show_statistics(true).indent(true).to_string()
    };
    assert!(with_statistics(&scan).contains("Rows=Exact(6)"), "{}", with_statistics(&scan));
    assert_eq!(with_statistics(&decoded), with_statistics(&scan));
}

#[tokio::test]
async fn a_decoded_write_writes_what_the_write_writes() {
    let lake = Lake::new();
    let context = lake.context(2, true);
    let table = lake.table(old_schema(), UnboundPartitionSpec::builder().build(), &[]);
    let input = datafusion::physical_plan::empty::EmptyExec::new(rows(1).schema());
    let plan = crate::write_plan(&table, Arc::new(input), &townlake_common::QueryId::generate()).unwrap();
    let node = PhysicalPlanNode::try_from_physical_plan(Arc::clone(&plan), &LakeCodec).unwrap();
    let decoded = node.try_into_physical_plan(&context.task_ctx(), &LakeCodec).unwrap();
    assert_eq!(decoded.schema(), *crate::WRITTEN_FILES_SCHEMA);
    let memory =
        datafusion::datasource::memory::MemorySourceConfig::try_new_exec(&[vec![rows(1)]], rows(1).schema(), None)
            .unwrap();
    let over_rows = replace_children_if_necessary(decoded, vec![memory]).unwrap();
    let files = crate::written_files(&collect(over_rows, context.task_ctx()).await.unwrap(), &table).unwrap();
    assert_eq!(files[0].rows, 3);
    register(&context, &table, planned(&files));
    assert!(sql(&context, "select sum(id) as s from t").await.unwrap().contains("| 6 |"));
}
