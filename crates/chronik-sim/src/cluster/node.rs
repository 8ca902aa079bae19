//! A node put together as the server does it: disk, metadata log, partition logs, broker. The order is that of
//! `chronik-server::node`, with the world's clock, network and disk in place of the machine's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use chronik_broker::config::{BrokerValues, ClusterNode, GroupConfig};
use chronik_broker::{Broker, BrokerConfig, BrokerParts, Clock, LastLife, topic_log_config};
use chronik_disk::{Disk, SimDisk};
use chronik_log::{LogManager, ManagerOptions};
use chronik_raft::{MetadataLog as _, RaftConfig, RaftDriver, RaftHandle};
use chronik_types::{LogIndex, MonotonicMs, NodeId, Now, Term, TimestampMs};
use parking_lot::Mutex;

use super::clients::SESSION_TIMEOUT_MS;
use super::effects::{Duty, Effect, Effects, Life, Links, Metadata, Outbox, PeersUp, node_id};
use super::plan::Plan;
use super::sabotage::Sabotage;
use super::watched_disk::{Strikes, WatchedDisk};

/// Where a node keeps everything.
const DATA_DIR: &str = "/data";
/// The metadata log within it.
const METADATA_DIR: &str = "/data/raft";
/// The wall clock when the monotonic one is at 0: some day in 2023.
const START_MS: i64 = 1_700_000_000_000;

/// The time of all nodes, and how far one node's wall clock is off.
#[derive(Clone)]
pub(super) struct NodeClock {
    pub(super) now_ms: Arc<AtomicU64>,
    pub(super) off_by_ms: Arc<AtomicI64>,
}

impl Clock for NodeClock {
    fn now(&self) -> Now {
        let ms = self.now_ms.load(Ordering::Relaxed);
        let wall_ms =
            START_MS.saturating_add_unsigned(ms).saturating_add(self.off_by_ms.load(Ordering::Relaxed));
        Now { monotonic: MonotonicMs(ms), wall: TimestampMs(wall_ms) }
    }
}

/// How far a process has come on its way into service.
pub(super) enum Entry {
    /// It has not asked to be registered.
    Started,
    /// It has asked; the answer comes here.
    Asked(Arc<Mutex<Option<bool>>>),
    /// It is registered, and waits to be heard of.
    Registered,
    /// It serves.
    Serving,
}

/// How far a process has come on its way out.
pub(super) enum Exit {
    /// It stays.
    No,
    /// It hands over its partitions.
    HandingOver { until_ms: u64, done: Arc<Mutex<bool>> },
    /// It waits for another node to lead the metadata log.
    Transferring { until_ms: u64 },
    /// Clients may still come.
    Lingering { until_ms: u64 },
}

/// A process.
pub(super) struct Process {
    pub(super) life: Life,
    pub(super) driver: RaftDriver,
    pub(super) handle: RaftHandle,
    pub(super) logs: Arc<LogManager>,
    pub(super) broker: Arc<Broker>,
    pub(super) last_life: LastLife,
    pub(super) entry: Entry,
    pub(super) exit: Exit,
    /// When each duty runs next.
    pub(super) due_ms: [u64; Duty::COUNT],
}

/// A machine.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) disk: SimDisk,
    pub(super) strikes: Arc<Strikes>,
    pub(super) clock: NodeClock,
    /// How often the machine has started.
    pub(super) boot: u64,
    /// How many processes there were.
    pub(super) life_count: u64,
    pub(super) process: Option<Process>,
    /// The machine itself is off.
    pub(super) is_off: bool,
    /// The process stands still until then.
    pub(super) paused_until_ms: u64,
    /// Its disk is full until then.
    pub(super) full_until_ms: u64,
    /// Writes that had no room before it was full.
    refused_before: u64,
    /// Its disk may have lost something that is not made up for yet.
    pub(super) has_lost: bool,
    /// A sync of its disk has failed, which only a new start mends.
    pub(super) sync_failed: bool,
    /// Syncs that had failed before the process started.
    pub(super) failed_syncs_before: u64,
    /// Its disk stops in the middle of what it does.
    pub(super) is_stopping: bool,
    /// What excuses that a process does not start, or ends.
    pub(super) excuse: Excuse,
}

/// What faults of a disk excuse.
#[derive(Clone, Copy, Default)]
pub(super) struct Excuse {
    /// The process that was struck may end, or processes up to this one may not start: its disk's faults end with it.
    pub(super) life: u64,
    /// Up to this time any process may: the disk is full, or was so recently.
    pub(super) until_ms: u64,
}

impl Excuse {
    fn covers(self, life: u64, now_ms: u64) -> bool {
        life <= self.life || now_ms < self.until_ms
    }
}

