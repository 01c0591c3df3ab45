//! One configured Iceberg catalog: look-ups, creation, and appends.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use iceberg::spec::{MAIN_BRANCH, Schema, SnapshotRef, TableMetadata, Transform, Type, UnboundPartitionSpec};
use townlake_common::config::{IcebergCatalog, IcebergCatalogKind};
use townlake_common::{Error, ErrorCode, QueryId, Result, nearest};

use crate::alter::sort_order;
use crate::catalog::metadata_file;
use crate::catalog::rest::RestCatalog;
use crate::catalog::sql::SqlCatalog;
use crate::catalog::{Catalog, NewTable, TableHead, TableName};
use crate::{
    CreateTable, Delta, LakeObjects, LoadedTable, MetadataTable, ObjectAccess, PartitionField, Replacement,
    TableChange, TableVersion, WrittenFile, commit, properties, refs, schema,
};

/// The property that holds a table's comment, as Spark and Trino have it.
pub(crate) const COMMENT: &str = "comment";

/// A catalog of the configuration, connected. It checks no rights: its callers do.
pub struct LakeCatalog {
    pub(crate) name: String,
    pub(crate) catalog: Box<dyn Catalog>,
    objects: ObjectAccess,
    self_maintained: bool,
}

impl std::fmt::Debug for LakeCatalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LakeCatalog").field("name", &self.name).finish_non_exhaustive()
    }
}

impl LakeCatalog {
    /// Connects with object stores of its own. See [`LakeCatalog::open_with`].
    pub async fn open(name: &str, config: &IcebergCatalog) -> Result<Arc<Self>> {
        Self::connect(name, config, ObjectAccess::new(name, config)?).await
    }

    /// Connects, sharing the clients of `objects`. An SQLite file and the catalog's tables are made where missing.
    ///
    /// Errors: `CONFIG_INVALID`, `SOURCE_UNAVAILABLE`, `SOURCE_DENIED`.
    pub async fn open_with(name: &str, config: &IcebergCatalog, objects: &LakeObjects) -> Result<Arc<Self>> {
        match objects.access(name) {
            Some(access) => Self::connect(name, config, access.clone()).await,
            None => Self::open(name, config).await,
        }
    }

    async fn connect(name: &str, config: &IcebergCatalog, objects: ObjectAccess) -> Result<Arc<Self>> {
        let catalog: Box<dyn Catalog> = match config.catalog {
            IcebergCatalogKind::Sql => {
                let rows = config.catalog_name.as_deref().unwrap_or(name);
                let warehouse = config.warehouse.as_str();
                Box::new(SqlCatalog::open(name, rows, &config.uri, warehouse, objects.clone()).await?)
            }
            IcebergCatalogKind::Rest => Box::new(RestCatalog::open(name, config).await?),
        };
        Ok(Arc::new(Self { name: name.to_string(), catalog, objects, self_maintained: config.self_maintained }))
    }

    /// The catalog's name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Refuses to look after tables that the catalog looks after itself.
    ///
    /// Errors: `NOT_SUPPORTED`.
    pub fn check_maintained_by_us(&self) -> Result<()> {
        match self.self_maintained {
            true => {
                let message = format!("catalog {} looks after its tables itself", self.name);
                Err(Error::new(ErrorCode::NotSupported, message)
                    .with_hint(format!("the configuration says so: [catalogs.{}] self_maintained", self.name)))
            }
            false => Ok(()),
        }
    }

    /// All schemas, sorted; the levels of a nested namespace are joined by `.`.
    pub async fn list_schemas(&self) -> Result<Vec<String>> {
        self.catalog.list_namespaces().await
    }

    /// Whether the schema exists.
    pub async fn schema_exists(&self, schema: &str) -> Result<bool> {
        self.catalog.namespace_exists(schema).await
    }

    /// The tables of a schema, sorted; none where the schema does not exist.
    pub async fn list_tables(&self, schema: &str) -> Result<Vec<String>> {
        self.catalog.list_tables(schema).await
    }

