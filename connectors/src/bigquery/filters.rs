//! Which filters BigQuery applies for us: an allow-list of what is known to mean the same there.
//!
//! | columns | what is pushed |
//! |---|---|
//! | INT64, NUMERIC, DATE, DATETIME, TIMESTAMP, BOOL | `= <> < <= > >=`, `BETWEEN`, `IN` |
//! | STRING without a collation | `= <>`, `IN` |
//! | BOOL | themselves, `IS [NOT] TRUE/FALSE/UNKNOWN` |
//! | every column that is no ARRAY | `IS [NOT] NULL` |
//! | of these | `AND`, `OR`, `NOT` |
//!
//! Everything else stays with us, with a reason. Its logic of NULL is SQL's, so that conditions are sent as they are.

use arrow::array::types::Date32Type;
use arrow::datatypes::DataType;
use chrono::{DateTime, Datelike};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::sql::{identifier, literal};
use super::types::{Column, Kind, Mode};
use crate::filters::{DEPTH_LIMIT, SQL_LIMIT, Translated};

/// What filters may be made of.
pub(crate) struct Translator<'a> {
    pub columns: &'a [Column],
}

/// A comparison, and whether it asks for an order.
const OPERATORS: &[(Operator, &str, bool)] = &[
    (Operator::Eq, "=", false),
    (Operator::NotEq, "!=", false),
    (Operator::Lt, "<", true),
    (Operator::LtEq, "<=", true),
    (Operator::Gt, ">", true),
    (Operator::GtEq, ">=", true),
];

impl Translator<'_> {
    /// One filter as SQL.
    pub fn translate(&self, filter: &Expr) -> Translated {
        let sql = self.condition(filter, 0)?;
        if sql.len() > SQL_LIMIT { Err(format!("longer than {} KiB in SQL", SQL_LIMIT >> 10)) } else { Ok(sql) }
    }

    fn condition(&self, expr: &Expr, depth: usize) -> Translated {
        if depth > DEPTH_LIMIT {
            return Err("nested too deeply".to_string());
        }
        let is = |inner: &Expr| self.condition(inner, depth + 1);
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
                Ok(format!("({} {op} {})", is(left)?, is(right)?))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => self.comparison(left, *op, right),
            Expr::Not(inner) => Ok(format!("(NOT {})", is(inner)?)),
            Expr::IsNull(inner) => self.null_test(inner, "IS NULL"),
            Expr::IsNotNull(inner) => self.null_test(inner, "IS NOT NULL"),
            Expr::IsTrue(inner) => Ok(format!("({} IS TRUE)", is(inner)?)),
            Expr::IsFalse(inner) => Ok(format!("({} IS FALSE)", is(inner)?)),
            Expr::IsNotTrue(inner) => Ok(format!("({} IS NOT TRUE)", is(inner)?)),
            Expr::IsNotFalse(inner) => Ok(format!("({} IS NOT FALSE)", is(inner)?)),
            Expr::IsUnknown(inner) => Ok(format!("({} IS NULL)", is(inner)?)),
            Expr::IsNotUnknown(inner) => Ok(format!("({} IS NOT NULL)", is(inner)?)),
            Expr::Between(between) => {
                let column = self.ordered(&between.expr)?;
                let (low, high) = (constant(&between.low, column)?, constant(&between.high, column)?);
                let not = if between.negated { "NOT " } else { "" };
                Ok(format!("({} {not}BETWEEN {low} AND {high})", identifier(&column.name)))
            }
            Expr::InList(list) => {
                let column = self.equatable(&list.expr)?;
                if list.list.is_empty() {
                    return Err("an empty list".to_string());
                }
                let values = list.list.iter().map(|value| constant(value, column)).collect::<Result<Vec<_>, _>>()?;
                let not = if list.negated { "NOT " } else { "" };
                Ok(format!("({} {not}IN ({}))", identifier(&column.name), values.join(", ")))
            }
            Expr::Column(_) => match self.column(expr)? {
                column if column.kind == Kind::Bool && column.mode != Mode::Repeated => Ok(identifier(&column.name)),
                _ => Err("not a condition".to_string()),
            },
            Expr::Literal(ScalarValue::Boolean(value), _) => Ok(boolean(*value).to_string()),
            other => Err(format!("{} is not on the list of what BigQuery is asked", other.variant_name())),
        }
    }

    fn comparison(&self, left: &Expr, op: Operator, right: &Expr) -> Translated {
        // `5 < x` is `x > 5`.
        let (left, op, right) = match (left, op.swap()) {
            (Expr::Literal(..), Some(swapped)) => (right, swapped, left),
            _ => (left, op, right),
        };
        let found = OPERATORS.iter().find(|(operator, ..)| *operator == op);
        let (_, sql, needs_order) =
            found.ok_or_else(|| format!("operator {op} is not on the list of what BigQuery is asked"))?;
        let side = |expr| if *needs_order { self.ordered(expr) } else { self.equatable(expr) };
        let column = side(left)?;
        let right = match right {
            Expr::Literal(..) => constant(right, column)?,
            _ => match side(right)? {
                other if other.kind == column.kind => identifier(&other.name),
                _ => return Err("its columns have different types".to_string()),
            },
        };
        Ok(format!("({} {sql} {right})", identifier(&column.name)))
    }

    fn null_test(&self, inner: &Expr, test: &str) -> Translated {
        match self.column(inner)? {
            column if column.mode == Mode::Repeated => Err("an ARRAY is NULL there when it is empty here".to_string()),
            column if column.unreadable().is_some() => Err("its type is not on the list".to_string()),
            column => Ok(format!("({} {test})", identifier(&column.name))),
        }
    }

    /// Without a cast between the Arrow types of the same text, which changes nothing.
    fn uncast<'e>(&self, expr: &'e Expr) -> &'e Expr {
        let Expr::Cast(cast) = expr else { return expr };
        let Expr::Column(column) = cast.expr.as_ref() else { return expr };
        let found = self.columns.iter().find(|candidate| candidate.name == column.name);
        match found {
            Some(found) if found.kind == Kind::String && is_text(cast.field.data_type()) => &cast.expr,
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
        match self.equatable(expr)? {
            column if column.kind == Kind::String => Err("the order of text is not the server's to decide".to_string()),
            column => Ok(column),
        }
    }

    /// A column whose equality is the same here and there.
    fn equatable(&self, expr: &Expr) -> Result<&Column, String> {
        let column = self.column(expr)?;
        match &column.kind {
            _ if column.mode == Mode::Repeated => Err("an ARRAY is not compared by BigQuery".to_string()),
            Kind::Float64 => Err("floating point compares differently (NaN)".to_string()),
            Kind::String if column.is_collated => Err("its text is compared by a collation".to_string()),
            Kind::Bool | Kind::Int64 | Kind::Numeric | Kind::String => Ok(column),
            Kind::Date | Kind::Datetime | Kind::Timestamp => Ok(column),
            _ => Err("its type is not on the list of what BigQuery compares for us".to_string()),
        }
    }
}

