//! What the server can do, as drivers ask for it: capabilities and types.

use std::sync::LazyLock;

use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    Nullable, Searchable, SqlInfo, SqlNullOrdering, SqlSupportedCaseSensitivity, SqlSupportedTransaction, XdbcDataType,
    XdbcDatetimeSubcode,
};
use townlake_common::{Error, Result};

static CAPABILITIES: LazyLock<Option<SqlInfoData>> = LazyLock::new(|| make_capabilities().build().ok());
static TYPES: LazyLock<Option<XdbcTypeInfoData>> = LazyLock::new(|| make_types().build().ok());

/// The answer to `GetSqlInfo`.
///
/// Errors: an internal fault.
pub fn capabilities() -> Result<&'static SqlInfoData> {
    CAPABILITIES.as_ref().ok_or_else(|| Error::internal("the capabilities cannot be listed"))
}

/// The answer to `GetXdbcTypeInfo`.
///
/// Errors: an internal fault.
pub fn types() -> Result<&'static XdbcTypeInfoData> {
    TYPES.as_ref().ok_or_else(|| Error::internal("the types cannot be listed"))
}

// Bits of the enumerations of FlightSql.proto, which are numbers of bits there.
const GROUP_BY_UNRELATED_AND_BEYOND_SELECT: i32 = 0b11;
const GRAMMAR_MINIMUM_AND_CORE: i32 = 0b11;
const ANSI92_ENTRY: i32 = 0b1;
const LIMITED_OUTER_JOINS: i32 = 0b110;
const SUBQUERIES_COMPARISONS_EXISTS_INS: i32 = 0b111;
const UNION_AND_UNION_ALL: i32 = 0b11;
const NAMES_IN_STATEMENTS: i32 = 0b111;

/// JDBC asks for nearly all of these when a tool connects; what is missing it takes as unsupported, or fails.
fn make_capabilities() -> SqlInfoDataBuilder {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Town Lake");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    info.append(SqlInfo::FlightSqlServerReadOnly, false);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, true);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, 0_i32);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, true);
    info.append(SqlInfo::SqlDdlTable, true);
    info.append(SqlInfo::SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(
        SqlInfo::SqlQuotedIdentifierCase,
        SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32,
    );
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    info.append(SqlInfo::SqlKeywords, KEYWORDS);
    info.append(SqlInfo::SqlNumericFunctions, NUMERIC_FUNCTIONS);
    info.append(SqlInfo::SqlStringFunctions, STRING_FUNCTIONS);
    info.append(SqlInfo::SqlSystemFunctions, &["coalesce", "nullif"] as &[&str]);
    info.append(SqlInfo::SqlDatetimeFunctions, DATETIME_FUNCTIONS);
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlExtraNameCharacters, "");
    info.append(SqlInfo::SqlSupportsColumnAliasing, true);
    info.append(SqlInfo::SqlNullPlusNullIsNull, true);
    info.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    info.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    info.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    info.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    info.append(SqlInfo::SqlSupportedGroupBy, GROUP_BY_UNRELATED_AND_BEYOND_SELECT);
    info.append(SqlInfo::SqlSupportsLikeEscapeClause, true);
    info.append(SqlInfo::SqlSupportsNonNullableColumns, true);
    info.append(SqlInfo::SqlSupportedGrammar, GRAMMAR_MINIMUM_AND_CORE);
    info.append(SqlInfo::SqlAnsi92SupportedLevel, ANSI92_ENTRY);
    info.append(SqlInfo::SqlSupportsIntegrityEnhancementFacility, false);
    info.append(SqlInfo::SqlOuterJoinsSupportLevel, LIMITED_OUTER_JOINS);
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlCatalogAtStart, true);
    info.append(SqlInfo::SqlSchemasSupportedActions, NAMES_IN_STATEMENTS);
    info.append(SqlInfo::SqlCatalogsSupportedActions, NAMES_IN_STATEMENTS);
    info.append(SqlInfo::SqlSupportedPositionedCommands, 0_i32);
    info.append(SqlInfo::SqlSelectForUpdateSupported, false);
    info.append(SqlInfo::SqlStoredProceduresSupported, false);
    info.append(SqlInfo::SqlSupportedSubqueries, SUBQUERIES_COMPARISONS_EXISTS_INS);
    info.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    info.append(SqlInfo::SqlSupportedUnions, UNION_AND_UNION_ALL);
    for unlimited in UNLIMITED {
        info.append(*unlimited, 0_i64);
    }
    info
}

