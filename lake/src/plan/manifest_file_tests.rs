//! Manifests of version 1 in tables of version 2, as `add_files` of Iceberg's Java library leaves them, and names of partition fields.

use apache_avro::types::Value;
use apache_avro::{Reader, Schema, Writer};
use arrow::datatypes::DataType;
use iceberg::io::FileIO;
use iceberg::spec::{DataContentType, DataFile, Literal, ManifestFile, ManifestWriterBuilder, Struct};

use townlake_common::QueryId;

use super::manifest_file::parse;
use crate::testing::{Lake, file};
use crate::{PartitionField, plan_files};

const SNAPSHOT_ID: i64 = 42;

/// A manifest of version 1 with these files, as the crate `iceberg` writes it.
async fn version_1(lake: &Lake, files: Vec<DataFile>) -> (ManifestFile, Vec<u8>) {
    let metadata = lake.load("t").await.metadata.clone();
    let memory = FileIO::new_with_memory();
    let spec = metadata.default_partition_spec().as_ref().clone();
    let output = memory.new_output("memory://m").unwrap();
    let mut writer =
        ManifestWriterBuilder::new(output, Some(SNAPSHOT_ID), metadata.current_schema().clone(), spec).build_v1();
    for file in files {
        writer.add_file(file, 0).unwrap();
    }
    let mut manifest = writer.write_manifest_file().await.unwrap();
    manifest.manifest_path = format!("{}/metadata/version-1.avro", lake.location("t"));
    // Numbers that the list assigns to a new manifest.
    (manifest.sequence_number, manifest.min_sequence_number) = (-1, -1);
    (manifest, memory.new_input("memory://m").unwrap().read().await.unwrap().to_vec())
}

/// The same bytes, with no snapshot id in any entry.
fn without_snapshot_ids(manifest: &[u8]) -> Vec<u8> {
    let reader = Reader::new(manifest).unwrap();
    let mut schema = serde_json::to_value(reader.writer_schema()).unwrap();
    let id = schema["fields"].as_array_mut().unwrap().iter_mut().find(|field| field["name"] == "snapshot_id").unwrap();
    id["type"] = serde_json::json!(["null", "long"]);
    let schema = Schema::parse(&schema).unwrap();
    let mut writer = Writer::new(&schema, Vec::new());
    for (key, value) in reader.user_metadata() {
        writer.add_user_metadata(key.clone(), value).unwrap();
    }
    for entry in reader {
        let Value::Record(mut fields) = entry.unwrap() else { panic!("an entry is a record") };
        for (name, value) in &mut fields {
            if name == "snapshot_id" {
                *value = Value::Union(0, Box::new(Value::Null));
            }
        }
        writer.append(Value::Record(fields)).unwrap();
    }
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn entries_of_version_1_inherit_what_those_of_version_2_do() {
    for id_is_null in [false, true] {
        let lake = Lake::create(&[("id", DataType::Int64)], &[]).await;
        let location = lake.location("t");
        lake.append("t", vec![file(&location, "old", Struct::empty(), |_| {})]).await;
        lake.append_deletes("t", DataContentType::EqualityDeletes, |f| {
            f.equality_ids(Some(vec![1]));
        })
        .await;
        let newer = file(&location, "newer", Struct::empty(), |_| {}).data_file;
        let (manifest, bytes) = version_1(&lake, vec![newer]).await;
        let bytes = if id_is_null { without_snapshot_ids(&bytes) } else { bytes };
        lake.commit_manifest("t", SNAPSHOT_ID, manifest, bytes.into()).await;

        let plan = plan_files(lake.load("t").await.as_ref(), &[]).await.unwrap();
        let deletes = |name: &str| plan.files.iter().find(|f| f.path.ends_with(name)).unwrap().deletes.len();
        assert_eq!((deletes("/old.parquet"), deletes("/newer.parquet")), (1, 0), "{id_is_null}");

        // The entries are right also where manifests are written anew.
        let table = lake.load("t").await;
        lake.catalog.rewrite_manifests(&table, &QueryId::generate()).await.unwrap().unwrap();
        let plan = plan_files(lake.load("t").await.as_ref(), &[]).await.unwrap();
        let deletes = |name: &str| plan.files.iter().find(|f| f.path.ends_with(name)).unwrap().deletes.len();
        assert_eq!((deletes("/old.parquet"), deletes("/newer.parquet")), (1, 0), "{id_is_null}");
    }
}

/// The same bytes with another partition spec and schema of the table in the header.
fn with_header(manifest: &[u8], change: impl Fn(&str, &mut serde_json::Value)) -> Vec<u8> {
    let reader = Reader::new(manifest).unwrap();
    let schema = reader.writer_schema().clone();
    let mut writer = Writer::new(&schema, Vec::new());
    for (key, value) in reader.user_metadata() {
        match serde_json::from_slice(value) {
            Ok(mut json) => {
                change(key, &mut json);
                writer.add_user_metadata(key.clone(), json.to_string()).unwrap();
            }
            Err(_) => writer.add_user_metadata(key.clone(), value).unwrap(),
        }
    }
    for entry in reader {
        writer.append(entry.unwrap()).unwrap();
    }
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn a_partition_field_may_be_named_like_another_column() {
    let by_id = PartitionField { column: "id".to_string(), transform: "identity".to_string() };
    let lake = Lake::create(&[("id", DataType::Int64), ("other", DataType::Utf8)], &[by_id]).await;
    let partition = || Struct::from_iter([Some(Literal::long(7))]);
    let of_seven = file(&lake.location("t"), "f", partition(), |_| {}).data_file;
    let (_, bytes) = version_1(&lake, vec![of_seven]).await;
    let values = |bytes: &[u8]| {
        let manifest = parse(bytes).unwrap();
        let id = manifest.metadata().partition_spec().fields()[0].field_id;
        (id, manifest.entries()[0].data_file.partition().clone())
    };
    let expected = (1000, partition());
    assert_eq!(values(&bytes), expected);

    // The column was renamed, and another one has its name now.
    let renamed = with_header(&bytes, |key, json| {
        if key == "schema" {
            json["fields"][0]["name"] = "before".into();
            json["fields"][1]["name"] = "id".into();
        }
    });
    assert_eq!(values(&renamed), expected);
    // The first writers gave no ids.
    let unnumbered = with_header(&bytes, |key, json| {
        if key == "partition-spec" {
            json[0].as_object_mut().unwrap().remove("field-id").unwrap();
        }
    });
    assert_eq!(values(&unnumbered), expected);
    // Version 1 keeps a field that is dropped, as one that is always NULL.
    let void = with_header(&bytes, |key, json| {
        if key == "partition-spec" {
            json[0]["transform"] = "void".into();
        }
    });
    assert_eq!(values(&void).0, 1000);
    // What is damaged in another way is so still.
    let damaged = with_header(&renamed, |key, json| {
        if key == "schema" {
            json["fields"] = 7.into();
        }
    });
    parse(&damaged).unwrap_err();
}
