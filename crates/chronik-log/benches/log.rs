//! What the log costs on a real disk: appends, reads, idle partitions, a restart after the process died, compaction.
//!
//! `cargo bench -p chronik-log --bench log [-- [--compaction] [DIRECTORY]]`. The figures are for reading; nothing is asserted.
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock and the process's own statistics"
)]
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::cast_precision_loss, reason = "figures are rounded for reading anyway")]
#![expect(clippy::unwrap_used, reason = "what fails ends the benchmark")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use chronik_disk::{Disk, RealDisk};
use chronik_log::{
    AppendOrigin, Cleaner, CleanerOptions, CleanupPolicy, Log, LogConfig, LogManager, ManagerOptions,
    PendingBatch, ReadData, ReadRequest,
};
use chronik_protocol::records::{BatchBuilder, BatchOptions, Compression};
use chronik_types::{LeaderEpoch, MonotonicMs, Now, Offset, TimestampMs, TopicId, TopicPartition};

const WALL_MS: i64 = 1_700_000_000_000;
const PARTITIONS: i32 = 10_000;

fn now() -> Now {
    Now { monotonic: MonotonicMs(1), wall: TimestampMs(WALL_MS) }
}

fn batch(bytes: usize) -> BytesMut {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..bytes / 1024 {
        builder.append(TimestampMs(WALL_MS), None, Some(&[b'v'; 1010]), &[]).unwrap();
    }
    builder.finish().unwrap()
}

fn open(path: &Path) -> Arc<LogManager> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let options = ManagerOptions { boot_id: "boot".to_owned(), ..ManagerOptions::default() };
    let config = Arc::new(LogConfig::default());
    let source = Arc::new(move |_: &str| Arc::clone(&config));
    LogManager::open(disk, vec![path.to_owned()], options, source, now()).unwrap().finish(now())
}

fn create(manager: &LogManager, topic: &str, partition: i32) -> Arc<Log> {
    let partition = TopicPartition::new(topic, partition);
    manager.get_or_create(&partition, TopicId(1), Arc::new(LogConfig::default())).unwrap()
}

fn report(what: &str, bytes: usize, count: usize, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!(
        "{what:<44} {:>8.0} MB/s  {:>9.1} us each",
        bytes as f64 * count as f64 / seconds / 1e6,
        seconds * 1e6 / count as f64
    );
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}

fn appends(path: &Path) {
    let manager = open(&path.join("appends"));
    for (bytes, count) in [(1024, 100_000), (16 * 1024, 30_000), (1024 * 1024, 1_000)] {
        let log = create(&manager, &format!("append-{bytes}"), 0);
        let template = batch(bytes);
        let since = Instant::now();
        for _ in 0..count {
            let batch = template.clone();
            log.append(now(), batch, AppendOrigin::Client, LeaderEpoch(0)).unwrap();
        }
        report(&format!("append, batches of {} KiB", bytes / 1024), bytes, count, since);
        cold_reads(&log, bytes);
    }
    let log = create(&manager, "grouped", 0);
    let template = batch(1024);
    let since = Instant::now();
    for _ in 0..5_000 {
        let group = || PendingBatch { batch: template.clone(), origin: AppendOrigin::Client };
        for result in log.append_many(now(), (0..16).map(|_| group()).collect(), LeaderEpoch(0)) {
            result.unwrap();
        }
    }
    report("append, 16 batches of 1 KiB in one write", 1024, 80_000, since);
    let since = Instant::now();
    manager.maintain(Now { monotonic: MonotonicMs(10_000), ..now() });
    println!("{:<44} {:>8.1} ms", "checkpoint after that", since.elapsed().as_secs_f64() * 1e3);
    drop(manager);
    let since = Instant::now();
    let manager = open(&path.join("appends"));
    println!("{:<44} {:>8.1} ms", "restart after that", since.elapsed().as_secs_f64() * 1e3);
    drop(manager);
}

/// Finds regions; what is done with them costs the same everywhere.
fn cold_reads(log: &Log, bytes: usize) {
    let end = log.log_end_offset().get();
    let count = 20_000;
    let since = Instant::now();
    for at in 0..count {
        let request = ReadRequest {
            start_offset: Offset((i64::from(at) * 7919) % (end / 2)),
            max_bytes: 1024 * 1024,
            at_least_one_batch: true,
            upper_bound_offset: Offset(end),
        };
        let result = log.read(request).unwrap();
        assert!(matches!(result.data, ReadData::File(_)));
    }
    let each = since.elapsed().as_secs_f64() * 1e6 / f64::from(count);
    println!("{:<44} {each:>8.1} us", format!("find 1 MiB among batches of {} KiB", bytes / 1024));
}

