//! How a table is cut, without a snapshot: ClickHouse has none that several statements could share.
//!
//! * By *partition*: a row never leaves its partition, so that such splits stay disjoint and complete whatever is merged.
//! * By *part*, where partitions are too few or uneven: the large parts are named when the scan is planned, the last split reads
//!   all others. A merge would break this, for it makes a part that nobody named. So each split asks, once its statement has
//!   begun, whether the named parts are still there: a part that is gone never comes back, so that those that are there were
//!   there when the statement chose what to read. If one is not, the query fails and may be run again.
//! * By *hash* of the sorting key: where `FINAL` must see all rows of a key in one place, and for one very large part. The server
//!   then reads the table once a split: there are few of them.
//! * The *whole* table: small ones, and what has no parts (views, other engines).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use townlake_common::{ErrorCode, QueryId, Result};

use super::client::Client;
use super::recipe::Split;
use super::sql::literal;

/// A split reads at least this many rows: smaller ones cost more to begin than to read.
const ROWS_PER_SPLIT: u64 = 65_536;
/// A hash reads the table once a split: not for fewer rows.
const ROWS_PER_HASH: u64 = 1_000_000;
/// Most splits by hash.
const MOST_HASHES: usize = 4;
/// Most names in one statement.
const MOST_NAMES: usize = 1000;
/// Most parts that are looked at, the largest first.
const MOST_PARTS: usize = 10_000;

/// The active parts of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts(Vec<Part>);

#[derive(Debug, Clone)]
struct Part {
    partition: String,
    name: String,
    rows: u64,
}

#[derive(Deserialize)]
struct Found {
    partition_id: String,
    name: String,
    size: String,
}

