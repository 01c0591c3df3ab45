//! Avro through a real registry (Apicurio), written by Confluent's own serializer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::physical_plan::collect as collect_plan;
use townlake_common::{Error, ErrorCode};
use townlake_tests::kafka::Kafka;
use townlake_tests::registry::{PASSWORD, Registry, TOKEN};

use super::registered::{Servers, table};
use super::{Bus, cells, connections, query, run};
use crate::sources::session;

const AVRO: &str = "format = \"avro\"";

#[tokio::test]
async fn every_type_of_avro() {
    let script = r#"
logical = lambda kind, name, **more: {'type': kind, 'logicalType': name, **more}
fixed = lambda name, size, **more: {'type': 'fixed', 'name': name, 'size': size, **more}
schema = record('n.All',
    ('n', 'null'), ('t', 'boolean'), ('i', 'int'), ('l', 'long'), ('f', 'float'), ('d', 'double'), ('b', 'bytes'), ('s', 'string'),
    ('dec', logical('bytes', 'decimal', precision=10, scale=2)),
    ('big', logical('bytes', 'decimal', precision=60, scale=5)),
    ('fdec', fixed('FD', 8, logicalType='decimal', precision=18, scale=4)),
    ('day', logical('int', 'date')), ('tm', logical('int', 'time-millis')), ('tu', logical('long', 'time-micros')),
    ('tsm', logical('long', 'timestamp-millis')), ('tsu', logical('long', 'timestamp-micros')),
    ('tsn', logical('long', 'timestamp-nanos')), ('ltm', logical('long', 'local-timestamp-millis')),
    ('ltu', logical('long', 'local-timestamp-micros')), ('ltn', logical('long', 'local-timestamp-nanos')),
    ('u', logical('string', 'uuid')), ('uf', fixed('UF', 16, logicalType='uuid')), ('dur', fixed('D', 12, logicalType='duration')),
    ('e', {'type': 'enum', 'name': 'Colour', 'symbols': ['RED', 'GREEN']}), ('fx', fixed('F3', 3)),
    ('a', {'type': 'array', 'items': ['null', 'int']}), ('m', {'type': 'map', 'values': 'string'}),
    ('r', record('Inner', ('x', 'int'), ('again', 'Colour'), ('deep', {'type': 'array', 'items': record('Leaf', ('y', 'double'))}))),
    ('o', ['null', 'string']), ('un', ['null', 'int', 'string', 'Leaf']))
D, utc = decimal.Decimal, datetime.timezone.utc
plain = dict(n=None, t=True, i=7, l=8, f=0.5, d=-0.25, b=b'\x00\xff', s='h\u00e9 \U0001f600', dec=D('12.30'), big=D('1.00001'),
    fdec=D('-1.5'), day=datetime.date(2024, 2, 29), tm=datetime.time(23, 59, 59, 999000), tu=datetime.time(0, 0, 0, 1),
    tsm=datetime.datetime(2024, 2, 29, 12, 0, 0, 123000, utc), tsu=datetime.datetime(2024, 2, 29, 12, 0, 0, 123456, utc),
    tsn=1709208000123456789, ltm=datetime.datetime(2024, 2, 29, 12), ltu=datetime.datetime(2024, 2, 29, 12, 0, 0, 1), ltn=-1,
    u=uuid.UUID(int=1), uf=uuid.UUID(int=2).bytes, dur=b'\x01\x00\x00\x00\x02\x00\x00\x00\xb8\x0b\x00\x00', e='GREEN', fx=b'abc',
    a=[1, None, -3], m={'k': 'v'}, r=dict(x=1, again='RED', deep=[dict(y=1.5), dict(y=float('inf'))]), o='there', un=5)
most = dict(plain, i=2**31-1, l=2**63-1, f=3.4028234663852886e38, d=1.7976931348623157e308, b=b'', s='', dec=D('99999999.99'),
    big=D('9' * 55 + '.99999'), fdec=D('99999999999999.9999'), day=datetime.date(9999, 12, 31), tm=datetime.time(0), tu=datetime.time(23, 59, 59, 999999),
    tsm=datetime.datetime(9999, 12, 31, 23, 59, 59, 999000, utc), tsu=datetime.datetime(9999, 12, 31, 23, 59, 59, 999999, utc), tsn=2**63-1,
    ltm=datetime.datetime(9999, 12, 31), ltu=datetime.datetime(9999, 12, 31), ltn=2**63-1, dur=b'\xff\xff\xff\x7f' * 2 + b'\xff' * 4,
    a=[], m={}, r=dict(x=0, again='GREEN', deep=[]), o=None, un=('string', 'text'))
least = dict(plain, t=False, i=-2**31, l=-2**63, f=float('-inf'), d=float('nan'), dec=D('-99999999.99'), big=D('-' + '9' * 55 + '.99999'),
    fdec=D('-99999999999999.9999'), day=datetime.date(1, 1, 1), tsm=datetime.datetime(1, 1, 1, tzinfo=utc), tsu=datetime.datetime(1, 1, 1, tzinfo=utc),
    tsn=-2**63, ltm=datetime.datetime(1, 1, 1), dur=b'\x00' * 12, o='', un=dict(y=2.0))
topic('avro_types')
avro('avro_types', schema, [plain, most, least, None])
"#;
    let Some(servers) = Servers::shared("every_type_of_avro") else { return };
    servers.python(script);
    let bus = servers.bus(&table("avro_types", &format!("{AVRO}\ntable = \"t\"")));
    let read = async |columns: &str| bus.lines(&["t"], &format!("SELECT {columns} FROM t ORDER BY _offset")).await;
    assert_eq!(
        read("t, i, l, f, d, encode(b, 'hex'), s, n IS NULL").await,
        [
            "true 7 8 0.5 -0.25 00ff hé 😀 true",
            "true 2147483647 9223372036854775807 3.4028235e38 1.7976931348623157e308   true",
            "false -2147483648 -9223372036854775808 -inf NaN 00ff hé 😀 true",
            "       true",
        ]
    );
    let nines = "9".repeat(55);
    assert_eq!(
        read("dec, big, fdec, arrow_typeof(dec), arrow_typeof(big)").await,
        [
            "12.30 1.00001 -1.5000 Decimal128(10, 2) Decimal256(60, 5)".to_string(),
            format!("99999999.99 {nines}.99999 99999999999999.9999 Decimal128(10, 2) Decimal256(60, 5)"),
            format!("-99999999.99 -{nines}.99999 -99999999999999.9999 Decimal128(10, 2) Decimal256(60, 5)"),
            "   Decimal128(10, 2) Decimal256(60, 5)".to_string(),
        ]
    );
    assert_eq!(
        read("day, tm, tu, tsm, tsu, tsn").await,
        [
            "2024-02-29 23:59:59.999 00:00:00.000001 2024-02-29T12:00:00.123Z 2024-02-29T12:00:00.123456Z 2024-02-29T12:00:00.123456789Z",
            "9999-12-31 00:00:00 23:59:59.999999 9999-12-31T23:59:59.999Z 9999-12-31T23:59:59.999999Z 2262-04-11T23:47:16.854775807Z",
            "0001-01-01 23:59:59.999 00:00:00.000001 0001-01-01T00:00:00Z 0001-01-01T00:00:00Z 1677-09-21T00:12:43.145224192Z",
            "     ",
        ]
    );
    assert_eq!(
        read("ltm, ltu, ltn, u, uf").await,
        [
            "2024-02-29T12:00:00 2024-02-29T12:00:00.000001 1969-12-31T23:59:59.999999999 00000000-0000-0000-0000-000000000001 00000000-0000-0000-0000-000000000002",
            "9999-12-31T00:00:00 9999-12-31T00:00:00 2262-04-11T23:47:16.854775807 00000000-0000-0000-0000-000000000001 00000000-0000-0000-0000-000000000002",
            "0001-01-01T00:00:00 2024-02-29T12:00:00.000001 1969-12-31T23:59:59.999999999 00000000-0000-0000-0000-000000000001 00000000-0000-0000-0000-000000000002",
            "    ",
        ]
    );
    assert_eq!(
        read("dur = INTERVAL '1 month 2 days 3 seconds', dur = INTERVAL '0 days', e, encode(fx, 'hex')").await,
        ["true false GREEN 616263", "false false GREEN 616263", "false true GREEN 616263", "   "]
    );
    assert_eq!(
        read("a, m, r, o, o IS NULL, un, un IS NULL").await,
        [
            "[1, , -3] {k: v} {x: 1, again: RED, deep: [{y: 1.5}, {y: inf}]} there false {int: 5, string: , Leaf: } false",
            "[] {} {x: 0, again: GREEN, deep: []}  true {int: , string: text, Leaf: } false",
            "[1, , -3] {k: v} {x: 1, again: RED, deep: [{y: 1.5}, {y: inf}]}  false {int: , string: , Leaf: {y: 2.0}} false",
            "    true  true",
        ]
    );
    assert_eq!(
        read("un['int'], m['k'], r['deep'][1]['y'], element_at(m, 'k')[1], cardinality(a)").await[0],
        "5 v 1.5 v 3",
        "what is inside can be reached"
    );
}

