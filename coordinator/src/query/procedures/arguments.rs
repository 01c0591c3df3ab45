//! Arguments of a call: constant expressions, by position or by name, each of the type of its parameter.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytesize::ByteSize;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue, plan_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, ExprWithAlias};
use townlake_common::{Error, ErrorCode, Result, nearest};

use super::list::{Kind, Parameter, Procedure};
use crate::query::parse::{expect_end, parse_error, parse_name, parser};
use crate::query::statement::Name;
use crate::query::time_travel::parse_time;
use crate::query::tokens::tokens_of_one_statement;

/// An argument as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct CallArgument {
    /// `name => …`.
    pub name: Option<String>,
    /// A constant expression.
    pub value: SqlExpr,
}

/// The values of a call, by the names of their parameters. An argument that is NULL is none.
#[derive(Debug, Default)]
pub(super) struct Arguments(BTreeMap<&'static str, Value>);

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// Milliseconds since the epoch.
    Time(i64),
}

impl Arguments {
    /// The arguments of this procedure's call, computed in `state`.
    ///
    /// Errors: `INVALID_ARGUMENT` naming the parameter that is missing, given twice or of another type, or the argument that
    /// there is none for.
    pub fn bind(procedure: &'static Procedure, given: &[CallArgument], state: &SessionState) -> Result<Self> {
        let mut bound = Self::default();
        let mut named = false;
        for (position, argument) in given.iter().enumerate() {
            let parameter = match &argument.name {
                Some(name) => {
                    named = true;
                    procedure.parameter(name)?
                }
                None if named => {
                    let message = format!("{}: an argument without a name follows one with a name", procedure.name);
                    return Err(Error::new(ErrorCode::InvalidArgument, message));
                }
                None => procedure.parameters.get(position).ok_or_else(|| procedure.wrong("has too many arguments"))?,
            };
            if let Some(value) = value_of(parameter, &argument.value, state)?
                && bound.0.insert(parameter.name, value).is_some()
            {
                return Err(procedure.wrong(&format!("has the argument {} twice", parameter.name)));
            }
        }
        match procedure.parameters.iter().find(|p| p.required && !bound.0.contains_key(p.name)) {
            Some(missing) => Err(procedure.wrong(&format!("needs the argument {}", missing.name))),
            None => Ok(bound),
        }
    }

    /// A text that is required.
    pub fn text(&self, name: &str) -> Result<String> {
        self.optional_text(name).ok_or_else(|| Error::internal(format!("the argument {name} is not a text")))
    }

    pub fn optional_text(&self, name: &str) -> Option<String> {
        match self.0.get(name) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    pub fn integer(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(Value::Integer(number)) => Some(*number),
            _ => None,
        }
    }

    /// Milliseconds since the epoch.
    pub fn time(&self, name: &str) -> Option<i64> {
        match self.0.get(name) {
            Some(Value::Time(time)) => Some(*time),
            _ => None,
        }
    }

    pub fn boolean(&self, name: &str) -> Option<bool> {
        match self.0.get(name) {
            Some(Value::Boolean(value)) => Some(*value),
            _ => None,
        }
    }

    /// Bytes, above zero.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        match self.integer(name).map(u64::try_from) {
            None => Ok(None),
            Some(Ok(bytes)) if bytes > 0 => Ok(Some(bytes)),
            Some(_) => Err(Error::new(ErrorCode::InvalidArgument, format!("{name} must be above zero"))),
        }
    }

    /// A count, above zero.
    pub fn count(&self, name: &str) -> Result<Option<usize>> {
        let bytes = self.size(name)?;
        Ok(bytes.map(|count| usize::try_from(count).unwrap_or(usize::MAX)))
    }

    /// A name of one to three parts.
    pub fn name(&self, name: &str) -> Result<Name> {
        let text = self.text(name)?;
        let parsed = || -> Result<Name> {
            let tokens = tokens_of_one_statement(&text)?;
            let mut parser = parser(&tokens);
            let parsed = parse_name(&mut parser).map_err(|error| parse_error(&tokens, &parser, error))?;
            expect_end(&tokens, &mut parser)?;
            Ok(parsed)
        };
        parsed().map_err(|error| {
            let message = format!("{name}: '{text}' is not a name");
            Error::new(ErrorCode::InvalidArgument, message).with_hint("write 'schema.table'").with_source(error)
        })
    }
}

