//! What Postgres does on top of a scan: an allow-list of what gives the same rows there as here.
//!
//! | operation | on |
//! |---|---|
//! | group by | what is compared for equality ([`super::filters`]) |
//! | count | everything |
//! | sum, avg | integers, of bigints the sum alone; numerics whose sum has a type that holds it |
//! | min, max, top rows | integers, declared numerics, dates, timestamps; top rows of text in the order of its bytes, too |
//! | inner join | equality of columns of one type that are compared for equality |
//!
//! A sum of bigints wraps around here, as DataFusion's does; Postgres's own is a numeric that does not. Sums of floating point
//! depend on their order, and NaN is greatest there and not here.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Expr;

use super::filters::Translator;
use super::recipe::Recipe;
use super::types::{Column, ColumnType, Scalar};
use crate::filters::and;
use crate::operation::{Operation, OrderBy, State, StateOf};
use crate::scan::{ColumnEstimate, Estimate, SourceScan};

type Answer<T> = Result<T, String>;

/// A sum of bigints as 64 bits hold it. 2⁶³ and 2⁶⁴ are spelled out.
const WRAPPED: &str = "(mod(mod({} + 9223372036854775808, 18446744073709551616) + 18446744073709551616, \
     18446744073709551616) - 9223372036854775808)::int8";

/// Longest SQL of keys in bytes: a recipe travels with each task.
const KEYS_LIMIT: usize = 512 << 10;
/// More whole numbers than that are written as one array.
const SHORT_LIST: usize = 100;

fn number(value: &ScalarValue) -> Answer<String> {
    match value {
        ScalarValue::Int16(Some(value)) => Ok(value.to_string()),
        ScalarValue::Int32(Some(value)) => Ok(value.to_string()),
        ScalarValue::Int64(Some(value)) => Ok(value.to_string()),
        _ => Err("a key is no whole number".to_string()),
    }
}

impl Recipe {
    /// The recipe that also does this, or why it does not.
    pub fn with(&self, operation: &Operation<'_>) -> Answer<Recipe> {
        match operation {
            Operation::Among { column, values } => return self.filtered(*column, self.among(*column, values)?),
            Operation::Between { column, low, high } => {
                return self.filtered(*column, self.between(*column, low, high)?);
            }
            _ => {}
        }
        if self.grouped.is_some() || self.limit.is_some() {
            return Err("the source does something else on top already".to_string());
        }
        match operation {
            Operation::Group { by, states } => self.grouped_by(by, states),
            Operation::First { order, rows } => self.first(order, *rows),
            Operation::Among { .. } | Operation::Between { .. } => Err("it is a filter".to_string()),
            Operation::Join { right, on } => {
                let right: &dyn std::any::Any = right.as_ref();
                self.joined_with(right.downcast_ref::<Recipe>().ok_or("the other side is no Postgres")?, on)
            }
        }
    }

    /// A filter of rows is one of groups as well, where it is on what is grouped by.
    fn filtered(&self, column: usize, condition: String) -> Answer<Recipe> {
        if self.limit.is_some() || self.grouped.is_some_and(|count| column >= count as usize) {
            return Err("it would come before what the source does".to_string());
        }
        if condition.len() > KEYS_LIMIT {
            return Err(format!("longer than {} KiB in SQL", KEYS_LIMIT >> 10));
        }
        Ok(Recipe { predicate: Some(and(self.predicate.as_deref(), condition)), ..self.clone() })
    }

    fn among(&self, column: usize, values: &[ScalarValue]) -> Answer<String> {
        let scalar = self.equatable(column)?;
        if values.is_empty() {
            return Ok("FALSE".to_string());
        }
        if values.len() > SHORT_LIST && matches!(scalar, Scalar::Int2 | Scalar::Int4 | Scalar::Int8) {
            let numbers = values.iter().map(number).collect::<Answer<Vec<_>>>()?.join(",");
            return Ok(format!("({} = ANY ('{{{numbers}}}'::{}[]))", self.expression(column)?, scalar.sql()));
        }
        let values = values.iter().map(|value| self.constant(column, value)).collect::<Answer<Vec<_>>>()?;
        Ok(format!("({} IN ({}))", self.expression(column)?, values.join(", ")))
    }