#[tokio::test]
async fn schemas_change_and_old_records_are_read_by_the_newest() {
    let script = r#"
topic('avro_evolved', 2)
old = record('shop.Order', ('id', 'int'), ('amount', 'float'), ('customer', 'string'), ('gone', {'type': 'array', 'items': 'string'}),
    ('state', {'type': 'enum', 'name': 'State', 'symbols': ['NEW', 'LOST']}), ('note', 'string'))
avro('avro_evolved', old, [dict(id=1, amount=0.5, customer='ann', gone=['x'], state='NEW', note='n'),
                           dict(id=2, amount=1.5, customer='bob', gone=[], state='LOST', note='')])
new = record('shop.Order', ('amount', 'double'), ('id', 'long'), ('who', 'string'),
    ('state', {'type': 'enum', 'name': 'State', 'symbols': ['UNKNOWN', 'NEW'], 'default': 'UNKNOWN'}),
    ('note', ['null', 'string'], None), ('tags', {'type': 'array', 'items': 'string'}, ['none']), ('vip', ['null', 'boolean'], None))
new['fields'][2]['aliases'] = ['customer']
avro('avro_evolved', new, [dict(id=2**40, amount=0.1, who='cid', state='NEW', note=None, tags=['a'], vip=True)])
"#;
    let Some(servers) = Servers::shared("schemas_change") else { return };
    servers.python(script);
    let bus = servers.bus(&table("avro_evolved", AVRO));
    let sql = "SELECT id, amount, who, state, note, note IS NULL, tags, vip FROM avro_evolved ORDER BY id";
    let expected = [
        "1 0.5 ann NEW n false [none] ",
        "2 1.5 bob UNKNOWN  false [none] ",
        "1099511627776 0.1 cid NEW  true [a] true",
    ];
    assert_eq!(bus.lines(&["avro_evolved"], sql).await, expected);
    assert_eq!(bus.lines(&["avro_evolved"], "SELECT who FROM avro_evolved WHERE id = 2").await, ["bob"]);
    // The recipe has the columns: another node, which has never heard of the table, reads the same.
    let planned_for = query();
    let (plan, text, _) = bus.plan(&planned_for, &["avro_evolved"], "SELECT sum(id), max(who) FROM avro_evolved").await;
    assert!(text.contains("KafkaScanExec"), "{text}");
    let elsewhere = servers.bus("");
    let session = session(&planned_for, &elsewhere.connections, 4);
    let rows = collect_plan(plan, session.task_ctx()).await.unwrap();
    assert_eq!(cells(&rows), [["1099511627779", "cid"]]);

    // A new schema is seen within a minute; a catalog that is asked for the first time sees it at once.
    servers.python("avro('avro_evolved', record('shop.Order', ('id', 'long'), ('must', 'int')), [dict(id=7, must=1)])");
    let newest = servers.bus(&table("avro_evolved", AVRO));
    let error = newest.query(&["avro_evolved"], "SELECT id, must FROM avro_evolved").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DataCorrupt, "{error}");
    assert!(error.message().contains("column must"), "what was not written has no default: {error}");
    let ids = newest.lines(&["avro_evolved"], "SELECT id FROM avro_evolved ORDER BY id").await;
    assert_eq!(ids, ["1", "2", "7", "1099511627776"], "what is not asked for does not fail");
}

