//! Which filters the server applies for us: an allow-list of what is known to mean the same there.
//!
//! | columns | what is pushed |
//! |---|---|
//! | integers, declared numerics, dates, timestamps, timestamptz, booleans | `= <> < <= > >=`, `IS [NOT] DISTINCT FROM`, `BETWEEN`, `IN` |
//! | text under a deterministic collation (also enums, json and what is read as text), uuid | `= <>`, `IS [NOT] DISTINCT FROM`, `IN` |
//! | booleans | themselves, `IS [NOT] TRUE/FALSE/UNKNOWN` |
//! | every column | `IS [NOT] NULL` |
//! | of these | `AND`, `OR`, `NOT` |
//!
//! Everything else stays with us, with a reason. Order of text depends on collations, floating point differs in NaN and
//! −0, `LIKE` in escapes, and functions in too many ways to count. A value that cannot be represented here (NaN in a
//! numeric, an infinite date) is compared by the server as Postgres does, and is an error only when it must be read.

use arrow::array::types::{Date32Type, TimestampMicrosecondType};
use arrow::datatypes::DataType;
use chrono::Datelike;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::sql::literal;
use super::types::{Column, Scalar};
use crate::filters::{DEPTH_LIMIT, SQL_LIMIT, Translated};

/// What filters may be made of.
pub(crate) struct Translator<'a> {
    pub columns: &'a [Column],
    /// Per column: whether its text compares equal exactly when its bytes are equal.
    pub deterministic: &'a [bool],
    /// Whether the database stores UTF-8: else a literal may not exist there.
    pub is_utf8: bool,
}

