//! Reading zstd frames with a decoder that is used again: setting one up costs more than a small batch.

use std::cell::Cell;

use ::zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, ResetDirective};

use super::BatchError;

/// A decoder that has grown beyond this, for a frame with a large window, is not kept. Each thread keeps one.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

const CORRUPT: BatchError = BatchError::Decompression("the zstd frame is corrupt or cut short");

thread_local! {
    static KEPT: Cell<Option<DCtx<'static>>> = const { Cell::new(None) };
}

/// Reads one frame after another until the input ends.
pub(super) struct ZstdReader<'a> {
    input: InBuffer<'a>,
    /// `None` once the reader is dropped.
    decoder: Option<DCtx<'static>>,
    is_in_frame: bool,
}

impl<'a> ZstdReader<'a> {
    pub(super) fn new(input: &'a [u8]) -> Result<Self, BatchError> {
        let decoder = KEPT.take().or_else(DCtx::try_create);
        let decoder = decoder.ok_or(BatchError::Decompression("the zstd decoder could not be set up"))?;
        Ok(Self { input: InBuffer::around(input), decoder: Some(decoder), is_in_frame: false })
    }

    /// Fills the front of `target`; 0 only at the end of the last frame.
    pub(super) fn read(&mut self, target: &mut [u8]) -> Result<usize, BatchError> {
        if target.is_empty() {
            return Ok(0);
        }
        let decoder = self.decoder.as_mut().ok_or(CORRUPT)?;
        // Each round either gives bytes or takes some of the input, so the loop ends.
        loop {
            if !self.is_in_frame && self.input.pos() == self.input.src.len() {
                return Ok(0);
            }
            let before = self.input.pos();
            let mut output = OutBuffer::around(target);
            let hint = decoder.decompress_stream(&mut output, &mut self.input).map_err(|_| CORRUPT)?;
            self.is_in_frame = hint != 0;
            let written = output.pos();
            if written > 0 {
                return Ok(written);
            }
            if self.input.pos() == before {
                return Err(CORRUPT);
            }
        }
    }
}

impl Drop for ZstdReader<'_> {
    fn drop(&mut self) {
        if let Some(mut decoder) = self.decoder.take()
            && decoder.sizeof() <= KEPT_BYTES_MAX
            && decoder.reset(ResetDirective::SessionOnly).is_ok()
        {
            KEPT.set(Some(decoder));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Compression, compress, decompress};

    #[test]
    fn frames_are_read_one_behind_the_other_whatever_came_before() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(|at| (at % 1_013).to_be_bytes()).collect();
        let mut frame = Vec::new();
        compress(Compression::Zstd, None, &text, &mut frame).unwrap();
        let twice = [&frame[..], &frame].concat();
        for _ in 0..3 {
            // A reader that is given up in the middle, or that fails, leaves nothing to the next.
            let mut given_up = ZstdReader::new(&frame).unwrap();
            assert!(given_up.read(&mut [0; 1_000]).unwrap() > 0);
            drop(given_up);
            assert_eq!(decompress(Compression::Zstd, b"garbage garbage", 100), Err(CORRUPT));
            assert_eq!(
                decompress(Compression::Zstd, &twice, usize::MAX).unwrap(),
                [&text[..], &text].concat()
            );
        }
        assert_eq!(decompress(Compression::Zstd, b"", 100).unwrap(), b"");
        assert_eq!(decompress(Compression::Zstd, &frame[..frame.len() - 1], usize::MAX), Err(CORRUPT));
        assert_eq!(decompress(Compression::Zstd, &[&frame[..], b"more"].concat(), usize::MAX), Err(CORRUPT));
    }
}
