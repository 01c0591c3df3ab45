//! The types that SQL names stand for: those of the lake where the engine's own would not meet them.
//!
//! Times have microseconds, as Iceberg and Postgres have them. With nanoseconds, which DataFusion takes, `TIME '10:00:00'` cannot be
//! compared with a column, and no `TIMESTAMP` is after the year 2262. `VARBINARY` is what Trino and Spark call bytes.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{DataType as SqlType, TimezoneInfo};

/// The time zone of `TIMESTAMP WITH TIME ZONE`, as the session's configuration has it.
pub(crate) const ZONE: &str = "UTC";

/// Names the types of SQL that DataFusion would name otherwise.
#[derive(Debug)]
pub struct SqlTypes;

impl TypePlanner for SqlTypes {
    fn plan_type_field(&self, sql: &SqlType) -> Result<Option<FieldRef>> {
        let without_zone = |zone: &TimezoneInfo| matches!(zone, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone);
        let planned = match sql {
            SqlType::Time(None | Some(0..=6), zone) if without_zone(zone) => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Timestamp(None | Some(6), zone) if without_zone(zone) => {
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            SqlType::Timestamp(None | Some(6), _) => DataType::Timestamp(TimeUnit::Microsecond, Some(ZONE.into())),
            SqlType::Datetime(None | Some(6)) => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::Varbinary(_) | SqlType::Blob(_) => DataType::Binary,
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", planned, true))))
    }
}
