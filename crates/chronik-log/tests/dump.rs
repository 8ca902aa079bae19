//! Kafka's own tool reads every file that is written, and finds nothing wrong.
//!
//! Runs where `KAFKA_LIBS` names the directory with the jars of Apache Kafka 4.3.1, and says so where it does not.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use chronik_disk::{Disk, OpenMode, RealDisk};
use chronik_log::{AppendOrigin, LogConfig};
use chronik_protocol::records::{Compression, TimestampType};
use chronik_types::{LeaderEpoch, Offset, TopicPartition};
use common::*;

/// What the tool prints about a fault. Of offsets that do not follow each other it says which "is followed by" which;
/// it says so of the first record of every segment too, with −1 before it, whoever wrote the segment.
const FAULTS: [&str; 9] = [
    "Mismatches",
    "is followed by",
    "not found",
    "out of order",
    "Found timestamp mismatch",
    "Exception",
    "isvalid: false",
    "corrupt",
    "Corrupt",
];

/// The faults that the tool finds in the files of some directories.
fn faults(libs: &str, dirs: &[PathBuf], extra: &[&str]) -> Vec<String> {
    let suffixes = [".log", ".index", ".timeindex", ".snapshot"];
    let mut files = Vec::new();
    for dir in dirs {
        for entry in RealDisk.read_dir(dir).unwrap() {
            if suffixes.iter().any(|suffix| entry.name.ends_with(suffix)) {
                files.push(dir.join(entry.name).display().to_string());
            }
        }
    }
    assert!(suffixes.iter().all(|suffix| files.iter().any(|name| name.ends_with(suffix))), "{files:?}");
    let output = Command::new("java")
        .args(["-cp", &format!("{libs}/*"), "org.apache.kafka.tools.DumpLogSegments", "--files"])
        .arg(files.join(","))
        .args(extra)
        .output()
        .unwrap();
    let (said, failed) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().filter(|line| line.starts_with("Dumping")).count() > files.len() / 2);
    let is_fault = |line: &&str| {
        FAULTS.iter().any(|fault| line.contains(fault)) && !line.contains("  -1 is followed by")
    };
    said.lines().chain(failed.lines()).filter(is_fault).map(str::to_owned).collect()
}

#[test]
fn kafkas_tool_finds_nothing_wrong() {
    let Ok(libs) = std::env::var("KAFKA_LIBS") else {
        println!("skipped: KAFKA_LIBS is not set");
        return;
    };
    let temp = tempfile::tempdir().unwrap();
    let dirs = ["plain-0", "zstd-0", "stamped-0"].map(|name| temp.path().join(name));
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let topics = [
        ("plain", TimestampType::CreateTime, Compression::None),
        ("zstd", TimestampType::CreateTime, Compression::Zstd),
        ("stamped", TimestampType::LogAppendTime, Compression::Lz4),
    ];
    let config = |timestamp_type| {
        Arc::new(LogConfig {
            segment_bytes: 20_000,
            message_timestamp_type: timestamp_type,
            ..LogConfig::default()
        })
    };
    // Once killed, once more killed after a checkpoint, then ended cleanly.
    for round in 0..3_u64 {
        let manager =
            open_manager(&disk, temp.path(), options("boot"), &config(TimestampType::CreateTime), now_at(0))
                .unwrap();
        for (topic, timestamp_type, codec) in topics {
            let partition = TopicPartition::new(topic, 0);
            let log = manager.get_or_create(&partition, TOPIC_ID, config(timestamp_type)).unwrap();
            for at in 0..400_i32 {
                let timestamp = BASE_MS + i64::from((at * 7919) % 1000);
                let value = vec![b'v'; usize::try_from(at % 300).unwrap()];
                let producer = i64::from(at) + i64::try_from(round).unwrap() * 1000;
                let batch = if at % 2 == 0 {
                    compressed(codec, timestamp, &[&value, b"second"])
                } else {
                    idempotent(producer, 0, at * 2, &[&value, b"second"])
                };
                let now = now_at(round * 1_000 + u64::try_from(at).unwrap());
                let epoch = LeaderEpoch(i32::try_from(round).unwrap() * 3 + at / 150);
                log.append(now, batch, AppendOrigin::Client, epoch).unwrap();
            }
            log.set_high_watermark(log.log_end_offset());
            if round == 1 {
                log.truncate_to(now_at(5_000), Offset(log.log_end_offset().get() - 31)).unwrap();
                log.delete_records(Offset(100)).unwrap();
            }
        }
        if round > 0 {
            manager.maintain(now_at(10_000));
        }
        if round == 2 {
            manager.shutdown(now_at(20_000)).unwrap();
        }
        drop(manager);
        for extra in ["--deep-iteration", "--index-sanity-check", "--verify-index-only"] {
            assert_eq!(faults(&libs, &dirs, &[extra]), Vec::<String>::new(), "{extra} in round {round}");
        }
    }
    // The tool does see a fault where there is one.
    let index = dirs[0].join("00000000000000000000.index");
    RealDisk.open(&index, OpenMode::ReadWrite).unwrap().write_all_at(&[0, 0, 0, 9], 0).unwrap();
    assert_ne!(faults(&libs, &dirs, &["--verify-index-only"]), Vec::<String>::new());
}
