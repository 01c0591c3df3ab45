//! The types that the columns of CSV and JSON files are read with: what the user says, else what the table has, else what the
//! first records look like.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use townlake_common::{Error, ErrorCode, Result, nearest};

/// What is known of the columns before the files are looked at.
#[derive(Debug, Default)]
pub struct Known {
    /// From `--types`.
    said: Vec<(String, DataType)>,
    /// The columns of the table that the rows are added to.
    table: Option<SchemaRef>,
}

/// Whose records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Every value is a text.
    Csv,
    /// Values have types of their own.
    Json,
}

impl Known {
    /// What `--types` says, and the table's own columns where rows are added to one that is there.
    ///
    /// Errors: `INVALID_ARGUMENT` for a list that is none, or a type that there is not.
    pub async fn new(types: Option<&str>, table: Option<SchemaRef>) -> Result<Self> {
        let mut said = Vec::new();
        for (column, sql) in types.map(parse).transpose()?.unwrap_or_default() {
            let data_type = arrow_type(&sql).await?;
            said.push((column, data_type));
        }
        Ok(Self { said, table })
    }

    /// Whether the user says types.
    pub fn is_said(&self) -> bool {
        !self.said.is_empty()
    }

    /// The schema to read files with that look like `inferred`.
    ///
    /// Errors: `COLUMN_NOT_FOUND` for a column of `--types` that the files have not.
    pub fn apply(&self, inferred: &Schema, format: Format) -> Result<Schema> {
        if let Some((missing, _)) = self.said.iter().find(|(name, _)| inferred.index_of(name).is_err()) {
            let error =
                Error::new(ErrorCode::ColumnNotFound, format!("--types names {missing}, which the files have not"));
            let near = nearest(missing, inferred.fields().iter().map(|field| field.name().as_str()));
            return Err(match near {
                Some(near) => error.with_hint(format!("did you mean {near}?")),
                None => error,
            });
        }
        let typed = |field: &Arc<Field>| {
            let said = self.said.iter().find(|(name, _)| name == field.name()).map(|(_, said)| said.clone());
            let data_type = said.or_else(|| self.of_table(field, format)).unwrap_or_else(|| field.data_type().clone());
            Field::new(field.name(), data_type, true)
        };
        Ok(Schema::new(inferred.fields().iter().map(typed).collect::<Vec<_>>()))
    }

    /// The type of the table's column of this name, where it is one to read values as; the server converts the others.
    fn of_table(&self, field: &Field, format: Format) -> Option<DataType> {
        let column = self.table.as_ref()?.field_with_name(field.name()).ok()?;
        let wanted = column.data_type();
        match format {
            // 1 and 0, yes and no are for the server, which knows more words than the reader
            Format::Csv if *wanted == DataType::Boolean => Some(DataType::Utf8),
            Format::Csv => Some(if is_parsed(wanted) { wanted.clone() } else { DataType::Utf8 }),
            // a text column takes numbers too, as they are written
            Format::Json => (is_parsed(wanted) && !wanted.is_string()).then(|| wanted.clone()),
        }
    }
}

/// Whether the readers make values of this type out of text.
fn is_parsed(data_type: &DataType) -> bool {
    data_type.is_numeric() || data_type.is_string() || (data_type.is_temporal() && !is_duration(data_type))
}

fn is_duration(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Duration(_) | DataType::Interval(_))
}

/// The type of a column that two files, or two looks at one, tell differently.
pub fn merged(one: &DataType, other: &DataType) -> DataType {
    match (one, other) {
        (one, other) if one == other => one.clone(),
        (DataType::Null, known) | (known, DataType::Null) => known.clone(),
        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => DataType::Float64,
        _ => DataType::Utf8,
    }
}

/// Whether a number in a file is none: the leading zeros of a code would be lost.
pub fn is_code(text: &str) -> bool {
    let mut digits = text.trim_start_matches(['-', '+']).chars();
    digits.next() == Some('0') && digits.next().is_some_and(|second| second.is_ascii_digit())
}

