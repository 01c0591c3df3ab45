//! Avro's binary encoding, by a plan.
//!
//! Nothing is taken for granted: no length is believed before the bytes are there, every item is paid from a budget (items may
//! take no bytes at all), and what is passed over is bounded in depth.

use super::super::datum::{Budget, Datum, Unsound};
use super::defaults::branch;
use super::leaf::{Raw, Target, Written};
use super::resolve::{Fields, Plan, Step};
use super::schema::{Body, Schema, Shape, Type};

/// What is passed over may be so deep: a schema may refer to itself.
const DEEPEST_PASSED: usize = 500;

/// The columns of one value, which the writer's schema describes; `None` for one that does not fit.
///
/// Errors: the value as a whole is none of this schema.
pub(crate) fn decode<'a>(
    plan: &'a Plan,
    writer: &Schema,
    value: &'a [u8],
    columns: usize,
    is_record: bool,
) -> Result<Vec<Option<Datum<'a>>>, Unsound> {
    let (budget, passing) = (Budget::of(value, 1)?, Budget::of(value, 4)?);
    let mut decoder = Decoder { bytes: value, writer, budget, passing, fits: true };
    let decoded = match is_record {
        true => decoder.columns(plan, columns)?,
        false => {
            let datum = decoder.value(plan)?;
            vec![decoder.fits.then_some(datum); columns]
        }
    };
    if decoder.bytes.is_empty() { Ok(decoded) } else { Err(Unsound::Format) }
}

struct Decoder<'a, 's> {
    bytes: &'a [u8],
    writer: &'s Schema,
    budget: Budget,
    /// What may still be passed over: that takes time, and no memory.
    passing: Budget,
    /// Whether all of the column in hand has fitted so far.
    fits: bool,
}

