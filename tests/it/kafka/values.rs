//! What a record becomes: its parts, its value in each format, whatever it was packed with.

use townlake_common::ErrorCode;

use super::{Bus, query};

#[tokio::test]
async fn topics_are_tables() {
    let tables = "[[catalogs.bus.tables]]\ntopic = \"listed_b\"\nschema = \"sales\"\ntable = \"orders\"\nformat = \"text\"\n\
                  [[catalogs.bus.tables]]\ntopic = \"listed_nowhere\"\nformat = \"text\"";
    let script = "topic('listed_a')\ntopic('listed_b', 2)\n\
                  c = Consumer({'bootstrap.servers': B, 'group.id': 'g', 'auto.offset.reset': 'earliest'})\n\
                  c.commit(offsets=[TopicPartition('listed_a', 0, 0)], asynchronous=False)";
    let Some(bus) = Bus::of("topics_are_tables", script, tables) else { return };
    let source = bus.source();
    let schemas = source.list_schemas(&query()).await.unwrap();
    assert_eq!(schemas, ["default", "sales"]);
    let listed = source.list_tables(&query(), "default").await.unwrap();
    let names: Vec<_> = listed.iter().map(|table| table.name.as_str()).collect();
    assert!(names.contains(&"listed_a"), "{names:?}");
    assert!(!names.contains(&"listed_b") && !names.contains(&"listed_nowhere"), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("__")), "Kafka's own topics are hidden: {names:?}");
    let listed = source.list_tables(&query(), "sales").await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str()), (1, "orders"));
    assert_eq!(listed[0].comment.as_deref(), Some("Kafka topic listed_b, text"));
    for (schema, table) in [
        ("default", "listed_b"),
        ("default", "listed_nowhere"),
        ("default", "no such"),
        ("default", "__consumer_offsets"),
        ("other", "listed_a"),
        ("default", "a/b"),
        ("default", ""),
    ] {
        match source.table(&query(), schema, table).await {
            Ok(found) => assert!(found.is_none() && table != "listed_nowhere", "{schema}.{table}"),
            // One that the catalog defines: what is missing is its topic.
            Err(error) => assert!(
                error.code() == ErrorCode::TableNotFound && table == "listed_nowhere",
                "{schema}.{table}: {error:?}"
            ),
        }
    }
    assert!(source.list_tables(&query(), "other").await.unwrap().is_empty());
}

#[tokio::test]
async fn every_part_of_a_record() {
    let script = r"
topic('parts', 2, retention_ms=-1)
p = producer()
p.produce('parts', key=b'\x00k', value=b'v\xff', partition=0, timestamp=1700000000123,
          headers=[('a', b'1'), ('b', None), ('a', b''), ('\u00e4', b'\xff')])
p.produce('parts', value=None, key='gone', partition=0, timestamp=1700000000001)
p.produce('parts', value='', partition=0, timestamp=5)
p.produce('parts', value='other', partition=1, timestamp=1700000001000)
p.flush()
";
    let Some(bus) = Bus::of("every_part_of_a_record", script, "") else { return };
    let sql = "SELECT _partition, _offset, _timestamp, _timestamp_type, encode(_key, 'hex') AS k, encode(_value, 'hex') AS v, \
               _value IS NULL AS tombstone, _key IS NULL AS keyless FROM parts ORDER BY 1, 2";
    let rows = bus.lines(&["parts"], sql).await;
    let expected = [
        "0 0 2023-11-14T22:13:20.123Z CreateTime 006b 76ff false false",
        "0 1 2023-11-14T22:13:20.001Z CreateTime 676f6e65  true false",
        "0 2 1970-01-01T00:00:00.005Z CreateTime   false true",
        "1 0 2023-11-14T22:13:21Z CreateTime  6f74686572 false true",
    ];
    assert_eq!(rows, expected);
    let headers = bus.lines(&["parts"], "SELECT _headers FROM parts WHERE _partition = 0 ORDER BY _offset").await;
    let all = "[{name: a, value: 31}, {name: b, value: }, {name: a, value: }, {name: ä, value: ff}]";
    assert_eq!(headers, [all, "[]", "[]"]);
    let sql = "SELECT _headers[2]['value'] IS NULL AS b, _headers[3]['value'] IS NULL AS a FROM parts WHERE _offset = 0 AND _partition = 0";
    assert_eq!(bus.lines(&["parts"], sql).await, ["true false"], "a null is not an empty value");
    assert_eq!(bus.lines(&["parts"], "SELECT count(*) FROM parts").await, ["4"], "no column at all");
}

