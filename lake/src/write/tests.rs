//! Writes: where the files go, what is said of them, and what is left of a write that fails.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Date32Array, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray,
};
use datafusion::common::DataFusionError;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use iceberg::spec::{
    Datum, Literal, NestedField, PrimitiveType, Schema, Struct, Transform, Type, UnboundPartitionSpec,
};
use parquet::basic::LogicalType;
use parquet::file::reader::{FileReader, SerializedFileReader};
use townlake_common::{Error, ErrorCode, QueryId};

use crate::scan::fixture::{Lake, planned, register, sql, write};
use crate::write_plan;

fn schema() -> Schema {
    let primitive = |t| Type::Primitive(t);
    let fields = vec![
        NestedField::required(1, "id", primitive(PrimitiveType::Long)).into(),
        NestedField::optional(2, "kind", primitive(PrimitiveType::String)).into(),
        NestedField::optional(3, "day", primitive(PrimitiveType::Date)).into(),
        NestedField::optional(4, "at", primitive(PrimitiveType::Timestamp)).into(),
        NestedField::optional(5, "key", primitive(PrimitiveType::Uuid)).into(),
    ];
    Schema::builder().with_fields(fields).build().unwrap()
}

fn rows(ids: Vec<Option<i64>>) -> RecordBatch {
    let count = ids.len();
    let kinds = (0..count).map(|i| if i % 3 == 2 { None } else { Some(["a/b", "c"][i % 3]) });
    let kinds: ArrayRef = Arc::new(StringArray::from_iter(kinds));
    let days: ArrayRef = Arc::new(Date32Array::from_iter_values((0..count as i32).map(|i| 19_000 + i / 4)));
    let at: ArrayRef =
        Arc::new(TimestampNanosecondArray::from_iter_values((0..count as i64).map(|i| i * 1_000_000_001)));
    let keys = (0..count).map(|i| vec![i as u8; 16]);
    let keys: ArrayRef = Arc::new(FixedSizeBinaryArray::try_from_iter(keys).unwrap());
    let ids: ArrayRef = Arc::new(Int64Array::from(ids));
    RecordBatch::try_from_iter_with_nullable([
        ("c1", ids, true),
        ("c2", kinds, true),
        ("c3", days, true),
        ("c4", at, true),
        ("c5", keys, true),
    ])
    .unwrap()
}

fn typed(error: &DataFusionError) -> ErrorCode {
    match error {
        DataFusionError::External(inner) => inner.downcast_ref::<Error>().unwrap().code(),
        other => panic!("not a typed error: {other}"),
    }
}

#[tokio::test]
async fn rows_of_many_partitions_are_sorted_rather_than_scattered() {
    let lake = Lake::new();
    let context = lake.context(2, true);
    let spec = UnboundPartitionSpec::builder().add_partition_field(1, "id", Transform::Identity).unwrap().build();
    let table = lake.table(schema(), spec, &[]);
    // Each of 200 partitions has a row in each of ten batches, the first of which have few partitions.
    let few = (0..3).map(|_| rows((0..20).map(Some).collect()));
    let many = (0..10).map(|_| rows((0..200).map(|n| Some(n * 7 % 200)).collect()));
    let files = write(&context, &table, vec![few.chain(many).collect()]).await.unwrap();
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 3 * 20 + 10 * 200);
    // Those that were open when it became too many may have a second file.
    assert!((200..=220).contains(&files.len()), "{} files", files.len());
    let values: std::collections::HashSet<_> = files.iter().map(|file| file.data_file.partition().clone()).collect();
    assert_eq!(values.len(), 200);
}

