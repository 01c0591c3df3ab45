//! What ClickHouse does on top of a scan: an allow-list of what gives the same rows there as here.
//!
//! | operation | on |
//! |---|---|
//! | group by | what is compared for equality ([`super::filters`]) |
//! | count | everything |
//! | sum | integers up to 64 bits (it wraps around on both sides); decimals whose sum has a type that holds it |
//! | avg | integers up to 32 bits; decimals as for sums |
//! | min, max, top rows | integers up to 64 bits, decimals, dates, times |
//!
//! Sums of floating point depend on their order. An aggregate of no values is 0 there and NULL here, so that the values are
//! counted beside it.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::filters::{Translator, among_numbers};
use super::recipe::{Column, Recipe};
use super::sql::identifier;
use super::types::{Kind, Number};
use crate::filters::{SQL_LIMIT, and};
use crate::operation::{Operation, OrderBy, State, StateOf};
use crate::scan::Estimate;

type Answer<T> = Result<T, String>;

/// Longest SQL of keys in bytes, where the server was told to take as much: a recipe travels with each task.
const KEYS_LIMIT: usize = 512 << 10;
/// A server takes 50,000 elements of a statement (`max_ast_elements`): some are left for the rest of it.
const MOST_KEYS: usize = 45_000;

impl Recipe {
    /// The recipe that also does this, or why it does not.
    pub fn with(&self, operation: &Operation<'_>) -> Answer<Recipe> {
        match operation {
            Operation::Among { column, values } => self.among(*column, values, operation),
            Operation::Between { column, .. } => self.filtered(*column, self.condition_of(operation)?),
            _ if self.grouped.is_some() || self.limit.is_some() => {
                Err("the source does something else on top already".to_string())
            }
            Operation::Group { by, states } => self.grouped_by(by, states),
            Operation::First { order, rows } => self.first(order, *rows),
            Operation::Join { .. } => Err("ClickHouse is not asked to join".to_string()),
        }
    }

    /// A filter of rows is one of groups as well, where it is on what is grouped by.
    fn filtered(&self, column: usize, condition: String) -> Answer<Recipe> {
        if self.limit.is_some() || self.grouped.is_some_and(|count| column >= count as usize) {
            return Err("it would come before what the source does".to_string());
        }
        Ok(Recipe { predicate: Some(and(self.predicate.as_deref(), condition)), ..self.clone() })
    }

    fn condition_of(&self, operation: &Operation<'_>) -> Answer<String> {
        let filter = operation.as_filter(&self.arrow_schema()).ok_or("it is no filter")?;
        Translator { columns: &self.columns }.translate(&filter)
    }

    fn among(&self, column: usize, values: &[ScalarValue], operation: &Operation<'_>) -> Answer<Recipe> {
        if values.len() > MOST_KEYS {
            return Err(format!("more than {MOST_KEYS} keys"));
        }
        let condition = match among_numbers(self.column(column)?, values) {
            Some(numbers) => numbers,
            None => self.condition_of(operation)?,
        };
        let takes_more = self.settings.iter().any(|(name, _)| name == "max_query_size");
        let most = if takes_more { KEYS_LIMIT } else { SQL_LIMIT };
        if condition.len() > most {
            return Err(format!("longer than {} KiB in SQL", most >> 10));
        }
        self.filtered(column, condition)
    }

    fn grouped_by(&self, by: &[usize], states: &[State]) -> Answer<Recipe> {
        let mut recipe = Recipe { columns: vec![], ..self.clone() };
        for place in by {
            let column = self.column(*place)?;
            column.read.kind.equatable()?;
            let is_wide = matches!(column.read.kind, Kind::Decimal { precision: 19.., .. });
            // 18.16 crashes, not in all such cases. Servers that send Arrow are years younger.
            if is_wide && by.len() > 1 && !self.arrow {
                return Err("old servers do not group by long decimals beside others".to_string());
            }
            recipe.columns.push(column.clone());
        }
        for State { of, field } in states {
            let (declared, sql) = self.state(*of, field.data_type(), by.is_empty())?;
            if declared.starts_with("Nullable") && !field.is_nullable() {
                return Err(format!("{} cannot be NULL here", field.name()));
            }
            recipe.columns.push(Column::computed(field.name(), &declared, sql));
        }
        recipe.grouped = Some(u32::try_from(by.len()).map_err(|_| "it groups by too many columns")?);
        let rows = if by.is_empty() { Some(1) } else { self.estimate.rows };
        recipe.estimate = Estimate { rows, bytes: None, columns: Vec::new() };
        Ok(recipe)
    }

