//! Lines of JSON as they come: each is checked against the columns, and handed to Arrow's decoder with what is to be text as text.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::json::ReaderBuilder;
use arrow::json::reader::Decoder;
use serde_json::value::RawValue;
use townlake_common::{Error, Result};

use super::json_types::object;
use super::misfit::{BATCH_BYTES, LONGEST_ROW, Misfit};
use super::numbers::double;
use crate::json_members::members;

/// Decodes text that comes in pieces.
pub(crate) struct JsonRows {
    schema: SchemaRef,
    decoder: Decoder,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    line: u64,
    /// The rows so far, in the types of the columns.
    fitted: Vec<u8>,
    rows: usize,
    most_rows: usize,
}

impl JsonRows {
    /// Batches of these columns, of at most so many rows.
    ///
    /// Errors: `INTERNAL` for a type that no JSON has.
    pub fn new(schema: SchemaRef, most_rows: usize) -> Result<Self> {
        let decoder = ReaderBuilder::new(SchemaRef::clone(&schema)).with_batch_size(most_rows + 1).build_decoder();
        let decoder = decoder.map_err(|error| Error::internal("a column of JSON").with_source(error))?;
        Ok(Self { schema, decoder, partial: Vec::new(), line: 0, fitted: Vec::new(), rows: 0, most_rows })
    }

    /// Takes bytes, none of them at the end of the file; returns how many were taken: 0 where the batch is full, or at the end.
    pub fn decode(&mut self, input: &[u8]) -> Result<usize, Misfit> {
        if input.is_empty() && !self.partial.is_empty() {
            let last = std::mem::take(&mut self.partial);
            self.line_ends(&last)?;
        }
        let mut at = 0;
        while at < input.len() && self.rows < self.most_rows && self.fitted.len() < BATCH_BYTES {
            let rest = &input[at..];
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                if self.partial.len() + rest.len() > LONGEST_ROW {
                    return Err(Misfit::too_long(self.line + 1));
                }
                self.partial.extend_from_slice(rest);
                return Ok(input.len());
            };
            at += end + 1;
            if self.partial.is_empty() {
                self.line_ends(&rest[..end])?;
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(&rest[..end]);
                self.line_ends(&line)?;
            }
        }
        Ok(at)
    }

    /// The rows so far; `None` where there are none.
    pub fn flush(&mut self) -> Result<Option<RecordBatch>, Misfit> {
        let last = self.line;
        let unread = |_| Misfit::row(last, "no JSON that is read, here or in a line before");
        let fitted = std::mem::take(&mut self.fitted);
        self.rows = 0;
        // Its batches are larger than ours: it takes all.
        self.decoder.decode(&fitted).map_err(unread)?;
        self.decoder.flush().map_err(unread)
    }

    fn line_ends(&mut self, text: &[u8]) -> Result<(), Misfit> {
        self.line += 1;
        if text.trim_ascii().is_empty() {
            return Ok(());
        }
        let columns = object(text, self.line)?;
        self.rows += 1;
        self.fitted.push(b'{');
        for (name, value) in columns {
            let Some((_, field)) = self.schema.column_with_name(&name) else { continue };
            begin_member(&mut self.fitted, &name);
            if !fit(value, field.data_type(), &mut self.fitted) {
                return Err(Misfit::value(self.line, field.name(), field.data_type()));
            }
        }
        self.fitted.extend_from_slice(b"}\n");
        Ok(())
    }
}

fn begin_member(fitted: &mut Vec<u8>, name: &str) {
    separate(fitted);
    push_text(fitted, name);
    fitted.push(b':');
}

fn separate(fitted: &mut Vec<u8>) {
    if !matches!(fitted.last(), Some(b'{' | b'[')) {
        fitted.push(b',');
    }
}

