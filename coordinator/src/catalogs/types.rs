//! Types as SQL writes them.

use datafusion::arrow::datatypes::{DataType, TimeUnit};

/// The SQL name of a column's type, as `CREATE TABLE` would take it: what DESCRIBE and information_schema show.
pub fn sql_type(data_type: &DataType) -> String {
    use DataType as T;
    match data_type {
        T::Boolean => "boolean".to_string(),
        T::Int8 => "tinyint".to_string(),
        T::Int16 => "smallint".to_string(),
        T::Int32 => "integer".to_string(),
        T::Int64 => "bigint".to_string(),
        T::UInt8 => "tinyint unsigned".to_string(),
        T::UInt16 => "smallint unsigned".to_string(),
        T::UInt32 => "integer unsigned".to_string(),
        T::UInt64 => "bigint unsigned".to_string(),
        T::Float16 | T::Float32 => "real".to_string(),
        T::Float64 => "double".to_string(),
        T::Decimal32(p, s) | T::Decimal64(p, s) | T::Decimal128(p, s) | T::Decimal256(p, s) => {
            format!("decimal({p}, {s})")
        }
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "varchar".to_string(),
        T::Binary | T::LargeBinary | T::BinaryView => "bytea".to_string(),
        T::FixedSizeBinary(16) => "uuid".to_string(),
        T::FixedSizeBinary(width) => format!("fixed({width})"),
        T::Date32 | T::Date64 => "date".to_string(),
        T::Time32(_) | T::Time64(_) => "time".to_string(),
        T::Timestamp(TimeUnit::Nanosecond, None) => "timestamp(9)".to_string(),
        T::Timestamp(TimeUnit::Nanosecond, Some(_)) => "timestamp(9) with time zone".to_string(),
        T::Timestamp(_, None) => "timestamp".to_string(),
        T::Timestamp(_, Some(_)) => "timestamp with time zone".to_string(),
        T::List(item) | T::LargeList(item) | T::ListView(item) | T::LargeListView(item) | T::FixedSizeList(item, _) => {
            format!("array({})", sql_type(item.data_type()))
        }
        T::Struct(fields) => {
            let fields: Vec<_> = fields.iter().map(|f| format!("{} {}", f.name(), sql_type(f.data_type()))).collect();
            format!("row({})", fields.join(", "))
        }
        T::Map(entries, _) => match entries.data_type() {
            T::Struct(pair) => {
                let parts: Vec<_> = pair.iter().map(|f| sql_type(f.data_type())).collect();
                format!("map({})", parts.join(", "))
            }
            other => format!("map({other})"),
        },
        T::Dictionary(_, value) => sql_type(value),
        other => other.to_string().to_lowercase(),
    }
}
