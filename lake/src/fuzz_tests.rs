//! Every decoder of bytes from outside, over mutated files: an answer or an error each time, in bounded memory, and no panic that is
//! not caught.
//!
//! The mutations know nothing of the code (there is no coverage to guide them), but begin from real files. A slice with a fixed seed
//! runs in `make test`; `make soak` (`TOWNLAKE_SOAK=1`) runs a hundred thousand of each with a seed of the moment. A failure prints
//! target and seed: `TOWNLAKE_SEED=… cargo test -p townlake-lake fuzz`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use iceberg::spec::{DataContentType, FormatVersion, Literal, ManifestList, Struct};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use townlake_proto::lake::{ClusterKeyRecipe, WriteRecipe};

use crate::catalog::metadata_file;
use crate::clustering::KeySpec;
use crate::plan::{manifest_file, manifests};
use crate::testing::{Lake, file};
use crate::write::WriteSpec;
use crate::{PartitionField, SortKey, TableChange};

const SLICE: usize = 1500;
const SOAK: usize = 100_000;
const SEED: u64 = 20_261_127;

/// How many mutations, and the seed of their randomness.
fn effort() -> (usize, u64) {
    let soak = std::env::var_os("TOWNLAKE_SOAK").is_some();
    let given = std::env::var("TOWNLAKE_SEED").ok().and_then(|seed| seed.parse().ok());
    let of_the_moment = || if soak { rand::random() } else { SEED };
    (if soak { SOAK } else { SLICE }, given.unwrap_or_else(of_the_moment))
}

/// Another file made of this one, and now and then of a piece of another.
fn mutated(rng: &mut StdRng, file: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = file.to_vec();
    for _ in 0..rng.random_range(1..=6) {
        let place = rng.random_range(0..=bytes.len());
        let length = rng.random_range(0..=(bytes.len() - place).min(64));
        match rng.random_range(0..8) {
            0 if place < bytes.len() => bytes[place] ^= 1 << rng.random_range(0..8),
            1 if place < bytes.len() => bytes[place] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff][rng.random_range(0..7)],
            2 => drop(bytes.drain(place..place + length)),
            3 => {
                let piece = bytes[place..place + length].to_vec();
                bytes.splice(place..place, piece);
            }
            // A long number in seven bits a byte: a length that is not there.
            4 => drop(bytes.splice(place..place + length.min(3), [0xff, 0xff, 0xff, 0xff, 0x0f])),
            5 => {
                let other = &others[rng.random_range(0..others.len())];
                let from = rng.random_range(0..=other.len());
                let piece = other[from..(from + length).min(other.len())].to_vec();
                bytes.splice(place..place + length, piece);
            }
            6 => bytes.truncate(place),
            _ => {
                let digits = rng.random::<i64>().to_string().into_bytes();
                bytes.splice(place..place + length.min(digits.len()), digits);
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

/// Decodes mutations of these files. `decode` answers what came of one, or panics, which is a failure.
fn fuzz<T>(target: &str, files: &[Vec<u8>], decode: impl Fn(&[u8]) -> T) {
    let (rounds, seed) = effort();
    println!("{target}: seed {seed}");
    assert!(!files.is_empty(), "{target}");
    let before = peak();
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..rounds {
        let bytes = mutated(&mut rng, &files[round % files.len()], files);
        let done = catch_unwind(AssertUnwindSafe(|| drop(decode(&bytes))));
        assert!(done.is_ok(), "{target}: seed {seed}, round {round}, bytes {}", hex::encode(&bytes));
    }
    assert!(peak() - before < 1 << 30, "{target}: seed {seed} took {} bytes", peak() - before);
}

/// The most memory that this process has had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

/// A table with some of everything in its metadata.
async fn table() -> Lake {
    let by_id = PartitionField { column: "id".to_string(), transform: "bucket[4]".to_string() };
    let lake = Lake::create(&[("id", DataType::Int64), ("name", DataType::Utf8)], &[by_id]).await;
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..50));
    let names: ArrayRef = Arc::new((0..50).map(|n| (n % 7 != 0).then(|| format!("name {n}"))).collect::<StringArray>());
    let rows = RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("name", names, true)]).unwrap();
    for _ in 0..3 {
        lake.insert(&lake.context(), "t", rows.clone()).await;
    }
    let order = TableChange::SetSortOrder(vec![SortKey::ascending("name")]);
    lake.catalog.alter_table("s", "t", &[order]).await.unwrap();
    let in_a_bucket = Struct::from_iter([Some(Literal::int(1))]);
    let delete = file(&lake.location("t"), "deletes", in_a_bucket, |f| {
        f.content(DataContentType::EqualityDeletes).equality_ids(Some(vec![1, 2]));
    });
    lake.commit_deletes("t", 0, vec![delete.data_file]).await;
    lake
}