#[tokio::test]
async fn text_and_json_with_declared_and_with_guessed_columns() {
    let script = r#"
for t in ('texts', 'declared', 'guessed'):
    topic(t)
p = producer()
for text in ('héllo', '', None):
    p.produce('texts', value=text)
for value in (
    '{"id": 9007199254740993, "who": {"name": "ann", "tags": ["x", "y"]}, "price": 12.30, "at": "2024-02-29T12:00:00+02:00"}',
    '{"id": "7", "who": {"name": null, "tags": []}, "price": "0.01", "at": 1709208000500, "more": 1}',
    '{}',
    None,
):
    p.produce('declared', value=value)
for n in range(10):
    p.produce('guessed', value='{"n": %d, "f": %s, "ok": true, "who": {"a": [1]}, "s": "x%d"}' % (n, n if n % 2 else 0.5, n))
p.flush()
"#;
    let tables = r#"
[[catalogs.bus.tables]]
topic = "texts"
format = "text"
[[catalogs.bus.tables]]
topic = "declared"
format = "json"
columns = [{ name = "id", type = "bigint" }, { name = "name", type = "varchar", path = "$.who.name" },
    { name = "tag", type = "varchar", path = "$.who.tags[1]" }, { name = "price", type = "decimal(10, 2)" },
    { name = "at", type = "timestamp with time zone" }, { name = "all", type = "varchar", path = "$" }]
[[catalogs.bus.tables]]
topic = "guessed"
format = "json"
"#;
    let Some(bus) = Bus::of("text_and_json", script, tables) else { return };
    let rows = bus.lines(&["texts"], "SELECT _value, _value IS NULL AS n FROM texts ORDER BY _offset").await;
    assert_eq!(rows, ["héllo false", " false", " true"]);
    let sql = "SELECT id, name, tag, price, at, \"all\" IS NULL AS nothing FROM declared ORDER BY _offset";
    let expected = [
        "9007199254740993 ann y 12.30 2024-02-29T10:00:00Z false",
        "7   0.01 2024-02-29T12:00:00.500Z false",
        "     false",
        "     true",
    ];
    assert_eq!(bus.lines(&["declared"], sql).await, expected);
    let sql = "SELECT n, f, ok, who, s, arrow_typeof(n), arrow_typeof(f), arrow_typeof(ok) FROM guessed WHERE n < 2 ORDER BY n";
    let expected =
        [r#"0 0.5 true {"a": [1]} x0 Int64 Float64 Boolean"#, r#"1 1.0 true {"a": [1]} x1 Int64 Float64 Boolean"#];
    assert_eq!(bus.lines(&["guessed"], sql).await, expected);
}

#[tokio::test]
async fn what_does_not_decode_fails_or_is_null_and_counted() {
    let script = r#"
topic('odd')
p = producer()
for value in ('{"id": 1, "s": "a"}', '{"id": "x", "s": "secret-data"}', 'no json secret-data', b'\xff\xfe', '[1]', '{"id": 2}'):
    p.produce('odd', value=value)
p.flush()
"#;
    let table = |name: &str, on_error: &str| {
        let columns = "columns = [{ name = \"id\", type = \"integer\" }, { name = \"s\", type = \"varchar\" }]";
        format!(
            "[[catalogs.bus.tables]]\ntopic = \"odd\"\ntable = \"{name}\"\nformat = \"json\"\n{on_error}\n{columns}\n"
        )
    };
    let text = "[[catalogs.bus.tables]]\ntopic = \"odd\"\ntable = \"as_text\"\nformat = \"text\"\n";
    let tables = [table("strict", ""), table("lenient", "on_error = \"null-and-count\""), text.to_string()].concat();
    let Some(bus) = Bus::of("what_does_not_decode", script, &tables) else { return };
    let error = bus.query(&["strict"], "SELECT id FROM strict").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DataCorrupt, "{error}");
    assert!(
        error.message().contains("bus.default.strict") && error.message().contains("offset 1 of partition 0"),
        "{error}"
    );
    assert!(error.message().contains("column id") && !format!("{error:?}").contains("secret-data"), "{error:?}");
    let error = bus.query(&["strict"], "SELECT s FROM strict WHERE _offset >= 2").await.unwrap_err();
    assert!(error.message().contains("offset 2") && error.message().contains("no JSON"), "{error}");
    // Whoever does not look at the values does not stumble over them.
    assert_eq!(bus.lines(&["strict"], "SELECT count(*) FROM strict").await, ["6"]);
    let error = bus.query(&["as_text"], "SELECT _value FROM as_text").await.unwrap_err();
    assert!(error.message().contains("offset 3") && error.message().contains("_value"), "{error}");

    let sql = "SELECT _offset, id, s FROM lenient ORDER BY _offset";
    let expected = ["0 1 a", "1  secret-data", "2  ", "3  ", "4  ", "5 2 "];
    assert_eq!(bus.lines(&["lenient"], sql).await, expected);
    let query = query();
    let (plan, _, session) = bus.plan(&query, &["lenient"], "SELECT id, s FROM lenient").await;
    super::run(&plan, &session).await.unwrap();
    let counted = plan.metrics().unwrap().sum_by_name("decode_errors").map(|count| count.as_usize());
    assert_eq!(counted, Some(7), "one field, and three values of two fields each");
    // What did not decode is shown, with the reason, in a column that is there where it can happen.
    let sql = "SELECT _offset, _error FROM lenient WHERE _error IS NOT NULL ORDER BY _offset";
    let shown = bus.lines(&["lenient"], sql).await;
    let whole = "the value is not of the table's format";
    let expected = ["1 id".to_string(), format!("2 {whole}"), format!("3 {whole}"), format!("4 {whole}")];
    assert_eq!(shown, expected);
}

