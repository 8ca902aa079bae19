//! Puts a node together: disk, metadata log, partition logs, broker, and the threads that drive them.
//!
//! The order is that of dependence. The metadata log comes first, because it says which topics there are and what
//! their settings are; then the partition logs are recovered; then the broker serves both. It ends in reverse.

use std::error::Error;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use chronik_broker::config::BrokerValues;
use chronik_broker::{
    Broker, BrokerParts, Connection, ControllerLink, LastLife, NoPeerClient, Responder, topic_log_config,
};
use chronik_disk::{Disk, RealDisk};
use chronik_log::{Cleaner, CleanerOptions, LogManager, ManagerOptions};
use chronik_raft::{MetadataLog as _, NoPeers, ProposeError, RaftConfig, RaftDriver, RaftHandle, Transport};
use chronik_types::{LogIndex, MonotonicMs, Now, Term};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::health::{Health, Step};
use crate::leaving::leave;
use crate::metrics::NodeSources;
use crate::net::{LiveLimits, Service};
use crate::peers::{PeerLinks, PeerNetwork};
use crate::process::{ClusterContext, Context, Node, OnFailure};
use crate::race::{Either, race};
use crate::replica_client::ReplicaClient;
use crate::system;
use crate::threads::{
    MetadataThread, OnPanic, Waker, Worker, start_cleaner, start_controller, start_fsync, start_maintenance,
    start_metadata, start_timers,
};

/// The directory of the metadata log within the data directory. No partition's directory can have this name: theirs
/// end in a dash and a number.
const METADATA_DIR: &str = "raft";
/// The file that one process holds locked while it uses the data directory, beside the lock of the logs.
const METADATA_LOCK: &str = ".lock";
/// How often a node that waits for its cluster looks again, in milliseconds.
const READY_CHECK_MS: u64 = 20;
/// After this time of waiting a node says what it waits for, in milliseconds. A cluster whose nodes start together is
/// ready before.
const WAITING_SAID_MS: u64 = 3_000;
/// The longest answer of a leader that a follower takes, in bytes: a batch may be as large as a request, and comes whole
/// however little was asked for.
const REPLICA_RESPONSE_BYTES_MAX: usize = 256 << 20;

/// The broker, as the listener calls it.
struct BrokerService {
    broker: Arc<Broker>,
}

impl Service for BrokerService {
    fn handle(&self, now: Now, connection: &Arc<Connection>, frame: BytesMut, responder: Responder) {
        self.broker.handle(now, connection, frame, responder);
    }

    fn connection_closed(&self, _now: Now, connection: &Arc<Connection>) {
        self.broker.connection_closed(connection);
    }

    fn stopping(&self, now: Now) {
        self.broker.stop_waiting(now);
    }
}

/// The process's clock, as the broker reads it.
struct BrokerClock(Clock);

impl chronik_broker::Clock for BrokerClock {
    fn now(&self) -> Now {
        self.0.now()
    }
}

