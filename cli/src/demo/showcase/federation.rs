//! The questions over five systems.

use townlake_common::{Error, Result};

use super::ask;
use crate::connection::Connection;
use crate::demo::sources::Sources;

const FIVE: &str = "\
SELECT r.r_name AS region, count(DISTINCT o.o_orderkey) AS orders,
       sum(l.l_extendedprice * (1 - l.l_discount)) AS revenue
FROM lake.tpch.lineitem l                                           -- Iceberg
JOIN bus.tpch.orders o ON o.o_orderkey = l.l_orderkey               -- Kafka
JOIN crm.public.customer c ON c.c_custkey = o.o_custkey             -- Postgres
JOIN crm.public.nation n ON n.n_nationkey = c.c_nationkey
JOIN stock.tpch.part p ON p.p_partkey = l.l_partkey                 -- ClickHouse
JOIN partners.tpch.supplier s ON s.s_suppkey = l.l_suppkey          -- BigQuery
JOIN partners.tpch.region r ON r.r_regionkey = n.n_regionkey
WHERE c.c_mktsegment = 'BUILDING' AND p.p_size BETWEEN 1 AND 10
  AND o.o_orderdate >= DATE '1997-01-01' AND s.s_acctbal > 0
GROUP BY r.r_name ORDER BY revenue DESC";

const COUNTS: &str = "\
SELECT (SELECT count(*) FROM bus.tpch.orders) AS orders_in_kafka,
       (SELECT count(*) FROM lake.tpch.lineitem) AS items_in_the_lake";

const NEW_ORDER: &str = "{\"o_orderkey\": 0, \"o_custkey\": 1, \"o_orderstatus\": \"O\", \"o_totalprice\": 9.99, \
    \"o_orderdate\": \"1998-08-02\", \"o_comment\": \"just now\"}\n";

/// Asks them and prints what comes back.
pub async fn run(connection: &Connection, sources: &Sources) -> Result<()> {
    ask(connection, 1, "one statement over five systems", FIVE).await?;
    ask(connection, 2, "its cut: the moment at which each was read", "SHOW CUT").await?;
    ask(connection, 3, "what each system is asked, and the stages", &format!("EXPLAIN {FIVE}")).await?;
    let id = ask(connection, 4, "two counts, to be remembered", COUNTS).await?;
    let id = id.ok_or_else(|| Error::internal("the server names a query"))?;

    sources.kafka.produce("orders", std::iter::once(Ok(NEW_ORDER.to_string()))).await?;
    connection.run("DELETE FROM lake.tpch.lineitem WHERE l_orderkey < 100").await?;
    let title = "the same after an order came to Kafka and items left the lake";
    ask(connection, 5, title, COUNTS).await?;

    let replay = format!("SET SESSION cut = '{id}'");
    connection.run(&replay).await?;
    ask(connection, 6, &format!("and as it was at the fourth question, by {replay}"), COUNTS).await?;
    connection.run("RESET SESSION cut").await?;
    Ok(())
}