impl Node {
    pub(super) fn new(position: usize, now_ms: &Arc<AtomicU64>) -> Self {
        let clock = NodeClock { now_ms: Arc::clone(now_ms), off_by_ms: Arc::default() };
        // As the server does before anything else.
        let disk = SimDisk::new();
        let made = disk.create_dir_all(Path::new(DATA_DIR)).and_then(|()| disk.sync_dir(Path::new("/")));
        debug_assert!(made.is_ok(), "an empty disk without faults takes a directory");
        Self {
            id: node_id(position),
            disk,
            strikes: Arc::default(),
            clock,
            boot: 1,
            life_count: 0,
            process: None,
            is_off: false,
            paused_until_ms: 0,
            full_until_ms: 0,
            refused_before: 0,
            has_lost: false,
            sync_failed: false,
            failed_syncs_before: 0,
            is_stopping: false,
            excuse: Excuse::default(),
        }
    }

    /// Its disk has room for so many bytes only, until then.
    pub(super) fn fill_disk(&mut self, free_bytes: u64, until_ms: u64) {
        if self.full_until_ms == 0 {
            self.refused_before = self.strikes.refused_count();
        }
        self.full_until_ms = self.full_until_ms.max(until_ms);
        self.disk.set_capacity_bytes(Some(self.disk.used_bytes() + free_bytes));
    }

    /// Its disk has room again. Whether anything was refused meanwhile.
    pub(super) fn empty_disk(&mut self) -> bool {
        self.disk.set_capacity_bytes(None);
        let was_full = self.full_until_ms > 0;
        self.full_until_ms = 0;
        was_full && self.refused_before < self.strikes.refused_count()
    }

    /// What is to strike its process does not strike the next.
    pub(super) fn clear_faults(&self) {
        self.disk.clear_faults();
        self.strikes.disarm();
    }

    /// Whether a fault has led to it that the latest process ends, or has not started.
    pub(super) fn is_excused(&self, now_ms: u64) -> bool {
        self.excuse.covers(self.life_count, now_ms)
    }

    /// What is to strike the process excuses its end, and no other's.
    pub(super) fn excuse_life(&mut self) {
        self.excuse.life = self.life_count;
    }

    /// The process, if it takes requests of clients.
    pub(super) fn serving(&self) -> Option<&Process> {
        self.process.as_ref().filter(|process| matches!(process.entry, Entry::Serving))
    }
}

/// What a process is started with.
pub(super) struct Start<'a> {
    pub(super) seed: u64,
    pub(super) plan: &'a Plan,
    pub(super) effects: &'a Effects,
    pub(super) up: &'a PeersUp,
    pub(super) sabotage: Option<Sabotage>,
}

/// Starts a process on the machine's disk.
pub(super) fn start(node: &mut Node, start: &Start<'_>) -> Result<Process, String> {
    node.life_count += 1;
    let life = Life { node: usize::try_from(node.id.get() - 1).unwrap_or(0), number: node.life_count };
    let told = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    };
    let disk: Arc<dyn Disk> =
        Arc::new(WatchedDisk { disk: node.disk.clone(), strikes: Arc::clone(&node.strikes) });
    let disk = match start.sabotage {
        Some(sabotage) => sabotage.disk(disk),
        None => disk,
    };
    let now = node.clock.now();
    let (plan, effects) = (start.plan, start.effects);
    let config = broker_config(node.id, plan);

    let dir = Path::new(METADATA_DIR);
    disk.create_dir_all(dir).map_err(|error| told(&error))?;
    let voters = (0..plan.node_count).map(node_id).collect();
    let incarnation =
        start.seed.wrapping_mul(1_000_003) ^ (u64::try_from(life.node).unwrap_or(0) << 32) ^ life.number;
    let raft = RaftConfig::new(node.id, voters, incarnation);
    let outbox = Outbox { life, up: start.up.clone(), effects: effects.clone() };
    let mut driver =
        RaftDriver::open(raft, Arc::clone(&disk), dir, Box::new(outbox)).map_err(|error| told(&error))?;
    driver.poll(now.monotonic).map_err(|error| told(&*error))?;
    let handle = driver.handle();
    let replayed_to = log_end(&driver);
    let metadata = Arc::new(Metadata { handle: handle.clone(), life, effects: effects.clone() });

    let boot_id = format!("boot-{}", node.boot);
    let image = handle.image();
    let values = config.topic_values.at(&image, node.id);
    let last_life = LastLife::new(Arc::clone(&disk), Path::new(DATA_DIR), boot_id.clone());
    let starting = LogManager::open(
        Arc::clone(&disk),
        vec![PathBuf::from(DATA_DIR)],
        ManagerOptions {
            boot_id,
            checkpoint_interval_ms: plan.checkpoint_ms,
            tail_ring_bytes_max: plan.tail_ring_bytes,
            open_files_max: 64,
            ..ManagerOptions::default()
        },
        Arc::new(move |topic: &str| topic_log_config(&image, &values, topic)),
        now,
    )
    .map_err(|error| told(&error))?;
    // The recovery takes away what shows that records are lost. A process that ends before it is registered leaves
    // nothing else to tell the next one.
    let loser = last_life.clone();
    starting.set_loss_listener(Box::new(move || {
        // A disk that takes neither the record nor its removal keeps the damage as well.
        drop(loser.forget());
    }));
    let logs = starting.finish(now);

    let (loser, failed) = (last_life.clone(), effects.clone());
    logs.set_offline_listener(Box::new(move || {
        drop(loser.give_up());
        failed.push(Effect::Failed { life });
    }));
    let flush = effects.clone();
    logs.flush_queue().set_waker(Box::new(move || flush.due(life, Duty::Flush, 0)));
    let links = Arc::new(Links { life, effects: effects.clone() });
    let previous_life = match start.sabotage {
        Some(sabotage) => sabotage.previous_life(&last_life, &handle.image(), node.id),
        None => last_life.previous().filter(|_| !logs.has_lost_records()),
    };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&incarnation.to_be_bytes());
    seed[8..16].copy_from_slice(&start.seed.to_be_bytes());
    let broker = Broker::new(BrokerParts {
        config,
        metadata: metadata.clone(),
        logs: Arc::clone(&logs),
        peers: links.clone(),
        clock: Arc::new(node.clock.clone()),
        previous_life: previous_life.clone(),
        seed,
    });
    // A disk that is full does not take it, and the next process counts as one that has lost records.
    drop(last_life.begin(previous_life.as_ref(), broker.incarnation()));
    broker.set_replayed_to(replayed_to.0, replayed_to.1);
    let (listener, told_effects) = (Arc::downgrade(&broker), effects.clone());
    let keeper = last_life.keeper();
    metadata.subscribe(Box::new(move |image, delta| {
        if let Some(broker) = listener.upgrade() {
            keeper.see(broker.epoch_in(image));
        }
        let changed = delta.partitions_changed.iter();
        let changed =
            changed.map(|change| (change.topic_id, change.partition, Arc::clone(&change.new))).collect();
        let deleted = delta.topics_deleted.iter().map(|topic| topic.id).collect();
        told_effects.push(Effect::Image { life, image: Arc::clone(image), changed, deleted });
        if let Some(broker) = listener.upgrade() {
            broker.metadata_changed(image, delta);
        }
        told_effects.due(life, Duty::Controller, 0);
    }));
    let fencing = Arc::downgrade(&broker);
    handle.set_liveness_listener(Box::new(move |term, changes| {
        if let Some(broker) = fencing.upgrade() {
            broker.liveness_changed(term, changes);
        }
    }));
    broker.set_controller_link(links);
    let timers = effects.clone();
    broker.set_timer_waker(Box::new(move |deadline| timers.due(life, Duty::Timers, deadline.0)));
    broker.start_replica_checks(now);
    let upkeep = effects.clone();
    logs.set_maintenance_waker(Box::new(move || upkeep.due(life, Duty::Maintenance, 0)));
    for duty in [Duty::Raft, Duty::Timers, Duty::Controller, Duty::Maintenance, Duty::Ready] {
        effects.due(life, duty, 0);
    }
    Ok(Process {
        life,
        driver,
        handle,
        logs,
        broker,
        last_life,
        entry: Entry::Started,
        exit: Exit::No,
        due_ms: [u64::MAX; Duty::COUNT],
    })
}

