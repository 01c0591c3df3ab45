//! Random statements over the tables of [`super::data`], each with one answer: top rows in an order without equals, no floats.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::data::{DAYS, HUNDREDTHS, KEYS, SECONDS, TABLES, TEXTS, WHOLE};

/// Columns, and whether their order is compared as well.
const COLUMNS: [(&str, bool); 6] = [("k", true), ("i", true), ("n", true), ("d", true), ("z", true), ("t", false)];
const DEPTH: usize = 2;

fn any<T: Copy>(rng: &mut StdRng, values: &[T]) -> T {
    *values.choose(rng).expect("there are some")
}

fn column(rng: &mut StdRng) -> &'static str {
    any(rng, &COLUMNS).0
}

/// A literal of the column's type.
fn literal(rng: &mut StdRng, column: &str) -> String {
    match column {
        "id" => rng.random_range(-1..150).to_string(),
        "k" => rng.random_range(-1..=KEYS).to_string(),
        // the least of 64 bits has no literal: it would be the negative of what does not fit
        "i" => any(rng, WHOLE).max(-i64::MAX).to_string(),
        "n" => {
            let hundredths = any(rng, HUNDREDTHS);
            let sign = if hundredths < 0 { "-" } else { "" };
            format!("{sign}{}.{:02}", hundredths.abs() / 100, hundredths.abs() % 100)
        }
        "d" => format!("DATE '{}'", day(any(rng, DAYS))),
        "z" => {
            let seconds = any(rng, SECONDS);
            let (days, rest) = (seconds / 86_400, seconds % 86_400);
            let (hours, minutes) = (rest / 3600, rest / 60 % 60);
            let day = day(i32::try_from(days).expect("a day"));
            format!("CAST('{day}T{hours:02}:{minutes:02}:{:02}Z' AS TIMESTAMP WITH TIME ZONE)", rest % 60)
        }
        _ => format!("'{}'", any(rng, TEXTS).replace('\'', "''")),
    }
}

fn day(days: i32) -> String {
    use datafusion::arrow::array::Date32Array;
    let date = Date32Array::from(vec![days]);
    date.value_as_date(0).expect("a date").to_string()
}

fn condition(rng: &mut StdRng, alias: &str, depth: usize) -> String {
    let inner = |rng: &mut StdRng| condition(rng, alias, depth - 1);
    match rng.random_range(0..10) {
        0 | 1 if depth > 0 => format!("({} AND {})", inner(rng), inner(rng)),
        2 | 3 if depth > 0 => format!("({} OR {})", inner(rng), inner(rng)),
        4 if depth > 0 => format!("(NOT {})", inner(rng)),
        _ => comparison(rng, alias),
    }
}

fn comparison(rng: &mut StdRng, alias: &str) -> String {
    let (name, is_ordered) = if rng.random_bool(0.15) { ("id", true) } else { any(rng, &COLUMNS) };
    let operator = if is_ordered { any(rng, &["=", "<>", "<", "<=", ">", ">="]) } else { any(rng, &["=", "<>"]) };
    match rng.random_range(0..10) {
        0 => format!("{alias}.{name} IS NULL"),
        1 => format!("{alias}.{name} IS NOT NULL"),
        2 => format!("{alias}.{name} IN ({}, {})", literal(rng, name), literal(rng, name)),
        3 if is_ordered => format!("{alias}.{name} BETWEEN {} AND {}", literal(rng, name), literal(rng, name)),
        4 if is_ordered => format!("{alias}.i {operator} {alias}.id"),
        5 if name == "t" => format!("{alias}.t LIKE {}", any(rng, &["'a%'", "'%'", "'a\\_b'", "'_'"])),
        _ => format!("{alias}.{name} {operator} {}", literal(rng, name)),
    }
}

/// A table; those of Postgres and ClickHouse, which do more, more often.
fn table(rng: &mut StdRng) -> &'static str {
    if rng.random_bool(0.5) { any(rng, &TABLES[..3]) } else { any(rng, &TABLES) }
}

fn filter(rng: &mut StdRng, alias: &str) -> String {
    if rng.random_bool(0.8) { format!(" WHERE {}", condition(rng, alias, DEPTH)) } else { String::new() }
}

fn aggregate(rng: &mut StdRng, alias: &str) -> String {
    match rng.random_range(0..6) {
        0 => "count(*)".to_string(),
        1 => format!("count({alias}.{})", column(rng)),
        2 => format!("sum({alias}.{})", any(rng, &["k", "i", "n", "id"])),
        3 => format!("avg({alias}.n)"),
        4 => format!("min({alias}.{})", column(rng)),
        _ => format!("max({alias}.{})", column(rng)),
    }
}

fn aggregates(rng: &mut StdRng, alias: &str) -> String {
    let listed: Vec<_> = (0..rng.random_range(1..4)).map(|n| format!("{} AS a{n}", aggregate(rng, alias))).collect();
    listed.join(", ")
}

fn plain(rng: &mut StdRng) -> String {
    format!("SELECT x.id, x.{} AS v FROM {} AS x{}", column(rng), table(rng), filter(rng, "x"))
}

