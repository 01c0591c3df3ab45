//! Columns that the first objects of a JSON file suggest.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use serde_json::value::RawValue;

use super::misfit::Misfit;
use super::numbers::double;
use crate::json_members::{Listed, members};

/// What is nested more deeply is text.
const DEEPEST: usize = 16;

/// What was seen of a value, in all objects.
#[derive(Debug, Default)]
enum Seen {
    #[default]
    Nothing,
    Boolean,
    /// Whether doubles keep all of them.
    Integer(bool),
    Double,
    List(Box<Seen>),
    Object(Members),
    /// Texts, or things that have nothing in common.
    Text,
}

/// The members of objects, in the order in which they were first seen.
#[derive(Debug, Default)]
struct Members {
    places: HashMap<String, usize>,
    seen: Vec<(String, Seen)>,
}

/// The columns of lines of JSON: the members of all objects, each of a type that holds what was seen of it.
///
/// Errors: the first line that is no object.
pub(crate) fn columns(sample: &[u8], most_rows: usize) -> Result<Schema, Misfit> {
    let mut all = Members::default();
    let lines = sample.split(|byte| *byte == b'\n').zip(1..).filter(|(text, _)| !text.trim_ascii().is_empty());
    for (text, line) in lines.take(most_rows) {
        all.note(object(text, line)?, 0);
    }
    Ok(Schema::new(all.fields()))
}

/// The members of the object that a line is.
pub(super) fn object(text: &[u8], line: u64) -> Result<Listed<'_>, Misfit> {
    let text = std::str::from_utf8(text).map_err(|_| Misfit::row(line, "no UTF-8"))?;
    members(text).ok_or_else(|| Misfit::row(line, "no JSON object"))
}

impl Members {
    fn note(&mut self, members: Listed<'_>, depth: usize) {
        for (name, text) in members {
            let place = match self.places.get(name.as_ref()) {
                Some(place) => *place,
                None => {
                    self.places.insert(name.to_string(), self.seen.len());
                    self.seen.push((name.into_owned(), Seen::Nothing));
                    self.seen.len() - 1
                }
            };
            self.seen[place].1.note(text, depth);
        }
    }

    fn fields(&self) -> Fields {
        self.seen.iter().map(|(name, seen)| Field::new(name, seen.data_type(), true)).collect()
    }
}

impl Seen {
    /// Notes a value, sound JSON.
    fn note(&mut self, text: &str, depth: usize) {
        let first = text.as_bytes().first().copied().unwrap_or_default();
        if matches!(first, b'[' | b'{') && depth >= DEEPEST {
            *self = Self::Text;
        }
        *self = match (std::mem::take(self), first) {
            (seen, b'n') => seen,
            (Self::Nothing | Self::Boolean, b't' | b'f') => Self::Boolean,
            (seen @ (Self::Nothing | Self::Integer(_) | Self::Double), b'-' | b'0'..=b'9') => seen.or_number(text),
            (Self::Nothing, b'[') => Self::Nothing.with_elements(text, depth),
            (Self::List(seen), b'[') => seen.with_elements(text, depth),
            (Self::Nothing, b'{') => Members::default().with(text, depth),
            (Self::Object(seen), b'{') => seen.with(text, depth),
            _ => Self::Text,
        };
    }

    fn or_number(self, text: &str) -> Self {
        // Longer whole numbers are text, which keeps their digits.
        let is_kept = double(text).is_some() && (text.contains(['.', 'e', 'E']) || text.parse::<i64>().is_ok());
        match (text.parse::<i64>().is_ok(), self) {
            (true, Self::Nothing) => Self::Integer(is_kept),
            (true, Self::Integer(all)) => Self::Integer(all && is_kept),
            (_, Self::Nothing | Self::Integer(true) | Self::Double) if is_kept => Self::Double,
            _ => Self::Text,
        }
    }

    /// The list whose elements were seen as this, with those of another.
    fn with_elements(mut self, text: &str, depth: usize) -> Self {
        let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(text) else { return Self::Text };
        elements.iter().for_each(|element| self.note(element.get(), depth + 1));
        Self::List(Box::new(self))
    }

    fn data_type(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::Integer(_) => DataType::Int64,
            Self::Double => DataType::Float64,
            Self::List(seen) => DataType::List(Arc::new(Field::new_list_field(seen.data_type(), true))),
            Self::Object(members) if !members.seen.is_empty() => DataType::Struct(members.fields()),
            Self::Nothing | Self::Object(_) | Self::Text => DataType::Utf8,
        }
    }
}

impl Members {
    fn with(mut self, text: &str, depth: usize) -> Seen {
        let Some(members) = members(text) else { return Seen::Text };
        self.note(members, depth + 1);
        Seen::Object(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(values: &[&str]) -> DataType {
        let lines: Vec<_> = values.iter().map(|value| format!("{{\"a\": {value}}}")).collect();
        columns(lines.join("\n").as_bytes(), 100).unwrap().field(0).data_type().clone()
    }

    #[test]
    fn a_type_holds_all_that_was_seen() {
        let list = |of| DataType::List(Arc::new(Field::new_list_field(of, true)));
        let row = |fields: &[(&str, DataType)]| {
            DataType::Struct(fields.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect())
        };
        for (values, expected) in [
            (&["1", "null", "-2"][..], DataType::Int64),
            (&["1", "0.5"], DataType::Float64),
            (&["9007199254740993", "0.5"], DataType::Utf8),
            (&["9223372036854775808"], DataType::Utf8),
            (&["1", "9223372036854775808"], DataType::Utf8),
            (&["true", "false"], DataType::Boolean),
            (&["1", "\"x\""], DataType::Utf8),
            (&["true", "1"], DataType::Utf8),
            (&["1", "{\"b\": 1}"], DataType::Utf8),
            (&["{\"b\": 1}", "1"], DataType::Utf8),
            (&["1", "[1]"], DataType::Utf8),
            (&["[1, 2, {\"y\": null}]"], list(DataType::Utf8)),
            (&["[]", "[[1], [2.5]]"], list(list(DataType::Float64))),
            (
                &["{\"z\": 1}", "{\"b\": [true], \"z\": 0.5}"],
                row(&[("z", DataType::Float64), ("b", list(DataType::Boolean))]),
            ),
            (&["{\"b\": 1}", "{\"b\": {\"c\": 1}}"], row(&[("b", DataType::Utf8)])),
            (&["null"], DataType::Utf8),
            (&["{}"], DataType::Utf8),
        ] {
            assert_eq!(learnt(values), expected, "{values:?}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let mut nested = (0..DEEPEST).fold(learnt(&[&deep]), |of, _| match of {
            DataType::List(field) => field.data_type().clone(),
            other => panic!("{other}"),
        });
        assert_eq!(nested, DataType::Utf8);
        nested = learnt(&[&deep, "1"]);
        assert_eq!(nested, DataType::Utf8);
    }

    #[test]
    fn the_line_that_is_no_object_is_named() {
        for (text, expected) in [
            (&b"{\"a\": 1}\n\n[1]"[..], "line 3: no JSON object"),
            (b"{\"a\": 1} x", "line 1: no JSON object"),
            (b"{\"a\": 1}\n{\"a\": \"\xff\"}\n", "line 2: no UTF-8"),
        ] {
            assert_eq!(columns(text, 100).unwrap_err().to_string(), expected);
        }
        assert_eq!(columns(b"\n \n", 100).unwrap().fields().len(), 0);
    }
}