fn partitions(path: &Path) {
    let dir: PathBuf = path.join("partitions");
    let before = resident_bytes();
    let manager = open(&dir);
    let since = Instant::now();
    for partition in 0..PARTITIONS {
        create(&manager, "idle", partition);
    }
    println!("{:<44} {:>8.0} ms", "make 10,000 partitions", since.elapsed().as_secs_f64() * 1e3);
    let each = resident_bytes().saturating_sub(before) / PARTITIONS.unsigned_abs() as usize;
    println!("{:<44} {each:>8} bytes", "memory of one that was never written");
    for checkpoint in [false, true] {
        if checkpoint {
            manager.maintain(Now { monotonic: MonotonicMs(10_000), ..now() });
        }
        restart(&dir, &format!("idle, never written, checkpoint {checkpoint}"));
    }
    let template = batch(1024);
    for log in manager.logs() {
        log.append(now(), template.clone(), AppendOrigin::Client, LeaderEpoch(0)).unwrap();
    }
    restart(&dir, "each with a batch behind the checkpoint");
    manager.maintain(Now { monotonic: MonotonicMs(100_000), ..now() });
    restart(&dir, "each with a batch, after a checkpoint");
    drop(manager);
}

/// Starts over the same directory as after a kill: from a copy of the lock's name, so that the first manager lives on.
fn restart(dir: &Path, what: &str) {
    // The lock belongs to an open file; without its name the next start makes another.
    std::fs::remove_file(dir.join(".lock")).unwrap();
    let before = resident_bytes();
    let since = Instant::now();
    let manager = open(dir);
    let milliseconds = since.elapsed().as_secs_f64() * 1e3;
    let each = resident_bytes().saturating_sub(before) / PARTITIONS.unsigned_abs() as usize;
    println!("{:<44} {milliseconds:>8.0} ms  {each:>6} bytes each", format!("start: {what}"));
    assert_eq!(manager.logs().len(), PARTITIONS.unsigned_abs() as usize);
}

/// Cleans a log of which a tenth is left.
fn compaction(path: &Path) {
    let manager = open(&path.join("compaction"));
    let config = Arc::new(LogConfig {
        segment_bytes: 64 * 1024 * 1024,
        cleanup_policy: CleanupPolicy::COMPACT,
        min_cleanable_dirty_ratio: 0.0,
        ..LogConfig::default()
    });
    for codec in [Compression::None, Compression::Lz4] {
        let partition = TopicPartition::new(format!("compact-{codec:?}"), 0);
        let log = manager.get_or_create(&partition, TopicId(7), Arc::clone(&config)).unwrap();
        let mut number = 0_u64;
        while log.segment_count() < 5 {
            let options = BatchOptions { compression: codec, ..BatchOptions::default() };
            let mut builder = BatchBuilder::new(options);
            for _ in 0..100 {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let key = ((number >> 33) % 20_000).to_be_bytes();
                let value = number.to_be_bytes().repeat(15);
                builder.append(TimestampMs(WALL_MS), Some(&key), Some(&value), &[]).unwrap();
            }
            log.append(now(), builder.finish().unwrap(), AppendOrigin::Client, LeaderEpoch(0)).unwrap();
        }
        log.set_high_watermark(log.log_end_offset());
        log.sync().unwrap();
        let (before, start) = (log.size_bytes(), Instant::now());
        let mut worker = Cleaner::new(Arc::clone(&manager), CleanerOptions::default()).worker();
        while worker.step(now()) <= now().monotonic || worker.is_busy() {}
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{:<44} {:>8.0} MB/s  {} MB become {} MB",
            format!("compact, 120 B values, {codec:?}"),
            before as f64 / seconds / 1e6,
            before / 1_000_000,
            log.size_bytes() / 1_000_000
        );
    }
}

fn main() {
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let temp = tempfile::tempdir_in(named.unwrap_or_else(|| ".".to_owned())).unwrap();
    if std::env::args().any(|argument| argument == "--compaction") {
        return compaction(temp.path());
    }
    // Partitions first, as their memory is measured by the process's growth.
    partitions(temp.path());
    appends(temp.path());
    compaction(temp.path());
}
