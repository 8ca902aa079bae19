//! REPL-2 and LOG-3: what no client sees, looked at from time to time.

use std::sync::Arc;

use chronik_raft::MetadataLog as _;
use chronik_types::TopicPartition;

use super::super::effects::position;
use super::super::node::{Entry, Node};
use super::{Checkers, Rule};

impl Checkers {
    /// Looks at every process.
    pub(in crate::cluster) fn look(&mut self, nodes: &[Node]) {
        let applied =
            nodes.iter().filter_map(|node| Some(node.process.as_ref()?.handle.image().applied_index()));
        let Some(newest) = applied.max() else { return };
        for node in nodes {
            let Some(process) = &node.process else { continue };
            let has_failed = node.failed_syncs_before < node.disk.failed_sync_count();
            if has_failed && process.logs.offline_dirs().is_empty() {
                let text = format!("node {}: a sync has failed, and its log directory is online", node.id);
                self.report(Rule::FailedSync, text);
            }
            // A process that has just started knows an older image, and leads nothing by it.
            let image = process.handle.image();
            if !matches!(process.entry, Entry::Serving) || image.applied_index() < newest {
                continue;
            }
            for topic in image.topics() {
                for (index, state) in topic.partitions().filter(|(_, state)| state.leader == Some(node.id)) {
                    let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
                    let log = process.logs.get(&name).filter(|log| log.topic_id() == topic.id);
                    let Some(high_watermark) = log.map(|log| log.high_watermark().get()) else { continue };
                    let missing = state.isr.iter().find_map(|member| {
                        let other = nodes.get(position(*member))?;
                        let process = other.process.as_ref()?;
                        // One that may have lost something says so when it registers, and is counted on no more.
                        if other.has_lost && process.broker.registration(&image) != Some(false) {
                            return None;
                        }
                        // One that has applied the topic's deletion has nothing of it any more. Its image does not always
                        // say so: a process that starts again may know the topic from before, as it hears only later
                        // how far the metadata log is committed.
                        if self.has_deleted(*member, topic.id) {
                            return None;
                        }
                        // Nor is it known yet what a process has that had no room to recover its log.
                        if process.logs.failed().iter().any(|(failed, _)| *failed == name) {
                            return None;
                        }
                        let log = process.logs.get(&name).filter(|log| log.topic_id() == topic.id);
                        let end = log.map_or(0, |log| log.log_end_offset().get());
                        (end < high_watermark).then_some((*member, end))
                    });
                    if let Some((member, end)) = missing {
                        let text = format!(
                            "{name}: the high watermark of node {} is {high_watermark}, and {member}, which is in \
                             sync, has {end}",
                            node.id
                        );
                        self.report(Rule::InSync, text);
                        return;
                    }
                }
            }
        }
    }
}
