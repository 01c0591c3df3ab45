//! What a scan is, as it travels to executors: the table, the columns, the predicate, the settings, the splits.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use prost::Message;
use townlake_common::Result;
use townlake_proto::clickhouse as wire;
use townlake_proto::clickhouse::split::Of;

use super::KIND;
use super::client::Settings;
use super::sql::{identifier, literals, relation};
use super::types::{Kind, Type, classify};
use super::wire::Wire;
use crate::scan::{Estimate, unreadable};

/// One scan of one table, or of what is made of its rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recipe {
    pub catalog: String,
    pub database: String,
    pub table: String,
    /// What stands in FROM in the table's place: a query that was passed through. It is not cut.
    pub from: Option<String>,
    pub query_id: String,
    /// The name of who asks.
    pub principal: String,
    pub columns: Vec<Column>,
    /// The filters that the server applies, in SQL.
    pub predicate: Option<String>,
    /// How many of the first columns are grouped by; `None`: nothing is grouped.
    pub grouped: Option<u32>,
    /// The keys of an order, in SQL, for a limit.
    pub order: Vec<String>,
    /// Rows per split.
    pub limit: Option<u64>,
    /// The filters that stayed with us, each with the reason.
    pub local_filters: Vec<String>,
    /// Whether only the newest row of each key is read.
    pub is_final: bool,
    /// Whether it is sent as ArrowStream rather than RowBinary.
    pub arrow: bool,
    pub settings: Settings,
    /// The hash that splits are of, in SQL.
    pub hash_key: Option<String>,
    pub estimate: Estimate,
}

/// One column of a scan.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub name: String,
    /// What it is made of, in SQL; `None`: it is a column of the table.
    pub made_of: Option<String>,
    /// The type as ClickHouse declares it.
    pub declared: String,
    /// How it is read.
    pub read: Type,
    /// Of the Arrow field.
    pub metadata: HashMap<String, String>,
}

/// A part of a table. The splits of a scan are disjoint and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Split {
    Whole,
    /// Partitions by id, or all `others`.
    Partitions {
        ids: Vec<String>,
        others: bool,
    },
    /// Parts by name, or all `others`. Every one of `names` must still be there when the split is read.
    Parts {
        names: Vec<String>,
        others: bool,
    },
    /// Rows whose key has this hash.
    Hash {
        index: u32,
        count: u32,
    },
}

impl Column {
    /// A column of a declared type.
    pub fn new(name: &str, declared: &str, metadata: HashMap<String, String>) -> Self {
        let read = classify(declared);
        Self { name: name.to_string(), made_of: None, declared: declared.to_string(), read, metadata }
    }

    /// A column that a statement computes.
    pub fn computed(name: &str, declared: &str, sql: String) -> Self {
        Self { made_of: Some(sql), ..Self::new(name, declared, HashMap::new()) }
    }

    /// The column as Arrow field.
    pub fn field(&self) -> Field {
        self.read.field(&self.name).with_metadata(self.metadata.clone())
    }

    /// The column in SQL, as what is sent.
    pub fn expression(&self) -> String {
        let value = match (&self.made_of, &self.read.kind) {
            (Some(sql), _) => sql.clone(),
            (None, Kind::Other) => format!("toString({})", identifier(&self.name)),
            (None, Kind::State) => format!("hex(toString({}))", identifier(&self.name)),
            (None, _) => identifier(&self.name),
        };
        format!("CAST({value} AS {})", self.read.wire().sql())
    }
}

