//! A broker that the cluster may have replaced without its knowing: it is cut off, was asleep, or there is no majority.
//!
//! | asked for | answered |
//! |---|---|
//! | records below the high watermark | the records: they are committed, whoever leads |
//! | whether there is more, or whether an offset exists | `NOT_LEADER_OR_FOLLOWER`: only the leader knows |
//! | to write, and whoever waits for that | the same: a client that asks another broker finds the leader |
//! | who leads what this broker has led | nobody |
//! | a group that it has coordinated | `NOT_COORDINATOR`; its log is read again if the lead turns out to have stayed here |
//! | a follower's fetch | as always: the epochs decide |
//!
//! What nobody else has a replica of cannot have been given to anybody, and is served as always.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use chronik_raft::metadata::PartitionImage;
use chronik_types::{MonotonicMs, NodeId, Now};

use crate::broker::Broker;
use crate::timers::Expire;

/// How often a broker without contact looks for those who have begun to wait in the last moment, in milliseconds. It has
/// contact again at once, without looking.
const CHECK_MS: u64 = 250;

/// The longest pause between two looks, in milliseconds.
const CHECK_MS_MAX: u64 = 1_000;

/// Whether the operator has been told that there is no contact.
#[derive(Debug, Default)]
pub(crate) struct Contact {
    is_lost: AtomicBool,
}

impl Broker {
    /// Whether what this node knows of the cluster is the truth at this time.
    pub fn is_in_contact(&self, now: MonotonicMs) -> bool {
        now <= self.metadata.contact_until()
    }

    /// The leader of a partition as clients are to know it: nobody, where it was this broker and may not be any more.
    pub(crate) fn known_leader(&self, partition: &PartitionImage) -> Option<NodeId> {
        partition.leader.filter(|leader| {
            *leader != self.node_id()
                || partition.replicas.len() < 2
                || self.is_in_contact(self.clock.now().monotonic)
        })
    }

    /// From now on those who wait for this broker are told when it may have been replaced. Called once.
    pub(crate) fn start_contact_checks(self: &Arc<Self>, now: Now) {
        if self.is_in_cluster() {
            self.timers.arm(now.monotonic.plus_ms(CHECK_MS), Arc::new(ContactCheck(Arc::downgrade(self))));
        }
    }

    /// Tells everybody who waits for this broker to look elsewhere.
    fn send_waiting_away(self: &Arc<Self>, now: Now) {
        if !self.contact.is_lost.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                "This node has no contact with a majority of the cluster: it takes no records for partitions that others \
                 may lead by now"
            );
        }
        for partition in self.topics.open_partitions() {
            partition.lose_contact(now);
        }
        // At each look: contact may have come back since the last one, and groups with it. They come last, as a shard may wait for
        // its own log's disk.
        self.groups.lose_contact(now, &self.metadata.image());
    }
}

/// Looks whether contact is lost, when it would be if nothing were heard.
struct ContactCheck(Weak<Broker>);

impl Expire for ContactCheck {
    fn expire(self: Arc<Self>, now: Now) {
        let Some(broker) = self.0.upgrade().filter(|broker| !broker.is_stopping()) else { return };
        let until = broker.metadata.contact_until();
        // At the start there has been no contact yet, and nobody is served.
        let next = if until == MonotonicMs(0) {
            now.monotonic.plus_ms(CHECK_MS)
        } else if broker.is_in_contact(now.monotonic) {
            if broker.contact.is_lost.swap(false, Ordering::AcqRel) {
                tracing::info!("This node has contact with the cluster again");
                // Members' sessions run from now on, whether they come back or not.
                broker.load_groups(now);
            }
            until.plus_ms(1).min(now.monotonic.plus_ms(CHECK_MS_MAX))
        } else {
            broker.send_waiting_away(now);
            now.monotonic.plus_ms(CHECK_MS)
        };
        broker.timers.arm(next, self);
    }
}
