//! The process's log levels, as Kafka's tools see and change them (KIP-412).
//!
//! A logger is a part of the program: one of the crates, or a module within one, such as `chronik_broker::groups`. The
//! root logger stands for everything. Levels are not stored: the next start begins with what `log` says.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_broker::config::{LogLevel, Loggers, ROOT_LOGGER};
use parking_lot::Mutex;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// The crates that log.
const CRATES: &[&str] = &[
    "chronik_broker",
    "chronik_coordinator",
    "chronik_disk",
    "chronik_log",
    "chronik_protocol",
    "chronik_raft",
    "chronik_server",
];

type Reload = Box<dyn Fn(Targets) + Send + Sync>;

/// The levels that are set, and the filter that follows them.
#[derive(Clone)]
pub struct ProcessLoggers(Arc<State>);

struct State {
    /// By name. Always has [`ROOT_LOGGER`].
    set: Mutex<BTreeMap<String, LogLevel>>,
    reload: Reload,
}

impl ProcessLoggers {
    /// Begins with the levels of `filter`; `reload` puts another filter in its place.
    pub fn new(filter: &Targets, reload: Reload) -> Self {
        let mut set: BTreeMap<String, LogLevel> =
            filter.iter().map(|(target, level)| (target.to_owned(), from_filter(level))).collect();
        let root = filter.default_level().map_or(LogLevel::Off, from_filter);
        set.insert(ROOT_LOGGER.to_owned(), root);
        Self(Arc::new(State { set: Mutex::new(set), reload }))
    }
}

impl Loggers for ProcessLoggers {
    fn levels(&self) -> BTreeMap<String, LogLevel> {
        let set = self.0.set.lock();
        // Filters compare the beginnings of names, and the longest that fits counts.
        let in_force = |name: &str| {
            let fits = set.iter().filter(|(target, _)| name.starts_with(target.as_str()));
            let longest = fits.max_by_key(|(target, _)| target.len());
            longest.or_else(|| set.get_key_value(ROOT_LOGGER)).map_or(LogLevel::Off, |(_, level)| *level)
        };
        let mut levels: BTreeMap<String, LogLevel> =
            CRATES.iter().map(|name| ((*name).to_owned(), in_force(name))).collect();
        levels.extend(set.iter().map(|(name, level)| (name.clone(), *level)));
        levels
    }

    fn exists(&self, name: &str) -> bool {
        let first = name.split("::").next().unwrap_or(name);
        name == ROOT_LOGGER || CRATES.contains(&first) || self.0.set.lock().contains_key(name)
    }

    fn set(&self, changes: &[(String, Option<LogLevel>)]) {
        let mut set = self.0.set.lock();
        for (name, level) in changes {
            match level {
                Some(level) => set.insert(name.clone(), *level),
                None => set.remove(name),
            };
        }
        let root = set.get(ROOT_LOGGER).map_or(LevelFilter::OFF, |level| to_filter(*level));
        let others = set.iter().filter(|(name, _)| *name != ROOT_LOGGER);
        let filter = Targets::new()
            .with_default(root)
            .with_targets(others.map(|(name, level)| (name.clone(), to_filter(*level))));
        (self.0.reload)(filter);
        for (name, level) in changes {
            let level = level.map_or("that of the logger above", LogLevel::name);
            tracing::info!("The level of logger {name} is now {level}");
        }
    }
}

fn from_filter(level: LevelFilter) -> LogLevel {
    match level {
        LevelFilter::OFF => LogLevel::Off,
        LevelFilter::ERROR => LogLevel::Error,
        LevelFilter::WARN => LogLevel::Warn,
        LevelFilter::INFO => LogLevel::Info,
        LevelFilter::DEBUG => LogLevel::Debug,
        LevelFilter::TRACE => LogLevel::Trace,
    }
}

/// Nothing is logged as fatal, so that level lets through what errors do not reach: nothing.
fn to_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off | LogLevel::Fatal => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_the_filter_and_the_filter_follows_them() {
        let reloaded: Arc<Mutex<Option<Targets>>> = Arc::default();
        let sink = Arc::clone(&reloaded);
        let reload = Box::new(move |filter| *sink.lock() = Some(filter));
        let filter: Targets = "warn,chronik_log=debug,elsewhere=trace".parse().expect("a filter");
        let loggers = ProcessLoggers::new(&filter, reload);
        let level = |name: &str| loggers.levels().get(name).copied();
        assert_eq!(level("root"), Some(LogLevel::Warn));
        assert_eq!(level("chronik_broker"), Some(LogLevel::Warn));
        assert_eq!(level("chronik_log"), Some(LogLevel::Debug));
        assert_eq!(level("elsewhere"), Some(LogLevel::Trace));
        for (name, exists) in [
            ("root", true),
            ("chronik_broker", true),
            ("chronik_broker::groups", true),
            ("elsewhere", true),
            ("chronik_broke", false),
            ("kafka.server", false),
        ] {
            assert_eq!(loggers.exists(name), exists, "{name}");
        }
        let module = "chronik_broker::groups".to_owned();
        loggers.set(&[
            ("root".to_owned(), Some(LogLevel::Error)),
            (module.clone(), Some(LogLevel::Trace)),
            ("chronik_log".to_owned(), None),
        ]);
        assert_eq!(level("chronik_log"), Some(LogLevel::Error));
        assert_eq!(level(&module), Some(LogLevel::Trace));
        let filter = reloaded.lock().take().expect("a new filter");
        assert!(filter.would_enable("chronik_broker::groups::load", &tracing::Level::TRACE));
        assert!(!filter.would_enable("chronik_broker::api", &tracing::Level::WARN));
        assert!(!filter.would_enable("chronik_log", &tracing::Level::WARN));
        assert!(filter.would_enable("chronik_log", &tracing::Level::ERROR));
        loggers.set(&[(module.clone(), None)]);
        assert_eq!(level(&module), None);
    }
}
