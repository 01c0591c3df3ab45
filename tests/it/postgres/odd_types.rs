//! Types without a counterpart here, arrays of any depth, and rows that lie elsewhere: what is read, and what is said of it.

use datafusion::physical_plan::ExecutionPlanProperties;
use townlake_common::ErrorCode;
use townlake_connectors::column_comment;
use townlake_tests::postgres::PASSWORD;

use super::{Crm, query};

/// Column, type, a literal, and how it is read.
const AS_TEXT: &[(&str, &str, &str, &str)] = &[
    ("h", "hstore", "a=>1, b=>NULL", r#""a"=>"1", "b"=>NULL"#),
    ("ci", "citext", "AbC", "AbC"),
    ("r", "int4range", "[1,4]", "[1,5)"),
    ("nr", "numrange", "(1.5,)", "(1.5,)"),
    ("tr", "tstzrange", "[2024-01-01 00:00+02,infinity)", r#"["2023-12-31 22:00:00+00",infinity)"#),
    ("mr", "int4multirange", "{[5,7),[1,3)}", "{[1,3),[5,7)}"),
    ("re", "int4range", "empty", "empty"),
    ("ra", "int8range", "(,)", "(,)"),
    ("rx", "numrange", "(1.5,2.5)", "(1.5,2.5)"),
    ("rd", "daterange", "[-infinity,2024-01-01]", "[-infinity,2024-01-02)"),
    ("rt", "tsrange", "(2024-01-01,2024-01-01)", "empty"),
    ("me", "int4multirange", "{}", "{}"),
    ("mo", "nummultirange", "{(,1),[2,)}", "{(,1),[2,)}"),
    ("hq", "hstore", r#""a\"b"=>"c\\d", "e,f"=>"", "NULL"=>"NULL""#, r#""a\"b"=>"c\\d", "e,f"=>"", "NULL"=>"NULL""#),
    ("bt", "bit(3)", "101", "101"),
    ("vb", "varbit", "1", "1"),
    ("m", "money", "-12.345", "-$12.35"),
    ("ip", "inet", "::1", "::1/128"),
    ("cd", "cidr", "10.0.0.0/8", "10.0.0.0/8"),
    ("ma", "macaddr", "08-00-2b-01-02-03", "08:00:2b:01:02:03"),
    ("m8", "macaddr8", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:05"),
    ("tv", "tsvector", "a fat cat", "'a' 'cat' 'fat'"),
    ("tq", "tsquery", "fat & cat", "'fat' & 'cat'"),
    ("po", "point", "1,2", "(1,2)"),
    ("li", "line", "{1,2,3}", "{1,2,3}"),
    ("ls", "lseg", "(0,0),(1,1)", "[(0,0),(1,1)]"),
    ("bx", "box", "0,0,1,1", "(1,1),(0,0)"),
    ("pa", "path", "(0,0),(1,1)", "((0,0),(1,1))"),
    ("pg", "polygon", "(0,0),(1,1)", "((0,0),(1,1))"),
    ("cr", "circle", "<(0,0),1>", "<(0,0),1>"),
    ("ln", "pg_lsn", "16/B374D848", "16/B374D848"),
    ("jp", "jsonpath", "$.a", "$.\"a\""),
    ("tz", "timetz", "12:00+02", "12:00:00+02"),
    ("iv", "int2vector", "1 2 3", "1 2 3"),
    ("dr", "drange", "[1,4]", "[1,5)"),
    ("dh", "dhstore", "a=>1", r#""a"=>"1""#),
    ("fn", "numeric", "NaN", "NaN"),
    ("fi", "numeric", "-Infinity", "-Infinity"),
];

/// The same, of types that are what they seem.
const AS_THEY_ARE: &[(&str, &str, &str, &str)] = &[
    ("n", "name", "pg", "pg"),
    ("o", "oid", "4294967295", "4294967295"),
    ("c", "\"char\"", "x", "x"),
    ("di", "dint", "7", "7"),
    ("dd", "ddate", "2024-02-29", "2024-02-29"),
    ("dm", "dmood", "ok", "ok"),
    ("ib", "interval", "1 mon -1 day 00:00:01", "1 mons -1 days 1.000000000 secs"),
    ("pf", "float8", "-0", "-0.0"),
    ("ad", "dint[]", "{1,NULL}", "[1, ]"),
    ("am", "dmood[]", "{ok,NULL}", "[ok, ]"),
    ("ac", "citext[]", "{AbC}", "[AbC]"),
    ("ah", "hstore[]", "{a=>1}", r#"["a"=>"1"]"#),
    ("ab", "bit(2)[]", "{10}", "[10]"),
    ("ax", "box[]", "{(1,1),(0,0)}", "[(1,1),(0,0)]"),
    ("ap", "bpchar(4)[]", "{ab}", "[ab]"),
    ("da", "dints", "{1,2}", "[1, 2]"),
    ("aa", "dints[]", "{\"{1,2}\",NULL}", "[{1,2}, ]"),
    ("xx", "xml", "<a>1</a>", "<a>1</a>"),
];

const TYPES: &str = "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN dint AS int4; CREATE DOMAIN ddate AS date; CREATE DOMAIN dmood AS mood; CREATE DOMAIN dints AS int4[];
    CREATE DOMAIN drange AS int4range; CREATE DOMAIN dhstore AS hstore;";

#[tokio::test]
async fn what_has_no_counterpart_is_read_as_text_and_says_so() {
    let all: Vec<_> = AS_TEXT.iter().chain(AS_THEY_ARE).collect();
    let columns: Vec<_> = all.iter().map(|(name, of, ..)| format!("{name} {of}")).collect();
    let values: Vec<_> = all.iter().map(|(_, _, value, _)| format!("'{}'", value.replace('\'', "''"))).collect();
    let sql = format!(
        "{TYPES} CREATE TABLE odd ({}); INSERT INTO odd VALUES ({}); INSERT INTO odd DEFAULT VALUES;",
        columns.join(", "),
        values.join(", ")
    );
    let Some(crm) = Crm::new("odd_types", &sql).await else { return };
    let schema = crm.table(&query(), "odd").await.schema();
    for (name, of, _, expected) in &all {
        // A filter on the text means the same there and here.
        let rows = crm.show(&["odd"], &format!("SELECT \"{name}\" FROM odd WHERE \"{name}\" IS NOT NULL")).await;
        let shown = rows.lines().nth(3).unwrap_or_default().trim_matches(['|', ' ']);
        assert_eq!(shown, *expected, "{of}: {rows}");
        let is_null = crm.show(&["odd"], &format!("SELECT count(*) AS n FROM odd WHERE \"{name}\" IS NULL")).await;
        assert!(is_null.contains("| 1 |"), "{of}: {is_null}");
        let comment = column_comment(schema.field_with_name(name).unwrap()).unwrap_or_default();
        let is_told = AS_TEXT.iter().any(|(told, ..)| told == name);
        assert!(!is_told || comment.contains("read as text"), "{of}: {comment}");
        if is_told {
            let literal = expected.replace('\'', "''");
            let sql = format!("SELECT count(*) AS n FROM odd WHERE \"{name}\" = '{literal}'");
            let (_, plan) = crm.plan(&query(), &["odd"], &sql).await;
            assert!(plan.contains("::text = "), "{of}: {plan}");
            assert!(crm.show(&["odd"], &sql).await.contains("| 1 |"), "{of}");
        }
    }
    let comment = |name: &str| column_comment(schema.field_with_name(name).unwrap()).unwrap_or_default();
    assert_eq!(comment("ci"), "citext, read as text: here upper and lower case differ");
    assert_eq!(comment("aa"), "dints[], read as text: an array within an array");
    assert_eq!(comment("h"), "hstore, read as text: type hstore is not known to the engine");
    assert_eq!(comment("di"), "", "a domain is what it is over");
}

#[tokio::test]
async fn citext_is_compared_as_the_text_that_it_is_here() {
    let sql =
        "CREATE EXTENSION citext; CREATE TABLE people (name citext, n int4); CREATE TABLE other (name citext, m int4);
        INSERT INTO people VALUES ('Ann', 1), ('ann', 2), ('ANN', 3), ('bob', 4), (NULL, 5);
        INSERT INTO other VALUES ('Ann', 10), ('BOB', 20); ANALYZE;";
    let Some(crm) = Crm::new("citext", sql).await else { return };
    for (sql, expected) in [
        ("SELECT count(*) AS n FROM people WHERE name = 'ann'", "| 1 |"),
        ("SELECT count(*) AS n FROM people WHERE name <> 'ann'", "| 3 |"),
        ("SELECT count(*) AS n FROM people WHERE name IN ('ANN', 'Bob')", "| 1 |"),
        ("SELECT count(*) AS n FROM (SELECT DISTINCT name FROM people)", "| 5 |"),
        ("SELECT count(*) AS n FROM people WHERE name IS DISTINCT FROM 'Ann'", "| 4 |"),
        ("SELECT sum(m) AS n FROM people JOIN other ON people.name = other.name", "| 10 |"),
        ("SELECT max(n) AS n FROM people WHERE lower(name) = 'ann'", "| 3 |"),
    ] {
        let rows = crm.show(&["people", "other"], sql).await;
        assert!(rows.contains(expected), "{sql}: {rows}");
    }
}

#[tokio::test]
async fn arrays_are_as_deep_as_they_are_declared() {
    let sql = "CREATE TABLE nested (id int4, a int4[][], b text[][][], c numeric(6,2)[][], d int4[3]);
        INSERT INTO nested VALUES
          (1, '{{1,NULL},{3,4}}', '{{{x,\"a,b\"}},{{NULL,\"\"}}}', '{{1.5},{-2}}', '[5:6]={7,8}'),
          (2, '[-3:-3][9:10]={{5,6}}', '{}', NULL, '{}'), (3, NULL, NULL, '{{NULL}}', NULL);
        CREATE TABLE sloppy (id int4, a int4[][], b int4[]);
        INSERT INTO sloppy SELECT i, '{{1}}', '{1}' FROM generate_series(1, 50000) i;
        UPDATE sloppy SET a = '{1}' WHERE id = 1; INSERT INTO sloppy VALUES (50001, '{{1}}', '{{2}}');
        CREATE VIEW flat AS SELECT id, a::text AS a FROM nested;
        CREATE VIEW deep AS SELECT id, a FROM nested;";
    let Some(crm) = Crm::new("nested_arrays", sql).await else { return };
    let text = crm.show(&["nested"], "SELECT a, b, c, d FROM nested ORDER BY id").await;
    let lines: Vec<_> = text.lines().skip(3).collect();
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_string()).collect::<Vec<_>>().join("|");
    assert_eq!(cells(lines[0]), "|[[1, ], [3, 4]]|[[[x, a,b]], [[, ]]]|[[1.50], [-2.00]]|[7, 8]|");
    assert_eq!(cells(lines[1]), "|[[5, 6]]|[]||[]|");
    assert_eq!(cells(lines[2]), "|||[[]]||", "a NULL inside is shown as nothing");
    let sums = crm.show(&["nested"], "SELECT a[1][1] + a[1][2] AS n FROM nested WHERE id = 2").await;
    assert!(sums.contains("| 11 |"), "{sums}");

    // What Postgres takes in spite of the declaration is refused where it is read, with the column and where it lies.
    for (column, place) in [("a", " (in "), ("b", " (in ")] {
        let error = crm.query(&["sloppy"], &format!("SELECT {column} FROM sloppy")).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::FormatNotSupported, "{error}");
        let named = format!("column crm.public.sloppy.{column} holds an array of other dimensions than are declared");
        assert!(error.message().contains(&named) && error.message().contains(place), "{error}");
    }
    // Views declare nothing.
    let error = crm.query(&["deep"], "SELECT a FROM deep").await.unwrap_err();
    assert!(error.message().contains("other dimensions") && error.hint().unwrap().contains("text"), "{error:?}");
    assert!(crm.show(&["flat"], "SELECT a FROM flat WHERE id = 1").await.contains("{{1,NULL},{3,4}}"));
}

#[tokio::test]
async fn values_at_the_edge_of_time_and_number_are_told() {
    let sql = "CREATE TABLE edges (kind text, d date, ts timestamp, tz timestamptz, n numeric(5,2), f numeric);
        INSERT INTO edges (kind, tz) VALUES ('tz', '294276-12-31 23:59:59.999999+00');
        INSERT INTO edges (kind, ts) VALUES ('ts', '294247-01-11 00:00:00');
        INSERT INTO edges (kind, d) VALUES ('d', '-infinity'); INSERT INTO edges (kind, n) VALUES ('n', 'NaN');
        INSERT INTO edges (kind, f) VALUES ('f', 'Infinity');
        CREATE DOMAIN day AS date; CREATE TABLE days (d day[]); INSERT INTO days VALUES ('{2024-01-01,infinity}');";
    let Some(crm) = Crm::new("edges", sql).await else { return };
    for (column, value) in [("tz", "after the year 294246"), ("ts", "after the year"), ("d", "-infinity"), ("n", "NaN")]
    {
        let error = crm.query(&["edges"], &format!("SELECT {column} FROM edges WHERE kind = '{column}'")).await;
        let error = error.unwrap_err();
        assert_eq!(error.code(), ErrorCode::FormatNotSupported, "{error}");
        assert!(error.message().contains(value) && error.message().contains(column), "{error}");
        assert!(error.hint().unwrap().contains("leave the column out"), "{error:?}");
    }
    // A filter on them, which the server does, is another matter.
    let counted = crm.show(&["edges"], "SELECT count(*) AS n FROM edges WHERE d < DATE '2000-01-01'").await;
    assert!(counted.contains("| 1 |"), "{counted}");
    let error = crm.query(&["days"], "SELECT d FROM days").await.unwrap_err();
    assert!(error.message().contains("days.d holds infinity"), "{error}");
    assert!(crm.show(&["edges"], "SELECT f FROM edges WHERE kind = 'f'").await.contains("| Infinity |"));
}

#[tokio::test]
async fn rows_that_lie_elsewhere_are_read_whole() {
    let Some(crm) = Crm::new("elsewhere", "CREATE EXTENSION postgres_fdw").await else { return };
    let port = crm.postgres.port();
    let sql = format!(
        "CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{port}', dbname 'elsewhere');
         CREATE USER MAPPING FOR postgres SERVER itself OPTIONS (user 'postgres', password '{PASSWORD}');
         CREATE TABLE here (id int8, pad text); INSERT INTO here SELECT i, repeat('x', 60) FROM generate_series(1, 30000) i;
         CREATE FOREIGN TABLE there (id int8 NOT NULL, pad text) SERVER itself OPTIONS (table_name 'here');
         CREATE TABLE mixed (id int8, pad text) PARTITION BY RANGE (id);
         CREATE TABLE mixed_low PARTITION OF mixed FOR VALUES FROM (0) TO (100000);
         CREATE TABLE high (id int8, pad text);
         CREATE FOREIGN TABLE mixed_high PARTITION OF mixed FOR VALUES FROM (100000) TO (200000) SERVER itself
           OPTIONS (table_name 'high');
         INSERT INTO mixed_low SELECT * FROM here; INSERT INTO high SELECT id + 100000, pad FROM here;
         CREATE VIEW joined AS SELECT h.id FROM here h JOIN there t USING (id);"
    );
    crm.admin.batch_execute(&sql).await.unwrap();
    for (table, rows, splits) in
        [("here", 30_000, 8), ("there", 30_000, 1), ("mixed", 60_000, 1), ("joined", 30_000, 1)]
    {
        let (plan, text) = crm.plan(&query(), &[table], &format!("SELECT id FROM {table}")).await;
        let found = plan.output_partitioning().partition_count();
        assert!(if splits == 1 { found == 1 } else { found > 2 }, "{text}");
        let counted = crm.show(&[table], &format!("SELECT count(*) AS n, count(DISTINCT id) AS d FROM {table}")).await;
        assert!(counted.contains(&format!("| {rows} | {rows} |")), "{table}: {counted}");
    }
    assert!(crm.table(&query(), "there").await.schema().field_with_name("id").unwrap().is_nullable());
}
