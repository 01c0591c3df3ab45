//! What a message holds, for columns: by the number of the field, whatever both schemas call it. Numbers of one kind for
//! another, text for bytes and one value for a list are taken as Protobuf takes them, where nothing is lost.

use std::borrow::Cow;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};

use super::super::datum::{Budget, Datum, Unsound};
use super::table::{Member, Scalar, Shape};

/// Converts the fields of one record.
pub(crate) struct Converter {
    pub budget: Budget,
    /// Whether all of the column in hand has fitted so far.
    pub fits: bool,
}

impl Converter {
    /// A field of a message.
    pub fn member(&mut self, message: &DynamicMessage, member: &Member) -> Result<Datum<'static>, Unsound> {
        let field = message.descriptor().get_field(member.number);
        let Some(field) = field.filter(|field| !field.supports_presence() || message.has_field(field)) else {
            self.budget.spend(member.absent.places())?;
            return Ok(member.absent.clone());
        };
        let value = message.get_field(&field);
        match (&member.shape, value.as_ref()) {
            (Shape::List(shape), Value::List(items)) => {
                let items = items.iter().map(|item| self.value(item, &field, shape));
                Ok(Datum::List(items.collect::<Result<_, _>>()?))
            }
            (Shape::Map(key, shape), Value::Map(entries)) => self.map(entries, &field, key, shape),
            (Shape::List(_), Value::Map(_)) | (Shape::Map(..), _) => Ok(self.misfit()),
            // One value where a list is wanted: where there is always a value, none was written if it is the default.
            (Shape::List(shape), single) => {
                let is_written = field.supports_presence() || message.has_field(&field);
                let items = if is_written { vec![self.value(single, &field, shape)?] } else { Vec::new() };
                Ok(Datum::List(items))
            }
            // A list where one value is wanted: the last counts.
            (shape, Value::List(items)) => match items.last() {
                Some(last) => self.value(last, &field, shape),
                None => Ok(member.absent.clone()),
            },
            (shape, value) => self.value(value, &field, shape),
        }
    }

    fn map(
        &mut self,
        entries: &std::collections::HashMap<MapKey, Value>,
        field: &FieldDescriptor,
        key_shape: &Shape,
        value_shape: &Shape,
    ) -> Result<Datum<'static>, Unsound> {
        let Kind::Message(entry) = field.kind() else { return Ok(self.misfit()) };
        let (key_field, value_field) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        // A map has no order: the same rows come in the same one.
        let mut sorted: Vec<_> = entries.iter().collect();
        sorted.sort_unstable_by_key(|(key, _)| *key);
        let mut converted = Vec::with_capacity(sorted.len());
        for (key, value) in sorted {
            let key = self.value(&Value::from(key.clone()), &key_field, key_shape)?;
            converted.push((key, self.value(value, &value_field, value_shape)?));
        }
        Ok(if self.fits { Datum::Map(converted) } else { Datum::Null })
    }

    fn value(&mut self, value: &Value, field: &FieldDescriptor, shape: &Shape) -> Result<Datum<'static>, Unsound> {
        self.budget.spend(1)?;
        let datum = match (shape, value) {
            (Shape::Scalar(to), value) => scalar(value, *to),
            (Shape::Enum(of), value) => number(value).and_then(|number| i32::try_from(number).ok()).map(|number| {
                let written = |kind: Kind| match kind {
                    Kind::Enum(of) => of.get_value(number).map(|value| value.name().to_string()),
                    _ => None,
                };
                let name = of.get_value(number).map(|value| value.name().to_string());
                let name = name.or_else(|| written(field.kind())).unwrap_or_else(|| number.to_string());
                Datum::Text(name.into())
            }),
            (Shape::Message(members), Value::Message(message)) => {
                let members = members.iter().map(|member| self.member(message, member));
                Some(Datum::Struct(members.collect::<Result<_, _>>()?))
            }
            (Shape::Timestamp, Value::Message(message)) => timestamp(message),
            (Shape::Duration, Value::Message(message)) => duration(message),
            (Shape::Wrapped(to), Value::Message(message)) => {
                message.get_field_by_number(1).and_then(|inside| scalar(inside.as_ref(), *to))
            }
            (Shape::Json, Value::Message(message)) => {
                json(message).and_then(|json| Some(Datum::Text(serde_json::to_string(&json).ok()?.into())))
            }
            _ => None,
        };
        Ok(datum.unwrap_or_else(|| self.misfit()))
    }

    fn misfit(&mut self) -> Datum<'static> {
        self.fits = false;
        Datum::Null
    }
}

