//! Writing a produced batch in another codec (`compression.type`, KIP-390).
//!
//! The records themselves do not change: their bytes go from one codec into the other, so that headers keep their
//! order, their duplicates and whatever bytes they hold. What was inflated is not kept: beyond
//! [`STREAM_FROM_BYTES`] it streams into the encoder, and the output ends where the largest batch ends. So a bomb takes
//! neither memory nor, as inflating is bounded too, more than a moment.

use std::io::{self, Write};

use bytes::BytesMut;
use chronik_types::TimestampMs;

use super::compression::{CompressError, compress, gzip_level, lz4_encoder};
use super::header::write_header;
use super::inspect::{Sink, inspect_into};
use super::snappy::BlockWriter;
use super::{
    BATCH_HEADER_BYTES, BatchAttributes, BatchError, BatchHeader, Compression, RecordRules, RecordsFacts,
    inspect_records,
};

/// Up to here the inflated records are gathered and compressed as a whole, which compresses better and sets up less.
const STREAM_FROM_BYTES: usize = 1024 * 1024;

/// What to make of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recompression {
    /// The codec, another one than the batch has.
    pub codec: Compression,
    /// Its level; `None` takes the codec's default.
    pub level: Option<i32>,
    /// The broker's time for all records, which makes the batch `LogAppendTime`; `None` keeps each record's own.
    pub log_append_time: Option<TimestampMs>,
    /// The most bytes that the records may inflate to.
    pub inflated_bytes_max: usize,
    /// The most bytes of the new batch, header and all.
    pub batch_bytes_max: usize,
}

/// A batch in its new codec.
#[derive(Debug)]
pub struct Recompressed {
    /// The batch, with its own CRC.
    pub batch: BytesMut,
    /// Its header.
    pub header: BatchHeader,
}

/// Why a batch was not recompressed.
#[derive(Debug, thiserror::Error)]
pub enum RecompressError {
    /// The batch is at fault.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The codec is.
    #[error(transparent)]
    Compress(#[from] CompressError),
}

/// Looks at every record of `batch` like [`inspect_records`], and writes them in the codec that `wanted` names. There is
/// no new batch where a record breaks a rule.
pub fn recompress(
    batch: &[u8],
    header: &BatchHeader,
    rules: &RecordRules,
    wanted: Recompression,
) -> Result<(RecordsFacts, Option<Recompressed>), RecompressError> {
    let (facts, out) = if header.attributes.compression() == Some(Compression::None) {
        let facts = inspect_records(batch, header, rules, wanted.inflated_bytes_max)?;
        if facts.fault_count > 0 {
            return Ok((facts, None));
        }
        let records = batch.get(BATCH_HEADER_BYTES..header.size_bytes).unwrap_or_default();
        let mut out = vec![0; BATCH_HEADER_BYTES];
        compress(wanted.codec, wanted.level, records, &mut out)?;
        (facts, out)
    } else {
        let mut sink = Repacking::new(wanted);
        let inspected = inspect_into(batch, header, rules, wanted.inflated_bytes_max, &mut sink);
        if let Some(failure) = sink.failure {
            return Err(failure);
        }
        let facts = inspected?;
        if facts.fault_count > 0 {
            return Ok((facts, None));
        }
        (facts, sink.finish()?)
    };
    if out.len() > wanted.batch_bytes_max {
        let (size_bytes, bytes_max) = (out.len(), wanted.batch_bytes_max);
        return Err(BatchError::TooLarge { size_bytes, bytes_max }.into());
    }
    let recompressed = with_header(out, header, &facts, wanted);
    Ok((facts, Some(recompressed)))
}

fn with_header(
    out: Vec<u8>,
    header: &BatchHeader,
    facts: &RecordsFacts,
    wanted: Recompression,
) -> Recompressed {
    let mut batch = BytesMut::from(bytes::Bytes::from(out));
    let attributes = header.attributes.with_compression(wanted.codec).0 & !BatchAttributes::LOG_APPEND_TIME;
    let stamp = if wanted.log_append_time.is_some() { BatchAttributes::LOG_APPEND_TIME } else { 0 };
    let header = BatchHeader {
        size_bytes: batch.len(),
        attributes: BatchAttributes(attributes | stamp),
        max_timestamp: wanted.log_append_time.unwrap_or(facts.max_timestamp),
        ..*header
    };
    let crc = write_header(&mut batch, &header);
    Recompressed { batch, header: BatchHeader { crc, ..header } }
}

/// Takes inflated records and compresses them.
struct Repacking {
    wanted: Recompression,
    /// The records so far, until there are too many to gather.
    gathered: Vec<u8>,
    encoder: Option<Encoder>,
    /// What the encoder failed with, which stops the inflating as well.
    failure: Option<RecompressError>,
}

impl Repacking {
    fn new(wanted: Recompression) -> Self {
        Self { wanted, gathered: Vec::new(), encoder: None, failure: None }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), RecompressError> {
        if let Some(encoder) = &mut self.encoder {
            return encoder.write_all(bytes).map_err(|source| self.wanted.failed(source));
        }
        if self.gathered.len().saturating_add(bytes.len()) <= STREAM_FROM_BYTES {
            self.gathered.extend_from_slice(bytes);
            return Ok(());
        }
        let mut encoder = Encoder::new(self.wanted).map_err(|source| self.wanted.failed(source))?;
        let gathered = std::mem::take(&mut self.gathered);
        encoder
            .write_all(&gathered)
            .and_then(|()| encoder.write_all(bytes))
            .map_err(|source| self.wanted.failed(source))?;
        self.encoder = Some(encoder);
        Ok(())
    }

