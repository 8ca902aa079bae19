//! C9, LOG-1 and LOG-2: what lies on the disks in the end.

use std::collections::BTreeMap;

use chronik_disk::Disk;
use chronik_log::Log;
use chronik_protocol::records::{BatchIter, RecordIter};
use chronik_raft::MetadataLog as _;
use chronik_raft::metadata::TopicImage;
use chronik_types::{NodeId, PartitionIndex, TopicPartition};

use super::super::effects::position;
use super::super::node::Node;
use super::{Checkers, PartitionKey, Rule, Value};

/// The most bytes that a batch's records inflate to.
const INFLATED_BYTES_MAX: usize = 1 << 20;

/// One batch as it lies on a disk.
struct Stored {
    base_offset: i64,
    bytes: Vec<u8>,
}

impl Checkers {
    /// Compares all replicas of all partitions with each other and with what is known.
    pub(in crate::cluster) fn replicas(&mut self, nodes: &[Node]) {
        let Some(image) = nodes.iter().find_map(|node| Some(node.process.as_ref()?.handle.image())) else {
            return;
        };
        for topic in image.topics() {
            for (index, state) in topic.partitions() {
                self.partition(nodes, topic, index, &state.replicas);
                if !self.is_content() {
                    return;
                }
            }
        }
        self.final_topics(&image);
    }

    fn partition(&mut self, nodes: &[Node], topic: &TopicImage, index: PartitionIndex, replicas: &[NodeId]) {
        let key = PartitionKey { topic: topic.id, partition: index.get() };
        let name = TopicPartition { topic: std::sync::Arc::clone(&topic.name), partition: index };
        let mut first: Option<(NodeId, i64, Vec<Stored>)> = None;
        for id in replicas {
            let node = &nodes[position(*id)];
            let log = node.process.as_ref().and_then(|process| process.logs.get(&name));
            // Nobody has written to a partition that was never opened.
            let stored = match &log {
                Some(log) => match stored(&node.disk, log) {
                    Ok(stored) => stored,
                    Err(text) => {
                        self.report(Rule::Logs, format!("{name} at node {id}: {text}"));
                        continue;
                    }
                },
                None => Vec::new(),
            };
            let begin = log.map_or(0, |log| log.log_start_offset().get());
            // Nobody deletes records of other topics, and nothing is old enough to go by itself.
            let is_due = if topic.name.starts_with('t') { self.may_begin_at(key, begin) } else { begin == 0 };
            if !is_due {
                let text = format!("{name} at node {id} begins at {begin}, and nobody has deleted that much");
                self.report(Rule::SameBytes, text);
            }
            let Some((other, other_begin, batches)) = &first else {
                first = Some((*id, begin, stored));
                continue;
            };
            let begin = begin.max(*other_begin);
            let after = |batch: &&Stored| begin <= batch.base_offset;
            let (mut ours, mut theirs) = (stored.iter().filter(after), batches.iter().filter(after));
            loop {
                match (ours.next(), theirs.next()) {
                    (None, None) => break,
                    (Some(one), Some(two)) if one.bytes == two.bytes => {}
                    (one, two) => {
                        let at = one.or(two).map_or(0, |batch| batch.base_offset);
                        let told = |batch: Option<&Stored>| {
                            batch.map_or_else(|| "nothing".to_owned(), |batch| format!("{:?}", tell(batch)))
                        };
                        let text = format!(
                            "{name} at offset {at}: node {id} has {}, node {other} has {}",
                            told(one),
                            told(two)
                        );
                        self.report(Rule::SameBytes, text);
                        break;
                    }
                }
            }
        }
        let Some((_, begin, batches)) = first else { return };
        if !topic.name.starts_with('t') {
            return;
        }
        let mut values = BTreeMap::new();
        for batch in &batches {
            for (offset, value) in records(batch).into_iter().filter(|(offset, _)| begin <= *offset) {
                values.insert(offset, value);
            }
        }
        self.final_values(key, begin, &values);
    }
}

fn tell(batch: &Stored) -> (i64, usize, Vec<(i64, Value)>) {
    (batch.base_offset, batch.bytes.len(), records(batch))
}

fn records(batch: &Stored) -> Vec<(i64, Value)> {
    let mut values = Vec::new();
    if let Ok(mut records) = RecordIter::new(&batch.bytes, INFLATED_BYTES_MAX) {
        while let Ok(Some(record)) = records.next_record() {
            if let Some(value) = record.value.and_then(Value::decode) {
                values.push((record.offset.get(), value));
            }
        }
    }
    values
}

/// The batches of a log, in order, as its files have them.
fn stored(disk: &chronik_disk::SimDisk, log: &Log) -> Result<Vec<Stored>, String> {
    let dir = log.log_dir().join(log.topic_partition().to_string());
    let mut stored = Vec::new();
    let begin = log.log_start_offset().get();
    let (mut next_offset, mut last_epoch) = (None, i32::MIN);
    for entry in disk.read_dir(&dir).map_err(|error| error.to_string())? {
        if !entry.name.ends_with(".log") {
            continue;
        }
        let bytes = disk.read_file(&dir.join(&entry.name)).map_err(|error| error.to_string())?;
        let mut batches = BatchIter::new(&bytes);
        for batch in batches.by_ref() {
            let batch = batch.map_err(|error| format!("{}: {error}", entry.name))?;
            // Nor need it be right.
            if batch.header.last_offset().is_none_or(|last| begin <= last.get()) {
                batch.header.check_crc(batch.bytes).map_err(|error| format!("{}: {error}", entry.name))?;
            }
            let base_offset = batch.header.base_offset.get();
            let epoch = batch.header.partition_leader_epoch.get();
            // What was deleted need not be there whole until it goes.
            let is_missed = begin < base_offset && next_offset != Some(base_offset);
            if is_missed || epoch < last_epoch {
                return Err(format!(
                    "{}: a batch at offset {base_offset} of epoch {epoch} follows offset {next_offset:?} of epoch \
                     {last_epoch}",
                    entry.name
                ));
            }
            next_offset = batch.header.last_offset().map(|last| last.get() + 1);
            last_epoch = epoch;
            stored.push(Stored { base_offset, bytes: batch.bytes.to_vec() });
        }
        if batches.remaining_bytes() > 0 {
            return Err(format!("{} ends within a batch", entry.name));
        }
    }
    Ok(stored)
}
