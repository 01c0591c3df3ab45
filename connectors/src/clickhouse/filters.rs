//! Which filters the server applies for us: an allow-list of what is known to mean the same there.
//!
//! | columns | what is pushed |
//! |---|---|
//! | integers up to 64 bits, decimals, Date, Date32, DateTime, DateTime64, Bool | `= <> < <= > >=`, `IS [NOT] DISTINCT FROM`, `BETWEEN`, `IN` |
//! | String, enums, UUID | `= <>`, `IS [NOT] DISTINCT FROM`, `IN` |
//! | Bool | themselves, `IS [NOT] TRUE/FALSE/UNKNOWN` |
//! | every column that may hold NULL | `IS [NOT] NULL` |
//! | of these | `AND`, `OR`, `NOT` |
//!
//! Everything else stays with us, with a reason. Floating point differs in NaN, the order of text in zero bytes (old versions),
//! `LIKE` in escapes, functions in too many ways to count.
//!
//! ClickHouse's own logic of NULL is not SQL's: `NULL IN (1)` is false there, so that `NOT IN` selects rows of NULL. So we ask for
//! neither its NULL nor its NOT: each filter is written as the condition under which it *is true*, and under NOT as the one under
//! which it *is false*. Both are 0 or 1 and never NULL.

use arrow::array::types::Date32Type;
use arrow::datatypes::DataType;
use chrono::{DateTime, Datelike};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::recipe::Column;
use super::sql::{identifier, literal};
use super::types::{Kind, Number};
use crate::filters::{DEPTH_LIMIT, SQL_LIMIT, Translated};

/// What filters may be made of.
pub(crate) struct Translator<'a> {
    pub columns: &'a [Column],
}

/// Which of its two certain outcomes a condition is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    True,
    False,
}

impl Outcome {
    fn other(self) -> Self {
        if self == Self::True { Self::False } else { Self::True }
    }
}

/// A comparison, and what it is the negation of.
const OPERATORS: &[(Operator, &str, &str, bool)] = &[
    (Operator::Eq, "=", "!=", false),
    (Operator::NotEq, "!=", "=", false),
    (Operator::Lt, "<", ">=", true),
    (Operator::LtEq, "<=", ">", true),
    (Operator::Gt, ">", "<=", true),
    (Operator::GtEq, ">=", "<", true),
];

/// A constant in SQL.
enum Constant {
    Null,
    Sql(String),
    /// A value that no row of the column can have: equal to none.
    Never,
}