    /// The table, pinned to one snapshot: the current one, or that of `at`. `None`: no such table.
    ///
    /// Errors: `SNAPSHOT_NOT_FOUND` naming what was asked for, `FORMAT_NOT_SUPPORTED`, `DATA_CORRUPT`, those of the store.
    pub async fn load(&self, schema: &str, table: &str, at: Option<&TableVersion>) -> Result<Option<Arc<LoadedTable>>> {
        let name = TableName::new(schema, table);
        let Some(head) = self.catalog.load(&name).await? else { return Ok(None) };
        self.pin(&name, head, at).map(|table| Some(Arc::new(table)))
    }

    /// Creates a schema. `false`: it was there, and `if_not_exists` was said.
    pub async fn create_schema(&self, name: &str, if_not_exists: bool) -> Result<bool> {
        if name.eq_ignore_ascii_case("information_schema") {
            let message = format!("the schema {name} describes the catalog {} and is there already", self.name);
            return Err(Error::new(ErrorCode::AlreadyExists, message));
        }
        match self.catalog.create_namespace(name).await {
            Ok(()) => Ok(true),
            Err(error) if if_not_exists && error.code() == ErrorCode::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops an empty schema. `false`: there was none, and `if_exists` was said.
    pub async fn drop_schema(&self, name: &str, if_exists: bool) -> Result<bool> {
        if self.catalog.drop_namespace(name).await? {
            return Ok(true);
        }
        let missing = || Error::new(ErrorCode::SchemaNotFound, format!("schema {}.{name} does not exist", self.name));
        if if_exists { Ok(false) } else { Err(missing()) }
    }

    /// Drops a table from the catalog; its files stay. `false`: there was none, and `if_exists` was said.
    pub async fn drop_table(&self, schema: &str, table: &str, if_exists: bool) -> Result<bool> {
        let name = TableName::new(schema, table);
        if self.catalog.drop_table(&name).await? {
            return Ok(true);
        }
        let missing = || Error::new(ErrorCode::TableNotFound, format!("table {}.{name} does not exist", self.name));
        if if_exists { Ok(false) } else { Err(missing()) }
    }

    /// Creates an empty table of format version 2. `None`: it was there, and `if_not_exists` was said.
    ///
    /// Errors: `ALREADY_EXISTS`, `SCHEMA_NOT_FOUND`, `COLUMN_NOT_FOUND` for an unknown partition column, `NOT_SUPPORTED`
    /// naming a column whose type Iceberg has not, `INVALID_QUERY` for a transform that does not fit.
    pub async fn create_table(&self, create: CreateTable) -> Result<Option<Arc<LoadedTable>>> {
        let name = TableName::new(&create.schema, &create.table);
        check_table_name(&create.table)?;
        check_column_names(&create.columns)?;
        properties::check(create.properties.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        let iceberg = schema::from_arrow(&create.columns)?;
        let spec = partition_spec(&iceberg, &create.columns, &create.partition)?;
        let sort_order = sort_order(&create.sort, &iceberg)?;
        if let Some(location) = &create.location {
            self.objects.locate(location)?; // a location that could never be written to is refused now
        }
        self.check_no_view(&name).await?;
        let mut properties: HashMap<String, String> = create.properties.into_iter().collect();
        if let Some(comment) = create.comment {
            properties.insert(COMMENT.to_string(), comment);
        }
        let table = NewTable { schema: iceberg, spec, sort_order, properties, location: create.location };
        match self.catalog.create_table(&name, table).await {
            Ok(head) => self.pin(&name, head, None).map(|table| Some(Arc::new(table))),
            Err(error) if create.if_not_exists && error.code() == ErrorCode::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes these changes of a table, all or none, in one commit. `false`: there was nothing to change. `None`: no such table.
    ///
    /// Errors: `COLUMN_NOT_FOUND`, `ALREADY_EXISTS`, `SNAPSHOT_NOT_FOUND`, `NOT_SUPPORTED`, `INVALID_QUERY` and
    /// `INVALID_ARGUMENT` for what cannot be changed so; `FORMAT_NOT_SUPPORTED` for a table that cannot be written;
    /// `COMMIT_CONFLICT`, `COMMIT_STATE_UNKNOWN`, those of catalog and object store.
    pub async fn alter_table(&self, schema: &str, table: &str, changes: &[TableChange]) -> Result<Option<bool>> {
        let name = TableName::new(schema, table);
        let Some(head) = self.catalog.load(&name).await? else { return Ok(None) };
        let table = self.pin(&name, head, None)?;
        commit::alter(self.catalog.as_ref(), &table, changes).await.map(|altered| Some(altered.is_some()))
    }

    /// Makes a table of a metadata file that is there, which goes on from its state.
    ///
    /// Errors: `ALREADY_EXISTS`, `SCHEMA_NOT_FOUND`, `FILE_NOT_FOUND`, `DATA_CORRUPT` for a file that is no metadata,
    /// `INVALID_QUERY` for a name that no table can have.
    pub async fn register_table(&self, schema: &str, table: &str, metadata_location: &str) -> Result<LoadedTable> {
        check_table_name(table)?;
        let name = TableName::new(schema, table);
        self.check_no_view(&name).await?;
        // Read first: whoever keeps the catalog need not look at what it is told. Where keys come with tables there are none
        // before the table, and the server looks.
        if !self.objects.may_be_vended() {
            let what = format!("{}.{name}", self.name);
            metadata_file::read(&self.objects, &self.name, metadata_location, &what).await?;
        }
        let head = self.catalog.register_table(&name, metadata_location).await?;
        self.pin(&name, head, None)
    }

    /// Gives a table another name in this catalog. `false`: there is no such table.
    ///
    /// Errors: `ALREADY_EXISTS`, `SCHEMA_NOT_FOUND`, `INVALID_QUERY` for a name that no table can have.
    pub async fn rename_table(&self, from: (&str, &str), to: (&str, &str)) -> Result<bool> {
        check_table_name(to.1)?;
        let (from, to) = (TableName::new(from.0, from.1), TableName::new(to.0, to.1));
        let Some(head) = self.catalog.load(&from).await? else { return Ok(false) };
        self.check_no_view(&to).await?;
        match self.catalog.rename_table(&from, &to).await {
            // An answer may be lost, or be a proxy's that asked twice: the table itself tells.
            Ok(false) | Err(_) if self.is_now(&to, &head).await => Ok(true),
            renamed => renamed,
        }
    }

    /// Appends written files to the table as one snapshot, once per query: a second call finds the first one's snapshot.
    ///
    /// Returns the snapshot's id; `None` without files. Concurrent appends all land. After a definite failure the files
    /// are deleted; after `COMMIT_STATE_UNKNOWN` they are kept.
    pub async fn commit_append(
        &self,
        table: &LoadedTable,
        files: Vec<WrittenFile>,
        query: &QueryId,
    ) -> Result<Option<i64>> {
        commit::append(self.catalog.as_ref(), table, files, query).await
    }

    /// Changes rows of the table, once per query, as [`LakeCatalog::commit_append`] appends. `table` is the state that the
    /// statement has read. Returns the snapshot's id; `None` where nothing changes.
    ///
    /// Errors: `COMMIT_CONFLICT` where others have changed the same rows meanwhile.
    pub async fn commit_delta(&self, table: &LoadedTable, delta: &Delta, query: &QueryId) -> Result<Option<i64>> {
        commit::change(self.catalog.as_ref(), table, delta, query).await
    }

    /// Plans to replace a table by one of these columns. Nothing happens before [`LakeCatalog::commit_replace`].
    ///
    /// Errors: those of [`LakeCatalog::create_table`] for columns; `FORMAT_NOT_SUPPORTED` for a table that cannot be written.
    pub fn plan_replace(&self, table: &LoadedTable, columns: &[FieldRef]) -> Result<Replacement> {
        Replacement::plan(table, columns)
    }

    /// Makes written files the whole table, in its new columns, in one commit; without files the table is empty. Old
    /// snapshots stay. Returns the snapshot's id.
    ///
    /// Errors and files: as [`LakeCatalog::commit_append`].
    pub async fn commit_replace(
        &self,
        replacement: &Replacement,
        files: Vec<WrittenFile>,
        query: &QueryId,
    ) -> Result<i64> {
        commit::replace(self.catalog.as_ref(), replacement, files, query).await
    }

    /// Drops the table again that [`LakeCatalog::create_table`] made, unless another has its name by now.
    pub async fn drop_created(&self, table: &LoadedTable) -> Result<()> {
        let name = TableName::new(&table.schema, &table.table);
        match self.catalog.load(&name).await? {
            Some(head) if head.metadata.uuid() == table.metadata.uuid() => {
                self.catalog.drop_table(&name).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    async fn is_now(&self, name: &TableName, head: &TableHead) -> bool {
        let there = self.catalog.load(name).await.ok().flatten();
        there.is_some_and(|there| there.metadata.uuid() == head.metadata.uuid())
    }

    /// Where its tables are registered.
    pub(crate) fn tables(&self) -> &dyn Catalog {
        self.catalog.as_ref()
    }

    /// Its object stores.
    pub(crate) fn objects(&self) -> &ObjectAccess {
        &self.objects
    }

    /// Whether the table has a commit of this query now.
    pub(crate) async fn has_commit_of(&self, table: &LoadedTable, query: &QueryId) -> Result<bool> {
        commit::is_committed(self.catalog.as_ref(), &TableName::new(&table.schema, &table.table), query).await
    }

    fn pin(&self, name: &TableName, head: TableHead, at: Option<&TableVersion>) -> Result<LoadedTable> {
        let full_name = format!("{}.{name}", self.name);
        let objects = self.objects.of_table(name, head.metadata.uuid());
        let snapshot = match at {
            None => head.metadata.current_snapshot().cloned(),
            Some(at) => Some(snapshot_at(&head.metadata, at, &full_name)?),
        };
        // A branch is read with the schema of today, like the table itself; a moment in the past with its own.
        let iceberg_schema = match (&snapshot, at) {
            (Some(snapshot), Some(at)) if !is_branch(&head.metadata, at) => {
                snapshot.schema(&head.metadata).map_err(|error| {
                    let message = format!("the schema of a snapshot of table {full_name} is missing");
                    Error::new(ErrorCode::DataCorrupt, message).with_source(error)
                })?
            }
            _ => head.metadata.current_schema().clone(),
        };
        Ok(LoadedTable {
            catalog: self.name.clone(),
            schema: name.namespace.clone(),
            table: name.table.clone(),
            metadata: head.metadata,
            metadata_location: head.metadata_location,
            snapshot,
            arrow_schema: schema::to_arrow(&iceberg_schema)?,
            iceberg_schema,
            objects,
            branch: MAIN_BRANCH.to_string(),
        })
    }
}

/// Refuses a name that would hide a metadata table.
pub(crate) fn check_table_name(table: &str) -> Result<()> {
    match MetadataTable::is_name_of_one(table) {
        true => {
            let message = format!("no table can be named {table}: that is the name of a metadata table");
            Err(Error::new(ErrorCode::InvalidQuery, message))
        }
        false => Ok(()),
    }
}

fn snapshot_at(metadata: &TableMetadata, at: &TableVersion, table: &str) -> Result<SnapshotRef> {
    let (found, asked) = match at {
        TableVersion::SnapshotId(id) => (metadata.snapshot_by_id(*id), format!("the snapshot {id}")),
        TableVersion::Reference(name) => {
            let found = metadata.snapshot_for_ref(name);
            return found.cloned().ok_or_else(|| no_such_reference(metadata, name, table));
        }
        TableVersion::TimestampMillis(time) => {
            // The history is the main branch's; snapshots of other branches were never current.
            let entry = metadata.history().iter().rev().find(|entry| entry.timestamp_ms() <= *time);
            let at = chrono::DateTime::from_timestamp_millis(*time).map(|t| t.to_rfc3339());
            let asked = format!("a snapshot at {}", at.unwrap_or_else(|| format!("{time} ms")));
            (entry.and_then(|entry| metadata.snapshot_by_id(entry.snapshot_id)), asked)
        }
    };
    found.cloned().ok_or_else(|| {
        Error::new(ErrorCode::SnapshotNotFound, format!("table {table} does not have {asked}"))
            .with_hint("it may have expired, or be older than the table")
    })
}

fn is_branch(metadata: &TableMetadata, at: &TableVersion) -> bool {
    let TableVersion::Reference(name) = at else { return false };
    refs::all(metadata).get(name).is_some_and(|reference| reference.is_branch())
}

/// The error for a branch or tag that the table has not.
pub(crate) fn no_such_reference(metadata: &TableMetadata, name: &str, table: &str) -> Error {
    let message = format!("table {table} does not have the branch or tag `{name}`");
    let error = Error::new(ErrorCode::SnapshotNotFound, message);
    let known = refs::all(metadata);
    match nearest(name, known.keys().map(String::as_str)) {
        Some(near) => error.with_hint(format!("did you mean '{near}'?")),
        None if known.is_empty() => error.with_hint("the table is empty: it has no snapshot"),
        None => error.with_hint("\"table$refs\" lists those that there are"),
    }
}

/// Names that differ only in their case are one name in other engines.
fn check_column_names(columns: &[FieldRef]) -> Result<()> {
    let mut taken = HashMap::new();
    for column in columns {
        if let Some(other) = taken.insert(column.name().to_lowercase(), column.name()) {
            let message = format!("the columns {other} and {} differ only in their case", column.name());
            return Err(Error::new(ErrorCode::InvalidQuery, message).with_hint("give one of them another name"));
        }
    }
    Ok(())
}

/// The spec of `PARTITIONED BY`.
fn partition_spec(schema: &Schema, columns: &[FieldRef], fields: &[PartitionField]) -> Result<UnboundPartitionSpec> {
    let mut builder = UnboundPartitionSpec::builder();
    for field in fields {
        let Some(source) = schema.field_by_name(&field.column) else {
            let error = Error::new(
                ErrorCode::ColumnNotFound,
                format!("the partition column {} is not a column of the table", field.column),
            );
            let near = nearest(&field.column, columns.iter().map(|column| column.name().as_str()));
            return Err(match near {
                Some(near) => error.with_hint(format!("did you mean {near}?")),
                None => error,
            });
        };
        let transform = parse_transform(field, &source.field_type)?;
        let name = partition_field_name(&field.column, transform);
        builder = builder.add_partition_field(source.id, name, transform).map_err(|error| {
            let message =
                format!("PARTITIONED BY {}({}) is not valid: {}", field.transform, field.column, error.message());
            Error::new(ErrorCode::InvalidQuery, message).with_source(error)
        })?;
    }
    Ok(builder.build())
}

/// The name of a partition field, as Spark and pyiceberg give it. It is a name in the Avro schema of manifests too, so other
/// characters than Avro takes are written `_x20`, as Iceberg writes them there.
pub(crate) fn partition_field_name(column: &str, transform: Transform) -> String {
    let mut plain = String::with_capacity(column.len());
    for (place, c) in column.char_indices() {
        match c {
            '0'..='9' if place == 0 => plain.extend(['_', c]),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => plain.push(c),
            other => plain.push_str(&format!("_x{:X}", u32::from(other))),
        }
    }
    let column = plain;
    match transform {
        Transform::Identity => column,
        Transform::Bucket(_) => format!("{column}_bucket"),
        Transform::Truncate(_) => format!("{column}_trunc"),
        Transform::Void => format!("{column}_null"),
        other => format!("{column}_{other}"),
    }
}

pub(crate) fn parse_transform(field: &PartitionField, source: &Type) -> Result<Transform> {
    let invalid = |why: &str| {
        let message = format!("the transform {} of column {} {why}", field.transform, field.column);
        Error::new(ErrorCode::InvalidQuery, message)
            .with_hint("identity, bucket[n], truncate[n], year, month, day, hour or void")
    };
    let transform: Transform = field.transform.to_lowercase().parse().map_err(|_| invalid("is not known"))?;
    match transform {
        Transform::Unknown => return Err(invalid("is not known")),
        Transform::Bucket(0) | Transform::Truncate(0) => return Err(invalid("needs a number above 0")),
        Transform::Bucket(n) | Transform::Truncate(n) if i32::try_from(n).is_err() => {
            return Err(invalid("has too large a number"));
        }
        _ => {}
    }
    transform.result_type(source).map_err(|_| invalid(&format!("does not take the type {source}")))?;
    Ok(transform)
}
