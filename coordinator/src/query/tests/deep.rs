//! Statements that are deep: they run, or they are refused, and the process lives.

use std::future::Future;

use townlake_engine::runtime::THREAD_STACK_BYTES;

use super::*;

/// On threads like those of a coordinator.
fn on_its_threads(test: impl Future<Output = ()> + Send + 'static) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().thread_stack_size(THREAD_STACK_BYTES).build().unwrap();
    runtime.block_on(async { tokio::spawn(test).await.unwrap() });
}

fn chain(count: usize, operator: &str, term: impl Fn(usize) -> String) -> String {
    (0..count).map(term).collect::<Vec<_>>().join(operator)
}

#[test]
fn long_chains_run_or_are_refused() {
    on_its_threads(async {
        let (door, ann) = (Door::open().await, session("ann"));
        door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
        door.run(
            &ann,
            "CREATE TABLE lake.s.t AS SELECT * FROM (VALUES (1, 'a', true), (7, 'b', true)) AS v (id, name, yes)",
        )
        .await
        .unwrap();
        let any =
            |count| format!("SELECT count(*) FROM lake.s.t WHERE {}", chain(count, " OR ", |i| format!("id = {i}")));
        let all = |count| {
            format!("SELECT count(*) FROM lake.s.t WHERE {}", chain(count, " AND ", |i| format!("id <> {}", i + 3)))
        };
        let sum = |count| format!("SELECT max(id + {}) FROM lake.s.t", chain(count, " + ", |_| "id".to_string()));
        let text = |count| {
            format!("SELECT max(length(name || {})) FROM lake.s.t", chain(count, " || ", |_| "name".to_string()))
        };
        let yes =
            |count| format!("SELECT count(*) FROM lake.s.t WHERE {}", chain(count, " OR ", |_| "yes".to_string()));
        let mixed = |count| format!("SELECT max({}) FROM lake.s.t", chain(count, " + id - ", |_| "id".to_string()));
        for (sql, value) in
            [(any(1_500), 2), (all(1_500), 1), (sum(800), 7 * 801), (text(800), 801), (yes(3_900), 2), (mixed(400), 7)]
        {
            let shown = &sql[sql.len() - 40..];
            let rows = door.run(&ann, &sql).await.unwrap_or_else(|error| panic!("…{shown}: {error}"));
            assert_eq!(number(&rows), value, "…{shown}");
        }
        for sql in [sum(1_500), mixed(3_000)] {
            assert_eq!(door.error(&ann, &sql).await.code(), ErrorCode::NotSupported);
        }
        for sql in [any(3_000), all(3_000), yes(5_000)] {
            let error = door.error(&ann, &sql).await;
            assert_eq!(error.code(), ErrorCode::NotSupported, "{error}");
            assert!(error.hint().unwrap().contains("IN (…)"), "{error}");
        }
        assert_eq!(door.error(&ann, &yes(100_000)).await.code(), ErrorCode::NotSupported);
        assert_eq!(number(&door.run(&ann, "SELECT 1").await.unwrap()), 1);
    });
}

#[test]
fn deep_plans_run_or_are_refused() {
    on_its_threads(async {
        let (door, ann) = (Door::open().await, session("ann"));
        let union =
            |count| format!("SELECT sum(a) FROM ({}) AS t (a)", chain(count, " UNION ALL ", |i| format!("SELECT {i}")));
        let set = |count| chain(count, " EXCEPT ", |i| format!("SELECT {i}"));
        let with = |count: usize| {
            let steps = chain(count, ", ", |i| format!("t{} AS (SELECT a + 1 AS a FROM t{i} WHERE a >= 0)", i + 1));
            format!("WITH t0 AS (SELECT 0 AS a), {steps} SELECT a FROM t{count}")
        };
        let from =
            |count| format!("SELECT count(*) FROM {}", chain(count, ", ", |i| format!("(VALUES (1)) AS t{i} (a)")));
        assert_eq!(number(&door.run(&ann, &union(1_000)).await.unwrap()), 999 * 500);
        assert_eq!(number(&door.run(&ann, &set(100)).await.unwrap()), 0);
        assert_eq!(number(&door.run(&ann, &with(200)).await.unwrap()), 200);
        assert_eq!(number(&door.run(&ann, &from(100)).await.unwrap()), 1);
        for sql in [union(5_000), set(5_000), with(5_000), from(5_000)] {
            assert_eq!(door.error(&ann, &sql).await.code(), ErrorCode::NotSupported);
        }
        for (calls, refused) in [(20, false), (5_000, true)] {
            let sql = format!("SELECT {}1{}", "abs(".repeat(calls), ")".repeat(calls));
            let code = door.run(&ann, &sql).await.err().map(|error| error.code());
            assert_eq!(code, refused.then_some(ErrorCode::NotSupported));
        }
    });
}