/// Opens everything that lies in the data directory and starts what runs beside the connections.
pub fn open(context: Context) -> Result<Node, Box<dyn Error>> {
    let Context {
        config,
        kafka_port,
        clock,
        open_files_max,
        on_panic,
        on_failure,
        telemetry,
        cluster,
        loggers,
    } = context;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let data_dir = config.data_dir.clone();
    let broker_config = config.broker(kafka_port);

    let links = config.cluster_peers.as_ref().map(|peers| PeerLinks::new(peers, config.node_id));
    let transport: Box<dyn Transport> = match &links {
        Some(links) => Box::new(links.transport()),
        None => Box::new(NoPeers),
    };
    let (metadata, metadata_thread) =
        open_metadata(&config, &disk, &data_dir, clock, transport, &telemetry.health)?;
    let replayed_to = log_end(&metadata_thread.driver);
    let metadata_worker = start_metadata(metadata_thread, Arc::clone(&on_panic))?;

    let last_life = LastLife::new(Arc::clone(&disk), &data_dir, system::boot_id());
    let previous_life = last_life.previous();
    let logs = open_logs(
        &config,
        manager_options(&config, open_files_max),
        &disk,
        &metadata,
        &broker_config.topic_values.at(&metadata.image(), config.node_id),
        (clock, &last_life),
        &telemetry.health,
    )?;
    let previous_life = previous_life.filter(|_| !logs.has_lost_records());
    logs.set_offline_listener(offline_listener(last_life.clone(), cluster.is_some(), on_failure));

    let flusher = Waker::new();
    let flusher_waker = flusher.clone();
    logs.flush_queue().set_waker(Box::new(move || flusher_waker.wake()));
    let broker = Broker::new(BrokerParts {
        config: broker_config,
        metadata: Arc::new(metadata.clone()),
        logs: Arc::clone(&logs),
        peers: match &cluster {
            Some(cluster) => Arc::new(ReplicaClient::new(
                cluster.runtime.clone(),
                REPLICA_RESPONSE_BYTES_MAX,
                Duration::from_millis(u64::try_from(config.replica_fetch_wait_max_ms).unwrap_or(0)),
            )),
            None => Arc::new(NoPeerClient),
        },
        clock: Arc::new(BrokerClock(clock)),
        previous_life: previous_life.clone(),
        seed: system::random_seed()?,
    });
    if let Err(error) = last_life.begin(previous_life.as_ref(), broker.incarnation()) {
        tracing::warn!(
            "If this node ends before it has heard of its registration it will have to catch up as if it had lost \
             records: cannot note its incarnation: {error}"
        );
    }
    if let Some(loggers) = loggers {
        broker.set_loggers(Box::new(loggers));
    }
    telemetry.set_node(NodeSources {
        broker: Arc::clone(&broker),
        logs: Arc::clone(&logs),
        metadata: metadata.clone(),
    });
    broker.set_replayed_to(replayed_to.0, replayed_to.1);
    let duties = Waker::new();
    let duties_waker = duties.clone();
    let listener = Arc::clone(&broker);
    let keeper = last_life.keeper();
    metadata.subscribe(Box::new(move |image, delta| {
        keeper.see(listener.epoch_in(image));
        listener.metadata_changed(image, delta);
        duties_waker.wake();
    }));

    let fencing = Arc::downgrade(&broker);
    metadata.set_liveness_listener(Box::new(move |term, changes| {
        if let Some(broker) = fencing.upgrade() {
            broker.liveness_changed(term, changes);
        }
    }));

    // The other nodes are heard only now: what they send changes the metadata, and everyone listens to that already.
    let network = match (links, &config.cluster_peers, cluster) {
        (Some(links), Some(peers), Some(ClusterContext { sockets, peer_runtime, .. })) => {
            let _runtime = peer_runtime.enter();
            Some(Arc::new(PeerNetwork::start(sockets, &links, peers, metadata.clone(), clock)))
        }
        _ => None,
    };
    let service: Arc<dyn Service> = Arc::new(BrokerService { broker: Arc::clone(&broker) });
    if let Some(network) = &network {
        network.serve(Arc::clone(&service));
        broker.set_controller_link(Arc::clone(network) as Arc<dyn ControllerLink>);
    }
    // A topic may keep more by now than it did when this node last heard of it.
    logs.hold_deletions();
    let settings =
        NewestSettings { metadata: metadata.clone(), logs: Arc::clone(&logs), is_asking: Arc::default() };
    let ready = Box::pin(become_ready(Arc::clone(&broker), settings, clock, network.clone()));
    let leaving = Box::pin(leave(Arc::clone(&broker), metadata.clone(), clock, network.clone()));

    let timers = Waker::new();
    let timer_waker = timers.clone();
    broker.set_timer_waker(Box::new(move |deadline: MonotonicMs| timer_waker.wake_at(deadline)));
    broker.start_replica_checks(clock.now());
    let timed = Arc::clone(&broker);
    let timers_worker = start_timers(clock, timers, move |now| timed.run_timers(now), Arc::clone(&on_panic))?;

    let controller = Arc::clone(&broker);
    let duties_worker =
        start_controller(clock, duties, move |now| controller.run_controller(now), Arc::clone(&on_panic))?;

    let queue = Arc::clone(logs.flush_queue());
    let fsync_worker = start_fsync(
        clock,
        flusher,
        move |_now| {
            queue.sync_batch();
            None
        },
        Arc::clone(&on_panic),
    )?;

    let upkeep = Waker::new();
    let upkeep_waker = upkeep.clone();
    logs.set_maintenance_waker(Box::new(move || upkeep_waker.wake()));
    let maintained = Arc::clone(&logs);
    let maintenance_worker =
        start_maintenance(clock, upkeep, move |now| maintained.maintain(now), Arc::clone(&on_panic))?;
    let mut workers = vec![timers_worker, duties_worker, maintenance_worker, fsync_worker, metadata_worker];
    let cleaners_at_start = config.cleaner_options(hash_secret()?);
    let cleaner = Cleaner::new(Arc::clone(&logs), cleaners_at_start.clone());
    let cleaners = start_cleaners(&config, &cleaner, clock, &on_panic)?;
    let cleaner_wakers: Vec<Waker> = cleaners.iter().map(|worker| worker.waker().clone()).collect();
    workers.extend(cleaners);

    let configured = Arc::clone(&broker);
    let at_start = config.limits(open_files_max);
    let listening = move |limits: Arc<LiveLimits>| {
        configured.set_values_listener(Box::new(move |values| {
            limits.follow(&at_start, values);
            if cleaner.update_options(cleaner_options_in_force(&cleaners_at_start, values)) {
                cleaner_wakers.iter().for_each(Waker::wake);
            }
        }));
    };

    let stopped = Arc::clone(&broker);
    Ok(Node {
        listening: Box::new(listening),
        service,
        ready,
        leaving,
        workers,
        shut_down: Box::new(move |now| {
            // Where the disk is full, the next process takes this one for killed, and nothing is lost by that. Where a sync
            // has failed, the directory is offline, and whoever listens to that has given up the record.
            logs.shutdown(now)?;
            last_life.end(stopped.registered_epoch())?;
            Ok(())
        }),
    })
}

