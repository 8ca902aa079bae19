//! The process: its version, its age, and what it uses of the machine.

use std::fmt;

use super::Telemetry;
use super::exposition::Exposition;
use crate::health::Step;
use crate::system;

pub(super) fn tell(into: &mut Exposition<'_>, telemetry: &Telemetry) -> fmt::Result {
    into.gauges("chronik_build_info", "1 for the version that runs.", |sample| {
        sample(&[("version", env!("CARGO_PKG_VERSION"))], 1_u64)
    })?;
    let is_serving = telemetry.health.step() == Step::Serving;
    into.gauge("chronik_serving", "1 once clients are served.", u64::from(is_serving))?;
    let (recovered, to_recover) = telemetry.health.recovery();
    into.gauge("chronik_recovery_partitions", "Partitions that had to be recovered at start.", to_recover)?;
    into.gauge("chronik_recovery_partitions_done", "Those of them that have been.", recovered)?;

    let now = telemetry.clock.now();
    let started_ms = u64::try_from(now.wall.get()).unwrap_or(0).saturating_sub(now.monotonic.0);
    into.gauge(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
        seconds(started_ms),
    )?;
    let usage = system::usage();
    if let Some(cpu_ms) = usage.cpu_ms {
        into.counters("process_cpu_seconds", "Processor time used.", |sample| sample(&[], seconds(cpu_ms)))?;
    }
    let gauges = [
        ("process_resident_memory_bytes", "Memory in use.", usage.resident_bytes),
        ("process_virtual_memory_bytes", "Memory mapped.", usage.virtual_bytes),
        ("process_threads", "Threads.", usage.thread_count),
        ("process_open_fds", "Open file descriptors.", usage.open_file_count),
        ("process_max_fds", "How many file descriptors may be open.", usage.open_files_max),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            into.gauge(name, help, value)?;
        }
    }
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 are exact for the next 280,000 years"
)]
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}
