//! Which snapshots, branches and tags are old enough to go.
//!
//! The rules are those of the format's reference implementation: <https://iceberg.apache.org/spec/#snapshot-retention-policy>.
//! A branch keeps its last snapshots and those that are young; a tag keeps its own; a snapshot that no branch or tag leads to
//! stays while it is young. So a snapshot goes only where it is old *and* beyond those that are to be kept.

use std::collections::{BTreeMap, BTreeSet};

use iceberg::spec::{MAIN_BRANCH, SnapshotRef, SnapshotReference, SnapshotRetention, TableMetadata};
use townlake_common::Result;

use super::{check_collectable, property};
use crate::refs;

const MAX_SNAPSHOT_AGE: &str = "history.expire.max-snapshot-age-ms";
const MIN_SNAPSHOTS: &str = "history.expire.min-snapshots-to-keep";
const MAX_REF_AGE: &str = "history.expire.max-ref-age-ms";
const FIVE_DAYS_MS: i64 = 5 * 24 * 60 * 60 * 1000;

/// What is to be expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiration {
    /// What the time is, in milliseconds since the epoch.
    pub now_ms: i64,
    /// Snapshots from then on stay, in milliseconds since the epoch; `None`: by the table's properties.
    pub older_than_ms: Option<i64>,
    /// How many snapshots each branch keeps at least; `None`: by the table's properties.
    pub retain_last: Option<usize>,
    /// Snapshots that running queries read: they stay.
    pub pinned: BTreeSet<i64>,
}

/// What goes.
#[derive(Debug, Default)]
pub(crate) struct Expired {
    pub snapshots: Vec<i64>,
    pub references: Vec<String>,
}

impl Expiration {
    /// What of a table goes.
    ///
    /// Errors: `NOT_SUPPORTED` for a table whose files are not its own (`gc.enabled` is false); `INVALID_ARGUMENT` for a
    /// table property that is no number.
    pub(crate) fn of(&self, metadata: &TableMetadata, table: &str) -> Result<Expired> {
        check_collectable(metadata, table)?;
        let max_age = property(metadata, MAX_SNAPSHOT_AGE, table)?.unwrap_or(FIVE_DAYS_MS);
        let from = self.older_than_ms.unwrap_or_else(|| self.now_ms.saturating_sub(max_age));
        let min = property(metadata, MIN_SNAPSHOTS, table)?.and_then(|min| usize::try_from(min).ok()).unwrap_or(1);
        let min = self.retain_last.unwrap_or(min).max(1);
        let max_ref_age = property(metadata, MAX_REF_AGE, table)?.unwrap_or(i64::MAX);

        let (kept_refs, references) = self.references(metadata, max_ref_age);
        let mut kept = self.pinned.clone();
        let mut named = BTreeSet::new();
        for reference in kept_refs.values() {
            kept.insert(reference.snapshot_id);
            let SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, .. } = reference.retention
            else {
                named.insert(reference.snapshot_id);
                continue;
            };
            let min = min_snapshots_to_keep.and_then(|min| usize::try_from(min).ok()).unwrap_or(min);
            let from = max_snapshot_age_ms.map_or(from, |age| self.now_ms.saturating_sub(age));
            for (number, snapshot) in ancestors(metadata, Some(reference.snapshot_id)).enumerate() {
                named.insert(snapshot.snapshot_id());
                if number < min || snapshot.timestamp_ms() >= from {
                    kept.insert(snapshot.snapshot_id());
                }
            }
        }
        let stays = |snapshot: &SnapshotRef| {
            let id = snapshot.snapshot_id();
            kept.contains(&id) || (!named.contains(&id) && snapshot.timestamp_ms() >= from)
        };
        let snapshots = metadata.snapshots().filter(|snapshot| !stays(snapshot)).map(|snapshot| snapshot.snapshot_id());
        let mut snapshots: Vec<i64> = snapshots.collect();
        snapshots.sort_unstable();
        Ok(Expired { snapshots, references })
    }

    /// The branches and tags that stay, and the names of those that are too old. `main` is never too old.
    fn references(&self, metadata: &TableMetadata, max_age: i64) -> (BTreeMap<String, SnapshotReference>, Vec<String>) {
        let is_old = |name: &str, reference: &SnapshotReference| {
            let own_age = match &reference.retention {
                SnapshotRetention::Branch { max_ref_age_ms, .. } | SnapshotRetention::Tag { max_ref_age_ms } => {
                    max_ref_age_ms
                }
            };
            let born = metadata.snapshot_by_id(reference.snapshot_id).map(|snapshot| snapshot.timestamp_ms());
            let age = born.map_or(i64::MAX, |born| self.now_ms.saturating_sub(born));
            name != MAIN_BRANCH && age > own_age.unwrap_or(max_age)
        };
        let (old, kept): (BTreeMap<_, _>, BTreeMap<_, _>) =
            refs::all(metadata).into_iter().partition(|(name, reference)| is_old(name, reference));
        (kept, old.into_keys().collect())
    }
}

/// A snapshot and those before it, as far as the table still has them.
pub(crate) fn ancestors(metadata: &TableMetadata, head: Option<i64>) -> impl Iterator<Item = &SnapshotRef> {
    let snapshot = |id: i64| metadata.snapshot_by_id(id);
    let first = head.and_then(snapshot);
    // Metadata from outside may have a snapshot that is its own ancestor.
    let most = metadata.snapshots().len();
    std::iter::successors(first, move |last| last.parent_snapshot_id().and_then(snapshot)).take(most)
}

#[cfg(test)]
mod tests {
    use townlake_common::ErrorCode;

    use super::*;
    use crate::testing::Lake;
    use crate::{CreateReference, IfTaken, ReferenceKind, TableChange};

