//! Compressing and decompressing the records of a batch, as Kafka's clients write and read them.
//!
//! Nothing here trusts a length that the compressed bytes declare: output grows as it is really produced, and every
//! reader stops at the limit that its caller names, so a decompression bomb is an error and not an allocation.

use std::io::{self, Read, Write};

use super::lz4::Lz4Reader;
use super::snappy::{self, SnappyReader};
use super::zstd::ZstdReader;
use super::{BatchError, Compression};

/// Decompressed bytes are asked for in pieces of this size.
pub(super) const CHUNK_BYTES: usize = 16 * 1024;

/// The levels of one codec, as `compression.gzip.level` and its like take them (KIP-390).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionLevels {
    /// The lowest level.
    pub min: i32,
    /// The highest level.
    pub max: i32,
    /// The level when none is named. For gzip this is −1, which lies below `min` and is allowed.
    pub default: i32,
}

impl Compression {
    /// The levels of this codec, `None` where it has none.
    pub const fn levels(self) -> Option<CompressionLevels> {
        match self {
            Self::None | Self::Snappy => None,
            Self::Gzip => Some(CompressionLevels { min: 1, max: 9, default: -1 }),
            Self::Lz4 => Some(CompressionLevels { min: 1, max: 17, default: 9 }),
            Self::Zstd => Some(CompressionLevels { min: -131_072, max: 22, default: 3 }),
        }
    }

    /// The name in `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of a name in `compression.type`; `producer` and `uncompressed` are for whoever reads that config.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|codec| codec.name() == name)
    }
}

impl CompressionLevels {
    /// Whether `level` can be asked for.
    pub const fn allows(self, level: i32) -> bool {
        (self.min <= level && level <= self.max) || level == self.default
    }
}

