//! Puts a node together: disk, metadata log, partition logs, broker, and the threads that drive them.
//!
//! The order is that of dependence. The metadata log comes first, because it says which topics there are and what
//! their settings are; then the partition logs are recovered; then the broker serves both. It ends in reverse.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::BytesMut;
use chronik_broker::{Broker, BrokerParts, Connection, Responder, topic_log_config};
use chronik_disk::{Disk, RealDisk};
use chronik_log::{Cleaner, LogManager, ManagerOptions};
use chronik_raft::{MetadataLog as _, NoPeers, ProposeError, RaftConfig, RaftDriver, RaftHandle};
use chronik_types::{MonotonicMs, Now};

use crate::clock::Clock;
use crate::net::{LiveLimits, Service};
use crate::process::{Context, Node};
use crate::system;
use crate::threads::{
    MetadataThread, OnPanic, Waker, Worker, start_cleaner, start_fsync, start_maintenance, start_metadata,
    start_timers,
};

/// The directory of the metadata log within the data directory. No partition's directory can have this name: theirs
/// end in a dash and a number.
const METADATA_DIR: &str = "raft";
/// The file that one process holds locked while it uses the data directory, beside the lock of the logs.
const METADATA_LOCK: &str = ".lock";
/// How long registration may take. A single node answers within milliseconds.
const REGISTRATION_MAX: Duration = Duration::from_secs(30);
/// Threads that recover partitions at start.
const RECOVERY_THREADS_MAX: usize = 8;

/// The broker, as the listener calls it.
struct BrokerService(Arc<Broker>);

impl Service for BrokerService {
    fn handle(&self, now: Now, connection: &Arc<Connection>, frame: BytesMut, responder: Responder) {
        self.0.handle(now, connection, frame, responder);
    }

    fn connection_closed(&self, _now: Now, connection: &Arc<Connection>) {
        self.0.connection_closed(connection);
    }

    fn stopping(&self, now: Now) {
        self.0.stop_waiting(now);
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
    let Context { config, kafka_port, clock, open_files_max, on_panic, loggers } = context;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let data_dir = config.data_dir.clone();
    let broker_config = config.broker(kafka_port);

    let (metadata, metadata_thread) = open_metadata(&config, &disk, &data_dir, clock)?;
    let metadata_worker = start_metadata(metadata_thread, Arc::clone(&on_panic))?;

    let logs =
        open_logs(&config, &disk, &data_dir, &metadata, &broker_config.topic_values, clock, open_files_max)?;

    let flusher = Waker::new();
    let flusher_waker = flusher.clone();
    logs.flush_queue().set_waker(Box::new(move || flusher_waker.wake()));
    let broker = Broker::new(BrokerParts {
        config: broker_config,
        metadata: Arc::new(metadata.clone()),
        logs: Arc::clone(&logs),
        clock: Arc::new(BrokerClock(clock)),
        seed: system::random_seed()?,
    });
    if let Some(loggers) = loggers {
        broker.set_loggers(Box::new(loggers));
    }
    let listener = Arc::clone(&broker);
    metadata.subscribe(Box::new(move |image, delta| listener.metadata_changed(image, delta)));
    broker.retire_strays();
    register(&broker)?;
    broker.load_groups(clock.now());

    let timers = Waker::new();
    let timer_waker = timers.clone();
    broker.set_timer_waker(Box::new(move |deadline: MonotonicMs| timer_waker.wake_at(deadline)));
    let timed = Arc::clone(&broker);
    let timers_worker = start_timers(clock, timers, move |now| timed.run_timers(now), Arc::clone(&on_panic))?;

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
    let mut workers = vec![timers_worker, maintenance_worker, fsync_worker, metadata_worker];
    workers.extend(start_cleaners(&config, &logs, clock, &on_panic)?);

    let configured = Arc::clone(&broker);
    let at_start = config.limits(open_files_max);
    let listening = move |limits: Arc<LiveLimits>| {
        configured.set_values_listener(Box::new(move |values| limits.follow(&at_start, values)));
    };

    Ok(Node {
        listening: Box::new(listening),
        service: Arc::new(BrokerService(broker)),
        workers,
        shut_down: Box::new(move |now| {
            logs.shutdown(now)?;
            Ok(())
        }),
    })
}

/// Starts the threads that compact logs, if any are wanted.
fn start_cleaners(
    config: &crate::config::Config,
    logs: &Arc<LogManager>,
    clock: Clock,
    on_panic: &OnPanic,
) -> Result<Vec<Worker>, Box<dyn Error>> {
    if !config.log_cleaner_enable {
        return Ok(Vec::new());
    }
    let seed = system::random_seed()?;
    let (words, _) = seed.as_chunks::<8>();
    let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
    let hash_secret = [words.next().unwrap_or(0), words.next().unwrap_or(0)];
    let cleaner = Cleaner::new(Arc::clone(logs), config.cleaner_options(hash_secret));
    let start = |_| Ok(start_cleaner(clock, cleaner.worker(), Arc::clone(on_panic))?);
    (0..config.log_cleaner_threads).map(start).collect()
}

/// Opens the metadata log. This node is its only voter, so it leads after the first turn.
fn open_metadata(
    config: &crate::config::Config,
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
    clock: Clock,
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
    let raft = RaftConfig::new(config.node_id, vec![config.node_id]);
    let mut driver = RaftDriver::open(raft, Arc::clone(disk), &dir, Box::new(NoPeers))?;
    driver.poll(clock.monotonic())?;
    let handle = driver.handle();
    Ok((handle.clone(), MetadataThread { driver, handle, clock, lock }))
}

fn open_logs(
    config: &crate::config::Config,
    disk: &Arc<dyn Disk>,
    data_dir: &Path,
    metadata: &RaftHandle,
    values: &chronik_broker::config::BrokerValues,
    clock: Clock,
    open_files_max: Option<u64>,
) -> Result<Arc<LogManager>, Box<dyn Error>> {
    let image = metadata.image();
    let values = values.at(&image, config.node_id);
    let mut options = ManagerOptions { boot_id: system::boot_id(), ..config.manager_options() };
    if let Some(max) = open_files_max {
        // Connections have first claim on three quarters of the descriptors.
        options.open_files_max =
            options.open_files_max.min(usize::try_from(max / 8).unwrap_or(usize::MAX)).max(16);
    }
    let source = move |topic: &str| topic_log_config(&image, &values, topic);
    let starting = LogManager::open(
        Arc::clone(disk),
        vec![data_dir.to_owned()],
        options,
        Arc::new(source),
        clock.now(),
    )?;
    let threads = system::core_count().min(RECOVERY_THREADS_MAX);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| while starting.recover_next(clock.now()) {});
        }
        while starting.recover_next(clock.now()) {}
    });
    Ok(starting.finish(clock.now()))
}

/// Waits until this broker is registered and in service.
fn register(broker: &Arc<Broker>) -> Result<(), Box<dyn Error>> {
    let (sender, registered) = mpsc::channel::<Result<(), ProposeError>>();
    broker.register(Box::new(move |outcome| {
        // The receiver is gone only when nobody waits for the answer any more.
        drop(sender.send(outcome.map(|_| ())));
    }));
    match registered.recv_timeout(REGISTRATION_MAX) {
        Ok(outcome) => Ok(outcome?),
        Err(_) => {
            Err(format!("the broker was not registered within {} s", REGISTRATION_MAX.as_secs()).into())
        }
    }
}