    /// A table of five snapshots, a minute apart in what `times` says; the ids from the oldest on.
    async fn five() -> (Lake, Vec<i64>) {
        let lake = Lake::create(&[("id", arrow::datatypes::DataType::Int64)], &[]).await;
        let mut ids = Vec::new();
        for number in 0..5 {
            let location = lake.location("t");
            let file = crate::testing::file(&location, &format!("f{number}"), iceberg::spec::Struct::empty(), |_| {});
            ids.push(lake.append("t", vec![file]).await);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        (lake, ids)
    }

    fn expiration(now_ms: i64) -> Expiration {
        Expiration { now_ms, older_than_ms: Some(now_ms), retain_last: None, pinned: BTreeSet::new() }
    }

    async fn expired(lake: &Lake, expiration: &Expiration) -> (BTreeSet<i64>, Vec<String>) {
        let table = lake.load("t").await;
        let expired = expiration.of(&table.metadata, "lake.s.t").unwrap();
        (expired.snapshots.into_iter().collect(), expired.references)
    }

    fn set(ids: &[i64]) -> BTreeSet<i64> {
        ids.iter().copied().collect()
    }

    async fn name(lake: &Lake, create: CreateReference) {
        lake.catalog.alter_table("s", "t", &[TableChange::CreateReference(create)]).await.unwrap().unwrap();
    }

    fn reference(name: &str, kind: ReferenceKind, snapshot: i64) -> CreateReference {
        CreateReference {
            name: name.to_string(),
            kind,
            snapshot: Some(snapshot),
            if_taken: IfTaken::Refuse,
            max_age_ms: None,
            min_snapshots: None,
            max_snapshot_age_ms: None,
        }
    }

    #[tokio::test]
    async fn a_snapshot_goes_where_it_is_old_and_beyond_the_last() {
        let (lake, ids) = five().await;
        let now = chrono::Utc::now().timestamp_millis() + 1000;
        let all = expiration(now);
        assert_eq!(expired(&lake, &all).await.0, set(&ids[..4]), "the current one stays");
        let last_two = Expiration { retain_last: Some(2), ..all.clone() };
        assert_eq!(expired(&lake, &last_two).await.0, set(&ids[..3]));
        let table = lake.load("t").await;
        let third = table.metadata.snapshot_by_id(ids[2]).unwrap().timestamp_ms();
        let young = Expiration { older_than_ms: Some(third), ..all.clone() };
        assert_eq!(expired(&lake, &young).await.0, set(&ids[..2]));
        let pinned = Expiration { pinned: set(&[ids[1]]), ..all.clone() };
        assert_eq!(expired(&lake, &pinned).await.0, set(&[ids[0], ids[2], ids[3]]));
        let by_properties = Expiration { older_than_ms: None, ..all };
        assert!(expired(&lake, &by_properties).await.0.is_empty(), "five days are not over");
    }

    #[tokio::test]
    async fn branches_and_tags_keep_what_they_name_until_they_are_old_themselves() {
        let (lake, ids) = five().await;
        name(&lake, reference("v1", ReferenceKind::Tag, ids[0])).await;
        name(&lake, reference("b", ReferenceKind::Branch, ids[2])).await;
        let old = CreateReference { max_age_ms: Some(1), ..reference("old", ReferenceKind::Tag, ids[1]) };
        name(&lake, old).await;
        let now = chrono::Utc::now().timestamp_millis() + 1000;
        let (snapshots, references) = expired(&lake, &expiration(now)).await;
        assert_eq!((snapshots, references), (set(&[ids[1], ids[3]]), vec!["old".to_string()]));
        let keeps = CreateReference {
            if_taken: IfTaken::Replace,
            min_snapshots: Some(2),
            ..reference("b", ReferenceKind::Branch, ids[2])
        };
        name(&lake, keeps).await;
        assert_eq!(expired(&lake, &expiration(now)).await.0, set(&[ids[3]]), "the branch keeps two");
    }

    #[tokio::test]
    async fn what_no_branch_leads_to_stays_while_it_is_young() {
        let (lake, ids) = five().await;
        let back = crate::BranchMove { branch: MAIN_BRANCH.to_string(), to: crate::SnapshotChoice::Past(ids[1]) };
        lake.catalog.alter_table("s", "t", &[TableChange::MoveBranch(back)]).await.unwrap().unwrap();
        let now = chrono::Utc::now().timestamp_millis() + 1000;
        assert_eq!(expired(&lake, &expiration(now)).await.0, set(&[ids[0], ids[2], ids[3], ids[4]]));
        let table = lake.load("t").await;
        let fourth = table.metadata.snapshot_by_id(ids[3]).unwrap().timestamp_ms();
        let young = Expiration { older_than_ms: Some(fourth), ..expiration(now) };
        assert_eq!(expired(&lake, &young).await.0, set(&[ids[0], ids[2]]));
    }

    #[tokio::test]
    async fn a_table_that_does_not_own_its_files_expires_nothing() {
        let (lake, _) = five().await;
        let set = |key: &str, value: &str| TableChange::SetProperties(vec![(key.to_string(), value.to_string())]);
        let fails = async || {
            let table = lake.load("t").await;
            expiration(0).of(&table.metadata, "lake.s.t").err().map(|error| error.code())
        };
        lake.catalog.alter_table("s", "t", &[set(MIN_SNAPSHOTS, "many")]).await.unwrap().unwrap();
        assert_eq!(fails().await, Some(ErrorCode::InvalidArgument));
        lake.catalog.alter_table("s", "t", &[set("gc.enabled", "false")]).await.unwrap().unwrap();
        assert_eq!(fails().await, Some(ErrorCode::NotSupported));
    }
}