/// Why records were not compressed.
#[derive(Debug, thiserror::Error)]
pub enum CompressError {
    /// The codec has no such level.
    #[error("{} has no compression level {level}", codec.name())]
    Level {
        /// The codec.
        codec: Compression,
        /// The level that was asked for.
        level: i32,
    },
    /// The codec failed.
    #[error("compressing with {} failed", codec.name())]
    Codec {
        /// The codec.
        codec: Compression,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// Appends `input`, compressed, to `out`.
///
/// `level` is one of [`Compression::levels`]; `None` takes the default. lz4 has one speed here: its levels are
/// accepted and make no difference.
pub fn compress(
    codec: Compression,
    level: Option<i32>,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), CompressError> {
    let chosen = match (codec.levels(), level) {
        (Some(levels), None) => levels.default,
        (Some(levels), Some(level)) if levels.allows(level) => level,
        (None, None) => 0,
        (_, Some(level)) => return Err(CompressError::Level { codec, level }),
    };
    let written = match codec {
        Compression::None => {
            out.extend_from_slice(input);
            Ok(())
        }
        Compression::Gzip => gzip(chosen, input, out),
        Compression::Snappy => snappy::compress(input, out),
        Compression::Lz4 => lz4(input, out),
        Compression::Zstd => zstd(chosen, input, out),
    };
    written.map_err(|source| CompressError::Codec { codec, source })
}

fn gzip(level: i32, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(out, gzip_level(Some(level)));
    encoder.write_all(input)?;
    encoder.finish().map(drop)
}

/// The level as the encoder takes it; −1 is its own default.
pub(super) fn gzip_level(level: Option<i32>) -> flate2::Compression {
    let level = level.and_then(|level| u32::try_from(level).ok());
    level.map_or_else(flate2::Compression::default, flate2::Compression::new)
}

fn lz4(input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = lz4_encoder(out);
    encoder.write_all(input)?;
    encoder.finish().map(drop).map_err(io::Error::other)
}

/// An encoder of frames as Kafka's own.
pub(super) fn lz4_encoder<W: Write>(out: W) -> lz4_flex::frame::FrameEncoder<W> {
    // Kafka's reader refuses blocks that depend on each other; 64 KiB is the block that its writer uses.
    let frame = lz4_flex::frame::FrameInfo::new()
        .block_mode(lz4_flex::frame::BlockMode::Independent)
        .block_size(lz4_flex::frame::BlockSize::Max64KB);
    lz4_flex::frame::FrameEncoder::with_frame_info(frame, out)
}

fn zstd(level: i32, input: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let mut encoder = ::zstd::stream::write::Encoder::new(out, level)?;
    encoder.set_pledged_src_size(Some(input.len() as u64))?;
    encoder.write_all(input)?;
    encoder.finish().map(drop)
}

/// Decompresses `input` whole. More than `bytes_max` bytes of output are [`BatchError::Inflated`].
pub fn decompress(codec: Compression, input: &[u8], bytes_max: usize) -> Result<Vec<u8>, BatchError> {
    let mut stream = Inflate::new(codec, input, bytes_max)?;
    let mut out = Vec::new();
    while stream.read_chunk(&mut out, CHUNK_BYTES)? > 0 {}
    Ok(out)
}

/// A decompressed stream that is produced piece by piece, up to a limit.
pub(super) struct Inflate<'a> {
    reader: Reader<'a>,
    /// What may still be produced.
    bytes_left: usize,
    bytes_max: usize,
}

enum Reader<'a> {
    Plain(&'a [u8]),
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'a [u8]>>),
    Snappy(Box<SnappyReader<'a>>),
    Lz4(Box<Lz4Reader<'a>>),
    Zstd(ZstdReader<'a>),
}

impl<'a> Inflate<'a> {
    pub(super) fn new(codec: Compression, input: &'a [u8], bytes_max: usize) -> Result<Self, BatchError> {
        let reader = match codec {
            Compression::None => Reader::Plain(input),
            Compression::Gzip => Reader::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
            Compression::Snappy => Reader::Snappy(Box::new(SnappyReader::new(input, bytes_max))),
            Compression::Lz4 => Reader::Lz4(Box::new(Lz4Reader::new(input)?)),
            Compression::Zstd => Reader::Zstd(ZstdReader::new(input)?),
        };
        Ok(Self { reader, bytes_left: bytes_max, bytes_max })
    }

    /// Appends up to `wanted_bytes` more bytes to `out`, at least one unless the stream has ended, and says how many.
    pub(super) fn read_chunk(&mut self, out: &mut Vec<u8>, wanted_bytes: usize) -> Result<usize, BatchError> {
        // One byte beyond the limit is asked for, so that a stream that ends at the limit is told from one beyond.
        let room = wanted_bytes.min(self.bytes_left.saturating_add(1));
        let before = out.len();
        out.resize(before.saturating_add(room), 0);
        let read = self.read(out.get_mut(before..).unwrap_or_default());
        out.truncate(before.saturating_add(*read.as_ref().unwrap_or(&0)));
        read
    }

    /// Fills the front of `target`, with one byte at least unless the stream has ended, and says how many.
    pub(super) fn read(&mut self, target: &mut [u8]) -> Result<usize, BatchError> {
        let read = match &mut self.reader {
            Reader::Plain(rest) => read_some(rest, target, "it cannot be read"),
            Reader::Gzip(reader) => read_some(reader, target, "the gzip stream is corrupt or cut short"),
            Reader::Snappy(reader) => reader.read(target),
            Reader::Lz4(reader) => reader.read(target),
            Reader::Zstd(reader) => reader.read(target),
        };
        let read = read?;
        match self.bytes_left.checked_sub(read) {
            Some(left) => self.bytes_left = left,
            None => return Err(BatchError::Inflated { bytes_max: self.bytes_max }),
        }
        Ok(read)
    }
}

fn read_some(reader: &mut impl Read, target: &mut [u8], failure: &'static str) -> Result<usize, BatchError> {
    reader.read(target).map_err(|_| BatchError::Decompression(failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODECS: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn packed(codec: Compression, level: Option<i32>, input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(codec, level, input, &mut out).unwrap();
        out
    }

    #[test]
    fn every_codec_gives_back_what_it_took() {
        let mut noise = Vec::new();
        let mut state = 7_u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.push(state.to_be_bytes()[0]);
        }
        let inputs: [&[u8]; 4] = [b"", b"x", &vec![b'a'; 200_000], &noise];
        for codec in CODECS {
            for input in inputs {
                let bytes = packed(codec, None, input);
                assert_eq!(decompress(codec, &bytes, input.len()).unwrap(), input, "{codec:?}");
            }
        }
    }

    #[test]
    fn a_bomb_is_an_error() {
        let zeros = vec![0; 4 * 1024 * 1024];
        for codec in CODECS {
            let bytes = packed(codec, None, &zeros);
            assert_eq!(decompress(codec, &bytes, zeros.len()).unwrap().len(), zeros.len());
            for bytes_max in [0, 1, CHUNK_BYTES, zeros.len() - 1] {
                let error = decompress(codec, &bytes, bytes_max).unwrap_err();
                assert_eq!(error, BatchError::Inflated { bytes_max }, "{codec:?}");
            }
        }
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let input: Vec<u8> = (0..600_u32).flat_map(u32::to_be_bytes).collect();
        for codec in CODECS {
            if codec == Compression::None {
                continue;
            }
            let bytes = packed(codec, None, &input);
            for cut in 1..bytes.len() {
                // A snappy stream says nowhere how long it is, so a cut between two blocks cannot be seen.
                let result = decompress(codec, &bytes[..cut], input.len());
                if codec == Compression::Snappy {
                    assert!(result.is_err() || result.unwrap().len() < input.len());
                } else {
                    assert!(result.is_err(), "{codec:?} cut at {cut} of {}", bytes.len());
                }
            }
        }
    }

    #[test]
    fn levels_are_those_of_kafka() {
        for codec in CODECS {
            let Some(levels) = codec.levels() else {
                assert!(compress(codec, Some(1), b"abc", &mut Vec::new()).is_err());
                continue;
            };
            for level in [levels.min, levels.default, levels.max] {
                let bytes = packed(codec, Some(level), b"abcabcabcabcabcabc");
                assert_eq!(decompress(codec, &bytes, 18).unwrap(), b"abcabcabcabcabcabc");
            }
            for level in [levels.min - 1, levels.max + 1].into_iter().filter(|&level| level != levels.default)
            {
                assert!(compress(codec, Some(level), b"abc", &mut Vec::new()).is_err(), "{codec:?} {level}");
            }
        }
    }
}
