//! What clients write and read, counted where it happens.
//!
//! Each partition counts for itself, so that no two partitions meet on one cache line; sums are made when somebody asks
//! for them. The numbers only grow. They mean what Kafka's `BrokerTopicMetrics` of the same names mean.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chronik_raft::metadata::Delta;
use chronik_types::NodeId;

/// The counters of one partition.
#[derive(Debug, Default)]
pub(crate) struct TrafficCounters {
    messages_in: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    produce_requests: AtomicU64,
    failed_produce_requests: AtomicU64,
    fetch_requests: AtomicU64,
    failed_fetch_requests: AtomicU64,
}

/// What was written and read, from the start of the process on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Records appended.
    pub messages_in: u64,
    /// Bytes of the batches appended.
    pub bytes_in: u64,
    /// Bytes of record data given to consumers.
    pub bytes_out: u64,
    /// Batches that producers wanted appended, one for each partition of a request.
    pub produce_requests: u64,
    /// Those of them that failed.
    pub failed_produce_requests: u64,
    /// Reads, one for each partition that a fetch asked for.
    pub fetch_requests: u64,
    /// Those of them that failed.
    pub failed_fetch_requests: u64,
}

/// The traffic of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicTraffic {
    /// Of all topics, those that have been deleted included.
    pub total: Traffic,
    /// Of each topic that somebody has asked for.
    pub topics: BTreeMap<Arc<str>, Traffic>,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.messages_in += other.messages_in;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.produce_requests += other.produce_requests;
        self.failed_produce_requests += other.failed_produce_requests;
        self.fetch_requests += other.fetch_requests;
        self.failed_fetch_requests += other.failed_fetch_requests;
    }
}

impl TrafficCounters {
    /// Notes one write to the log: so many batches were asked for, so many of them failed.
    pub(crate) fn produced(&self, requests: usize, failed: usize, records: i64, bytes: u64) {
        self.produce_requests.fetch_add(requests as u64, Ordering::Relaxed);
        if failed > 0 {
            self.failed_produce_requests.fetch_add(failed as u64, Ordering::Relaxed);
        }
        if bytes > 0 {
            self.messages_in.fetch_add(u64::try_from(records).unwrap_or(0), Ordering::Relaxed);
            self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Notes one answered read.
    pub(crate) fn fetched(&self, succeeded: bool, bytes: u64) {
        self.fetch_requests.fetch_add(1, Ordering::Relaxed);
        if !succeeded {
            self.failed_fetch_requests.fetch_add(1, Ordering::Relaxed);
        }
        if bytes > 0 {
            self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// The counters now.
    pub(crate) fn read(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            messages_in: read(&self.messages_in),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
            produce_requests: read(&self.produce_requests),
            failed_produce_requests: read(&self.failed_produce_requests),
            fetch_requests: read(&self.fetch_requests),
            failed_fetch_requests: read(&self.failed_fetch_requests),
        }
    }
}

/// How often the partitions of the cluster changed, as this broker saw it in the metadata log.
#[derive(Debug, Default)]
pub(crate) struct PartitionChangeCounters {
    elections: AtomicU64,
    unclean_elections: AtomicU64,
    isr_shrinks: AtomicU64,
    isr_expands: AtomicU64,
}

/// How often the partitions of the cluster changed since the process started, all partitions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionChanges {
    /// Partitions that got another leader, the first one not counted.
    pub elections: u64,
    /// Those of them whose new leader was neither in sync nor in the ELR, so that records may have been lost.
    pub unclean_elections: u64,
    /// Times that replicas left the ISR of a partition.
    pub isr_shrinks: u64,
    /// Times that replicas came back into it.
    pub isr_expands: u64,
}

impl PartitionChangeCounters {
    pub(crate) fn note(&self, delta: &Delta) {
        let add = |counter: &AtomicU64, truth: bool| {
            if truth {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        };
        for change in &delta.partitions_changed {
            // Before the first leader there is no ISR, and nothing that could change.
            let Some(old) = change.old.as_ref().filter(|old| !old.isr.is_empty()) else { continue };
            let new = &change.new;
            let elected = new
                .leader
                .filter(|leader| new.leader_epoch != old.leader_epoch && old.leader != Some(*leader));
            add(&self.elections, elected.is_some());
            let has_everything = |leader: NodeId| old.isr.contains(&leader) || old.elr.contains(&leader);
            add(&self.unclean_elections, elected.is_some_and(|leader| !has_everything(leader)));
            add(&self.isr_shrinks, old.isr.iter().any(|node| !new.isr.contains(node)));
            add(&self.isr_expands, new.isr.iter().any(|node| !old.isr.contains(node)));
        }
    }

    pub(crate) fn read(&self) -> PartitionChanges {
        PartitionChanges {
            elections: self.elections.load(Ordering::Relaxed),
            unclean_elections: self.unclean_elections.load(Ordering::Relaxed),
            isr_shrinks: self.isr_shrinks.load(Ordering::Relaxed),
            isr_expands: self.isr_expands.load(Ordering::Relaxed),
        }
    }
}
