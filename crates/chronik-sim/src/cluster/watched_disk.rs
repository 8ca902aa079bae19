//! The disk that a node is given: the world's, with bits that flip on their way from it, and with counts of what was struck.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use chronik_disk::{Disk, DiskFile, DiskLayer, FileLayer, OpenMode, SimDisk};
use parking_lot::Mutex;

/// A bit that is to flip in the next read of a log that gives anything.
#[derive(Clone, Copy)]
pub(super) struct Flip {
    /// Which byte of what is read, modulo its length.
    pub(super) position_bytes: usize,
    /// Which bit of it, 0 to 7.
    pub(super) bit: u8,
}

/// What is to strike the operations of a disk, and what has struck them.
#[derive(Default)]
pub(super) struct Strikes(Mutex<State>);

#[derive(Default)]
struct State {
    armed: Vec<Flip>,
    flip_count: u64,
    refused_count: u64,
}

impl Strikes {
    pub(super) fn arm(&self, flip: Flip) {
        self.0.lock().armed.push(flip);
    }

    /// What was to strike one process does not strike the next.
    pub(super) fn disarm(&self) {
        self.0.lock().armed.clear();
    }

    /// How many bits have flipped.
    pub(super) fn flip_count(&self) -> u64 {
        self.0.lock().flip_count
    }

    /// How many writes had no room.
    pub(super) fn refused_count(&self) -> u64 {
        self.0.lock().refused_count
    }

    fn flip(&self, path: &Path, read: &mut [u8]) {
        if read.is_empty() || path.extension().is_none_or(|extension| extension != "log") {
            return;
        }
        let mut state = self.0.lock();
        let Some(flip) = state.armed.pop() else { return };
        let position = flip.position_bytes % read.len();
        read[position] ^= 1 << (flip.bit % 8);
        state.flip_count += 1;
    }

    fn note<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &outcome
            && error.kind() == io::ErrorKind::StorageFull
        {
            self.0.lock().refused_count += 1;
        }
        outcome
    }
}

pub(super) struct WatchedDisk {
    pub(super) disk: SimDisk,
    pub(super) strikes: Arc<Strikes>,
}

struct WatchedFile {
    file: Arc<dyn DiskFile>,
    path: Box<Path>,
    strikes: Arc<Strikes>,
}

impl DiskLayer for WatchedDisk {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(WatchedFile { file, path: path.into(), strikes: Arc::clone(&self.strikes) }))
    }
}

impl FileLayer for WatchedFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }

    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        let count = self.file.read_at(buffer, offset_bytes)?;
        self.strikes.flip(&self.path, &mut buffer[..count]);
        Ok(count)
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        self.strikes.note(self.file.write_all_at(bytes, offset_bytes))
    }

    fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        self.strikes.note(self.file.write_all_vectored_at(slices, offset_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_flips_once_in_what_is_read_of_a_log_and_a_write_without_room_is_counted() -> io::Result<()> {
        let (inner, strikes) = (SimDisk::new(), Arc::new(Strikes::default()));
        let disk: &dyn Disk = &WatchedDisk { disk: inner.clone(), strikes: Arc::clone(&strikes) };
        let log = disk.open(Path::new("/0.log"), OpenMode::CreateNew)?;
        let other = disk.open(Path::new("/other"), OpenMode::CreateNew)?;
        strikes.arm(Flip { position_bytes: 5, bit: 9 });
        let read = |file: &Arc<dyn DiskFile>| -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; 2];
            let count = file.read_at(&mut bytes, 0)?;
            bytes.truncate(count);
            Ok(bytes)
        };
        assert!(read(&log)?.is_empty(), "nothing to strike");
        for file in [&log, &other] {
            file.write_all_at(&[1, 1], 0)?;
        }
        assert_eq!((read(&other)?, strikes.flip_count()), (vec![1, 1], 0));
        assert_eq!((read(&log)?, strikes.flip_count()), (vec![1, 3], 1));
        assert_eq!((read(&log)?, strikes.flip_count()), (vec![1, 1], 1));
        strikes.arm(Flip { position_bytes: 0, bit: 0 });
        strikes.disarm();
        assert_eq!(read(&log)?, [1, 1]);

        assert_eq!(strikes.refused_count(), 0);
        inner.set_capacity_bytes(Some(4));
        assert!(log.write_all_at(&[1], 2).is_err());
        assert_eq!(strikes.refused_count(), 1);
        Ok(())
    }
}
