//! The producers' state out of snapshots and batches.

use std::collections::BTreeSet;

use chronik_disk::{DiskFile, OpenMode};
use chronik_types::TopicPartition;

use crate::dir::LogDir;
use crate::marker::marker_epoch;
use crate::producer_state::ProducerState;
use crate::scan::{BatchWalker, FoundBatch, ScanError};
use crate::segment::Segment;
use crate::{LogError, names};

/// The marker in a batch whose header was found.
pub(super) fn read_marker(file: &dyn DiskFile, found: &FoundBatch) -> Result<Option<i32>, ScanError> {
    if !found.header.attributes.is_control() {
        return Ok(None);
    }
    let mut bytes = vec![0; found.header.size_bytes];
    let read = file.read_at(&mut bytes, found.position)?;
    bytes.truncate(read);
    Ok(marker_epoch(&found.header, &bytes))
}

/// The producers' state as of `end_offset`: the last good snapshot before it, and what the batches after that say. Gives
/// the snapshots too that turned out damaged; their files are removed.
///
/// A snapshot from before the first segment says nothing: the batches that followed it are deleted. A power loss may bring
/// one back that went with its segment. Of a producer with no batch in what is left nothing is known then, and it may go
/// on with any sequence, as in Kafka; held against its old state it would be refused.
pub(crate) fn rebuild_producers(
    dir: &LogDir,
    partition: &TopicPartition,
    segments: &[Segment],
    snapshots: &BTreeSet<i64>,
    end_offset: i64,
) -> Result<(ProducerState, Vec<i64>), LogError> {
    let mut damaged = Vec::new();
    let mut producers = ProducerState::default();
    let mut from_offset = i64::MIN;
    let first_base = segments.first().map_or(end_offset, |segment| segment.base_offset);
    for &offset in snapshots.range(..=end_offset).rev().take_while(|&&offset| first_base <= offset) {
        let path = dir.file_path(partition, offset, names::SNAPSHOT);
        let snapshot = dir.disk.read_file(&path).ok().as_deref().and_then(ProducerState::from_snapshot);
        if let Some(snapshot) = snapshot {
            producers = snapshot;
            from_offset = offset;
            break;
        }
        tracing::warn!(path = %path.display(), "the producer snapshot is damaged; an earlier one is taken");
        damaged.push(offset);
        let removed = dir.disk.remove_file_if_there(&path);
        removed.map_err(|source| dir.write_failed("remove", &path, source))?;
    }
    for segment in segments.iter().filter(|segment| from_offset < segment.next_offset) {
        let path = dir.file_path(partition, segment.base_offset, names::LOG);
        let replay = |producers: &mut ProducerState| -> Result<(), ScanError> {
            let file = dir.open(&path, OpenMode::Read)?;
            let mut walker = BatchWalker::headers(&*file, 0, segment.size_bytes);
            while let Some(found) = walker.next_header()? {
                if end_offset <= found.header.base_offset.get() {
                    break;
                }
                if from_offset <= found.header.base_offset.get() {
                    let marker = read_marker(&*file, &found)?;
                    producers.replay(&found.header, marker);
                }
            }
            Ok(())
        };
        replay(&mut producers).map_err(|error| match error {
            ScanError::Io(source) => LogError::io("read", &path, source),
            ScanError::Batch { position, error } => {
                LogError::Corrupt { path: path.clone(), position, source: error }
            }
        })?;
    }
    Ok((producers, damaged))
}
