//! Which part of a source's connections each process of a cluster may open. Pure arithmetic: every process does it for itself, from
//! the same member list, and comes to parts that make up no more than the budget.
//!
//! Each process has its least: a coordinator what a plan needs at the same time, an executor one. Of what is left one half goes to the
//! coordinators, which hold a snapshot for each query that runs, and one to the executors, which read; remainders go by rank.

use std::collections::BTreeSet;

/// What a process is to the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessRole {
    /// It plans, and runs small queries.
    Coordinator,
    /// It reads splits.
    Executor,
}

/// Where a process stands among all that use the same sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There are no others.
    Alone,
    /// There may be others, which are not known yet.
    Unknown,
    /// One of so many.
    Member {
        /// What it is.
        role: ProcessRole,
        /// Its place among those of its role.
        rank: usize,
        /// How many coordinators there are.
        coordinators: usize,
        /// How many executors there are.
        executors: usize,
    },
}

/// The connections to a source that all processes may have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The number.
    pub connections: usize,
    /// What a coordinator cannot work with less than.
    pub coordinator_least: usize,
}

/// What an executor cannot work with less than.
const EXECUTOR_LEAST: usize = 1;

/// What a process may open now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// So many connections.
    pub connections: usize,
    /// Whether it plans.
    pub plans: bool,
}

impl Standing {
    /// Where the process `me` stands. It counts itself, whether or not the list has it this very moment.
    pub fn of(me: &str, role: ProcessRole, coordinators: &BTreeSet<String>, executors: &BTreeSet<String>) -> Self {
        let own = if role == ProcessRole::Coordinator { coordinators } else { executors };
        let rank = own.iter().take_while(|other| other.as_str() < me).count();
        let missing = usize::from(!own.contains(me));
        let (mut coordinators, mut executors) = (coordinators.len(), executors.len());
        match role {
            ProcessRole::Coordinator => coordinators += missing,
            ProcessRole::Executor => executors += missing,
        }
        Self::Member { role, rank, coordinators, executors }
    }

    /// What the process may open of a budget. The parts of all are no more than the budget, unless it is less than they need.
    pub fn share(&self, budget: Budget) -> Share {
        let Budget { connections, coordinator_least } = budget;
        let Self::Member { role, rank, coordinators, executors } = *self else {
            let all = if *self == Self::Alone { connections.max(coordinator_least) } else { 0 };
            return Share { connections: all, plans: true };
        };
        let rest = connections.saturating_sub(budget.needed(coordinators, executors));
        let for_coordinators = match (coordinators, executors) {
            (0, _) => 0,
            (_, 0) => rest,
            _ => rest / 2,
        };
        let (least, part, heads) = match role {
            ProcessRole::Coordinator => (coordinator_least, for_coordinators, coordinators),
            ProcessRole::Executor => (EXECUTOR_LEAST, rest - for_coordinators, executors),
        };
        let heads = heads.max(1);
        let remainder = usize::from(rank < part % heads);
        Share { connections: least + part / heads + remainder, plans: role == ProcessRole::Coordinator }
    }

    /// What all processes need together at the least.
    pub fn needed(&self, budget: Budget) -> usize {
        match *self {
            Self::Member { coordinators, executors, .. } => budget.needed(coordinators, executors),
            Self::Alone | Self::Unknown => 0,
        }
    }
}

impl Budget {
    fn needed(self, coordinators: usize, executors: usize) -> usize {
        coordinators.saturating_mul(self.coordinator_least).saturating_add(executors.saturating_mul(EXECUTOR_LEAST))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    fn names(prefix: &str, count: usize) -> BTreeSet<String> {
        (0..count).map(|number| format!("{prefix}{number:03}")).collect()
    }

    /// The shares of all coordinators, then of all executors.
    fn shares(budget: Budget, coordinators: usize, executors: usize) -> (Vec<usize>, Vec<usize>) {
        let (coordinators, executors) = (names("c", coordinators), names("e", executors));
        let of = |names: &BTreeSet<String>, role| {
            let share = |me: &String| Standing::of(me, role, &coordinators, &executors).share(budget).connections;
            names.iter().map(share).collect()
        };
        (of(&coordinators, ProcessRole::Coordinator), of(&executors, ProcessRole::Executor))
    }

    fn budget(connections: usize) -> Budget {
        Budget { connections, coordinator_least: 2 }
    }

    #[test]
    fn what_is_left_is_halved_and_remainders_go_by_rank() {
        for (connections, coordinators, executors, expected) in [
            (32, 1, 2, (vec![16], vec![8, 8])),
            (16, 1, 3, (vec![7], vec![3, 3, 3])),
            (4, 1, 2, (vec![2], vec![1, 1])),
            (11, 2, 3, (vec![3, 3], vec![2, 2, 1])),
            (10, 3, 0, (vec![4, 3, 3], vec![])),
            (10, 1, 1, (vec![5], vec![5])),
            // Too little: each keeps its least.
            (2, 1, 2, (vec![2], vec![1, 1])),
        ] {
            assert_eq!(shares(budget(connections), coordinators, executors), expected, "{connections}");
        }
    }

    #[test]
    fn the_shares_of_random_clusters_make_up_the_budget() {
        let seed: u64 = rand::random();
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..3000 {
            let (coordinators, executors) = (random.random_range(0..6), random.random_range(0..40));
            let (connections, coordinator_least) = (random.random_range(0..200), random.random_range(1..4));
            let budget = Budget { connections, coordinator_least };
            let (planning, reading) = shares(budget, coordinators, executors);
            let sum: usize = planning.iter().chain(&reading).sum();
            let needed = budget.needed(coordinators, executors);
            let what = format!("seed {seed}: {budget:?} over {coordinators} and {executors}: {planning:?} {reading:?}");
            assert!(planning.iter().all(|share| *share >= budget.coordinator_least), "{what}");
            assert!(reading.iter().all(|share| *share >= 1), "{what}");
            // Nothing is given twice, and nothing is left lying.
            let whole = if coordinators + executors == 0 { 0 } else { budget.connections.max(needed) };
            assert_eq!(sum, whole, "{what}");
            for shares in [&planning, &reading] {
                let spread = shares.iter().max().zip(shares.iter().min()).map_or(0, |(most, least)| most - least);
                assert!(spread <= 1, "{what}");
            }
        }
    }

    #[test]
    fn a_process_counts_itself_and_one_that_knows_nobody_waits() {
        let (nobody, two) = (BTreeSet::new(), names("e", 2));
        let newcomer = Standing::of("e001x", ProcessRole::Executor, &nobody, &two);
        let expected = Standing::Member { role: ProcessRole::Executor, rank: 2, coordinators: 0, executors: 3 };
        assert_eq!(newcomer, expected);
        assert_eq!(newcomer.needed(budget(1)), 3);
        assert_eq!(Standing::Unknown.share(budget(10)).connections, 0);
        assert_eq!(Standing::Alone.share(budget(10)).connections, 10);
        assert_eq!(Standing::Alone.share(budget(1)).connections, 2);
    }
}
