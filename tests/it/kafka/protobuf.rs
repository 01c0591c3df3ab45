//! Protobuf through a real registry (Apicurio), written by Confluent's own serializer with classes that protoc made.

use townlake_common::ErrorCode;

use super::query;
use super::registered::{Servers, table};

const PROTOBUF: &str = "format = \"protobuf\"";

#[tokio::test]
async fn every_type_of_protobuf() {
    let script = r#"
kind = protos({'all.proto': '''
syntax = "proto3"; package n;
import "google/protobuf/timestamp.proto"; import "google/protobuf/duration.proto"; import "google/protobuf/struct.proto";
import "google/protobuf/wrappers.proto"; import "google/protobuf/any.proto";
message All {
  bool t = 1; int32 i = 2; sint32 si = 3; sfixed32 sf = 4; int64 l = 5; sint64 sl = 6; sfixed64 sfl = 7;
  uint32 u = 8; fixed32 fu = 9; uint64 ul = 10; fixed64 ful = 11; float f = 12; double d = 13; string s = 14; bytes b = 15;
  optional int32 oi = 16; Colour e = 17; Inner r = 18; repeated int32 a = 19; repeated Inner ra = 20; map<string, int64> m = 21;
  map<uint32, Inner> mr = 22; oneof one { string os = 23; int32 nn = 24; Inner om = 25; }
  google.protobuf.Timestamp ts = 26; google.protobuf.Duration dur = 27; google.protobuf.Struct js = 28;
  google.protobuf.Int64Value wi = 29; google.protobuf.StringValue ws = 30; google.protobuf.Any an = 31;
  message Inner { int32 x = 1; repeated Colour c = 2; }
  enum Colour { RED = 0; GREEN = 7; }
}'''})('n.All')
plain = kind(t=True, i=7, si=-7, sf=-1, l=8, sl=-8, sfl=9, u=1, fu=2, ul=3, ful=4, f=0.5, d=-0.25, s='h\u00e9', b=b'\x00\xff', oi=0, e=7,
    r=dict(x=1, c=[0, 7]), a=[1, -2], ra=[dict(x=5), dict()], m={'b': 2, 'a': 1}, mr={9: dict(x=3)}, nn=0, wi=dict(value=0), ws=dict(value='w'))
plain.ts.FromJsonString('2024-02-29T12:00:00.123456789Z')
plain.dur.FromJsonString('-1.5s')
plain.js.update({'k': [1, 'x', None, {'deep': True}]})
most = kind(i=2**31-1, si=2**31-1, sf=2**31-1, l=2**63-1, sl=2**63-1, sfl=2**63-1, u=2**32-1, fu=2**32-1, ul=2**64-1, ful=2**64-1,
    f=float('inf'), d=1.7976931348623157e308, e=99, os='', oi=-2**31)
most.ts.FromJsonString('9999-12-31T23:59:59.999999Z')
least = kind(i=-2**31, si=-2**31, sf=-2**31, l=-2**63, sl=-2**63, sfl=-2**63, f=float('nan'), om=dict())
least.ts.FromJsonString('0001-01-01T00:00:00Z')
topic('proto_types')
protobuf('proto_types', kind, [plain, most, least, kind(), None])
"#;
    let Some(servers) = Servers::shared("every_type_of_protobuf") else { return };
    servers.python(script);
    let bus = servers.bus(&table("proto_types", &format!("{PROTOBUF}\ntable = \"t\"")));
    let read = async |columns: &str| bus.lines(&["t"], &format!("SELECT {columns} FROM t ORDER BY _offset")).await;
    let (least, most) = ("-2147483648", "9223372036854775807");
    assert_eq!(
        read("t, i, si, sf, l, sl, sfl").await,
        [
            "true 7 -7 -1 8 -8 9".to_string(),
            format!("false 2147483647 2147483647 2147483647 {most} {most} {most}"),
            format!("false {least} {least} {least} -9223372036854775808 -9223372036854775808 -9223372036854775808"),
            "false 0 0 0 0 0 0".to_string(),
            "      ".to_string(),
        ]
    );
    assert_eq!(
        read("u, fu, ul, ful, f, d, arrow_typeof(ul), arrow_typeof(u)").await,
        [
            "1 2 3 4 0.5 -0.25 UInt64 UInt32",
            "4294967295 4294967295 18446744073709551615 18446744073709551615 inf 1.7976931348623157e308 UInt64 UInt32",
            "0 0 0 0 NaN 0.0 UInt64 UInt32",
            "0 0 0 0 0.0 0.0 UInt64 UInt32",
            "      UInt64 UInt32",
        ]
    );
    assert_eq!(
        read("s, encode(b, 'hex'), oi, oi IS NULL, e").await,
        ["hé 00ff 0 false GREEN", "  -2147483648 false 99", "   true RED", "   true RED", "   true "]
    );
    assert_eq!(
        read("r, a, ra, m, mr").await,
        [
            "{x: 1, c: [RED, GREEN]} [1, -2] [{x: 5, c: []}, {x: 0, c: []}] {a: 1, b: 2} {9: {x: 3, c: []}}",
            " [] [] {} {}",
            " [] [] {} {}",
            " [] [] {} {}",
            "    ",
        ]
    );
    assert_eq!(
        read("os, os IS NULL, nn, om").await,
        [" true 0 ", " false  ", " true  {x: 0, c: []}", " true  ", " true  "],
        "of a oneof what was written is not NULL"
    );
    assert_eq!(
        read("ts, dur = INTERVAL '-1.5 seconds', js, wi, ws, ws IS NULL, an IS NULL").await,
        [
            r#"2024-02-29T12:00:00.123456Z true {"k":[1.0,"x",null,{"deep":true}]} 0 w false true"#,
            "9999-12-31T23:59:59.999999Z     true true",
            "0001-01-01T00:00:00Z     true true",
            "     true true",
            "     true true",
        ]
    );
    assert_eq!(
        read("r['c'][2], m['b'], map_values(mr)[1]['x']").await[0],
        "GREEN 2 3",
        "what is inside can be reached"
    );
}

