//! The zig-zag variable-length integers inside records, and a cursor that reads them without ever running over.

use super::BatchError;

/// The most bytes that a 32-bit varint takes.
pub(super) const VARINT_BYTES_MAX: usize = 5;
/// The most bytes that a 64-bit varint takes.
pub(super) const VARLONG_BYTES_MAX: usize = 10;

const TORN: BatchError = BatchError::Inconsistent("a record ends in the middle of a field");

/// Reads the fields of a record from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, BatchError> {
        let (&first, rest) = self.rest.split_first().ok_or(TORN)?;
        self.rest = rest;
        Ok(first)
    }

    /// A signed 32-bit varint. One that has bits beyond the 32nd is an error.
    #[inline]
    pub(super) fn varint(&mut self) -> Result<i32, BatchError> {
        // Almost every length inside a record fits one byte, and almost every record's own length fits two.
        if let [first, rest @ ..] = self.rest
            && *first < 0x80
        {
            self.rest = rest;
            return Ok(zigzag_32(u32::from(*first)));
        }
        if let [first, second, rest @ ..] = self.rest
            && *second < 0x80
        {
            self.rest = rest;
            return Ok(zigzag_32(u32::from(*first & 0x7f) | u32::from(*second) << 7));
        }
        self.long_varint()
    }

    #[cold]
    fn long_varint(&mut self) -> Result<i32, BatchError> {
        let value = self.unsigned(VARINT_BYTES_MAX)?;
        u32::try_from(value).map(zigzag_32).map_err(|_| BatchError::Inconsistent("a varint exceeds 32 bits"))
    }

    /// A signed 64-bit varint. One that has bits beyond the 64th is an error.
    #[inline]
    pub(super) fn varlong(&mut self) -> Result<i64, BatchError> {
        // Most records have the time of the one before, or nearly.
        if let [first, rest @ ..] = self.rest
            && *first < 0x80
        {
            self.rest = rest;
            return Ok(zigzag_64(u64::from(*first)));
        }
        if let [first, second, rest @ ..] = self.rest
            && *second < 0x80
        {
            self.rest = rest;
            return Ok(zigzag_64(u64::from(*first & 0x7f) | u64::from(*second) << 7));
        }
        self.unsigned(VARLONG_BYTES_MAX).map(zigzag_64)
    }

    fn unsigned(&mut self, bytes_max: usize) -> Result<u64, BatchError> {
        let mut value = 0_u64;
        let mut shift = 0_u32;
        for _ in 0..bytes_max {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // Bits shifted out at the top would be lost without a word.
            let placed = bits.wrapping_shl(shift);
            if placed.wrapping_shr(shift) != bits {
                return Err(BatchError::Inconsistent("a varint exceeds 64 bits"));
            }
            value |= placed;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            shift = shift.wrapping_add(7);
        }
        Err(BatchError::Inconsistent("a varint has too many bytes"))
    }

    #[inline]
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(TORN)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes after their length. A negative length is null, as Kafka's readers take it.
    #[inline]
    pub(super) fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, BatchError> {
        match usize::try_from(self.varint()?) {
            Ok(length) => self.bytes(length).map(Some),
            Err(_negative) => Ok(None),
        }
    }
}

const fn zigzag_32(value: u32) -> i32 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

const fn zigzag_64(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg()
}

/// Appends a signed varint; 32-bit values come out the same as 64-bit ones.
#[inline]
pub(super) fn put_varint(out: &mut impl bytes::BufMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.put_u8(low_byte(rest) | 0x80);
        rest >>= 7;
    }
    out.put_u8(low_byte(rest));
}

/// The length that [`put_varint`] writes.
#[inline]
pub(super) const fn varint_bytes(value: i64) -> usize {
    let rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let bits = 64_u32.saturating_sub((rest | 1).leading_zeros());
    bits.div_ceil(7) as usize
}

const fn low_byte(value: u64) -> u8 {
    (value & 0x7f) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: i64) {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        assert_eq!(out.len(), varint_bytes(value), "{value}");
        let mut cursor = Cursor::new(&out);
        assert_eq!(cursor.varlong(), Ok(value));
        assert!(cursor.rest().is_empty());
        let as_32 = Cursor::new(&out).varint();
        assert_eq!(as_32.ok(), i32::try_from(value).ok(), "{value}");
        for cut in 0..out.len() {
            assert!(Cursor::new(&out[..cut]).varlong().is_err());
        }
    }

    #[test]
    fn integers_go_there_and_back() {
        for shift in 0..64 {
            for near in [-2, -1, 0, 1, 2] {
                check((1_i64 << shift).wrapping_add(near));
                check((1_i64 << shift).wrapping_neg().wrapping_add(near));
            }
        }
        check(i64::MAX);
        check(i64::MIN);
    }

    #[test]
    fn overlong_and_overflowing_varints_are_errors() {
        assert!(Cursor::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]).varint().is_err());
        assert!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).varint().is_err());
        assert_eq!(Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).varint(), Ok(i32::MIN));
        assert!(Cursor::new(&[0xff; 11]).varlong().is_err());
        let mut too_much = [0xff; 10];
        too_much[9] = 0x02;
        assert!(Cursor::new(&too_much).varlong().is_err());
        too_much[9] = 0x01;
        assert_eq!(Cursor::new(&too_much).varlong(), Ok(i64::MIN));
    }
}
