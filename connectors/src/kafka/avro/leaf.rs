//! Simple values: what was written, and what of it goes into a column.

use std::borrow::Cow;

use arrow::datatypes::i256;
use uuid::Uuid;

use super::super::datum::{Datum, Misfit};
use super::schema::{Body, Logical, Schema, Shape, Type};

/// How a simple value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
}

/// A simple value as it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Raw<'a> {
    Null,
    Boolean(bool),
    /// Of int and long.
    Int(i64),
    Float(f32),
    Double(f64),
    /// Of bytes, string and fixed.
    Bytes(&'a [u8]),
}

/// What a column wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Null,
    Boolean,
    Int,
    Float,
    Double,
    Bytes,
    Text,
    /// `from`: the digits behind the point of what was written.
    Decimal {
        precision: u8,
        scale: i8,
        from: i8,
    },
    /// Whether it was written as text, or else as its bytes.
    Uuid {
        text: bool,
    },
    /// `from`: the digits of a second that were written, 3 or 6.
    Time {
        from: u8,
    },
    /// The same with 3, 6 or 9; `to` is 6 or 9.
    Timestamp {
        from: u8,
        to: u8,
    },
    Duration,
}

impl Written {
    /// How values of a type are written; `None` where they are not simple.
    pub fn of(schema: &Schema, of: &Type) -> Option<Self> {
        Some(match &of.shape {
            Shape::Null => Self::Null,
            Shape::Boolean => Self::Boolean,
            Shape::Int => Self::Int,
            Shape::Long => Self::Long,
            Shape::Float => Self::Float,
            Shape::Double => Self::Double,
            Shape::Bytes => Self::Bytes,
            Shape::String => Self::String,
            Shape::Named(index) => match schema.named(*index)?.body {
                Body::Fixed(size) => Self::Fixed(size),
                _ => return None,
            },
            Shape::Array(_) | Shape::Map(_) | Shape::Union(_) => return None,
        })
    }

    /// Whether a reader's type that is written as `reader` takes it, by itself or promoted.
    fn promotes_to(self, reader: Self) -> bool {
        let promoted = match self {
            Self::Int => matches!(reader, Self::Long | Self::Float | Self::Double),
            Self::Long => matches!(reader, Self::Float | Self::Double),
            Self::Float => reader == Self::Double,
            Self::Bytes => reader == Self::String,
            Self::String => reader == Self::Bytes,
            _ => false,
        };
        promoted || self == reader
    }
}

impl Target {
    /// What a reader's type wants of what a writer's type has; `None` where Avro has no way from the one to the other.
    pub fn of(writer: (&Schema, &Type), reader: (&Schema, &Type)) -> Option<Self> {
        let (written, wanted) = (Written::of(writer.0, writer.1)?, Written::of(reader.0, reader.1)?);
        let (meant, logical) = (writer.0.logical(writer.1), reader.0.logical(reader.1));
        // Bytes of one meaning are of one meaning, however long they are.
        let same = matches!(
            (meant, logical),
            (Some(Logical::Decimal { .. }), Some(Logical::Decimal { .. })) | (Some(Logical::Uuid), Some(Logical::Uuid))
        );
        if !same && !written.promotes_to(wanted) {
            return None;
        }
        Some(match logical {
            Some(Logical::Decimal { precision, scale }) => {
                let from = if let Some(Logical::Decimal { scale, .. }) = meant { scale } else { scale };
                Self::Decimal { precision, scale, from }
            }
            Some(Logical::Uuid) => Self::Uuid { text: !matches!(written, Written::Fixed(_)) },
            Some(Logical::Duration) => Self::Duration,
            Some(Logical::Date) => Self::Int,
            Some(time @ (Logical::TimeMillis | Logical::TimeMicros)) => {
                let own = if time == Logical::TimeMillis { 3 } else { 6 };
                let from = match meant {
                    Some(Logical::TimeMillis) => 3,
                    Some(Logical::TimeMicros) => 6,
                    _ => own,
                };
                Self::Time { from }
            }
            Some(Logical::Timestamp { digits, .. }) => {
                let from = if let Some(Logical::Timestamp { digits, .. }) = meant { digits } else { digits };
                Self::Timestamp { from, to: digits.max(6) }
            }
            None => match wanted {
                Written::Null => Self::Null,
                Written::Boolean => Self::Boolean,
                Written::Int | Written::Long => Self::Int,
                Written::Float => Self::Float,
                Written::Double => Self::Double,
                Written::Bytes | Written::Fixed(_) => Self::Bytes,
                Written::String => Self::Text,
            },
        })
    }

