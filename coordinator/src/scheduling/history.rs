//! The stage statistics of queries that have ended, the youngest ones.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use townlake_common::QueryId;

use super::stages::StageStats;

/// Queries that are kept.
const KEPT: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    stages: HashMap<QueryId, Arc<Vec<StageStats>>>,
    order: VecDeque<QueryId>,
}

impl History {
    /// Keeps the stages of a query; those of an earlier job of the same query make room.
    pub(super) fn keep(&self, query: &QueryId, stages: Vec<StageStats>) {
        let mut pages = self.0.lock();
        if pages.stages.insert(query.clone(), Arc::new(stages)).is_none() {
            pages.order.push_back(query.clone());
        }
        while pages.order.len() > KEPT {
            if let Some(oldest) = pages.order.pop_front() {
                pages.stages.remove(&oldest);
            }
        }
    }

    /// The stages of a query, when they are still kept.
    pub(super) fn get(&self, query: &QueryId) -> Option<Arc<Vec<StageStats>>> {
        self.0.lock().stages.get(query).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_falls_off() {
        let history = History::default();
        let queries: Vec<_> = (0..=KEPT).map(|_| QueryId::generate()).collect();
        for query in &queries {
            history.keep(query, Vec::new());
            history.keep(query, Vec::new());
        }
        assert!(history.get(&queries[0]).is_none());
        assert!(history.get(&queries[1]).is_some() && history.get(&queries[KEPT]).is_some());
    }
}
