//! Appends, reads, syncs and maintenance at the same time.
#![expect(clippy::unwrap_used, reason = "what cannot be had fails its test")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use chronik_disk::{Crash, SimDisk};
use chronik_log::{AppendOrigin, LogConfig, ManagerOptions};
use chronik_types::LeaderEpoch;
use common::*;

const APPENDERS: usize = 2;
const BATCHES_EACH: usize = 300;

#[test]
fn readers_see_whole_batches_in_order_while_everything_else_goes_on() {
    let config = LogConfig { segment_bytes: 3_000, index_interval_bytes: 200, ..LogConfig::default() };
    let options = ManagerOptions {
        tail_ring_bytes_max: 1_000,
        checkpoint_bytes_max: 5_000,
        open_files_max: 4,
        ..options("boot-1")
    };
    let node = Node::with_options(SimDisk::new(), config, options);
    let log = node.log();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let appenders: Vec<_> = (0..APPENDERS)
            .map(|appender| {
                let log = &log;
                scope.spawn(move || {
                    for at in 0..BATCHES_EACH {
                        let value = format!("{appender} {at}");
                        let batch = batch(BASE_MS, &[value.as_bytes(), b"second"]);
                        log.append(now_at(0), batch, AppendOrigin::Client, LeaderEpoch(0)).unwrap();
                    }
                })
            })
            .collect();
        for max_bytes in [200, 5_000] {
            let (log, done) = (&log, &done);
            scope.spawn(move || {
                let mut offset = 0;
                while !(done.load(Ordering::Acquire) && offset == log.log_end_offset().get()) {
                    let result = read_from(log, offset, max_bytes);
                    for (at, _) in records_of(&bytes_of(&result)) {
                        assert_eq!(at, offset);
                        offset += 1;
                    }
                    assert_eq!(result.next_offset.get(), offset);
                }
            });
        }
        let (node, done) = (&node, &done);
        scope.spawn(move || {
            let mut now_ms = 0;
            while !done.load(Ordering::Acquire) {
                now_ms += 100;
                node.manager.maintain(now_at(now_ms));
                node.manager.flush_queue().sync_batch();
            }
        });
        for appender in appenders {
            appender.join().unwrap();
        }
        done.store(true, Ordering::Release);
    });
    let records = all_records(&log, 0, 1_000);
    assert_eq!(records.len(), APPENDERS * BATCHES_EACH * 2);
    drop(log);
    let node = node.restart(Crash::Process, "boot-1");
    assert_eq!(all_records(&node.log(), 0, 1_000), records);
}
