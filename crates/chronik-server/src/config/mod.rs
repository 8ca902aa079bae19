//! Configuration: one table of settings, read from flags, environment and a file.

mod advertise;
mod broker;
mod docs;
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

pub use advertise::{Advertise, AdvertiseError};
pub use docs::markdown;
pub use load::{ConfigError, Origin, Values, Written};
pub use options::{Config, OPTIONS, OptionSpec, option};
pub use peers::{Peer, Peers, PeersError};
pub use value::{CleanupPolicies, CompressionType, Host, LogFilter, LogFormat, TimestampType, ValueType};

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "CHRONIK_CONFIG";

/// The variable that names a property file of Kafka's.
pub const PROPERTIES_VARIABLE: &str = "CHRONIK_PROPERTIES";

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run a node.
    Run(Box<Config>),
    /// Print a text and end.
    Print(String),
}

/// Reads the command line, the environment and the files that they name, which `read` opens.
pub fn load(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    mut read: impl FnMut(&Path) -> io::Result<String>,
) -> Result<Command, ConfigError> {
    let flags = match docs::parse_arguments(arguments)? {
        docs::Arguments::Print(text) => return Ok(Command::Print(text)),
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
    let config = Config::from_values(values)?;
    config.check()?;
    Ok(Command::Run(Box::new(config)))
}

impl Config {
    /// Finds values that are possible one by one and not together.
    fn check(&self) -> Result<(), ConfigError> {
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
        if let Some(peers) = &self.cluster_peers {
            if !self.cluster_enabled {
                return Err(ConfigError::Contradiction(format!(
                    "{} is set, but {} is not true; a cluster needs both, and a single node neither",
                    written("cluster.peers"),
                    Written { origin: written("cluster.peers").origin, name: "cluster.enabled".to_owned() },
                )));
            }
            let Some(own) = peers.get(self.node_id) else {
                let ids: Vec<String> = peers.as_slice().iter().map(|peer| peer.id.to_string()).collect();
                return Err(ConfigError::Contradiction(format!(
                    "{} is '{}', but {} lists nodes {}; a node must be in the list",
                    written("node.id"),
                    self.node_id,
                    written("cluster.peers"),
                    ids.join(", "),
                )));
            };
            for (name, own_port, listed_port) in [
                ("kafka.port", self.kafka_port, own.kafka_port),
                ("raft.port", self.raft_port, own.raft_port),
            ] {
                if values.is_set(name) && own_port != listed_port {
                    return Err(ConfigError::Contradiction(format!(
                        "{} is '{own_port}', but {} gives node {} port {listed_port}; they must be the same",
                        written(name),
                        written("cluster.peers"),
                        self.node_id,
                    )));
                }
            }
        }
        if self.cluster_enabled {
            return Err(ConfigError::Contradiction(format!(
                "{} is 'true', but this version of Chronik runs single nodes only; leave it out, or set it to false",
                written("cluster.enabled"),
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