impl Translator<'_> {
    /// One filter as SQL.
    pub fn translate(&self, filter: &Expr) -> Translated {
        let sql = self.condition(filter, Outcome::True, 0)?;
        if sql.len() > SQL_LIMIT { Err(too_long()) } else { Ok(sql) }
    }

    fn condition(&self, expr: &Expr, outcome: Outcome, depth: usize) -> Translated {
        if depth > DEPTH_LIMIT {
            return Err("nested too deeply".to_string());
        }
        let is = |inner: &Expr, outcome: Outcome| self.condition(inner, outcome, depth + 1);
        let both = |left: String, word: &str, right: String| match left.len() + right.len() {
            // Each test of IS UNKNOWN doubles what is below it.
            length if length > SQL_LIMIT => Err(too_long()),
            _ => Ok(format!("({left} {word} {right})")),
        };
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                let word = if (*op == Operator::And) == (outcome == Outcome::True) { "AND" } else { "OR" };
                both(is(left, outcome)?, word, is(right, outcome)?)
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => self.comparison(left, *op, right, outcome),
            Expr::Not(inner) => is(inner, outcome.other()),
            Expr::IsNull(inner) => self.null_test(inner, outcome),
            Expr::IsNotNull(inner) => self.null_test(inner, outcome.other()),
            Expr::IsTrue(inner) => Ok(when(outcome, is(inner, Outcome::True)?)),
            Expr::IsFalse(inner) => Ok(when(outcome, is(inner, Outcome::False)?)),
            Expr::IsNotTrue(inner) => Ok(when(outcome.other(), is(inner, Outcome::True)?)),
            Expr::IsNotFalse(inner) => Ok(when(outcome.other(), is(inner, Outcome::False)?)),
            Expr::IsUnknown(inner) => {
                let known = both(is(inner, Outcome::True)?, "OR", is(inner, Outcome::False)?)?;
                Ok(when(outcome.other(), known))
            }
            Expr::IsNotUnknown(inner) => {
                let known = both(is(inner, Outcome::True)?, "OR", is(inner, Outcome::False)?)?;
                Ok(when(outcome, known))
            }
            Expr::Between(between) => {
                let column = self.ordered(&between.expr)?;
                let (low, high) = (constant(&between.low, column)?, constant(&between.high, column)?);
                let outcome = if between.negated { outcome.other() } else { outcome };
                match outcome {
                    Outcome::True => both(compare(column, ">=", &low), "AND", compare(column, "<=", &high)),
                    Outcome::False => both(compare(column, "<", &low), "OR", compare(column, ">", &high)),
                }
            }
            Expr::InList(list) => {
                let column = self.equatable(&list.expr)?;
                let values = list.list.iter().map(|value| constant(value, column)).collect::<Result<Vec<_>, _>>()?;
                Ok(among(column, &values, if list.negated { outcome.other() } else { outcome }))
            }
            Expr::Column(_) => match self.column(expr)? {
                column if column.read.kind == Kind::Bool => {
                    Ok(certain(column, &format!("{} = {}", identifier(&column.name), digit(outcome == Outcome::True))))
                }
                _ => Err("not a condition".to_string()),
            },
            Expr::Literal(ScalarValue::Boolean(value), _) => {
                Ok(digit(*value == Some(outcome == Outcome::True)).to_string())
            }
            other => Err(format!("{} is not on the list of what ClickHouse is asked", other.variant_name())),
        }
    }

    fn comparison(&self, left: &Expr, op: Operator, right: &Expr, outcome: Outcome) -> Translated {
        if let Operator::IsDistinctFrom | Operator::IsNotDistinctFrom = op {
            let outcome = if op == Operator::IsDistinctFrom { outcome.other() } else { outcome };
            return self.same(left, right, outcome);
        }
        let find = |wanted: Operator| OPERATORS.iter().find(|(operator, ..)| *operator == wanted);
        // `5 < x` is `x > 5`.
        let (left, op, right) = match (left, op.swap()) {
            (Expr::Literal(..), Some(swapped)) => (right, swapped, left),
            _ => (left, op, right),
        };
        let unknown = || format!("operator {op} is not on the list of what ClickHouse is asked");
        let (_, sql, negated, needs_order) = find(op).ok_or_else(unknown)?;
        let sql = if outcome == Outcome::True { sql } else { negated };
        let column = if *needs_order { self.ordered(left)? } else { self.equatable(left)? };
        match right {
            Expr::Literal(..) => Ok(compare(column, sql, &constant(right, column)?)),
            _ => {
                let other = if *needs_order { self.ordered(right)? } else { self.equatable(right)? };
                alike(column, other)?;
                let test = format!("{} {sql} {}", identifier(&column.name), identifier(&other.name));
                Ok(if column.read.nullable || other.read.nullable {
                    format!("ifNull({test}, 0)")
                } else {
                    format!("({test})")
                })
            }
        }
    }

    /// `IS NOT DISTINCT FROM`, which is never NULL.
    fn same(&self, left: &Expr, right: &Expr, outcome: Outcome) -> Translated {
        let (left, right) = if let Expr::Literal(..) = left { (right, left) } else { (left, right) };
        let column = self.equatable(left)?;
        let same = match right {
            Expr::Literal(..) => match constant(right, column)? {
                Constant::Null => is_null(column),
                value => compare(column, "=", &value),
            },
            _ => {
                let other = self.equatable(right)?;
                alike(column, other)?;
                let (a, b) = (identifier(&column.name), identifier(&other.name));
                match column.read.nullable || other.read.nullable {
                    true => format!("(ifNull({a} = {b}, 0) OR ({} AND {}))", is_null(column), is_null(other)),
                    false => format!("({a} = {b})"),
                }
            }
        };
        Ok(when(outcome, same))
    }

    fn null_test(&self, inner: &Expr, outcome: Outcome) -> Translated {
        Ok(when(outcome, is_null(self.column(inner)?)))
    }

    /// Without a cast between the Arrow types of the same text, which changes nothing. Text of another type is another
    /// matter: as text 10 comes before 9.
    fn uncast<'e>(&self, expr: &'e Expr) -> &'e Expr {
        let Expr::Cast(cast) = expr else { return expr };
        let Expr::Column(column) = cast.expr.as_ref() else { return expr };
        let found = self.columns.iter().find(|candidate| candidate.name == column.name);
        match found {
            Some(found) if is_text(&found.read.arrow()) && is_text(cast.field.data_type()) => &cast.expr,
            _ => expr,
        }
    }

    fn column(&self, expr: &Expr) -> Result<&Column, String> {
        let Expr::Column(column) = self.uncast(expr) else {
            return Err("it compares an expression, not a column".to_string());
        };
        let found = self.columns.iter().find(|candidate| candidate.name == column.name);
        found.ok_or_else(|| format!("no column {}", column.name))
    }

    /// A column whose order is the same here and there.
    fn ordered(&self, expr: &Expr) -> Result<&Column, String> {
        let column = self.column(expr)?;
        column.read.kind.ordered().map(|()| column)
    }

    /// A column whose equality is the same here and there.
    fn equatable(&self, expr: &Expr) -> Result<&Column, String> {
        let column = self.column(expr)?;
        column.read.kind.equatable().map(|()| column)
    }
}

