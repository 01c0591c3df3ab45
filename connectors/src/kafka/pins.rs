//! What a query reads of a topic: one range of offsets a partition, taken once and shared by all its scans.
//!
//! Nothing is held in Kafka by it: retention may remove what was pinned, and a scan that finds it gone is an error.

use std::sync::Arc;

use townlake_common::{QueryContext, Result};

use super::cluster::{Cluster, Session};
use super::recipe::Split;
use super::wire::codes::Code;
use super::wire::messages::{EARLIEST, LATEST, TopicId};

/// A topic as a query sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pinned {
    /// Another topic of the same name has another id.
    pub topic_id: Option<TopicId>,
    /// From the start of the log to its high watermark, or to its last stable offset where only what is committed is read.
    pub ranges: Vec<Split>,
}

impl Pinned {
    /// The ranges of `query` in this topic: taken the first time, shared after.
    pub async fn of(query: &QueryContext, cluster: &Arc<Cluster>, topic: &str) -> Result<Arc<Self>> {
        let key = format!("kafka {} {topic}", cluster.server().catalog);
        query
            .pin(&key, || async {
                let session = cluster.look_up(&query.id).await?;
                Self::take(&session, topic).await
            })
            .await
    }

    /// The ranges of this moment.
    ///
    /// Errors: `TABLE_NOT_FOUND` where there is no such topic any more.
    pub async fn take(session: &Session, topic: &str) -> Result<Self> {
        let gone = || session.cluster().server().answered(&format!("read topic {topic}"), Code(3));
        let layout = session.layout(topic).await?.ok_or_else(gone)?;
        let partitions: Vec<i32> = layout.leaders.keys().copied().collect();
        // The starts first: what retention removes in between only makes a range that ends before it starts.
        let at = |what: i64| partitions.iter().map(|partition| (*partition, what)).collect::<Vec<_>>();
        let starts = session.offsets(topic, &at(EARLIEST)).await?;
        let ends = session.offsets(topic, &at(LATEST)).await?;
        let range = |((partition, start), end): ((&i32, &i64), &i64)| {
            let start = (*start).max(0);
            Split { partition: *partition, start, end: (*end).max(start) }
        };
        let ranges = partitions.iter().zip(&starts).zip(&ends).map(range).collect();
        Ok(Self { topic_id: layout.id, ranges })
    }
}

/// Ranges for people: `0:[3,9) 1:[0,4)`.
pub(crate) fn show(ranges: &[Split]) -> String {
    const SHOWN: usize = 32;
    let range = |split: &Split| format!("{}:[{},{})", split.partition, split.start, split.end);
    let mut text = ranges.iter().take(SHOWN).map(range).collect::<Vec<_>>().join(" ");
    if ranges.len() > SHOWN {
        text.push_str(&format!(" and {} more", ranges.len() - SHOWN));
    }
    text
}