    fn between(&self, column: usize, low: &ScalarValue, high: &ScalarValue) -> Answer<String> {
        self.ordered(column)?;
        let (low, high) = (self.constant(column, low)?, self.constant(column, high)?);
        Ok(format!("({} BETWEEN {low} AND {high})", self.expression(column)?))
    }

    fn constant(&self, column: usize, value: &ScalarValue) -> Answer<String> {
        // Whether the database stores UTF-8 is not known here: other texts than plain ones stay.
        let translator = Translator { columns: &self.columns, deterministic: &self.deterministic, is_utf8: false };
        translator.constant(&Expr::Literal(value.clone(), None), self.column(column)?)
    }

    fn grouped_by(&self, by: &[usize], states: &[State]) -> Answer<Recipe> {
        let mut recipe = Recipe { columns: vec![], expressions: vec![], deterministic: vec![], ..self.clone() };
        let mut estimates = Vec::new();
        for column in by {
            self.equatable(*column)?;
            recipe.columns.push(self.column(*column)?.clone());
            recipe.expressions.push(self.expression(*column)?.to_string());
            estimates.push(self.estimate.columns.get(*column).copied().unwrap_or_default());
        }
        for State { of, field } in states {
            let (sql, scalar) = self.state(*of, field.data_type())?;
            let column_type = ColumnType::of(scalar);
            let (name, nullable) = (field.name().clone(), field.is_nullable());
            recipe.columns.push(Column { name, column_type, nullable, metadata: Default::default() });
            recipe.expressions.push(sql);
            estimates.push(ColumnEstimate::default());
        }
        recipe.grouped = Some(u32::try_from(by.len()).map_err(|_| "it groups by too many columns")?);
        recipe.estimate = Estimate { rows: self.estimate.groups(by), bytes: None, columns: estimates };
        Ok(recipe)
    }

    /// The SQL of a state and its type there.
    fn state(&self, of: StateOf, wanted: &DataType) -> Answer<(String, Scalar)> {
        match of {
            StateOf::Rows => Ok(("count(*)".to_string(), Scalar::Int8)),
            StateOf::Count(column) => Ok((format!("count({})", self.expression(column)?), Scalar::Int8)),
            StateOf::CountOrNull(column) => {
                Ok((format!("nullif(count({}), 0)", self.expression(column)?), Scalar::Int8))
            }
            StateOf::Sum(column) => self.sum(column, wanted),
            StateOf::Min(column) => self.extreme("min", column),
            StateOf::Max(column) => self.extreme("max", column),
        }
    }

    fn sum(&self, column: usize, wanted: &DataType) -> Answer<(String, Scalar)> {
        let sum = format!("sum({})", self.expression(column)?);
        match (self.plain(column)?, wanted) {
            (Scalar::Int2 | Scalar::Int4, DataType::Int64) => Ok((format!("{sum}::int8"), Scalar::Int8)),
            (Scalar::Int8, DataType::Int64) => Ok((WRAPPED.replace("{}", &sum), Scalar::Int8)),
            // Of bigints the sum in floating point, as it is made here, is rounded on the way.
            (Scalar::Int2 | Scalar::Int4, DataType::Float64) => Ok((format!("{sum}::float8"), Scalar::Float8)),
            // Ten digits more than the values have: a sum of less than 10¹⁰ of them fits.
            (Scalar::Numeric { precision, scale }, DataType::Decimal128(digits, places))
                if *places == scale && *digits >= precision.saturating_add(10) =>
            {
                Ok((format!("{sum}::numeric({digits},{places})"), Scalar::Numeric { precision: *digits, scale }))
            }
            (scalar, wanted) => Err(format!("a sum of {} as {wanted} is made here", scalar.sql())),
        }
    }

    fn extreme(&self, function: &str, column: usize) -> Answer<(String, Scalar)> {
        let scalar = self.ordered(column)?;
        Ok((format!("{function}({})", self.expression(column)?), scalar))
    }

