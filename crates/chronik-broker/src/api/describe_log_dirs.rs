//! `DescribeLogDirs` (key 35, versions 1–5): where this broker keeps which partitions, and how large they are.
//!
//! From version 4 on the answer tells the size of the file systems (KIP-827); no log directory is ever cordoned
//! (version 5, KIP-1066). A partition whose log nobody has asked for yet has no files and is shown empty, in the
//! first directory that works.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chronik_log::LogDirDescription;
use chronik_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use chronik_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use chronik_types::{ErrorCode, PartitionIndex, TopicPartition};

use crate::broker::Broker;
use crate::context::RequestContext;

/// Partitions of one topic with the bytes that each holds.
type Sizes = BTreeMap<PartitionIndex, u64>;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DescribeLogDirsRequest) {
    let wanted: Option<BTreeMap<String, BTreeSet<i32>>> = request.topics.map(|topics| {
        let mut wanted = BTreeMap::<String, BTreeSet<i32>>::new();
        for topic in topics {
            wanted.entry(topic.topic).or_default().extend(topic.partitions);
        }
        wanted
    });
    let is_wanted = |topic: &str, index: PartitionIndex| match &wanted {
        None => true,
        Some(wanted) => wanted.get(topic).is_some_and(|partitions| partitions.contains(&index.get())),
    };
    let dirs = broker.logs.describe_dirs();
    let mut without_files = partitions_without_files(broker, &dirs, &is_wanted);
    let mut results = Vec::with_capacity(dirs.len());
    for dir in dirs {
        let mut by_topic = BTreeMap::<Arc<str>, Sizes>::new();
        let is_online = dir.offline_reason.is_none();
        if is_online {
            for (partition, size_bytes) in
                std::mem::take(&mut without_files).into_iter().chain(dir.partitions)
            {
                if is_wanted(&partition.topic, partition.partition) {
                    by_topic.entry(partition.topic).or_default().insert(partition.partition, size_bytes);
                }
            }
        }
        results.push(DescribeLogDirsResult {
            error_code: if is_online { ErrorCode::None } else { ErrorCode::KafkaStorageError }.code(),
            log_dir: dir.path.to_string_lossy().into_owned(),
            topics: by_topic.into_iter().map(|(name, sizes)| topic(&name, sizes)).collect(),
            total_bytes: if is_online { dir.total_bytes } else { -1 },
            usable_bytes: if is_online { dir.usable_bytes } else { -1 },
            ..Default::default()
        });
    }
    context.reply(&DescribeLogDirsResponse { results, ..Default::default() });
}

/// The partitions that this broker is to hold and has not opened yet.
fn partitions_without_files(
    broker: &Broker,
    dirs: &[LogDirDescription],
    is_wanted: &dyn Fn(&str, PartitionIndex) -> bool,
) -> Vec<(TopicPartition, u64)> {
    let present: BTreeSet<&TopicPartition> =
        dirs.iter().flat_map(|dir| &dir.partitions).map(|(partition, _)| partition).collect();
    let image = broker.metadata.image();
    let mut missing = Vec::new();
    for topic in image.topics() {
        for (index, partition) in topic.partitions() {
            if partition.replicas.contains(&broker.node_id()) && is_wanted(&topic.name, index) {
                let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
                if !present.contains(&name) {
                    missing.push((name, 0));
                }
            }
        }
    }
    missing
}

fn topic(name: &str, sizes: Sizes) -> DescribeLogDirsTopic {
    let partitions = sizes
        .into_iter()
        .map(|(index, size_bytes)| DescribeLogDirsPartition {
            partition_index: index.get(),
            partition_size: i64::try_from(size_bytes).unwrap_or(i64::MAX),
            // How far the high watermark is ahead of the log: never, in the log of a leader.
            offset_lag: 0,
            is_future_key: false,
        })
        .collect();
    DescribeLogDirsTopic { name: name.to_owned(), partitions }
}
