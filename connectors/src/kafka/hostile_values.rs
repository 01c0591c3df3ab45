//! What a producer or a registry may send who means ill, or is broken, in the formats of a registry: every value and every
//! schema ends decoded or in an error, and what is decoded is of its column's type.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use townlake_common::config::KafkaFormat;

use super::avro::{AvroTable, Schema};
use super::hostile::damaged;
use super::nested::Nested;
use super::protobuf::Messages;
use super::registry::{Definition, ValueDecoder, ValueTable, Writer};

const ROUNDS: u64 = 20_000;

const AVRO: [&str; 5] = [
    r#"{"type": "record", "name": "n.R", "fields": [
        {"name": "i", "type": "int"}, {"name": "l", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "s", "type": "string"}, {"name": "b", "type": ["null", "bytes"]}, {"name": "t", "type": "boolean"},
        {"name": "a", "type": {"type": "array", "items": {"type": "map", "values": ["null", "string", "double"]}}},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B", "C"]}},
        {"name": "f", "type": {"type": "fixed", "name": "F", "size": 12, "logicalType": "duration"}},
        {"name": "n", "type": {"type": "array", "items": "null"}},
        {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 3}},
        {"name": "r", "type": {"type": "record", "name": "In", "fields": [{"name": "x", "type": "float"}, {"name": "y", "type": "E"}]}}]}"#,
    r#"{"type": "record", "name": "n.R", "fields": [
        {"name": "i", "type": "double"}, {"name": "l", "type": {"type": "long", "logicalType": "timestamp-nanos"}},
        {"name": "renamed", "aliases": ["s"], "type": ["int", "bytes", "null"]},
        {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["C", "Z"], "default": "Z"}},
        {"name": "a", "type": {"type": "array", "items": {"type": "map", "values": ["double", "string"]}}},
        {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": 7}},
        {"name": "r", "type": {"type": "record", "name": "In", "fields": [
            {"name": "x", "type": "double"}, {"name": "z", "type": {"type": "array", "items": "string"}, "default": ["q", "r"]}]}},
        {"name": "n", "type": {"type": "array", "items": "null"}}]}"#,
    r#"{"type": "record", "name": "Tree", "fields": [{"name": "i", "type": "long"},
        {"name": "kids", "type": {"type": "array", "items": "Tree"}}, {"name": "up", "type": ["null", "Tree"]}]}"#,
    r#"["null", "int", {"type": "record", "name": "n.R", "fields": [{"name": "i", "type": "int"}, {"name": "e", "type": "string"}]}]"#,
    r#"{"type": "array", "items": ["null", {"type": "string", "logicalType": "uuid"}]}"#,
];

const PROTO: [&str; 2] = [
    r#"syntax = "proto3"; import "google/protobuf/timestamp.proto"; import "google/protobuf/struct.proto";
       import "google/protobuf/duration.proto"; import "google/protobuf/wrappers.proto";
       message M { int32 a = 1; sint64 b = 2; fixed64 c = 3; string d = 4; bytes e = 5; bool f = 6; double g = 7;
         repeated int32 h = 8; map<string, In> i = 9; In j = 10; oneof k { uint64 l = 11; E m = 12; } M n = 20; repeated M q = 21;
         google.protobuf.Timestamp o = 13; google.protobuf.Struct p = 14; google.protobuf.Duration r = 15;
         google.protobuf.UInt64Value s = 16; }
       message In { float x = 1; repeated string y = 2; map<bool, E> z = 3; } enum E { ZERO = 0; ONE = 1; }"#,
    r#"syntax = "proto2"; import "google/protobuf/timestamp.proto"; import "google/protobuf/struct.proto";
       message M { required int64 a = 1; optional sint32 b = 2 [default = 7]; optional string c = 3; repeated bytes d = 4;
         repeated string e = 5; optional E f = 6 [default = ONE]; repeated double g = 7 [packed = true]; optional int32 h = 8;
         map<int32, In> i = 9; repeated In j = 10; optional bool l = 11; optional int32 m = 12; repeated google.protobuf.Timestamp o = 13;
         optional google.protobuf.ListValue p = 14; optional string r = 15; optional uint64 s = 16;
         optional group Part = 17 { optional int32 x = 1; } }
       message In { optional double x = 1; optional string y = 2; } enum E { ONE = 1; TWO = 2; }"#,
];

fn definition(text: &str) -> Definition {
    Definition { text: text.to_string(), ..Definition::default() }
}

/// Decodes into columns; whether all of it fitted.
fn decode(table: &Arc<ValueTable>, writer: &Writer, value: &[u8]) -> bool {
    let mut columns: Vec<Nested> = table.columns().iter().map(|(_, kind)| Nested::new(kind).unwrap()).collect();
    let mut decoder = ValueDecoder::new(Arc::clone(table), (0..columns.len()).collect());
    let framed = [&[0, 0, 0, 0, 9], value].concat();
    assert_eq!(decoder.missing(&framed), Some(9));
    decoder.learn(9, Some(writer));
    let Ok(decoded) = decoder.decode(&framed) else { return false };
    assert_eq!(decoded.len(), columns.len());
    let mut fits = true;
    for (column, datum) in columns.iter_mut().zip(&decoded) {
        match datum {
            Some(datum) => column.append(datum).expect("what is decoded is of the column's type"),
            None => fits = false,
        }
        column.finish().expect("a column");
    }
    fits
}

