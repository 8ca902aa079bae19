//! The write-ahead log's file: a header, then frames, each written and synced before the next is begun.
//!
//! File header, integers big-endian: magic (8 bytes), version (4), sequence (8), CRC-32C of these (4).
//! Frame: magic (4), length of the payload (4), CRC-32C of the payload (4), CRC-32C of the frame's place and of
//! these three (4), payload, end mark (4).
//!
//! The header and the first frame become visible together, by a rename. So a file has at least one whole frame,
//! and only its last frame can be torn. A bad frame with a good one after it had been synced, and is damage. A bad
//! frame at the end is torn if a part of it never arrived: the file ends early, or a sector of it is blank. If all
//! of it is there and yet wrong, a synced frame has changed, and that is damage too. Damage is named by file and
//! byte, and never repaired by forgetting what may have been promised to others.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use chronik_disk::{Disk, DiskFile, OpenMode, SECTOR_BYTES};

use super::error::StoreError;
use super::snapshot_file::write_whole;
use crate::wire::Reader;

const FILE_MAGIC: [u8; 8] = *b"CHRONIKW";
/// Version 2 has records of the first voters and of the cluster, version 1 had none.
const FILE_VERSION: u32 = 2;
const FILE_HEADER_BYTES: usize = 24;
const FRAME_MAGIC: u32 = 0x4348_5246;
const FRAME_HEADER_BYTES: usize = 16;
/// Ends every frame, so that its last sector is never blank.
const FRAME_END: u32 = 0x4652_4843;
const FRAME_END_BYTES: usize = 4;

/// An open log file.
pub(super) struct Wal {
    path: PathBuf,
    sequence: u64,
    file: Arc<dyn DiskFile>,
    len_bytes: u64,
}

/// A frame that was found in a file.
pub(super) struct Frame {
    pub(super) position_bytes: u64,
    pub(super) payload: Bytes,
}

/// The sequence number in the name of a log file.
pub(super) fn sequence_of(name: &str) -> Option<u64> {
    name.strip_prefix("wal-")?.parse().ok()
}

impl Wal {
    /// Makes a file with one frame, which is on disk when this returns.
    pub(super) fn create(
        disk: &dyn Disk,
        dir: &Path,
        sequence: u64,
        first_payload: &[u8],
    ) -> Result<Self, StoreError> {
        let path = dir.join(format!("wal-{sequence:010}"));
        let mut contents = BytesMut::with_capacity(first_payload.len().saturating_add(64));
        contents.put_slice(&FILE_MAGIC);
        contents.put_u32(FILE_VERSION);
        contents.put_u64(sequence);
        let crc = crc32c::crc32c(&contents);
        contents.put_u32(crc);
        put_frame(&mut contents, sequence, FILE_HEADER_BYTES as u64, first_payload);
        write_whole(disk, &path, &contents)?;
        let file =
            disk.open(&path, OpenMode::ReadWrite).map_err(|source| StoreError::io("open", &path, source))?;
        Ok(Self { path, sequence, file, len_bytes: contents.len() as u64 })
    }

