//! Money moves between accounts while parallel splits sum it: between the first and the last split of every scan a transfer is committed, from an
//! account that was read to one that is read later. On one snapshot the sum stays.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;

use super::{Crm, query};

const ACCOUNTS: i64 = 30_000;
const EACH: i64 = 100;
const SLICE: usize = 60;
const SOAK: usize = 500;

struct Bank {
    crm: Crm,
}

impl Bank {
    async fn open(test: &str) -> Option<Self> {
        let sql = format!(
            "CREATE TABLE account (id int PRIMARY KEY, balance bigint, note text) WITH (fillfactor = 60); \
             INSERT INTO account SELECT i, {EACH}, repeat('x', 60) FROM generate_series(1, {ACCOUNTS}) i; ANALYZE account"
        );
        Some(Self { crm: Crm::new(test, &sql).await? })
    }

    /// A plan of the sum's scan, in a query of its own.
    async fn scan(&self) -> (SessionContext, Arc<dyn ExecutionPlan>) {
        let session = self.crm.session(&query(), 4, &["account"]).await;
        let frame = session.sql("SELECT balance FROM account WHERE balance > -1000000").await.expect("parse");
        let plan = frame.create_physical_plan().await.expect("plan");
        assert!(plan.output_partitioning().partition_count() > 2, "the scan is not cut");
        (session, plan)
    }

    /// From the beginning of the heap to its end, or back.
    async fn transfer(&self, round: usize) {
        let (poor, rich) = (1 + (round as i64 * 7) % 1000, ACCOUNTS - (round as i64 * 11) % 1000);
        let amount = if round.is_multiple_of(2) { 10 } else { -10 };
        let sql = format!(
            "BEGIN; UPDATE account SET balance = balance - {amount} WHERE id = {poor}; \
             UPDATE account SET balance = balance + {amount} WHERE id = {rich}; COMMIT"
        );
        self.crm.admin.batch_execute(&sql).await.expect("move money");
    }

    /// The sum over all splits, with a commit after the first; `pinned`: all of one snapshot, else each of its own.
    async fn sum(&self, round: usize, pinned: bool) -> i64 {
        let (session, plan) = self.scan().await;
        let mut sum = 0;
        for partition in 0..plan.output_partitioning().partition_count() {
            if partition == 1 {
                self.transfer(round).await;
            }
            let (session, plan) = if pinned { (session.clone(), Arc::clone(&plan)) } else { self.scan().await };
            let rows = plan.execute(partition, session.task_ctx()).expect("execute");
            let batches: Vec<_> = rows.try_collect().await.expect("rows");
            sum += batches
                .iter()
                .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().iter().flatten())
                .sum::<i64>();
        }
        sum
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_over_splits_is_of_one_moment() {
    let Some(bank) = Bank::open("consistency").await else { return };
    let rounds = if std::env::var_os("TOWNLAKE_SOAK").is_some() { SOAK } else { SLICE };
    for round in 0..rounds {
        assert_eq!(bank.sum(round, true).await, ACCOUNTS * EACH, "scan {round}");
    }
}

/// The test above can fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_snapshot_money_is_lost_or_found() {
    let Some(bank) = Bank::open("consistency_unpinned").await else { return };
    let mut wrong = 0;
    for round in 0..10 {
        wrong += usize::from(bank.sum(round, false).await != ACCOUNTS * EACH);
    }
    assert!(wrong >= 5, "only {wrong} of 10 sums without a snapshot were wrong");
}
