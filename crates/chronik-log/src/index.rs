//! The two sparse indexes of a segment, in Kafka's format.
//!
//! `.index` holds 8 bytes an entry: the last offset of a batch, relative to the segment's base offset, and the
//! position of that batch. `.timeindex` holds 12: the largest timestamp so far, and the last offset of the batch
//! that brought it. Entries are made about every `index.interval.bytes`.
//!
//! New entries stay in memory and are written with the next checkpoint or when the segment is closed; those on disk
//! are searched there. So a segment that no one appends to costs no memory for its indexes, however large it is.

use std::io;

use chronik_disk::DiskFile;

use crate::bytes_io::{ByteReader, put_i64, put_u32};

/// An entry of an index.
pub(crate) trait IndexEntry: Copy {
    /// Its size in the file.
    const BYTES: usize;
    fn encode(self, out: &mut Vec<u8>);
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// An entry of `.index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OffsetEntry {
    /// The last offset of the batch, less the segment's base offset.
    pub(crate) relative_offset: u32,
    /// Where the batch starts in the segment's file.
    pub(crate) position: u32,
}

impl IndexEntry for OffsetEntry {
    const BYTES: usize = 8;

    fn encode(self, out: &mut Vec<u8>) {
        put_u32(out, self.relative_offset);
        put_u32(out, self.position);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = ByteReader::new(bytes);
        Some(Self { relative_offset: reader.read_u32()?, position: reader.read_u32()? })
    }
}

/// An entry of `.timeindex`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    /// The largest timestamp up to and including the batch.
    pub(crate) timestamp: i64,
    /// The last offset of the batch that has it, less the segment's base offset.
    pub(crate) relative_offset: u32,
}

impl IndexEntry for TimeEntry {
    const BYTES: usize = 12;

    fn encode(self, out: &mut Vec<u8>) {
        put_i64(out, self.timestamp);
        put_u32(out, self.relative_offset);
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = ByteReader::new(bytes);
        Some(Self { timestamp: reader.read_i64()?, relative_offset: reader.read_u32()? })
    }
}

/// An index: what is on disk, and what is still to be written.
#[derive(Clone, Debug)]
pub(crate) struct Index<E> {
    /// Entries in the file.
    on_disk_count: u32,
    /// The entries after those.
    tail: Vec<E>,
    /// The last entry in the file.
    last_on_disk: Option<E>,
}

impl<E> Default for Index<E> {
    fn default() -> Self {
        Self { on_disk_count: 0, tail: Vec::new(), last_on_disk: None }
    }
}

/// Where to go on with a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<E> {
    /// Nothing is at or below what is looked for.
    Nothing,
    /// This entry is the last at or below it.
    Entry(E),
    /// It is among the first so many entries of the file.
    OnDisk(u32),
}

impl<E: IndexEntry> Index<E> {
    /// An index whose entries are all in its file.
    pub(crate) fn on_disk(count: u32, last_on_disk: Option<E>) -> Self {
        Self { on_disk_count: count, tail: Vec::new(), last_on_disk }
    }

    pub(crate) fn last(&self) -> Option<E> {
        self.tail.last().copied().or(self.last_on_disk)
    }

    pub(crate) fn last_on_disk(&self) -> Option<E> {
        self.last_on_disk
    }

    pub(crate) fn len(&self) -> usize {
        self.on_disk_count as usize + self.tail.len()
    }

    pub(crate) fn on_disk_count(&self) -> u32 {
        self.on_disk_count
    }

    pub(crate) fn push(&mut self, entry: E) {
        self.tail.push(entry);
    }

    /// The entries that are not in the file yet.
    pub(crate) fn unwritten(&self) -> &[E] {
        &self.tail
    }

    /// Notes that the first `count` unwritten entries are in the file now.
    pub(crate) fn mark_written(&mut self, count: usize) {
        if let Some(last) = self.tail.drain(..count.min(self.tail.len())).last() {
            self.last_on_disk = Some(last);
        }
        self.tail.shrink_to(64);
        self.on_disk_count = self.on_disk_count.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Finds the last entry for which `at_or_below` holds; it must hold for all entries before that one.
    pub(crate) fn find(&self, at_or_below: impl Fn(&E) -> bool) -> Found<E> {
        let in_tail = self.tail.partition_point(&at_or_below);
        if let Some(entry) = in_tail.checked_sub(1).and_then(|at| self.tail.get(at)) {
            return Found::Entry(*entry);
        }
        if self.on_disk_count == 0 { Found::Nothing } else { Found::OnDisk(self.on_disk_count) }
    }

    /// Drops the entries for which `keep` does not hold, which are all at the end. Those in the file that go are
    /// told by the new count; the caller cuts the file.
    pub(crate) fn truncate(
        &mut self,
        file: Option<&dyn DiskFile>,
        keep: impl Fn(&E) -> bool,
    ) -> io::Result<()> {
        let in_tail = self.tail.partition_point(&keep);
        self.tail.truncate(in_tail);
        if in_tail > 0 {
            return Ok(());
        }
        if let (Some(file), true) = (file, self.on_disk_count > 0) {
            let count = partition_point_on_disk(file, self.on_disk_count, &keep)?;
            file.truncate(u64::from(count) * E::BYTES as u64)?;
            self.on_disk_count = count;
            self.last_on_disk = match count.checked_sub(1) {
                Some(at) => read_entry(file, at)?,
                None => None,
            };
        }
        Ok(())
    }
}

/// Reads the entry at `at`, or `None` where the file is too short.
pub(crate) fn read_entry<E: IndexEntry>(file: &dyn DiskFile, at: u32) -> io::Result<Option<E>> {
    let mut bytes = [0; 16];
    let bytes = bytes.get_mut(..E::BYTES).unwrap_or_default();
    let read = file.read_at(bytes, u64::from(at) * E::BYTES as u64)?;
    Ok(if read == E::BYTES { E::decode(bytes) } else { None })
}

/// How many of the first `count` entries of a file satisfy `keep`. A file that is too short counts as ending early.
fn partition_point_on_disk<E: IndexEntry>(
    file: &dyn DiskFile,
    count: u32,
    keep: impl Fn(&E) -> bool,
) -> io::Result<u32> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        match read_entry::<E>(file, middle)? {
            Some(entry) if keep(&entry) => low = middle + 1,
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

/// Finds among the first `count` entries of a file the last for which `at_or_below` holds.
pub(crate) fn find_on_disk<E: IndexEntry>(
    file: &dyn DiskFile,
    count: u32,
    at_or_below: impl Fn(&E) -> bool,
) -> io::Result<Option<E>> {
    match partition_point_on_disk(file, count, at_or_below)?.checked_sub(1) {
        Some(at) => read_entry(file, at),
        None => Ok(None),
    }
}

/// The bytes of entries as they stand in the file.
pub(crate) fn encode_all<E: IndexEntry>(entries: &[E]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * E::BYTES);
    for entry in entries {
        entry.encode(&mut out);
    }
    out
}
