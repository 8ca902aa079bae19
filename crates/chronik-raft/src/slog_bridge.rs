//! Raft's own log lines, into ours. They go out one level lower: what matters of them is logged here in our words.

use std::fmt::{self, Write};

use slog::{Drain, Key, Level, Logger, Never, OwnedKVList, Record, Serializer, o};

/// A logger for raft.
pub(crate) fn logger() -> Logger {
    Logger::root(Bridge, o!())
}

struct Bridge;

impl Drain for Bridge {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if !is_enabled(record.level()) {
            return Ok(());
        }
        let mut text = Text(record.msg().to_string());
        // Writing to a string cannot fail, and a value that does not print is left out.
        drop(slog::KV::serialize(&record.kv(), record, &mut text));
        drop(slog::KV::serialize(values, record, &mut text));
        let text = text.0;
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(target: "chronik_raft::raft", "{text}"),
            Level::Warning => tracing::info!(target: "chronik_raft::raft", "{text}"),
            Level::Info => tracing::debug!(target: "chronik_raft::raft", "{text}"),
            Level::Debug | Level::Trace => tracing::trace!(target: "chronik_raft::raft", "{text}"),
        }
        Ok(())
    }
}

fn is_enabled(level: Level) -> bool {
    match level {
        Level::Critical | Level::Error => {
            tracing::enabled!(target: "chronik_raft::raft", tracing::Level::ERROR)
        }
        Level::Warning => tracing::enabled!(target: "chronik_raft::raft", tracing::Level::INFO),
        Level::Info => tracing::enabled!(target: "chronik_raft::raft", tracing::Level::DEBUG),
        Level::Debug | Level::Trace => tracing::enabled!(target: "chronik_raft::raft", tracing::Level::TRACE),
    }
}

struct Text(String);

impl Serializer for Text {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, " {key}={value}")?)
    }
}
