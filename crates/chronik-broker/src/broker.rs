//! The broker: what its handlers share, and the few ways into it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use bytes::BytesMut;
use chronik_log::LogManager;
use chronik_raft::MetadataLog;
use chronik_raft::metadata::{Delta, MetadataImage};
use chronik_types::{LogIndex, MonotonicMs, NodeId, Now, Term};

use crate::api;
use crate::clock::SharedClock;
use crate::config::{BrokerConfig, BrokerConfigs, Loggers, ValuesListener};
use crate::connection::Connection;
use crate::contact::Contact;
use crate::controller::{AssignmentLines, ChangeLines, ControllerLink, Duties, Oversight};
use crate::fetch_session::FetchSessions;
use crate::first_batches::FirstBatches;
use crate::groups::Groups;
use crate::last_life::PreviousLife;
use crate::partition::PartitionServices;
use crate::producer_ids::ProducerIds;
use crate::random::Random;
use crate::replication::{Fetchers, PeerClient};
use crate::reply::Responder;
use crate::stats::{PartitionChangeCounters, PartitionChanges, TopicTraffic};
use crate::timers::Timers;
use crate::topics::Topics;

/// What a broker is made of. Everything that touches the world comes in here.
pub struct BrokerParts {
    /// Its settings.
    pub config: BrokerConfig,
    /// The metadata log, with an image that is up to date with this node's disk.
    pub metadata: Arc<dyn MetadataLog>,
    /// The logs, recovered.
    pub logs: Arc<LogManager>,
    /// The way to other brokers.
    pub peers: Arc<dyn PeerClient>,
    /// The clock.
    pub clock: SharedClock,
    /// Under what the logs were last written, if nothing of them can have been lost since: they were closed in good order,
    /// or the machine has not started again. `None` where that is not known.
    pub previous_life: Option<PreviousLife>,
    /// Seeds every random choice: topic ids, fetch session ids, the name of this incarnation.
    pub seed: [u8; 32],
}

/// One broker of a cluster.
///
/// Every method may be called from any thread at any time. None blocks on anything but a disk.
pub struct Broker {
    pub(crate) config: BrokerConfig,
    pub(crate) configs: BrokerConfigs,
    pub(crate) metadata: Arc<dyn MetadataLog>,
    pub(crate) logs: Arc<LogManager>,
    pub(crate) clock: SharedClock,
    pub(crate) timers: Timers,
    pub(crate) fetch_sessions: FetchSessions,
    pub(crate) topics: Topics,
    pub(crate) fetchers: Fetchers,
    pub(crate) groups: Groups,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) duties: Duties,
    pub(crate) oversight: Oversight,
    pub(crate) contact: Contact,
    pub(crate) first_batches: FirstBatches,
    assignment_lines: AssignmentLines,
    change_lines: ChangeLines,
    pub(crate) controller_link: OnceLock<Arc<dyn ControllerLink>>,
    pub(crate) random: Random,
    changes: PartitionChangeCounters,
    /// Drawn at random when this broker was made; tells it from its earlier lives.
    pub(crate) incarnation: u128,
    /// See [`BrokerParts::previous_life`].
    pub(crate) previous_life: Option<PreviousLife>,
    next_parked_id: AtomicU64,
    /// This broker has asked to be registered, and may find that an earlier life of it is.
    pub(crate) has_registered: AtomicBool,
    /// The image has been as new as the cluster's: a topic that it does not have is no topic any more.
    pub(crate) knows_strays: AtomicBool,
    pub(crate) is_registering: AtomicBool,
    is_stopping: AtomicBool,
}

/// Whether a partition has no leader in service now. An election that was planned before its winner was fenced has this
/// effect, and nobody would come back to it.
fn leaves_unled(image: &MetadataImage, delta: &Delta) -> bool {
    let is_active = |leader: NodeId| image.broker(leader).is_some_and(|broker| broker.is_active());
    delta.partitions_changed.iter().any(|change| !change.new.leader.is_some_and(is_active))
}