/// `zip=varchar, price=decimal(12,2)` as names and SQL types. A name is the file's own, and is quoted where it has blanks.
fn parse(list: &str) -> Result<Vec<(String, String)>> {
    let parsed = || -> Result<Vec<(String, String)>, ParserError> {
        let mut parser = Parser::new(&GenericDialect {}).try_with_sql(list)?;
        let mut types = Vec::new();
        loop {
            let column = parser.parse_identifier()?.value;
            parser.expect_token(&Token::Eq)?;
            types.push((column, parser.parse_data_type()?.to_string()));
            if !parser.consume_token(&Token::Comma) {
                parser.expect_token(&Token::EOF)?;
                return Ok(types);
            }
        }
    };
    parsed().map_err(|error| {
        let why = match error {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text,
            ParserError::RecursionLimitExceeded => "it is nested too deeply".to_string(),
        };
        Error::new(ErrorCode::InvalidArgument, format!("--types cannot be read: {why}"))
            .with_hint("for example: --types 'zip=varchar, price=decimal(12,2)'")
    })
}

/// The type that a SQL type is read as.
async fn arrow_type(sql: &str) -> Result<DataType> {
    let unknown = |error| {
        Error::new(ErrorCode::InvalidArgument, format!("--types: there is no type {sql}"))
            .with_hint("for example varchar, bigint, double, decimal(12,2), date, timestamp or boolean")
            .with_source(error)
    };
    let state = SessionContext::new().state();
    let plan = state.create_logical_plan(&format!("SELECT CAST(NULL AS {sql}) AS value")).await.map_err(unknown)?;
    let data_type = plan.schema().field(0).data_type().clone();
    // a table holds microseconds, and nanoseconds end in the year 2262
    Ok(match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, data_type: DataType) -> Field {
        Field::new(name, data_type, true)
    }

    #[tokio::test]
    async fn the_user_is_right_before_the_table_and_the_table_before_the_look_of_it() {
        let inferred =
            Schema::new(["zip", "price", "seen", "ok", "more"].map(|name| field(name, DataType::Int64)).to_vec());
        let table = Schema::new(vec![
            field("zip", DataType::Utf8),
            field("price", DataType::Float32),
            field("seen", DataType::Binary),
            field("ok", DataType::Boolean),
            field("elsewhere", DataType::Date32),
        ]);
        let known =
            Known::new(Some("price = decimal(12, 2), seen=TIMESTAMP"), Some(Arc::new(table.clone()))).await.unwrap();
        let types = |known: &Known, format| -> Vec<DataType> {
            let schema = known.apply(&inferred, format).unwrap();
            schema.fields().iter().map(|field| field.data_type().clone()).collect()
        };
        let (decimal, micros) = (DataType::Decimal128(12, 2), DataType::Timestamp(TimeUnit::Microsecond, None));
        let (text, number) = (DataType::Utf8, DataType::Int64);
        assert_eq!(
            types(&known, Format::Csv),
            [text.clone(), decimal.clone(), micros.clone(), text.clone(), number.clone()]
        );
        assert_eq!(types(&known, Format::Json), [number.clone(), decimal, micros, number.clone(), number.clone()]);
        let known = Known::new(None, Some(Arc::new(table))).await.unwrap();
        assert_eq!(types(&known, Format::Csv), [text.clone(), DataType::Float32, text.clone(), text, number]);
    }

    #[tokio::test]
    async fn a_list_that_is_none_is_refused_with_an_example() {
        for list in ["", "zip", "zip=", "zip=nonsense", "zip=varchar,", "zip=varchar price=int", "zip=int) FROM t --"] {
            let error = Known::new(Some(list), None).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{list}");
            assert!(error.hint().unwrap().contains("varchar"), "{list}: {error}");
        }
        let known = Known::new(Some("\"zip code\"=varchar,nmae=int"), None).await.unwrap();
        let columns = Schema::new(vec![field("zip code", DataType::Int64), field("name", DataType::Utf8)]);
        let error = known.apply(&columns, Format::Csv).unwrap_err();
        assert_eq!((error.code(), error.hint()), (ErrorCode::ColumnNotFound, Some("did you mean name?")));
    }

    #[test]
    fn codes_are_told_from_numbers() {
        assert!(["007", "-01", "00", "00.5"].into_iter().all(is_code));
        assert!(!["0", "0.5", "-0.25", "10", "", "-", "0x1"].into_iter().any(is_code));
    }
}
