//! Queries in ClickHouse's own SQL, as tables.

use townlake_common::ErrorCode;
use townlake_tests::clickhouse::Engine;

use super::{Ch, collect, query, session};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_is_a_table_with_its_types() {
    let statements = [
        "CREATE TABLE DB.t (id UInt32, name String, at DateTime) ENGINE = MergeTree ORDER BY id",
        "INSERT INTO DB.t SELECT number, concat('n', toString(number)), toDateTime(number) FROM system.numbers LIMIT 100",
    ];
    for engine in [Engine::Old, Engine::Modern] {
        let Some(ch) = Ch::of(engine, "passed", &statements, "pass_through = true").await else { continue };
        let context = query();
        let session = session(&context, &ch.connections, 4);
        let passed = "SELECT id, groupArray(name) AS names FROM passed.t WHERE id < 3 GROUP BY id -- so";
        let table = ch.source().query(&context, passed).await.unwrap_or_else(|error| panic!("{engine:?} {error:?}"));
        session.register_table("q", table).expect("register");
        let rows = collect(&session, "SELECT * FROM q WHERE id > 0 ORDER BY id").await.expect("rows");
        let text = datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
        let cells: Vec<_> = text.lines().skip(3).filter(|line| line.starts_with('|')).collect();
        assert!(cells.len() == 2 && cells[0].contains("[n1]") && cells[1].contains("[n2]"), "{engine:?}\n{text}");
        for passed in [
            "SELECT no_such FROM passed.t",
            "DROP TABLE passed.t",
            "SELECT 1 AS x; DROP TABLE passed.t",
            "SELECT 1 AS x, 2 AS x",
            "",
        ] {
            assert!(ch.source().query(&context, passed).await.is_err(), "{engine:?} {passed}");
        }
        assert_eq!(ch.cells(&["t"], "SELECT count(*) FROM t").await, [["100"]]);
    }
    let Some(ch) = Ch::of(Engine::Old, "passed_off", &statements, "").await else { return };
    assert_eq!(ch.source().query(&query(), "SELECT 1 AS x").await.unwrap_err().code(), ErrorCode::NotSupported);
}
