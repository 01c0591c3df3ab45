//! What bounds the connections of one process to a source: its share of the cluster's budget.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::places::Places;
use crate::share::{Budget, Share, Standing};

/// Something whose connections are bounded by a share.
pub trait Bounded: Send + Sync {
    /// What all processes may have together.
    fn budget(&self) -> Budget;

    /// How many connections this process may have.
    fn share(&self) -> usize;

    /// How many it works with now; more than its share for as long as what runs needs them.
    fn used(&self) -> usize;

    /// Makes its share another: one that shrinks closes idle connections at once, and the others as they come free.
    fn set_share(&self, share: Share);
}

/// The bound of a source that has nothing but places.
#[derive(Debug)]
pub(crate) struct Bound {
    budget: Budget,
    places: Arc<Places>,
}

impl Bound {
    /// The whole of a budget, until there is a share.
    pub fn new(connections: usize) -> Self {
        let budget = Budget { connections, coordinator_least: 1 };
        Self { budget, places: Places::new(Standing::Alone.share(budget).connections) }
    }

    /// The places.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }
}

impl Bounded for Bound {
    fn budget(&self) -> Budget {
        self.budget
    }

    fn share(&self) -> usize {
        self.places.all()
    }

    fn used(&self) -> usize {
        self.places.taken()
    }

    fn set_share(&self, share: Share) {
        self.places.resize(share.connections);
    }
}

/// The budget of a catalog as it is here, for those who watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetState {
    /// The catalog.
    pub catalog: String,
    /// `connections` of its configuration, for the whole cluster.
    pub budget: usize,
    /// What this process may have of it.
    pub share: usize,
    /// What this process works with.
    pub used: usize,
    /// What all processes need together at the least.
    pub needed: usize,
}

/// Where this process stands, as its sources are told it.
#[derive(Debug)]
pub(crate) struct Shares(Mutex<Told>);

#[derive(Debug, Clone, Copy)]
struct Told {
    standing: Standing,
    is_settled: bool,
}

impl Shares {
    /// Of a process that is alone.
    pub fn new() -> Self {
        Self(Mutex::new(Told { standing: Standing::Alone, is_settled: true }))
    }

    /// Where the process stands now. Not yet settled, shares shrink and none grows.
    pub fn tell(&self, standing: Standing, is_settled: bool) {
        *self.0.lock() = Told { standing, is_settled };
    }

    /// Gives a source that is used already its share.
    pub fn apply(&self, bounded: &dyn Bounded) {
        // Under the lock: two tellings are not mixed.
        let told = self.0.lock();
        let mut share = told.standing.share(bounded.budget());
        if !told.is_settled {
            share.connections = share.connections.min(bounded.share());
        }
        bounded.set_share(share);
    }

    /// Gives a source that is new here its share: it had none.
    pub fn apply_first(&self, bounded: &dyn Bounded) {
        let none = Share { connections: 0, plans: true };
        bounded.set_share(none);
        self.apply(bounded);
    }

    /// What all processes need of a budget at the least.
    pub fn needed(&self, budget: Budget) -> usize {
        self.0.lock().standing.needed(budget)
    }

    /// Whether nothing changes for now.
    pub fn are_settled(&self) -> bool {
        self.0.lock().is_settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::ProcessRole;

    #[test]
    fn a_share_shrinks_at_once_and_grows_when_all_is_settled() {
        let (bound, shares) = (Bound::new(10), Shares::new());
        let standing =
            |executors| Standing::Member { role: ProcessRole::Executor, rank: 0, coordinators: 1, executors };
        let seen = |standing, is_settled| {
            shares.tell(standing, is_settled);
            shares.apply(&bound);
            bound.share()
        };
        assert_eq!(seen(Standing::Unknown, true), 0);
        assert_eq!(seen(standing(1), false), 0, "a newcomer waits for the others to shrink");
        assert_eq!(seen(standing(1), true), 5);
        assert_eq!(seen(standing(4), false), 2);
        assert_eq!(seen(standing(1), false), 2);
        assert_eq!(seen(standing(1), true), 5);
        let second = Bound::new(10);
        shares.tell(standing(1), false);
        shares.apply_first(&second);
        assert_eq!(second.share(), 0, "a catalog that was made meanwhile waits, too");
    }
}
