//! What a scan is, as it travels to executors: the topic, the columns, the range of offsets of each split.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::logical_expr::Expr;
use prost::Message;
use townlake_common::Result;
use townlake_common::config::KafkaFormat;
use townlake_proto::kafka as wire;

use super::KIND;
use super::registry::{Definition, ValueTable};
use super::types::Column;
use super::wire::messages::TopicId;
use crate::scan::{Estimate, unreadable};

/// One scan of one topic.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recipe {
    pub catalog: String,
    pub schema: String,
    pub table: String,
    pub query_id: String,
    /// The name of who asks.
    pub principal: String,
    pub topic: String,
    /// Of the topic that was pinned; `None` where brokers know no ids.
    pub topic_id: Option<TopicId>,
    /// Whether only what transactions committed is read.
    pub committed: bool,
    pub format: KafkaFormat,
    /// Whether what cannot be decoded is NULL and counted; else the query fails.
    pub null_and_count: bool,
    /// What the registered schema says of the values, for the formats that have one.
    pub values: Option<Arc<ValueTable>>,
    pub columns: Vec<Column>,
    /// Decoded for the column of errors, and not shown.
    pub checked: Vec<Column>,
    /// Rows per split.
    pub limit: Option<u64>,
    /// The filters that were no help, each with the reason.
    pub local_filters: Vec<String>,
    /// All splits, for EXPLAIN.
    pub ranges: String,
    /// What the query pinned, for EXPLAIN.
    pub pinned: String,
    pub estimate: Estimate,
    /// Where it was planned, and there only: what keys that come later narrow.
    pub planned: Option<Planned>,
}

/// What a scan reads before it is cut into splits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    pub ranges: Vec<Split>,
    /// Conditions that have not narrowed the ranges yet.
    pub keys: Vec<Expr>,
}

/// A range of offsets of a partition, the end exclusive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Split {
    pub partition: i32,
    pub start: i64,
    pub end: i64,
}

impl Recipe {
    /// The Arrow schema of the rows.
    pub fn arrow_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(Column::field).collect::<Vec<_>>()))
    }

    /// `catalog.schema.table`.
    pub fn name(&self) -> String {
        format!("{}.{}.{}", self.catalog, self.schema, self.table)
    }

    /// The recipe on the wire.
    pub fn to_wire(&self) -> wire::Scan {
        let format = match self.format {
            KafkaFormat::Raw => wire::Format::Raw,
            KafkaFormat::Text => wire::Format::Text,
            KafkaFormat::Json => wire::Format::Json,
            KafkaFormat::Avro => wire::Format::Avro,
            KafkaFormat::Protobuf => wire::Format::Protobuf,
        };
        wire::Scan {
            catalog: self.catalog.clone(),
            schema: self.schema.clone(),
            table: self.table.clone(),
            query_id: self.query_id.clone(),
            principal: self.principal.clone(),
            topic: self.topic.clone(),
            topic_id: self.topic_id.map(|id| id.to_vec()).unwrap_or_default(),
            read_committed: self.committed,
            format: format.into(),
            null_and_count: self.null_and_count,
            columns: self.columns.iter().map(Column::to_wire).collect(),
            checked: self.checked.iter().map(Column::to_wire).collect(),
            limit: self.limit,
            local_filters: self.local_filters.clone(),
            offsets: self.estimate.rows.unwrap_or_default(),
            ranges: self.ranges.clone(),
            pinned: self.pinned.clone(),
            schema_of_values: self.values.as_ref().map(|values| values.definition.to_wire()),
        }
    }

    /// The recipe that [`Recipe::to_wire`] wrote.
    ///
    /// Errors: `INTERNAL` for what another build wrote.
    pub fn from_wire(scan: wire::Scan) -> Result<Self> {
        let format = match scan.format() {
            wire::Format::Raw => KafkaFormat::Raw,
            wire::Format::Text => KafkaFormat::Text,
            wire::Format::Json => KafkaFormat::Json,
            wire::Format::Avro => KafkaFormat::Avro,
            wire::Format::Protobuf => KafkaFormat::Protobuf,
            wire::Format::Unspecified => return Err(unreadable(KIND)),
        };
        let topic_id = match scan.topic_id.as_slice() {
            [] => None,
            id => Some(TopicId::try_from(id).map_err(|_| unreadable(KIND))?),
        };
        let values = match (format.is_registered(), scan.schema_of_values) {
            (true, Some(schema)) => {
                let table = ValueTable::new(format, Definition::from_wire(schema)).map_err(|_| unreadable(KIND))?;
                Some(Arc::new(table))
            }
            (false, None) => None,
            _ => return Err(unreadable(KIND)),
        };
        let members = values.as_ref().map_or(&[][..], |values| values.columns());
        let of_wire = |columns: Vec<wire::Column>| {
            let columns = columns.into_iter().map(|column| Column::from_wire(column, members));
            columns.collect::<Option<Vec<_>>>().ok_or_else(|| unreadable(KIND))
        };
        let (columns, checked) = (of_wire(scan.columns)?, of_wire(scan.checked)?);
        Ok(Self {
            catalog: scan.catalog,
            schema: scan.schema,
            table: scan.table,
            query_id: scan.query_id,
            principal: scan.principal,
            topic: scan.topic,
            topic_id,
            committed: scan.read_committed,
            format,
            null_and_count: scan.null_and_count,
            values,
            columns,
            checked,
            limit: scan.limit,
            local_filters: scan.local_filters,
            ranges: scan.ranges,
            pinned: scan.pinned,
            estimate: Estimate { rows: Some(scan.offsets), ..Estimate::default() },
            planned: None,
        })
    }
}