#[tokio::test]
async fn messages_change_and_fields_keep_their_numbers() {
    let script = r#"
old = protos({'o.proto': '''syntax = "proto3"; package shop;
message Note { string text = 1; }
message Order { int32 id = 1; string customer = 2; repeated string gone = 3; State state = 4; Note note = 5; float amount = 6; int32 one = 7;
  enum State { NEW = 0; LOST = 1; } }'''})('shop.Order')
topic('proto_evolved', 2)
protobuf('proto_evolved', old, [old(id=1, customer='ann', gone=['x'], state=1, note=dict(text='n'), amount=0.5, one=4), old(id=2)])
text = '''syntax = "proto3"; package shop;
message Other { int32 x = 1; }
message Order { int64 id = 1; string who = 2; State state = 4; Note note = 5; double amount = 6; repeated int32 one = 7; optional bool vip = 8;
  message Deep { message Est { int32 z = 1; } }
  enum State { FRESH = 0; } }
message Note { bytes text = 1; int32 stars = 2; }
'''
new = protos({'n.proto': text})
registry.register_schema('proto_evolved_text', Schema(text, 'PROTOBUF'))
protobuf('proto_evolved', new('shop.Order'), [new('shop.Order')(id=2**40, who='cid', one=[5, 6], vip=False, note=dict(stars=3))])
topic('proto_mixed')
protobuf('proto_mixed', new('shop.Other'), [new('shop.Other')(x=1)])
protobuf('proto_mixed', new('shop.Order.Deep.Est'), [new('shop.Order.Deep.Est')(z=2)])
"#;
    let Some(servers) = Servers::shared("messages_change") else { return };
    servers.python(script);
    let tables = [
        table("proto_evolved", &format!("{PROTOBUF}\nmessage = \"shop.Order\"\nsubject = \"proto_evolved_text\"")),
        table("proto_mixed", PROTOBUF),
        table(
            "proto_mixed",
            &format!("{PROTOBUF}\ntable = \"deep\"\nmessage = \"shop.Order.Deep.Est\"\non_error = \"null-and-count\""),
        ),
        table("proto_mixed", &format!("{PROTOBUF}\ntable = \"none\"\nmessage = \"shop.None\"")),
    ];
    let bus = servers.bus(&tables.concat());
    let sql = "SELECT id, who, state, encode(note['text'], 'hex'), note['stars'], amount, one, vip FROM proto_evolved ORDER BY id";
    let expected = ["1 ann LOST 6e 0 0.5 [4] ", "2  FRESH   0.0 [] ", "1099511627776 cid FRESH  3 0.0 [5, 6] false"];
    assert_eq!(bus.lines(&["proto_evolved"], sql).await, expected);

    assert_eq!(bus.lines(&["proto_mixed"], "SELECT x FROM proto_mixed WHERE _offset = 0").await, ["1"]);
    let error = bus.query(&["proto_mixed"], "SELECT x FROM proto_mixed").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DataCorrupt, "{error}");
    assert!(error.message().contains("offset 1") && error.message().contains("another message"), "{error}");
    let rows = bus.lines(&["deep"], "SELECT z, _error LIKE '%another message%' FROM deep ORDER BY _offset").await;
    assert_eq!(rows, [" true", "2 "]);
    let error = bus.source().table(&query(), "default", "none").await.unwrap_err();
    assert!(error.code() == ErrorCode::FormatNotSupported && error.message().contains("shop.None"), "{error}");
}

