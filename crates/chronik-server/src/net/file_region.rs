//! Reading regions of segment files for a socket, without making its thread wait for the disk.
//!
//! What the page cache holds is read at once. What it does not hold is an answer of its own, [`Reading::Cold`]:
//! the sender then reads that chunk on a thread that may wait.

use std::io;
use std::sync::Arc;

use chronik_disk::DiskFile;
use parking_lot::Mutex;
use rustix::fd::BorrowedFd;

/// The largest piece of a file that is read at once.
pub(crate) const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Pieces up to this length have a buffer of their own length instead of one from the pool.
const OWN_BUFFER_BYTES_MAX: usize = 16 * 1024;

/// Buffers that are kept for the next reader; more than this are freed.
const POOL_COUNT_MAX: usize = 16;

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer of up to [`CHUNK_BYTES_MAX`] that goes back to a pool when dropped. Reused because a fresh one would
/// be zeroed before each read.
#[derive(Debug)]
pub(crate) struct ChunkBuffer(Vec<u8>);

impl ChunkBuffer {
    /// A buffer of at least `len_bytes`, or of [`CHUNK_BYTES_MAX`].
    pub(crate) fn new(len_bytes: usize) -> Self {
        if len_bytes <= OWN_BUFFER_BYTES_MAX {
            return Self(vec![0; len_bytes]);
        }
        let pooled = POOL.lock().pop();
        Self(pooled.unwrap_or_else(|| vec![0; CHUNK_BYTES_MAX]))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for ChunkBuffer {
    fn drop(&mut self) {
        if self.0.len() == CHUNK_BYTES_MAX {
            let mut pool = POOL.lock();
            if pool.len() < POOL_COUNT_MAX {
                pool.push(std::mem::take(&mut self.0));
            }
        }
    }
}

/// What came of a read that must not wait.
#[derive(Debug)]
pub(crate) enum Reading {
    /// So many bytes.
    Read(usize),
    /// The disk would have to be waited for.
    Cold,
}

/// Reads what is in the page cache, or in memory.
#[cfg(target_os = "linux")]
pub(crate) fn read_now(file: &dyn DiskFile, buffer: &mut [u8], position: u64) -> io::Result<Reading> {
    use rustix::io::{Errno, IoSliceMut, ReadWriteFlags, preadv2};

    if let Some(fd) = descriptor(file) {
        match preadv2(fd, &mut [IoSliceMut::new(buffer)], position, ReadWriteFlags::NOWAIT) {
            Ok(read) => return Ok(Reading::Read(read)),
            Err(Errno::AGAIN) => return Ok(Reading::Cold),
            // The file system cannot tell; then a bounded wait it is.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.read_at(buffer, position).map(Reading::Read)
}

/// Reads what is in the page cache, or in memory.
#[cfg(not(target_os = "linux"))]
pub(crate) fn read_now(file: &dyn DiskFile, buffer: &mut [u8], position: u64) -> io::Result<Reading> {
    file.read_at(buffer, position).map(Reading::Read)
}

/// Reads a chunk, waiting for the disk as long as that takes.
pub(crate) fn read_waiting(
    file: &Arc<dyn DiskFile>,
    position: u64,
    len_bytes: usize,
) -> io::Result<(ChunkBuffer, usize)> {
    let mut buffer = ChunkBuffer::new(len_bytes);
    let wanted = buffer.0.get_mut(..len_bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let read = file.read_at(wanted, position)?;
    Ok((buffer, read))
}

/// Has the kernel send up to `len_bytes` of the file.
#[cfg(target_os = "linux")]
pub(crate) fn sendfile(
    socket: BorrowedFd<'_>,
    file: &dyn DiskFile,
    position: u64,
    len_bytes: usize,
) -> io::Result<usize> {
    let fd = descriptor(file).ok_or(io::ErrorKind::Unsupported)?;
    let mut offset = position;
    Ok(rustix::fs::sendfile(socket, fd, Some(&mut offset), len_bytes)?)
}

/// Whether [`sendfile`] can send this file.
pub(crate) fn can_sendfile(file: &dyn DiskFile) -> bool {
    cfg!(target_os = "linux") && file.raw_fd().is_some()
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "DiskFile gives its descriptor as a number")]
fn descriptor(file: &dyn DiskFile) -> Option<BorrowedFd<'_>> {
    let number = file.raw_fd().filter(|number| *number >= 0)?;
    // SAFETY: the descriptor belongs to `file`, which stays open for as long as it is borrowed here.
    Some(unsafe { BorrowedFd::borrow_raw(number) })
}
