//! The file of a snapshot. Layout, integers big-endian: magic (8 bytes), version (4), index (8), term (8), length of
//! the data (8), CRC-32C of all that (4), CRC-32C of the data (4), data.

use std::path::{Path, PathBuf};

use bytes::{BufMut, Bytes, BytesMut};
use chronik_disk::{Disk, OpenMode};

use super::error::StoreError;
use crate::wire::{Reader, WireError};

const MAGIC: [u8; 8] = *b"CHRONIKS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 44;
/// The part of the header that its own CRC covers.
const COVERED_BYTES: usize = 36;

/// A snapshot and the place that it stands for.
pub(super) struct SnapshotFile {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) data: Bytes,
}

/// The file's name: by index for people, by sequence because a node may be given the same index twice.
pub(super) fn name(index: u64, sequence: u64) -> String {
    format!("snapshot-{index:020}-{sequence:010}.bin")
}

pub(super) fn path(dir: &Path, index: u64, sequence: u64) -> PathBuf {
    dir.join(name(index, sequence))
}

pub(super) fn is_name(name: &str) -> bool {
    name.starts_with("snapshot-") && Path::new(name).extension().is_some_and(|extension| extension == "bin")
}

impl SnapshotFile {
    /// Writes the file so that it is there whole or not at all.
    pub(super) fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
        let mut out = BytesMut::with_capacity(HEADER_BYTES.saturating_add(self.data.len()));
        out.put_slice(&MAGIC);
        out.put_u32(VERSION);
        out.put_u64(self.index);
        out.put_u64(self.term);
        out.put_u64(self.data.len() as u64);
        let crc = crc32c::crc32c(&out);
        out.put_u32(crc);
        out.put_u32(crc32c::crc32c(&self.data));
        out.put_slice(&self.data);
        write_whole(disk, path, &out)
    }

    pub(super) fn read(disk: &dyn Disk, path: &Path) -> Result<Self, StoreError> {
        let contents =
            Bytes::from(disk.read_file(path).map_err(|source| StoreError::io("read", path, source))?);
        let damaged = |position_bytes: usize, reason: &str| StoreError::Damaged {
            path: path.to_owned(),
            position_bytes: position_bytes as u64,
            reason: reason.to_owned(),
        };
        let short = |_: WireError| damaged(contents.len(), "it ends in its header");
        let mut reader = Reader::new("a snapshot file", contents.clone());
        if reader.take(MAGIC.len()).map_err(short)? != MAGIC[..] {
            return Err(damaged(0, "it is no snapshot"));
        }
        let version = reader.u32().map_err(short)?;
        if VERSION < version {
            return Err(StoreError::UnknownVersion { path: path.to_owned(), found: version, known: VERSION });
        }
        let (index, term) = (reader.u64().map_err(short)?, reader.u64().map_err(short)?);
        let data_bytes = reader.u64().map_err(short)?;
        let (header_crc, data_crc) = (reader.u32().map_err(short)?, reader.u32().map_err(short)?);
        if contents.get(..COVERED_BYTES).map(crc32c::crc32c) != Some(header_crc) {
            return Err(damaged(0, "its header has another CRC"));
        }
        let data = contents.slice(HEADER_BYTES..);
        if data.len() as u64 != data_bytes {
            return Err(damaged(contents.len(), "it is not as long as its header says"));
        }
        if crc32c::crc32c(&data) != data_crc {
            return Err(damaged(HEADER_BYTES, "its data has another CRC"));
        }
        Ok(Self { index, term, data })
    }
}

/// Writes a file under a temporary name, syncs it, gives it its name and syncs the directory.
///
/// A write that fails for lack of room leaves nothing behind and may be tried again. Any other failure leaves it
/// open what is on the disk.
pub(super) fn write_whole(disk: &dyn Disk, path: &Path, contents: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("tmp");
    let file =
        disk.open(&temporary, OpenMode::Create).map_err(|source| StoreError::write(&temporary, source))?;
    file.truncate(0).map_err(|source| StoreError::io("truncate", &temporary, source))?;
    if let Err(source) = file.write_all_at(contents, 0) {
        if let Err(error) = disk.remove_file(&temporary) {
            tracing::warn!(path = %temporary.display(), %error, "an unfinished file stays");
        }
        return Err(StoreError::write(&temporary, source));
    }
    file.sync_data().map_err(|source| StoreError::io("sync", &temporary, source))?;
    disk.rename(&temporary, path).map_err(|source| StoreError::io("rename", &temporary, source))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.sync_dir(dir).map_err(|source| StoreError::io("sync", dir, source))
}
