//! Reading LZ4 frames as Kafka reads them: block by block, a missing end is an error, checksums are passed over.
//!
//! The CRC of the batch covers the frame already, and clients exist whose frame checksums are wrong and which Kafka
//! takes. Blocks that depend on their predecessors are read too, which Kafka does not, but other consumers do.

use super::BatchError;

const MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
/// How far back a block may refer into its predecessors.
const WINDOW_BYTES: usize = 64 * 1024;
/// No LZ4 block gives more than 255 bytes for each of its own.
const EXPANSION_MAX: usize = 255;

const CORRUPT: BatchError = BatchError::Decompression("the lz4 frame is corrupt or cut short");

/// Reads one frame after another until the input ends.
pub(super) struct Lz4Reader<'a> {
    rest: &'a [u8],
    /// The frame that is being read, `None` before the first and after an end mark.
    frame: Option<Frame>,
    /// What blocks may refer back to, then the block that is being handed out.
    output: Vec<u8>,
    consumed: usize,
}

#[derive(Clone, Copy)]
struct Frame {
    block_bytes_max: usize,
    linked_blocks: bool,
    block_checksums: bool,
    content_checksum: bool,
}

impl<'a> Lz4Reader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Result<Self, BatchError> {
        // A compressed nothing is a frame too.
        if input.is_empty() {
            return Err(CORRUPT);
        }
        Ok(Self { rest: input, frame: None, output: Vec::new(), consumed: 0 })
    }

    /// Fills the front of `target`; 0 only at the end of the last frame.
    pub(super) fn read(&mut self, target: &mut [u8]) -> Result<usize, BatchError> {
        loop {
            let ready = self.output.get(self.consumed..).unwrap_or_default();
            if !ready.is_empty() || target.is_empty() {
                let count = ready.len().min(target.len());
                let (Some(to), Some(from)) = (target.get_mut(..count), ready.get(..count)) else {
                    return Err(CORRUPT);
                };
                to.copy_from_slice(from);
                self.consumed = self.consumed.saturating_add(count);
                return Ok(count);
            }
            match self.frame {
                None if self.rest.is_empty() => return Ok(0),
                None => self.frame = Some(self.frame_header()?),
                Some(frame) => self.next_block(frame)?,
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CORRUPT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn frame_header(&mut self) -> Result<Frame, BatchError> {
        self.output.clear();
        self.consumed = 0;
        if self.take(4)? != MAGIC {
            return Err(BatchError::Decompression("these are no lz4 frames"));
        }
        let &[flags, block] = self.take(2)? else { return Err(CORRUPT) };
        // Version 1; the reserved bit is 0; no dictionary is known to both sides.
        if flags & 0b1100_0011 != 0b0100_0000 {
            return Err(BatchError::Decompression("the lz4 frame has an unknown version or a dictionary"));
        }
        let block_bytes_max = match block >> 4 & 7 {
            4 => 64 * 1024,
            5 => 256 * 1024,
            6 => 1024 * 1024,
            7 => 4 * 1024 * 1024,
            _ => return Err(BatchError::Decompression("the lz4 frame has an unknown block size")),
        };
        if flags & 0b1000 != 0 {
            self.take(8)?;
        }
        self.take(1)?;
        Ok(Frame {
            block_bytes_max,
            linked_blocks: flags & 0b10_0000 == 0,
            block_checksums: flags & 0b1_0000 != 0,
            content_checksum: flags & 0b100 != 0,
        })
    }

    /// Every call takes at least four bytes of the input, so the loop that calls it ends.
    fn next_block(&mut self, frame: Frame) -> Result<(), BatchError> {
        let &length = self.take(4)?.first_chunk().ok_or(CORRUPT)?;
        let length = u32::from_le_bytes(length);
        if length == 0 {
            if frame.content_checksum {
                self.take(4)?;
            }
            self.frame = None;
            return Ok(());
        }
        let stored = length & 0x8000_0000 != 0;
        let length = usize::try_from(length & 0x7fff_ffff).map_err(|_| CORRUPT)?;
        if length > frame.block_bytes_max {
            return Err(CORRUPT);
        }
        let block = self.take(length)?;
        if frame.block_checksums {
            self.take(4)?;
        }
        let window = if frame.linked_blocks { WINDOW_BYTES } else { 0 };
        self.output.drain(..self.output.len().saturating_sub(window));
        self.consumed = self.output.len();
        if stored {
            self.output.extend_from_slice(block);
            return Ok(());
        }
        let room = frame.block_bytes_max.min(length.saturating_mul(EXPANSION_MAX));
        let (dictionary, mut target) = (self.output.clone(), std::mem::take(&mut self.output));
        target.resize(self.consumed.saturating_add(room), 0);
        let tail = target.get_mut(self.consumed..).unwrap_or_default();
        let written = if dictionary.is_empty() {
            lz4_flex::block::decompress_into(block, tail)
        } else {
            lz4_flex::block::decompress_into_with_dict(block, tail, &dictionary)
        };
        let written = written.map_err(|_| CORRUPT)?;
        target.truncate(self.consumed.saturating_add(written));
        self.output = target;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;
    use crate::records::{Compression, decompress};

    fn read(input: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
        decompress(Compression::Lz4, input, bytes_max)
    }

    fn frame(info: FrameInfo, text: &[u8]) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_kind_of_frame_is_read() {
        let text: Vec<u8> = (0..100_000_u32).flat_map(|i| (i % 3_001 * 7).to_be_bytes()).collect();
        for mode in [BlockMode::Independent, BlockMode::Linked] {
            for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
                for checksums in [false, true] {
                    let info = FrameInfo::new()
                        .block_mode(mode)
                        .block_size(size)
                        .block_checksums(checksums)
                        .content_checksum(checksums)
                        .content_size(checksums.then_some(text.len() as u64));
                    let bytes = frame(info, &text);
                    assert_eq!(read(&bytes, text.len()).unwrap(), text);
                    let twice = [&bytes[..], &bytes].concat();
                    assert_eq!(read(&twice, 2 * text.len()).unwrap(), [&text[..], &text].concat());
                }
            }
        }
    }

    #[test]
    fn a_wrong_content_checksum_is_passed_over() {
        let mut bytes = frame(FrameInfo::new().content_checksum(true), b"hello, hello, hello");
        *bytes.last_mut().unwrap() ^= 0xff;
        assert_eq!(read(&bytes, 100).unwrap(), b"hello, hello, hello");
        bytes.pop();
        assert_eq!(read(&bytes, 100), Err(CORRUPT));
    }

    #[test]
    fn hostile_lengths_make_no_buffer() {
        let start = [4, 0x22, 0x4d, 0x18, 0x60, 0x70, 0];
        for length in [0x7fff_ffff_u32, 0xffff_ffff, 4 * 1024 * 1024 + 1, 5] {
            let bytes = [&start[..], &length.to_le_bytes(), &[1, 2, 3, 4]].concat();
            assert_eq!(read(&bytes, usize::MAX), Err(CORRUPT));
        }
        // Blocks as long as the frame says, and one byte longer.
        for (length, fits) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
            let block = vec![7; usize::try_from(length).unwrap()];
            let stored = (length | 0x8000_0000_u32).to_le_bytes();
            let bytes = [&[4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0], &stored[..], &block, &[0; 4]].concat();
            assert_eq!(read(&bytes, usize::MAX), if fits { Ok(block) } else { Err(CORRUPT) });
        }
        assert_eq!(read(&[&start[..], &[0; 4]].concat(), 0), Ok(Vec::new()));
        assert!(read(&[5, 0x22, 0x4d, 0x18, 0x60, 0x70, 0, 0, 0, 0, 0], 9).is_err());
    }
}