    fn finish(self) -> Result<Vec<u8>, RecompressError> {
        if let Some(encoder) = self.encoder {
            return encoder.finish().map_err(|source| self.wanted.failed(source));
        }
        let mut out = vec![0; BATCH_HEADER_BYTES];
        compress(self.wanted.codec, self.wanted.level, &self.gathered, &mut out)?;
        Ok(out)
    }
}

impl Sink for Repacking {
    fn take(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        self.write(bytes).map_err(|failure| {
            self.failure = Some(failure);
            BatchError::Inconsistent("its records could not be compressed again")
        })
    }
}

impl Recompression {
    fn failed(&self, source: io::Error) -> RecompressError {
        if source.kind() == io::ErrorKind::FileTooLarge {
            let bytes_max = self.batch_bytes_max;
            return BatchError::TooLarge { size_bytes: bytes_max.saturating_add(1), bytes_max }.into();
        }
        CompressError::Codec { codec: self.codec, source }.into()
    }
}

/// The output, which ends where the largest batch does.
pub(super) struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len().saturating_add(bytes.len()) > self.bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Encoder {
    Plain(Bounded),
    Gzip(Box<flate2::write::GzEncoder<Bounded>>),
    Snappy(Box<BlockWriter<Bounded>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Bounded>>),
    Zstd(::zstd::stream::write::Encoder<'static, Bounded>),
}

impl Encoder {
    fn new(wanted: Recompression) -> io::Result<Self> {
        let out = Bounded { bytes: vec![0; BATCH_HEADER_BYTES], bytes_max: wanted.batch_bytes_max };
        let level = wanted.level.or_else(|| wanted.codec.levels().map(|levels| levels.default));
        Ok(match wanted.codec {
            Compression::None => Self::Plain(out),
            Compression::Gzip => Self::Gzip(Box::new(flate2::write::GzEncoder::new(out, gzip_level(level)))),
            Compression::Snappy => Self::Snappy(Box::new(BlockWriter::new(out)?)),
            Compression::Lz4 => Self::Lz4(Box::new(lz4_encoder(out))),
            Compression::Zstd => Self::Zstd(::zstd::stream::write::Encoder::new(out, level.unwrap_or(0))?),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Snappy(encoder) => encoder.write_all(bytes),
            Self::Lz4(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        let out = match self {
            Self::Plain(out) => out,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Snappy(encoder) => encoder.finish()?,
            Self::Lz4(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        Ok(out.bytes)
    }
}

#[cfg(test)]
mod tests;
