//! What can go wrong between bytes and values.

/// Why bytes are not the message that they should be. Positions count from the start of the frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends inside a value.
    #[error("the value at byte {position} needs {needed_bytes} bytes and {remaining_bytes} are left")]
    Truncated {
        /// Where the value begins.
        position: usize,
        /// What it needs.
        needed_bytes: usize,
        /// What is there.
        remaining_bytes: usize,
    },
    /// A length below −1, or one that no such value may have.
    #[error("the length {length} at byte {position} is not legal here")]
    Length {
        /// Where the length ends.
        position: usize,
        /// The length.
        length: i64,
    },
    /// More elements than the rest of the frame can hold.
    #[error(
        "the array at byte {position} claims {count} elements; the rest of the frame has room for {count_max}"
    )]
    Count {
        /// Where the elements begin.
        position: usize,
        /// The claim.
        count: usize,
        /// The most that fits.
        count_max: usize,
    },
    /// A null where this version has none.
    #[error("the value at byte {position} is null, which this version does not allow")]
    Null {
        /// Where the length ends.
        position: usize,
    },
    /// A variable-length integer that is too long or overflows.
    #[error("the variable-length integer at byte {position} is longer than its type")]
    Varint {
        /// Where it begins.
        position: usize,
    },
    /// A string that is not UTF-8.
    #[error("the string at byte {position} is not UTF-8")]
    Utf8 {
        /// Where it begins.
        position: usize,
    },
    /// The decoded message would take more memory than the request may.
    #[error("the message at byte {position} exceeds its memory budget of {budget_bytes} bytes")]
    Budget {
        /// Where the value begins that is too much.
        position: usize,
        /// The whole budget.
        budget_bytes: usize,
    },
    /// A known tagged field that does not fill the size that stands before it.
    #[error("the tagged field {tag} ends {remaining_bytes} bytes before its size says")]
    TagSize {
        /// The tag.
        tag: u32,
        /// Bytes left over.
        remaining_bytes: usize,
    },
    /// Bytes after the message.
    #[error("{remaining_bytes} bytes follow the message")]
    Trailing {
        /// How many.
        remaining_bytes: usize,
    },
    /// A version that the message does not have.
    #[error("{message} has no version {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
    },
}

/// Why a value cannot be written in a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The version lacks the field, and dropping its value would change the meaning.
    #[error("{field} has a value that version {version} cannot carry")]
    Unsupported {
        /// Structure and field.
        field: &'static str,
        /// The version.
        version: i16,
    },
    /// The version has no null for the field.
    #[error("{field} is null, which this version does not allow")]
    Null {
        /// Structure and field.
        field: &'static str,
    },
    /// More bytes or elements than the protocol can count.
    #[error("{field} has {length} bytes or elements; the protocol can count {length_max}")]
    TooLong {
        /// Structure and field.
        field: &'static str,
        /// Its length.
        length: usize,
        /// The most that can be written.
        length_max: usize,
    },
    /// A version that the message does not have.
    #[error("{message} has no version {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
    },
}

impl EncodeError {
    pub(crate) const fn unsupported(field: &'static str, version: i16) -> Self {
        Self::Unsupported { field, version }
    }
}
