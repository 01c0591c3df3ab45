//! Small reads while a query is planned: the values that columns are guessed from, and who set the time of a record.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use townlake_common::config::KafkaFormat;
use townlake_common::{QueryContext, Result};

use super::cluster::Cluster;
use super::pins::PinnedTopic;
use super::reader::SplitReader;
use super::recipe::{Recipe, Split};
use super::tables::{DEFAULT_SCHEMA, guess};
use super::types::{Column, FieldType, Source};
use super::wire::messages::TopicId;
use crate::scan::{Estimate, ScanMetrics};

/// Values that columns are guessed from, in all partitions together.
const SAMPLED: u64 = 200;
/// Partitions that are asked for some.
const ASKED: usize = 8;

/// The fields of a JSON topic, guessed from the newest of its values.
///
/// The newest: what was written long ago may have another shape, and may be gone any moment.
pub(crate) async fn fields(cluster: &Arc<Cluster>, query: &QueryContext, topic: &str) -> Result<Vec<Column>> {
    let session = cluster.look_up(&query.id).await?;
    let pinned = PinnedTopic::take(&session, topic).await?;
    drop(session);
    let filled: Vec<_> = pinned.ranges.iter().filter(|range| range.len() > 0).take(ASKED).collect();
    let each = SAMPLED / u64::try_from(filled.len()).unwrap_or(u64::MAX).max(1);
    let mut batches = Vec::new();
    for range in filled {
        // Twice as many offsets as values: some hold markers, or nothing any more.
        let start = range.end.saturating_sub(i64::try_from(each * 2).unwrap_or(i64::MAX)).max(range.start);
        let split = Split { start, ..*range };
        let column = Column::of_value(FieldType::Varbinary);
        batches.extend(read(cluster, query, topic, pinned.topic_id, split, column, each).await?);
    }
    let values = batches.iter().flat_map(|batch| batch.column(0).as_binary::<i32>().iter().flatten());
    Ok(guess(values))
}

/// Whether the first record of a range has its time from a broker; also when there is no record.
pub(crate) async fn is_appended(
    cluster: &Arc<Cluster>,
    query: &QueryContext,
    topic: &str,
    topic_id: Option<TopicId>,
    split: Split,
) -> Result<bool> {
    let column = Column { name: "_timestamp_type".to_string(), source: Source::TimestampType };
    let batches = read(cluster, query, topic, topic_id, split, column, 1).await?;
    Ok(batches
        .iter()
        .all(|batch| batch.column(0).as_string::<i32>().iter().flatten().all(|kind| kind == "LogAppendTime")))
}

async fn read(
    cluster: &Arc<Cluster>,
    query: &QueryContext,
    topic: &str,
    topic_id: Option<TopicId>,
    split: Split,
    column: Column,
    limit: u64,
) -> Result<Vec<RecordBatch>> {
    let recipe = Recipe {
        catalog: cluster.server().catalog.clone(),
        schema: DEFAULT_SCHEMA.to_string(),
        table: topic.to_string(),
        query_id: query.id.to_string(),
        principal: query.principal.name.clone(),
        topic: topic.to_string(),
        topic_id,
        committed: cluster.committed,
        format: KafkaFormat::Raw,
        null_and_count: false,
        values: None,
        columns: vec![column],
        checked: Vec::new(),
        limit: Some(limit),
        local_filters: Vec::new(),
        ranges: String::new(),
        pinned: String::new(),
        estimate: Estimate::default(),
        planned: None,
    };
    let metrics = ScanMetrics::new(&ExecutionPlanMetricsSet::new(), 0);
    let session = cluster.look_up(&query.id).await?;
    let mut reader = SplitReader::within(session, &Arc::new(recipe), split, &metrics);
    let mut batches = Vec::new();
    while let Some((batch, next)) = reader.next().await? {
        batches.push(batch);
        reader = next;
    }
    Ok(batches)
}
