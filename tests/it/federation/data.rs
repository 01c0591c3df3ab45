//! The same columns of edge values in a table of each system, and a copy of them in one process.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::{MemoryCatalogProvider, MemorySchemaProvider};
use datafusion::datasource::MemTable;
use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value};
use townlake_cli::args::LoadMode;
use townlake_cli::connection::Rows;
use townlake_cli::demo::Sources;
use townlake_engine::session::physical_rules;
use townlake_tests::bed::TestBed;

/// The tables; two in Postgres, which joins its own.
pub const TABLES: [&str; 6] = [
    "crm.public.facts",
    "crm.public.others",
    "stock.default.facts",
    "bus.town.facts",
    "partners.town.facts",
    "lake.town.facts",
];

/// What the configuration says of the topic.
pub const TOPIC: &str = "[[catalogs.bus.tables]]
topic = \"facts\"
schema = \"town\"
format = \"json\"
columns = [
  { name = \"id\", type = \"bigint\" }, { name = \"k\", type = \"integer\" }, { name = \"i\", type = \"bigint\" },
  { name = \"n\", type = \"decimal(12, 2)\" }, { name = \"d\", type = \"date\" },
  { name = \"z\", type = \"timestamp with time zone\" }, { name = \"t\", type = \"varchar\" },
]
";

/// Edges of 64 bits, of what doubles hold, and what joins.
pub const WHOLE: &[i64] = &[i64::MIN, -1, 0, 1, 7, 9_007_199_254_740_993, i64::MAX];
/// Hundredths of `decimal(12, 2)`.
pub const HUNDREDTHS: &[i64] = &[-999_999_999_999, -1, 0, 1, 150, 999_999_999_999];
/// Days since 1970; ClickHouse has none before.
pub const DAYS: &[i32] = &[0, 1, 11_016, 19_782, 47_481];
/// Seconds since 1970; ClickHouse has neither earlier ones nor parts of them.
pub const SECONDS: &[i64] = &[0, 951_782_400, 1_711_848_600, 2_147_483_648, 4_102_444_799];
/// Texts that quoting, padding, case or a collation could change.
pub const TEXTS: &[&str] =
    &["", " ", "a", "A", "ä", "a ", "b'", "a\\b", "%", "a_b", "é", "e\u{301}", "ß", "ss", "NULL"];
/// `k` is below that.
pub const KEYS: i32 = 20;

/// Random rows: a fifth of the values NULL, `id` from 0 on.
pub fn facts(rng: &mut StdRng, rows: usize) -> RecordBatch {
    fn some<T: Copy>(rng: &mut StdRng, rows: usize, values: impl Fn(&mut StdRng) -> T) -> Vec<Option<T>> {
        (0..rows).map(|_| rng.random_bool(0.8).then(|| values(rng))).collect()
    }
    let pick = |values: &'static [i64]| move |rng: &mut StdRng| *values.choose(rng).expect("values");
    let hundredths = some(rng, rows, pick(HUNDREDTHS)).into_iter().map(|value| value.map(i128::from));
    let decimals = hundredths.collect::<Decimal128Array>().with_precision_and_scale(12, 2).expect("a decimal");
    let micros = some(rng, rows, pick(SECONDS)).into_iter().map(|value| value.map(|seconds| seconds * 1_000_000));
    let columns: [(&str, ArrayRef); 7] = [
        ("id", Arc::new((0..rows as i64).collect::<Int64Array>())),
        ("k", Arc::new(Int32Array::from(some(rng, rows, |rng| rng.random_range(0..KEYS))))),
        ("i", Arc::new(Int64Array::from(some(rng, rows, pick(WHOLE))))),
        ("n", Arc::new(decimals)),
        ("d", Arc::new(Date32Array::from(some(rng, rows, |rng| *DAYS.choose(rng).expect("days"))))),
        ("z", Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("+00:00"))),
        ("t", Arc::new(StringArray::from(some(rng, rows, |rng| *TEXTS.choose(rng).expect("texts"))))),
    ];
    RecordBatch::try_from_iter(columns).expect("rows")
}

/// The cells as text; `None` is NULL.
fn cells(batch: &RecordBatch) -> Vec<Vec<Option<String>>> {
    let options = FormatOptions::default();
    let columns: Vec<_> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).expect("shown")).collect();
    let cell =
        |row, column: usize| (!batch.column(column).is_null(row)).then(|| columns[column].value(row).to_string());
    (0..batch.num_rows()).map(|row| (0..columns.len()).map(|column| cell(row, column)).collect()).collect()
}

/// The rows as objects of JSON: whole numbers as such, all else as text.
fn objects(batch: &RecordBatch) -> Vec<Value> {
    let object = |row: &Vec<Option<String>>| {
        let member = |(field, cell): (&Arc<Field>, &Option<String>)| {
            let value = match cell {
                None => Value::Null,
                Some(text) if field.data_type().is_integer() => serde_json::from_str(text).expect("a number"),
                Some(text) => Value::String(text.clone()),
            };
            (field.name().clone(), value)
        };
        Value::Object(batch.schema().fields().iter().zip(row).map(member).collect::<Map<_, _>>())
    };
    cells(batch).iter().map(object).collect()
}

/// The rows as SQL has them behind VALUES. `escape` is what a `'` and a `\` in a text become.
fn values(batch: &RecordBatch, escape: [&str; 2]) -> String {
    let literal = |(place, cell): (usize, &Option<String>)| match (batch.schema().field(place).data_type(), cell) {
        (_, None) => "NULL".to_string(),
        (DataType::Utf8, Some(text)) => {
            format!("'{}'", text.replace('\\', escape[1]).replace('\'', escape[0]))
        }
        (DataType::Date32, Some(text)) => format!("'{text}'"),
        (DataType::Timestamp(..), Some(text)) => format!("'{}'", text.replace('T', " ").trim_end_matches('Z')),
        (_, Some(text)) => text.clone(),
    };
    let row =
        |row: &Vec<Option<String>>| format!("({})", row.iter().enumerate().map(literal).collect::<Vec<_>>().join(", "));
    cells(batch).iter().map(row).collect::<Vec<_>>().join(", ")
}

