//! Parquet files that are there already become files of a table, where they lie: nothing is copied.
//!
//! Such files carry no field ids, so the table gets a name mapping (`schema.name-mapping.default`), by which it and other
//! engines find their columns: <https://iceberg.apache.org/spec/#column-projection>. Folders named `column=value` are
//! partitions, as Hive and Spark write them.

mod columns;
mod folder;
mod records;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use iceberg::spec::{DEFAULT_SCHEMA_NAME_MAPPING, Schema, StructType, Type};
use serde_json::{Value, json};
use townlake_common::{Error, ErrorCode, QueryId, Result};
use uuid::Uuid;

use self::columns::{check_columns, columns_of};
use self::folder::Folder;
use self::records::records;
use crate::location::one_spelling;
use crate::maintenance::table_around;
use crate::plan::plan_files;
use crate::{CreateTable, LakeCatalog, LoadedTable, PartitionField, commit};

/// What was taken into a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Files.
    pub files: u64,
    /// Their rows.
    pub rows: u64,
}

impl LakeCatalog {
    /// Makes a table of the Parquet files below a folder. Their columns are the table's, by name; folders named
    /// `column=value` are its partitions. The files stay where they are, and are never deleted by `expire_snapshots`.
    ///
    /// Errors: `ALREADY_EXISTS`, `SCHEMA_NOT_FOUND`; `FILE_NOT_FOUND` for a folder without Parquet files; `NOT_SUPPORTED`,
    /// `DATA_CORRUPT` naming the file and the column. Then there is no table.
    pub async fn migrate(&self, schema: &str, table: &str, location: &str, query: &QueryId) -> Result<Imported> {
        let folder = Folder::read(self.objects(), location).await?;
        self.refuse_folder_of_another(location, None).await?;
        let columns = columns_of(&folder)?;
        let partition = folder.partition_columns()?.into_iter();
        let partition = partition.map(|column| PartitionField { column, transform: "identity".to_string() });
        let create = CreateTable {
            schema: schema.to_string(),
            table: table.to_string(),
            columns,
            partition: partition.collect(),
            ..CreateTable::default()
        };
        let Some(created) = self.create_table(create).await? else {
            return Err(Error::internal("a table was not made although nobody said that it may be there"));
        };
        let imported = self.add(&created, &folder, query).await;
        if let Err(error) = &imported
            && error.code() != ErrorCode::CommitStateUnknown
            && let Err(error) = self.drop_created(&created).await
        {
            tracing::warn!(table = %created.full_name(), ?error, "the table of a failed migration is left");
        }
        imported
    }

    /// Takes the Parquet files below a folder into a table. Columns are found by name; those that a file lacks are NULL in its
    /// rows.
    ///
    /// Errors: `FILE_NOT_FOUND` for a folder without Parquet files; `ALREADY_EXISTS` for a file that the table has;
    /// `NOT_SUPPORTED`, `INVALID_ARGUMENT`, `DATA_CORRUPT` naming the file and the column. Then nothing is changed.
    pub async fn add_files(&self, table: &LoadedTable, location: &str, query: &QueryId) -> Result<Imported> {
        let folder = Folder::read(&table.objects, location).await?;
        self.refuse_folder_of_another(location, Some(table.metadata.uuid())).await?;
        let there = plan_files(table, &[]).await?.files;
        let there: HashSet<_> = there.iter().map(|file| one_spelling(&file.path)).collect();
        if let Some(twice) = folder.files.iter().find(|file| there.contains(&one_spelling(&file.uri))) {
            let message = format!("table {} has the file {} already", table.full_name(), twice.uri);
            return Err(Error::new(ErrorCode::AlreadyExists, message));
        }
        self.add(table, &folder, query).await
    }

    /// Files in the folder of another table would go when that one is cleaned up.
    async fn refuse_folder_of_another(&self, location: &str, own: Option<Uuid>) -> Result<()> {
        let Some(other) = table_around(self, location, own).await? else { return Ok(()) };
        let message = format!("the folder {location} lies in or around that of table {other}");
        let hint = "copy the files to a folder of their own, or their rows with INSERT";
        Err(Error::new(ErrorCode::NotSupported, message).with_hint(hint))
    }

    async fn add(&self, table: &LoadedTable, folder: &Folder, query: &QueryId) -> Result<Imported> {
        table.check_writable()?;
        check_columns(table, folder)?;
        let files = records(table, folder)?;
        let imported =
            Imported { files: files.len() as u64, rows: files.iter().map(|file| file.data_file.record_count()).sum() };
        let mut properties = HashMap::new();
        if !table.metadata.properties().contains_key(DEFAULT_SCHEMA_NAME_MAPPING) {
            let mapping = name_mapping(table.metadata.current_schema());
            properties.insert(DEFAULT_SCHEMA_NAME_MAPPING.to_string(), mapping);
        }
        commit::import(self.tables(), table, files, &properties, query).await?;
        Ok(imported)
    }
}

/// The mapping by which files without ids find the columns of this schema: each by its name of today.
fn name_mapping(schema: &Schema) -> String {
    mapped_fields(schema.as_struct()).to_string()
}

fn mapped_fields(fields: &StructType) -> Value {
    let fields = fields.fields().iter().map(|field| mapped(field.id, &field.name, &field.field_type));
    Value::Array(fields.collect())
}

fn mapped(id: i32, name: &str, of: &Type) -> Value {
    let below = match of {
        Type::Primitive(_) => return json!({ "field-id": id, "names": [name] }),
        Type::Struct(fields) => mapped_fields(fields),
        Type::List(list) => json!([mapped(list.element_field.id, "element", &list.element_field.field_type)]),
        Type::Map(map) => json!([
            mapped(map.key_field.id, "key", &map.key_field.field_type),
            mapped(map.value_field.id, "value", &map.value_field.field_type),
        ]),
    };
    json!({ "field-id": id, "names": [name], "fields": below })
}
