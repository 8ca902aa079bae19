//! The controller's eye on partitions: whoever leads one must be in service.
//!
//! Fencing moves leaders in its own proposal. What that misses is found here: brokers that register anew without having
//! been fenced, partitions that wait for the last of their ISR, changes that crossed on the way. And from time to time
//! partitions go back to their preferred leaders.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_raft::metadata::{Command, CommandBatch, ConfigResource, MetadataImage};
use chronik_types::{BrokerEpoch, MonotonicMs, NodeId, Now, Term};
use parking_lot::Mutex;

use crate::broker::Broker;

use super::elections::{Leaving, TopicRules, elections, preferred_elections};

/// How often partitions go back to their preferred leaders, in milliseconds.
const PREFERRED_LEADERS_MS: u64 = 5_000;

/// How long a broker is in service before partitions go back to it, in milliseconds. Clients that could not reach it leave
/// it alone for longer each time they try (librdkafka: up to 2 s after half a second of failures), and would find their
/// leader gone there.
const SETTLED_MS: u64 = 3_000;

/// The config that says it, on topics and on the broker alike.
const UNCLEAN_ELECTION: &str = "unclean.leader.election.enable";

/// How soon it looks again while a proposal is under way, in milliseconds.
const AGAIN_MS: u64 = 100;

/// What has been seen to.
#[derive(Debug, Default)]
pub(crate) struct Oversight(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The state of affairs in which nothing is left to do.
    settled: Option<Affairs>,
    is_proposing: bool,
    preferred_at: Option<MonotonicMs>,
    /// Since when each broker has been in service, by its registration, as far as this node has led.
    in_service_since: BTreeMap<NodeId, (BrokerEpoch, MonotonicMs)>,
}

impl State {
    /// Notes who is in service; when the last of them will have been for long enough, if that is to come.
    fn note_service(&mut self, now: MonotonicMs, image: &MetadataImage) -> Option<MonotonicMs> {
        let is_active = |node: &NodeId, epoch: &BrokerEpoch| {
            image.broker(*node).is_some_and(|broker| broker.is_active() && broker.epoch == *epoch)
        };
        self.in_service_since.retain(|node, (epoch, _)| is_active(node, epoch));
        for broker in image.active_brokers() {
            self.in_service_since.entry(broker.id).or_insert((broker.epoch, now));
        }
        let last = self.in_service_since.values().map(|(_, since)| since.plus_ms(SETTLED_MS)).max();
        last.filter(|settled| now < *settled)
    }
}

/// What elections depend on: with the same of it they are not looked at again.
#[derive(Debug, PartialEq, Eq)]
struct Affairs {
    term: Term,
    /// Whether each is in service, and whether it stays there.
    brokers: Vec<(NodeId, BrokerEpoch, bool, bool)>,
    partition_count: usize,
}

impl Affairs {
    fn of(term: Term, image: &MetadataImage) -> Self {
        let brokers = image
            .brokers()
            .map(|broker| (broker.id, broker.epoch, broker.fenced, broker.in_controlled_shutdown))
            .collect();
        Self { term, brokers, partition_count: image.partition_count() }
    }
}

impl Oversight {
    /// Configs have changed, and with them perhaps who may lead; or a partition has no leader in service.
    pub(crate) fn look_again(&self) {
        self.0.lock().settled = None;
    }
}

impl Broker {
    /// Sees to it that partitions are led by brokers in service; says when to look again.
    pub(super) fn oversee(self: &Arc<Self>, now: Now) -> Option<MonotonicMs> {
        // An image that is looked at under the lock is as new as whatever has asked for another look.
        let mut state = self.oversight.0.lock();
        let (quorum, image) = (self.metadata.quorum(), self.metadata.image());
        if !quorum.is_leader || image.applied_term() != quorum.term {
            return None;
        }
        let again = Some(now.monotonic.plus_ms(AGAIN_MS));
        let settled_at = state.note_service(now.monotonic, &image);
        if state.is_proposing {
            return again;
        }
        let affairs = Affairs::of(quorum.term, &image);
        if state.settled.as_ref() != Some(&affairs) {
            let commands = elections(&image, &Leaving::default(), &|topic| self.topic_rules(&image, topic));
            if commands.is_empty() {
                state.settled = Some(affairs);
            } else {
                tracing::debug!("Electing leaders from the replicas in service: {} changes", commands.len());
                state.is_proposing = true;
                drop(state);
                self.propose_elections(quorum.term, commands);
                return again;
            }
        }
        let due = *state.preferred_at.get_or_insert(now.monotonic.plus_ms(PREFERRED_LEADERS_MS));
        if now.monotonic < due {
            return Some(due);
        }
        let next = settled_at.unwrap_or_else(|| now.monotonic.plus_ms(PREFERRED_LEADERS_MS));
        state.preferred_at = Some(next);
        let has_settled = |node: NodeId| {
            let since = state.in_service_since.get(&node).map(|(_, since)| *since);
            since.is_some_and(|since| SETTLED_MS <= now.monotonic.since_ms(since))
        };
        let commands = preferred_elections(&image, &has_settled);
        if !commands.is_empty() {
            tracing::debug!("Giving {} partitions back to their preferred leaders", commands.len());
            state.is_proposing = true;
            drop(state);
            self.propose_elections(quorum.term, commands);
        }
        Some(next)
    }

    /// What the configs of a topic say about its leaders.
    pub(super) fn topic_rules(&self, image: &MetadataImage, topic: &Arc<str>) -> TopicRules {
        TopicRules {
            is_unclean_allowed: self.may_elect_unclean(image, topic),
            min_insync: self.min_insync_replicas(image, topic),
        }
    }

    /// Whether a topic may be led by a replica that is not in sync.
    fn may_elect_unclean(&self, image: &MetadataImage, topic: &Arc<str>) -> bool {
        let own = image.config(&ConfigResource::Topic(Arc::clone(topic)), UNCLEAN_ELECTION);
        own.map_or_else(
            || self.configs.values().get(UNCLEAN_ELECTION).is_some_and(|value| value == "true"),
            |value| value == "true",
        )
    }

    fn propose_elections(self: &Arc<Self>, term: Term, commands: Vec<Command>) {
        let broker = Arc::clone(self);
        self.metadata.propose_as_leader(
            term,
            CommandBatch::new(commands),
            Box::new(move |outcome| {
                if let Err(error) = outcome {
                    tracing::debug!("An election is tried again: {error}");
                }
                broker.oversight.0.lock().is_proposing = false;
            }),
        );
    }
}
