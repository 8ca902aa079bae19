//! The end of a history: everything is mended, and must come together again.

use std::sync::Arc;

use chronik_log::Log;
use chronik_raft::MetadataLog as _;
use chronik_types::TopicPartition;

use super::broken_disk;
use super::checkers::{PartitionKey, Rule};
use super::clients::{Client, GROUP, OWNED_PARTITIONS, Producer};
use super::effects::position;
use super::sabotage::Sabotage;
use super::world::World;

/// How long a cluster may take until it takes its first topics.
const SET_UP_MS_MAX: u64 = 15_000;
/// How long it may take until everything is as it was, once nothing goes wrong any more.
pub(super) const CONVERGENCE_MS_MAX: u64 = 10_000;
/// How much longer producers may take that are told to wait for earlier batches, which are not to come: those whose records
/// were deleted, and of whom a loss of power has taken what the brokers knew (ADR 14).
const EARLIER_BATCHES_MS_MAX: u64 = 60_000;

impl World {
    /// The whole history.
    pub(super) fn live(&mut self) {
        if !self.until(SET_UP_MS_MAX, "the cluster does not begin", Self::not_begun) {
            return;
        }
        self.begin_faults();
        let load_ms = self.plan.load_ms;
        if !self.live_until(self.now_ms + load_ms) {
            return;
        }
        self.heal();
        self.clients.iter_mut().for_each(Client::finish);
        let but_told_to_wait = |world: &Self| world.not_settled(Producer::is_idle_or_told_to_wait);
        if !self.until(CONVERGENCE_MS_MAX, "after everything was mended", but_told_to_wait) {
            return;
        }
        let all = |world: &Self| world.not_settled(Producer::is_idle);
        if !self.until(EARLIER_BATCHES_MS_MAX, "after producers were told to wait", all) {
            return;
        }
        if let Some(sabotage) = self.sabotage {
            broken_disk::damage(&self.nodes[0].disk, sabotage);
            let last = self.nodes.last().and_then(|node| node.process.as_ref());
            if sabotage == Sabotage::LoseBeginnings
                && let Some(process) = last
            {
                for log in process.logs.logs() {
                    drop(log.delete_records(log.high_watermark()));
                }
            }
        }
        self.checkers.replicas(&self.nodes);
        let images: Vec<_> =
            self.nodes.iter().filter_map(|node| Some(node.process.as_ref()?.handle.image())).collect();
        if images.windows(2).any(|pair| *pair[0] != *pair[1]) {
            self.checkers.report(Rule::Images, "two nodes have applied the same and differ".to_owned());
        }
    }

    /// Lives until `missing` says that nothing is.
    fn until(&mut self, within_ms: u64, what: &str, missing: impl Fn(&Self) -> Option<String>) -> bool {
        let end_ms = self.now_ms + within_ms;
        loop {
            let Some(text) = missing(self) else { return true };
            if end_ms <= self.now_ms {
                self.checkers.report(Rule::Convergence, format!("{what}: {text} after {within_ms} ms"));
                // Where another rule is looked for, the history goes on.
                return self.checkers.is_content();
            }
            if !self.live_until(self.now_ms + 50) {
                return false;
            }
        }
    }

    /// Notes where everything stands.
    pub(super) fn tell_state(&mut self) {
        for node in &self.nodes {
            let Some(process) = &node.process else {
                self.trace.note(format_args!("END node {} does not run", node.id));
                continue;
            };
            let quorum = process.handle.quorum();
            self.trace.note(format_args!(
                "END node {}, life {}: serves {}, term {}, leader {:?}, applied {}, contact {:?}",
                node.id,
                process.life.number,
                node.serving().is_some(),
                quorum.term,
                quorum.leader,
                quorum.applied_index,
                chronik_raft::MetadataLog::contact_until(&process.handle)
            ));
            let image = process.handle.image();
            for topic in image.topics() {
                for (index, state) in topic.partitions() {
                    let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
                    let Some(log) = process.logs.get(&name) else { continue };
                    let producers: Vec<_> = log
                        .active_producers()
                        .iter()
                        .map(|producer| (producer.producer_id.get(), producer.last_sequence))
                        .collect();
                    self.trace.note(format_args!(
                        "END     {name} {}: {} to {} of {}, producers {producers:?}, leader {:?} in {}, isr {:?}, elr {:?}",
                        log.topic_id(),
                        log.log_start_offset(),
                        log.high_watermark(),
                        log.log_end_offset(),
                        state.leader,
                        state.leader_epoch,
                        state.isr,
                        state.elr
                    ));
                }
            }
        }
    }

