//! Offsets that nobody needs any more (KIP-211), and the groups that are left with nothing.
//!
//! | group | offsets that expire | counted from |
//! |---|---|---|
//! | without members, had some | all | when the group emptied |
//! | Stable, of consumers whose topics are known | those of topics that nobody subscribes to | the commit |
//! | never had members | all | the commit |
//! | rebalancing, or of members that cannot be read | none | |
//!
//! An offset that brought its own time (`OffsetCommit` up to version 4) expires by that alone. Offsets of a deleted
//! topic go at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_types::{Now, TimestampMs};

use crate::coordinator::GroupCoordinator;
use crate::effects::Effects;
use crate::group::{Group, State};
use crate::offsets::{CommittedOffset, OffsetKey};
use crate::timers::Timer;

/// Tombstones that go into one batch, so that a sweep over a large shard makes no batch above the size that the
/// log takes (about 100 bytes each, 1 MiB).
const TOMBSTONES_PER_WRITE_MAX: usize = 2_000;

impl GroupCoordinator {
    pub(crate) fn schedule_expiry(&mut self, now: Now) {
        let interval_ms = self.config.offsets_retention_check_interval_ms.max(1);
        self.timers.schedule(Timer::Expiry, now.monotonic.plus_ms(interval_ms));
    }

    /// Writes tombstones for what has expired.
    pub(crate) fn expire(&mut self, now: Now, fx: &mut Effects) {
        let mut offsets: Vec<OffsetKey> = Vec::new();
        let mut groups: Vec<Arc<str>> = Vec::new();
        for group in self.groups.values() {
            let before = offsets.len();
            let mut is_bare = true;
            for (topic, partition, committed, is_unstable) in self.offsets.of_group(&group.id) {
                let expired = !is_unstable
                    && !group.is_subscribed_to(topic)
                    && committed.is_some_and(|offset| {
                        is_expired(group, offset, now.wall, self.config.offsets_retention_ms)
                    });
                if expired {
                    let (group, topic) = (Arc::clone(&group.id), Arc::clone(topic));
                    offsets.push(OffsetKey { group, topic, partition });
                } else {
                    is_bare = false;
                }
            }
            if before < offsets.len() {
                tracing::info!(group = %group.id, offsets = offsets.len() - before, "offsets have expired");
            }
            let is_over = group.is(State::Empty) && group.is_deserted() && group.is_visible();
            if is_bare && is_over && group.tombstone_write.is_none() {
                groups.push(Arc::clone(&group.id));
            }
        }
        self.write_in_batches(now, &offsets, &groups, fx);
    }

    /// The topics with these names have been deleted, and their offsets mean nothing any more.
    pub fn topics_deleted(&mut self, now: Now, names: &BTreeSet<String>) -> Effects {
        let mut fx = Effects::default();
        if self.check_serving().is_ok() {
            let offsets: Vec<OffsetKey> =
                self.offsets.keys().filter(|key| names.contains(&*key.topic)).collect();
            if !offsets.is_empty() {
                tracing::info!(topics = ?names, offsets = offsets.len(), "deleting offsets of deleted topics");
            }
            self.write_in_batches(now, &offsets, &[], &mut fx);
        }
        fx
    }

    /// Offsets first, so that a group never goes before what it has committed.
    fn write_in_batches(&mut self, now: Now, offsets: &[OffsetKey], groups: &[Arc<str>], fx: &mut Effects) {
        for batch in offsets.chunks(TOMBSTONES_PER_WRITE_MAX) {
            self.write_tombstones(now, batch.to_vec(), Vec::new(), fx);
        }
        for batch in groups.chunks(TOMBSTONES_PER_WRITE_MAX) {
            self.write_tombstones(now, Vec::new(), batch.to_vec(), fx);
        }
    }
}

fn is_expired(group: &Group, offset: &CommittedOffset, now: TimestampMs, retention_ms: i64) -> bool {
    let base = if group.protocol_type.is_none() {
        offset.commit_timestamp
    } else if group.is(State::Empty) {
        group.state_timestamp.unwrap_or(offset.commit_timestamp)
    } else if group.is(State::Stable) && group.uses_consumer_protocol() && group.knows_subscribed_topics() {
        offset.commit_timestamp
    } else {
        return false;
    };
    match offset.expire_timestamp {
        Some(expire_timestamp) => expire_timestamp <= now,
        None => now.get().saturating_sub(base.get()) >= retention_ms,
    }
}
