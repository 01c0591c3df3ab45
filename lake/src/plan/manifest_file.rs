//! Decoding one manifest, also one of version 1, and one whose partition fields have names that the crate `iceberg` refuses.
//!
//! The crate that decodes wants a snapshot id in every entry of version 1, and gives all of them the sequence number 0. Iceberg's
//! Java library leaves the id out where it imports files, and lets entries of version 1 take over the id and the sequence number
//! of their place in the manifest list as those of version 2 do (`InheritableMetadataFactory`): with the number 0, older equality
//! deletes would take rows from newer files. So a manifest of version 1 is decoded as one of version 2, whose additional fields
//! are all optional.
//!
//! What the crate refuses is put right in the header, by entries that stand behind those of the file: the last one counts.

use iceberg::spec::Manifest;
use serde_json::{Value, json};

use super::avro_guard::Header;
use crate::catalog::older_metadata::numbered;

const SCHEMA_OF_FILE: &str = "avro.schema";
const PARTITION_SPEC: &str = "partition-spec";

/// Decodes a manifest. Entries have what the file says of them: what they inherit is the caller's to add.
pub(crate) fn parse(file: &[u8]) -> Result<Manifest, iceberg::Error> {
    let damaged = |why| iceberg::Error::new(iceberg::ErrorKind::DataInvalid, why);
    let header = Header::read(file).map_err(damaged)?;
    let is_version_1 = header.get("format-version").is_none_or(|version| version.trim_ascii() == b"1");
    let version = is_version_1.then(|| ("format-version", b"2".to_vec()));
    let parsed = match &version {
        Some(version) => Manifest::parse_avro(&with_entries(file, &header, std::slice::from_ref(version))),
        None => Manifest::parse_avro(file),
    };
    parsed.or_else(|error| {
        let Some(names) = other_names(&header) else { return Err(error) };
        let entries: Vec<_> = version.into_iter().chain(names).collect();
        Manifest::parse_avro(&with_entries(file, &header, &entries))
    })
}

/// The file with more entries in its header, in a block of their own.
fn with_entries(file: &[u8], header: &Header<'_>, entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (head, rest) = file.split_at(header.end_of_map);
    let mut whole = [head, &zigzag(entries.len())].concat();
    for (key, value) in entries {
        for part in [key.as_bytes(), value] {
            whole.extend(zigzag(part.len()));
            whole.extend(part);
        }
    }
    whole.extend(rest);
    whole
}

/// A count as Avro writes a long: doubled, in seven bits a byte.
fn zigzag(count: usize) -> Vec<u8> {
    let mut value = (count as u64) << 1;
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// The header's partition spec and schema of the file with ids for partition fields that have none, and with other names for those
/// that are named like a column they are not: one that version 1 has dropped (it stays as `void`), or that is older than the column.
/// `None` where there is nothing to change.
fn other_names(header: &Header<'_>) -> Option<Vec<(&'static str, Vec<u8>)>> {
    let json = |key| serde_json::from_slice::<Value>(header.get(key)?).ok();
    let (schema, mut spec, mut of_file) = (json("schema")?, json(PARTITION_SPEC)?, json(SCHEMA_OF_FILE)?);
    let before = spec.clone();
    numbered(&mut spec);
    let columns = schema.get("fields")?.as_array()?;
    for field in spec.as_array_mut()? {
        let name = field.get("name")?.as_str()?.to_string();
        let Some(column) = columns.iter().find(|column| column.get("name").and_then(Value::as_str) == Some(&name))
        else {
            continue;
        };
        let is_column = field.get("transform")?.as_str()? == "identity" && field.get("source-id") == column.get("id");
        if is_column {
            continue;
        }
        let other = format!("{name}_{}", field.get("field-id")?);
        rename(&mut of_file, &name, &other);
        field.as_object_mut()?.insert("name".to_string(), json!(other));
    }
    let entry = |key, value: &Value| (key, value.to_string().into_bytes());
    (spec != before).then(|| vec![entry(PARTITION_SPEC, &spec), entry(SCHEMA_OF_FILE, &of_file)])
}

/// Renames a field of the partition in the schema of an entry: `data_file.partition`.
fn rename(entry: &mut Value, name: &str, other: &str) {
    let data_file = field_of(entry, "data_file").and_then(|field| field.get_mut("type"));
    let partition = data_file.and_then(|record| field_of(record, "partition")?.get_mut("type"));
    if let Some(field) = partition.and_then(|record| field_of(record, name)) {
        field["name"] = json!(other);
    }
}

fn field_of<'a>(record: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let fields = record.get_mut("fields")?.as_array_mut()?;
    fields.iter_mut().find(|field| field.get("name").and_then(Value::as_str) == Some(name))
}