fn push_text(fitted: &mut Vec<u8>, text: &str) {
    fitted.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

/// Appends a value, sound JSON, as one of the type: what is no text, and is to be one, as the text that stands there. Whether it is one.
fn fit(value: &str, data_type: &DataType, fitted: &mut Vec<u8>) -> bool {
    // Numbers in quotes are read, too.
    let number = value.trim_matches('"');
    let as_it_is = match (data_type, value.as_bytes().first()) {
        (_, Some(b'n')) | (DataType::Utf8, Some(b'"')) | (DataType::Boolean, Some(b't' | b'f')) => true,
        (DataType::Utf8, _) => {
            push_text(fitted, value);
            return true;
        }
        (DataType::Int64, Some(b'-' | b'0'..=b'9' | b'"')) => number.parse::<i64>().is_ok(),
        (DataType::Float64, Some(b'-' | b'0'..=b'9' | b'"')) => double(number).is_some(),
        (DataType::List(of), Some(b'[')) => {
            let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(value) else { return false };
            fitted.push(b'[');
            let all = elements.iter().all(|element| {
                separate(fitted);
                fit(element.get(), of.data_type(), fitted)
            });
            fitted.push(b']');
            return all;
        }
        (DataType::Struct(fields), Some(b'{')) => {
            let Some(members) = members(value) else { return false };
            fitted.push(b'{');
            let all = members.iter().all(|(name, value)| {
                let Some((_, field)) = fields.find(name) else { return true };
                begin_member(fitted, name);
                fit(value, field.data_type(), fitted)
            });
            fitted.push(b'}');
            return all;
        }
        _ => false,
    };
    fitted.extend_from_slice(value.as_bytes());
    as_it_is
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};
    use arrow::util::pretty::pretty_format_batches;

    use super::super::json_types::columns;
    use super::*;

    /// All rows, the text given in pieces of so many bytes.
    fn rows(schema: &SchemaRef, text: &str, piece: usize, most: usize) -> Result<Vec<String>, Misfit> {
        let mut rows = JsonRows::new(Arc::clone(schema), most).unwrap();
        let (mut found, mut left) = (Vec::new(), text.as_bytes());
        loop {
            let taken = rows.decode(&left[..piece.min(left.len())])?;
            left = &left[taken..];
            if taken > 0 {
                continue;
            }
            let Some(batch) = rows.flush()? else { return Ok(found) };
            let text = pretty_format_batches(&[batch]).unwrap().to_string();
            let cells = |line: &str| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" ");
            found.extend(text.lines().skip(3).filter(|line| line.starts_with('|')).map(cells));
        }
    }

    #[test]
    fn mixed_values_are_the_text_of_their_json() {
        let text = "{\"a\": 1, \"l\": [1, {\"y\": null}, null]}\n\n{\"a\": \"x\\ny\", \"l\": null}\r\n{\"a\": {\"b\": [1.50]}}\n\
                    {\"l\": [\"z\"], \"a\": 9223372036854775808}\n{\"a\": null}";
        let schema = Arc::new(columns(text.as_bytes(), 100).unwrap());
        let expected = [r#"1 [1, {"y": null}, ]"#, "x ", "y ", r#"{"b": [1.50]} "#, "9223372036854775808 [z]", " "];
        for piece in [1, 3, 1000] {
            for most in [1, 2, 100] {
                assert_eq!(rows(&schema, text, piece, most).unwrap(), expected, "{piece} {most}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_found_on_its_line() {
        let inner = DataType::Struct([Arc::new(Field::new("b", DataType::Int64, true))].into_iter().collect());
        let fields = [("i", DataType::Int64), ("d", DataType::Float64), ("o", inner), ("t", DataType::Boolean)];
        let fields = fields.map(|(name, of)| Field::new(name, of, true)).to_vec();
        let schema = Arc::new(Schema::new(fields));
        for (line, expected) in [
            ("{\"i\": 1.5}", "line 3, column i: no bigint"),
            ("{\"i\": 9223372036854775808}", "line 3, column i: no bigint"),
            ("{\"i\": true}", "line 3, column i: no bigint"),
            ("{\"d\": 9007199254740993}", "line 3, column d: no double that keeps its digits"),
            ("{\"o\": {\"b\": \"x\"}}", "line 3, column o: no object"),
            ("{\"o\": [1]}", "line 3, column o: no object"),
            ("{\"t\": \"true\"}", "line 3, column t: no boolean"),
            ("{\"t\": ", "line 3: no JSON object"),
            ("[1]", "line 3: no JSON object"),
        ] {
            let text = format!("{{\"i\": 1}}\n\n{line}\n");
            assert_eq!(rows(&schema, &text, 5, 100).unwrap_err().to_string(), expected, "{line}");
        }
        let sound = "{\"i\": \"7\", \"d\": 1, \"o\": {\"c\": 1}, \"t\": true, \"x\": [1]}";
        assert_eq!(rows(&schema, sound, 5, 100).unwrap(), ["7 1.0 {b: } true"]);
        let none = Arc::new(Schema::empty());
        let mut counted = JsonRows::new(none, 10).unwrap();
        counted.decode(b"{\"i\": 1}\n{}\n").unwrap();
        assert_eq!(counted.flush().unwrap().unwrap().num_rows(), 2);
    }
}
