//! Numbers that a DOUBLE cannot hold are decimals: `9999999999999999.99` means itself.
//!
//! DataFusion makes floating point of every number that is no integer of 64 bits, or decimals of all. With the latter a column of
//! floating point beside `0.5` is computed in decimals, where large values do not fit. So only numbers of more digits than floating point
//! keeps are decimals, and in `VALUES` the others of their column with them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, ExactNumberInfo, Expr, Query, SetExpr, UnaryOperator, Value, VisitMut, VisitorMut,
};

/// The significant digits of which a DOUBLE keeps all.
const DIGITS_OF_DOUBLE: usize = 15;
/// The digits of the widest decimal.
const DIGITS_OF_DECIMAL: usize = 38;

/// Makes decimals of the numbers that need it.
pub(super) fn keep_exact(parsed: &mut impl VisitMut) {
    let _: ControlFlow<()> = parsed.visit(&mut KeepExact);
}

struct KeepExact;

impl VisitorMut for KeepExact {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if let SetExpr::Values(values) = query.body.as_mut() {
            let width = values.rows.first().map_or(0, |row| row.content.len());
            for column in 0..width {
                let mut numbers: Vec<_> =
                    values.rows.iter_mut().filter_map(|row| row.content.get_mut(column).and_then(number_of)).collect();
                if numbers.iter().any(|number| needs_decimal(number)) {
                    numbers.iter_mut().for_each(|number| as_decimal(number));
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if needs_decimal(expr) {
            as_decimal(expr);
        }
        ControlFlow::Continue(())
    }
}

/// The number in `5` and `-5`.
fn number_of(expr: &mut Expr) -> Option<&mut Expr> {
    match expr {
        Expr::UnaryOp { op: UnaryOperator::Minus | UnaryOperator::Plus, expr } => number_of(expr),
        Expr::Value(_) => Some(expr),
        _ => None,
    }
}

/// The digits of a plain number, without its separators.
fn digits(expr: &Expr) -> Option<String> {
    let Expr::Value(value) = expr else { return None };
    let Value::Number(digits, _) = &value.value else { return None };
    (!digits.contains(['e', 'E'])).then(|| digits.replace('_', ""))
}

fn needs_decimal(expr: &Expr) -> bool {
    let Some(digits) = digits(expr) else { return false };
    if digits.parse::<u64>().is_ok() {
        return false;
    }
    let significant = digits.trim_start_matches(['0', '.']).bytes().filter(u8::is_ascii_digit).count();
    (DIGITS_OF_DOUBLE + 1..=DIGITS_OF_DECIMAL).contains(&significant)
}

fn as_decimal(expr: &mut Expr) {
    let Some(digits) = digits(expr) else { return };
    let (whole, places) = digits.split_once('.').unwrap_or((&digits, ""));
    let scale = places.len();
    let precision = (whole.trim_start_matches('0').len() + scale).max(1);
    let (Ok(precision), Ok(scale)) = (u64::try_from(precision), i64::try_from(scale)) else { return };
    if precision > DIGITS_OF_DECIMAL as u64 {
        return;
    }
    if let Expr::Value(value) = expr {
        value.value = Value::SingleQuotedString(digits.clone());
        *expr = Expr::Cast {
            kind: CastKind::Cast,
            expr: Box::new(expr.clone()),
            data_type: DataType::Decimal(ExactNumberInfo::PrecisionAndScale(precision, scale)),
            array: false,
            format: None,
        };
    }
}

#[cfg(test)]
mod tests {
    use crate::query::parse::parse_ast;
    use crate::query::tokens::tokens_of_one_statement;

    #[test]
    fn long_numbers_become_decimals() {
        for (sql, wanted) in [
            ("SELECT 1.5, 1e300, 18446744073709551615, 0.000000000000000001", None),
            (
                "SELECT -9999999999999999.99, 18446744073709551616",
                Some(
                    "SELECT -CAST('9999999999999999.99' AS DECIMAL(18,2)), CAST('18446744073709551616' AS DECIMAL(20,0))",
                ),
            ),
            ("SELECT 0.1234567890123456", Some("SELECT CAST('0.1234567890123456' AS DECIMAL(16,16))")),
            (
                "INSERT INTO t VALUES (1, 0.10, 1.5), (2, -1234567890123456.78, 2)",
                Some(
                    "INSERT INTO t VALUES (1, CAST('0.10' AS DECIMAL(2,2)), 1.5), \
                     (2, -CAST('1234567890123456.78' AS DECIMAL(18,2)), 2)",
                ),
            ),
            ("SELECT 123456789012345678901234567890123456789.5", None),
        ] {
            let parsed = parse_ast(&tokens_of_one_statement(sql).unwrap()).unwrap().to_string();
            assert_eq!(parsed, wanted.unwrap_or(sql));
        }
    }
}
