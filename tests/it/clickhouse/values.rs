//! Values of every type, at their edges.

use townlake_common::ErrorCode;
use townlake_tests::clickhouse::Engine;

use super::Ch;

const COMMON: &[&str] = &[
    "CREATE TABLE DB.types (id UInt8, i8 Int8, i16 Int16, i32 Int32, i64 Int64, u8 UInt8, u16 UInt16, u32 UInt32, u64 UInt64, \
     f32 Float32, f64 Float64, d9 Decimal(9, 2), d18 Decimal(18, 4), d38 Decimal(38, 10), s String, fs FixedString(3), \
     e Enum8('sad' = -1, 'it\\'s ok' = 2), e16 Enum16('x' = 1000), u UUID, d Date, dt DateTime('Europe/Berlin'), \
     n Nullable(Int32), ns Nullable(String), ne Nullable(Enum8('a' = 1)), nd Nullable(Date), ndt Nullable(DateTime), \
     nu Nullable(UUID), nd9 Nullable(Decimal(9, 2)), nfs Nullable(FixedString(2)), \
     a Array(Nullable(Int32)), ad Array(DateTime), ae Array(Enum8('a' = 1, 'b' = 2)), aa Array(Array(String)), \
     t Tuple(UInt8, String)) ENGINE = MergeTree ORDER BY id",
    "INSERT INTO DB.types VALUES (1, -128, -32768, -2147483648, -9223372036854775808, 0, 0, 0, 0, -inf, nan, -9999999.99, \
     -99999999999999.9999, -9999999999999999999999999999.9999999999, 'héllo\\t\\'', 'ab', 'sad', 'x', \
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '1970-01-01', '1970-01-02 01:00:00', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     [1, NULL, -3], ['1970-01-02 00:00:00'], ['b', 'a'], [['x'], []], (7, 'y'))",
    "INSERT INTO DB.types VALUES (2, 127, 32767, 2147483647, 9223372036854775807, 255, 65535, 4294967295, 18446744073709551615, \
     1.5, -0.25, 9999999.99, 99999999999999.9999, 9999999999999999999999999999.9999999999, '', 'xyz', 'it\\'s ok', 'x', \
     '00000000-0000-0000-0000-000000000000', '2105-12-31', '2105-12-31 23:59:59', 5, '', 'a', '2024-02-29', '2024-02-29 12:00:00', \
     'ffffffff-ffff-ffff-ffff-ffffffffffff', -0.05, 'zz', [], [], [], [], (0, ''))",
];

