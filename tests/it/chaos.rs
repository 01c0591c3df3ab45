//! Bad days of a cluster of real processes: killed, stopped and draining executors, an etcd that is away, clients that go
//! away, too little memory, writes that fail.

mod cancel;
mod coordinator;
mod etcd;
pub(crate) mod executors;
mod memory;
mod writes;

use std::time::Duration;

/// The longest that a query of these tests may take, on a machine that is busy with other things.
const ANSWER: Duration = Duration::from_secs(120);

/// 180 million pairs are looked at, in six tasks of stage 2; about 84 thousand are found.
const PAIRS: &str = "SELECT a.l_orderkey AS ao, a.l_linenumber AS al, b.l_orderkey AS bo, b.l_linenumber AS bl \
    FROM lake.chaos.items a JOIN lake.chaos.items b ON a.l_suppkey = b.l_suppkey \
    WHERE sin(a.l_extendedprice + b.l_tax) > 0.999999";

/// The same pairs, counted: stage 2 looks at them, stage 3 adds up.
const COUNTED_PAIRS: &str = "SELECT count(*), sum(a.l_orderkey), sum(b.l_orderkey) \
    FROM lake.chaos.items a JOIN lake.chaos.items b ON a.l_suppkey = b.l_suppkey \
    WHERE sin(a.l_extendedprice + b.l_tax) > 0.999999";

/// Ninety thousand million pairs, in loops without a hash table, of which none is found: no operator sees a row.
const NO_PAIRS: &str =
    "SELECT count(*) FROM lake.chaos.items a JOIN lake.chaos.items b ON a.l_extendedprice + b.l_tax < 0";

/// The stage of these in which the time goes.
const LONG_STAGE: u32 = 2;

/// Over a million rows, 80 MB, soon there and long to read; no two of its rows are the same.
const MANY_ROWS: &str = "SELECT a.l_orderkey, a.l_linenumber, b.l_linenumber AS other, a.l_comment \
    FROM lake.chaos.items a JOIN lake.chaos.items b ON a.l_orderkey = b.l_orderkey";
