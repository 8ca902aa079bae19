//! How bytes travel between nodes: frames with a length and a checksum.
//!
//! `length u32 | crc32c u32 | payload`, big-endian. Nothing here trusts the length: it is bounded, and memory is
//! taken as the bytes arrive.

use std::io;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What stands before a payload, in bytes.
const HEADER_BYTES: usize = 8;

/// Memory that is taken for a payload before any of it has arrived; what a peer really sends decides about more.
const FIRST_READ_BYTES_MAX: usize = 64 << 10;

/// Why a frame cannot be read. The connection that it came from is of no use any more.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    /// The connection has ended.
    #[error("the connection was closed")]
    Closed,
    /// The network.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A length that no frame of this kind has.
    #[error("a frame of {len_bytes} bytes was announced, and {max_bytes} is the most")]
    TooLarge {
        /// The length.
        len_bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// The bytes are not those that were sent.
    #[error("the checksum of a frame of {len_bytes} bytes does not match")]
    Corrupt {
        /// The length.
        len_bytes: usize,
    },
}

/// Reads one frame of at most `max_bytes`.
pub(crate) async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    max_bytes: usize,
) -> Result<Bytes, FrameError> {
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest).await? {
            0 => return Err(FrameError::Closed),
            count => filled += count,
        }
    }
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let len_bytes = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let expected_crc = u32::from_be_bytes([c0, c1, c2, c3]);
    if max_bytes < len_bytes {
        return Err(FrameError::TooLarge { len_bytes, max_bytes });
    }
    let mut payload = BytesMut::with_capacity(len_bytes.min(FIRST_READ_BYTES_MAX));
    let mut limited = reader.take(len_bytes as u64);
    while payload.len() < len_bytes {
        if limited.read_buf(&mut payload).await? == 0 {
            return Err(FrameError::Closed);
        }
    }
    if crc32c::crc32c(&payload) != expected_crc {
        return Err(FrameError::Corrupt { len_bytes });
    }
    Ok(payload.freeze())
}

/// Writes one frame. The caller flushes.
pub(crate) async fn write_frame<W: AsyncWrite + Unpin>(writer: &mut W, payload: &[u8]) -> io::Result<()> {
    let len_bytes = u32::try_from(payload.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a message of more than 4 GiB"))?;
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&len_bytes.to_be_bytes());
    header[4..].copy_from_slice(&crc32c::crc32c(payload).to_be_bytes());
    writer.write_all(&header).await?;
    writer.write_all(payload).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn written(payloads: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for payload in payloads {
            run(write_frame(&mut out, payload)).unwrap();
        }
        out
    }

    #[test]
    fn frames_go_there_and_back() {
        let large = vec![7; 300_000];
        let bytes = written(&[b"", b"one", &large]);
        let mut rest = bytes.as_slice();
        run(async {
            for expected in [b"".as_slice(), b"one", &large] {
                assert_eq!(read_frame(&mut rest, 300_000).await.unwrap(), expected);
            }
            assert!(matches!(read_frame(&mut rest, 1).await, Err(FrameError::Closed)));
        });
    }

    #[test]
    fn what_is_cut_changed_or_too_long_is_refused() {
        let bytes = written(&[b"payload"]);
        for len in 0..bytes.len() {
            let error = run(read_frame(&mut &bytes[..len], 100)).unwrap_err();
            assert!(matches!(error, FrameError::Closed), "{len}: {error}");
        }
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x10;
            assert!(run(read_frame(&mut changed.as_slice(), 100)).is_err(), "{position}");
        }
        let error = run(read_frame(&mut bytes.as_slice(), 6)).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { len_bytes: 7, max_bytes: 6 }), "{error}");
        // A length without bytes behind it takes no memory to speak of.
        let mut lie = bytes;
        lie[..4].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
        let error = run(read_frame(&mut lie.as_slice(), usize::MAX)).unwrap_err();
        assert!(matches!(error, FrameError::Closed), "{error}");
    }
}
