//! Defaults of a reader's fields: JSON as Avro has it, as values of columns.

use serde_json::Value;

use super::super::datum::{Datum, Misfit};
use super::leaf::{Raw, Target, Written};
use super::schema::{Body, Field, Schema, Shape, Type};

/// The value of a field that was not written; `None` where it has no default, or one that is none of its type.
pub(crate) fn default(schema: &Schema, field: &Field) -> Option<Datum<'static>> {
    value(schema, &field.schema, field.default.as_ref()?).ok()
}

fn value(schema: &Schema, of: &Type, json: &Value) -> Result<Datum<'static>, Misfit> {
    match &of.shape {
        Shape::Array(items) => {
            let all = json.as_array().ok_or(Misfit)?.iter().map(|item| value(schema, items, item));
            Ok(Datum::List(all.collect::<Result<_, _>>()?))
        }
        Shape::Map(values) => {
            let entry =
                |(key, item): (&String, &Value)| Ok((Datum::Text(key.clone().into()), value(schema, values, item)?));
            Ok(Datum::Map(json.as_object().ok_or(Misfit)?.iter().map(entry).collect::<Result<_, _>>()?))
        }
        Shape::Union(union) => {
            // The first branch, says Avro before 1.12; any that it fits since.
            if json.is_null() && union.iter().any(|branch| branch.shape == Shape::Null) {
                return Ok(Datum::Null);
            }
            let branches = schema.branches(union);
            let fits =
                branches.iter().enumerate().find_map(|(at, (_, branch))| Some((at, value(schema, branch, json).ok()?)));
            let (at, value) = fits.ok_or(Misfit)?;
            Ok(if branches.len() == 1 { value } else { branch(at, branches.len(), value) })
        }
        Shape::Named(index) => match &schema.named(*index).ok_or(Misfit)?.body {
            Body::Record(fields) => {
                let object = json.as_object().ok_or(Misfit)?;
                let member = |field: &Field| match object.get(&field.name).or(field.default.as_ref()) {
                    Some(json) => value(schema, &field.schema, json),
                    None => Err(Misfit),
                };
                Ok(Datum::Struct(fields.iter().map(member).collect::<Result<_, _>>()?))
            }
            Body::Enum { symbols, .. } => {
                let symbol =
                    json.as_str().filter(|symbol| symbols.iter().any(|known| known == symbol)).ok_or(Misfit)?;
                Ok(Datum::Text(symbol.to_string().into()))
            }
            Body::Fixed(_) => leaf(schema, of, json),
            Body::Open => Err(Misfit),
        },
        _ => leaf(schema, of, json),
    }
}

fn leaf(schema: &Schema, of: &Type, json: &Value) -> Result<Datum<'static>, Misfit> {
    let target = Target::of((schema, of), (schema, of)).ok_or(Misfit)?;
    let bytes: Vec<u8>;
    let raw = match (Written::of(schema, of).ok_or(Misfit)?, json) {
        (Written::Null, Value::Null) => Raw::Null,
        (Written::Boolean, Value::Bool(value)) => Raw::Boolean(*value),
        (Written::Int, value) => Raw::Int(value.as_i64().filter(|value| i32::try_from(*value).is_ok()).ok_or(Misfit)?),
        (Written::Long, value) => Raw::Int(value.as_i64().ok_or(Misfit)?),
        (Written::Float, value) => Raw::Float(value.as_f64().ok_or(Misfit)? as f32),
        (Written::Double, value) => Raw::Double(value.as_f64().ok_or(Misfit)?),
        (Written::String, Value::String(text)) => Raw::Bytes(text.as_bytes()),
        // A character is a byte.
        (Written::Bytes, Value::String(text)) => {
            bytes = latin(text)?;
            Raw::Bytes(&bytes)
        }
        (Written::Fixed(size), Value::String(text)) => {
            bytes = latin(text).and_then(|bytes| if bytes.len() == size { Ok(bytes) } else { Err(Misfit) })?;
            Raw::Bytes(&bytes)
        }
        _ => return Err(Misfit),
    };
    target.take(raw).map(Datum::into_owned)
}

fn latin(text: &str) -> Result<Vec<u8>, Misfit> {
    text.chars().map(|letter| u8::try_from(u32::from(letter)).map_err(|_| Misfit)).collect()
}

/// A value as the branch that it is, of a union shown as one member a branch.
pub(crate) fn branch(at: usize, of: usize, value: Datum<'_>) -> Datum<'_> {
    let mut members = vec![Datum::Null; of];
    if let Some(member) = members.get_mut(at) {
        *member = value;
    }
    Datum::Struct(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, json: &str) -> Option<Datum<'static>> {
        let text = format!(
            r#"{{"type": "record", "name": "R", "fields": [{{"name": "a", "type": {kind}, "default": {json}}}]}}"#
        );
        let schema = Schema::parse(&text, []).unwrap();
        default(&schema, &schema.fields(&schema.root)?[0])
    }

    #[test]
    fn defaults_are_values_of_their_types() {
        let bytes = |bytes: &[u8]| Some(Datum::Bytes(bytes.to_vec().into()));
        let text = |text: &str| Datum::Text(text.to_string().into());
        for (kind, json, expected) in [
            (r#""int""#, "7", Some(Datum::Int(7))),
            (r#""int""#, "2147483648", None),
            (r#""int""#, "\"7\"", None),
            (r#""double""#, "1", Some(Datum::Double(1.0))),
            (r#""bytes""#, r#""\u0000\u00ff""#, bytes(&[0, 255])),
            (r#""bytes""#, r#""\u0100""#, None),
            (r#"{"type": "fixed", "name": "F", "size": 2}"#, r#""\u00ff""#, None),
            (r#"["null", "int"]"#, "null", Some(Datum::Null)),
            (r#"["string", "null"]"#, "\"x\"", Some(text("x"))),
            (r#"["null", "string", "int"]"#, "5", Some(Datum::Struct(vec![Datum::Null, Datum::Int(5)]))),
            (r#"{"type": "array", "items": "string"}"#, r#"["x"]"#, Some(Datum::List(vec![text("x")]))),
            (r#"{"type": "map", "values": "int"}"#, r#"{"k": 1}"#, Some(Datum::Map(vec![(text("k"), Datum::Int(1))]))),
            (r#"{"type": "enum", "name": "E", "symbols": ["A"]}"#, "\"A\"", Some(text("A"))),
            (r#"{"type": "enum", "name": "E", "symbols": ["A"]}"#, "\"B\"", None),
            (
                r#"{"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}"#,
                r#""\u0001\u0000""#,
                Some(Datum::Decimal(256)),
            ),
            (
                r#"{"type": "record", "name": "S", "fields": [{"name": "x", "type": "int", "default": 3}, {"name": "y", "type": "long"}]}"#,
                r#"{"y": 4}"#,
                Some(Datum::Struct(vec![Datum::Int(3), Datum::Int(4)])),
            ),
        ] {
            assert_eq!(of(kind, json), expected, "{kind} {json}");
        }
    }
}