fn boolean(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "TRUE",
        Some(false) => "FALSE",
        None => "NULL",
    }
}

/// A literal of exactly the column's type.
fn constant(expr: &Expr, column: &Column) -> Translated {
    let Expr::Literal(value, _) = expr else {
        return Err("it compares with an expression, not a constant".to_string());
    };
    if value.is_null() {
        return Ok("NULL".to_string());
    }
    match (&column.kind, value) {
        (Kind::Bool, ScalarValue::Boolean(value)) => Ok(boolean(*value).to_string()),
        // A bare -9223372036854775808 is a negated number that no INT64 holds.
        (Kind::Int64, ScalarValue::Int64(Some(i64::MIN))) => Err("its number has no plain literal".to_string()),
        (Kind::Int64, ScalarValue::Int64(Some(value))) => Ok(value.to_string()),
        (Kind::Numeric, ScalarValue::Decimal128(Some(_), precision, 9)) if *precision <= 38 => {
            Ok(format!("NUMERIC {}", literal(&value.to_string())))
        }
        (Kind::Numeric, _) => Err("its constant is not of NUMERIC's scale".to_string()),
        (Kind::Date, ScalarValue::Date32(Some(days))) => date(*days),
        (Kind::Datetime, ScalarValue::TimestampMicrosecond(Some(micros), None)) => {
            Ok(format!("DATETIME '{}'", time(*micros)?))
        }
        (Kind::Timestamp, ScalarValue::TimestampMicrosecond(Some(micros), Some(_))) => {
            Ok(format!("TIMESTAMP '{}+00:00'", time(*micros)?))
        }
        (Kind::String, ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)))
        | (Kind::String, ScalarValue::Utf8View(Some(text))) => Ok(literal(text)),
        _ => Err("its constant is of another type".to_string()),
    }
}

/// BigQuery knows the years 1 to 9999.
fn time(micros: i64) -> Translated {
    let time = DateTime::from_timestamp_micros(micros).filter(|time| (1..=9999).contains(&time.year()));
    time.map(|time| time.format("%Y-%m-%d %H:%M:%S%.6f").to_string()).ok_or_else(outside)
}

fn date(days: i32) -> Translated {
    let date = Date32Type::to_naive_date_opt(days).filter(|date| (1..=9999).contains(&date.year()));
    date.map(|date| format!("DATE '{}'", date.format("%Y-%m-%d"))).ok_or_else(outside)
}