/// Limits that we do not set: 0 says so.
const UNLIMITED: &[SqlInfo] = &[
    SqlInfo::SqlMaxBinaryLiteralLength,
    SqlInfo::SqlMaxCharLiteralLength,
    SqlInfo::SqlMaxColumnNameLength,
    SqlInfo::SqlMaxColumnsInGroupBy,
    SqlInfo::SqlMaxColumnsInIndex,
    SqlInfo::SqlMaxColumnsInOrderBy,
    SqlInfo::SqlMaxColumnsInSelect,
    SqlInfo::SqlMaxColumnsInTable,
    SqlInfo::SqlMaxConnections,
    SqlInfo::SqlMaxCursorNameLength,
    SqlInfo::SqlMaxIndexLength,
    SqlInfo::SqlDbSchemaNameLength,
    SqlInfo::SqlMaxProcedureNameLength,
    SqlInfo::SqlMaxCatalogNameLength,
    SqlInfo::SqlMaxRowSize,
];

/// Words beyond SQL:2003 that are reserved here.
const KEYWORDS: &[&str] = &["describe", "explain", "ilike", "limit", "offset", "qualify", "show", "use"];

const NUMERIC_FUNCTIONS: &[&str] = &[
    "abs", "acos", "asin", "atan", "atan2", "ceil", "cos", "cot", "degrees", "exp", "floor", "ln", "log", "log10",
    "log2", "pi", "power", "radians", "random", "round", "signum", "sin", "sqrt", "tan", "trunc",
];

const STRING_FUNCTIONS: &[&str] = &[
    "ascii",
    "btrim",
    "char_length",
    "chr",
    "concat",
    "concat_ws",
    "initcap",
    "left",
    "length",
    "levenshtein",
    "lower",
    "lpad",
    "ltrim",
    "octet_length",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "strpos",
    "substr",
    "translate",
    "upper",
];

const DATETIME_FUNCTIONS: &[&str] = &[
    "current_date",
    "current_time",
    "current_timestamp",
    "date_bin",
    "date_part",
    "date_trunc",
    "extract",
    "from_unixtime",
    "make_date",
    "now",
    "to_char",
    "to_date",
    "to_timestamp",
];

fn make_types() -> XdbcTypeInfoDataBuilder {
    let mut types = XdbcTypeInfoDataBuilder::new();
    types.append(number("boolean", XdbcDataType::XdbcBit, 1, None));
    types.append(number("tinyint", XdbcDataType::XdbcTinyint, 8, Some(2)));
    types.append(number("smallint", XdbcDataType::XdbcSmallint, 16, Some(2)));
    types.append(number("integer", XdbcDataType::XdbcInteger, 32, Some(2)));
    types.append(number("bigint", XdbcDataType::XdbcBigint, 64, Some(2)));
    types.append(number("real", XdbcDataType::XdbcReal, 24, Some(2)));
    types.append(number("double", XdbcDataType::XdbcDouble, 53, Some(2)));
    types.append(XdbcTypeInfo {
        create_params: Some(vec!["precision".to_string(), "scale".to_string()]),
        fixed_prec_scale: true,
        minimum_scale: Some(0),
        maximum_scale: Some(38),
        ..number("decimal", XdbcDataType::XdbcDecimal, 38, Some(10))
    });
    types.append(quoted("varchar", XdbcDataType::XdbcVarchar, "'", None));
    types.append(quoted("varbinary", XdbcDataType::XdbcVarbinary, "X'", None));
    // 1 is the code of a date, whatever the name that the enumeration gives it.
    types.append(quoted("date", XdbcDataType::XdbcDate, "DATE '", Some(XdbcDatetimeSubcode::XdbcSubcodeYear)));
    types.append(quoted("time", XdbcDataType::XdbcTime, "TIME '", Some(XdbcDatetimeSubcode::XdbcSubcodeTime)));
    let timestamp = XdbcDatetimeSubcode::XdbcSubcodeTimestamp;
    types.append(quoted("timestamp", XdbcDataType::XdbcTimestamp, "TIMESTAMP '", Some(timestamp)));
    types
}

fn number(name: &str, data_type: XdbcDataType, size: i32, radix: Option<i32>) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_string(),
        data_type,
        sql_data_type: data_type,
        column_size: Some(size),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        unsigned_attribute: radix.map(|_| false),
        auto_increment: Some(false),
        local_type_name: Some(name.to_string()),
        num_prec_radix: radix,
        ..XdbcTypeInfo::default()
    }
}

fn quoted(name: &str, data_type: XdbcDataType, prefix: &str, datetime: Option<XdbcDatetimeSubcode>) -> XdbcTypeInfo {
    XdbcTypeInfo {
        column_size: Some(if datetime.is_some() { 32 } else { i32::MAX }),
        literal_prefix: Some(prefix.to_string()),
        literal_suffix: Some("'".to_string()),
        case_sensitive: datetime.is_none(),
        datetime_subcode: datetime,
        ..number(name, data_type, 0, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lists_are_built() {
        assert!(capabilities().unwrap().record_batch([]).unwrap().num_rows() > 60);
        assert_eq!(capabilities().unwrap().record_batch([SqlInfo::SqlKeywords as u32]).unwrap().num_rows(), 1);
        assert_eq!(types().unwrap().record_batch(None).unwrap().num_rows(), 13);
    }
}