impl Kind {
    /// Whether values are ordered here as they are there; else why not.
    pub fn ordered(&self) -> Result<(), String> {
        match self {
            Kind::String | Kind::Enum(_) | Kind::Uuid => {
                Err("the order of text is not the server's to decide".to_string())
            }
            _ => self.equatable(),
        }
    }

    /// Whether values that are equal here are equal there, and no others; else why not.
    pub fn equatable(&self) -> Result<(), String> {
        match self {
            Kind::Number(number) if number.is_float() => Err("floating point compares differently (NaN)".to_string()),
            Kind::Bool | Kind::Number(_) | Kind::Decimal { .. } | Kind::Date | Kind::Date32 | Kind::DateTime => Ok(()),
            Kind::DateTime64(_) | Kind::String | Kind::Enum(_) | Kind::Uuid => Ok(()),
            _ => Err("its type is not on the list of what ClickHouse compares for us".to_string()),
        }
    }
}

fn too_long() -> String {
    format!("longer than {} KiB in SQL", SQL_LIMIT >> 10)
}

/// A condition that is 0 or 1, or the opposite of it.
fn when(outcome: Outcome, condition: String) -> String {
    match outcome {
        Outcome::True => condition,
        Outcome::False => format!("(NOT {condition})"),
    }
}

fn digit(value: bool) -> &'static str {
    if value { "1" } else { "0" }
}

/// A test of one column, which is 0 where the column is NULL.
fn certain(column: &Column, test: &str) -> String {
    // Without ifNull where it is not needed: the server finds its index by the bare column.
    if column.read.nullable { format!("ifNull({test}, 0)") } else { format!("({test})") }
}

fn is_null(column: &Column) -> String {
    if column.read.nullable { format!("isNull({})", identifier(&column.name)) } else { "0".to_string() }
}

fn is_not_null(column: &Column) -> String {
    if column.read.nullable { format!("isNotNull({})", identifier(&column.name)) } else { "1".to_string() }
}

/// Whether the comparison is true; that it is false is the opposite operator.
fn compare(column: &Column, sql: &str, value: &Constant) -> String {
    match value {
        Constant::Null => "0".to_string(),
        Constant::Never if sql == "!=" => is_not_null(column),
        Constant::Never => "0".to_string(),
        Constant::Sql(value) => certain(column, &format!("{} {sql} {value}", identifier(&column.name))),
    }
}

fn among(column: &Column, values: &[Constant], outcome: Outcome) -> String {
    let has_null = values.iter().any(|value| matches!(value, Constant::Null));
    let known = |value: &Constant| if let Constant::Sql(sql) = value { Some(sql.clone()) } else { None };
    let known: Vec<_> = values.iter().filter_map(known).collect();
    match outcome {
        // What is not among the others may be the unknown one.
        Outcome::False if has_null => "0".to_string(),
        Outcome::False if known.is_empty() => is_not_null(column),
        Outcome::True if known.is_empty() => "0".to_string(),
        // Old servers do not find these among others of their own type.
        _ if matches!(column.read.kind, Kind::Decimal { .. } | Kind::Uuid) => {
            let name = identifier(&column.name);
            let tests = known.iter().map(|value| certain(column, &format!("{name} = {value}")));
            let any = format!("({})", tests.collect::<Vec<_>>().join(" OR "));
            match outcome {
                Outcome::True => any,
                Outcome::False => format!("({} AND NOT {any})", is_not_null(column)),
            }
        }
        _ => listed(column, if outcome == Outcome::True { "IN" } else { "NOT IN" }, &known.join(", ")),
    }
}