    fn first(&self, order: &[OrderBy], rows: u64) -> Answer<Recipe> {
        let key = |key: &OrderBy| {
            let collation = match self.plain(key.column)? {
                Scalar::Text => " COLLATE \"C\"",
                _ => self.ordered(key.column).map(|_| "")?,
            };
            let direction = if key.descending { "DESC" } else { "ASC" };
            let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
            Ok(format!("{}{collation} {direction} NULLS {nulls}", self.expression(key.column)?))
        };
        let order = order.iter().map(key).collect::<Answer<Vec<_>>>()?;
        let mut recipe = Recipe { order, limit: Some(rows), ..self.clone() };
        recipe.estimate.rows = Some(self.estimate.rows.map_or(rows, |all| all.min(rows)));
        recipe.estimate.bytes = None;
        Ok(recipe)
    }

    fn joined_with(&self, right: &Recipe, on: &[(usize, usize)]) -> Answer<Recipe> {
        if self.snapshot != right.snapshot {
            return Err("its sides are read at different moments".to_string());
        }
        if on.is_empty() {
            return Err("it compares nothing".to_string());
        }
        // Names that no column of the relations has.
        let alias = format!("townlake_{}", self.joins.len());
        let inner = |place: usize| format!("{alias}_{place}");
        let named: Vec<_> =
            right.expressions.iter().enumerate().map(|(place, sql)| format!("{sql} AS {}", inner(place))).collect();
        let select = Recipe { expressions: named, ..right.clone() }.select(super::recipe::Split::default());
        let pair = |(here, there): &(usize, usize)| {
            let (left, other) = (self.equatable(*here)?, right.equatable(*there)?);
            if left != other {
                return Err("its columns have different types".to_string());
            }
            // Two columns may have different collations, which Postgres refuses to choose between.
            let collation = if left == Scalar::Text { " COLLATE \"C\"" } else { "" };
            Ok(format!("{}{collation} = {alias}.{}", self.expression(*here)?, inner(*there)))
        };
        let condition = on.iter().map(pair).collect::<Answer<Vec<_>>>()?.join(" AND ");
        let mut recipe = self.clone();
        recipe.joins.push(format!("({select}) AS {alias} ON {condition}"));
        recipe.joined.extend(right.tables());
        recipe.columns.extend(right.columns.iter().cloned());
        recipe.expressions.extend((0..right.columns.len()).map(|place| format!("{alias}.{}", inner(place))));
        recipe.deterministic.extend(right.deterministic.iter().copied());
        recipe.local_filters.extend(right.local_filters.iter().cloned());
        let columns = self.estimate.columns.iter().chain(&right.estimate.columns).copied().collect();
        recipe.estimate = Estimate { rows: self.estimate.joined_rows(&right.estimate, on), bytes: None, columns };
        Ok(recipe)
    }

    fn tables(&self) -> Vec<String> {
        let own = format!("{}.{}.{}", self.catalog(), self.schema, self.table);
        std::iter::once(own).chain(self.joined.iter().cloned()).collect()
    }

    fn column(&self, place: usize) -> Answer<&Column> {
        self.columns.get(place).ok_or_else(|| "no such column".to_string())
    }

    fn expression(&self, place: usize) -> Answer<&str> {
        self.expressions.get(place).map(String::as_str).ok_or_else(|| "no such column".to_string())
    }

    /// A column that is no array.
    fn plain(&self, place: usize) -> Answer<Scalar> {
        let column = self.column(place)?;
        match column.column_type.is_array() {
            true => Err(format!("{} is an array", column.name)),
            false => Ok(column.column_type.scalar),
        }
    }

    /// A column whose order is the same here and there.
    fn ordered(&self, place: usize) -> Answer<Scalar> {
        match self.plain(place)? {
            scalar @ (Scalar::Int2 | Scalar::Int4 | Scalar::Int8 | Scalar::Numeric { .. } | Scalar::Date) => Ok(scalar),
            scalar @ (Scalar::Timestamp | Scalar::Timestamptz) => Ok(scalar),
            scalar => Err(format!("{} is ordered here", scalar.sql())),
        }
    }

    /// A column whose equality is the same here and there.
    fn equatable(&self, place: usize) -> Answer<Scalar> {
        match self.plain(place)? {
            Scalar::Text if self.deterministic.get(place) != Some(&true) => {
                Err("a column's collation is not deterministic".to_string())
            }
            scalar @ (Scalar::Bool | Scalar::Text | Scalar::Uuid) => Ok(scalar),
            _ => self.ordered(place),
        }
    }
}
