//! The benchmark harness: the same queries on several engines, interleaved in one run, with checked answers.
//!
//! Machines are noisy, so only what is interleaved is compared: every round runs each query on each engine in turn.
//! Medians over the rounds and their ratio are shown; a query whose answers differ between engines is marked and
//! makes the whole run fail.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod answers;
mod peers;
mod report;

use std::time::Instant;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use townlake_common::Result;

pub use answers::{checksum, difference, is_ordered};
pub use peers::SingleProcess;
pub use report::{Report, median};

/// Something that answers SQL.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What the report calls it.
    fn name(&self) -> &str;
    /// Runs one query to its last row.
    async fn run(&self, sql: &str) -> Result<Vec<RecordBatch>>;
}

/// One query of a suite: its label, and its text for each engine (names of tables differ).
pub struct Query {
    /// For example `q01`.
    pub label: String,
    /// One text per engine, in the order of the engines.
    pub texts: Vec<String>,
}

/// Runs every query on every engine `rounds` times, after one round that is not counted.
pub async fn compare(engines: &[&dyn Engine], queries: &[Query], rounds: usize) -> Report {
    let mut report = Report::new(engines.iter().map(|engine| engine.name().to_string()).collect());
    for round in 0..=rounds {
        for query in queries {
            for (index, engine) in engines.iter().enumerate() {
                let text = query.texts.get(index).map(String::as_str).unwrap_or_default();
                let started = Instant::now();
                let outcome = engine.run(text).await;
                let seconds = started.elapsed().as_secs_f64();
                if round > 0 || outcome.is_err() {
                    let answer = outcome.as_ref().map(|batches| checksum(batches, is_ordered(text)));
                    let answer = answer.map_err(ToString::to_string);
                    report.add(&query.label, index, seconds, answer);
                }
            }
        }
        eprintln!("  round {round} of {rounds} done{}", if round == 0 { " (warm-up, not counted)" } else { "" });
    }
    report
}