    /// The value for the column.
    pub fn take<'a>(self, raw: Raw<'a>) -> Result<Datum<'a>, Misfit> {
        Ok(match (self, raw) {
            (_, Raw::Null) => Datum::Null,
            (Self::Boolean, Raw::Boolean(value)) => Datum::Boolean(value),
            (Self::Int, Raw::Int(value)) => Datum::Int(value),
            // Promotion is to the nearest, as Avro has it.
            (Self::Float, Raw::Int(value)) => Datum::Real(value as f32),
            (Self::Float, Raw::Float(value)) => Datum::Real(value),
            (Self::Double, Raw::Int(value)) => Datum::Double(value as f64),
            (Self::Double, Raw::Float(value)) => Datum::Double(f64::from(value)),
            (Self::Double, Raw::Double(value)) => Datum::Double(value),
            (Self::Bytes, Raw::Bytes(bytes)) => Datum::Bytes(Cow::Borrowed(bytes)),
            (Self::Text, Raw::Bytes(bytes)) => Datum::Text(Cow::Borrowed(text(bytes)?)),
            (Self::Decimal { precision, scale, from }, Raw::Bytes(bytes)) => {
                Datum::decimal(big_endian(bytes)?, from, scale, precision)?
            }
            (Self::Uuid { text: is_text }, Raw::Bytes(bytes)) => {
                let uuid = if is_text { Uuid::try_parse(text(bytes)?) } else { Uuid::from_slice(bytes) };
                Datum::Text(Cow::Owned(uuid.map_err(|_| Misfit)?.to_string()))
            }
            (Self::Time { from }, Raw::Int(value)) => {
                let micros = scaled(value, from, 6)?;
                Datum::Int(Some(micros).filter(|micros| (0..86_400_000_000).contains(micros)).ok_or(Misfit)?)
            }
            (Self::Timestamp { from, to }, Raw::Int(value)) => Datum::Int(scaled(value, from, to)?),
            (Self::Duration, Raw::Bytes(bytes)) => interval(bytes)?,
            _ => return Err(Misfit),
        })
    }
}

fn text(bytes: &[u8]) -> Result<&str, Misfit> {
    std::str::from_utf8(bytes).map_err(|_| Misfit)
}

/// A count of units of `10^-from` seconds as one of `10^-to`. What a column of fewer digits cannot show does not fit.
fn scaled(value: i64, from: u8, to: u8) -> Result<i64, Misfit> {
    let power = 10i64.pow(u32::from(from.abs_diff(to)).min(18));
    if to >= from {
        return value.checked_mul(power).ok_or(Misfit);
    }
    if value % power == 0 { Ok(value / power) } else { Err(Misfit) }
}

/// A number in two's complement, the highest byte first; no byte at all is 0.
fn big_endian(bytes: &[u8]) -> Result<i256, Misfit> {
    let sign = if bytes.first().is_some_and(|first| *first >= 0x80) { 0xff } else { 0 };
    let mut wide = [sign; 32];
    // A fixed may be longer than its number.
    let significant = bytes.iter().take_while(|byte| **byte == sign).count();
    let bytes = bytes.get(significant..).unwrap_or_default();
    let start = wide.len().checked_sub(bytes.len()).ok_or(Misfit)?;
    wide.get_mut(start..).ok_or(Misfit)?.copy_from_slice(bytes);
    let value = i256::from_be_bytes(wide);
    // 32 bytes of which the first has the other sign's bit: one more would be needed.
    if bytes.len() == 32 && value.is_negative() != (sign == 0xff) { Err(Misfit) } else { Ok(value) }
}

/// Months, days and milliseconds, each of four bytes, the lowest first, without a sign.
fn interval(bytes: &[u8]) -> Result<Datum<'static>, Misfit> {
    let part = |at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
        bytes.map(u32::from_le_bytes).ok_or(Misfit)
    };
    let whole = |part: u32| i32::try_from(part).map_err(|_| Misfit);
    Ok(Datum::Interval {
        months: whole(part(0)?)?,
        days: whole(part(4)?)?,
        nanoseconds: i64::from(part(8)?) * 1_000_000,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_length() {
        let value = |bytes: &[u8]| big_endian(bytes).map(|value| value.to_string());
        assert_eq!(value(&[]).unwrap(), "0");
        assert_eq!(value(&[0x80]).unwrap(), "-128");
        assert_eq!(value(&[0, 0x80]).unwrap(), "128");
        assert_eq!(value(&[0xff; 100]).unwrap(), "-1");
        assert_eq!(value(&[[0; 60].as_slice(), &[1, 0]].concat()).unwrap(), "256");
        assert_eq!(value(&[1; 33]), Err(Misfit));
        assert_eq!(value(&[[0].as_slice(), &[0xff; 32]].concat()), Err(Misfit), "not a negative one");
        assert_eq!(value(&[[0xff].as_slice(), &[0x7f; 32]].concat()), Err(Misfit), "not a positive one");
    }

    #[test]
    fn times_keep_their_digits_or_do_not_fit() {
        assert_eq!(scaled(1500, 3, 6), Ok(1_500_000));
        assert_eq!(scaled(i64::MAX, 3, 6), Err(Misfit));
        assert_eq!(scaled(1_500_000, 9, 6), Ok(1500));
        assert_eq!(scaled(1_500_001, 9, 6), Err(Misfit));
        let time = |value| Target::Time { from: 3 }.take(Raw::Int(value));
        assert_eq!(time(86_399_999), Ok(Datum::Int(86_399_999_000)));
        assert_eq!((time(86_400_000), time(-1)), (Err(Misfit), Err(Misfit)));
        let months = [1, 0, 0, 0, 2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let expected = Datum::Interval { months: 1, days: 2, nanoseconds: 4_294_967_295_000_000 };
        assert_eq!(Target::Duration.take(Raw::Bytes(&months)), Ok(expected));
        assert_eq!(Target::Duration.take(Raw::Bytes(&[0xff; 12])), Err(Misfit));
    }
}
