//! Manifests of version 1 in tables of version 2, as `add_files` of Iceberg's Java library leaves them.

use apache_avro::types::Value;
use apache_avro::{Reader, Schema, Writer};
use arrow::datatypes::DataType;
use iceberg::io::FileIO;
use iceberg::spec::{DataContentType, DataFile, ManifestFile, ManifestWriterBuilder, Struct};

use townlake_common::QueryId;

use crate::plan_files;
use crate::testing::{Lake, file};

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
