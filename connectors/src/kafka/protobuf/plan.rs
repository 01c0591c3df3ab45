//! Values of one schema into columns of a table.

use std::sync::Arc;

use prost_reflect::DynamicMessage;

use super::super::avro::zigzag;
use super::super::datum::{Budget, Datum, Unsound};
use super::convert::Converter;
use super::messages::Messages;
use super::table::{Member, ProtobufTable};

/// A message within messages is named by at most so many indexes.
const MOST_INDEXES: usize = 64;

/// How the values of one schema become columns.
pub(crate) struct Plan {
    /// The schema's.
    id: u32,
    messages: Arc<Messages>,
    /// The full name of the table's message.
    message: String,
    /// In the order of the columns.
    wanted: Vec<Member>,
}

impl Plan {
    /// The plan for some columns of a table, in this order.
    pub fn new(id: u32, messages: &Arc<Messages>, table: &ProtobufTable, wanted: &[usize]) -> Self {
        let wanted = wanted.iter().filter_map(|index| table.members.get(*index)).cloned().collect();
        Self { id, messages: Arc::clone(messages), message: table.message.clone(), wanted }
    }

    /// The columns of a value; `None` for one that does not fit.
    ///
    /// Errors: the value as a whole is none of this schema, or another of its messages.
    pub fn decode(&self, value: &[u8]) -> Result<Vec<Option<Datum<'static>>>, Unsound> {
        let budget = Budget::of(value, 1)?;
        let (indexes, body) = indexes(value).ok_or(Unsound::Frame)?;
        let descriptor = self.messages.at(&indexes).ok_or(Unsound::Frame)?;
        if descriptor.full_name() != self.message {
            return Err(Unsound::OtherMessage(self.id));
        }
        let message = DynamicMessage::decode(descriptor, body).map_err(|_| Unsound::Format)?;
        let mut converter = Converter { budget, fits: true };
        let mut columns = Vec::with_capacity(self.wanted.len());
        for member in &self.wanted {
            converter.fits = true;
            let datum = converter.member(&message, member)?;
            columns.push(converter.fits.then_some(datum));
        }
        Ok(columns)
    }
}

/// Which message it is, and what is behind that: how many indexes, and the indexes. No index at all is the first message.
fn indexes(value: &[u8]) -> Option<(Vec<usize>, &[u8])> {
    let (count, mut rest) = zigzag(value)?;
    if count == 0 {
        return Some((vec![0], rest));
    }
    let count = usize::try_from(count).ok().filter(|count| *count <= MOST_INDEXES)?;
    let mut found = Vec::with_capacity(count);
    for _ in 0..count {
        let (index, behind) = zigzag(rest)?;
        found.push(usize::try_from(index).ok()?);
        rest = behind;
    }
    Some((found, rest))
}

#[cfg(test)]
mod tests {
    use super::super::super::registry::Definition;
    use super::*;

    #[test]
    fn messages_are_named_by_indexes() {
        assert_eq!(indexes(&[0, 9]), Some((vec![0], &[9][..])));
        assert_eq!(indexes(&[4, 2, 0, 9]), Some((vec![1, 0], &[9][..])));
        for wrong in [&[][..], &[2], &[1], &[2, 1], &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            assert_eq!(indexes(wrong), None, "{wrong:?}");
        }
    }

    fn definition(body: &str) -> Definition {
        Definition { text: format!("syntax = \"proto3\"; {body}"), ..Definition::default() }
    }

    /// All columns of what `writer` wrote.
    fn read(writer: &str, reader: &str, value: &[u8]) -> Result<Vec<Option<Datum<'static>>>, Unsound> {
        let table = ProtobufTable::new(&definition(reader)).unwrap();
        let messages = Arc::new(Messages::new(&definition(writer)).unwrap());
        let all: Vec<usize> = (0..table.columns.len()).collect();
        Plan::new(7, &messages, &table, &all).decode(value)
    }

    #[test]
    fn fields_are_found_by_number() {
        let writer = "message M { sint32 a = 1; string gone = 2; repeated int32 n = 3; bool yes = 5; }";
        let reader =
            "message M { int64 renamed = 1; int32 n = 3; optional string more = 4; uint32 yes = 5; bool none = 6; }";
        // a = -1, gone = "x", n = [7, 8], yes = true
        let value = [0, 8, 1, 0x12, 1, b'x', 0x1a, 2, 7, 8, 0x28, 1];
        let expected = [Datum::Int(-1), Datum::Int(8), Datum::Null, Datum::Unsigned(1), Datum::Boolean(false)];
        assert_eq!(read(writer, reader, &value), Ok(expected.map(Some).into()));
        assert_eq!(read(writer, "message Other { int32 a = 1; }", &value), Err(Unsound::OtherMessage(7)));
        let narrow =
            read("message M { int64 a = 1; }", "message M { uint32 a = 1; }", &[0, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
        assert_eq!(narrow, Ok(vec![None]), "what is too large does not fit");
        assert_eq!(read(writer, reader, &[0, 8]), Err(Unsound::Format));
        assert_eq!(read(writer, reader, &[2, 9, 8]), Err(Unsound::Frame), "no such message");
    }

    #[test]
    fn what_recurs_is_bounded() {
        let writer = "message M { M m = 1; int32 a = 2; }";
        let reader = "message M { int32 a = 2; }";
        // Each is a message of all that follows.
        let mut value = vec![0x10, 5];
        for _ in 0..50 {
            value = [vec![0x0a, u8::try_from(value.len()).unwrap_or(0x7f)], value].concat();
        }
        assert_eq!(read(writer, reader, &[vec![0], value].concat()), Ok(vec![Some(Datum::Int(0))]));
        let mut deep = Vec::new();
        for _ in 0..2000 {
            let mut around = vec![0x0a];
            prost::encoding::encode_varint(deep.len() as u64, &mut around);
            around.extend_from_slice(&deep);
            deep = around;
        }
        assert_eq!(read(writer, reader, &[vec![0], deep].concat()), Err(Unsound::Format));
    }
}