impl Broker {
    /// Puts a broker together. It serves what the metadata image says from the first request on.
    pub fn new(parts: BrokerParts) -> Arc<Self> {
        let BrokerParts { config, metadata, logs, peers, clock, previous_life, seed } = parts;
        let random = Random::new(seed);
        let services = Arc::new(PartitionServices {
            node_id: config.node_id,
            metadata: Arc::clone(&metadata),
            flush_queue: Arc::clone(logs.flush_queue()),
            clock: Arc::clone(&clock),
        });
        let session_seed = random.next_u32();
        let entries = config.entries.clone();
        let configs = BrokerConfigs::new(config.node_id, entries, &config.topic_values, &metadata.image());
        Arc::new_cyclic(|broker| Self {
            fetch_sessions: FetchSessions::new(
                config.max_incremental_fetch_session_cache_slots,
                session_seed,
            ),
            topics: Topics::new(services),
            fetchers: Fetchers::new(peers),
            groups: Groups::new(Weak::clone(broker), config.groups.clone()),
            producer_ids: ProducerIds::default(),
            duties: Duties::default(),
            oversight: Oversight::default(),
            contact: Contact::default(),
            first_batches: FirstBatches::default(),
            assignment_lines: AssignmentLines::default(),
            change_lines: ChangeLines::default(),
            controller_link: OnceLock::new(),
            timers: Timers::default(),
            changes: PartitionChangeCounters::default(),
            incarnation: random.next_u128(),
            previous_life,
            next_parked_id: AtomicU64::new(1),
            has_registered: AtomicBool::new(false),
            knows_strays: AtomicBool::new(false),
            is_registering: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            random,
            config,
            configs,
            metadata,
            logs,
            clock,
        })
    }

    /// The number that tells this process's registration from those of others under the same node id.
    pub fn incarnation(&self) -> u128 {
        self.incarnation
    }

    /// Runs one request to its answer or parks it. `frame` is the request without its length.
    pub fn handle(
        self: &Arc<Self>,
        now: Now,
        connection: &Arc<Connection>,
        frame: BytesMut,
        responder: Responder,
    ) {
        api::dispatch(self, now, connection, frame, responder);
    }

    /// The client is gone; what is parked for it is dropped.
    pub fn connection_closed(&self, connection: &Arc<Connection>) {
        connection.close();
    }

    /// Ends the wait of every parked request whose time is up, and gives the next deadline.
    pub fn run_timers(&self, now: Now) -> Option<MonotonicMs> {
        self.timers.run(now)
    }

    /// This broker is about to end: whoever waits is answered with what there is, and nobody waits from now on.
    pub fn stop_waiting(&self, now: Now) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.timers.run_all(now);
    }

    /// Whether this broker is about to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Sets what is called, from any thread, when a deadline appears that is earlier than all others. Only the
    /// first call counts.
    pub fn set_timer_waker(&self, waker: Box<dyn Fn(MonotonicMs) + Send + Sync>) {
        let is_first = self.timers.set_waker(waker);
        debug_assert!(is_first, "a broker has one timer thread");
    }

    /// Sets who hears of the broker configs in force whenever they change, and tells them at once. Only the first call
    /// counts.
    pub fn set_values_listener(&self, listener: ValuesListener) {
        let is_first = self.configs.set_listener(listener);
        debug_assert!(is_first, "a broker belongs to one process");
    }

    /// Sets whose log levels are shown and changed as the configs of this broker's loggers. Only the first call counts.
    pub fn set_loggers(&self, loggers: Box<dyn Loggers>) {
        let is_first = self.configs.set_loggers(loggers);
        debug_assert!(is_first, "a broker belongs to one process");
    }

    /// The metadata log of this node ended at this entry of this term when the process started: what follows is new.
    pub fn set_replayed_to(&self, index: LogIndex, term: Term) {
        self.assignment_lines.set_replayed_to(index, term);
    }

    /// The metadata image has changed. Called by the metadata log's listener, in order, before any proposal that
    /// is part of the change is answered.
    pub fn metadata_changed(self: &Arc<Self>, image: &Arc<MetadataImage>, delta: &Delta) {
        self.assignment_lines.tell(self, image, delta);
        self.change_lines.tell(self, image, delta, self.assignment_lines.is_replayed(image));
        self.changes.note(delta);
        let broker_configs_changed = self.configs.apply(image, delta);
        self.topics.apply(self, image, delta, broker_configs_changed);
        self.follow_image(image, delta);
        self.groups.apply(self, delta);
        if !delta.configs_changed.is_empty() || leaves_unled(image, delta) {
            self.oversight.look_again();
        }
    }

    /// What clients have written and read, by topic and in all.
    pub fn traffic(&self) -> TopicTraffic {
        self.topics.traffic()
    }

    /// How often leaders and in-sync replicas have changed since this process started.
    pub fn partition_changes(&self) -> PartitionChanges {
        self.changes.read()
    }

    /// Whether this broker is in the image under its present incarnation: registered, and whether it is fenced.
    pub fn registration(&self, image: &MetadataImage) -> Option<bool> {
        let registered = image.broker(self.node_id())?;
        (registered.incarnation == self.incarnation).then_some(registered.fenced)
    }

    /// This broker's node id.
    pub fn node_id(&self) -> NodeId {
        self.config.node_id
    }

    pub(crate) fn next_parked_id(&self) -> u64 {
        self.next_parked_id.fetch_add(1, Ordering::Relaxed)
    }
}
