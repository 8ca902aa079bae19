//! Reads the primitive encodings from a slice that somebody else owns.
//!
//! [`Reader`](crate::wire::Reader) reads from shared bytes, which can no longer be changed. A produce request stays
//! exclusive, so that its batches can be stamped where they lie; the rules are the same, and so are the errors.

use chronik_types::TopicId;

use crate::wire::{BUDGET_FLOOR_BYTES, BUDGET_FRAME_MULTIPLE, DecodeError, STRING_BYTES_MAX};

/// What an allocation costs the allocator beyond the bytes asked for.
const ALLOCATION_OVERHEAD_BYTES: usize = 16;

/// A place in a slice, with the memory budget of what is decoded from it.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    budget_bytes: usize,
    spent_bytes: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let budget_bytes =
            bytes.len().saturating_mul(BUDGET_FRAME_MULTIPLE).saturating_add(BUDGET_FLOOR_BYTES);
        Self { bytes, position: 0, budget_bytes, spent_bytes: 0 }
    }

    pub(super) const fn position(&self) -> usize {
        self.position
    }

    pub(super) const fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    pub(super) const fn finish(&self) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            remaining_bytes => Err(DecodeError::Trailing { remaining_bytes }),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let taken =
            self.position.checked_add(count).and_then(|end| Some((end, self.bytes.get(self.position..end)?)));
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
        let truncated = DecodeError::Truncated {
            position: self.position,
            needed_bytes: N,
            remaining_bytes: self.remaining(),
        };
        self.take(N)?.first_chunk::<N>().copied().ok_or(truncated)
    }

    /// Charges memory to the budget before it is allocated.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        let spent = self.spent_bytes.saturating_add(bytes).saturating_add(ALLOCATION_OVERHEAD_BYTES);
        if spent > self.budget_bytes {
            return Err(DecodeError::Budget { position: self.position, budget_bytes: self.budget_bytes });
        }
        self.spent_bytes = spent;
        Ok(())
    }

    #[inline]
    pub(super) fn i16(&mut self) -> Result<i16, DecodeError> {
        self.array_of().map(i16::from_be_bytes)
    }

    #[inline]
    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        self.array_of().map(i32::from_be_bytes)
    }

    #[inline]
    pub(super) fn uuid(&mut self) -> Result<TopicId, DecodeError> {
        self.array_of().map(TopicId::from_bytes)
    }

    /// At most five bytes, and no bit beyond the 32nd.
    #[inline]
    pub(super) fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let position = self.position;
        let mut value = 0_u64;
        for index in 0..5_u32 {
            let [byte] = self.array_of()?;
            value |= u64::from(byte & 0x7f) << index.saturating_mul(7);
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| DecodeError::Varint { position });
            }
        }
        Err(DecodeError::Varint { position })
    }

    /// A length: compact, two bytes or four. `None` for null.
    #[inline]
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

    /// A string or null; what it takes is charged.
    pub(super) fn string_opt(&mut self, compact: bool) -> Result<Option<String>, DecodeError> {
        let Some(length) = self.length(compact, true)? else { return Ok(None) };
        let position = self.position;
        if length > STRING_BYTES_MAX {
            let length = i64::try_from(length).unwrap_or(i64::MAX);
            return Err(DecodeError::Length { position, length });
        }
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8 { position })?;
        if !text.is_empty() {
            self.charge(length)?;
        }
        Ok(Some(text.to_owned()))
    }

    /// A string.
    pub(super) fn string(&mut self, compact: bool) -> Result<String, DecodeError> {
        self.string_opt(compact)?.ok_or(DecodeError::Null { position: self.position })
    }

    /// Passes over bytes and says how many; `None` for null. They end at the position that the cursor then has.
    #[inline]
    pub(super) fn skip_bytes_opt(&mut self, compact: bool) -> Result<Option<usize>, DecodeError> {
        let Some(length) = self.length(compact, false)? else { return Ok(None) };
        self.take(length)?;
        Ok(Some(length))
    }

    /// The element count of an array whose elements take at least `element_bytes_min` bytes each in the frame, and
    /// `element_bytes` in memory, which are charged.
    pub(super) fn array_count(
        &mut self,
        compact: bool,
        element_bytes_min: usize,
        element_bytes: usize,
    ) -> Result<usize, DecodeError> {
        let Some(count) = self.length(compact, false)? else {
            return Err(DecodeError::Null { position: self.position });
        };
        let count_max = self.remaining().checked_div(element_bytes_min).unwrap_or(0);
        if count > count_max {
            return Err(DecodeError::Count { position: self.position, count, count_max });
        }
        if count > 0 {
            self.charge(count.saturating_mul(element_bytes))?;
        }
        Ok(count)
    }

    /// Passes over the tagged fields of a structure.
    #[inline]
    pub(super) fn skip_tags(&mut self) -> Result<(), DecodeError> {
        let count = self.unsigned_varint()?;
        for _ in 0..count {
            // Each round takes two bytes at least, so a hostile count ends with the frame.
            self.unsigned_varint()?;
            let size = usize::try_from(self.unsigned_varint()?).unwrap_or(usize::MAX);
            self.take(size)?;
        }
        Ok(())
    }
}
