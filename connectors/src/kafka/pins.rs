//! What a query reads of a topic: one range of offsets a partition, taken once and shared by all its scans.
//!
//! Nothing is held in Kafka by it: retention may remove what was pinned, and a scan that finds it gone is an error. A later
//! query can read the same ranges again, as long as they are there.

use std::sync::Arc;

use townlake_common::{Error, ErrorCode, Pinned, QueryContext, Result};

use super::KIND;
use super::cluster::{Cluster, Session};
use super::recipe::Split;
use super::wire::codes::Code;
use super::wire::messages::{EARLIEST, LATEST, TopicId};

/// A topic as a query sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PinnedTopic {
    /// Another topic of the same name has another id.
    pub topic_id: Option<TopicId>,
    /// From the start of the log to its high watermark, or to its last stable offset where only what is committed is read.
    pub ranges: Vec<Split>,
}

impl PinnedTopic {
    /// The ranges of `query` in the topic of a table (`catalog.schema.table`): those of the cut that it replays, or those of
    /// this moment, taken the first time and shared after.
    ///
    /// Errors: `SNAPSHOT_NOT_FOUND` where the ranges of the cut cannot be read any more.
    pub async fn of(query: &QueryContext, cluster: &Arc<Cluster>, topic: &str, table: &str) -> Result<Arc<Self>> {
        let pinned = match query.replayed(table)? {
            Some(earlier) => {
                let session = cluster.look_up(&query.id).await?;
                Arc::new(Self::again(&session, topic, table, &earlier.at).await?)
            }
            None => {
                let key = format!("{KIND} {} {topic}", cluster.server().catalog);
                let take = || async {
                    let session = cluster.look_up(&query.id).await?;
                    Self::take(&session, topic).await
                };
                query.pin(&key, take).await?
            }
        };
        query.note(table, Pinned::repeatable(KIND, pinned.to_text(cluster.committed)));
        Ok(pinned)
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

    /// The ranges that an earlier query noted, if all of them are still there.
    async fn again(session: &Session, topic: &str, table: &str, noted: &str) -> Result<Self> {
        let refused = |what: String| {
            Error::new(ErrorCode::SnapshotNotFound, format!("{table} cannot be read as it was then: {what}"))
                .with_hint("RESET SESSION cut, or leave it out of the query")
        };
        let earlier = Self::parse(noted, session.cluster().committed);
        let earlier = earlier.ok_or_else(|| refused("what the cut says of it is not understood here".to_string()))?;
        let now = Self::take(session, topic).await?;
        if now.topic_id != earlier.topic_id {
            return Err(refused(format!("topic {topic} was deleted and created again")));
        }
        for range in earlier.ranges.iter().filter(|range| range.len() > 0) {
            let there = now.ranges.iter().find(|there| there.partition == range.partition);
            if there.is_none_or(|there| there.start > range.start || there.end < range.end) {
                let Split { partition, start, end } = range;
                return Err(refused(format!("offsets {start} to {end} of partition {partition} are not all there")));
            }
        }
        Ok(earlier)
    }

    /// What the cut of a query says of a topic: `id 0f…, read_committed, 0:[3,9) 1:[0,4)`.
    fn to_text(&self, committed: bool) -> String {
        let id: String = self.topic_id.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
        let id = if id.is_empty() { "none" } else { id.as_str() };
        format!("id {id}, {}, {}", isolation(committed), show(&self.ranges, usize::MAX))
    }

    /// What [`PinnedTopic::to_text`] wrote; `None` for anything else, and for what was read under the other isolation.
    fn parse(text: &str, committed: bool) -> Option<Self> {
        let mut parts = text.strip_prefix("id ")?.splitn(3, ", ");
        let topic_id = match parts.next()? {
            "none" => None,
            id if id.len() == 32 && id.is_ascii() => Some(u128::from_str_radix(id, 16).ok()?.to_be_bytes()),
            _ => return None,
        };
        if parts.next()? != isolation(committed) {
            return None;
        }
        let range = |text: &str| {
            let (partition, range) = text.split_once(":[")?;
            let (start, end) = range.strip_suffix(')')?.split_once(',')?;
            let split =
                Split { partition: partition.parse().ok()?, start: start.parse().ok()?, end: end.parse().ok()? };
            (split.partition >= 0 && split.start >= 0 && split.start <= split.end).then_some(split)
        };
        let ranges: Vec<Split> = parts.next()?.split_whitespace().map(range).collect::<Option<_>>()?;
        // Rising, so that no partition is read twice.
        let is_rising = ranges.windows(2).all(|pair| matches!(pair, [a, b] if a.partition < b.partition));
        is_rising.then_some(Self { topic_id, ranges })
    }
}

fn isolation(committed: bool) -> &'static str {
    if committed { "read_committed" } else { "read_uncommitted" }
}

/// Ranges for people, at most so many: `0:[3,9) 1:[0,4)`.
pub(crate) fn show(ranges: &[Split], most: usize) -> String {
    let range = |split: &Split| format!("{}:[{},{})", split.partition, split.start, split.end);
    let mut text = ranges.iter().take(most).map(range).collect::<Vec<_>>().join(" ");
    if ranges.len() > most {
        text.push_str(&format!(" and {} more", ranges.len() - most));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cut_says_is_read_again_and_nothing_else_is() {
        let split = |partition, start, end| Split { partition, start, end };
        for topic_id in [None, Some([0xab; 16])] {
            let pinned = PinnedTopic { topic_id, ranges: vec![split(0, 3, 9), split(2, 0, i64::MAX)] };
            let text = pinned.to_text(true);
            assert_eq!(PinnedTopic::parse(&text, true), Some(pinned), "{text}");
            assert_eq!(PinnedTopic::parse(&text, false), None, "read under the other isolation");
        }
        let nothing = PinnedTopic { topic_id: None, ranges: Vec::new() };
        assert_eq!(PinnedTopic::parse(&nothing.to_text(false), false), Some(nothing));
        for ranges in ["0:[9,3)", "0:[-1,3)", "-1:[0,3)", "0:[0,3", "0:[0)", "1:[0,1) 0:[0,1)", "0:[0,1) 0:[0,1)", "x"]
        {
            assert_eq!(PinnedTopic::parse(&format!("id none, read_committed, {ranges}"), true), None, "{ranges}");
        }
        for text in ["", "id", "id none", "id xyz, read_committed, ", "id none, read_committed"] {
            assert_eq!(PinnedTopic::parse(text, true), None, "{text}");
        }
    }
}