/// Something of everything that lengths, counts and small numbers may be.
fn some_bytes(random: &mut StdRng) -> Vec<u8> {
    let length = random.random_range(0..60);
    (0..length).map(|_| if random.random() { random.random_range(0..8) } else { random.random() }).collect()
}

/// A message, as far as its outside goes.
fn some_message(random: &mut StdRng, depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(0..6) {
        let number: u8 = random.random_range(1..=15);
        let wire = [0u8, 1, 2, 2, 2, 5, 3, 4][random.random_range(0..8)];
        bytes.push(number << 3 | wire);
        match wire {
            0 => bytes.push(random.random_range(0..0x80)),
            1 => bytes.extend(random.random::<[u8; 8]>()),
            5 => bytes.extend(random.random::<[u8; 4]>()),
            2 => {
                let inside =
                    if depth < 4 && random.random() { some_message(random, depth + 1) } else { b"text".to_vec() };
                bytes.push(u8::try_from(inside.len().min(0x7f)).unwrap());
                bytes.extend(inside);
            }
            _ => {}
        }
    }
    bytes
}

#[test]
fn avro_values_that_are_none_are_errors() {
    let mut random = StdRng::seed_from_u64(6);
    let tables = AVRO.map(|text| ValueTable::new(KafkaFormat::Avro, definition(text)).ok().map(Arc::new));
    let writers = AVRO.map(|text| Writer::new("AVRO", &definition(text)));
    assert_eq!(tables.iter().flatten().count(), 4, "all but the tree");
    let sample = [
        &[2, 2, 4, b'h', b'i', 2, 2, 7, 1, 2, 4, 2, b'k', 2, 2, b'v', 2, b'm', 0, 0, 0, 4][..],
        &[1; 12],
        &[6, 0, 4, 1, 2, 0, 0, 0x80, 0x3f, 2],
    ]
    .concat();
    let first = tables[0].as_ref().unwrap();
    assert!(decode(first, &writers[0], &sample), "the sample is whole");
    let mut read = 0;
    for round in 0..ROUNDS / 10 {
        let value = if round % 3 == 0 { some_bytes(&mut random) } else { damaged(&sample, &mut random) };
        for table in tables.iter().flatten() {
            let writer = &writers[random.random_range(0..writers.len())];
            read += usize::from(decode(table, writer, &value));
        }
    }
    assert!(read > 30, "not all damage is seen: {read}");
}

#[test]
fn protobuf_values_that_are_none_are_errors() {
    let mut random = StdRng::seed_from_u64(7);
    let without_itself = PROTO[0].replace(" M n = 20; repeated M q = 21;", "");
    let texts = [without_itself.as_str(), PROTO[1]];
    let tables = texts.map(|text| Arc::new(ValueTable::new(KafkaFormat::Protobuf, definition(text)).unwrap()));
    let writers = PROTO.map(|text| Writer::new("PROTOBUF", &definition(text)));
    let mut read = 0;
    for round in 0..ROUNDS / 4 {
        let mut value = [vec![0], some_message(&mut random, 0)].concat();
        if round % 2 == 0 {
            value = damaged(&value, &mut random);
        }
        for table in &tables {
            for writer in &writers {
                read += usize::from(decode(table, writer, &value));
            }
        }
    }
    assert!(read > 100, "not all damage is seen: {read}");
}

#[test]
fn schemas_that_are_none_are_errors() {
    let mut random = StdRng::seed_from_u64(8);
    let mut sound = 0;
    for round in 0..ROUNDS / 2 {
        let text = AVRO[usize::try_from(round).unwrap() % AVRO.len()];
        let text = String::from_utf8_lossy(&damaged(text.as_bytes(), &mut random)).into_owned();
        sound += usize::from(Schema::parse(&text, []).is_ok_and(|schema| AvroTable::new(schema).is_ok()));
    }
    for round in 0..ROUNDS / 20 {
        let text = PROTO[usize::try_from(round).unwrap() % PROTO.len()];
        let text = String::from_utf8_lossy(&damaged(text.as_bytes(), &mut random)).into_owned();
        sound += usize::from(Messages::new(&definition(&text)).is_ok());
    }
    assert!(sound > 100, "not all damage is seen: {sound}");
}

#[test]
fn descriptors_that_are_none_are_errors() {
    use base64::Engine as _;
    use prost::Message as _;
    let mut random = StdRng::seed_from_u64(9);
    let messages = Messages::new(&definition(PROTO[0])).unwrap();
    let file = messages.at(&[0]).unwrap().parent_file_descriptor_proto().encode_to_vec();
    for _ in 0..ROUNDS / 20 {
        let text = base64::engine::general_purpose::STANDARD.encode(damaged(&file, &mut random));
        if let Ok(table) = ValueTable::new(KafkaFormat::Protobuf, definition(&text)) {
            let writer = Writer::new("PROTOBUF", &definition(&text));
            let table = Arc::new(table);
            for _ in 0..20 {
                decode(&table, &writer, &[vec![0], some_message(&mut random, 0)].concat());
            }
        }
    }
}
