//! Which partitions changed since the last checkpoint.
//!
//! A partition is noted before its first append after a checkpoint, and before each cut. After the process died,
//! recovery takes a partition that is not noted as the checkpoint has it, checks what an appended-to one has beyond
//! the checkpoint, and checks a cut one from its last synced point.
//!
//! The file is named by the generation of the checkpoint that comes after it. It is not synced: it guards against
//! the death of the process, after which the page cache is still there. After a reboot it is not believed.
//!
//! Notes of cuts and cleans are the exception: they are synced, as they make what was synced before untrue. So is the note
//! of a new start before segments go: without it their absence would look like a loss.
//!
//! A note says whose log it is about, by the topic's id, as a power loss may take the note of a deletion and leave those before
//! it: they are not about the log of the next topic of the name.
//!
//! Layout: notes one after the other, each the kind (1 byte), an offset (8 bytes), the topic's id (16 bytes), the name of the
//! partition's directory after its length (2 bytes), and the CRC-32C of all that.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chronik_disk::{Disk, DiskFile, OpenMode};
use chronik_types::{TopicId, TopicPartition};

use crate::bytes_io::{ByteReader, put_i64, put_str, put_u32, put_u128};

const PREFIX: &str = "chronik-journal-";

/// What is about to happen to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum NoteKind {
    /// Batches are appended.
    Append = 1,
    /// Batches are cut off the end.
    Cut = 2,
    /// The log is emptied and starts at the note's offset.
    Restart = 3,
    /// The start moves to the note's offset.
    LogStart = 4,
    /// The partition is deleted.
    Delete = 5,
    /// Segments below the note's offset, all of it synced, are replaced by cleaned ones. The cleaned segment that is
    /// being put in place when everything stops replaces the segments up to the offset of the last such note.
    Clean = 6,
}

impl NoteKind {
    const ALL: [Self; 6] =
        [Self::Append, Self::Cut, Self::Restart, Self::LogStart, Self::Delete, Self::Clean];

    /// Whether the note must always survive a power loss.
    pub(crate) const fn is_synced(self) -> bool {
        match self {
            Self::Cut | Self::Restart | Self::Clean => true,
            Self::Append | Self::LogStart | Self::Delete => false,
        }
    }
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) kind: NoteKind,
    pub(crate) offset: i64,
    /// Of deletions, and of logs that were nobody's, it is zero.
    pub(crate) topic_id: TopicId,
    /// The name of the partition's directory.
    pub(crate) partition: String,
}

/// The journal that notes are added to. Its file is made with the first note.
pub(crate) struct Journal {
    dir: PathBuf,
    generation: u64,
    file: Option<Arc<dyn DiskFile>>,
    len_bytes: u64,
}

impl Journal {
    pub(crate) fn new(dir: PathBuf, generation: u64) -> Self {
        Self { dir, generation, file: None, len_bytes: 0 }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn path(&self) -> PathBuf {
        path(&self.dir, self.generation)
    }

    /// Adds a note, and gives the file, which the caller syncs where the note must survive a power loss.
    pub(crate) fn note(
        &mut self,
        disk: &dyn Disk,
        partition: &TopicPartition,
        topic_id: TopicId,
        kind: NoteKind,
        offset: i64,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let file = if let Some(file) = &self.file {
            Arc::clone(file)
        } else {
            let file = disk.open(&self.path(), OpenMode::Create)?;
            self.len_bytes = file.len_bytes()?;
            Arc::clone(self.file.insert(file))
        };
        let mut note = vec![kind as u8];
        put_i64(&mut note, offset);
        put_u128(&mut note, topic_id.0);
        put_str(&mut note, &partition.to_string());
        let crc = crc32c::crc32c(&note);
        put_u32(&mut note, crc);
        file.write_all_at(&note, self.len_bytes)?;
        self.len_bytes += note.len() as u64;
        Ok(file)
    }

    /// The file, if there is one.
    pub(crate) fn file(&self) -> Option<Arc<dyn DiskFile>> {
        self.file.clone()
    }
}

/// The path of the journal of a generation.
pub(crate) fn path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{generation}"))
}

/// The generation of a journal by its file's name.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// The notes in a journal, in their order. The second value is false when the file ends in something that is no note;
/// a partition missing for that reason is found by the size of its files.
pub(crate) fn read(contents: &[u8]) -> (Vec<Note>, bool) {
    let mut notes = Vec::new();
    let mut rest = contents;
    while !rest.is_empty() {
        let Some((note, after)) = read_note(rest) else { return (notes, false) };
        notes.push(note);
        rest = after;
    }
    (notes, true)
}

fn read_note(bytes: &[u8]) -> Option<(Note, &[u8])> {
    let mut reader = ByteReader::new(bytes);
    let code = *reader.read_bytes(1)?.first()?;
    let kind = NoteKind::ALL.into_iter().find(|&kind| kind as u8 == code)?;
    let offset = reader.read_i64()?;
    let topic_id = TopicId(reader.read_u128()?);
    let partition = reader.read_str()?.to_owned();
    let covered = bytes.get(..bytes.len() - reader.rest().len())?;
    if reader.read_u32()? != crc32c::crc32c(covered) {
        return None;
    }
    Some((Note { kind, offset, topic_id, partition }, reader.rest()))
}
