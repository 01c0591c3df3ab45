//! Kafka beside the lake through the door, on executors.

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::arrow::util::pretty::pretty_format_batches;
use townlake_tests::kafka::{Kafka, PASSWORD};
use townlake_tests::town::TownSpec;

use super::registered::Servers;

const ORDERS: &str = r#"
topic('orders', 4)
p = producer(queue_buffering_max_messages=1000000)
for n in range(60000):
    p.produce('orders', key=str(n), partition=n % 4, value='{"order": %d, "account": %d, "amount": "%d.50"}' % (n, n % 1000, n % 7))
    if n % 5000 == 0:
        p.flush()
p.flush()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn orders_of_kafka_join_accounts_of_the_lake() {
    let Some(server) = Kafka::shared("federated") else { return };
    server.python(ORDERS);
    let catalog = format!(
        "[catalogs.bus]\ntype = \"kafka\"\nbrokers = [\"{}\"]\nsasl = \"SCRAM-SHA-256\"\nusername = \"reader\"\n\
         password = \"{PASSWORD}\"\nreaders = [\"ann\"]\n[[catalogs.bus.tables]]\ntopic = \"orders\"\nschema = \"shop\"\n\
         format = \"json\"\ncolumns = [{{ name = \"order\", type = \"bigint\" }}, {{ name = \"account\", type = \"integer\" }}, \
         {{ name = \"amount\", type = \"decimal(12, 2)\" }}]",
        server.sasl_broker()
    );
    let spec = TownSpec::default().user("ann", "a password", &[]).user("bob", "a password", &[]);
    let town = spec.lake("lake", &[], &["ann"]).toml(&catalog).start().await;
    let connection = town.connect("ann", "a password").await;
    for statement in [
        "CREATE SCHEMA lake.books",
        "CREATE TABLE lake.books.accounts AS SELECT CAST(account AS BIGINT) AS id, account % 3 AS tier FROM bus.shop.orders GROUP BY account",
        "SET SESSION execution = 'cluster'",
    ] {
        connection.run(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    let join = "SELECT count(*) AS n, CAST(sum(amount) AS BIGINT) AS total, sum(o._offset) AS offsets FROM bus.shop.orders AS o \
                JOIN lake.books.accounts AS a ON a.id = o.account WHERE tier = 1 AND o._offset >= 100";
    let (_, batches) = connection.collect(join).await.unwrap_or_else(|error| panic!("{error:?}"));
    let found = [0, 1, 2].map(|column| batches[0].column(column).as_primitive::<Int64Type>().value(0));
    let wanted = (0..60_000i64).filter(|n| n % 1000 % 3 == 1 && n / 4 >= 100);
    let halves: i64 = wanted.clone().map(|n| (n % 7) * 2 + 1).sum();
    assert_eq!(found[0], wanted.clone().count() as i64);
    assert!((found[1] - halves / 2).abs() <= 1, "{found:?} {halves}");
    assert_eq!(found[2], wanted.map(|n| n / 4).sum::<i64>());

    let text = async |sql: &str| {
        let (_, batches) = connection.collect(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        pretty_format_batches(&batches).unwrap().to_string()
    };
    let cut = text("SHOW CUT").await;
    assert!(cut.contains("bus.shop.orders") && cut.contains("read_committed, 0:[0,15000)"), "{cut}");
    let plan = text(&format!("EXPLAIN {join}")).await;
    assert!(plan.contains("KafkaScanExec: table=bus.shop.orders") && plan.contains("offsets=[0:[100,15000)"), "{plan}");
    assert!(!plan.contains(PASSWORD) && !plan.contains("127.0.0.1"), "{plan}");

    // Replayed, with more in the topic.
    let (_, ids) = connection.collect("SELECT id FROM system.runtime.queries WHERE cut LIKE '%bus.shop.orders%' AND state = 'FINISHED' ORDER BY id DESC LIMIT 1").await.unwrap();
    let id = ids[0].column(0).as_string::<i32>().value(0).to_string();
    server.python("p = producer()\nfor n in range(8): p.produce('orders', partition=n % 4, value='{}')\np.flush()");
    let count = "SELECT count(*) AS n FROM bus.shop.orders";
    assert!(text(count).await.contains("60008"));
    connection.run(&format!("SET SESSION cut = '{id}'")).await.unwrap();
    assert!(text(count).await.contains("60000"), "the cut of before");
    connection.run("RESET SESSION cut").await.unwrap();

    let columns =
        text("SELECT column_name, data_type FROM bus.information_schema.columns WHERE table_name = 'orders'").await;
    assert!(columns.contains("_headers") && columns.contains("amount"), "{columns}");
    let error = connection.run("INSERT INTO bus.shop.orders (account) VALUES (1)").await.unwrap_err();
    assert_eq!(error.code(), townlake_common::ErrorCode::NotSupported, "{error}");
    let bob = town.connect("bob", "a password").await;
    let error = bob.collect(count).await.unwrap_err();
    assert!(!format!("{error:?}").contains("orders\" in"), "{error:?}");
    assert_eq!(error.code(), townlake_common::ErrorCode::CatalogNotFound, "{error}");
    town.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_is_made_by_sql_reads_every_format_on_executors() {
    let Some(servers) = Servers::shared("made_by_sql") else { return };
    servers.python(
        r#"
topic('made_json')
write('made_json', ['{"id": %d}' % n for n in range(100)])
topic('made_avro', 2)
order = record('Order', ('id', 'int'), ('tags', {'type': 'array', 'items': 'string'}), ('counts', {'type': 'map', 'values': 'long'}), ('deep', record('D', ('x', 'double'))))
avro('made_avro', order, [dict(id=n, tags=['a', 'b'][:n % 3], counts={'k': n}, deep=dict(x=n / 2)) for n in range(1000)])
topic('made_proto')
order = protos({'o.proto': 'syntax = "proto3"; message O { int64 id = 1; uint64 big = 2; }'})('O')
protobuf('made_proto', order, [order(id=n, big=2**64 - 1) for n in range(100)])
"#,
    );
    let spec = TownSpec::default().user("ann", "a password", &[]).toml("[auth]\nadmins = [\"ann\"]");
    let town = spec.lake("lake", &[], &["ann"]).start().await;
    let connection = town.connect("ann", "a password").await;
    let create = |name: &str, tables: &str| {
        format!(
            "CREATE CATALOG {name} USING kafka WITH (brokers = '{0}, {0}', sasl = 'PLAIN', username = 'reader', password = '{PASSWORD}', \
             schema_registry = '{1}', request_timeout = '20s', tables = '{tables}')",
            servers.kafka.sasl_broker(),
            servers.registry.url()
        )
    };
    let tables = r#"[{"topic": "made_json", "format": "json", "columns": [{"name": "id", "type": "bigint"}]},
        {"topic": "made_avro", "format": "avro", "schema": "shop", "table": "orders", "on_error": "null-and-count"},
        {"topic": "made_proto", "format": "protobuf"}, {"topic": "made_json", "format": "avro", "table": "no_subject"}]"#;
    for statement in [&create("made", tables), "SET SESSION execution = 'cluster'"] {
        connection.run(statement).await.unwrap_or_else(|error| panic!("{error:?}"));
    }
    let text = async |sql: &str| {
        let (_, batches) = connection.collect(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        pretty_format_batches(&batches).unwrap().to_string()
    };
    let join = "SELECT count(*) AS n, sum(o.id) AS ids, sum(o.counts['k']) AS ks, sum(cardinality(o.tags)) AS tags, sum(o.deep['x']) AS x, \
                max(p.big) AS big FROM made.\"default\".made_json AS j JOIN made.shop.orders AS o ON o.id = j.id \
                JOIN made.\"default\".made_proto AS p ON p.id = o.id";
    let expected = "| 100 | 4950 | 4950 | 99   | 2475.0 | 18446744073709551615 |";
    let joined = text(join).await;
    assert!(joined.contains(expected), "{joined}");
    let nested = text("SELECT tags, counts, deep, _error FROM made.shop.orders WHERE id = 2").await;
    assert!(nested.contains("| [a, b] | {k: 2} | {x: 1.0} |        |"), "{nested}");
    let sql = "SELECT table_name, column_name FROM made.information_schema.columns WHERE column_name IN ('tags', 'big') ORDER BY 1";
    let columns = text(sql).await;
    assert!(
        columns.contains("made_proto") && columns.contains("orders"),
        "a table without a subject hides none: {columns}"
    );
    let shown = text("SHOW CREATE CATALOG made").await;
    assert!(shown.contains("made_json") && !shown.contains(PASSWORD), "{shown}");
    assert!(!text(&format!("EXPLAIN {join}")).await.contains("127.0.0.1"), "no address is in a plan");
    for (tables, word) in [("hunter2", "tables"), (r#"[{"topic": "t", "format": "hunter2"}]"#, "protobuf")] {
        let error = connection.run(&create("broken", tables)).await.unwrap_err();
        assert_eq!(error.code(), townlake_common::ErrorCode::InvalidArgument, "{error}");
        assert!(error.message().contains(word) && !format!("{error:?}").contains("hunter2"), "{error}");
    }
    connection.run("DROP CATALOG made").await.unwrap();
    town.stop().await;
}