fn outside() -> String {
    "its time is outside of the years 1 to 9999".to_string()
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{cast, col, lit};

    use super::super::types::tests::column;
    use super::*;

    fn translate(filter: Expr) -> Translated {
        let mut columns: Vec<_> = [
            ("i", "INTEGER", ""),
            ("n", "NUMERIC", ""),
            ("big", "BIGNUMERIC", ""),
            ("f", "FLOAT", ""),
            ("s", "STRING", ""),
            ("c", "STRING", ""),
            ("d", "DATE", ""),
            ("dt", "DATETIME", ""),
            ("ts", "TIMESTAMP", ""),
            ("b", "BOOLEAN", ""),
            ("j", "JSON", ""),
            ("a", "INTEGER", "REPEATED"),
            ("v", "INTERVAL", ""),
        ]
        .map(|(name, declared, mode)| column(name, declared, mode))
        .into();
        columns[5].is_collated = true;
        Translator { columns: &columns }.translate(&filter)
    }

    fn not(filter: Expr) -> Expr {
        Expr::Not(Box::new(filter))
    }

    fn number(value: i128) -> Expr {
        lit(ScalarValue::Decimal128(Some(value), 38, 9))
    }

    #[test]
    fn what_means_the_same_is_pushed() {
        let null = lit(ScalarValue::Int64(None));
        let instant = lit(ScalarValue::TimestampMicrosecond(Some(-1), Some("+00:00".into())));
        let pushed = [
            (lit(5i64).lt_eq(col("i")), "(`i` >= 5)"),
            (not(col("i").not_eq(lit(-5i64))), "(NOT (`i` != -5))"),
            (col("i").in_list(vec![lit(1i64), null.clone()], true), "(`i` NOT IN (1, NULL))"),
            (col("i").between(lit(1i64), null), "(`i` BETWEEN 1 AND NULL)"),
            (col("n").lt(number(-5)), "(`n` < NUMERIC '-0.000000005')"),
            (col("s").eq(lit("it's")), "(`s` = 'it\\'s')"),
            (cast(col("s"), DataType::Utf8View).eq(lit("a\0b")), "(`s` = 'a\\u0000b')"),
            (col("d").gt(lit(ScalarValue::Date32(Some(0)))), "(`d` > DATE '1970-01-01')"),
            (col("ts").gt_eq(instant), "(`ts` >= TIMESTAMP '1969-12-31 23:59:59.999999+00:00')"),
            (
                col("dt").eq(lit(ScalarValue::TimestampMicrosecond(Some(0), None))),
                "(`dt` = DATETIME '1970-01-01 00:00:00.000000')",
            ),
            (col("b").or(col("i").is_null()), "(`b` OR (`i` IS NULL))"),
            (Expr::IsNotTrue(Box::new(col("b"))), "(`b` IS NOT TRUE)"),
            (Expr::IsUnknown(Box::new(col("i").eq(lit(1i64)))), "((`i` = 1) IS NULL)"),
            (col("f").is_not_null(), "(`f` IS NOT NULL)"),
            (col("i").eq(col("i")), "(`i` = `i`)"),
        ];
        for (filter, sql) in pushed {
            let shown = filter.to_string();
            assert_eq!(translate(filter).as_deref(), Ok(sql), "{shown}");
        }
    }

    #[test]
    fn what_may_differ_stays_and_says_why() {
        let local = [
            (col("s").gt(lit("a")), "order of text"),
            (col("c").eq(lit("a")), "collation"),
            (col("f").gt(lit(1f64)), "floating point"),
            (col("i").gt(lit(5i32)), "another type"),
            (col("i").eq(lit(i64::MIN)), "no plain literal"),
            ((col("i") + lit(1i64)).eq(lit(2i64)), "expression"),
            (cast(col("i"), DataType::Utf8).eq(lit("5")), "expression"),
            (col("s").like(lit("a%")), "not on the list"),
            (col("n").eq(lit(ScalarValue::Decimal128(Some(1), 38, 10))), "scale"),
            (col("big").eq(col("big")), "not on the list"),
            (col("j").eq(lit("{}")), "not on the list"),
            (col("a").is_null(), "ARRAY"),
            (col("v").is_null(), "not on the list"),
            (col("d").lt(lit(ScalarValue::Date32(Some(-1_000_000)))), "outside"),
            (col("s").eq(col("i")), "different types"),
            (col("i").eq(lit(1i64)).or(col("f").eq(lit(1f64))), "floating point"),
        ];
        for (filter, reason) in local {
            let shown = filter.to_string();
            let told = translate(filter).unwrap_err();
            assert!(told.contains(reason), "{shown}: {told}");
        }
        assert!(translate(col("s").eq(lit("x".repeat(100_000)))).unwrap_err().contains("KiB"));
    }
}
