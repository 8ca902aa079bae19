//! Configuration: one table of settings, read from flags, environment and a file.

mod advertise;
mod broker;
mod cluster;
mod docs;
mod external;
mod load;
mod options;
mod peers;
mod properties;
mod translate;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use chronik_broker::config::TOPIC_CONFIGS;

use crate::http::Url;

pub use advertise::{Advertise, AdvertiseError};
pub use docs::markdown;
pub use external::{ExternalError, ExternalListener, ExternalListeners};
pub use load::{ConfigError, Origin, Values, Written};
pub use options::{Config, OPTIONS, OptionSpec, option};
pub use peers::{Peer, Peers, PeersError};
pub use value::{CleanupPolicies, CompressionType, Host, LogFilter, LogFormat, TimestampType, ValueType};

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "CHRONIK_CONFIG";

/// The variable that names a property file of Kafka's.
pub const PROPERTIES_VARIABLE: &str = "CHRONIK_PROPERTIES";

/// The port that is asked where nothing names one; the examples and the container image use it.
const DEFAULT_HTTP_PORT: &str = "9644";

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run a node.
    Run(Box<Config>),
    /// Print a text and end.
    Print(String),
    /// Ask a node how it is, and end.
    Health(Url),
}

/// Reads the command line, the environment and the files that they name, which `read` opens.
pub fn load(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    mut read: impl FnMut(&Path) -> io::Result<String>,
) -> Result<Command, ConfigError> {
    let flags = match docs::parse_arguments(arguments)? {
        docs::Arguments::Print(text) => return Ok(Command::Print(text)),
        docs::Arguments::Health(url) => return health(url, environment).map(Command::Health),
        docs::Arguments::Flags(flags) => flags,
    };
    let mut variables = BTreeMap::new();
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with("CHRONIK_")) else { continue };
        let value = value.into_string().map_err(|_| ConfigError::NotText { name: name.to_owned() })?;
        variables.insert(name.to_owned(), value);
    }

    let mut values = Values::default();
    let named = |flag: &str, flag_shown: &'static str, variable: &'static str| match (
        flags.get(flag),
        variables.get(variable),
    ) {
        (Some(path), _) => Some((PathBuf::from(path), flag_shown)),
        (None, Some(path)) if !path.is_empty() => Some((PathBuf::from(path), variable)),
        (None, _) => None,
    };
    let mut open = |path: &Path, named_by| {
        read(path).map_err(|source| ConfigError::File { path: path.to_owned(), named_by, source })
    };
    // What was written for Chronik comes before what was written for Kafka.
    if let Some((path, named_by)) = named("properties", "--properties", PROPERTIES_VARIABLE) {
        let text = open(&path, named_by)?;
        properties::read_properties(&mut values, &path, &text)?;
    }
    if let Some((path, named_by)) = named("config", "--config", CONFIG_VARIABLE) {
        let text = open(&path, named_by)?;
        load::read_file(&mut values, &path, &text)?;
    }
    load::read_environment(&mut values, &variables)?;
    for (name, value) in flags {
        if name != "config" && name != "properties" {
            values.set(&name, Origin::Flag, value)?;
        }
    }
    let mut config = Config::from_values(values)?;
    config.check()?;
    config.take_from_peers();
    Ok(Command::Run(Box::new(config)))
}

/// The node to ask: the one that `--url` names, or the one that the same environment would start.
fn health(
    url: Option<String>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Url, ConfigError> {
    let text = url.unwrap_or_else(|| {
        let port = environment.into_iter().find(|(name, _)| name == "CHRONIK_HTTP_PORT");
        let port = port.and_then(|(_, port)| port.into_string().ok()).filter(|port| !port.is_empty());
        format!("http://localhost:{}/health/ready", port.as_deref().unwrap_or(DEFAULT_HTTP_PORT))
    });
    text.parse().map_err(ConfigError::Arguments)
}

impl Config {
    /// Finds values that are possible one by one and not together.
    fn check(&self) -> Result<(), ConfigError> {
        self.check_cluster()?;
        let values = &self.values;
        let written = |name| values.written(name);
        for def in TOPIC_CONFIGS {
            let Some(spec) = def.broker_synonym.and_then(option) else { continue };
            let Some(text) = values.text(spec).filter(|_| values.is_set(spec.name)) else { continue };
            def.normalize(text).map_err(|detail| ConfigError::Value {
                written: written(spec.name),
                value: text.to_owned(),
                form: spec.form(),
                detail: Some(detail),
            })?;
        }
        let (min, max) = (self.log_cleaner_min_compaction_lag_ms, self.log_cleaner_max_compaction_lag_ms);
        if max < min {
            return Err(ConfigError::Contradiction(format!(
                "{} is '{min}', but {} is '{max}'; the shortest time must not be longer than the longest",
                written("log.cleaner.min.compaction.lag.ms"),
                written("log.cleaner.max.compaction.lag.ms"),
            )));
        }
        if values.is_set("min.insync.replicas")
            && values.is_set("replication.factor")
            && self.min_insync_replicas > i32::from(self.replication_factor)
        {
            return Err(ConfigError::Contradiction(format!(
                "{} is '{}', but {} is '{}'; no topic could be written to with acks=all",
                written("min.insync.replicas"),
                self.min_insync_replicas,
                written("replication.factor"),
                self.replication_factor,
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
