//! Partitions: what `kafka_exporter` tells of each, told by its leader, and the logs on this node.

use std::fmt;
use std::sync::Arc;

use chronik_log::Log;
use chronik_raft::MetadataLog as _;
use chronik_raft::metadata::PartitionImage;
use chronik_types::{NodeId, TopicPartition};

use super::NodeSources;
use super::exposition::Exposition;
use super::rows::{Omitted, SeriesLimits};

struct Row {
    topic: Arc<str>,
    partition: String,
    state: Arc<PartitionImage>,
    log: Option<Arc<Log>>,
    leads: bool,
    replica_lag: Option<u64>,
}

/// Name, help and value of a family; partitions without that value are left out.
type Family = (&'static str, &'static str, fn(&Row) -> Option<i64>);

const FAMILIES: [Family; 9] = [
    (
        "kafka_topic_partition_current_offset",
        "The end of what may be read of a partition: its high watermark.",
        |row| row.leads.then(|| row.log.as_ref().map_or(0, |log| log.high_watermark().get())),
    ),
    ("kafka_topic_partition_oldest_offset", "The first offset that a partition still has.", |row| {
        row.leads.then(|| row.log.as_ref().map_or(0, |log| log.log_start_offset().get()))
    }),
    ("kafka_topic_partition_leader", "The node that leads a partition, -1 where none does.", |row| {
        Some(row.state.leader.map_or(-1, |leader| i64::from(leader.get())))
    }),
    (
        "kafka_topic_partition_leader_is_preferred",
        "1 where the leader is the first of the replicas.",
        |row| {
            Some(i64::from(
                row.state.leader.is_some() && row.state.leader == row.state.replicas.first().copied(),
            ))
        },
    ),
    ("kafka_topic_partition_replicas", "Replicas of a partition.", |row| count(row.state.replicas.len())),
    ("kafka_topic_partition_in_sync_replica", "Replicas of a partition that are in sync.", |row| {
        count(row.state.isr.len())
    }),
    (
        "kafka_topic_partition_under_replicated_partition",
        "1 where fewer replicas are in sync than there are.",
        |row| Some(i64::from(row.state.isr.len() < row.state.replicas.len())),
    ),
    (
        "chronik_topic_partition_replica_lag",
        "Records that the replica of a partition lacks which is furthest behind its leader.",
        |row| row.leads.then(|| i64::try_from(row.replica_lag.unwrap_or(0)).unwrap_or(i64::MAX)),
    ),
    ("chronik_topic_partition_leader_epoch", "Counts the leaders of a partition.", |row| {
        Some(i64::from(row.state.leader_epoch.get()))
    }),
];

fn count(count: usize) -> Option<i64> {
    i64::try_from(count).ok()
}

pub(super) fn tell(
    into: &mut Exposition<'_>,
    node: &NodeSources,
    limits: &SeriesLimits,
    omitted: &mut Omitted,
) -> fmt::Result {
    let rows = rows(node, limits, omitted);
    for (name, help, value) in FAMILIES {
        into.gauges(name, help, |sample| {
            for row in &rows {
                let Some(value) = value(row) else { continue };
                sample(&[("topic", &row.topic), ("partition", &row.partition)], value)?;
            }
            Ok(())
        })?;
    }
    tell_logs(into, node, limits, omitted)
}

/// The partitions that this node tells of: those that it leads, and those without a leader if it is the controller.
fn rows(node: &NodeSources, limits: &SeriesLimits, omitted: &mut Omitted) -> Vec<Row> {
    let image = node.metadata.image();
    let own: NodeId = node.broker.node_id();
    let is_controller = node.metadata.is_leader();
    let mut rows = Vec::new();
    let mut told_count = 0;
    for topic in image.topics() {
        for (index, state) in topic.partitions() {
            let leads = state.leader == Some(own);
            if !leads && (state.leader.is_some() || !is_controller) {
                continue;
            }
            told_count += 1;
            if limits.partitions_max <= rows.len() {
                continue;
            }
            let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
            rows.push(Row {
                log: node.logs.get(&name),
                topic: name.topic,
                partition: index.to_string(),
                state: Arc::clone(state),
                leads,
                replica_lag: node.broker.replica_lag_max(topic, index),
            });
        }
    }
    omitted.note("topic_partition", told_count - rows.len());
    rows
}

fn tell_logs(
    into: &mut Exposition<'_>,
    node: &NodeSources,
    limits: &SeriesLimits,
    omitted: &mut Omitted,
) -> fmt::Result {
    let logs = node.logs.logs();
    omitted.note("log", logs.len().saturating_sub(limits.partitions_max));
    into.gauges("kafka_log_log_size", "Bytes of a partition's log on this node.", |sample| {
        for log in logs.iter().take(limits.partitions_max) {
            let name = log.topic_partition();
            sample(&[("topic", &name.topic), ("partition", &name.partition.to_string())], log.size_bytes())?;
        }
        Ok(())
    })?;
    into.gauge("chronik_log_count", "Partitions with a log on this node.", logs.len())?;
    into.gauge(
        "chronik_log_size_bytes",
        "Bytes of all logs on this node.",
        logs.iter().map(|log| log.size_bytes()).sum::<u64>(),
    )?;
    into.gauge(
        "chronik_log_tail_memory_bytes",
        "Bytes of recent batches in memory.",
        node.logs.tail_memory_bytes(),
    )?;
    let stats = node.logs.stats();
    let counters: [(&str, &str, u64); 11] = [
        ("chronik_log_appended_batches", "Batches appended.", stats.appended_batch_count),
        ("chronik_log_appended_bytes", "Bytes appended.", stats.appended_bytes),
        ("chronik_log_append_writes", "Writes that appended them.", stats.append_write_count),
        ("chronik_log_duplicate_batches", "Batches that were there already.", stats.duplicate_batch_count),
        ("chronik_log_memory_reads", "Reads answered from memory.", stats.read_from_memory_count),
        ("chronik_log_file_reads", "Reads answered from files.", stats.read_from_file_count),
        ("chronik_log_rolled_segments", "Segments rolled.", stats.rolled_segment_count),
        ("chronik_log_deleted_segments", "Segments deleted.", stats.deleted_segment_count),
        ("chronik_log_syncs", "Files synced to disk.", stats.sync_count),
        ("chronik_log_checkpoints", "Checkpoints written.", stats.checkpoint_count),
        ("chronik_log_disk_full", "Appends refused because the disk was full.", stats.disk_full_count),
    ];
    for (name, help, value) in counters {
        into.counter(name, help, value)?;
    }
    let dirs = node.logs.describe_dirs();
    into.gauges("chronik_log_dir_usable_bytes", "Free bytes of the disk under a log directory.", |sample| {
        dirs.iter().try_for_each(|dir| sample(&[("log_dir", &dir.path.to_string_lossy())], dir.usable_bytes))
    })?;
    into.gauges("chronik_log_dir_total_bytes", "The size of the disk under a log directory.", |sample| {
        dirs.iter().try_for_each(|dir| sample(&[("log_dir", &dir.path.to_string_lossy())], dir.total_bytes))
    })?;
    into.gauge(
        "kafka_log_logmanager_offlinelogdirectorycount",
        "Log directories that can no longer be written to.",
        dirs.iter().filter(|dir| dir.offline_reason.is_some()).count(),
    )
}
