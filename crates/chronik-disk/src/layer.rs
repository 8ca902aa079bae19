//! Disks over other disks: what a test or a simulation has go otherwise, and nothing else of the disk below.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::{DirEntry, Disk, DiskFile, DiskLock, DiskSpace, OpenMode};

/// A disk that passes everything on to the one below, but for what it defines itself.
pub trait DiskLayer: Send + Sync + 'static {
    /// The disk below.
    fn below(&self) -> &dyn Disk;

    /// See [`Disk::open`].
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.below().open(path, mode)
    }

    /// See [`Disk::rename`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.below().rename(from, to)
    }

    /// See [`Disk::lock`].
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.below().lock(path)
    }
}

/// A file that passes everything on to the one below, but for what it defines itself. It has no descriptor, through which
/// it could be read past it.
pub trait FileLayer: Send + Sync + 'static {
    /// The file below.
    fn below(&self) -> &dyn DiskFile;

    /// See [`DiskFile::read_at`].
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.below().read_at(buffer, offset_bytes)
    }

    /// See [`DiskFile::write_all_at`].
    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        self.below().write_all_at(bytes, offset_bytes)
    }

    /// See [`DiskFile::write_all_vectored_at`].
    fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        self.below().write_all_vectored_at(slices, offset_bytes)
    }

    /// See [`DiskFile::sync_data`].
    fn sync_data(&self) -> io::Result<()> {
        self.below().sync_data()
    }
}

impl<L: DiskLayer> Disk for L {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        DiskLayer::open(self, path, mode)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.below().create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.below().read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        DiskLayer::rename(self, from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.below().remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.below().remove_dir_all(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.below().exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.below().sync_dir(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        self.below().space(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        DiskLayer::lock(self, path)
    }
}

impl<F: FileLayer> DiskFile for F {
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        FileLayer::read_at(self, buffer, offset_bytes)
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        FileLayer::write_all_at(self, bytes, offset_bytes)
    }

    fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        FileLayer::write_all_vectored_at(self, slices, offset_bytes)
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        self.below().truncate(len_bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        FileLayer::sync_data(self)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.below().len_bytes()
    }
}