fn grouped(rng: &mut StdRng) -> String {
    let (from, by) = (table(rng), column(rng));
    let filter = filter(rng, "x");
    match rng.random_range(0..4) {
        0 => format!("SELECT {} FROM {from} AS x{filter}", aggregates(rng, "x")),
        1 => format!("SELECT DISTINCT x.{by} AS a, x.{} AS b FROM {from} AS x{filter}", column(rng)),
        2 => format!("SELECT x.{by} AS g, count(*) AS c FROM {from} AS x{filter} GROUP BY x.{by} HAVING count(*) > 2"),
        _ => format!("SELECT x.{by} AS g, {} FROM {from} AS x{filter} GROUP BY x.{by}", aggregates(rng, "x")),
    }
}

fn order(rng: &mut StdRng, alias: &str) -> String {
    let (direction, nulls) = (any(rng, &["ASC", "DESC"]), any(rng, &["FIRST", "LAST"]));
    format!("{alias}.{} {direction} NULLS {nulls}, {alias}.id", column(rng))
}

fn top(rng: &mut StdRng) -> String {
    let (from, filter, limit) = (table(rng), filter(rng, "x"), rng.random_range(1..30));
    let order = order(rng, "x");
    match rng.random_range(0..4) {
        // A filter above a limit is not one below it.
        0 => {
            let inner = format!("SELECT * FROM {from} AS x{filter} ORDER BY {order} LIMIT {limit}");
            format!("SELECT y.id, y.k FROM ({inner}) AS y WHERE {}", condition(rng, "y", 1))
        }
        1 => format!("SELECT x.id FROM {from} AS x{filter} ORDER BY {order} LIMIT {limit} OFFSET 3"),
        _ => format!("SELECT x.id, x.{} AS v FROM {from} AS x{filter} ORDER BY {order} LIMIT {limit}", column(rng)),
    }
}

/// Two or three tables.
fn joined(rng: &mut StdRng) -> String {
    let on = any(rng, &["k", "id", "id", "d", "t"]);
    let kind = any(rng, &["JOIN", "JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
    let filter = format!(" WHERE {} AND {}", condition(rng, "x", 1), condition(rng, "y", 1));
    let (left, right) = (table(rng), table(rng));
    let from = format!("{left} AS x {kind} {right} AS y ON x.{on} = y.{on}");
    match rng.random_range(0..4) {
        0 => {
            let third = table(rng);
            format!("SELECT x.id AS a, y.id AS b, w.id AS c FROM {from} JOIN {third} AS w ON w.id = y.id{filter}")
        }
        1 => format!("SELECT x.k AS g, {} FROM {from}{filter} GROUP BY x.k", aggregates(rng, "y")),
        2 => {
            let (order, limit) = (order(rng, "x"), rng.random_range(1..30));
            format!("SELECT x.id AS a, y.id AS b FROM {from}{filter} ORDER BY {order}, y.id LIMIT {limit}")
        }
        _ => format!("SELECT x.id AS a, y.id AS b, x.{0} AS c, y.{0} AS d FROM {from}{filter}", column(rng)),
    }
}

/// A subquery in the condition, or two answers put together.
fn nested(rng: &mut StdRng) -> String {
    let (outer, inner) = (table(rng), table(rng));
    let (of_outer, of_inner) = (condition(rng, "x", 1), condition(rng, "y", 1));
    match rng.random_range(0..7) {
        0 => format!(
            "SELECT x.id FROM {outer} AS x WHERE {of_outer} AND x.k IN (SELECT y.k FROM {inner} AS y WHERE {of_inner})"
        ),
        1 => format!(
            "SELECT x.id FROM {outer} AS x WHERE x.k NOT IN (SELECT y.k FROM {inner} AS y WHERE y.k IS NOT NULL AND {of_inner})"
        ),
        2 => format!(
            "SELECT x.id FROM {outer} AS x WHERE EXISTS (SELECT 1 FROM {inner} AS y WHERE y.id = x.k AND {of_inner} LIMIT 1)"
        ),
        3 => format!(
            "SELECT x.id FROM {outer} AS x WHERE {of_outer} AND NOT EXISTS (SELECT 1 FROM {inner} AS y WHERE y.k = x.k AND {of_inner})"
        ),
        4 => format!("SELECT x.id FROM {outer} AS x WHERE x.i >= (SELECT max(y.i) FROM {inner} AS y WHERE {of_inner})"),
        5 => {
            format!(
                "SELECT x.k, x.t FROM {outer} AS x WHERE {of_outer} UNION ALL SELECT y.k, y.t FROM {inner} AS y WHERE {of_inner}"
            )
        }
        _ => format!(
            "WITH s AS (SELECT y.k AS k, count(*) AS c, max(y.n) AS m FROM {inner} AS y WHERE {of_inner} GROUP BY y.k) \
             SELECT x.id, s.c, s.m FROM {outer} AS x JOIN s ON s.k = x.k WHERE {of_outer}"
        ),
    }
}

/// One statement.
pub fn statement(rng: &mut StdRng) -> String {
    match rng.random_range(0..10) {
        0 => plain(rng),
        1..4 => grouped(rng),
        4 | 5 => top(rng),
        6 | 7 => joined(rng),
        _ => nested(rng),
    }
}
