//! From what a query pinned and what its filters say to the ranges that are read.

use std::sync::Arc;

use datafusion::logical_expr::Expr;
use townlake_common::{QueryContext, Result};

use super::cluster::{Cluster, Session};
use super::filters::{Bounds, Range, bounds};
use super::pins::{PinnedTopic, show};
use super::recipe::Split;
use super::sample::is_appended;

/// A range of fewer offsets is not cut: it costs more to begin than to read.
const SMALLEST: u64 = 20_000;

/// The ranges of a topic that can hold rows which pass. Times become offsets by the index that brokers keep.
///
/// A lower bound of times is always safe: what lies before the first record that is not older is older. An upper bound is one
/// only where brokers set the time as they append; producers may write any time at any offset. So it comes apart, for topics
/// that are set so today, to be taken only where the record found has its time from a broker: the topic may have been set
/// otherwise when it was written.
pub(crate) async fn narrowed(
    cluster: &Arc<Cluster>,
    query: &QueryContext,
    topic: &str,
    pinned: &PinnedTopic,
    filters: &[Expr],
) -> Result<Vec<Split>> {
    let session = cluster.look_up(&query.id).await?;
    let (mut found, uppers) = bounded(&session, topic, pinned, filters).await?;
    drop(session);
    for UpperBound { partition, end } in uppers {
        let Some(range) = found.iter_mut().find(|range| range.partition == partition && range.end > end) else {
            continue;
        };
        let rest = Split { start: end.max(range.start), ..*range };
        if is_appended(cluster, query, topic, pinned.topic_id, rest).await? {
            range.end = rest.start;
        }
    }
    found.retain(|range| range.len() > 0);
    Ok(found)
}

/// The ranges but for upper bounds of times, and those.
async fn bounded(
    session: &Session,
    topic: &str,
    pinned: &PinnedTopic,
    filters: &[Expr],
) -> Result<(Vec<Split>, Vec<UpperBound>)> {
    let mut found = Vec::new();
    for range in &pinned.ranges {
        if let Some(Bounds { offsets, times }) = bounds(filters, range.partition) {
            let offsets = offsets.and(Range { start: range.start, end: range.end });
            if !offsets.is_empty() {
                found.push((Split { partition: range.partition, start: offsets.start, end: offsets.end }, times));
            }
        }
    }
    // Negative times mean something else to brokers, and no record is as old.
    let asked: Vec<_> =
        found.iter().filter(|(_, times)| times.start > 0).map(|(s, t)| (s.partition, t.start)).collect();
    let starts = session.offsets(topic, &asked).await?;
    for ((partition, _), start) in asked.iter().zip(starts) {
        if let Some((split, _)) = found.iter_mut().find(|(split, _)| split.partition == *partition) {
            let start = if start < 0 { split.end } else { start };
            split.start = split.start.max(start.min(split.end));
        }
    }
    found.retain(|(split, _)| split.len() > 0);
    let uppers: Vec<_> = found.iter().filter(|(_, times)| (1..i64::MAX).contains(&times.end)).collect();
    let uppers = if uppers.is_empty() || !session.has_log_append_time(topic).await? { Vec::new() } else { uppers };
    let asked: Vec<_> = uppers.iter().map(|(split, times)| (split.partition, times.end)).collect();
    let ends = session.offsets(topic, &asked).await?;
    let bound = |((partition, _), end): (&(i32, i64), i64)| UpperBound { partition: *partition, end };
    let uppers = asked.iter().zip(ends).filter(|(_, end)| *end >= 0).map(bound).collect();
    Ok((found.into_iter().map(|(split, _)| split).collect(), uppers))
}

/// From this offset on a partition holds only newer records, if all its times are the brokers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct UpperBound {
    partition: i32,
    end: i64,
}

/// EXPLAIN shows so many ranges.
const SHOWN: usize = 32;

/// Ranges for EXPLAIN.
pub(crate) fn show_ranges(ranges: &[Split]) -> String {
    show(ranges, SHOWN)
}

/// The splits of a plan, in their bytes. A plan has at least one partition; a range without offsets asks Kafka nothing.
pub(crate) fn cut_and_encode(ranges: &[Split], wanted: usize) -> Vec<Vec<u8>> {
    let mut splits = cut(ranges, wanted);
    if splits.is_empty() {
        splits.push(Split::default());
    }
    splits.iter().map(|split| split.encode()).collect()
}

/// Cuts ranges into about `wanted` splits in all, each of one partition. A range is never left out.
fn cut(ranges: &[Split], wanted: usize) -> Vec<Split> {
    let total: u64 = ranges.iter().map(|range| range.len()).sum();
    let share = total.div_ceil(u64::try_from(wanted).unwrap_or(u64::MAX).max(1)).max(SMALLEST);
    let mut splits = Vec::new();
    for range in ranges {
        let pieces = range.len().div_ceil(share).max(1);
        let boundary = |piece: u64| {
            let offset = u128::from(range.len()) * u128::from(piece) / u128::from(pieces);
            range.start.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX))
        };
        let split = |piece| Split { partition: range.partition, start: boundary(piece), end: boundary(piece + 1) };
        splits.extend((0..pieces).map(split).filter(|split| split.len() > 0));
    }
    splits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(partition: i32, start: i64, end: i64) -> Split {
        Split { partition, start, end }
    }

    #[test]
    fn splits_touch_and_cover_every_range() {
        let ranges = [split(0, 0, 1_000_000), split(1, 5, 5), split(2, 7, 100_007), split(3, i64::MAX - 3, i64::MAX)];
        for wanted in [0, 1, 4, 16, 100_000] {
            let splits = cut(&ranges, wanted);
            for range in &ranges {
                let mut next = range.start;
                for split in splits.iter().filter(|split| split.partition == range.partition) {
                    assert_eq!(split.start, next);
                    assert!(split.end > split.start);
                    next = split.end;
                }
                assert_eq!(next, range.end, "{wanted}: {splits:?}");
            }
            let few = wanted + ranges.len();
            assert!(splits.len() <= few.max(3), "{wanted}: {}", splits.len());
        }
        assert_eq!(cut(&ranges, 4).iter().filter(|split| split.partition == 0).count(), 4);
        assert_eq!(cut(&[split(0, 0, 19_999)], 100), [split(0, 0, 19_999)]);
        assert!(cut(&[], 3).is_empty());
    }
}