/// What keys are hashed with while logs are compacted.
fn hash_secret() -> Result<[u64; 2], Box<dyn Error>> {
    let seed = system::random_seed()?;
    let (words, _) = seed.as_chunks::<8>();
    let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
    Ok([words.next().unwrap_or(0), words.next().unwrap_or(0)])
}

/// The cleaner's settings as the broker configs have them, and where those say nothing as they were at start.
fn cleaner_options_in_force(at_start: &CleanerOptions, values: &BrokerValues) -> CleanerOptions {
    fn set<T: FromStr>(values: &BrokerValues, name: &str) -> Option<T> {
        values.get(name).and_then(|value| value.parse().ok())
    }
    CleanerOptions {
        dedupe_buffer_bytes: set(values, "log.cleaner.dedupe.buffer.size")
            .unwrap_or(at_start.dedupe_buffer_bytes),
        dedupe_buffer_load_factor: set(values, "log.cleaner.io.buffer.load.factor")
            .unwrap_or(at_start.dedupe_buffer_load_factor),
        io_buffer_bytes: set(values, "log.cleaner.io.buffer.size").unwrap_or(at_start.io_buffer_bytes),
        io_max_bytes_per_second: set(values, "log.cleaner.io.max.bytes.per.second")
            .unwrap_or(at_start.io_max_bytes_per_second),
        backoff_ms: set(values, "log.cleaner.backoff.ms").unwrap_or(at_start.backoff_ms),
        ..at_start.clone()
    }
}

/// Starts the threads that compact logs, if any are wanted.
fn start_cleaners(
    config: &crate::config::Config,
    cleaner: &Arc<Cleaner>,
    clock: Clock,
    on_panic: &OnPanic,
) -> Result<Vec<Worker>, Box<dyn Error>> {
    if !config.log_cleaner_enable {
        return Ok(Vec::new());
    }
    let start = |_| Ok(start_cleaner(clock, cleaner.worker(), Arc::clone(on_panic))?);
    (0..config.log_cleaner_threads).map(start).collect()
}