/// A test of one column against a list, which is 0 where the column is NULL.
fn listed(column: &Column, word: &str, list: &str) -> String {
    let test = format!("{} {word} ({list})", identifier(&column.name));
    match column.read.nullable {
        true => format!("({} AND ifNull({test}, 0))", is_not_null(column)),
        false => format!("({test})"),
    }
}

/// That a column of whole numbers is one of many: bare numbers, which the server reads as those of the column. `None` for other columns
/// and values.
pub(crate) fn among_numbers(column: &Column, values: &[ScalarValue]) -> Option<String> {
    let Kind::Number(number) = column.read.kind else { return None };
    let bare = |value: &ScalarValue| match (number, value) {
        // A bare -9223372036854775808 is a negated number that no Int64 holds.
        (Number::Int64, ScalarValue::Int64(Some(i64::MIN))) => integer(number, value),
        _ => digits(number, value),
    };
    let list = values.iter().map(bare).collect::<Option<Vec<_>>>()?;
    Some(if list.is_empty() { "0".to_string() } else { listed(column, "IN", &list.join(",")) })
}

/// Columns of one type: between others the server finds its own common type.
fn alike(left: &Column, right: &Column) -> Result<(), String> {
    // Enums of different numbers compare by number, or not at all.
    let is_enum = matches!(left.read.kind, Kind::Enum(_)) || matches!(right.read.kind, Kind::Enum(_));
    if left.read.kind == right.read.kind && !is_enum {
        Ok(())
    } else {
        Err("its columns have different types".to_string())
    }
}

/// A literal of exactly the column's type, cast explicitly.
fn constant(expr: &Expr, column: &Column) -> Result<Constant, String> {
    let Expr::Literal(value, _) = expr else {
        return Err("it compares with an expression, not a constant".to_string());
    };
    if value.is_null() {
        return Ok(Constant::Null);
    }
    let sql = match (&column.read.kind, value) {
        (Kind::Bool, ScalarValue::Boolean(Some(value))) => digit(*value).to_string(),
        (Kind::Number(number), value) => integer(*number, value).ok_or("its constant is of another type")?,
        (Kind::Decimal { precision, scale }, value) => decimal(*precision, *scale, value)?,
        (Kind::Date, ScalarValue::Date32(Some(days))) if (0..=65535).contains(days) => {
            format!("toDate({})", literal(&date(*days)?))
        }
        (Kind::Date, ScalarValue::Date32(_)) => return Err("its date is outside of ClickHouse's".to_string()),
        (Kind::Date32, ScalarValue::Date32(Some(days))) => format!("toDate32({})", literal(&date(*days)?)),
        (Kind::DateTime, ScalarValue::TimestampMicrosecond(Some(micros), Some(_))) => seconds(*micros)?,
        (Kind::DateTime64(_), ScalarValue::TimestampMicrosecond(Some(micros), Some(_))) => {
            in_years(*micros)?;
            format!("fromUnixTimestamp64Micro(toInt64({micros}), 'UTC')")
        }
        // Others would have to be widened by the server, beyond what its 64 bits hold.
        (Kind::DateTime64(9), ScalarValue::TimestampNanosecond(Some(nanos), Some(_))) => {
            format!("fromUnixTimestamp64Nano(toInt64({nanos}), 'UTC')")
        }
        (Kind::String, value) => literal(text_of(value)?),
        (Kind::Enum(labels), value) => match text_of(value)? {
            // The server refuses to compare with what is no label.
            text if !labels.has(text) => return Ok(Constant::Never),
            text => literal(text),
        },
        (Kind::Uuid, value) => match text_of(value)? {
            // Only the form that the column is read as: another spelling equals nothing here, and would equal something there.
            text if !is_canonical(text) => return Ok(Constant::Never),
            text => format!("toUUID({})", literal(text)),
        },
        _ => return Err("its constant is of another type".to_string()),
    };
    Ok(Constant::Sql(sql))
}

