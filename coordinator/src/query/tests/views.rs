//! Views: whose rights count, what bounds them, and metadata that other engines or enemies wrote.

use datafusion::arrow::datatypes::FieldRef;
use townlake_lake::{CreateView, LakeCatalog};

use super::*;

/// A view that another engine made: any text over one column `id BIGINT`.
async fn foreign(lake: &LakeCatalog, view: &str, sql: &str) {
    let id: FieldRef = Arc::new(Field::new("id", DataType::Int64, true));
    let create = CreateView {
        schema: "s".to_string(),
        view: view.to_string(),
        sql: sql.to_string(),
        default_schema: "s".to_string(),
        columns: vec![id],
        query_columns: vec!["id".to_string()],
        replace: true,
        ..CreateView::default()
    };
    assert!(lake.create_view(&create).await.unwrap());
}

async fn open() -> (Door, Arc<Session>, Arc<LakeCatalog>) {
    let (door, ann) = (Door::open().await, session("ann"));
    door.run(&ann, "CREATE SCHEMA lake.s").await.unwrap();
    door.run(&ann, "USE lake.s").await.unwrap();
    door.run(&ann, "CREATE TABLE t AS SELECT * FROM (VALUES (1, 'a'), (2, 'b'), (3, 'c')) AS v (id, name)")
        .await
        .unwrap();
    let lake = door.service.catalogs().writable(&ann.principal, "lake").await.unwrap();
    (door, ann, lake)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_gives_no_rights_and_tells_no_names() {
    let (door, ann, lake) = open().await;
    let bob = session("bob");
    door.run(&ann, "CREATE VIEW v AS SELECT id FROM t").await.unwrap();
    assert_eq!(number(&door.run(&bob, "SELECT sum(id) FROM lake.s.v").await.unwrap()), 6);
    for sql in [
        "CREATE VIEW lake.s.w AS SELECT 1 AS a",
        "CREATE OR REPLACE VIEW lake.s.v AS SELECT 1 AS id",
        "DROP VIEW lake.s.v",
        "ALTER VIEW lake.s.v RENAME TO w",
        "COMMENT ON VIEW lake.s.v IS 'x'",
    ] {
        assert_eq!(door.error(&bob, sql).await.code(), ErrorCode::PermissionDenied, "{sql}");
    }
    // ledger is there for carol only, ledgex for nobody
    let mut told = Vec::new();
    for catalog in ["ledger", "ledgex"] {
        foreign(&lake, "hidden", &format!("SELECT id FROM {catalog}.s.t")).await;
        foreign(&lake, "versioned", &format!("SELECT id FROM {catalog}.s.t FOR VERSION AS OF 1")).await;
        foreign(&lake, "deeper", "SELECT id FROM hidden").await;
        let mut errors = String::new();
        for sql in [
            "SELECT * FROM lake.s.hidden",
            "SELECT * FROM lake.s.versioned",
            "SELECT id FROM lake.s.deeper",
            "SHOW CREATE VIEW lake.s.hidden",
            "EXPLAIN SELECT * FROM lake.s.hidden",
        ] {
            let error = door.error(&bob, sql).await;
            assert!(!format!("{error}{:?}", error.hint()).contains("ledge"), "{sql}: {error}");
            errors += &format!("{error}\n");
        }
        let definitions = "SELECT view_definition FROM lake.information_schema.views WHERE table_name = 'hidden'";
        assert!(!door.text(&bob, definitions).await.contains("ledge"));
        told.push(errors);
    }
    assert_eq!(told[0], told[1], "who asks cannot tell what is hidden from what is not there");
    let shown = door.text(&bob, "SHOW CREATE VIEW lake.s.deeper").await;
    assert!(shown.contains("SELECT id FROM hidden"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_never_reads_itself() {
    let (door, ann, lake) = open().await;
    door.run(&ann, "CREATE VIEW a AS SELECT id FROM t").await.unwrap();
    door.run(&ann, "CREATE VIEW b AS SELECT id FROM a").await.unwrap();
    for sql in ["CREATE OR REPLACE VIEW a AS SELECT id FROM a", "CREATE OR REPLACE VIEW a AS SELECT id FROM b"] {
        let error = door.error(&ann, sql).await;
        assert_eq!(error.code(), ErrorCode::InvalidQuery, "{error}");
        assert!(error.message().contains("lake.s.a reads itself: lake.s.a →"), "{error}");
    }
    foreign(&lake, "x", "SELECT id FROM y").await;
    foreign(&lake, "y", "SELECT id FROM (SELECT id FROM x) AS q").await;
    let error = door.error(&ann, "SELECT * FROM x").await;
    assert_eq!(
        (error.code(), error.message()),
        (ErrorCode::InvalidQuery, "view lake.s.x reads itself: lake.s.x → lake.s.y → lake.s.x")
    );
    assert_eq!(door.error(&ann, "CREATE VIEW c AS SELECT * FROM t, x").await.code(), ErrorCode::InvalidQuery);
    door.run(&ann, "DROP VIEW x").await.unwrap();
    let error = door.error(&ann, "SELECT * FROM y").await;
    assert_eq!(
        (error.code(), error.message()),
        (ErrorCode::TableNotFound, "view lake.s.y cannot be read: table lake.s.x does not exist")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn views_of_views_are_bounded() {
    let (door, ann, lake) = open().await;
    foreign(&lake, "v0", "SELECT id FROM t").await;
    for level in 1..=17 {
        foreign(&lake, &format!("v{level}"), &format!("SELECT id FROM v{}", level - 1)).await;
    }
    assert_eq!(number(&door.run(&ann, "SELECT sum(id) FROM v15").await.unwrap()), 6);
    let error = door.error(&ann, "SELECT sum(id) FROM v16").await;
    assert_eq!(error.code(), ErrorCode::NotSupported);
    assert!(error.message().contains("16 levels: lake.s.v16 → lake.s.v15"), "{error}");

    // twice as many tables at each level
    foreign(&lake, "w0", "SELECT id FROM t").await;
    for level in 1..=15 {
        let below = level - 1;
        foreign(&lake, &format!("w{level}"), &format!("SELECT id FROM w{below} UNION ALL SELECT id FROM w{below}"))
            .await;
    }
    let began = Instant::now();
    let error = door.error(&ann, "SELECT sum(id) FROM w15").await;
    assert!(error.message().contains("more than 1000 tables"), "{error}");
    // each level adds its operators to those beneath
    let terms = vec!["id"; 500].join(" + ");
    foreign(&lake, "x0", "SELECT id FROM t").await;
    for level in 1..=12 {
        foreign(&lake, &format!("x{level}"), &format!("SELECT ({terms}) % 7 AS id FROM x{}", level - 1)).await;
    }
    let error = door.error(&ann, "SELECT id FROM x12").await;
    assert!(error.message().contains("more than 4000 operators"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_query_of_ours_is_refused_without_its_text() {
    let (door, ann, lake) = open().await;
    for (sql, code) in [
        ("DROP TABLE t", ErrorCode::NotSupported),
        ("INSERT INTO t SELECT 9, 'secret'", ErrorCode::NotSupported),
        ("SELECT id FROM t; DROP TABLE t", ErrorCode::NotSupported),
        ("SELECT secret FRM t", ErrorCode::NotSupported),
        ("", ErrorCode::NotSupported),
        ("SELECT id FROM t WHERE id = ?", ErrorCode::NotSupported),
        ("SELECT id FROM t LIMIT $1", ErrorCode::NotSupported),
        ("SELECT secret(id) AS id FROM t", ErrorCode::FunctionNotFound),
        ("SELECT id FROM nothing", ErrorCode::TableNotFound),
        ("SELECT id FROM information_schema.nothing", ErrorCode::TableNotFound),
        ("SELECT id + 'x' AS id FROM t", ErrorCode::InvalidQuery),
    ] {
        foreign(&lake, "bad", sql).await;
        let error = door.error(&ann, "SELECT * FROM bad").await;
        assert_eq!(error.code(), code, "{sql}: {error}");
        assert!(error.message().contains("view lake.s.bad"), "{sql}: {error}");
    }
    foreign(&lake, "bad", &format!("SELECT {} FROM t", "(".repeat(100_000))).await;
    assert_eq!(door.error(&ann, "SELECT * FROM bad").await.code(), ErrorCode::NotSupported);
    foreign(&lake, "bad", &format!("SELECT id FROM t WHERE name <> '{}'", "x".repeat(1 << 20))).await;
    let error = door.error(&ann, "SELECT * FROM bad").await;
    assert_eq!(error.code(), ErrorCode::ResourceExhausted, "{error}");
    // It is there all the same, and goes.
    assert_eq!(texts(&door.run(&ann, "SHOW VIEWS").await.unwrap()), ["bad"]);
    door.run(&ann, "DESCRIBE bad").await.unwrap();
    door.run(&ann, "DROP VIEW bad").await.unwrap();
    assert_eq!(number(&door.run(&ann, "SELECT count(*) FROM t").await.unwrap()), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_keeps_its_columns_when_its_tables_change() {
    let (door, ann, _) = open().await;
    for sql in [
        "CREATE VIEW every AS SELECT * FROM t",
        "CREATE VIEW named (a, b) AS SELECT * FROM t",
        "CREATE VIEW listed AS SELECT name, id FROM t",
        "CREATE VIEW counted (n, top) AS SELECT count(*), max(id) FROM t",
        "ALTER TABLE t ADD COLUMN more INT FIRST",
    ] {
        door.run(&ann, sql).await.unwrap();
    }
    for (view, row) in [("every", "1  | a"), ("named", "1 | a"), ("listed", "a    | 1"), ("counted", "3 | 3")] {
        let shown = door.text(&ann, &format!("SELECT * FROM {view} LIMIT 1")).await;
        assert!(shown.contains(row), "{view}: {shown}");
    }
    door.run(&ann, "ALTER TABLE t ALTER COLUMN id TYPE DECIMAL(20, 0)").await.unwrap_err();
    door.run(&ann, "ALTER TABLE t RENAME COLUMN name TO label").await.unwrap();
    let error = door.error(&ann, "SELECT * FROM every").await;
    assert_eq!(
        (error.code(), error.message()),
        (ErrorCode::InvalidQuery, "view lake.s.every is stale: its query does not give the column name any more")
    );
    assert_eq!(door.error(&ann, "SELECT * FROM listed").await.code(), ErrorCode::ColumnNotFound);
    door.run(&ann, "ALTER TABLE t ADD COLUMN name BIGINT").await.unwrap();
    let error = door.error(&ann, "SELECT * FROM named").await;
    assert!(error.message().contains("stale: its column b was varchar and is bigint now"), "{error}");
    door.run(&ann, "DROP TABLE t").await.unwrap();
    door.run(&ann, "CREATE TABLE t AS SELECT CAST(7 AS INT) AS id, 'x' AS name").await.unwrap();
    assert_eq!(number(&door.run(&ann, "SELECT id FROM every").await.unwrap()), 7);
    let prepared = door.service.prepare(&ann, "SELECT id FROM every").await.unwrap();
    assert_eq!(*prepared.schema.field(0).data_type(), DataType::Int64, "the view's type, not the table's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_sees_one_state_of_a_table_and_its_views() {
    let (door, ann, _) = open().await;
    door.run(&ann, "CREATE VIEW v AS SELECT id, name FROM t").await.unwrap();
    let plan = door.text(&ann, "EXPLAIN SELECT name FROM v WHERE id = 2 AND name <> 'q'").await;
    assert!(plan.contains("lake.s.t") && plan.contains("id@0 = 2"), "the filter reaches the scan: {plan}");
    let count = "SELECT count(*) FROM v";
    let explained = door.text(&ann, &format!("EXPLAIN {count}")).await;
    assert!(!explained.contains("DataSourceExec: file_groups"), "from metadata: {explained}");
    assert_eq!(number(&door.run(&ann, count).await.unwrap()), 3);
    door.run(&ann, "INSERT INTO t SELECT max(id) + 10, 'new' FROM v").await.unwrap();
    assert_eq!(number(&door.run(&ann, "SELECT max(id) FROM v").await.unwrap()), 13);
    for sql in [
        "INSERT INTO v VALUES (1, 'x')",
        "DELETE FROM v",
        "UPDATE v SET id = 1",
        "TRUNCATE TABLE v",
        "MERGE INTO v USING t ON v.id = t.id WHEN MATCHED THEN DELETE",
        "INSERT OVERWRITE v SELECT * FROM t",
        "ALTER TABLE v ADD COLUMN x INT",
        "ALTER TABLE IF EXISTS v RENAME TO w",
        "ALTER TABLE v EXECUTE optimize",
        "COMMENT ON TABLE v IS 'x'",
        "DROP TABLE v",
        "DROP TABLE IF EXISTS v",
        "SELECT * FROM \"v$files\"",
        "SELECT * FROM v FOR VERSION AS OF 1",
        "SELECT * FROM v FOR TIMESTAMP AS OF '2026-01-01'",
    ] {
        let error = door.error(&ann, sql).await;
        assert_eq!(error.code(), ErrorCode::NotSupported, "{sql}: {error}");
        assert!(error.message().contains("lake.s.v is a view"), "{sql}: {error}");
    }
    for sql in ["DROP VIEW t", "DROP VIEW IF EXISTS t", "ALTER VIEW t RENAME TO u", "SHOW CREATE VIEW t"] {
        let error = door.error(&ann, sql).await;
        assert_eq!(error.code(), ErrorCode::NotSupported, "{sql}: {error}");
        assert!(error.message().contains("lake.s.t is a table"), "{sql}: {error}");
    }
    for sql in [
        "CREATE TABLE v (id INT)",
        "CREATE TABLE IF NOT EXISTS v AS SELECT 1 AS id",
        "ALTER TABLE t RENAME TO v",
        "CREATE VIEW t AS SELECT 1 AS id",
        "CREATE OR REPLACE VIEW t AS SELECT 1 AS id",
        "ALTER VIEW v RENAME TO t",
    ] {
        assert_eq!(door.error(&ann, sql).await.code(), ErrorCode::AlreadyExists, "{sql}");
    }
    assert_eq!(texts(&door.run(&ann, "SHOW TABLES").await.unwrap()), ["t", "v"]);
}
