//! The batches in a stretch of log, one after another.

use super::{BatchError, BatchHeader};

/// One batch where it lies in a stretch of log.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Its header. The CRC has not been checked.
    pub header: BatchHeader,
    /// All of it, header and records: `header.size_bytes` bytes.
    pub bytes: &'a [u8],
    /// Where it begins in the stretch.
    pub position: usize,
}

/// Walks the batches of a stretch of log that begins with a batch.
///
/// It ends without an error where less than a whole batch is left: a fetch may cut its last batch, and a crash may
/// tear the last write. [`BatchIter::position`] then says where the whole batches end. Bytes that cannot be a batch
/// are an error, after which it ends. Every item takes at least a header, so it always comes to an end.
#[derive(Clone, Debug)]
pub struct BatchIter<'a> {
    bytes: &'a [u8],
    position: usize,
    failed: bool,
}

impl<'a> BatchIter<'a> {
    /// Starts at the front of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, failed: false }
    }

    /// The end of the last batch that was returned, from the front of the stretch.
    pub const fn position(&self) -> usize {
        self.position
    }

    /// Bytes that have not been returned as a batch; after the end: the torn tail.
    pub fn remaining_bytes(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<Batch<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let rest = self.bytes.get(self.position..)?;
        let header = match BatchHeader::parse(rest) {
            Ok(header) => header,
            Err(BatchError::Truncated { .. }) => return None,
            Err(error) => {
                self.failed = true;
                return Some(Err(error));
            }
        };
        let bytes = rest.get(..header.size_bytes)?;
        let position = self.position;
        self.position = position.saturating_add(header.size_bytes);
        Some(Ok(Batch { header, bytes, position }))
    }
}
