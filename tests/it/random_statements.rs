//! Random statements over one table `edges` with a column `id` that no two rows share: groups and top rows, each with one answer.
//! The suites of several sources share them.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use townlake_common::QueryContext;
use townlake_connectors::SourceConnections;

use crate::sources::{collect, pushing, typed};

/// What statements are made of.
pub struct Columns<'a> {
    /// What is grouped by, counted and shown.
    pub all: Vec<String>,
    /// Whose sums are asked for.
    pub summed: Vec<String>,
    /// Whose averages are asked for.
    pub averaged: Vec<String>,
    /// Whose extremes are asked for.
    pub ordered: Vec<String>,
    /// A condition on a row.
    pub condition: &'a dyn Fn(&mut StdRng) -> String,
}

fn any<'c>(rng: &mut StdRng, columns: &'c [String]) -> &'c str {
    columns.choose(rng).expect("columns")
}

impl Columns<'_> {
    /// Any column.
    pub fn any(&self, rng: &mut StdRng) -> &str {
        any(rng, &self.all)
    }

    fn aggregate(&self, rng: &mut StdRng) -> String {
        match rng.random_range(0..7) {
            0 => "count(*)".to_string(),
            1 => format!("count({})", self.any(rng)),
            2 | 3 => format!("sum({})", any(rng, &self.summed)),
            4 => format!("avg({})", any(rng, &self.averaged)),
            5 => format!("min({})", any(rng, &self.ordered)),
            _ => format!("max({})", any(rng, &self.ordered)),
        }
    }

    /// ` WHERE …`, in half of all cases.
    fn filter(&self, rng: &mut StdRng) -> String {
        if rng.random_bool(0.5) { format!(" WHERE {}", (self.condition)(rng)) } else { String::new() }
    }

    /// Aggregates of up to two columns' groups.
    pub fn groups(&self, rng: &mut StdRng) -> String {
        let by: Vec<_> = (0..rng.random_range(0..3)).map(|_| self.any(rng).to_string()).collect();
        let mut listed = by.clone();
        listed.extend((0..rng.random_range(1..4)).map(|_| self.aggregate(rng)));
        // Names of their own: a column may come twice.
        let listed: Vec<_> = listed.iter().enumerate().map(|(place, sql)| format!("{sql} AS c{place}")).collect();
        let group_by = if by.is_empty() { String::new() } else { format!(" GROUP BY {}", by.join(", ")) };
        format!("SELECT {} FROM edges{}{group_by}", listed.join(", "), self.filter(rng))
    }

    /// The pairs of values of two columns.
    pub fn distinct(&self, rng: &mut StdRng) -> String {
        let (a, b) = (self.any(rng), self.any(rng));
        format!("SELECT DISTINCT {a} AS a, {b} AS b FROM edges{}", self.filter(rng))
    }

    /// First rows, in an order in which no two are equal.
    pub fn top(&self, rng: &mut StdRng) -> String {
        let key = |rng: &mut StdRng| {
            let direction = ["ASC", "DESC"].choose(rng).expect("two");
            let nulls = ["FIRST", "LAST"].choose(rng).expect("two");
            format!("{} {direction} NULLS {nulls}", self.any(rng))
        };
        let (first, second) = (key(rng), key(rng));
        let (shown, limit) = (self.any(rng), rng.random_range(1..40));
        format!("SELECT id, {shown} AS v FROM edges{} ORDER BY {first}, {second}, id LIMIT {limit}", self.filter(rng))
    }
}

/// The rows as lines, sorted.
pub fn rows(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
        rows.extend(
            (0..batch.num_rows())
                .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join(" | ")),
        );
    }
    rows.sort_unstable();
    rows
}

/// Runs a statement over tables of a source with all that a source may be asked, and over copies of them here. Panics when the rows
/// differ; gives the plan. `told` says which statement it is.
pub async fn compare(
    sql: &str,
    told: &str,
    (query, connections): (&Arc<QueryContext>, &Arc<SourceConnections>),
    tables: &[(&str, Arc<dyn TableProvider>)],
    local: &SessionContext,
) -> String {
    let here = collect(local, sql).await.unwrap_or_else(|error| panic!("{told}\n{error:?}"));
    let session = pushing(query, connections, true);
    for (name, table) in tables {
        session.register_table(*name, Arc::clone(table)).expect("register");
    }
    let plan = session.sql(sql).await.unwrap_or_else(|error| panic!("{told}\n{error}"));
    let plan = plan.create_physical_plan().await.unwrap_or_else(|error| panic!("{told}\n{:?}", typed(error)));
    let text = displayable(plan.as_ref()).indent(false).to_string();
    let there = datafusion::physical_plan::collect(plan, session.task_ctx()).await;
    let there = there.unwrap_or_else(|error| panic!("{told}\n{text}\n{:?}", typed(error)));
    assert_eq!(rows(&there), rows(&here), "{told}\n{text}");
    text
}

/// Whether a statement groups, and all of it was done by the source.
pub fn is_grouped_there(sql: &str, plan: &str) -> bool {
    let is_grouped = sql.contains("count(") || sql.contains("sum(") || sql.contains("DISTINCT");
    is_grouped && plan.contains("ScanExec: table=") && !plan.contains("mode=Partial")
}
