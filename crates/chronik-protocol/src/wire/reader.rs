//! Bytes to values, within a budget.

use bytes::Bytes;
use chronik_types::TopicId;

use super::DecodeError;

/// An array's elements are allocated at once up to this many; a larger array grows as its elements turn up.
pub const ARRAY_PREALLOCATED_COUNT_MAX: usize = 1_024;
/// The longest string that the protocol carries, in every version (Kafka refuses longer ones too).
pub const STRING_BYTES_MAX: usize = 0x7fff;
/// What any message may occupy when decoded, however small its frame.
pub const BUDGET_FLOOR_BYTES: usize = 4 << 20;
/// What a message may occupy beyond [`BUDGET_FLOOR_BYTES`], as a multiple of its frame. Record data stays in the
/// frame and counts nothing, so that only names and numbers draw on this; honest ones stay below four times.
pub const BUDGET_FRAME_MULTIPLE: usize = 4;
/// What an allocation costs the allocator beyond the bytes asked for.
const ALLOCATION_OVERHEAD_BYTES: usize = 16;

/// Walks one frame. Every method either advances past one value or fails; after a failure the position is of no
/// use. See the [module](super) for what it guards against.
#[derive(Debug)]
pub struct Reader<'a> {
    frame: &'a Bytes,
    position: usize,
    end: usize,
    budget_bytes: usize,
    spent_bytes: usize,
}

impl<'a> Reader<'a> {
    /// Reads `frame` with the default budget for its size.
    pub fn new(frame: &'a Bytes) -> Self {
        let budget = frame.len().saturating_mul(BUDGET_FRAME_MULTIPLE).saturating_add(BUDGET_FLOOR_BYTES);
        Self::with_budget(frame, budget)
    }

    /// Reads `frame`; what is decoded may occupy `budget_bytes` of memory beside the frame itself.
    pub const fn with_budget(frame: &'a Bytes, budget_bytes: usize) -> Self {
        Self { frame, position: 0, end: frame.len(), budget_bytes, spent_bytes: 0 }
    }

    /// Bytes before the next value.
    pub const fn position(&self) -> usize {
        self.position
    }

    /// Bytes that are left.
    pub const fn remaining(&self) -> usize {
        self.end.saturating_sub(self.position)
    }

    /// Memory charged so far, in bytes.
    pub const fn spent_bytes(&self) -> usize {
        self.spent_bytes
    }

    /// What is left, as a slice of the frame.
    pub fn rest(&self) -> Bytes {
        self.frame.slice(self.position.min(self.end)..self.end)
    }

