//! Snappy as Kafka's clients frame it.
//!
//! The Java client writes the stream format of snappy-java: a header of 16 bytes, then blocks of up to 32 KiB, each
//! with its length in front. Others write larger blocks, and some write one raw block without any header, which
//! snappy-java reads as well.

use std::io::{self, Write};

use super::BatchError;

/// `0x82 "SNAPPY" 0x00`, then the version of the format and the oldest version that can read it.
const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
/// The block that snappy-java writes.
const BLOCK_BYTES: usize = 32 * 1024;
/// No snappy element of 3 bytes or more gives more than 64, nor one of 2 bytes more than 11. A block that declares more
/// than that many times its length is corrupt, and no buffer is made for it.
const EXPANSION_MAX: usize = 64;

const CORRUPT: BatchError = BatchError::Decompression("the snappy stream is corrupt or cut short");

/// Appends `input` to `out` in the stream format of snappy-java.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut writer = BlockWriter::new(out)?;
    writer.write_all(input)?;
    writer.finish().map(drop)
}

/// Writes the stream format of snappy-java, block by block.
pub(super) struct BlockWriter<W> {
    out: W,
    encoder: snap::raw::Encoder,
    /// What is not a whole block yet.
    block: Vec<u8>,
    packed: Vec<u8>,
}

impl<W: Write> BlockWriter<W> {
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        Ok(Self { out, encoder: snap::raw::Encoder::new(), block: Vec::new(), packed: Vec::new() })
    }

    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((block, rest)) = bytes.split_at_checked(BLOCK_BYTES.saturating_sub(self.block.len())) {
            // A block that is there as a whole is compressed where it lies.
            if self.block.is_empty() {
                self.write_block(block)?;
            } else {
                let mut gathered = std::mem::take(&mut self.block);
                gathered.extend_from_slice(block);
                self.write_block(&gathered)?;
                gathered.clear();
                self.block = gathered;
            }
            bytes = rest;
        }
        self.block.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() {
            let block = std::mem::take(&mut self.block);
            self.write_block(&block)?;
        }
        Ok(self.out)
    }

    fn write_block(&mut self, block: &[u8]) -> io::Result<()> {
        self.packed.resize(snap::raw::max_compress_len(block.len()), 0);
        let written = self.encoder.compress(block, &mut self.packed)?;
        let length = u32::try_from(written).map_err(io::Error::other)?.to_be_bytes();
        self.out.write_all(&length)?;
        self.out.write_all(self.packed.get(..written).unwrap_or_default())
    }
}

/// Reads the stream format and raw blocks, one block at a time.
pub(super) struct SnappyReader<'a> {
    rest: &'a [u8],
    framed: bool,
    block: Vec<u8>,
    /// How much of `block` has been handed out.
    consumed: usize,
    /// What further blocks may still declare.
    bytes_left: usize,
    bytes_max: usize,
}

impl<'a> SnappyReader<'a> {
    pub(super) fn new(input: &'a [u8], bytes_max: usize) -> Self {
        Self {
            rest: input,
            framed: input.starts_with(&MAGIC) && input.len() >= HEADER.len(),
            block: Vec::new(),
            consumed: 0,
            bytes_left: bytes_max,
            bytes_max,
        }
    }

    /// Fills the front of `target`; 0 only at the end of the stream.
    pub(super) fn read(&mut self, target: &mut [u8]) -> Result<usize, BatchError> {
        loop {
            let ready = self.block.get(self.consumed..).unwrap_or_default();
            if !ready.is_empty() || target.is_empty() {
                let count = ready.len().min(target.len());
                let (Some(to), Some(from)) = (target.get_mut(..count), ready.get(..count)) else {
                    return Err(CORRUPT);
                };
                to.copy_from_slice(from);
                self.consumed = self.consumed.saturating_add(count);
                return Ok(count);
            }
            if self.rest.is_empty() {
                return Ok(0);
            }
            self.next_block()?;
        }
    }

    /// Every call takes at least one byte of the input, so the loop that calls it ends.
    fn next_block(&mut self) -> Result<(), BatchError> {
        let compressed = if self.framed {
            // Streams may be written one behind the other, each with its header.
            while self.rest.starts_with(&MAGIC) {
                self.rest = self.rest.get(HEADER.len()..).ok_or(CORRUPT)?;
            }
            if self.rest.is_empty() {
                return Ok(());
            }
            let (&length, rest) = self.rest.split_first_chunk::<4>().ok_or(CORRUPT)?;
            let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| CORRUPT)?;
            let (block, rest) = rest.split_at_checked(length).ok_or(CORRUPT)?;
            self.rest = rest;
            block
        } else {
            std::mem::take(&mut self.rest)
        };
        let length = snap::raw::decompress_len(compressed).map_err(|_| CORRUPT)?;
        if length > compressed.len().saturating_mul(EXPANSION_MAX) {
            return Err(CORRUPT);
        }
        self.bytes_left =
            self.bytes_left.checked_sub(length).ok_or(BatchError::Inflated { bytes_max: self.bytes_max })?;
        self.block.clear();
        self.block.resize(length, 0);
        self.consumed = 0;
        let written =
            snap::raw::Decoder::new().decompress(compressed, &mut self.block).map_err(|_| CORRUPT)?;
        self.block.truncate(written);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Compression, decompress};

    fn read(input: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
        decompress(Compression::Snappy, input, bytes_max)
    }

    #[test]
    fn raw_blocks_and_any_framing_are_read() {
        let text: Vec<u8> = (0..30_000_u32).flat_map(|i| (i / 7).to_be_bytes()).collect();
        let raw = snap::raw::Encoder::new().compress_vec(&text).unwrap();
        assert_eq!(read(&raw, text.len()).unwrap(), text);

        for block_bytes in [1, 13, 70_000, 200_000] {
            let mut framed = HEADER.to_vec();
            for block in text.chunks(block_bytes).take(300) {
                let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
                framed.extend(u32::try_from(block.len()).unwrap().to_be_bytes());
                framed.extend(block);
            }
            let expected = &text[..text.len().min(block_bytes * 300)];
            assert_eq!(read(&framed, text.len()).unwrap(), expected);
            // The same once more: one stream behind the other.
            let twice = [framed.clone(), framed].concat();
            assert_eq!(read(&twice, 2 * text.len()).unwrap(), [expected, expected].concat());
        }
        assert_eq!(read(&HEADER, 0).unwrap(), b"");
    }

    #[test]
    fn blocks_have_the_length_of_snappy_java() {
        let mut out = Vec::new();
        compress(&vec![1; BLOCK_BYTES + 1], &mut out).unwrap();
        let first = u32::from_be_bytes(*out[16..].first_chunk().unwrap());
        let first_block = &out[20..][..first as usize];
        assert_eq!(snap::raw::decompress_len(first_block).unwrap(), BLOCK_BYTES);
    }

    #[test]
    fn hostile_lengths_make_no_buffer() {
        // A raw block that declares 4 GiB.
        for bytes_max in [1_000, usize::MAX] {
            assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], bytes_max), Err(CORRUPT));
        }
        let mut framed = HEADER.to_vec();
        framed.extend([0xff, 0xff, 0xff, 0xff, 0]);
        assert_eq!(read(&framed, usize::MAX), Err(CORRUPT));
        framed.truncate(18);
        assert_eq!(read(&framed, usize::MAX), Err(CORRUPT));
    }
}