impl Translator<'_> {
    /// One filter as SQL.
    pub fn translate(&self, filter: &Expr) -> Translated {
        let sql = self.condition(filter, 0)?;
        if sql.len() > SQL_LIMIT {
            return Err(format!("longer than {} KiB in SQL", SQL_LIMIT >> 10));
        }
        Ok(sql)
    }

    fn condition(&self, expr: &Expr, depth: usize) -> Translated {
        if depth > DEPTH_LIMIT {
            return Err("nested too deeply".to_string());
        }
        let deeper = |inner: &Expr| self.condition(inner, depth + 1);
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                Ok(format!("({} AND {})", deeper(left)?, deeper(right)?))
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
                Ok(format!("({} OR {})", deeper(left)?, deeper(right)?))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => self.comparison(left, *op, right),
            Expr::Not(inner) => Ok(format!("(NOT {})", deeper(inner)?)),
            Expr::IsNull(inner) => self.null_test(inner, "IS NULL"),
            Expr::IsNotNull(inner) => self.null_test(inner, "IS NOT NULL"),
            Expr::IsTrue(inner) => Ok(format!("({} IS TRUE)", deeper(inner)?)),
            Expr::IsFalse(inner) => Ok(format!("({} IS FALSE)", deeper(inner)?)),
            Expr::IsUnknown(inner) => Ok(format!("({} IS UNKNOWN)", deeper(inner)?)),
            Expr::IsNotTrue(inner) => Ok(format!("({} IS NOT TRUE)", deeper(inner)?)),
            Expr::IsNotFalse(inner) => Ok(format!("({} IS NOT FALSE)", deeper(inner)?)),
            Expr::IsNotUnknown(inner) => Ok(format!("({} IS NOT UNKNOWN)", deeper(inner)?)),
            Expr::Between(between) => {
                let column = self.ordered(&between.expr)?;
                let (low, high) = (self.constant(&between.low, column)?, self.constant(&between.high, column)?);
                let not = if between.negated { "NOT " } else { "" };
                Ok(format!("({} {not}BETWEEN {low} AND {high})", column.expression()))
            }
            Expr::InList(list) => {
                let column = self.equatable(&list.expr)?;
                let values =
                    list.list.iter().map(|value| self.constant(value, column)).collect::<Result<Vec<_>, _>>()?;
                let not = if list.negated { "NOT " } else { "" };
                Ok(format!("({} {not}IN ({}))", column.expression(), values.join(", ")))
            }
            Expr::Column(_) => {
                let column = self.column(expr)?;
                match (column.column_type.scalar, column.column_type.is_array()) {
                    (Scalar::Bool, false) => Ok(column.expression()),
                    _ => Err("not a condition".to_string()),
                }
            }
            Expr::Literal(ScalarValue::Boolean(value), _) => Ok(boolean(*value)),
            other => Err(format!("{} is not on the list of what Postgres is asked", other.variant_name())),
        }
    }

    fn comparison(&self, left: &Expr, op: Operator, right: &Expr) -> Translated {
        let (sql, needs_order) = match op {
            Operator::Eq => ("=", false),
            Operator::NotEq => ("<>", false),
            Operator::IsDistinctFrom => ("IS DISTINCT FROM", false),
            Operator::IsNotDistinctFrom => ("IS NOT DISTINCT FROM", false),
            Operator::Lt => ("<", true),
            Operator::LtEq => ("<=", true),
            Operator::Gt => (">", true),
            Operator::GtEq => (">=", true),
            other => return Err(format!("operator {other} is not on the list of what Postgres is asked")),
        };
        let find = |side: &Expr| if needs_order { self.ordered(side) } else { self.equatable(side) };
        let (left, right) = match (left, right) {
            (Expr::Literal(..), Expr::Literal(..)) => return Err("it names no column".to_string()),
            (Expr::Literal(..), _) => {
                let column = find(right)?;
                (self.constant(left, column)?, column.expression())
            }
            (_, Expr::Literal(..)) => {
                let column = find(left)?;
                (column.expression(), self.constant(right, column)?)
            }
            _ => {
                let (left, right) = (find(left)?, find(right)?);
                if left.column_type != right.column_type {
                    return Err("its columns have different types".to_string());
                }
                // Two columns may have different collations, which Postgres refuses to choose between.
                let collation = if left.column_type.scalar == Scalar::Text { " COLLATE \"C\"" } else { "" };
                (format!("{}{collation}", left.expression()), right.expression())
            }
        };
        Ok(format!("({left} {sql} {right})"))
    }

    fn null_test(&self, inner: &Expr, test: &str) -> Translated {
        Ok(format!("({} {test})", self.column(inner)?.expression()))
    }

    /// Without a cast between the Arrow types of the same text, which changes nothing. Text of another type is another
    /// matter: as text 10 comes before 9.
    fn uncast<'e>(&self, expr: &'e Expr) -> &'e Expr {
        let Expr::Cast(cast) = expr else { return expr };
        let Expr::Column(column) = cast.expr.as_ref() else { return expr };
        let is_text_column =
            |candidate: &&Column| candidate.name == column.name && is_text(&candidate.column_type.arrow());
        match self.columns.iter().find(is_text_column) {
            Some(_) if is_text(cast.field.data_type()) => &cast.expr,
            _ => expr,
        }
    }

    fn column(&self, expr: &Expr) -> Result<&Column, String> {
        self.position(expr).and_then(|index| self.columns.get(index).ok_or_else(|| "no such column".to_string()))
    }

    fn position(&self, expr: &Expr) -> Result<usize, String> {
        let Expr::Column(column) = self.uncast(expr) else {
            return Err("it compares an expression, not a column".to_string());
        };
        let found = self.columns.iter().position(|candidate| candidate.name == column.name);
        found.ok_or_else(|| format!("no column {}", column.name))
    }

    /// A column whose order is the same here and there.
    fn ordered(&self, expr: &Expr) -> Result<&Column, String> {
        let column = self.equatable(expr)?;
        match column.column_type.scalar {
            Scalar::Text => Err("the order of text depends on the server's collation".to_string()),
            Scalar::Uuid => Err("uuids are text here and compare only for equality".to_string()),
            _ => Ok(column),
        }
    }

    /// A column whose equality is the same here and there.
    fn equatable(&self, expr: &Expr) -> Result<&Column, String> {
        let index = self.position(expr)?;
        let column = self.column(expr)?;
        if column.column_type.is_array() {
            return Err("arrays are compared here".to_string());
        }
        match column.column_type.scalar {
            Scalar::Bool | Scalar::Int2 | Scalar::Int4 | Scalar::Int8 | Scalar::Numeric { .. } => Ok(column),
            Scalar::Date | Scalar::Timestamp | Scalar::Timestamptz | Scalar::Uuid => Ok(column),
            Scalar::Text if self.deterministic.get(index) == Some(&true) => Ok(column),
            Scalar::Text => Err("the column's collation is not deterministic".to_string()),
            Scalar::Float4 | Scalar::Float8 => Err("floating point compares differently (NaN, -0)".to_string()),
            Scalar::Bytea | Scalar::Time | Scalar::Interval => {
                Err(format!("{} is not on the list of what Postgres compares for us", column.column_type.scalar.sql()))
            }
        }
    }

    /// A literal of exactly the column's type, cast explicitly.
    pub fn constant(&self, expr: &Expr, column: &Column) -> Translated {
        let Expr::Literal(value, _) = expr else {
            return Err("it compares with an expression, not a constant".to_string());
        };
        let scalar = column.column_type.scalar;
        if value.is_null() {
            return Ok(format!("NULL::{}", scalar.sql()));
        }
        let text = match (scalar, value) {
            (Scalar::Bool, ScalarValue::Boolean(value)) => return Ok(boolean(*value)),
            (Scalar::Int2, ScalarValue::Int16(Some(value))) => value.to_string(),
            (Scalar::Int4, ScalarValue::Int32(Some(value))) => value.to_string(),
            (Scalar::Int8, ScalarValue::Int64(Some(value))) => value.to_string(),
            (Scalar::Numeric { .. }, ScalarValue::Decimal128(..) | ScalarValue::Decimal256(..)) => value.to_string(),
            (Scalar::Date, ScalarValue::Date32(Some(days))) => date(*days)?,
            (Scalar::Timestamp, ScalarValue::TimestampMicrosecond(Some(micros), None)) => timestamp(*micros, "")?,
            (Scalar::Timestamptz, ScalarValue::TimestampMicrosecond(Some(micros), Some(_))) => {
                timestamp(*micros, "+00")?
            }
            (Scalar::Uuid, value) => uuid(text_of(value)?)?,
            (Scalar::Text, value) => self.text(text_of(value)?)?,
            _ => return Err(format!("its constant is no {}", scalar.sql())),
        };
        Ok(format!("{}::{}", literal(&text), scalar.sql()))
    }

    fn text(&self, value: &str) -> Translated {
        if value.contains('\0') {
            return Err("Postgres has no text with a zero byte".to_string());
        }
        if !self.is_utf8 && !value.is_ascii() {
            return Err("the database does not store UTF-8".to_string());
        }
        Ok(value.to_string())
    }
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