/// The last entry of the metadata log, and its term.
fn log_end(driver: &RaftDriver) -> (LogIndex, Term) {
    let (node, image) = (driver.node(), driver.handle().image());
    let index = node.last_index();
    let term = node.log_entry(index).map_or(image.applied_term(), |(term, _)| term);
    (index, term)
}

fn broker_config(id: NodeId, plan: &Plan) -> BrokerConfig {
    let host = |id: NodeId| format!("node-{id}");
    let mut topic_values = BrokerValues::new();
    let mut give = |name: &str, value: String| topic_values.insert(name.to_owned(), value);
    give("min.insync.replicas", plan.min_insync.to_string());
    give("log.segment.bytes", plan.segment_bytes.to_string());
    if plan.is_flushed {
        give("log.flush.interval.messages", "1".to_owned());
    }
    let cluster_nodes =
        (0..plan.node_count).map(node_id).map(|id| ClusterNode { id, host: host(id), raft_port: 9_093 });
    BrokerConfig {
        node_id: id,
        cluster_nodes: cluster_nodes.collect(),
        reached_at: (host(id), 9_092),
        default_replication_factor: plan.replication_factor,
        auto_create_topics_enable: false,
        replica_lag_time_max_ms: plan.replica_lag_ms,
        replica_fetch_wait_max_ms: plan.replica_wait_ms,
        // Little enough that a follower which is behind asks more than once.
        replica_fetch_max_bytes: 16 << 10,
        offsets_topic_num_partitions: 1,
        offsets_topic_replication_factor: plan.replication_factor,
        offsets_topic_segment_bytes: 1 << 20,
        groups: GroupConfig {
            group_initial_rebalance_delay_ms: 50,
            group_min_session_timeout_ms: SESSION_TIMEOUT_MS,
            ..GroupConfig::default()
        },
        topic_values,
        ..BrokerConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c12_a_fault_excuses_the_process_that_it_strikes_and_a_full_disk_those_of_its_time() {
        let struck = Excuse { life: 3, until_ms: 0 };
        assert!(struck.covers(3, 10) && !struck.covers(4, 10));
        let full = Excuse { life: 0, until_ms: 1_000 };
        assert!(full.covers(3, 999) && !full.covers(3, 1_000));
        assert!(!Excuse::default().covers(1, 0), "nothing was struck");
    }
}