#[tokio::test]
async fn types_of_other_subjects_and_other_shapes() {
    let script = r#"
address = json.dumps(record('shop.Address', ('city', 'string')))
registry.register_schema('avro-address', Schema(address, 'AVRO'))
person = json.dumps(record('shop.Person', ('home', 'shop.Address'), ('others', {'type': 'array', 'items': 'shop.Address'}), ('_key', 'int')))
topic('avro_person')
schema = Schema(person, 'AVRO', [SchemaReference('shop.Address', 'avro-address', 1)])
avro('avro_person', schema, [dict(home=dict(city='x'), others=[dict(city='y')], _key=5)])
topic('avro_number')
avro('avro_number', 'long', [5, -1])
topic('avro_named')
registry.register_schema('elsewhere', Schema(json.dumps(record('R', ('a', 'int'))), 'AVRO'))
avro('avro_named', record('R', ('a', 'int')), [dict(a=3)], auto_register_schemas=False, use_latest_version=True,
     subject_name_strategy=lambda context, name: 'elsewhere')
topic('avro_tree')
tree = record('Tree', ('name', 'string'), ('kids', {'type': 'array', 'items': 'Tree'}))
avro('avro_tree', tree, [dict(name='root', kids=[dict(name='leaf', kids=[])])])
topic('avro_missing')
"#;
    let Some(servers) = Servers::shared("types_of_other_subjects") else { return };
    servers.python(script);
    let tables = [
        table("avro_person", AVRO),
        table("avro_number", AVRO),
        table("avro_named", &format!("{AVRO}\nsubject = \"elsewhere\"")),
        table("avro_tree", AVRO),
        table("avro_missing", AVRO),
        table("avro_person", "format = \"protobuf\"\ntable = \"wrong\"\nsubject = \"avro_person-value\""),
    ];
    let bus = servers.bus(&tables.concat());
    let sql = "SELECT home['city'], others, _value_key, _key IS NULL FROM avro_person";
    assert_eq!(bus.lines(&["avro_person"], sql).await, ["x [{city: y}] 5 true"]);
    assert_eq!(bus.lines(&["avro_number"], "SELECT _value FROM avro_number ORDER BY 1").await, ["-1", "5"]);
    assert_eq!(bus.lines(&["avro_named"], "SELECT a FROM avro_named").await, ["3"]);
    for (name, code, words) in [
        ("avro_tree", ErrorCode::FormatNotSupported, ["avro_tree-value", "kids is a Tree within a Tree"]),
        ("avro_missing", ErrorCode::TableNotFound, ["avro_missing-value", "bus.default.avro_missing"]),
        ("wrong", ErrorCode::FormatNotSupported, ["AVRO, not PROTOBUF", "bus.default.wrong"]),
    ] {
        let error = bus.source().table(&query(), "default", name).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
    }
}