impl Parts {
    /// Asks for the parts of a table; none where the account may not see them.
    pub async fn of(client: &Arc<Client>, query: &QueryId, database: &str, table: &str) -> Result<Self> {
        let sql = format!(
            "SELECT partition_id, name, toString(rows) AS size FROM system.parts WHERE active AND database = {} AND table = {} \
             ORDER BY rows DESC LIMIT {MOST_PARTS} FORMAT JSONEachRow",
            literal(database),
            literal(table)
        );
        let found = client.look_up::<Found>(query, &format!("measure table {database}.{table}"), &sql).await;
        match found {
            Ok(found) => {
                let part = |found: Found| Part {
                    partition: found.partition_id,
                    name: found.name,
                    rows: found.size.parse().unwrap_or_default(),
                };
                Ok(Self(found.into_iter().map(part).collect()))
            }
            Err(error) if error.code() == ErrorCode::SourceDenied => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Rows in all of them.
    pub fn rows(&self) -> u64 {
        self.0.iter().fold(0, |sum, part| sum.saturating_add(part.rows))
    }

    /// Cuts the table into at most `wanted` splits; `can_hash`: it has a key to hash.
    pub fn cut(&self, wanted: usize, can_hash: bool, is_final: bool) -> Vec<Split> {
        let total = self.rows();
        let count = usize::try_from(total / ROWS_PER_SPLIT).unwrap_or(usize::MAX).min(wanted);
        let whole = vec![Split::Whole];
        if count < 2 {
            return whole;
        }
        let hashes = if can_hash && total >= ROWS_PER_HASH { count.min(MOST_HASHES) } else { 1 };
        let by_hash = || (0..hashes as u32).map(|index| Split::Hash { index, count: hashes as u32 }).collect();
        if is_final {
            return if hashes > 1 { by_hash() } else { whole };
        }
        let partitions = self.partitions(count);
        let parts = self.large_parts(count);
        let is_even = |groups: &Groups| groups.largest <= 2 * total / count as u64;
        if is_even(&partitions) {
            partitions.splits(|ids, others| Split::Partitions { ids, others })
        } else if is_even(&parts) {
            parts.splits(|names, others| Split::Parts { names, others })
        } else if hashes > 1 && partitions.largest.min(parts.largest) > total / 2 {
            by_hash()
        } else if partitions.largest <= parts.largest {
            partitions.splits(|ids, others| Split::Partitions { ids, others })
        } else {
            parts.splits(|names, others| Split::Parts { names, others })
        }
    }

    fn partitions(&self, count: usize) -> Groups {
        let mut rows = BTreeMap::<&str, u64>::new();
        for part in &self.0 {
            let sum = rows.entry(&part.partition).or_default();
            *sum = sum.saturating_add(part.rows);
        }
        Groups::pack(rows.into_iter().collect(), self.rows(), count)
    }

    /// Only what is large: it is merged seldom, and small parts all the time.
    fn large_parts(&self, count: usize) -> Groups {
        let total = self.rows();
        let large = total / (4 * count as u64);
        let parts = self.0.iter().filter(|part| part.rows > large);
        Groups::pack(parts.map(|part| (part.name.as_str(), part.rows)).collect(), total, count)
    }
}

/// Named things in groups of about the same number of rows. The first group is of whatever the others do not name.
struct Groups {
    named: Vec<Vec<String>>,
    /// Rows of the largest group.
    largest: u64,
}

impl Groups {
    /// Packs `items`, some of what has `total` rows, into at most `count` groups, the largest items first.
    fn pack(mut items: Vec<(&str, u64)>, total: u64, count: usize) -> Self {
        items.sort_by_key(|(name, rows)| (Reverse(*rows), *name));
        items.truncate(MOST_NAMES);
        let known: u64 = items.iter().map(|(_, rows)| rows).sum();
        let mut groups: Vec<(u64, Vec<String>)> = vec![(0, Vec::new()); count];
        if let Some(others) = groups.first_mut() {
            others.0 = total.saturating_sub(known);
        }
        for (name, rows) in items {
            if let Some(smallest) = groups.iter_mut().min_by_key(|(load, _)| *load) {
                smallest.0 += rows;
                smallest.1.push(name.to_string());
            }
        }
        let largest = groups.iter().map(|(load, _)| *load).max().unwrap_or_default();
        let named = groups.into_iter().skip(1).map(|(_, names)| names).filter(|names| !names.is_empty());
        Self { named: named.collect(), largest }
    }

    fn splits(self, split: impl Fn(Vec<String>, bool) -> Split) -> Vec<Split> {
        if self.named.is_empty() {
            return vec![Split::Whole];
        }
        let all = self.named.concat();
        let named = self.named.into_iter().map(|names| split(names, false));
        named.chain([split(all, true)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &[(&str, &str, u64)]) -> Parts {
        let part = |(partition, name, rows): &(&str, &str, u64)| Part {
            partition: partition.to_string(),
            name: name.to_string(),
            rows: *rows,
        };
        Parts(list.iter().map(part).collect())
    }

    /// Every name is in one split, by its name or as one of the others.
    fn check(splits: &[Split], names: &[&str]) {
        for name in names.iter().chain(&["of later"]) {
            let reads = |split: &&Split| match split {
                Split::Whole => true,
                Split::Partitions { ids: names, others } | Split::Parts { names, others } => {
                    names.iter().any(|own| own == name) != *others
                }
                Split::Hash { .. } => false,
            };
            assert_eq!(splits.iter().filter(reads).count(), 1, "{name}: {splits:?}");
        }
    }

    #[test]
    fn even_partitions_come_first() {
        let list: Vec<_> = (1..=12).map(|month| (format!("m{month}"), format!("m{month}_1_1_0"))).collect();
        let list: Vec<_> = list.iter().map(|(id, name)| (id.as_str(), name.as_str(), 100_000)).collect();
        let splits = parts(&list).cut(4, true, false);
        assert_eq!(splits.len(), 4);
        assert!(splits.iter().all(|split| matches!(split, Split::Partitions { .. })), "{splits:?}");
        check(&splits, &list.iter().map(|(id, ..)| *id).collect::<Vec<_>>());
    }

    #[test]
    fn large_parts_are_named_and_small_ones_are_not() {
        let list =
            [("all", "a", 200_000), ("all", "b", 150_000), ("all", "c", 150_000), ("all", "d", 5_000), ("all", "e", 1)];
        let splits = parts(&list).cut(3, true, false);
        assert_eq!(splits.len(), 3);
        check(&splits, &["a", "b", "c", "d", "e"]);
        let text = format!("{splits:?}");
        assert!(text.contains("Parts") && !text.contains("\"d\"") && !text.contains("\"e\""), "{text}");
    }

    #[test]
    fn one_large_part_is_hashed_where_it_can_be() {
        let list = [("all", "a", 9_000_000)];
        let hashes = parts(&list).cut(8, true, false);
        assert_eq!(hashes.len(), MOST_HASHES);
        assert!(matches!(hashes[3], Split::Hash { index: 3, count: 4 }));
        assert_eq!(parts(&list).cut(8, false, false), [Split::Whole]);
        assert_eq!(parts(&[("all", "a", 500_000)]).cut(8, true, false), [Split::Whole], "not worth it");
    }

    #[test]
    fn final_rows_of_a_key_stay_together() {
        let list = [("x", "a", 2_000_000), ("y", "b", 2_000_000)];
        assert!(parts(&list).cut(2, true, true).iter().all(|split| matches!(split, Split::Hash { .. })));
        assert_eq!(parts(&list).cut(2, false, true), [Split::Whole]);
    }

    #[test]
    fn small_tables_and_those_without_parts_are_whole() {
        assert_eq!(parts(&[]).cut(8, true, false), [Split::Whole]);
        assert_eq!(parts(&[("x", "a", 50_000), ("y", "b", 50_000)]).cut(8, true, false), [Split::Whole]);
        let many: Vec<_> = (0..20_000u64).map(|index| (format!("p{index}"), index % 7 * 100)).collect();
        let many: Vec<_> = many.iter().map(|(id, rows)| (id.as_str(), id.as_str(), *rows)).collect();
        let splits = parts(&many).cut(16, false, false);
        check(&splits, &["p1", "p19999", "p6"]);
        assert!(splits.iter().all(|split| split.encode().len() < 32_000));
    }
}