fn boolean(value: Option<bool>) -> String {
    match value {
        Some(true) => "TRUE".to_string(),
        Some(false) => "FALSE".to_string(),
        None => "NULL::bool".to_string(),
    }
}

/// Only the form that the column is read as: another spelling equals nothing here, and would equal something there.
fn uuid(text: &str) -> Translated {
    match uuid::Uuid::parse_str(text) {
        Ok(value) if value.as_hyphenated().to_string() == text => Ok(text.to_string()),
        _ => Err("its constant is not a uuid in lower case with hyphens".to_string()),
    }
}

fn date(days: i32) -> Translated {
    let date = Date32Type::to_naive_date_opt(days).filter(|date| (1..=9999).contains(&date.year()));
    date.map(|date| date.format("%Y-%m-%d").to_string())
        .ok_or_else(|| "its date is outside the years 1 to 9999".to_string())
}

fn timestamp(micros: i64, zone: &str) -> Translated {
    let time = arrow::temporal_conversions::as_datetime::<TimestampMicrosecondType>(micros);
    let time = time.filter(|time| (1..=9999).contains(&time.year()));
    time.map(|time| format!("{}{zone}", time.format("%Y-%m-%d %H:%M:%S%.6f")))
        .ok_or_else(|| "its time is outside the years 1 to 9999".to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use datafusion::prelude::{cast, col, lit};

    use super::super::types::ColumnType;
    use super::*;

    fn columns() -> Vec<Column> {
        let types = [
            ("id", Scalar::Int4),
            ("name", Scalar::Text),
            ("odd", Scalar::Text),
            ("price", Scalar::Numeric { precision: 15, scale: 2 }),
            ("weight", Scalar::Float8),
            ("day", Scalar::Date),
            ("seen", Scalar::Timestamptz),
            ("key", Scalar::Uuid),
            ("flag", Scalar::Bool),
        ];
        let column = |(name, scalar): (&str, Scalar)| Column {
            name: name.to_string(),
            column_type: ColumnType::of(scalar),
            nullable: true,
            metadata: HashMap::new(),
        };
        types.map(column).to_vec()
    }

    fn translate(filter: Expr) -> Translated {
        let columns = columns();
        let deterministic: Vec<_> = columns.iter().map(|column| column.name != "odd").collect();
        Translator { columns: &columns, deterministic: &deterministic, is_utf8: true }.translate(&filter)
    }

    #[test]
    fn what_means_the_same_is_pushed() {
        let pushed = [
            (col("id").gt(lit(5i32)), "(\"id\"::int4 > '5'::int4)"),
            (lit(5i32).lt_eq(col("id")), "('5'::int4 <= \"id\"::int4)"),
            (
                col("id").in_list(vec![lit(1i32), lit(ScalarValue::Int32(None))], true),
                "(\"id\"::int4 NOT IN ('1'::int4, NULL::int4))",
            ),
            (col("name").eq(lit("it's")), "(\"name\"::text = 'it''s'::text)"),
            (
                col("price").between(
                    lit(ScalarValue::Decimal128(Some(-5), 15, 2)),
                    lit(ScalarValue::Decimal128(Some(12345), 15, 2)),
                ),
                "(\"price\"::numeric BETWEEN '-0.05'::numeric AND '123.45'::numeric)",
            ),
            (col("day").lt(lit(ScalarValue::Date32(Some(0)))), "(\"day\"::date < '1970-01-01'::date)"),
            (
                col("seen").gt_eq(lit(ScalarValue::TimestampMicrosecond(Some(-1), Some("+00:00".into())))),
                "(\"seen\"::timestamptz >= '1969-12-31 23:59:59.999999+00'::timestamptz)",
            ),
            (
                col("flag").and(Expr::Not(Box::new(col("id").is_null()))),
                "(\"flag\"::bool AND (NOT (\"id\"::int4 IS NULL)))",
            ),
            (cast(col("name"), DataType::Utf8View).eq(col("name")), "(\"name\"::text COLLATE \"C\" = \"name\"::text)"),
            (col("weight").is_not_null(), "(\"weight\"::float8 IS NOT NULL)"),
        ];
        for (filter, sql) in pushed {
            assert_eq!(translate(filter).as_deref(), Ok(sql));
        }
    }

    #[test]
    fn what_may_differ_stays_and_says_why() {
        let local = [
            (col("name").gt(lit("a")), "collation"),
            (col("odd").eq(lit("a")), "deterministic"),
            (col("weight").gt(lit(1f64)), "floating point"),
            (col("key").eq(lit("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")), "lower case"),
            (col("name").eq(lit("a\0b")), "zero byte"),
            (col("id").gt(lit(5i64)), "constant is no int4"),
            ((col("id") + lit(1i32)).eq(lit(2i32)), "expression"),
            (cast(col("id"), DataType::Utf8).lt(cast(col("id"), DataType::Utf8)), "expression"),
            (col("name").like(lit("a%")), "not on the list"),
            (col("day").lt(lit(ScalarValue::Date32(Some(i32::MAX)))), "outside"),
            (col("id").eq(lit(1i32)).or(col("weight").eq(lit(1f64))), "floating point"),
        ];
        for (filter, reason) in local {
            let shown = filter.to_string();
            let told = translate(filter).unwrap_err();
            assert!(told.contains(reason), "{shown}: {told}");
        }
    }
}
