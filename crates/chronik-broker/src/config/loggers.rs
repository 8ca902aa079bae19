//! Log levels as Kafka's tools set them at run time (KIP-412).

use std::collections::BTreeMap;

/// A level, in Kafka's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are Kafka's own")]
pub enum LogLevel {
    Off,
    Fatal,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// All levels, the quietest first.
    pub const ALL: [Self; 7] =
        [Self::Off, Self::Fatal, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::Fatal => "FATAL",
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }

    /// The level of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// The logger above all others.
pub const ROOT_LOGGER: &str = "root";

/// The process's loggers. A level that is set holds for everything below the logger's name, until the process ends.
pub trait Loggers: Send + Sync {
    /// The loggers that are there with the levels in force, [`ROOT_LOGGER`] among them.
    fn levels(&self) -> BTreeMap<String, LogLevel>;

    /// Whether a level can be set for this name.
    fn exists(&self, name: &str) -> bool;

    /// Sets levels; `None` lets a logger follow the one above it again. Takes effect at once, on all or on none.
    fn set(&self, changes: &[(String, Option<LogLevel>)]);
}