/// A whole number of exactly the column's type.
fn digits(number: Number, value: &ScalarValue) -> Option<String> {
    Some(match (number, value) {
        (Number::Int8, ScalarValue::Int8(Some(value))) => value.to_string(),
        (Number::Int16, ScalarValue::Int16(Some(value))) => value.to_string(),
        (Number::Int32, ScalarValue::Int32(Some(value))) => value.to_string(),
        (Number::Int64, ScalarValue::Int64(Some(value))) => value.to_string(),
        (Number::UInt8, ScalarValue::UInt8(Some(value))) => value.to_string(),
        (Number::UInt16, ScalarValue::UInt16(Some(value))) => value.to_string(),
        (Number::UInt32, ScalarValue::UInt32(Some(value))) => value.to_string(),
        (Number::UInt64, ScalarValue::UInt64(Some(value))) => value.to_string(),
        _ => return None,
    })
}

/// The same as a constant of this type, from text, so that it is never taken for another.
fn integer(number: Number, value: &ScalarValue) -> Option<String> {
    Some(format!("to{number:?}({})", literal(&digits(number, value)?)))
}

fn decimal(precision: u8, scale: i8, value: &ScalarValue) -> Translated {
    let (own, digits) = match value {
        ScalarValue::Decimal128(Some(_), precision, scale) | ScalarValue::Decimal256(Some(_), precision, scale) => {
            (*scale, *precision)
        }
        _ => return Err("its constant is no decimal".to_string()),
    };
    if own != scale || digits > precision.max(38) {
        return Err("its constant has another scale".to_string());
    }
    let function = if precision <= 38 { "toDecimal128" } else { "toDecimal256" };
    Ok(format!("{function}({}, {scale})", literal(&value.to_string())))
}

/// DateTime counts seconds in 32 bits.
fn seconds(micros: i64) -> Translated {
    match u32::try_from(micros.div_euclid(1_000_000)) {
        Ok(seconds) if micros.rem_euclid(1_000_000) == 0 => Ok(format!("toDateTime(toUInt32({seconds}), 'UTC')")),
        Ok(_) => Err("its time has fractions of a second".to_string()),
        Err(_) => Err("its time is outside of the years 1970 to 2106".to_string()),
    }
}

/// DateTime64 knows the years 1900 to 2299; a nanosecond scale fewer.
fn in_years(micros: i64) -> Result<(), String> {
    let time = DateTime::from_timestamp_micros(micros).filter(|time| (1901..=2260).contains(&time.year()));
    time.map(|_| ()).ok_or_else(|| "its time is outside of the years 1901 to 2260".to_string())
}

fn date(days: i32) -> Translated {
    let date = Date32Type::to_naive_date_opt(days).filter(|date| (1900..=2299).contains(&date.year()));
    date.map(|date| date.format("%Y-%m-%d").to_string())
        .ok_or_else(|| "its date is outside of the years 1900 to 2299".to_string())
}

