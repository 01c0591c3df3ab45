//! A z-order: rows that are near in all of some columns come near each other.
//!
//! Bits are taken in turn from the columns, the highest first (Morton, 1966). They are bits of ranks and not of values, as Delta
//! Lake does it: a column whose values lie close together would have no say otherwise.

/// Bits of one rank: a column is cut into at most so many parts as they count.
const BITS: usize = 10;
/// How many bounds part a column.
pub(super) const QUANTILES: usize = (1 << BITS) - 1;

/// The bits of the ranks in turn, the first column's first.
pub(super) fn interleave(ranks: &[usize], into: &mut Vec<u8>) {
    let (mut byte, mut filled) = (0_u8, 0);
    for bit in (0..BITS).rev() {
        for rank in ranks {
            byte = byte << 1 | u8::from(rank >> bit & 1 == 1);
            filled += 1;
            if filled == u8::BITS {
                into.push(byte);
                (byte, filled) = (0, 0);
            }
        }
    }
    if filled > 0 {
        into.push(byte << (u8::BITS - filled));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(ranks: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        interleave(ranks, &mut bytes);
        bytes
    }

    #[test]
    fn the_curve_is_a_z() {
        // Within each square of four the four cells follow each other, first column first.
        let mut cells: Vec<(usize, usize)> = (0..4).flat_map(|x| (0..4).map(move |y| (x, y))).collect();
        cells.sort_by_key(|(x, y)| curve(&[*x, *y]));
        let quadrant = |n: usize| cells[n * 4..n * 4 + 4].to_vec();
        assert_eq!(quadrant(0), [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(quadrant(1), [(0, 2), (0, 3), (1, 2), (1, 3)]);
        assert_eq!(quadrant(3), [(2, 2), (2, 3), (3, 2), (3, 3)]);
        assert_eq!(curve(&[QUANTILES; 8]), [0xff; 10]);
        assert_eq!(curve(&[QUANTILES, 0, 0]), [0b1001_0010, 0b0100_1001, 0b0010_0100, 0b1001_0000]);
    }
}