#[tokio::test]
async fn each_partition_has_files_of_its_own() {
    let lake = Lake::new();
    let context = lake.context(2, true);
    let spec = UnboundPartitionSpec::builder()
        .add_partition_field(2, "kind", Transform::Identity)
        .and_then(|spec| spec.add_partition_field(3, "day_month", Transform::Month))
        .and_then(|spec| spec.add_partition_field(1, "id_bucket", Transform::Bucket(4)))
        .unwrap()
        .build();
    let table = lake.table(schema(), spec, &[]);
    let batch = rows((0..24).map(Some).collect());
    let files = write(&context, &table, vec![vec![batch.slice(0, 12), batch.slice(12, 12)]]).await.unwrap();
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 24);
    let mut partitions: Vec<String> = files.iter().map(|f| format!("{:?}", f.data_file.partition())).collect();
    partitions.sort();
    let all = partitions.len();
    partitions.dedup();
    assert_eq!(partitions.len(), all, "one file a partition, although its rows came in two batches");
    let with_slash: Vec<_> = files.iter().filter(|f| f.data_file.file_path().contains("/kind=a%2Fb/")).collect();
    assert!(!with_slash.is_empty());
    for file in &with_slash {
        assert_eq!(file.data_file.partition()[0], Some(Literal::string("a/b")));
        assert_eq!(file.data_file.lower_bounds()[&2], Datum::string("a/b"));
    }
    assert!(files.iter().any(|file| file.data_file.partition()[0].is_none()), "null is a partition");
    register(&context, &table, planned(&files));
    let text = sql(&context, "select count(*) as n, sum(id) as s, count(distinct key) as k from t").await.unwrap();
    assert!(text.contains("| 24 | 276 | 24 |"), "{text}");
    let text = sql(&context, "select at from t where id = 3").await.unwrap();
    assert!(text.contains("1970-01-01T00:00:03 |"), "nanoseconds are cut: {text}");
}

#[tokio::test]
async fn many_partitions_go_through_few_open_files() {
    let lake = Lake::new();
    let context = lake.context(1, true);
    let spec = UnboundPartitionSpec::builder().add_partition_field(1, "id", Transform::Identity).unwrap().build();
    let table = lake.table(schema(), spec, &[]);
    let batch = rows((0..300).map(Some).collect());
    let files = write(&context, &table, vec![vec![batch.clone(), batch]]).await.unwrap();
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 600);
    register(&context, &table, planned(&files));
    assert!(
        sql(&context, "select count(distinct id) as n, sum(id) as s from t").await.unwrap().contains("| 300 | 89700 |")
    );
}

