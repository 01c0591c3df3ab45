//! How a relation is cut: ranges of heap blocks (ctid), disjoint, and complete because the last one is open-ended.
//!
//! Rows of the snapshot never move, so that ranges of blocks are ranges of rows, and blocks that are added later hold
//! nothing that the snapshot sees. For a partitioned table each range applies to every partition's own heap: one statement
//! on the parent reads blocks a..b of each. That keeps the parent's rights and row security in force (reading a partition
//! directly would go around them), and lets the server prune partitions by the predicate as usual.

use townlake_common::Result;

use super::recipe::Split;
use super::snapshot::Snapshot;
use super::sql::{literal, relation};

/// A range reads at least this many blocks (512 KiB): smaller ones cost more to begin than to read.
const BLOCKS_PER_SPLIT: u64 = 64;

/// The heaps below a relation: itself, its partitions, its children by inheritance.
const HEAPS: &str = "WITH RECURSIVE tree AS ( \
       SELECT oid, relkind, relam FROM pg_catalog.pg_class WHERE oid = $1::regclass \
       UNION \
       SELECT c.oid, c.relkind, c.relam FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid \
         JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid) \
     SELECT pg_catalog.current_setting('server_version_num')::int4 >= 140000 \
         AND (tree.relkind = 'p' OR (tree.relkind IN ('r', 'm') AND COALESCE(am.amname = 'heap', false))), \
       CASE WHEN tree.relkind IN ('r', 'm') THEN \
         pg_catalog.pg_relation_size(tree.oid) / pg_catalog.current_setting('block_size')::int8 ELSE 0 END \
     FROM tree LEFT JOIN pg_catalog.pg_am am ON am.oid = tree.relam";

/// Cuts a relation into at most `wanted` splits.
pub(crate) async fn plan(snapshot: &Snapshot, schema: &str, table: &str, wanted: usize) -> Result<Vec<Split>> {
    if wanted <= 1 {
        return Ok(vec![Split::default()]);
    }
    let sql = HEAPS.replace("$1", &literal(&relation(schema, table)));
    let rows = snapshot.look_up(&format!("measure table {schema}.{table}"), &sql).await?;
    let mut heaps = Vec::with_capacity(rows.len());
    for row in &rows {
        // A view, a foreign table, another access method: no blocks. Before 14 a range would read the whole table.
        match (row.get(0), row.get(1).and_then(|blocks| blocks.parse::<u64>().ok())) {
            (Some("t"), Some(blocks)) => heaps.push(blocks),
            _ => return Ok(vec![Split::default()]),
        }
    }
    Ok(cut(&heaps, wanted))
}

/// Ranges of which each holds about the same number of blocks over all heaps.
fn cut(heaps: &[u64], wanted: usize) -> Vec<Split> {
    let total: u64 = heaps.iter().sum();
    let count = (total / BLOCKS_PER_SPLIT).min(wanted as u64);
    let mut ends: Vec<u32> = (1..count).filter_map(|index| boundary(heaps, total * index / count)).collect();
    ends.dedup();
    let starts = std::iter::once(None).chain(ends.iter().copied().map(Some));
    let ends = ends.iter().copied().map(Some).chain(std::iter::once(None));
    starts.zip(ends).map(|(first, end)| Split { first, end }).collect()
}

/// The smallest block number below which all heaps together hold at least `share` blocks.
fn boundary(heaps: &[u64], share: u64) -> Option<u32> {
    let (mut low, mut high) = (0, heaps.iter().copied().max()?);
    while low < high {
        let middle = low + (high - low) / 2;
        let below: u64 = heaps.iter().map(|blocks| (*blocks).min(middle)).sum();
        if below >= share { high = middle } else { low = middle + 1 }
    }
    u32::try_from(low).ok().filter(|block| *block > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(splits: &[Split]) {
        assert_eq!(splits.first().unwrap().first, None);
        assert_eq!(splits.last().unwrap().end, None);
        for pair in splits.windows(2) {
            assert!(pair[0].end.is_some() && pair[0].end == pair[1].first, "{splits:?}");
            assert!(pair[0].first < pair[0].end, "{splits:?}");
        }
    }

    #[test]
    fn ranges_touch_and_cover_everything() {
        for heaps in [vec![], vec![0], vec![63], vec![1000], vec![10, 5000, 0, 77], vec![4_294_967_295], vec![100; 50]]
        {
            for wanted in [1, 2, 7, 64] {
                let splits = cut(&heaps, wanted);
                assert!(splits.len() <= wanted);
                check(&splits);
            }
        }
        assert_eq!(cut(&[63], 8), [Split::default()]);
        assert_eq!(cut(&[1000], 8).len(), 8);
    }

    #[test]
    fn shares_are_even_over_uneven_partitions() {
        let heaps = [100, 1000, 300];
        let splits = cut(&heaps, 7);
        for split in &splits {
            let (first, end) = (u64::from(split.first.unwrap_or(0)), split.end.map_or(u64::MAX, u64::from));
            let blocks: u64 = heaps.iter().map(|b| b.min(&end).saturating_sub(first)).sum();
            assert!((150..=250).contains(&blocks), "{blocks} of {splits:?}");
        }
    }
}