/// A whole number, be it written as a number, a truth or a member of an enum.
fn number(value: &Value) -> Option<i128> {
    Some(match value {
        Value::Bool(value) => i128::from(*value),
        Value::I32(value) | Value::EnumNumber(value) => i128::from(*value),
        Value::I64(value) => i128::from(*value),
        Value::U32(value) => i128::from(*value),
        Value::U64(value) => i128::from(*value),
        _ => return None,
    })
}

/// A simple value; `None` where it does not fit.
pub(crate) fn scalar(value: &Value, to: Scalar) -> Option<Datum<'static>> {
    Some(match (to, value) {
        (Scalar::Boolean, value) => Datum::Boolean(number(value)? != 0),
        (Scalar::I32, value) => Datum::Int(i64::from(i32::try_from(number(value)?).ok()?)),
        (Scalar::I64, value) => Datum::Int(i64::try_from(number(value)?).ok()?),
        (Scalar::U32, value) => Datum::Unsigned(u64::from(u32::try_from(number(value)?).ok()?)),
        (Scalar::U64, value) => Datum::Unsigned(u64::try_from(number(value)?).ok()?),
        (Scalar::Float, Value::F32(value)) => Datum::Real(*value),
        (Scalar::Double, Value::F64(value)) => Datum::Double(*value),
        (Scalar::Double, Value::F32(value)) => Datum::Double(f64::from(*value)),
        (Scalar::Text, Value::String(text)) => Datum::Text(Cow::Owned(text.clone())),
        (Scalar::Text, Value::Bytes(bytes)) => Datum::Text(Cow::Owned(String::from_utf8(bytes.to_vec()).ok()?)),
        (Scalar::Bytes, Value::Bytes(bytes)) => Datum::Bytes(Cow::Owned(bytes.to_vec())),
        (Scalar::Bytes, Value::String(text)) => Datum::Bytes(Cow::Owned(text.clone().into_bytes())),
        _ => return None,
    })
}

/// Seconds and nanoseconds of a Timestamp or a Duration.
fn seconds(message: &DynamicMessage) -> Option<(i64, i32)> {
    let seconds = message.get_field_by_number(1)?.as_i64()?;
    let nanoseconds = message.get_field_by_number(2)?.as_i32()?;
    (nanoseconds.unsigned_abs() < 1_000_000_000).then_some((seconds, nanoseconds))
}

fn timestamp(message: &DynamicMessage) -> Option<Datum<'static>> {
    let (seconds, nanoseconds) = seconds(message).filter(|(_, nanoseconds)| *nanoseconds >= 0)?;
    Some(Datum::Int(seconds.checked_mul(1_000_000)?.checked_add(i64::from(nanoseconds / 1000))?))
}

fn duration(message: &DynamicMessage) -> Option<Datum<'static>> {
    let (seconds, nanoseconds) = seconds(message)?;
    let nanoseconds = seconds.checked_mul(1_000_000_000)?.checked_add(i64::from(nanoseconds))?;
    Some(Datum::Interval { months: 0, days: 0, nanoseconds })
}

/// A Struct, a Value or a ListValue. It is as deep as the decoder lets it be.
fn json(message: &DynamicMessage) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Struct" => {
            let fields = message.get_field_by_number(1)?;
            let member =
                |(key, value): (&MapKey, &Value)| Some((key.as_str()?.to_string(), json(value.as_message()?)?));
            fields.as_map()?.iter().map(member).collect::<Option<_>>().map(Json::Object)
        }
        "google.protobuf.ListValue" => {
            let items = message.get_field_by_number(1)?;
            items.as_list()?.iter().map(|item| json(item.as_message()?)).collect::<Option<_>>().map(Json::Array)
        }
        "google.protobuf.Value" => {
            // A Value of nothing is none of JSON's; it is shown as null.
            let Some((_, value)) = message.fields().next() else { return Some(Json::Null) };
            Some(match value {
                Value::EnumNumber(_) => Json::Null,
                Value::F64(number) => Json::Number(serde_json::Number::from_f64(*number)?),
                Value::String(text) => Json::String(text.clone()),
                Value::Bool(truth) => Json::Bool(*truth),
                Value::Message(message) => json(message)?,
                _ => return None,
            })
        }
        _ => None,
    }
}