/// Opens the metadata log. A node that is its only voter leads after the first turn.
fn open_metadata(
    config: &crate::config::Config,
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
    clock: Clock,
    transport: Box<dyn Transport>,
    health: &Arc<Health>,
) -> Result<(RaftHandle, MetadataThread), Box<dyn Error>> {
    let dir = data_dir.join(METADATA_DIR);
    disk.create_dir_all(&dir)?;
    let lock = disk.lock(&dir.join(METADATA_LOCK)).map_err(|error| -> Box<dyn Error> {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            system::DataDirError::Locked { path: data_dir.to_owned() }.into()
        } else {
            format!("cannot lock the data directory {}: {error}", data_dir.display()).into()
        }
    })?;
    let voters = match &config.cluster_peers {
        Some(peers) => peers.as_slice().iter().map(|peer| peer.id).collect(),
        None => vec![config.node_id],
    };
    let seed = system::random_seed()?;
    let incarnation = seed.first_chunk().copied().map_or(0, u64::from_le_bytes);
    let raft = RaftConfig::new(config.node_id, voters, incarnation);
    let mut driver = RaftDriver::open(raft, Arc::clone(disk), &dir, transport)?;
    driver.poll(clock.monotonic())?;
    let handle = driver.handle();
    Ok((handle.clone(), MetadataThread { driver, handle, clock, health: Arc::clone(health), lock }))
}

/// The last entry of the metadata log, and its term.
fn log_end(driver: &RaftDriver) -> (LogIndex, Term) {
    let (node, image) = (driver.node(), driver.handle().image());
    let index = node.last_index();
    // An entry that is no longer in the log is in the snapshot, and applied.
    let term = node.log_entry(index).map_or(image.applied_term(), |(term, _)| term);
    (index, term)
}

/// What the logs of a process that may have `open_files_max` files open are told.
fn manager_options(config: &crate::config::Config, open_files_max: Option<u64>) -> ManagerOptions {
    let mut options = ManagerOptions { boot_id: system::boot_id(), ..config.manager_options() };
    if let Some(max) = open_files_max {
        // Connections have first claim on three quarters of the descriptors.
        options.open_files_max =
            options.open_files_max.min(usize::try_from(max / 8).unwrap_or(usize::MAX)).max(16);
    }
    options
}

fn open_logs(
    config: &crate::config::Config,
    options: ManagerOptions,
    disk: &Arc<dyn Disk>,
    metadata: &RaftHandle,
    values: &BrokerValues,
    (clock, last_life): (Clock, &LastLife),
    health: &Health,
) -> Result<Arc<LogManager>, Box<dyn Error>> {
    let image = metadata.image();
    let values = values.clone();
    let source = move |topic: &str| topic_log_config(&image, &values, topic);
    let starting = LogManager::open(
        Arc::clone(disk),
        vec![config.data_dir.clone()],
        options,
        Arc::new(source),
        clock.now(),
    )?;
    let last_life = last_life.clone();
    starting.set_loss_listener(Box::new(move || {
        tracing::warn!("Records are gone that were in this node's logs: other nodes' copies come first");
        told(last_life.forget());
    }));
    health.recovering(starting.partition_count());
    let recover = || {
        while starting.recover_next(clock.now()) {
            health.recovered_one();
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..config.num_recovery_threads_per_data_dir {
            scope.spawn(recover);
        }
        recover();
    });
    health.enter(Step::Registering);
    Ok(starting.finish(clock.now()))
}

/// The logs may lack something, and the next start is to know.
fn told(outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        tracing::error!(
            "Before its next start, remove the file 'registration' from this node's data directory, as its logs may \
             lack records: {error}"
        );
    }
}

/// What a log directory that has gone offline means: nobody knows what of it will be there at the next start, so that the
/// cluster must not count on it then (KIP-966). And a node of a cluster ends: the others have its partitions in sync, and
/// lead them as soon as it is gone. A node without others goes on, to be read from.
fn offline_listener(
    last_life: LastLife,
    has_others: bool,
    on_failure: OnFailure,
) -> Box<dyn Fn() + Send + Sync> {
    Box::new(move || {
        told(last_life.give_up());
        if has_others {
            tracing::error!("This node ends, for others to serve what is in the log directory that failed");
            on_failure();
        }
    })
}

