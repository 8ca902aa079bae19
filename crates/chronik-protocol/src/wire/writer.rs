//! Values to bytes.

use bytes::{BufMut, Bytes, BytesMut};
use chronik_types::TopicId;

use super::{EncodeError, STRING_BYTES_MAX};

/// The largest length of anything but a string.
const LENGTH_MAX: usize = 0x7fff_ffff;

/// Builds one message.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: BytesMut,
}

/// The tagged fields of one structure while they are written.
#[derive(Debug)]
pub struct TagBlock {
    count_position: usize,
    count: u8,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty writer with room for `capacity_bytes`.
    pub fn with_capacity(capacity_bytes: usize) -> Self {
        Self { buffer: BytesMut::with_capacity(capacity_bytes) }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// What has been written.
    pub fn into_bytes(self) -> Bytes {
        self.buffer.freeze()
    }

    /// What has been written, still to be changed.
    pub fn into_bytes_mut(self) -> BytesMut {
        self.buffer
    }

    /// Writes `value` over the four bytes at `position`, which must have been written.
    pub(crate) fn patch_i32(&mut self, position: usize, value: i32) {
        let place = position.checked_add(4).and_then(|end| self.buffer.get_mut(position..end));
        if let Some(place) = place {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) {
        self.buffer.put_u8(u8::from(value));
    }

    /// An int8.
    pub fn i8(&mut self, value: i8) {
        self.buffer.put_i8(value);
    }

    /// An int16.
    pub fn i16(&mut self, value: i16) {
        self.buffer.put_i16(value);
    }

    /// An int32.
    pub fn i32(&mut self, value: i32) {
        self.buffer.put_i32(value);
    }

    /// An int64.
    pub fn i64(&mut self, value: i64) {
        self.buffer.put_i64(value);
    }

    /// A uint16.
    pub fn u16(&mut self, value: u16) {
        self.buffer.put_u16(value);
    }

    /// A uint32.
    pub fn u32(&mut self, value: u32) {
        self.buffer.put_u32(value);
    }

    /// A float64.
    pub fn f64(&mut self, value: f64) {
        self.buffer.put_f64(value);
    }

    /// A UUID.
    pub fn uuid(&mut self, value: TopicId) {
        self.buffer.put_slice(&value.to_bytes());
    }

    /// Bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
    }

    /// An unsigned varint of 32 bits.
    pub fn unsigned_varint(&mut self, value: u32) {
        self.varint_bits(u64::from(value));
    }

    /// A zigzag varint of 32 bits.
    pub fn varint(&mut self, value: i32) {
        self.unsigned_varint(((value << 1) ^ (value >> 31)).cast_unsigned());
    }

    /// A zigzag varint of 64 bits.
    pub fn varlong(&mut self, value: i64) {
        self.varint_bits(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn varint_bits(&mut self, mut value: u64) {
        loop {
            let [low, ..] = value.to_le_bytes();
            value >>= 7;
            if value == 0 {
                self.buffer.put_u8(low);
                return;
            }
            self.buffer.put_u8(low | 0x80);
        }
    }

    /// A length that has been checked against its maximum, which is far below what 32 bits count.
    fn length(
        &mut self,
        length: usize,
        compact: bool,
        length_max: usize,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        let error = EncodeError::TooLong { field, length, length_max };
        if length > length_max {
            return Err(error);
        }
        if compact {
            self.unsigned_varint(u32::try_from(length.saturating_add(1)).map_err(|_| error)?);
        } else if length_max == STRING_BYTES_MAX {
            self.i16(i16::try_from(length).map_err(|_| error)?);
        } else {
            self.i32(i32::try_from(length).map_err(|_| error)?);
        }
        Ok(())
    }

    fn null(
        &mut self,
        compact: bool,
        is_string: bool,
        nullable: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        if !nullable {
            return Err(EncodeError::Null { field });
        }
        if compact {
            self.unsigned_varint(0);
        } else if is_string {
            self.i16(-1);
        } else {
            self.i32(-1);
        }
        Ok(())
    }

    /// A string. `field` is for the error.
    pub fn string(&mut self, value: &str, compact: bool, field: &'static str) -> Result<(), EncodeError> {
        self.length(value.len(), compact, STRING_BYTES_MAX, field)?;
        self.raw(value.as_bytes());
        Ok(())
    }

    /// A string or, when `nullable`, null.
    pub fn string_opt(
        &mut self,
        value: Option<&str>,
        compact: bool,
        nullable: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.string(value, compact, field),
            None => self.null(compact, true, nullable, field),
        }
    }

    /// Bytes with their length.
    pub fn bytes(&mut self, value: &[u8], compact: bool, field: &'static str) -> Result<(), EncodeError> {
        self.length(value.len(), compact, LENGTH_MAX, field)?;
        self.raw(value);
        Ok(())
    }

    /// Bytes or, when `nullable`, null.
    pub fn bytes_opt(
        &mut self,
        value: Option<&[u8]>,
        compact: bool,
        nullable: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.bytes(value, compact, field),
            None => self.null(compact, false, nullable, field),
        }
    }

    /// The count of an array, whose elements the caller writes next.
    pub fn array_count(
        &mut self,
        count: usize,
        compact: bool,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        self.length(count, compact, LENGTH_MAX, field)
    }

    /// An array.
    pub fn array<T>(
        &mut self,
        values: &[T],
        compact: bool,
        field: &'static str,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.array_count(values.len(), compact, field)?;
        values.iter().try_for_each(|value| write(self, value))
    }

    /// An array or, when `nullable`, null.
    pub fn array_opt<T>(
        &mut self,
        values: Option<&[T]>,
        compact: bool,
        nullable: bool,
        field: &'static str,
        write: impl FnMut(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match values {
            Some(values) => self.array(values, compact, field, write),
            None => self.null(compact, false, nullable, field),
        }
    }

    /// A structure or, when `nullable`, null, with the byte before it that tells.
    pub fn struct_opt<T>(
        &mut self,
        value: Option<&T>,
        nullable: bool,
        field: &'static str,
        write: impl FnOnce(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => {
                if nullable {
                    self.i8(1);
                }
                write(self, value)
            }
            None if nullable => {
                self.i8(-1);
                Ok(())
            }
            None => Err(EncodeError::Null { field }),
        }
    }

    /// A tagged structure or, when `nullable`, null, with the varint before it that tells.
    pub fn tagged_struct_opt<T>(
        &mut self,
        value: Option<&T>,
        nullable: bool,
        field: &'static str,
        write: impl FnOnce(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => {
                if nullable {
                    self.unsigned_varint(1);
                }
                write(self, value)
            }
            None if nullable => {
                self.unsigned_varint(0);
                Ok(())
            }
            None => Err(EncodeError::Null { field }),
        }
    }

    /// Ends a flexible structure that has no tagged field to write.
    pub fn no_tags(&mut self) {
        self.unsigned_varint(0);
    }

    /// Begins the tagged fields of a structure.
    pub fn begin_tags(&mut self) -> TagBlock {
        let count_position = self.buffer.len();
        self.buffer.put_u8(0);
        TagBlock { count_position, count: 0 }
    }

    /// Writes one tagged field. Tags must ascend, and there are fewer than 128 of them.
    pub fn tag(
        &mut self,
        block: &mut TagBlock,
        tag: u32,
        write: impl FnOnce(&mut Self) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        block.count = block.count.saturating_add(1);
        debug_assert!(block.count < 0x80, "the count of tagged fields takes one byte");
        self.unsigned_varint(tag);
        // The size stands before the value and has a variable length itself: write the value, then make room.
        let start = self.buffer.len();
        write(self)?;
        let end = self.buffer.len();
        let size = end.saturating_sub(start);
        let size = u32::try_from(size).map_err(|_| EncodeError::TooLong {
            field: "tagged field",
            length: size,
            length_max: LENGTH_MAX,
        })?;
        self.unsigned_varint(size);
        if let Some(value_and_size) = self.buffer.get_mut(start..) {
            value_and_size.rotate_left(end.saturating_sub(start));
        }
        Ok(())
    }

    /// Ends the tagged fields of a structure.
    pub fn end_tags(&mut self, block: &TagBlock) {
        if let Some(count) = self.buffer.get_mut(block.count_position) {
            *count = block.count;
        }
    }
}
