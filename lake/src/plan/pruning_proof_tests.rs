//! Pruning against answers: what is skipped for a filter holds no row that matches it.
//!
//! Rows are written, committed and read for real. Each filter is asked of the lake and of the same rows in memory. Bounds of
//! columns are taken away from half of the files, so that partitions are seen to prune by themselves.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use datafusion::datasource::MemTable;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use townlake_common::QueryId;

use crate::testing::Lake;
use crate::{DropPartitionField, PartitionField, TableChange, WrittenFile, write_plan, written_files};

const ROWS: i64 = 120;
const DAY: i64 = 86_400_000_000;
/// Before 1970 too: there old writers round times the wrong way.
const FIRST_DAY: i64 = -3;

fn field(text: &str) -> PartitionField {
    let (column, transform) = text.split_once(' ').unwrap();
    PartitionField { column: column.to_string(), transform: transform.to_string() }
}

/// Rows `from ..` of all: every eleventh value is null. An hour, and some minutes, lie between two rows.
fn rows(from: i64, count: i64) -> RecordBatch {
    let numbers = || from..from + count;
    let value = |n: i64, of: i64| (n % 11 != of).then_some(n);
    let names = numbers().map(|n| value(n, 2).map(|n| format!("{}{n:03}", ["ab", "abc", "b", "é"][n as usize % 4])));
    let amounts = numbers().map(|n| value(n, 5).map(|n| i128::from(n * 25 - 500)));
    let columns: [(&str, ArrayRef); 5] = [
        ("id", Arc::new(Int64Array::from_iter(numbers().map(|n| value(n, 1).map(|n| n - 20))))),
        ("name", Arc::new(StringArray::from_iter(names))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter(numbers().map(|n| value(n, 3).map(at))))),
        ("day", Arc::new(Date32Array::from_iter(numbers().map(|n| value(n, 4).map(|n| (n * 9 - 100) as i32))))),
        ("amount", Arc::new(Decimal128Array::from_iter(amounts).with_precision_and_scale(9, 2).unwrap())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).unwrap()
}

fn at(n: i64) -> i64 {
    FIRST_DAY * DAY + n * 4_000_000_000
}

async fn lake(partition: &[&str]) -> Lake {
    let schema = rows(0, 1).schema();
    let columns: Vec<_> = schema.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
    Lake::create(&columns, &partition.iter().map(|text| field(text)).collect::<Vec<_>>()).await
}

/// Writes rows and commits them; `bare`: without what is known of their columns.
async fn insert(lake: &Lake, context: &SessionContext, rows: RecordBatch, bare: bool) {
    let (table, query) = (lake.load("t").await, QueryId::generate());
    let input = MemorySourceConfig::try_new_exec(&[vec![rows.clone()]], rows.schema(), None).unwrap();
    let plan = write_plan(&table, input, &query).unwrap();
    let mut files = written_files(&collect(plan, context.task_ctx()).await.unwrap(), &table).unwrap();
    if bare {
        files.iter_mut().for_each(strip);
    }
    lake.catalog.commit_append(&table, files, &query).await.unwrap().unwrap();
}

fn strip(file: &mut WrittenFile) {
    let known = &file.data_file;
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(known.file_path().to_string())
        .file_format(DataFileFormat::Parquet)
        .partition(known.partition().clone())
        .partition_spec_id(file.spec_id)
        .record_count(known.record_count())
        .file_size_in_bytes(known.file_size_in_bytes());
    file.data_file = builder.build().unwrap();
}

async fn with_memory(lake: &Lake) -> SessionContext {
    let context = lake.context();
    let all = rows(0, ROWS);
    context.register_table("m", Arc::new(MemTable::try_new(all.schema(), vec![vec![all]]).unwrap())).unwrap();
    context
}

/// Asks both for the rows that match. Returns how many files were skipped, and how many there are.
async fn ask(lake: &Lake, context: &SessionContext, filter: &str) -> (usize, usize) {
    let query =
        |table: &str| format!("select id, name, at, day, amount from {table} where {filter} order by 1, 2, 3, 4, 5");
    let (found, expected) = (lake.rows(context, "t", &query("t")).await, lake.rows(context, "t", &query("m")).await);
    assert_eq!(found, expected, "{filter}");
    let counted = lake.rows(context, "t", &format!("select count(*) from t where {filter}")).await;
    assert_eq!(counted, [[expected.len().to_string()]], "{filter}");
    let plan = lake.rows(context, "t", &format!("explain {}", query("t"))).await.concat().concat();
    // A filter that is never true leaves no scan at all.
    let Some((_, files)) = plan.split_once(" files=") else { return (1, 1) };
    let (kept, total) = files.split_once('/').unwrap();
    let total: String = total.chars().take_while(char::is_ascii_digit).collect();
    let (kept, total): (usize, usize) = (kept.parse().unwrap(), total.parse().unwrap());
    (total - kept, total)
}

/// What `at` is in row `n`, as SQL.
fn time(n: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(at(n)).unwrap();
    format!("timestamp '{}'", time.format("%Y-%m-%d %H:%M:%S"))
}

fn date(n: i64) -> String {
    let date = chrono::DateTime::from_timestamp((n * 9 - 100) * 86_400, 0).unwrap();
    format!("date '{}'", date.format("%Y-%m-%d"))
}