#[tokio::test]
async fn whatever_a_producer_compresses_with() {
    let script = r"
for codec in ('none', 'gzip', 'snappy', 'lz4', 'zstd'):
    topic('packed_' + codec)
    p = producer(compression_type=codec, linger_ms=50, batch_num_messages=700)
    for n in range(5000):
        p.produce('packed_' + codec, key=str(n), value=('%d ' % n) * 20)
    p.flush()
";
    let Some(bus) = Bus::of("compression", script, "") else { return };
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let table = format!("packed_{codec}");
        let sql = format!(
            "SELECT count(*), sum(CAST(CAST(_key AS VARCHAR) AS BIGINT)), sum(octet_length(CAST(_value AS VARCHAR))), \
             sum(CAST(CAST(_key AS VARCHAR) AS BIGINT) - _offset) FROM {table}"
        );
        let bytes: usize = (0..5000).map(|n: usize| (n.to_string().len() + 1) * 20).sum();
        assert_eq!(bus.lines(&[&table], &sql).await, [format!("5000 12497500 {bytes} 0")], "{codec}");
    }
    // The Java client frames what it packs in its own way.
    for codec in ["gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("java_{codec}");
        bus.server.python(&format!("topic('{topic}')"));
        let lines: String = (0..3000).map(|n| format!("line {n} of some that are packed\n")).collect();
        bus.server.java_producer(&topic, codec, &lines);
        let sql = format!("SELECT count(*), sum(octet_length(CAST(_value AS VARCHAR))) FROM {topic}");
        let bytes = lines.len() - 3000;
        assert_eq!(bus.lines(&[&topic], &sql).await, [format!("3000 {bytes}")], "{codec}");
    }
}

#[tokio::test]
async fn large_records_come_whole() {
    let script = r"
topic('large', max_message_bytes=20000000)
p = producer(message_max_bytes=20000000)
for n in range(6):
    p.produce('large', value=bytes([65 + n]) * (4000000 * (n % 3)))
p.flush(60)
";
    let Some(bus) = Bus::of("large", script, "") else { return };
    let sql = "SELECT _offset, octet_length(CAST(_value AS VARCHAR)), substr(CAST(_value AS VARCHAR), 1, 2) FROM large ORDER BY 1";
    let expected = ["0 0 ", "1 4000000 BB", "2 8000000 CC", "3 0 ", "4 4000000 EE", "5 8000000 FF"];
    assert_eq!(bus.lines(&["large"], sql).await, expected);
}