impl Recipe {
    /// The Arrow schema of the rows.
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(Column::field).collect::<Vec<_>>()))
    }

    /// What is sent for the columns.
    pub fn wires(&self) -> Vec<Wire> {
        self.columns.iter().map(|column| column.read.wire()).collect()
    }

    /// Whether rows begin with a mark: those of RowBinary, and those without columns.
    pub fn is_marked(&self) -> bool {
        !self.arrow || self.columns.is_empty()
    }

    /// The SELECT of one split, without its format.
    pub fn select(&self, split: &Split) -> String {
        let mark = self.is_marked().then(|| format!("toUInt8({})", super::rowbinary::MARK));
        let columns: Vec<_> = mark.into_iter().chain(self.columns.iter().map(Column::expression)).collect();
        let last = if self.is_final { " FINAL" } else { "" };
        let from = self.from.clone().unwrap_or_else(|| relation(&self.database, &self.table));
        let mut sql = format!("SELECT {} FROM {from}{last}", columns.join(", "));
        let conditions: Vec<_> = self.condition(split).into_iter().chain(self.predicate.clone()).collect();
        if !conditions.is_empty() {
            sql.push_str(" WHERE ");
            sql.push_str(&conditions.join(" AND "));
        }
        let keys = self.grouped.map_or(0, |count| count as usize);
        if keys > 0 {
            let keys: Vec<_> = self.columns.iter().take(keys).map(|column| identifier(&column.name)).collect();
            sql.push_str(&format!(" GROUP BY {}", keys.join(", ")));
        }
        if !self.order.is_empty() {
            sql.push_str(&format!(" ORDER BY {}", self.order.join(", ")));
        }
        if let Some(limit) = self.limit {
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        sql
    }

    /// The statement of one split.
    pub fn statement(&self, split: &Split) -> String {
        format!("{} FORMAT {}", self.select(split), if self.arrow { "ArrowStream" } else { "RowBinary" })
    }

    fn condition(&self, split: &Split) -> Option<String> {
        let among = |column: &str, names: &[String], others: bool| match (names.is_empty(), others) {
            (true, true) => None,
            (true, false) => Some("0".to_string()),
            (false, _) => Some(format!("{column} {}IN ({})", if others { "NOT " } else { "" }, literals(names))),
        };
        match split {
            Split::Whole => None,
            Split::Partitions { ids, others } => among("_partition_id", ids, *others),
            Split::Parts { names, others } => among("_part", names, *others),
            Split::Hash { index, count } => self.hash_key.as_ref().map(|key| format!("{key} % {count} = {index}")),
        }
    }

    /// The recipe on the wire.
    pub fn to_wire(&self) -> wire::Scan {
        let column = |column: &Column| wire::Column {
            name: column.name.clone(),
            made_of: column.made_of.clone().unwrap_or_default(),
            r#type: column.declared.clone(),
            metadata: column.metadata.clone(),
        };
        let setting = |(name, value): &(String, String)| wire::Setting { name: name.clone(), value: value.clone() };
        wire::Scan {
            catalog: self.catalog.clone(),
            database: self.database.clone(),
            table: self.table.clone(),
            from: self.from.clone().unwrap_or_default(),
            query_id: self.query_id.clone(),
            principal: self.principal.clone(),
            columns: self.columns.iter().map(column).collect(),
            predicate: self.predicate.clone().unwrap_or_default(),
            grouped: self.grouped,
            order: self.order.clone(),
            limit: self.limit,
            local_filters: self.local_filters.clone(),
            r#final: self.is_final,
            arrow: self.arrow,
            settings: self.settings.iter().map(setting).collect(),
            rows: self.estimate.rows,
            bytes: self.estimate.bytes,
            hash_key: self.hash_key.clone().unwrap_or_default(),
        }
    }

    /// The recipe that [`Recipe::to_wire`] wrote.
    pub fn from_wire(scan: wire::Scan) -> Self {
        let column = |column: wire::Column| Column {
            made_of: Some(column.made_of).filter(|sql| !sql.is_empty()),
            ..Column::new(&column.name, &column.r#type, column.metadata)
        };
        Self {
            catalog: scan.catalog,
            database: scan.database,
            table: scan.table,
            from: Some(scan.from).filter(|sql| !sql.is_empty()),
            query_id: scan.query_id,
            principal: scan.principal,
            columns: scan.columns.into_iter().map(column).collect(),
            predicate: Some(scan.predicate).filter(|sql| !sql.is_empty()),
            grouped: scan.grouped,
            order: scan.order,
            limit: scan.limit,
            local_filters: scan.local_filters,
            is_final: scan.r#final,
            arrow: scan.arrow,
            settings: scan.settings.into_iter().map(|setting| (setting.name, setting.value)).collect(),
            hash_key: Some(scan.hash_key).filter(|sql| !sql.is_empty()),
            estimate: Estimate { rows: scan.rows, bytes: scan.bytes, columns: Vec::new() },
        }
    }
}

impl Split {
    /// The split on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let of = match self.clone() {
            Self::Whole => None,
            Self::Partitions { ids, others } => Some(Of::Partitions(wire::Partitions { ids, others })),
            Self::Parts { names, others } => Some(Of::Parts(wire::Parts { names, others })),
            Self::Hash { index, count } => Some(Of::Hash(wire::Hash { index, count })),
        };
        wire::Split { of }.encode_to_vec()
    }

    /// The split that [`Split::encode`] wrote.
    ///
    /// Errors: `INTERNAL` for bytes of another build.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let split = wire::Split::decode(bytes).map_err(|error| unreadable(KIND).with_source(error))?;
        Ok(match split.of {
            None => Self::Whole,
            Some(Of::Partitions(wire::Partitions { ids, others })) => Self::Partitions { ids, others },
            Some(Of::Parts(wire::Parts { names, others })) => Self::Parts { names, others },
            Some(Of::Hash(wire::Hash { index, count })) if index < count => Self::Hash { index, count },
            Some(Of::Hash(_)) => return Err(unreadable(KIND)),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Recipe {
        let metadata = HashMap::from([("townlake.source_type".to_string(), "x".to_string())]);
        let column = |name: &str, declared: &str| Column::new(name, declared, metadata.clone());
        Recipe {
            catalog: "ch".into(),
            database: "db".into(),
            table: "cust`omer".into(),
            from: None,
            query_id: "q".into(),
            principal: "ann".into(),
            columns: vec![
                column("id", "Nullable(Int64)"),
                column("mood", "Enum8('ok' = 1)"),
                column("doc", "JSON"),
                column("state", "AggregateFunction(sum, UInt8)"),
            ],
            predicate: Some("(`id` > toInt64('5'))".into()),
            grouped: None,
            order: vec![],
            limit: Some(10),
            local_filters: vec!["x: y".into()],
            is_final: true,
            arrow: true,
            settings: vec![("max_block_size".into(), "1".into())],
            hash_key: Some("cityHash64(`id`)".into()),
            estimate: Estimate { rows: Some(7), bytes: None, columns: Vec::new() },
        }
    }

    fn splits() -> [Split; 5] {
        let names = vec!["a".to_string(), "it's".to_string()];
        [
            Split::Whole,
            Split::Partitions { ids: names.clone(), others: false },
            Split::Parts { names: names.clone(), others: true },
            Split::Parts { names: Vec::new(), others: true },
            Split::Hash { index: 1, count: 4 },
        ]
    }

    #[test]
    fn recipes_and_splits_cross_the_wire() {
        let mut recipe = sample();
        recipe.columns.push(Column::computed("count(*)", "Int64", "count()".to_string()));
        (recipe.grouped, recipe.order) = (Some(0), vec!["`id` ASC".to_string()]);
        let bytes = recipe.to_wire().encode_to_vec();
        assert_eq!(Recipe::from_wire(wire::Scan::decode(bytes.as_slice()).unwrap()), recipe);
        for split in splits() {
            assert_eq!(Split::decode(&split.encode()).unwrap(), split);
        }
        assert!(Split::decode(&Split::Hash { index: 4, count: 4 }.encode()).is_err());
    }

    #[test]
    fn a_split_is_one_select() {
        let mut recipe = sample();
        let columns = "CAST(`id` AS Nullable(Int64)), CAST(`mood` AS Int8), CAST(toString(`doc`) AS Nullable(String)), \
             CAST(hex(toString(`state`)) AS String)";
        let begin = format!("SELECT {columns} FROM `db`.`cust\\`omer` FINAL WHERE ");
        let end = "(`id` > toInt64('5')) LIMIT 10";
        let conditions = [
            "",
            "_partition_id IN ('a', 'it\\'s') AND ",
            "_part NOT IN ('a', 'it\\'s') AND ",
            "",
            "cityHash64(`id`) % 4 = 1 AND ",
        ];
        for (split, condition) in splits().iter().zip(conditions) {
            assert_eq!(recipe.select(split), format!("{begin}{condition}{end}"));
        }
        recipe.columns.clear();
        recipe.arrow = false;
        (recipe.predicate, recipe.limit, recipe.is_final) = (None, None, false);
        assert_eq!(recipe.statement(&Split::Whole), "SELECT toUInt8(1) FROM `db`.`cust\\`omer` FORMAT RowBinary");
    }
}