#[tokio::test]
async fn each_transform_prunes_by_itself_what_it_can_and_nothing_else() {
    let (t, d) = (time, date);
    let times = |column: &str, of: &dyn Fn(i64) -> String| {
        vec![
            format!("{column} = {}", of(60)),
            format!("{column} < {}", of(5)),
            format!("{column} between {} and {}", of(98), of(99)),
            format!("{column} in ({}, {})", of(7), of(8)),
            format!("{column} is null"),
        ]
    };
    let ids =
        || ["id = 40", "id < -15", "id between 40 and 41", "id in (40, 41)", "id is null"].map(str::to_string).to_vec();
    let names = || {
        [
            "name = 'ab012'",
            "name < 'ab02'",
            "name between 'b' and 'b9'",
            "name in ('b018', 'x')",
            "name is null",
            "name like 'b%'",
        ]
        .map(str::to_string)
        .to_vec()
    };
    // The transform, filters, and which of them nothing is skipped for.
    let cases: Vec<(&str, Vec<String>, Vec<usize>)> = vec![
        ("id identity", ids(), vec![]),
        ("id bucket[16]", ids(), vec![1, 2]),
        ("id truncate[10]", ids(), vec![]),
        ("id void", ids(), vec![0, 1, 2, 3, 4]),
        ("name identity", names(), vec![]),
        ("name bucket[8]", names(), vec![1, 2, 5]),
        ("name truncate[2]", names(), vec![]),
        ("at day", times("at", &t), vec![]),
        ("at hour", times("at", &t), vec![]),
        ("day year", times("day", &d), vec![]),
        ("day month", times("day", &d), vec![]),
        ("day day", times("day", &d), vec![]),
    ];
    for (partition, filters, useless) in cases {
        let lake = lake(&[partition]).await;
        let context = with_memory(&lake).await;
        insert(&lake, &context, rows(0, ROWS), true).await;
        for (number, filter) in filters.iter().enumerate() {
            let (skipped, total) = ask(&lake, &context, filter).await;
            // The partition of nulls is skipped for any comparison.
            assert_eq!(skipped <= 1, useless.contains(&number), "{partition}: {filter} skips {skipped} of {total}");
        }
    }
}

async fn alter(lake: &Lake, changes: &[TableChange]) {
    for change in changes {
        lake.catalog.alter_table("s", "t", std::slice::from_ref(change)).await.unwrap().unwrap();
    }
}

/// The part of a table's life that changes how it is partitioned: each of its specs has a third of the rows.
async fn evolved(bare: bool) -> (Lake, SessionContext) {
    let lake = lake(&["id bucket[8]", "at day"]).await;
    let context = with_memory(&lake).await;
    insert(&lake, &context, rows(0, 40), bare).await;
    let add = |text: &str| TableChange::AddPartitionField { field: field(text), name: None };
    let drop = |text: &str| TableChange::DropPartitionField(DropPartitionField::Made(field(text)));
    let changes = [drop("at day"), add("name truncate[2]"), add("day month")];
    alter(&lake, &changes).await;
    insert(&lake, &context, rows(40, 40), !bare).await;
    let changes = [drop("id bucket[8]"), drop("name truncate[2]"), add("at hour"), add("amount truncate[500]")];
    alter(&lake, &changes).await;
    insert(&lake, &context, rows(80, ROWS - 80), bare).await;
    (lake, context)
}

fn comparison(random: &mut StdRng) -> String {
    let n = random.random_range(-3..ROWS + 3);
    let m = n + random.random_range(0..9);
    let name = |n: i64| format!("'{}{n:03}'", ["ab", "abc", "b", "é"][n.unsigned_abs() as usize % 4]);
    let (column, a, b) = match random.random_range(0..5) {
        0 => ("id", (n - 20).to_string(), (m - 20).to_string()),
        1 => ("name", name(n), name(m)),
        2 => ("at", time(n), time(m)),
        3 => ("day", date(n), date(m)),
        _ => ("amount", format!("{}.25", n / 4 - 5), format!("{}.5", m / 4 - 5)),
    };
    match random.random_range(0..12) {
        0 | 1 => format!("{column} = {a}"),
        2 => format!("{column} < {a}"),
        3 => format!("{column} >= {a}"),
        4 => format!("{column} <> {a}"),
        5 | 6 => format!("{column} between {a} and {b}"),
        7 => format!("{column} in ({a}, {b})"),
        8 => format!("{column} not in ({a}, {b})"),
        9 => format!("{column} is null"),
        10 => format!("{column} is not null"),
        _ => format!("name like '{}%'", ["a", "ab", "abc0", "b0", "é", "z"][random.random_range(0..6)]),
    }
}

fn filter(random: &mut StdRng) -> String {
    let first = comparison(random);
    match random.random_range(0..6) {
        0 => format!("{first} and {}", comparison(random)),
        1 => format!("({first}) or ({})", comparison(random)),
        2 => format!("not ({first})"),
        _ => first,
    }
}

#[tokio::test]
async fn random_filters_over_several_specs_skip_no_row() {
    // `make soak` asks more of them.
    let (count, seed) =
        if std::env::var_os("TOWNLAKE_SOAK").is_some() { (1500, rand::random()) } else { (60, 20_261_126) };
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for bare in [true, false] {
        let (lake, context) = evolved(bare).await;
        let (mut skipped, mut total) = (0, 0);
        for _ in 0..count {
            let (of, all) = ask(&lake, &context, &filter(&mut random)).await;
            skipped += of;
            total += all;
        }
        assert!(skipped * 4 > total, "only {skipped} of {total} files were skipped");
    }
}