fn files(lake: &Lake, wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let folder = Path::new(lake.location("t").strip_prefix("file://").unwrap()).join("metadata");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let named = paths.iter().filter(|path| wanted(path.file_name().unwrap().to_str().unwrap()));
    named.map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn fuzz_manifests_and_their_lists() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lake = runtime.block_on(table());
    let decode = |bytes: &[u8]| {
        let bytes = bytes.to_vec().into();
        runtime.block_on(manifests::decode("m.avro".to_string(), bytes, manifest_file::parse)).map(drop)
    };
    let manifests = files(&lake, |name| name.ends_with(".avro") && !name.starts_with("snap-"));
    assert!(manifests.iter().all(|manifest| decode(manifest).is_ok()));
    fuzz("manifest", &manifests, decode);
    let list = |bytes: &[u8]| {
        let parse = |bytes: &[u8]| ManifestList::parse_with_version(bytes, FormatVersion::V2).map(drop);
        runtime.block_on(manifests::decode("l.avro".to_string(), bytes.to_vec().into(), parse))
    };
    let lists = files(&lake, |name| name.starts_with("snap-"));
    assert!(lists.iter().all(|bytes| list(bytes).is_ok()));
    fuzz("manifest list", &lists, list);
}

#[test]
fn fuzz_metadata() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lake = runtime.block_on(table());
    let metadata = files(&lake, |name| name.ends_with(".metadata.json"));
    let decode = |bytes: &[u8]| {
        let bytes = bytes.to_vec();
        // As it is read: what panics is caught.
        runtime.block_on(async { tokio::task::spawn_blocking(move || metadata_file::parse(&bytes, "lake.s.t")).await })
    };
    assert!(metadata.iter().all(|bytes| matches!(decode(bytes), Ok(Ok(_)))));
    fuzz("metadata", &metadata, decode);
}

#[test]
fn fuzz_recipes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let lake = runtime.block_on(table());
    let loaded = runtime.block_on(lake.load("t"));
    let query = townlake_common::QueryId::generate();
    let write = WriteSpec::new(&loaded, &query).unwrap();
    let recipes = vec![write.to_recipe().unwrap().encode_to_vec()];
    fuzz("write recipe", &recipes, |bytes| {
        let recipe = WriteRecipe::decode(bytes).map_err(|_| ())?;
        WriteSpec::from_recipe(recipe, Arc::clone(&loaded.arrow_schema)).map_err(|_| ())
    });
    let order = |order| crate::Clustering::new(&loaded, &order).unwrap().spec().to_recipe().unwrap().encode_to_vec();
    let columns = vec!["id".to_string(), "name".to_string()];
    let recipes = vec![order(crate::RowOrder::OfTable), order(crate::RowOrder::ZOrder(columns))];
    fuzz("cluster key recipe", &recipes, |bytes| {
        let recipe = ClusterKeyRecipe::decode(bytes).map_err(|_| ())?;
        KeySpec::from_recipe(recipe).map_err(|_| ())
    });
}
