//! Groups, told by their coordinator: members, committed offsets and lag.
//!
//! Lag is the high watermark of a partition less what the group has committed. A node knows the high watermarks of the
//! partitions that it holds a replica of; the lag of others is left out, and counted.

use std::fmt;
use std::sync::Arc;

use chronik_raft::MetadataLog as _;
use chronik_types::{PartitionIndex, TopicPartition};

use super::NodeSources;
use super::exposition::Exposition;
use super::rows::{Omitted, SeriesLimits};

struct GroupRow {
    group: Arc<str>,
    state: &'static str,
    member_count: usize,
}

struct OffsetRow {
    group: Arc<str>,
    topic: Arc<str>,
    partition: String,
    offset: i64,
    lag: Option<i64>,
}

pub(super) fn tell(
    into: &mut Exposition<'_>,
    node: &NodeSources,
    limits: &SeriesLimits,
    omitted: &mut Omitted,
) -> fmt::Result {
    let (groups, offsets) = rows(node, limits, omitted);
    into.gauges("kafka_consumergroup_members", "Members of a group.", |sample| {
        for row in &groups {
            sample(&[("consumergroup", &row.group)], row.member_count)?;
        }
        Ok(())
    })?;
    into.gauges("chronik_consumergroup_state", "1 for the state that a group is in.", |sample| {
        for row in &groups {
            sample(&[("consumergroup", &row.group), ("state", row.state)], 1_u64)?;
        }
        Ok(())
    })?;
    by_partition(
        into,
        "kafka_consumergroup_current_offset",
        "What a group has committed for a partition.",
        &offsets,
        |row| Some(row.offset),
    )?;
    by_partition(
        into,
        "kafka_consumergroup_lag",
        "Records of a partition that a group has not committed yet.",
        &offsets,
        |row| row.lag,
    )?;
    by_topic(
        into,
        "kafka_consumergroup_current_offset_sum",
        "What a group has committed, over a topic.",
        &offsets,
        |row| Some(row.offset),
    )?;
    by_topic(
        into,
        "kafka_consumergroup_lag_sum",
        "Records of a topic that a group has not committed yet.",
        &offsets,
        |row| row.lag,
    )
}

fn rows(node: &NodeSources, limits: &SeriesLimits, omitted: &mut Omitted) -> (Vec<GroupRow>, Vec<OffsetRow>) {
    let mut stats = node.broker.group_stats();
    let all_count = stats.len();
    stats.retain(|group| group.group_id.len() <= limits.label_bytes_max);
    stats.sort_by(|one, other| one.group_id.cmp(&other.group_id));
    stats.truncate(limits.groups_max);
    omitted.note("group", all_count - stats.len());

    let mut groups = Vec::with_capacity(stats.len());
    let mut offsets: Vec<OffsetRow> = Vec::new();
    let (mut offset_count, mut unknown_count) = (0, 0);
    for group in stats {
        offset_count += group.offsets.len();
        for (topic, partition, offset) in group.offsets {
            if limits.group_partitions_max <= offsets.len() {
                break;
            }
            let lag = high_watermark(node, &topic, partition).map(|end| end.saturating_sub(offset).max(0));
            unknown_count += usize::from(lag.is_none());
            let group = Arc::clone(&group.group_id);
            offsets.push(OffsetRow { group, topic, partition: partition.to_string(), offset, lag });
        }
        groups.push(GroupRow { group: group.group_id, state: group.state, member_count: group.member_count });
    }
    omitted.note("group_partition", offset_count - offsets.len());
    omitted.note("group_lag", unknown_count);
    (groups, offsets)
}

/// How far a partition goes, if this node knows.
fn high_watermark(node: &NodeSources, topic: &Arc<str>, partition: i32) -> Option<i64> {
    let name = TopicPartition { topic: Arc::clone(topic), partition: PartitionIndex(partition) };
    let image = node.metadata.image();
    let state = image.partition(&name)?;
    if !state.replicas.contains(&node.broker.node_id()) {
        return None;
    }
    // Nobody has written to a partition without a log.
    Some(node.logs.get(&name).map_or(0, |log| log.high_watermark().get()))
}

fn by_partition(
    into: &mut Exposition<'_>,
    name: &str,
    help: &str,
    rows: &[OffsetRow],
    value: impl Fn(&OffsetRow) -> Option<i64>,
) -> fmt::Result {
    into.gauges(name, help, |sample| {
        for row in rows {
            let Some(value) = value(row) else { continue };
            let labels = [
                ("consumergroup", &*row.group),
                ("topic", &*row.topic),
                ("partition", row.partition.as_str()),
            ];
            sample(&labels, value)?;
        }
        Ok(())
    })
}

/// Rows of one group and topic stand together, so a sum is told as soon as another begins.
fn by_topic(
    into: &mut Exposition<'_>,
    name: &str,
    help: &str,
    rows: &[OffsetRow],
    value: impl Fn(&OffsetRow) -> Option<i64>,
) -> fmt::Result {
    into.gauges(name, help, |sample| {
        for chunk in rows.chunk_by(|one, other| one.group == other.group && one.topic == other.topic) {
            let Some(first) = chunk.first() else { continue };
            let known: Vec<i64> = chunk.iter().filter_map(&value).collect();
            if known.is_empty() {
                continue;
            }
            let sum = known.iter().fold(0_i64, |sum, value| sum.saturating_add(*value));
            sample(&[("consumergroup", &first.group), ("topic", &first.topic)], sum)?;
        }
        Ok(())
    })
}