impl Split {
    /// How many offsets are in it.
    pub fn len(self) -> u64 {
        u64::try_from(self.end.saturating_sub(self.start)).unwrap_or(0)
    }

    /// The split on the wire.
    pub fn encode(self) -> Vec<u8> {
        wire::Split { partition: self.partition, start: self.start, end: self.end }.encode_to_vec()
    }

    /// The split that [`Split::encode`] wrote.
    ///
    /// Errors: `INTERNAL` for bytes of another build.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let split = wire::Split::decode(bytes).map_err(|error| unreadable(KIND).with_source(error))?;
        Ok(Self { partition: split.partition, start: split.start, end: split.end })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::datatypes::DataType;

    use super::super::types::{FieldType, Source};
    use super::*;

    pub(crate) fn sample() -> Recipe {
        let mut columns = Column::of_records();
        columns.push(Column::of_value(FieldType::Varchar));
        Recipe {
            catalog: "bus".into(),
            schema: "default".into(),
            table: "orders".into(),
            query_id: "q".into(),
            principal: "ann".into(),
            topic: "orders.v1".into(),
            topic_id: Some([7; 16]),
            committed: true,
            format: KafkaFormat::Text,
            null_and_count: true,
            values: None,
            columns,
            checked: vec![Column::of_value(FieldType::Varchar)],
            limit: Some(10),
            local_filters: vec!["x: y".into()],
            ranges: "0:[3,9)".into(),
            pinned: "0:[0,9)".into(),
            estimate: Estimate { rows: Some(6), ..Estimate::default() },
            planned: None,
        }
    }

    #[test]
    fn recipes_and_splits_cross_the_wire() {
        let recipe = sample();
        let bytes = recipe.to_wire().encode_to_vec();
        assert_eq!(Recipe::from_wire(wire::Scan::decode(bytes.as_slice()).unwrap()).unwrap(), recipe);
        let mut hostile = recipe.to_wire();
        hostile.topic_id = vec![1, 2];
        assert!(Recipe::from_wire(hostile).is_err());
        let mut avro = recipe;
        avro.format = KafkaFormat::Avro;
        assert!(Recipe::from_wire(avro.to_wire()).is_err(), "a schema is missing");
        let text = r#"{"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]}"#.to_string();
        let definition = Definition { text, ..Definition::default() };
        avro.values = Some(Arc::new(ValueTable::new(KafkaFormat::Avro, definition).unwrap()));
        avro.columns = vec![Column { name: "a".into(), source: Source::Member(DataType::Int32) }];
        avro.checked = Vec::new();
        let bytes = avro.to_wire().encode_to_vec();
        assert_eq!(Recipe::from_wire(wire::Scan::decode(bytes.as_slice()).unwrap()).unwrap(), avro);
        let split = Split { partition: 3, start: 5, end: i64::MAX };
        assert_eq!(Split::decode(&split.encode()).unwrap(), split);
        assert_eq!(Split { partition: 0, start: 9, end: 5 }.len(), 0);
    }
}