#[tokio::test]
async fn files_are_closed_at_their_target_size_and_metrics_are_of_the_file() {
    let lake = Lake::new();
    let context = lake.context(1, true);
    let properties = [("write.target-file-size-bytes", "1"), ("write.parquet.compression-codec", "snappy")];
    let table = lake.table(schema(), UnboundPartitionSpec::builder().build(), &properties);
    let files = write(&context, &table, vec![vec![rows(vec![Some(5), Some(9)]), rows(vec![Some(1)])]]).await.unwrap();
    assert_eq!(files.len(), 2);
    let first = files.iter().find(|file| file.rows == 2).unwrap();
    let (file, path) = (&first.data_file, first.data_file.file_path().strip_prefix("file://").unwrap());
    assert_eq!((file.lower_bounds()[&1].clone(), file.upper_bounds()[&1].clone()), (Datum::long(5), Datum::long(9)));
    assert_eq!(file.file_size_in_bytes(), std::fs::metadata(path).unwrap().len());
    assert_eq!(*file.partition(), Struct::empty());
    let reader = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let schema = reader.metadata().file_metadata().schema_descr();
    let ids: Vec<i32> = schema.root_schema().get_fields().iter().map(|f| f.get_basic_info().id()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    assert_eq!(schema.column(4).logical_type_ref(), Some(&LogicalType::Uuid));
    assert_eq!(file.split_offsets().unwrap(), [4]);
    assert_eq!(file.lower_bounds()[&5], Datum::uuid(uuid::Uuid::from_bytes([0; 16])));
}

#[tokio::test]
async fn a_null_in_a_required_column_leaves_nothing_behind() {
    let lake = Lake::new();
    let context = lake.context(1, true);
    let table = lake.table(schema(), UnboundPartitionSpec::builder().build(), &[("write.target-file-size-bytes", "1")]);
    let error = write(&context, &table, vec![vec![rows(vec![Some(1)]), rows(vec![Some(2), None])]]).await.unwrap_err();
    assert_eq!(typed(&error), ErrorCode::ConstraintViolation);
    assert!(error.to_string().contains("column id of lake.s.t is NOT NULL"), "{error}");
    gone(&lake).await;
}

#[tokio::test]
async fn a_write_that_is_dropped_takes_its_files_back() {
    // Dropped at other moments each time: also while a request is on its way.
    for _ in 0..20 {
        drop_a_write().await;
    }
}

async fn drop_a_write() {
    let lake = Lake::new();
    let context = lake.context(1, true);
    let table = lake.table(schema(), UnboundPartitionSpec::builder().build(), &[("write.target-file-size-bytes", "1")]);
    let endless = futures::stream::repeat_with(|| Ok(rows(vec![Some(1); 10])));
    let endless = endless.then(|batch| async {
        tokio::task::yield_now().await;
        batch
    });
    let one_shot =
        datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(rows(vec![Some(1)]).schema(), endless);
    let input = once::Once::new(Box::pin(one_shot));
    let plan = write_plan(&table, Arc::new(input), &QueryId::generate()).unwrap();
    let mut answer = plan.execute(0, context.task_ctx()).unwrap();
    let task = tokio::spawn(async move { answer.next().await });
    while lake.data_files().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    gone(&lake).await;
}

/// Nothing is there, and nothing comes any more.
async fn gone(lake: &Lake) {
    let mut quiet = 0;
    for _ in 0..1000 {
        quiet = if lake.data_files().is_empty() { quiet + 1 } else { 0 };
        if quiet == 10 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("files were left: {:?}", lake.data_files());
}

#[tokio::test]
async fn rows_that_do_not_fit_are_refused_before_anything_runs() {
    let lake = Lake::new();
    let table = lake.table(schema(), UnboundPartitionSpec::builder().build(), &[]);
    let narrow = rows(vec![Some(1)]).project(&[0, 1]).unwrap();
    let input = MemorySourceConfig::try_new_exec(&[vec![narrow.clone()]], narrow.schema(), None).unwrap();
    let error = write_plan(&table, input as Arc<dyn ExecutionPlan>, &QueryId::generate()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidQuery);
    assert!(error.hint().unwrap().contains("id, kind, day, at, key"));
}

/// A plan over one stream that already runs.
mod once {
    use std::fmt;
    use std::sync::{Arc, Mutex};

    use datafusion::common::Result;
    use datafusion::common::tree_node::TreeNodeRecursion;
    use datafusion::execution::{SendableRecordBatchStream, TaskContext};
    use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
    use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
    use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};

    pub(super) struct Once {
        stream: Mutex<Option<SendableRecordBatchStream>>,
        properties: Arc<PlanProperties>,
    }

    impl Once {
        pub(super) fn new(stream: SendableRecordBatchStream) -> Self {
            let properties = PlanProperties::new(
                EquivalenceProperties::new(stream.schema()),
                Partitioning::UnknownPartitioning(1),
                EmissionType::Incremental,
                Boundedness::Bounded,
            );
            Self { stream: Mutex::new(Some(stream)), properties: Arc::new(properties) }
        }
    }

    impl fmt::Debug for Once {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Once")
        }
    }

    impl DisplayAs for Once {
        fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Once")
        }
    }

    impl ExecutionPlan for Once {
        fn name(&self) -> &str {
            "Once"
        }
        fn properties(&self) -> &Arc<PlanProperties> {
            &self.properties
        }
        fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
            vec![]
        }
        fn apply_expressions(
            &self,
            _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
        ) -> Result<TreeNodeRecursion> {
            Ok(TreeNodeRecursion::Continue)
        }
        fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
            Ok(self)
        }
        fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
            Ok(self.stream.lock().unwrap().take().unwrap())
        }
    }
}