    fn not_begun(&self) -> Option<String> {
        for node in &self.nodes {
            if node.serving().is_none() {
                return Some(format!("node {} does not serve", node.id));
            }
        }
        let is_set_up = self.clients.iter().all(|client| match client {
            Client::Admin(admin) => admin.is_idle(),
            Client::Producer(_) | Client::Consumer(_) | Client::Committer(_) | Client::Member(_) => true,
        });
        (!is_set_up).then(|| "topics are missing".to_owned())
    }

    fn not_settled(&self, is_done: impl Fn(&Producer) -> bool) -> Option<String> {
        if let Some(text) = self.not_begun() {
            return Some(text);
        }
        let images: Vec<_> =
            self.nodes.iter().filter_map(|node| Some(node.process.as_ref()?.handle.image())).collect();
        let first = images.first()?;
        if images.iter().any(|image| image.applied_index() != first.applied_index()) {
            return Some("the metadata log is not applied everywhere".to_owned());
        }
        if let Some(broker) = first.brokers().find(|broker| broker.fenced) {
            return Some(format!("broker {} is fenced", broker.id));
        }
        for (number, client) in self.clients.iter().enumerate() {
            let is_idle = match client {
                Client::Producer(producer) => is_done(producer),
                Client::Committer(committer) => committer.is_idle(),
                Client::Member(member) => member.is_settled(self.checkers.newest_generation(GROUP)),
                Client::Admin(_) | Client::Consumer(_) => true,
            };
            if !is_idle {
                return Some(format!("client {number} waits for answers"));
            }
        }
        let owned = self.checkers.owned_count(GROUP);
        if self.plan.member_count > 0 && owned != usize::from(OWNED_PARTITIONS) {
            return Some(format!("{owned} of {OWNED_PARTITIONS} partitions have an owner"));
        }
        let mut ends = Vec::new();
        for topic in first.topics() {
            for (index, state) in topic.partitions() {
                let name = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
                if state.isr.len() < state.replicas.len() {
                    return Some(format!(
                        "{name} is led by {:?} and in sync at {:?} only",
                        state.leader, state.isr
                    ));
                }
                if state.leader != state.replicas.first().copied() {
                    return Some(format!("{name} of {:?} is led by {:?}", state.replicas, state.leader));
                }
                let logs: Vec<Option<Arc<Log>>> = state
                    .replicas
                    .iter()
                    .map(|id| self.nodes[position(*id)].process.as_ref()?.logs.get(&name))
                    .collect();
                let end = |log: &Option<Arc<Log>>| log.as_ref().map_or(0, |log| log.log_end_offset().get());
                let watermark =
                    |log: &Option<Arc<Log>>| log.as_ref().map_or(0, |log| log.high_watermark().get());
                let last = logs.first().map_or(0, end);
                if logs.iter().any(|log| end(log) != last || watermark(log) != last) {
                    let told: Vec<_> = logs.iter().map(|log| (watermark(log), end(log))).collect();
                    return Some(format!("high watermarks and ends of {name} are {told:?}"));
                }
                if topic.name.starts_with('t') {
                    ends.push((PartitionKey { topic: topic.id, partition: index.get() }, last));
                }
            }
        }
        for client in &self.clients {
            let Client::Consumer(consumer) = client else { continue };
            if let Some((key, end, position)) = consumer.behind(ends.iter().copied()) {
                return Some(format!("{key} is read up to {position} of {end}"));
            }
        }
        None
    }
}