    /// Ends the reading: bytes that are left are an error.
    pub const fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            remaining_bytes => Err(DecodeError::Trailing { remaining_bytes }),
        }
    }

    /// Passes over `count` bytes.
    pub fn skip(&mut self, count: usize) -> Result<(), DecodeError> {
        self.take(count).map(|_| ())
    }

    #[inline]
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let frame: &'a [u8] = self.frame;
        let taken = self
            .position
            .checked_add(count)
            .filter(|&end| end <= self.end)
            .and_then(|end| Some((end, frame.get(self.position..end)?)));
        let Some((end, bytes)) = taken else {
            return Err(DecodeError::Truncated {
                position: self.position,
                needed_bytes: count,
                remaining_bytes: self.remaining(),
            });
        };
        self.position = end;
        Ok(bytes)
    }

    #[inline]
    fn array_of<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let position = self.position;
        let bytes = self.take(N)?;
        bytes.first_chunk::<N>().copied().ok_or(DecodeError::Truncated {
            position,
            needed_bytes: N,
            remaining_bytes: bytes.len(),
        })
    }

    /// Charges an allocation to the budget before it is made.
    fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        let spent = self.spent_bytes.saturating_add(bytes).saturating_add(ALLOCATION_OVERHEAD_BYTES);
        if spent > self.budget_bytes {
            return Err(DecodeError::Budget { position: self.position, budget_bytes: self.budget_bytes });
        }
        self.spent_bytes = spent;
        Ok(())
    }

    /// A boolean: every byte but 0 is true, as in Kafka.
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.i8()? != 0)
    }

    /// An int8.
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.array_of().map(i8::from_be_bytes)
    }

    /// An int16.
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array_of().map(i16::from_be_bytes)
    }

    /// An int32.
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array_of().map(i32::from_be_bytes)
    }

    /// An int64.
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.array_of().map(i64::from_be_bytes)
    }

    /// A uint16.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array_of().map(u16::from_be_bytes)
    }

    /// A uint32.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array_of().map(u32::from_be_bytes)
    }

    /// A float64.
    pub fn f64(&mut self) -> Result<f64, DecodeError> {
        self.array_of().map(f64::from_be_bytes)
    }

    /// A UUID.
    pub fn uuid(&mut self) -> Result<TopicId, DecodeError> {
        self.array_of().map(TopicId::from_bytes)
    }

    /// An unsigned varint of 32 bits: at most five bytes, and no bit beyond the 32nd.
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let position = self.position;
        let value = self.varint_bits(5)?;
        u32::try_from(value).map_err(|_| DecodeError::Varint { position })
    }

    /// A zigzag varint of 32 bits.
    pub fn varint(&mut self) -> Result<i32, DecodeError> {
        let value = self.unsigned_varint()?;
        Ok((value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg())
    }

    /// A zigzag varint of 64 bits: at most ten bytes, and no bit beyond the 64th.
    pub fn varlong(&mut self) -> Result<i64, DecodeError> {
        let value = self.varint_bits(10)?;
        Ok((value >> 1).cast_signed() ^ (value & 1).cast_signed().wrapping_neg())
    }

    fn varint_bits(&mut self, bytes_max: u32) -> Result<u64, DecodeError> {
        let position = self.position;
        let mut value = 0_u64;
        for index in 0..bytes_max {
            let [byte] = self.array_of()?;
            let shift = index.saturating_mul(7);
            let bits = u64::from(byte & 0x7f);
            // The tenth byte of a varlong has room for one bit only.
            let placed = bits << shift;
            if placed >> shift != bits {
                return Err(DecodeError::Varint { position });
            }
            value |= placed;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint { position })
    }

    /// A length: compact, two bytes or four. `None` for null.
    fn length(&mut self, compact: bool, is_string: bool) -> Result<Option<usize>, DecodeError> {
        let length = if compact {
            i64::from(self.unsigned_varint()?).saturating_sub(1)
        } else if is_string {
            i64::from(self.i16()?)
        } else {
            i64::from(self.i32()?)
        };
        let error = DecodeError::Length { position: self.position, length };
        match length {
            -1 => Ok(None),
            0..=0x7fff_ffff => usize::try_from(length).map(Some).map_err(|_| error),
            _ => Err(error),
        }
    }

    const fn null<T>(&self, nullable: bool) -> Result<Option<T>, DecodeError> {
        if nullable { Ok(None) } else { Err(DecodeError::Null { position: self.position }) }
    }

    fn required<T>(&self, value: Option<T>) -> Result<T, DecodeError> {
        value.ok_or(DecodeError::Null { position: self.position })
    }

    /// A string.
    pub fn string(&mut self, compact: bool) -> Result<String, DecodeError> {
        let value = self.string_opt(compact, false)?;
        self.required(value)
    }

    /// A string that may be null when `nullable`.
    pub fn string_opt(&mut self, compact: bool, nullable: bool) -> Result<Option<String>, DecodeError> {
        match self.str_opt(compact, nullable)? {
            Some("") => Ok(Some(String::new())),
            Some(text) => {
                self.charge(text.len())?;
                Ok(Some(text.to_owned()))
            }
            None => Ok(None),
        }
    }

    /// A string that may be null when `nullable`, borrowed from the frame.
    pub fn str_opt(&mut self, compact: bool, nullable: bool) -> Result<Option<&'a str>, DecodeError> {
        let Some(bytes) = self.string_bytes_opt(compact, nullable)? else {
            return Ok(None);
        };
        let position = self.position.saturating_sub(bytes.len());
        std::str::from_utf8(bytes).map(Some).map_err(|_| DecodeError::Utf8 { position })
    }

    /// A string that may be null when `nullable`, with U+FFFD for what is not UTF-8.
    pub fn string_lossy_opt(&mut self, compact: bool, nullable: bool) -> Result<Option<String>, DecodeError> {
        let Some(bytes) = self.string_bytes_opt(compact, nullable)? else {
            return Ok(None);
        };
        // Each bad byte becomes three at most, and the text may have grown by doubling.
        self.charge(bytes.len().saturating_mul(6))?;
        Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
    }

    fn string_bytes_opt(&mut self, compact: bool, nullable: bool) -> Result<Option<&'a [u8]>, DecodeError> {
        let Some(length) = self.length(compact, true)? else {
            return self.null(nullable);
        };
        if length > STRING_BYTES_MAX {
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            return Err(DecodeError::Length { position: self.position, length });
        }
        self.take(length).map(Some)
    }

    /// Bytes: a slice of the frame.
    pub fn bytes(&mut self, compact: bool) -> Result<Bytes, DecodeError> {
        let value = self.bytes_opt(compact, false)?;
        self.required(value)
    }

    /// Bytes that may be null when `nullable`: a slice of the frame.
    pub fn bytes_opt(&mut self, compact: bool, nullable: bool) -> Result<Option<Bytes>, DecodeError> {
        let Some(length) = self.length(compact, false)? else {
            return self.null(nullable);
        };
        let start = self.position;
        self.take(length)?;
        Ok(Some(self.frame.slice(start..self.position)))
    }

    /// The element count of an array whose elements take at least `element_bytes_min` each, or `None` for null.
    pub fn array_count_opt(
        &mut self,
        compact: bool,
        nullable: bool,
        element_bytes_min: usize,
    ) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.length(compact, false)? else {
            return self.null(nullable);
        };
        let count_max = self.remaining().checked_div(element_bytes_min).unwrap_or(0);
        if count > count_max {
            return Err(DecodeError::Count { position: self.position, count, count_max });
        }
        Ok(Some(count))
    }

    /// An array; `read` reads one element of at least `element_bytes_min` bytes.
    pub fn array<T>(
        &mut self,
        compact: bool,
        element_bytes_min: usize,
        read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let value = self.array_opt(compact, false, element_bytes_min, read)?;
        self.required(value)
    }

    /// An array that may be null when `nullable`.
    pub fn array_opt<T>(
        &mut self,
        compact: bool,
        nullable: bool,
        element_bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(count) = self.array_count_opt(compact, nullable, element_bytes_min)? else {
            return Ok(None);
        };
        if count == 0 {
            return Ok(Some(Vec::new()));
        }
        // The whole array is charged before its first element: either all of it turns up, or the message is
        // refused anyway.
        self.charge(count.saturating_mul(size_of::<T>()))?;
        let mut elements = Vec::with_capacity(count.min(ARRAY_PREALLOCATED_COUNT_MAX));
        for index in 0..count {
            if index == elements.capacity() {
                // Doubling, but never beyond what was charged.
                let more = index.min(count.saturating_sub(index));
                elements.reserve_exact(more);
            }
            elements.push(read(self)?);
        }
        Ok(Some(elements))
    }

    /// A structure that may be null when `nullable`: then a byte stands before it, negative for null.
    pub fn struct_opt<T>(
        &mut self,
        nullable: bool,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if nullable && self.i8()? < 0 { Ok(None) } else { read(self).map(Some) }
    }

    /// A tagged structure that may be null when `nullable`: then a varint stands before it, 0 for null.
    pub fn tagged_struct_opt<T>(
        &mut self,
        nullable: bool,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if nullable && self.unsigned_varint()? == 0 { Ok(None) } else { read(self).map(Some) }
    }

    /// The tagged fields at the end of a flexible structure (KIP-482). `read` gets each tag and reads its value, or
    /// answers `false` for a tag that it does not know, which is then passed over.
    pub fn tags(
        &mut self,
        mut read: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.unsigned_varint()?;
        for _ in 0..count {
            // Each round takes two bytes at least, so a hostile count ends with the frame.
            let tag = self.unsigned_varint()?;
            let size = usize::try_from(self.unsigned_varint()?).unwrap_or(usize::MAX);
            let start = self.position;
            self.skip(size)?;
            let outer_end = self.end;
            (self.end, self.position) = (self.position, start);
            if read(self, tag)? {
                let remaining_bytes = self.remaining();
                if remaining_bytes != 0 {
                    return Err(DecodeError::TagSize { tag, remaining_bytes });
                }
            }
            (self.position, self.end) = (self.end, outer_end);
        }
        Ok(())
    }

    /// Passes over all tagged fields.
    pub fn skip_tags(&mut self) -> Result<(), DecodeError> {
        self.tags(|_, _| Ok(false))
    }
}
