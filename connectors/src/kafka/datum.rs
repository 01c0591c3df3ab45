//! A decoded value on its way into a column: what Avro and Protobuf have in common.
//!
//! A value is decoded whole before anything of it goes into a column, so that one that is damaged half-way leaves nothing behind.

use std::borrow::Cow;

use arrow::datatypes::i256;

/// One value of a column, or of a place inside of one. What it borrows is the record, or the plan it is decoded by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Datum<'a> {
    Null,
    Boolean(bool),
    /// Integers, dates, times and instants, in the unit of the column.
    Int(i64),
    Unsigned(u64),
    Real(f32),
    Double(f64),
    Decimal(i128),
    /// A decimal of more than 38 digits.
    Wide(Box<i256>),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Interval {
        months: i32,
        days: i32,
        nanoseconds: i64,
    },
    List(Vec<Datum<'a>>),
    /// Keys and values.
    Map(Vec<(Datum<'a>, Datum<'a>)>),
    Struct(Vec<Datum<'a>>),
}

/// A value that its column's type does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Misfit;

/// A value of which nothing can be decoded, and why. None of these has anything of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsound {
    /// It is not what the format says.
    Format,
    /// It does not begin with the id of a schema.
    Frame,
    /// It holds more than is decoded at once.
    TooLarge,
    /// The registry does not know its schema.
    UnknownSchema(u32),
    /// Its schema is none of the table's format, or one that is not read.
    UnusableSchema(u32),
    /// It is another message than the table's.
    OtherMessage(u32),
}

impl std::fmt::Display for Unsound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Format => f.write_str("is not of the table's format"),
            Self::Frame => f.write_str("does not begin with the id of a schema"),
            Self::TooLarge => f.write_str("is larger than what is decoded"),
            Self::UnknownSchema(id) => write!(f, "has schema {id}, which the registry does not know"),
            Self::UnusableSchema(id) => write!(f, "has schema {id}, which is none that the table's format reads"),
            Self::OtherMessage(id) => write!(f, "is another message of schema {id} than the table's"),
        }
    }
}

/// What may still be made of one value. It bounds time and memory where the value claims much and has little: items without
/// bytes, defaults for each of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget(usize);

/// The largest value that is decoded, in bytes.
pub(crate) const LARGEST_VALUE: usize = 8 << 20;
/// So many places may be filled beyond those that the bytes are worth.
const SPARE: usize = 1 << 20;
/// What lies deeper in a value is not decoded.
pub(crate) const DEEPEST: usize = 64;

impl Budget {
    /// That of a value of which each byte is worth so many places; an error when it is too large itself.
    pub fn of(value: &[u8], places: usize) -> Result<Self, Unsound> {
        if value.len() > LARGEST_VALUE { Err(Unsound::TooLarge) } else { Ok(Self(value.len() * places + SPARE)) }
    }

    /// Takes from it.
    pub fn spend(&mut self, places: usize) -> Result<(), Unsound> {
        self.0 = self.0.checked_sub(places).ok_or(Unsound::TooLarge)?;
        Ok(())
    }
}

impl Datum<'_> {
    /// About the bytes that it takes in a column.
    pub fn weight(&self) -> usize {
        match self {
            Self::Null | Self::Boolean(_) => 1,
            Self::Int(_) | Self::Unsigned(_) | Self::Real(_) | Self::Double(_) => 8,
            Self::Decimal(_) | Self::Interval { .. } => 16,
            Self::Wide(_) => 32,
            Self::Text(text) => 4 + text.len(),
            Self::Bytes(bytes) => 4 + bytes.len(),
            Self::List(items) | Self::Struct(items) => 4 + items.iter().map(Self::weight).sum::<usize>(),
            Self::Map(entries) => 4 + entries.iter().map(|(key, value)| key.weight() + value.weight()).sum::<usize>(),
        }
    }

    /// About how many places it fills, for a [`Budget`].
    pub fn places(&self) -> usize {
        self.weight().div_ceil(8)
    }

    /// The same without a loan.
    pub fn into_owned(self) -> Datum<'static> {
        let all = |items: Vec<Datum<'_>>| items.into_iter().map(Datum::into_owned).collect();
        match self {
            Self::Null => Datum::Null,
            Self::Boolean(value) => Datum::Boolean(value),
            Self::Int(value) => Datum::Int(value),
            Self::Unsigned(value) => Datum::Unsigned(value),
            Self::Real(value) => Datum::Real(value),
            Self::Double(value) => Datum::Double(value),
            Self::Decimal(value) => Datum::Decimal(value),
            Self::Wide(value) => Datum::Wide(value),
            Self::Text(text) => Datum::Text(Cow::Owned(text.into_owned())),
            Self::Bytes(bytes) => Datum::Bytes(Cow::Owned(bytes.into_owned())),
            Self::Interval { months, days, nanoseconds } => Datum::Interval { months, days, nanoseconds },
            Self::List(items) => Datum::List(all(items)),
            Self::Struct(items) => Datum::Struct(all(items)),
            Self::Map(entries) => {
                Datum::Map(entries.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
            }
        }
    }

    /// A decimal of this many digits from an unscaled number that has `from` digits behind the point, to have `to` of them.
    /// Nothing is rounded.
    pub fn decimal(unscaled: i256, from: i8, to: i8, precision: u8) -> Result<Self, Misfit> {
        let shift = i32::from(to) - i32::from(from);
        let power = i256::from(10).checked_pow(shift.unsigned_abs()).ok_or(Misfit)?;
        let value = match shift {
            0 => unscaled,
            1.. => unscaled.checked_mul(power).ok_or(Misfit)?,
            _ => {
                let whole = unscaled.checked_div(power).ok_or(Misfit)?;
                Some(whole).filter(|whole| whole.checked_mul(power) == Some(unscaled)).ok_or(Misfit)?
            }
        };
        let limit = i256::from(10).checked_pow(u32::from(precision)).ok_or(Misfit)?;
        if value >= limit || value <= limit.wrapping_neg() {
            return Err(Misfit);
        }
        match precision {
            ..=38 => value.to_i128().map(Self::Decimal).ok_or(Misfit),
            _ => Ok(Self::Wide(Box::new(value))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_their_digits_or_do_not_fit() {
        let decimal =
            |unscaled: i128, from, to, precision| Datum::decimal(i256::from_i128(unscaled), from, to, precision);
        assert_eq!(decimal(12345, 2, 2, 5), Ok(Datum::Decimal(12345)));
        assert_eq!(decimal(-12345, 2, 4, 7), Ok(Datum::Decimal(-1_234_500)));
        assert_eq!(decimal(12300, 2, 0, 5), Ok(Datum::Decimal(123)));
        assert_eq!(decimal(12345, 2, 1, 5), Err(Misfit), "nothing is rounded");
        assert_eq!(decimal(100_000, 2, 2, 5), Err(Misfit));
        assert_eq!(decimal(-100_000, 2, 2, 5), Err(Misfit));
        assert_eq!(decimal(1, 0, 127, 76), Err(Misfit));
        assert!(matches!(decimal(i128::MAX, 0, 0, 39), Ok(Datum::Wide(_))));
    }

    #[test]
    fn a_budget_ends() {
        let mut budget = Budget::of(&[0; 10], 2).unwrap();
        assert_eq!(budget.spend(SPARE + 20), Ok(()));
        assert_eq!(budget.spend(1), Err(Unsound::TooLarge));
        assert_eq!(Budget::of(&vec![0; LARGEST_VALUE + 1], 1).unwrap_err(), Unsound::TooLarge);
    }
}