impl Procedure {
    fn wrong(&self, what: &str) -> Error {
        let parameters = self.parameters.iter().map(|parameter| match parameter.required {
            true => parameter.name.to_string(),
            false => format!("[{}]", parameter.name),
        });
        let usage = format!("{}({})", self.name, parameters.collect::<Vec<_>>().join(", "));
        Error::new(ErrorCode::InvalidArgument, format!("{} {what}", self.name)).with_hint(usage)
    }

    fn parameter(&self, name: &str) -> Result<&Parameter> {
        let known = self.parameters.iter().find(|parameter| parameter.name == name);
        known.ok_or_else(|| {
            let error = self.wrong(&format!("has no argument {name}"));
            match nearest(name, self.parameters.iter().map(|parameter| parameter.name)) {
                Some(near) => error.with_hint(format!("did you mean {near}?")),
                None => error,
            }
        })
    }
}

/// The value of an argument; `None` for NULL.
fn value_of(parameter: &Parameter, value: &SqlExpr, state: &SessionState) -> Result<Option<Value>> {
    let name = parameter.name;
    let computed = compute(value, state).map_err(|error| {
        let message = format!("{name}: {value} is not a constant");
        Error::new(ErrorCode::InvalidArgument, message).with_source(error)
    })?;
    if computed.is_null() {
        return Ok(None);
    }
    let text = match &computed {
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
            Some(text.clone())
        }
        _ => None,
    };
    let typed = match (parameter.kind, text) {
        (Kind::Text, text) => text.map(Value::Text),
        (Kind::Time, Some(text)) => Some(Value::Time(parse_time(name, &text)?)),
        (Kind::Time, None) => millis(&computed).map(Value::Time),
        (Kind::Size, Some(text)) => {
            let size = text.parse::<ByteSize>().ok().and_then(|size| i64::try_from(size.as_u64()).ok());
            size.map(Value::Integer)
        }
        (Kind::Size | Kind::Integer, None) if computed.data_type().is_integer() => integer(&computed),
        (Kind::Boolean, None) => match computed {
            ScalarValue::Boolean(Some(value)) => Some(Value::Boolean(value)),
            _ => None,
        },
        _ => None,
    };
    typed.map(Some).ok_or_else(|| {
        let wanted = match parameter.kind {
            Kind::Text => "a text in quotes",
            Kind::Size => "a size like '128MB' or a number of bytes",
            Kind::Integer => "a whole number",
            Kind::Boolean => "true or false",
            Kind::Time => "a time like TIMESTAMP '2026-01-31 12:00:00'",
        };
        Error::new(ErrorCode::InvalidArgument, format!("{name}: {value} is not {wanted}"))
    })
}

fn compute(value: &SqlExpr, state: &SessionState) -> std::result::Result<ScalarValue, DataFusionError> {
    let schema = DFSchema::empty();
    let expr = ExprWithAlias { expr: value.clone(), alias: None };
    let expr = state.create_logical_expr_from_sql_expr(expr, &schema)?;
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    let simplifier = ExprSimplifier::new(context);
    match simplifier.simplify(simplifier.coerce(expr, &schema)?)? {
        Expr::Literal(value, _) => Ok(value),
        other => plan_err!("{other} has no value before a query runs"),
    }
}

fn integer(value: &ScalarValue) -> Option<Value> {
    match value.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(Some(number))) => Some(Value::Integer(number)),
        _ => None,
    }
}

/// A time without a zone is UTC.
fn millis(value: &ScalarValue) -> Option<i64> {
    if !matches!(value.data_type(), DataType::Timestamp(..) | DataType::Date32) {
        return None;
    }
    match value.cast_to(&DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))) {
        Ok(ScalarValue::TimestampMillisecond(Some(time), _)) => Some(time),
        _ => None,
    }
}