#[tokio::test]
async fn imports_and_proto2() {
    let script = r#"
files = {
  'money.proto': 'syntax = "proto3"; package lib; message Money { int64 units = 1; string currency = 2; }',
  'line.proto': 'syntax = "proto3"; package lib; import "money.proto"; message Line { Money price = 1; }',
  'bill.proto': 'syntax = "proto3"; package shop; import "line.proto"; import "money.proto"; message Bill { repeated lib.Line lines = 1; lib.Money total = 2; }',
}
bill = protos(files)('shop.Bill')
topic('proto_imports')
protobuf('proto_imports', bill, [bill(lines=[dict(price=dict(units=1, currency='EUR'))], total=dict(units=2))])
two = protos({'two.proto': '''syntax = "proto2"; package two;
message Two { required int32 id = 1; optional string name = 2 [default = "none"]; optional int64 plain = 3; optional E e = 4 [default = B];
  repeated int32 packed = 5 [packed = true]; optional group Part = 6 { optional bool x = 7 [default = true]; } }
enum E { A = 1; B = 2; }'''})('two.Two')
topic('proto_two')
protobuf('proto_two', two, [two(id=1), two(id=2, name='', plain=0, e=1, packed=[1, 2], part=dict())])
tree = protos({'tree.proto': 'syntax = "proto3"; message Tree { string name = 1; repeated Tree kids = 2; }'})('Tree')
topic('proto_tree')
protobuf('proto_tree', tree, [tree(name='root')])
"#;
    let Some(servers) = Servers::shared("imports_and_proto2") else { return };
    servers.python(script);
    let bus = servers.bus(&["proto_imports", "proto_two", "proto_tree"].map(|topic| table(topic, PROTOBUF)).concat());
    let rows = bus.lines(&["proto_imports"], "SELECT lines, total['units'] FROM proto_imports").await;
    assert_eq!(rows, ["[{price: {units: 1, currency: EUR}}] 2"]);
    let sql = "SELECT id, name, plain, e, packed, part FROM proto_two ORDER BY id";
    assert_eq!(bus.lines(&["proto_two"], sql).await, ["1 none  B [] ", "2  0 A [1, 2] {x: true}"]);
    let error = bus.source().table(&query(), "default", "proto_tree").await.unwrap_err();
    assert!(
        error.code() == ErrorCode::FormatNotSupported && error.message().contains("kids is a Tree within"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_no_message_is_told_or_counted() {
    let script = r#"
kind = protos({'r.proto': 'syntax = "proto3"; message R { uint64 id = 1; string s = 2; }'})('R')
topic('proto_odd')
protobuf('proto_odd', kind, [kind(id=1, s='a')])
frame = b'\x00' + registry.get_latest_version('proto_odd-value').schema_id.to_bytes(4, 'big')
write('proto_odd', [frame, frame + b'\x00\x08', frame + b'\x00\x12\x7fx', frame + b'\x00\x12\x01\xff', frame + b'\x02\x0e', b'\x00\x00\x00\x00\xff\x00', frame + b'\x00', None])
"#;
    let Some(servers) = Servers::shared("what_is_no_message") else { return };
    servers.python(script);
    let lenient = table("proto_odd", &format!("{PROTOBUF}\ntable = \"lenient\"\non_error = \"null-and-count\""));
    let bus = servers.bus(&[table("proto_odd", PROTOBUF), lenient].concat());
    let frame = "the value does not begin with the id of a schema";
    let format = "the value is not of the table's format";
    let unknown = "the value has schema 255, which the registry does not know";
    let expected = [
        "0 1 a ".to_string(),
        format!("1   {frame}"),
        format!("2   {format}"),
        format!("3   {format}"),
        format!("4   {format}"),
        format!("5   {frame}"),
        format!("6   {unknown}"),
        "7 0  ".to_string(),
        "8   ".to_string(),
    ];
    let rows = bus.lines(&["lenient"], "SELECT _offset, id, s, _error FROM lenient ORDER BY _offset").await;
    assert_eq!(rows, expected);
    for offset in 1..7 {
        let sql = format!("SELECT id FROM proto_odd WHERE _offset = {offset}");
        let error = bus.query(&["proto_odd"], &sql).await.unwrap_err();
        let place = format!("offset {offset} of partition 0");
        assert!(error.code() == ErrorCode::DataCorrupt && error.message().contains(&place), "{error}");
    }
}