/// Puts the rows of each of [`TABLES`] where they belong.
pub async fn load(bed: &TestBed, tables: &[RecordBatch]) {
    let sources = bed.sources.as_ref().expect("the bed has sources");
    let postgres = sources.postgres.connect("crm").await.expect("connect to Postgres");
    for (table, rows) in ["facts", "others"].iter().zip(tables) {
        let sql = format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, k integer, i bigint, n numeric(12, 2), d date, z timestamptz, t text); \
             SET timezone = 'UTC'; INSERT INTO {table} VALUES {}; ANALYZE {table}",
            values(rows, ["''", "\\"])
        );
        postgres.batch_execute(&sql).await.expect("fill Postgres");
    }
    load_clickhouse(sources, &tables[2]).await;
    sources.kafka.create_topic("facts", 3).await.expect("a topic");
    let lines: String = objects(&tables[3]).iter().map(|object| format!("{object}\n")).collect();
    sources.kafka.produce("facts", std::iter::once(Ok(lines))).await.expect("fill Kafka");
    let columns = [
        ("id", "INT64"),
        ("k", "INT64"),
        ("i", "INT64"),
        ("n", "NUMERIC"),
        ("d", "DATE"),
        ("z", "TIMESTAMP"),
        ("t", "STRING"),
    ];
    sources.bigquery.create_dataset("town").await.expect("a dataset");
    sources.bigquery.create_table("town", "facts", "NULLABLE", &columns).await.expect("a table");
    sources.bigquery.insert("town", "facts", objects(&tables[4])).await.expect("fill the emulator");
    bed.run("CREATE SCHEMA lake.town").await;
    let rows = Rows { schema: tables[5].schema(), batches: futures::stream::iter([Ok(tables[5].clone())]).boxed() };
    bed.connection.ingest(["lake", "town", "facts"], LoadMode::Create, rows).await.expect("fill the lake");
}

async fn load_clickhouse(sources: &Sources, rows: &RecordBatch) {
    let table = "CREATE TABLE facts (id Int64, k Nullable(Int32), i Nullable(Int64), n Nullable(Decimal(12, 2)), d Nullable(Date), \
         z Nullable(DateTime), t Nullable(String)) ENGINE = MergeTree ORDER BY id";
    sources.clickhouse.run(table, String::new()).await.expect("a table of ClickHouse");
    let values = values(rows, ["\\'", "\\\\"]);
    sources.clickhouse.run("INSERT INTO facts VALUES", values).await.expect("fill ClickHouse");
}

/// A single process with the same rows, in the types that the door gives them, under the same names.
pub async fn copies(bed: &TestBed, tables: &[RecordBatch]) -> SessionContext {
    // With our rules: those of DataFusion 55 mix up columns of one name.
    let state = SessionStateBuilder::new_with_default_features().with_physical_optimizer_rules(physical_rules(false));
    let local = SessionContext::new_with_state(state.build());
    for (name, rows) in TABLES.iter().zip(tables) {
        let sql = format!("SELECT id, k, i, n, d, z, t FROM {name} ORDER BY id");
        let (schema, found) = bed.connection.collect(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let copy = typed(rows, &schema);
        assert_eq!(lines(&found), lines(std::slice::from_ref(&copy)), "{name} is not what was written there");
        register(&local, name, copy);
    }
    local
}

fn typed(rows: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let plain = |field: &Arc<Field>| match field.data_type() {
        // The client gets these as the plain types; BigQuery has 64 bits for all whole numbers.
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        other => other.clone(),
    };
    let fields: Vec<_> = schema.fields().iter().map(|field| Field::new(field.name(), plain(field), true)).collect();
    let columns =
        rows.columns().iter().zip(&fields).map(|(column, field)| cast(column, field.data_type()).expect("cast"));
    RecordBatch::try_new(Arc::new(Schema::new(fields.clone())), columns.collect()).expect("the same rows")
}

fn register(local: &SessionContext, name: &str, rows: RecordBatch) {
    let parts: Vec<_> = name.split('.').collect();
    let catalog = local.catalog(parts[0]).unwrap_or_else(|| {
        local.register_catalog(parts[0], Arc::new(MemoryCatalogProvider::new()));
        local.catalog(parts[0]).expect("registered")
    });
    let schema = catalog.schema(parts[1]).unwrap_or_else(|| {
        catalog.register_schema(parts[1], Arc::new(MemorySchemaProvider::new())).expect("register");
        catalog.schema(parts[1]).expect("registered")
    });
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("a table");
    schema.register_table(parts[2].to_string(), Arc::new(table)).expect("register");
}

/// Rows as lines, sorted: decimals without the zeros at their end, times of any unit alike.
pub fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let number = |column: usize, batch: &RecordBatch, text: String| match batch.column(column).data_type() {
        DataType::Decimal128(_, scale) | DataType::Decimal256(_, scale) if *scale > 0 => {
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
        _ => text,
    };
    let mut lines = Vec::new();
    for batch in batches {
        lines.extend(cells(batch).into_iter().map(|row| {
            let shown = row.into_iter().enumerate().map(|(column, cell)| match cell {
                Some(text) => format!("{:?}", number(column, batch, text)),
                None => "NULL".to_string(),
            });
            shown.collect::<Vec<_>>().join(" | ")
        }));
    }
    lines.sort_unstable();
    lines
}
