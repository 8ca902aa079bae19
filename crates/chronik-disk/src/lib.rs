//! The disk as a trait.
//!
//! Everything that Chronik keeps goes through [`Disk`]: partition logs, the Raft log, checkpoints. The core
//! crates see only this trait, so a whole cluster can run in one test over disks in memory that lose what was
//! not synced, tear writes, fill up and fail.
//!
//! All calls are synchronous and may be made from any thread. No call retries: a failed sync in particular is
//! reported once, and the caller must never take a later success for the earlier data (LOG-3).

mod layer;
mod real;
mod sim;

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use layer::{DiskLayer, FileLayer};
pub use real::RealDisk;
pub use sim::{Crash, Fault, FaultRule, Operation, SECTOR_BYTES, SimDisk};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading only.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// For reading and writing; created empty where there is none.
    Create,
    /// For reading and writing; a file that exists already is an error.
    CreateNew,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The entry's name within the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
    /// The file's length in bytes, 0 for a directory.
    pub len_bytes: u64,
}

/// A file system.
///
/// A created, renamed or removed name survives a power loss only after [`Disk::sync_dir`] of its directory;
/// written bytes survive only after [`DiskFile::sync_data`].
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a directory and those above it; one that exists is no error.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory, sorted by name.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Renames a file or directory, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Whether a file or directory of this name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes that can still be written to the file system that holds `path`, and its size in bytes.
    fn space(&self, path: &Path) -> io::Result<DiskSpace>;
    /// Takes an exclusive lock on the file `path`, created where there is none, for as long as the guard lives.
    /// An error of kind `WouldBlock` says that another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;

    /// Removes a file; one that is not there is no error.
    fn remove_file_if_there(&self, path: &Path) -> io::Result<()> {
        match self.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Reads a whole file.
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let len = usize::try_from(file.len_bytes()?).map_err(io::Error::other)?;
        let mut contents = vec![0; len];
        let read = file.read_at(&mut contents, 0)?;
        contents.truncate(read);
        Ok(contents)
    }

    /// Replaces a file so that, whatever happens, the old or the new contents are found whole: writes
    /// `<path>.tmp`, syncs it, renames it over `path` and syncs the directory.
    fn replace_file(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = self.open(&temporary, OpenMode::Create)?;
        file.truncate(0)?;
        file.write_all_at(contents, 0)?;
        file.sync_data()?;
        self.rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => self.sync_dir(parent),
            None => Ok(()),
        }
    }
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still write.
    pub usable_bytes: u64,
    /// The size of the file system.
    pub total_bytes: u64,
}

/// A held lock; dropping it gives the lock back.
pub trait DiskLock: Send + Sync {}

/// An open file. Reads and writes say where: there is no cursor.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes at `offset_bytes`, fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset_bytes`. After an error any part of them may have been written.
    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()>;
    /// Writes all the slices one after the other at `offset_bytes`, in as few system calls as the platform
    /// takes. After an error any part of them may have been written.
    fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset_bytes: u64) -> io::Result<()>;
    /// Cuts or extends (with zeros) the file to `len_bytes`.
    fn truncate(&self, len_bytes: u64) -> io::Result<()>;
    /// Makes the file's bytes and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// The file's length in bytes.
    fn len_bytes(&self) -> io::Result<u64>;
    /// The operating system's descriptor, where there is one, for sending file regions without a copy.
    fn raw_fd(&self) -> Option<i32> {
        None
    }
}