    /// The type of a state, and its SQL.
    fn state(&self, of: StateOf, wanted: &DataType, is_whole: bool) -> Answer<(String, String)> {
        let counted = |place: usize| Ok::<_, String>(format!("count({})", identifier(&self.column(place)?.name)));
        match of {
            StateOf::Rows => Ok(("Int64".to_string(), "count()".to_string())),
            StateOf::Count(place) => Ok(("Int64".to_string(), counted(place)?)),
            StateOf::CountOrNull(place) => {
                Ok(("Nullable(Int64)".to_string(), format!("nullIf({}, 0)", counted(place)?)))
            }
            StateOf::Sum(place) => {
                let (declared, sql) = self.sum(place, wanted)?;
                Ok((nullable(&declared), self.or_null(place, sql, is_whole)?))
            }
            StateOf::Min(place) | StateOf::Max(place) => {
                let column = self.column(place)?;
                column.read.kind.ordered()?;
                let function = if matches!(of, StateOf::Min(_)) { "min" } else { "max" };
                let sql = format!("{function}({})", identifier(&column.name));
                Ok((nullable(&column.declared), self.or_null(place, sql, is_whole)?))
            }
        }
    }

    /// NULL where there are no values: not in a group of a column that has no NULL.
    fn or_null(&self, place: usize, sql: String, is_whole: bool) -> Answer<String> {
        let column = self.column(place)?;
        match column.read.nullable || is_whole {
            true => Ok(format!("if(count({}) = 0, NULL, {sql})", identifier(&column.name))),
            false => Ok(sql),
        }
    }

    fn sum(&self, place: usize, wanted: &DataType) -> Answer<(String, String)> {
        let column = self.column(place)?;
        let name = identifier(&column.name);
        let sum = format!("sum({name})");
        match (&column.read.kind, wanted) {
            (Kind::Number(number), DataType::Int64) if number.is_signed() => Ok(("Int64".to_string(), sum)),
            (Kind::Number(number), DataType::UInt64) if number.is_unsigned() => Ok(("UInt64".to_string(), sum)),
            // Of 64 bits the sum in floating point, as it is made here, is rounded on the way.
            (Kind::Number(Number::Int64 | Number::UInt64), DataType::Float64) => {
                Err(format!("a sum of {} as {wanted} is made here", column.declared))
            }
            (Kind::Number(number), DataType::Float64) if !number.is_float() => {
                Ok(("Float64".to_string(), format!("toFloat64({sum})")))
            }
            // Ten digits more than the values have: a sum of less than 10¹⁰ of them fits.
            (Kind::Decimal { precision, scale }, DataType::Decimal128(digits, places))
                if places == scale && *digits >= precision.saturating_add(10) =>
            {
                Ok((format!("Decimal({digits}, {scale})"), sum))
            }
            (_, wanted) => Err(format!("a sum of {} as {wanted} is made here", column.declared)),
        }
    }

    fn first(&self, order: &[OrderBy], rows: u64) -> Answer<Recipe> {
        let key = |key: &OrderBy| {
            let column = self.column(key.column)?;
            column.read.kind.ordered()?;
            let direction = if key.descending { "DESC" } else { "ASC" };
            let nulls = if key.nulls_first { "FIRST" } else { "LAST" };
            Ok(format!("{} {direction} NULLS {nulls}", identifier(&column.name)))
        };
        let order = order.iter().map(key).collect::<Answer<Vec<_>>>()?;
        let mut recipe = Recipe { order, limit: Some(rows), ..self.clone() };
        recipe.estimate.rows = Some(self.estimate.rows.map_or(rows, |all| all.min(rows)));
        recipe.estimate.bytes = None;
        Ok(recipe)
    }

    fn column(&self, place: usize) -> Answer<&Column> {
        self.columns.get(place).ok_or_else(|| "no such column".to_string())
    }
}

