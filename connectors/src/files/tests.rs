//! Files of a local folder, read as a query would.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::util::pretty::pretty_format_batches;
use datafusion::error::DataFusionError;
use datafusion::physical_plan::displayable;
use datafusion::prelude::{SessionConfig, SessionContext};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;
use townlake_common::config::Config;
use townlake_common::{Error, ErrorCode, Principal, QueryContext, QueryId, Result};

use crate::{Source, SourceConnections};

struct Drop {
    folder: TempDir,
    connections: Arc<SourceConnections>,
}

impl Drop {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write(folder.path(), name, text.as_bytes());
        }
        let toml = format!("[catalogs.drop]\ntype = \"files\"\nlocation = \"file://{}\"", folder.path().display());
        let config = Config::from_toml(&toml).unwrap();
        Self { folder, connections: SourceConnections::from_config(&config.catalogs).unwrap() }
    }

    fn source(&self) -> Arc<dyn Source> {
        self.connections.source("drop").unwrap()
    }

    /// A session in which each table has its own name.
    async fn session(&self, tables: &[&str]) -> Result<SessionContext> {
        let query = QueryContext::new(QueryId::generate(), Principal::anonymous());
        let config = SessionConfig::new()
            .with_target_partitions(4)
            .with_extension(Arc::clone(&query))
            .with_extension(Arc::clone(&self.connections));
        let session = SessionContext::new_with_config(config);
        for name in tables {
            let table = self.source().table(&query, "default", name).await?.unwrap();
            session.register_table(*name, table).unwrap();
        }
        Ok(session)
    }

    async fn rows(&self, table: &str, sql: &str) -> Result<Vec<RecordBatch>> {
        let session = self.session(&[table]).await?;
        session.sql(sql).await.map_err(typed)?.collect().await.map_err(typed)
    }

    async fn shown(&self, table: &str, sql: &str) -> Vec<String> {
        let rows = self.rows(table, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let text = pretty_format_batches(&rows).unwrap().to_string();
        let lines = text.lines().skip(3).filter(|line| line.starts_with('|'));
        let cells = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" ");
        lines.map(cells).collect()
    }
}