#[tokio::test]
async fn every_type_at_its_edges() {
    for ch in Ch::each("types_at_their_edges", COMMON).await {
        let show =
            async |columns: &str| ch.cells(&["types"], &format!("SELECT {columns} FROM types ORDER BY id")).await;
        let numbers = show("i8, i16, i32, i64, u8, u16, u32, u64, f32, f64, d9, d18, d38").await;
        let first = "-128 -32768 -2147483648 -9223372036854775808 0 0 0 0 -inf NaN -9999999.99 -99999999999999.9999 \
             -9999999999999999999999999999.9999999999";
        let second = "127 32767 2147483647 9223372036854775807 255 65535 4294967295 18446744073709551615 1.5 -0.25 9999999.99 \
             99999999999999.9999 9999999999999999999999999999.9999999999";
        assert_eq!(numbers[0].join(" "), first);
        assert_eq!(numbers[1].join(" "), second);

        let texts = show("s, fs, e, e16, u").await;
        assert_eq!(texts[0][0].replace('\t', "~"), "héllo~'");
        assert_eq!(texts[0][1..].join(" "), "616200 sad x a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        assert_eq!(texts[1].join(" "), " 78797a it's ok x 00000000-0000-0000-0000-000000000000");

        let times = show("d, dt").await;
        assert_eq!(times[0].join(" "), "1970-01-01 1970-01-02T00:00:00Z");
        assert_eq!(times[1].join(" "), "2105-12-31 2105-12-31T22:59:59Z");

        let nullable = show("n, ns, ne, nd, ndt, nu, nd9, nfs").await;
        assert_eq!(nullable[0].join(""), "", "NULLs stay NULL");
        let values = "5  a 2024-02-29 2024-02-29T12:00:00Z ffffffff-ffff-ffff-ffff-ffffffffffff -0.05 7a7a";
        assert_eq!(nullable[1].join(" "), values);
        let nulls = show("ns IS NULL, n IS NULL").await;
        assert_eq!((nulls[0].join(" "), nulls[1].join(" ")), ("true true".to_string(), "false false".to_string()));

        let nested = show("a, ad, ae, aa, t").await;
        assert_eq!(nested[0].join(" "), "[1, , -3] [1970-01-02T00:00:00Z] [b, a] [[x], []] {1: 7, 2: y}");
        assert_eq!(nested[1].join(" "), "[] [] [] [] {1: 0, 2: }");

        assert_eq!(ch.cells(&["types"], "SELECT count(*) FROM types").await, [["2"]], "no column at all");
    }
}

const MODERN: &[&str] = &[
    "CREATE TABLE DB.types (id UInt8, b Bool, nb Nullable(Bool), d32 Date32, t3 DateTime64(3, 'Asia/Tokyo'), t9 Nullable(DateTime64(9)), \
     t0 DateTime64(0), lc LowCardinality(Nullable(String)), i128 Int128, u128 Nullable(UInt128), i256 Int256, u256 UInt256, \
     d76 Decimal(76, 4), ip4 IPv4, ip6 Nullable(IPv6), m Map(LowCardinality(String), Nullable(DateTime64(3))), \
     t Tuple(a UInt8, `b c` Nullable(String)), ne Array(Tuple(x Date, y Enum8('q' = 1))), saf SimpleAggregateFunction(max, UInt64), \
     af AggregateFunction(sum, UInt64), js JSON, v Variant(UInt8, String), dy Dynamic, pt Point, bf BFloat16, nt Nullable(Tuple(a UInt8)), \
     lu LowCardinality(UInt8), iv IntervalDay) ENGINE = MergeTree ORDER BY id SETTINGS allow_suspicious_low_cardinality_types = 1",
    "INSERT INTO DB.types SELECT 1, true, NULL, '1900-01-01', '1969-12-31 23:59:59.999', '2024-02-29 12:00:00.123456789', \
     '2299-12-31 23:59:59', 'x', '-170141183460469231731687303715884105728', '340282366920938463463374607431768211455', \
     '-9999999999999999999999999999999999999999999999999999999999999999999999999999', '1', \
     toDecimal256('-123456789012345678901234567890.1234', 4), '1.2.3.4', '::1', map('k', toDateTime64('2024-01-01 00:00:00.5', 3, 'UTC')), (1, NULL), \
     [('2024-02-29', 'q')], 9, arrayReduce('sumState', [toUInt64(5)]), '{\"a\":1}', 5::UInt8, 'x', (1.5, -2), 1.5, NULL, 7, toIntervalDay(3)",
];

#[tokio::test]
async fn every_modern_type() {
    let Some(ch) = Ch::of(Engine::Modern, "modern_types", MODERN, "").await else { return };
    let show =
        async |columns: &str| ch.cells(&["types"], &format!("SELECT {columns} FROM types")).await.remove(0).join(" ");
    assert_eq!(show("b, nb, d32, lc, ip4, ip6, saf, bf, lu").await, "true  1900-01-01 x 1.2.3.4 ::1 9 1.5 7");
    let times = "1969-12-31T14:59:59.999Z 2024-02-29T12:00:00.123456789Z 2299-12-31T23:59:59Z";
    assert_eq!(show("t3, t9, t0").await, times);
    let wide = format!(
        "-170141183460469231731687303715884105728 340282366920938463463374607431768211455 -{} 1 -123456789012345678901234567890.1234",
        "9".repeat(76)
    );
    assert_eq!(show("i128, u128, i256, u256, d76").await, wide);
    assert_eq!(show("m, t, ne").await, "{k: 2024-01-01T00:00:00.500Z} {a: 1, b c: } [{x: 2024-02-29, y: q}]");
    assert_eq!(show("af, js, v, dy, pt, nt, iv").await, "0500000000000000 {\"a\":1} 5 x {1: 1.5, 2: -2.0}  3");
    assert_eq!(show("m['k'], t['a']").await, "2024-01-01T00:00:00.500Z 1");
}

#[tokio::test]
async fn what_cannot_be_represented_is_named() {
    let common = [
        "CREATE TABLE DB.odd (kind String, s String, d Decimal(9, 2)) ENGINE = Memory",
        "INSERT INTO DB.odd SELECT 's', unhex('ff'), 0",
        "INSERT INTO DB.odd SELECT 'fine', 'x', 0",
    ];
    for ch in Ch::each("not_represented", &common).await {
        let error = ch.query(&["odd"], "SELECT s FROM odd").await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::FormatNotSupported, "{error}");
        assert!(
            error.message().contains("column ch.not_represented.odd.s holds text that is not UTF-8 (in "),
            "{error}"
        );
        assert_eq!(ch.cells(&["odd"], "SELECT count(*), count(kind) FROM odd").await, [["2", "2"]]);
    }
    let modern = [
        "CREATE TABLE DB.odd (kind UInt8, i Int256, u UInt256, t DateTime64(8)) ENGINE = Memory",
        "INSERT INTO DB.odd SELECT 1, 0, toUInt256('115792089237316195423570985008687907853269984665640564039457584007913129639935'), 0",
        "INSERT INTO DB.odd SELECT 2, 0, 0, '2290-01-01 00:00:00'",
    ];
    let Some(ch) = Ch::of(Engine::Modern, "not_represented_either", &modern, "").await else { return };
    for (column, told) in [("u", "an integer of 77 digits"), ("t", "a time that 64 bits do not hold")] {
        let error = ch.query(&["odd"], &format!("SELECT {column} FROM odd")).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::FormatNotSupported, "{error}");
        assert!(error.message().contains(&format!("odd.{column} holds {told}")), "{error}");
    }
}

#[tokio::test]
async fn a_column_that_changes_its_type_is_never_misread() {
    let statements = [
        "CREATE TABLE DB.changing (a Int32, e Enum8('a' = 1)) ENGINE = MergeTree ORDER BY tuple()",
        "INSERT INTO DB.changing VALUES (1, 'a'), (2, 'a')",
    ];
    for ch in Ch::each("changing_type", &statements).await {
        let query = super::query();
        let session = ch.session(&query, 4, &["changing"]).await;
        ch.server.run("ALTER TABLE changing_type.changing MODIFY COLUMN a Int64").await;
        ch.server.run("ALTER TABLE changing_type.changing MODIFY COLUMN e Enum8('a' = 1, 'b' = 2)").await;
        ch.server.run("INSERT INTO changing_type.changing VALUES (3, 'b')").await;
        let rows = super::collect(&session, "SELECT sum(a) AS s FROM changing").await.unwrap();
        let text = datafusion::arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string();
        assert!(text.contains("| 6 |"), "{text}");
        let error = super::collect(&session, "SELECT e FROM changing").await.unwrap_err();
        assert!(error.is_retryable() && error.message().contains("changing.e holds a label"), "{error}");
    }
}