/// The type that has NULL as well.
fn nullable(declared: &str) -> String {
    if declared.starts_with("Nullable(") { declared.to_string() } else { format!("Nullable({declared})") }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use arrow::datatypes::Field;

    use super::super::recipe::{Split, tests::sample};
    use super::*;

    fn table() -> Recipe {
        let column = |name: &str, declared: &str| Column::new(name, declared, HashMap::new());
        let columns = vec![
            column("id", "UInt32"),
            column("k", "Nullable(Int64)"),
            column("n", "Decimal(12, 2)"),
            column("t", "LowCardinality(String)"),
            column("f", "Float64"),
        ];
        let (predicate, limit, is_final) = (None, None, false);
        Recipe { columns, predicate, limit, is_final, table: "t".into(), settings: Vec::new(), ..sample() }
    }

    fn state(of: StateOf, wanted: DataType) -> State {
        State { of, field: Arc::new(Field::new("s", wanted, true)) }
    }

    fn select(by: &[usize], states: &[State]) -> Answer<String> {
        table().with(&Operation::Group { by, states }).map(|recipe| recipe.select(&Split::Whole))
    }

    #[test]
    fn groups_are_asked_for() {
        let states = [
            state(StateOf::Rows, DataType::Int64),
            state(StateOf::Sum(0), DataType::UInt64),
            state(StateOf::Max(1), DataType::Int64),
            state(StateOf::Sum(2), DataType::Decimal128(22, 2)),
        ];
        let wanted = "SELECT CAST(`t` AS String), CAST(count() AS Int64), CAST(sum(`id`) AS Nullable(UInt64)), \
             CAST(if(count(`k`) = 0, NULL, max(`k`)) AS Nullable(Int64)), CAST(sum(`n`) AS Nullable(Decimal(22, 2))) \
             FROM `db`.`t` GROUP BY `t`";
        assert_eq!(select(&[3], &states).unwrap(), wanted);
        let whole = select(&[], &states[1..2]).unwrap();
        let wanted = "SELECT CAST(if(count(`id`) = 0, NULL, sum(`id`)) AS Nullable(UInt64)) FROM `db`.`t`";
        assert_eq!(whole, wanted);
    }

    #[test]
    fn what_may_differ_stays_here() {
        for (by, of, wanted, reason) in [
            (4, StateOf::Rows, DataType::Int64, "floating point"),
            (3, StateOf::Max(3), DataType::Utf8, "order of text"),
            (3, StateOf::Sum(4), DataType::Float64, "made here"),
            (3, StateOf::Sum(0), DataType::Int64, "made here"),
            (3, StateOf::Sum(1), DataType::Float64, "made here"),
            (3, StateOf::Sum(2), DataType::Decimal128(20, 2), "made here"),
        ] {
            let told = select(&[by], &[state(of, wanted)]).unwrap_err();
            assert!(told.contains(reason), "{told}");
        }
        let mut old = Recipe { arrow: false, ..table() };
        old.columns.push(Column::new("w", "Decimal(38, 2)", HashMap::new()));
        assert!(old.with(&Operation::Group { by: &[5], states: &[] }).is_ok());
        assert!(old.with(&Operation::Group { by: &[5, 0], states: &[] }).is_err());
        let grouped = table().with(&Operation::Group { by: &[0], states: &[] }).unwrap();
        let order = [OrderBy { column: 0, descending: false, nulls_first: false }];
        assert!(grouped.with(&Operation::First { order: &order, rows: 1 }).is_err());
    }

    #[test]
    fn first_rows_and_keys_are_asked_for() {
        let order = [OrderBy { column: 1, descending: true, nulls_first: false }];
        let first = table().with(&Operation::First { order: &order, rows: 5 }).unwrap();
        assert!(first.select(&Split::Whole).ends_with("FROM `db`.`t` ORDER BY `k` DESC NULLS LAST LIMIT 5"));
        let keys = |column, values: &[ScalarValue]| table().with(&Operation::Among { column, values });
        let found = keys(0, &[ScalarValue::UInt32(Some(1)), ScalarValue::UInt32(Some(2))]).unwrap();
        assert!(found.select(&Split::Whole).ends_with("WHERE (`id` IN (1,2))"));
        let found = keys(1, &[ScalarValue::Int64(Some(i64::MIN))]).unwrap();
        let wanted = "(isNotNull(`k`) AND ifNull(`k` IN (toInt64('-9223372036854775808')), 0))";
        assert_eq!(found.predicate.as_deref(), Some(wanted));
        assert_eq!(keys(0, &[]).unwrap().predicate.as_deref(), Some("0"));
        assert!(keys(0, &vec![ScalarValue::UInt32(Some(1)); MOST_KEYS + 1]).is_err());
        let grouped =
            table().with(&Operation::Group { by: &[0], states: &[state(StateOf::Rows, DataType::Int64)] }).unwrap();
        let values = [ScalarValue::Int64(Some(1))];
        assert!(grouped.with(&Operation::Among { column: 1, values: &values }).is_err());
    }
}