fn is_canonical(text: &str) -> bool {
    uuid::Uuid::parse_str(text).is_ok_and(|value| value.as_hyphenated().to_string() == text)
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn text_of(value: &ScalarValue) -> Result<&str, String> {
    match value {
        ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)) => {
            Ok(text)
        }
        _ => Err("its constant is no text".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use datafusion::prelude::{cast, col, lit};

    use super::*;

    fn translate(filter: Expr) -> Translated {
        let types = [
            ("id", "UInt32"),
            ("n", "Nullable(Int64)"),
            ("name", "LowCardinality(String)"),
            ("alias", "Nullable(String)"),
            ("price", "Decimal(15, 2)"),
            ("weight", "Nullable(Float64)"),
            ("day", "Date"),
            ("seen", "DateTime('Asia/Tokyo')"),
            ("exact", "Nullable(DateTime64(3))"),
            ("key", "UUID"),
            ("flag", "Nullable(Bool)"),
            ("mood", "Nullable(Enum8('sad' = 1, 'ok' = 2))"),
            ("list", "Array(UInt8)"),
        ];
        let columns: Vec<_> =
            types.iter().map(|(name, declared)| Column::new(name, declared, HashMap::new())).collect();
        Translator { columns: &columns }.translate(&filter)
    }

    fn not(filter: Expr) -> Expr {
        Expr::Not(Box::new(filter))
    }

    fn time(micros: i64) -> Expr {
        lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("+00:00".into())))
    }

    #[test]
    fn what_means_the_same_is_pushed() {
        let null = lit(ScalarValue::Int64(None));
        let pushed = [
            (col("id").gt(lit(5u32)), "(`id` > toUInt32('5'))"),
            (lit(5u32).lt_eq(col("id")), "(`id` >= toUInt32('5'))"),
            (not(col("id").gt(lit(5u32))), "(`id` <= toUInt32('5'))"),
            (col("n").eq(lit(-5i64)), "ifNull(`n` = toInt64('-5'), 0)"),
            (not(col("n").eq(lit(5i64))), "ifNull(`n` != toInt64('5'), 0)"),
            (col("n").eq(null.clone()), "0"),
            (
                col("n").in_list(vec![lit(1i64), null.clone()], false),
                "(isNotNull(`n`) AND ifNull(`n` IN (toInt64('1')), 0))",
            ),
            (col("n").in_list(vec![lit(1i64), null.clone()], true), "0"),
            (col("n").in_list(vec![lit(1i64)], true), "(isNotNull(`n`) AND ifNull(`n` NOT IN (toInt64('1')), 0))"),
            (
                col("key").in_list(vec![lit("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), lit("x")], true),
                "(1 AND NOT ((`key` = toUUID('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'))))",
            ),
            (col("id").in_list(vec![lit(1u32), lit(2u32)], true), "(`id` NOT IN (toUInt32('1'), toUInt32('2')))"),
            (not(col("n").between(lit(1i64), null)), "(ifNull(`n` < toInt64('1'), 0) OR 0)"),
            (not(col("n").is_null().and(col("id").eq(lit(1u32)))), "((NOT isNull(`n`)) OR (`id` != toUInt32('1')))"),
            (col("name").eq(lit("it's")), "(`name` = 'it\\'s')"),
            (cast(col("name"), DataType::Utf8View).eq(lit("a\0b")), "(`name` = 'a\\0b')"),
            (col("price").lt(lit(ScalarValue::Decimal128(Some(-5), 15, 2))), "(`price` < toDecimal128('-0.05', 2))"),
            (col("day").lt(lit(ScalarValue::Date32(Some(0)))), "(`day` < toDate('1970-01-01'))"),
            (col("seen").gt_eq(time(5_000_000)), "(`seen` >= toDateTime(toUInt32(5), 'UTC'))"),
            (col("exact").lt(time(-1)), "ifNull(`exact` < fromUnixTimestamp64Micro(toInt64(-1), 'UTC'), 0)"),
            (not(col("flag")), "ifNull(`flag` = 0, 0)"),
            (Expr::IsUnknown(Box::new(col("flag"))), "(NOT (ifNull(`flag` = 1, 0) OR ifNull(`flag` = 0, 0)))"),
            (col("weight").is_not_null(), "(NOT isNull(`weight`))"),
            (col("mood").eq(lit("ok")), "ifNull(`mood` = 'ok', 0)"),
            (col("mood").eq(lit("none")), "0"),
            (col("mood").not_eq(lit("none")), "isNotNull(`mood`)"),
            (col("key").eq(lit("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")), "0"),
        ];
        for (filter, sql) in pushed {
            let shown = filter.to_string();
            assert_eq!(translate(filter).as_deref(), Ok(sql), "{shown}");
        }
    }

    #[test]
    fn what_may_differ_stays_and_says_why() {
        let local = [
            (col("name").gt(lit("a")), "order of text"),
            (col("weight").gt(lit(1f64)), "floating point"),
            (col("id").gt(lit(5i64)), "another type"),
            ((col("id") + lit(1u32)).eq(lit(2u32)), "expression"),
            (cast(col("id"), DataType::Utf8).eq(lit("5")), "expression"),
            (col("name").like(lit("a%")), "not on the list"),
            (col("day").lt(lit(ScalarValue::Date32(Some(-1)))), "outside"),
            (col("seen").gt(time(5)), "fractions"),
            (col("seen").gt(time(-1_000_000)), "outside"),
            (col("list").eq(col("list")), "not on the list"),
            (col("name").eq(col("id")), "different types"),
            (col("mood").eq(col("mood")), "different types"),
            (col("id").eq(lit(1u32)).or(col("weight").eq(lit(1f64))), "floating point"),
        ];
        for (filter, reason) in local {
            let shown = filter.to_string();
            let told = translate(filter).unwrap_err();
            assert!(told.contains(reason), "{shown}: {told}");
        }
    }

    #[test]
    fn what_grows_without_end_is_refused_early() {
        let doubled = |inner: Expr| Expr::IsUnknown(Box::new(inner));
        let deep = (0..40).fold(col("flag"), |inner, _| doubled(inner));
        let started = std::time::Instant::now();
        assert!(translate(deep).is_err());
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
        let long = lit("x".repeat(100_000));
        assert!(translate(col("name").eq(long)).unwrap_err().contains("KiB"));
    }
}