impl<'a> Decoder<'a, '_> {
    fn columns(&mut self, plan: &'a Plan, columns: usize) -> Result<Vec<Option<Datum<'a>>>, Unsound> {
        match plan {
            Plan::Union(branches) => {
                let plan = self.branch(branches)?;
                self.columns(plan, columns)
            }
            Plan::Record(fields) => {
                let mut decoded = vec![None; fields.width];
                for step in &fields.steps {
                    match step {
                        Step::Skip(of) => self.skip(of, 0)?,
                        Step::Take(slot, plan) => {
                            self.fits = true;
                            let datum = self.value(plan)?;
                            if let Some(column) = decoded.get_mut(*slot).filter(|_| self.fits) {
                                *column = Some(datum);
                            }
                        }
                    }
                }
                for (slot, default) in &fields.filled {
                    if let (Some(column), Some(default)) = (decoded.get_mut(*slot), default) {
                        self.budget.spend(default.places())?;
                        *column = Some(default.clone());
                    }
                }
                Ok(decoded)
            }
            Plan::Misfit(of) => {
                self.skip(of, 0)?;
                Ok(vec![None; columns])
            }
            // A null in place of a record: there is nothing in any column.
            Plan::Leaf(Written::Null, _) => Ok(vec![Some(Datum::Null); columns]),
            _ => Err(Unsound::Format),
        }
    }

    fn value(&mut self, plan: &'a Plan) -> Result<Datum<'a>, Unsound> {
        self.budget.spend(match plan {
            Plan::Union(_) => 0,
            Plan::Branch { of, .. } => *of,
            _ => 1,
        })?;
        Ok(match plan {
            Plan::Leaf(written, target) => {
                let raw = self.raw(*written)?;
                self.take(*target, raw)
            }
            Plan::Enum(symbols) => {
                let symbol = usize::try_from(self.int()?).map_err(|_| Unsound::Format)?;
                match symbols.get(symbol).ok_or(Unsound::Format)? {
                    Some(text) => {
                        self.budget.spend(text.len() / 8)?;
                        Datum::Text(text.as_str().into())
                    }
                    None => self.misfit(),
                }
            }
            Plan::List(plan) => {
                let mut items = Vec::new();
                self.blocks(|decoder| {
                    items.push(decoder.value(plan)?);
                    Ok(())
                })?;
                Datum::List(items)
            }
            Plan::Map(plan) => {
                let mut entries = Vec::new();
                self.blocks(|decoder| {
                    let key = Raw::Bytes(decoder.length_and_bytes()?);
                    let key = decoder.take(Target::Text, key);
                    entries.push((key, decoder.value(plan)?));
                    Ok(())
                })?;
                // A key that is no text does not fit, and there is no NULL among keys.
                if self.fits { Datum::Map(entries) } else { Datum::Null }
            }
            Plan::Record(fields) => self.record(fields)?,
            Plan::Union(branches) => {
                let plan = self.branch(branches)?;
                self.value(plan)?
            }
            Plan::Branch { at, of, inner } => {
                let value = self.value(inner)?;
                branch(*at, *of, value)
            }
            Plan::Misfit(of) => {
                self.skip(of, 0)?;
                self.misfit()
            }
        })
    }

    fn record(&mut self, fields: &'a Fields) -> Result<Datum<'a>, Unsound> {
        self.budget.spend(fields.filled.len())?;
        let mut members = vec![Datum::Null; fields.width];
        for step in &fields.steps {
            match step {
                Step::Skip(of) => self.skip(of, 0)?,
                Step::Take(slot, plan) => {
                    let value = self.value(plan)?;
                    if let Some(member) = members.get_mut(*slot) {
                        *member = value;
                    }
                }
            }
        }
        for (slot, default) in &fields.filled {
            let Some(default) = default else {
                self.fits = false;
                continue;
            };
            self.budget.spend(default.places())?;
            if let Some(member) = members.get_mut(*slot) {
                *member = default.clone();
            }
        }
        Ok(Datum::Struct(members))
    }

    fn branch(&mut self, branches: &'a [Plan]) -> Result<&'a Plan, Unsound> {
        let branch = usize::try_from(self.long()?).map_err(|_| Unsound::Format)?;
        branches.get(branch).ok_or(Unsound::Format)
    }

    fn take(&mut self, target: Target, raw: Raw<'a>) -> Datum<'a> {
        match target.take(raw) {
            Ok(datum) => datum,
            Err(_) => self.misfit(),
        }
    }

    fn misfit(&mut self) -> Datum<'a> {
        self.fits = false;
        Datum::Null
    }

    /// Passes over a value.
    fn skip(&mut self, of: &Type, depth: usize) -> Result<(), Unsound> {
        self.passing.spend(1)?;
        if depth > DEEPEST_PASSED {
            return Err(Unsound::TooLarge);
        }
        if let Some(written) = Written::of(self.writer, of) {
            self.raw(written)?;
            return Ok(());
        }
        match &of.shape {
            Shape::Array(items) => self.blocks(|decoder| decoder.skip(items, depth + 1)),
            Shape::Map(values) => self.blocks(|decoder| {
                decoder.length_and_bytes()?;
                decoder.skip(values, depth + 1)
            }),
            Shape::Union(branches) => {
                let branch = usize::try_from(self.long()?).map_err(|_| Unsound::Format)?;
                self.skip(branches.get(branch).ok_or(Unsound::Format)?, depth + 1)
            }
            Shape::Named(index) => {
                // Its borrow is the writer's, not ours.
                let writer = self.writer;
                match writer.named(*index).map(|named| &named.body) {
                    Some(Body::Record(fields)) => {
                        fields.iter().try_for_each(|field| self.skip(&field.schema, depth + 1))
                    }
                    Some(Body::Enum { symbols, .. }) => {
                        let symbol = usize::try_from(self.int()?).map_err(|_| Unsound::Format)?;
                        if symbol < symbols.len() { Ok(()) } else { Err(Unsound::Format) }
                    }
                    _ => Err(Unsound::Format),
                }
            }
            _ => Err(Unsound::Format),
        }
    }

    /// The blocks of an array or a map: a count and as many items, until a count of 0. A negative count has its size in bytes
    /// behind it, of which we make no use.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Unsound>) -> Result<(), Unsound> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.long()?;
            }
            // Each item spends something.
            for _ in 0..count.unsigned_abs() {
                item(self)?;
            }
        }
    }

    fn raw(&mut self, written: Written) -> Result<Raw<'a>, Unsound> {
        Ok(match written {
            Written::Null => Raw::Null,
            Written::Boolean => match self.bytes(1)? {
                [0] => Raw::Boolean(false),
                [1] => Raw::Boolean(true),
                _ => return Err(Unsound::Format),
            },
            Written::Int => Raw::Int(i64::from(self.int()?)),
            Written::Long => Raw::Int(self.long()?),
            Written::Float => Raw::Float(f32::from_le_bytes(self.array()?)),
            Written::Double => Raw::Double(f64::from_le_bytes(self.array()?)),
            Written::Bytes | Written::String => Raw::Bytes(self.length_and_bytes()?),
            Written::Fixed(size) => Raw::Bytes(self.bytes(size)?),
        })
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Unsound> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Unsound::Format)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unsound> {
        self.bytes(N)?.try_into().map_err(|_| Unsound::Format)
    }

    fn length_and_bytes(&mut self) -> Result<&'a [u8], Unsound> {
        let length = usize::try_from(self.long()?).map_err(|_| Unsound::Format)?;
        self.bytes(length)
    }

    fn int(&mut self) -> Result<i32, Unsound> {
        i32::try_from(self.long()?).map_err(|_| Unsound::Format)
    }

    fn long(&mut self) -> Result<i64, Unsound> {
        let (value, rest) = zigzag(self.bytes).ok_or(Unsound::Format)?;
        self.bytes = rest;
        Ok(value)
    }
}