    /// Opens a file, cuts a torn frame off its end, and gives its frames.
    pub(super) fn open(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<(Self, Vec<Frame>), StoreError> {
        let path = dir.join(format!("wal-{sequence:010}"));
        let contents =
            Bytes::from(disk.read_file(&path).map_err(|source| StoreError::io("read", &path, source))?);
        let damaged = |position: usize, reason: &str| StoreError::Damaged {
            path: path.clone(),
            position_bytes: position as u64,
            reason: reason.to_owned(),
        };
        check_file_header(&path, &contents, sequence)?;
        let mut frames = Vec::new();
        let mut position = FILE_HEADER_BYTES;
        while position < contents.len() {
            let Some(payload) = read_frame(&contents, sequence, position) else { break };
            let frame_bytes = frame_bytes(payload.len());
            frames.push(Frame { position_bytes: position as u64, payload });
            position = position.saturating_add(frame_bytes);
        }
        if frames.is_empty() {
            return Err(damaged(position, "its first frame is bad"));
        }
        let file =
            disk.open(&path, OpenMode::ReadWrite).map_err(|source| StoreError::io("open", &path, source))?;
        if position < contents.len() {
            if !is_torn(&contents, sequence, position) {
                return Err(damaged(position, "a frame that had been synced does not match its CRC"));
            }
            tracing::warn!(
                path = %path.display(),
                position_bytes = position,
                lost_bytes = contents.len().saturating_sub(position),
                "the last write to the metadata log was cut short by a crash and is dropped"
            );
            file.truncate(position as u64).map_err(|source| StoreError::io("truncate", &path, source))?;
        }
        // The last frame may have been written and not synced, or a sync of it may have failed: then the system takes
        // it for written, and only what is written again is synced. And what was cut off must not come back, to be
        // mistaken for a part of the next frame.
        if let Some(last) = frames.last()
            && let Some(start) = usize::try_from(last.position_bytes).ok()
            && let Some(bytes) = contents.get(start..position)
        {
            let written = file.write_all_at(bytes, last.position_bytes);
            written.map_err(|source| StoreError::io("write again", &path, source))?;
        }
        file.sync_data().map_err(|source| StoreError::io("sync", &path, source))?;
        Ok((Self { path, sequence, file, len_bytes: position as u64 }, frames))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Adds a frame, which is on disk when this returns.
    pub(super) fn append(&mut self, payload: &[u8]) -> Result<(), StoreError> {
        let mut frame = BytesMut::with_capacity(frame_bytes(payload.len()));
        put_frame(&mut frame, self.sequence, self.len_bytes, payload);
        if let Err(source) = self.file.write_all_at(&frame, self.len_bytes) {
            // The part that was written goes, durably, so that a later attempt finds the file as it was and
            // no crash mixes the two.
            self.file
                .truncate(self.len_bytes)
                .and_then(|()| self.file.sync_data())
                .map_err(|source| StoreError::io("truncate", &self.path, source))?;
            return Err(StoreError::write(&self.path, source));
        }
        self.file.sync_data().map_err(|source| StoreError::io("sync", &self.path, source))?;
        self.len_bytes = self.len_bytes.saturating_add(frame.len() as u64);
        Ok(())
    }
}

fn check_file_header(path: &Path, contents: &Bytes, sequence: u64) -> Result<(), StoreError> {
    let damaged = |reason: &str| StoreError::Damaged {
        path: path.to_owned(),
        position_bytes: 0,
        reason: reason.to_owned(),
    };
    let mut reader = Reader::new("the header of the metadata log", contents.clone());
    let covered = contents.get(..FILE_HEADER_BYTES.saturating_sub(4)).unwrap_or_default();
    let magic = reader.take(FILE_MAGIC.len()).map_err(|error| damaged(&error.to_string()))?;
    let version = reader.u32().map_err(|error| damaged(&error.to_string()))?;
    let found_sequence = reader.u64().map_err(|error| damaged(&error.to_string()))?;
    let crc = reader.u32().map_err(|error| damaged(&error.to_string()))?;
    if magic != FILE_MAGIC[..] || crc != crc32c::crc32c(covered) {
        return Err(damaged("its header does not match its CRC"));
    }
    if FILE_VERSION < version {
        return Err(StoreError::UnknownVersion {
            path: path.to_owned(),
            found: version,
            known: FILE_VERSION,
        });
    }
    if found_sequence != sequence {
        return Err(damaged("its name is that of another file"));
    }
    Ok(())
}

fn frame_bytes(payload_bytes: usize) -> usize {
    payload_bytes.saturating_add(FRAME_HEADER_BYTES).saturating_add(FRAME_END_BYTES)
}

fn put_frame(out: &mut BytesMut, sequence: u64, position_bytes: u64, payload: &[u8]) {
    // Entries are far smaller than this, and a batch of them is bounded by the entries that may be under way.
    let payload_bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let payload_crc = crc32c::crc32c(payload);
    out.put_u32(FRAME_MAGIC);
    out.put_u32(payload_bytes);
    out.put_u32(payload_crc);
    out.put_u32(header_crc(sequence, position_bytes, payload_bytes, payload_crc));
    out.put_slice(payload);
    out.put_u32(FRAME_END);
}

/// Covers the frame's place too, so that a frame from another file or place is none.
fn header_crc(sequence: u64, position_bytes: u64, payload_bytes: u32, payload_crc: u32) -> u32 {
    let mut covered = BytesMut::with_capacity(24);
    covered.put_u64(sequence);
    covered.put_u64(position_bytes);
    covered.put_u32(payload_bytes);
    covered.put_u32(payload_crc);
    crc32c::crc32c(&covered)
}

/// The payload's length and CRC, if there is a good frame header at this position.
fn read_frame_header(contents: &Bytes, sequence: u64, position: usize) -> Option<(usize, u32)> {
    let header = contents.get(position..position.checked_add(FRAME_HEADER_BYTES)?)?;
    let mut reader = Reader::new("a frame", contents.slice_ref(header));
    let magic = reader.u32().ok()?;
    let (payload_bytes, payload_crc, crc) = (reader.u32().ok()?, reader.u32().ok()?, reader.u32().ok()?);
    let good =
        magic == FRAME_MAGIC && crc == header_crc(sequence, position as u64, payload_bytes, payload_crc);
    good.then_some((payload_bytes as usize, payload_crc))
}

/// The payload of the frame at this position, if it is a good one.
fn read_frame(contents: &Bytes, sequence: u64, position: usize) -> Option<Bytes> {
    let (payload_bytes, payload_crc) = read_frame_header(contents, sequence, position)?;
    let start = position.checked_add(FRAME_HEADER_BYTES)?;
    let end = start.checked_add(payload_bytes)?;
    let payload = contents.get(start..end)?;
    let mark = contents.get(end..end.checked_add(FRAME_END_BYTES)?)?;
    (crc32c::crc32c(payload) == payload_crc && mark == FRAME_END.to_be_bytes())
        .then(|| contents.slice_ref(payload))
}

/// Whether the bad frame at this position is one that was being written when everything stopped.
fn is_torn(contents: &Bytes, sequence: u64, position: usize) -> bool {
    let followed = (position.saturating_add(1)..contents.len()).any(|later| {
        contents.get(later..).is_some_and(|rest| rest.starts_with(&FRAME_MAGIC.to_be_bytes()))
            && read_frame(contents, sequence, later).is_some()
    });
    if followed {
        return false;
    }
    let end = match read_frame_header(contents, sequence, position) {
        Some((payload_bytes, _)) => position.saturating_add(frame_bytes(payload_bytes)),
        None => contents.len().max(position.saturating_add(FRAME_HEADER_BYTES)),
    };
    let Some(frame) = contents.get(position..end) else {
        return true;
    };
    // Everything from some byte on is blank: the length of the file arrived, and its contents did not.
    if frame.ends_with(&[0]) {
        return true;
    }
    // The frame, cut where the disk's sectors are cut.
    let first_bytes = SECTOR_BYTES.saturating_sub(position.checked_rem(SECTOR_BYTES).unwrap_or_default());
    let (first, rest) = frame.split_at(first_bytes.min(frame.len()));
    std::iter::once(first).chain(rest.chunks(SECTOR_BYTES)).any(|part| part.iter().all(|byte| *byte == 0))
}