fn typed(error: DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(inner) => inner.downcast_ref::<Error>().unwrap().clone(),
        other => panic!("{other}"),
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A Parquet file of `n` from `first` on, and texts, in row groups of a thousand rows.
fn parquet(first: i64, rows: i64) -> Vec<u8> {
    let numbers: Int64Array = (first..first + rows).collect();
    let texts: StringArray = (first..first + rows).map(|n| (n % 3 != 0).then(|| format!("t{n}"))).collect();
    let batch = RecordBatch::try_from_iter([("n", Arc::new(numbers) as _), ("t", Arc::new(texts) as _)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(1000)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn a_file_is_a_table_and_so_is_a_folder() {
    let drop = Drop::new(&[
        ("people.csv", "id,name,since,score\n1,Ann,2024-02-29,1.5\n2,,2023-01-01,\n"),
        ("events/a.jsonl", "{\"id\": 1, \"tags\": [\"x\"], \"at\": {\"lat\": 1.5}}\n"),
        ("events/2024/b.json", "{\"id\": 2, \"more\": true}\n{\"id\": 3, \"tags\": null}\n"),
        ("events/_SUCCESS", ""),
        ("_hidden/c.csv", "a\n1\n"),
        ("readme.txt", "no table"),
    ]);
    let query = QueryContext::new(QueryId::generate(), Principal::anonymous());
    let tables = drop.source().list_tables(&query, "default").await.unwrap();
    assert_eq!(tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["events", "people"]);
    assert_eq!(tables[0].comment.as_deref(), Some("2 file(s) of JSON"));
    assert!(drop.source().table(&query, "default", "nothing").await.unwrap().is_none());

    assert_eq!(
        drop.shown("people", "SELECT * FROM people ORDER BY id").await,
        ["1 Ann 2024-02-29 1.5", "2  2023-01-01 "]
    );
    assert_eq!(drop.shown("people", "SELECT count(*) FROM people WHERE name IS NULL").await, ["1"]);
    // The first file by its path says which columns there are.
    assert_eq!(drop.shown("events", "SELECT id, more FROM events ORDER BY id").await, ["1 ", "2 true", "3 "]);
    assert_eq!(drop.shown("events", "SELECT count(*) FROM events").await, ["3"]);
}

#[tokio::test]
async fn parquet_is_read_in_pieces_and_by_column() {
    let drop = Drop::new(&[]);
    for (name, first) in [("a", 0), ("b", 10_000)] {
        write(drop.folder.path(), &format!("numbers/{name}.parquet"), &parquet(first, 10_000));
    }
    let found = drop.shown("numbers", "SELECT count(*), sum(n), count(t), min(n), max(n) FROM numbers").await;
    assert_eq!(found, ["20000 199990000 13333 0 19999"]);
    assert_eq!(drop.shown("numbers", "SELECT count(*) FROM numbers WHERE n % 7 = 3").await, ["2857"]);
    assert_eq!(drop.shown("numbers", "SELECT count(*) FROM (SELECT n FROM numbers LIMIT 1500) AS x").await, ["1500"]);
    let session = drop.session(&["numbers"]).await.unwrap();
    let plan = session.sql("SELECT n FROM numbers WHERE t = 't1'").await.unwrap().create_physical_plan().await.unwrap();
    let text = displayable(plan.as_ref()).indent(false).to_string();
    assert!(text.contains("FilesScanExec: table=drop.default.numbers, splits=2, files=[2]"), "{text}");
    assert!(text.contains("files are read whole"), "{text}");
}

#[test]
fn pieces_of_a_file_are_disjoint_and_complete() {
    use object_store::ObjectMeta;

    use super::formats::Format;
    use super::recipe::Split;
    let file = ObjectMeta {
        location: "a/b.parquet".into(),
        last_modified: Default::default(),
        size: 100 << 20,
        e_tag: Some("x".into()),
        version: None,
    };
    let pieces: Vec<_> = Split::cut(&file, Format::Parquet, 40 << 20).collect();
    assert_eq!(pieces.iter().map(|piece| piece.start >> 20).collect::<Vec<_>>(), [0, 40, 80]);
    assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start) && pieces[2].end == u64::MAX);
    assert_eq!(Split::cut(&file, Format::Csv, 1).count(), 1);
    assert_eq!(Split::decode(&pieces[1].encode()).unwrap(), pieces[1]);
    assert!(pieces[0].is_of(&file) && !pieces[0].is_of(&ObjectMeta { size: 1, ..file }));
}

#[tokio::test]
async fn what_does_not_fit_is_an_error_that_names_the_file_and_no_value() {
    let drop = Drop::new(&[
        ("codes/a.csv", "id,code\n1,5\n"),
        ("codes/b.csv", "code,id\nsecret,2\n"),
        ("mixed/a.csv", "id\n1\n"),
        ("mixed/b.json", "{\"id\": 1}\n"),
        ("broken.parquet", "PAR1 this is none"),
        ("ragged.csv", "a,b\n1,2\n3\n"),
        ("bad.json", "{\"a\": 1}\n{\"a\": \n"),
    ]);
    for (table, code, named) in [
        ("codes", ErrorCode::DataCorrupt, "codes/b.csv"),
        ("mixed", ErrorCode::FormatNotSupported, "drop.default.mixed"),
        ("broken", ErrorCode::DataCorrupt, "broken.parquet"),
        ("ragged", ErrorCode::DataCorrupt, "ragged.csv"),
        ("bad", ErrorCode::DataCorrupt, "bad.json"),
    ] {
        let error = drop.rows(table, &format!("SELECT * FROM {table}")).await.unwrap_err();
        assert_eq!(error.code(), code, "{table}: {error}");
        assert!(error.message().contains(named) && !format!("{error:?}").contains("secret"), "{table}: {error:?}");
    }
    // Columns are found by their names: a column of another place is no other column.
    write(drop.folder.path(), "codes/b.csv", b"code,id\n7,2\n");
    assert_eq!(drop.shown("codes", "SELECT id, code FROM codes ORDER BY id").await, ["1 5", "2 7"]);
}

#[tokio::test]
async fn what_has_no_type_in_common_is_read_as_text() {
    let drop = Drop::new(&[
        ("kinds.json", "{\"a\": 1, \"n\": 9223372036854775808}\n{\"a\": \"x\"}\n{\"a\": {\"b\": 1}}\n{\"a\": true}\n"),
        ("lists.json", "{\"l\": [1, 2, {\"y\": null}]}\n"),
        ("days.csv", "d,t,zip\n2024-01-01,2024-01-01 10:00:00,007\n\n2024-02-30,2024-01-01T10:00:00+02:00,1\n\"\",,\n"),
        ("zoned.csv", "t\n2024-01-01T10:00:00+02:00\n2024-01-01T10:00:00.5Z\n"),
    ]);
    assert_eq!(
        drop.shown("kinds", "SELECT a, n FROM kinds").await,
        ["1 9223372036854775808", "x ", "{\"b\": 1} ", "true "]
    );
    assert_eq!(drop.shown("lists", "SELECT l[3] FROM lists").await, ["{\"y\": null}"]);
    assert_eq!(
        drop.shown("days", "SELECT d, t, zip FROM days").await,
        ["2024-01-01 2024-01-01 10:00:00 007", "2024-02-30 2024-01-01T10:00:00+02:00 1", "  "]
    );
    assert_eq!(drop.shown("days", "SELECT count(*) FROM days WHERE d IS NULL").await, ["1"]);
    assert_eq!(drop.shown("zoned", "SELECT t FROM zoned").await, ["2024-01-01T08:00:00Z", "2024-01-01T10:00:00.500Z"]);
}

#[tokio::test]
async fn what_comes_later_and_does_not_fit_is_found_on_its_line() {
    let drop = Drop::new(&[
        ("c/a.csv", "id,at\n1,2024-01-01 10:00:00\n"),
        ("c/b.csv", "at,id\n2024-01-01 10:00:00,1\n2024-01-01T10:00:00+02:00,2\n"),
        ("j/a.json", "{\"id\": 1}\n"),
        ("j/b.json", "\n{\"id\": 1}\n{\"id\": 1.5}\n"),
        ("twice/a.csv", "a\n1\n"),
        ("twice/b.csv", "a,a\n1,2\n"),
    ]);
    for (table, told) in [
        (
            "c",
            "file c/b.csv is no CSV file of the table's columns: line 3, column at: no timestamp(0) without time zone",
        ),
        ("j", "file j/b.json is no JSON file of the table's columns: line 3, column id: no bigint"),
        ("twice", "file twice/b.csv is no CSV file of the table's columns: line 1: column a is there twice"),
    ] {
        let error = drop.rows(table, &format!("SELECT * FROM {table}")).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DataCorrupt, "{error}");
        assert!(error.message().ends_with(told), "{error}");
    }
    // What is not asked for is not looked at.
    assert_eq!(drop.shown("c", "SELECT sum(id) FROM c").await, ["4"]);
}

#[test]
fn a_recipe_crosses_the_wire() {
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    use prost::Message;
    use townlake_proto::files as wire;

    use super::formats::Format;
    use super::recipe::{Recipe, encode_schema};
    use crate::scan::Estimate;
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int32, true)));
    let fields =
        [("a", DataType::Utf8), ("l", list), ("t", DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())))];
    let schema = Schema::new(fields.map(|(name, of)| Field::new(name, of, true)).to_vec());
    let recipe = Recipe {
        catalog: "drop".into(),
        table: "t".into(),
        format: Format::Json,
        encoded_schema: encode_schema("t", &schema).unwrap(),
        schema: Arc::new(schema),
        limit: Some(3),
        local_filters: vec!["x".into()],
        files: 2,
        estimate: Estimate { bytes: Some(7), ..Estimate::default() },
    };
    let bytes = recipe.to_wire().encode_to_vec();
    assert_eq!(Recipe::from_wire(wire::Scan::decode(bytes.as_slice()).unwrap()).unwrap(), recipe);
    let damaged = wire::Scan { schema: vec![0xff; 9], ..recipe.to_wire() };
    assert!(Recipe::from_wire(damaged).is_err());
    assert!(Recipe::from_wire(wire::Scan::default()).is_err());
}

#[tokio::test]
async fn a_file_that_changes_after_planning_is_an_error() {
    for change in ["another", "gone"] {
        let drop = Drop::new(&[("t.csv", "a\n1\n")]);
        let session = drop.session(&["t"]).await.unwrap();
        let plan = session.sql("SELECT a FROM t").await.unwrap().create_physical_plan().await.unwrap();
        match change {
            "gone" => fs::remove_file(drop.folder.path().join("t.csv")).unwrap(),
            _ => write(drop.folder.path(), "t.csv", b"a\n1\n2\n"),
        }
        let error = datafusion::physical_plan::collect(plan, session.task_ctx()).await.map_err(typed).unwrap_err();
        assert!(error.code() == ErrorCode::SourceError && error.is_retryable(), "{change}: {error:?}");
    }
}