/// A number of up to 64 bits in groups of seven, the lowest first, the sign in the lowest bit; and what is behind it.
pub(crate) fn zigzag(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        let group = u64::from(byte & 0x7f);
        if index == 9 && group > 1 {
            return None;
        }
        value |= group << (7 * index);
        if byte & 0x80 == 0 {
            let value = (value >> 1).cast_signed() ^ -(value & 1).cast_signed();
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::resolve::plan;
    use super::*;

    fn fields(fields: &str) -> Schema {
        Schema::parse(&format!(r#"{{"type": "record", "name": "R", "fields": [{fields}]}}"#), []).unwrap()
    }

    /// All columns of `reader`.
    fn read(writer: &Schema, reader: &Schema, value: &[u8]) -> Result<Vec<Option<Datum<'static>>>, Unsound> {
        let all: Vec<usize> = (0..reader.fields(&reader.root).unwrap().len()).collect();
        let plan = plan(writer, reader, &all);
        let decoded = decode(&plan, writer, value, all.len(), true)?;
        Ok(decoded.into_iter().map(|datum| datum.map(Datum::into_owned)).collect())
    }

    #[test]
    fn numbers_are_zigzag() {
        assert_eq!(zigzag(&[0]), Some((0, &[][..])));
        assert_eq!(zigzag(&[1, 9]), Some((-1, &[9][..])));
        assert_eq!(zigzag(&[0x80, 1]), Some((64, &[][..])));
        let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(zigzag(&longest), Some((i64::MIN, &[][..])));
        assert_eq!(zigzag(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]), None);
        assert_eq!(zigzag(&[0x80; 11]), None);
        assert_eq!(zigzag(&[0x80]), None);
    }

    #[test]
    fn a_column_that_does_not_fit_leaves_the_others() {
        let writer = fields(
            r#"{"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
            {"name": "x", "type": "string"}, {"name": "a", "type": {"type": "array", "items": "int"}}"#,
        );
        let reader = fields(
            r#"{"name": "a", "type": {"type": "array", "items": "long"}}, {"name": "x", "type": "int"},
            {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A"]}}, {"name": "m", "type": "int"}"#,
        );
        // B; "hi"; two items in a block of one with its size, and one without
        let value = [2, 4, b'h', b'i', 1, 2, 6, 2, 8, 0];
        let list = Datum::List(vec![Datum::Int(3), Datum::Int(4)]);
        assert_eq!(read(&writer, &reader, &value), Ok(vec![Some(list), None, None, None]));
        assert_eq!(read(&writer, &reader, &value[..9]), Err(Unsound::Format));
        assert_eq!(read(&writer, &reader, &[value.as_slice(), &[0]].concat()), Err(Unsound::Format), "more behind it");
        assert_eq!(read(&writer, &reader, &[4]), Err(Unsound::Format), "no such symbol");
    }

    #[test]
    fn items_without_bytes_are_bounded() {
        let nulls = fields(r#"{"name": "a", "type": {"type": "array", "items": "null"}}"#);
        let other = fields(r#"{"name": "b", "type": "int", "default": 1}"#);
        // i64::MAX items
        let many = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0];
        assert_eq!(read(&nulls, &nulls, &many), Err(Unsound::TooLarge));
        assert_eq!(read(&nulls, &other, &many), Err(Unsound::TooLarge), "passed over, too");
        // i64::MIN, and its size
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0];
        assert_eq!(read(&nulls, &nulls, &most), Err(Unsound::TooLarge));
        // Each item is worth a long default.
        let item = |more: &str| {
            fields(&format!(
                r#"{{"name": "a", "type": {{"type": "array", "items": {{"type": "record", "name": "I", "fields": [{more}]}}}}}}"#
            ))
        };
        let long = format!(r#"{{"name": "d", "type": "string", "default": "{}"}}"#, "x".repeat(1000));
        let value = [0xc0, 0x84, 0x3d, 0]; // half a million of nothing
        assert_eq!(read(&item(""), &item(&long), &value), Err(Unsound::TooLarge));
        assert!(read(&item(""), &item(""), &value).is_ok());
    }

    #[test]
    fn schemas_that_refer_to_themselves_are_passed_over_to_a_depth() {
        let writer = fields(r#"{"name": "next", "type": ["null", "R"]}, {"name": "n", "type": "int"}"#);
        let reader = fields(r#"{"name": "n", "type": "long"}"#);
        assert_eq!(read(&writer, &reader, &[2, 2, 0, 4, 6, 8]), Ok(vec![Some(Datum::Int(4))]));
        assert_eq!(read(&writer, &reader, &[2; 1000]), Err(Unsound::TooLarge));
    }
}
