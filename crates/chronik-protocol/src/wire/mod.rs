//! The primitive encodings of the Kafka protocol, with limits.
//!
//! A [`Reader`] walks one frame and hands out values. Byte fields are slices of the frame, not copies. It trusts
//! nothing: a length must fit what is left of the frame, an array must have room for its smallest elements, and
//! everything that a value will occupy in memory is charged to a budget before it is allocated.
//!
//! A [`Writer`] is the other direction. What cannot be expressed in a version is an error, never a guess.

mod error;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use error::{DecodeError, EncodeError};
pub use reader::{
    ARRAY_PREALLOCATED_COUNT_MAX, BUDGET_FLOOR_BYTES, BUDGET_FRAME_MULTIPLE, Reader, STRING_BYTES_MAX,
};
pub use writer::{TagBlock, Writer};