#[tokio::test]
async fn what_does_not_decode_is_told_or_counted() {
    let script = r#"
topic('avro_odd')
schema = record('R', ('id', 'int'), ('d', {'type': 'bytes', 'logicalType': 'decimal', 'precision': 4, 'scale': 0}), ('s', 'string'))
avro('avro_odd', schema, [dict(id=1, d=decimal.Decimal(7), s='a')])
own = registry.get_latest_version('avro_odd-value').schema_id
frame = lambda id: b'\x00' + id.to_bytes(4, 'big')
registry.register_schema('avro_odd_other', Schema('syntax = "proto3"; message M { int32 a = 1; }', 'PROTOBUF'))
other = registry.get_latest_version('avro_odd_other').schema_id
write('avro_odd', [b'secret-data', b'', frame(own) + b'\x02\x04', frame(2**31 + 5) + b'\x02secret-data', frame(other) + b'{}',
    frame(own) + b'\x04\x06\x7f\xff\xff\x02s', frame(own) + b'\x04\x02\x01\x02\xff', frame(own) + b'\x04\x02\x01\x02sX', None])
avro('avro_odd', schema, [dict(id=9, d=decimal.Decimal(-1), s='z')])
print(own, other)
"#;
    let Some(servers) = Servers::shared("what_does_not_decode") else { return };
    let printed = servers.python(script);
    let (_, other) = printed.trim().split_once(' ').unwrap();
    let lenient = table("avro_odd", &format!("{AVRO}\ntable = \"lenient\"\non_error = \"null-and-count\""));
    let bus = servers.bus(&[table("avro_odd", AVRO), lenient].concat());
    let whole = |offset: usize, what: &str| (offset, format!("the value {what}"));
    let format = "is not of the table's format";
    let unknown = format!("has schema {}, which the registry does not know", (1u32 << 31) + 5);
    let unusable = format!("has schema {other}, which is none that the table's format reads");
    let wholes = [
        whole(1, "does not begin with the id of a schema"),
        whole(2, "does not begin with the id of a schema"),
        whole(3, format),
        whole(4, &unknown),
        whole(5, &unusable),
        whole(8, format),
    ];
    for (offset, told) in &wholes {
        let sql = format!("SELECT id FROM avro_odd WHERE _offset = {offset}");
        let error = bus.query(&["avro_odd"], &sql).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DataCorrupt, "{error}");
        let words =
            ["bus.default.avro_odd", &format!("offset {offset} of partition 0"), told.trim_start_matches("the value ")];
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
    for (offset, column) in [(6, "d"), (7, "s")] {
        let sql = format!("SELECT id, d, s FROM avro_odd WHERE _offset = {offset}");
        let error = bus.query(&["avro_odd"], &sql).await.unwrap_err();
        let words = [format!("offset {offset} of partition 0"), format!("column {column}")];
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        // Who does not look at the column does not stumble over it.
        let ids = bus.lines(&["avro_odd"], &sql.replace("id, d, s", "id")).await;
        assert_eq!(ids, ["2"]);
    }
    assert_eq!(bus.lines(&["avro_odd"], "SELECT count(*) FROM avro_odd").await, ["11"]);

    let sql = "SELECT _offset, _error FROM lenient WHERE _error IS NOT NULL ORDER BY _offset";
    let mut expected: Vec<_> = wholes.iter().map(|(offset, told)| format!("{offset} {told}")).collect();
    expected.insert(5, "6 d".to_string());
    expected.insert(6, "7 s".to_string());
    assert_eq!(bus.lines(&["lenient"], sql).await, expected);
    let rows = bus.lines(&["lenient"], "SELECT _offset, id, d, s FROM lenient WHERE id IS NOT NULL ORDER BY 1").await;
    assert_eq!(rows, ["0 1 7 a", "6 2  s", "7 2 1 ", "10 9 -1 z"]);
    let asked = query();
    let (plan, _, session) = bus.plan(&asked, &["lenient"], "SELECT id, d, s FROM lenient").await;
    run(&plan, &session).await.unwrap();
    let counted = plan.metrics().unwrap().sum_by_name("decode_errors").map(|count| count.as_usize());
    assert_eq!(counted, Some(20), "six values of three columns each, and two columns");
}