/// Waits until this broker is registered and in service, and its cluster has begun. It waits for a majority as long
/// as it takes, but not for nodes that were given another configuration.
async fn become_ready(
    broker: Arc<Broker>,
    settings: NewestSettings,
    clock: Clock,
    network: Option<Arc<PeerNetwork>>,
) -> Result<(), Box<dyn Error>> {
    let registering = register(&broker, &settings, clock, network.as_deref());
    let disagreement = async {
        match &network {
            Some(network) => network.disagreement().await,
            None => std::future::pending().await,
        }
    };
    match race(registering, disagreement).await {
        Either::First(outcome) => outcome?,
        Either::Second(text) => return Err(text.into()),
    }
    // Only now is the image as new as the cluster's, and says what belongs to whom.
    broker.retire_strays();
    broker.load_groups(clock.now());
    Ok(())
}

/// Asks the cluster for what it has decided, so that what may go of the logs goes by settings that are in force: also where
/// this node cannot register, for want of the room that this makes.
struct NewestSettings {
    metadata: RaftHandle,
    logs: Arc<LogManager>,
    is_asking: Arc<AtomicBool>,
}

impl NewestSettings {
    /// Whether the cluster has answered. Asks, unless a question is under way.
    fn are_known(&self) -> bool {
        let are_known = !self.logs.holds_deletions();
        if !are_known && !self.is_asking.swap(true, Ordering::AcqRel) {
            let (logs, is_asking) = (Arc::clone(&self.logs), Arc::clone(&self.is_asking));
            self.metadata.barrier(Box::new(move |outcome| {
                if outcome.is_ok() {
                    logs.allow_deletions();
                }
                is_asking.store(false, Ordering::Release);
            }));
        }
        are_known
    }
}

async fn register(
    broker: &Arc<Broker>,
    settings: &NewestSettings,
    clock: Clock,
    network: Option<&PeerNetwork>,
) -> Result<(), Box<dyn Error>> {
    let pause = Duration::from_millis(READY_CHECK_MS);
    let started = clock.monotonic();
    let mut is_registered = false;
    let mut has_said = false;
    let mut has_said_full = false;
    loop {
        if !has_said_full && broker.waits_for_room() {
            has_said_full = true;
            tracing::warn!(
                "This node joins its cluster once there is room on its disk to recover its logs: free space or add some"
            );
        }
        if !is_registered && broker.may_register() {
            let (sender, registered) = oneshot::channel();
            broker.register(Box::new(move |outcome| {
                // The receiver is gone only when nobody waits for the answer any more.
                drop(sender.send(outcome));
            }));
            match registered.await {
                Ok(Ok(_)) => is_registered = true,
                // Neither mends itself.
                Ok(Err(error @ (ProposeError::Stopped { .. } | ProposeError::CannotApply(_)))) => {
                    return Err(error.into());
                }
                Ok(Err(error)) => tracing::debug!("Registration is tried again: {error}"),
                Err(_) => return Err("the metadata log has ended".into()),
            }
        }
        let are_settings_known = settings.are_known();
        let is_in_contact = broker.is_in_contact(clock.monotonic());
        if are_settings_known
            && is_registered
            && is_in_contact
            && broker.is_in_service()
            && broker.is_initialized()
        {
            return Ok(());
        }
        if !has_said && WAITING_SAID_MS <= clock.monotonic().since_ms(started) {
            has_said = true;
            let missing = network.map(PeerNetwork::missing).unwrap_or_default();
            tracing::info!(
                "Waiting for a majority of the cluster's nodes; not connected yet: {}",
                if missing.is_empty() { "none".to_owned() } else { missing.join(", ") }
            );
        }
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use chronik_disk::SimDisk;
    use chronik_types::BrokerEpoch;

    use super::*;

    /// Replication point 6.
    #[test]
    fn a_directory_that_fails_is_not_counted_on_and_a_node_with_others_ends() {
        for has_others in [false, true] {
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
            let dir = Path::new("/data");
            disk.create_dir_all(dir).expect("a directory");
            let last_life = LastLife::new(Arc::clone(&disk), dir, "boot".to_owned());
            last_life.note(BrokerEpoch(7), false).expect("it is noted");
            let ended = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&ended);
            let on_failure: OnFailure = Arc::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            offline_listener(last_life.clone(), has_others, on_failure)();
            assert_eq!(
                last_life.previous(),
                None,
                "the machine goes on, and the disk has lost what it has lost"
            );
            assert_eq!(ended.load(Ordering::Relaxed), usize::from(has_others));
        }
    }
}