fn tells_no_secret(error: &Error) {
    let told = format!("{error} {error:?} {}", error.to_wire());
    assert!(!told.contains("hunter2"), "{told}");
}

async fn ids(bus: &Bus, name: &str) -> Result<Vec<Vec<String>>, Error> {
    let asked = query();
    let session = session(&asked, &bus.connections, 2);
    let found = bus.source().table(&asked, "default", name).await?;
    session.register_table("t", found.expect("the topic is there")).unwrap();
    Ok(cells(&super::collect(&session, "SELECT a FROM t").await?))
}

#[tokio::test]
async fn a_registry_that_is_down_is_named_and_logins_are_made() {
    let Some(kafka) = Kafka::shared("a_registry_that_is_down") else { return };
    let Some(registry) = Registry::start("a_registry_that_is_down") else { return };
    let servers = Servers { kafka, registry: Arc::new(registry) };
    servers.python("topic('avro_door')\navro('avro_door', record('R', ('a', 'int')), [dict(a=1)])");
    let tables = table("avro_door", AVRO);
    let lenient =
        format!("request_timeout = \"3s\"\n{}", table("avro_door", &format!("{AVRO}\non_error = \"null-and-count\"")));

    let door = servers.registry.door(&servers.kafka);
    let ca = servers.kafka.file("ca.crt").display().to_string();
    let through = |keys: &str| {
        let keys = format!("schema_registry = \"{door}\"\nrequest_timeout = \"10s\"\n{keys}\n{tables}");
        Bus { server: Arc::clone(&servers.kafka), connections: connections(&servers.kafka.broker(), &keys) }
    };
    let trusted = format!("schema_registry_ca = \"{ca}\"");
    let login = |password: &str| {
        format!("{trusted}\nschema_registry_user = \"reader\"\nschema_registry_password = \"{password}\"")
    };
    let token = |token: &str| format!("{trusted}\nschema_registry_token = \"{token}\"");
    for keys in [login(PASSWORD), token(TOKEN)] {
        assert_eq!(ids(&through(&keys), "avro_door").await.unwrap(), [["1"]]);
    }
    for (keys, word) in [
        (trusted.clone(), "401"),
        (login("hunter2-wrong"), "403"),
        (token("hunter2-wrong"), "403"),
        (String::new(), "TLS"),
    ] {
        let error = ids(&through(&keys), "avro_door").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SourceDenied, "{error}");
        assert!(error.message().contains("catalog bus") && error.message().contains(word), "{error}");
        tells_no_secret(&error);
    }
    let wrong = Bus {
        server: Arc::clone(&servers.kafka),
        connections: connections(
            &servers.kafka.broker(),
            &format!("schema_registry = \"http://{}/nothing/here\"\n{tables}", servers.registry.host()),
        ),
    };
    let error = ids(&wrong, "avro_door").await.unwrap_err();
    assert!(error.code() == ErrorCode::SourceError && error.message().contains("404"), "{error}");

    // What is known stays known: the schema of an id never changes.
    let (before, later) = (servers.bus(&tables), servers.bus(&lenient));
    assert_eq!(ids(&before, "avro_door").await.unwrap(), [["1"]]);
    let asked = query();
    let (plan, _, session) = later.plan(&asked, &["avro_door"], "SELECT a FROM avro_door").await;
    servers.registry.stop();
    assert_eq!(ids(&before, "avro_door").await.unwrap(), [["1"]]);
    let begun = Instant::now();
    for error in [run(&plan, &session).await.unwrap_err(), ids(&servers.bus(&lenient), "avro_door").await.unwrap_err()]
    {
        assert_eq!(error.code(), ErrorCode::SourceUnavailable, "also where errors are NULL: {error}");
        assert!(error.is_retryable(), "{error}");
        let words = ["catalog bus".to_string(), servers.registry.host()];
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
        tells_no_secret(&error);
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}
