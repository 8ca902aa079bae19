//! Configuration: one table of settings, read from flags, environment and a file.

mod advertise;
mod broker;
mod cluster;
mod docs;
mod external;
mod load;
mod options;
mod peers;
mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::http::Url;

pub use advertise::{Advertise, AdvertiseError};
pub use docs::markdown;
pub use external::{ExternalError, ExternalListener, ExternalListeners};
pub use load::{ConfigError, Origin, Values, Written};
pub use options::{Config, OPTIONS, OptionSpec, option};
pub use peers::{Peer, Peers, PeersError};
pub use value::{CleanupPolicy, Host, LogFilter, LogFormat, TimestampType, ValueType};

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "CHRONIK_CONFIG";

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

/// Reads the command line, the environment and the file that they name, which `read` opens.
pub fn load(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    read: impl FnOnce(&Path) -> io::Result<String>,
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
    let file = match (flags.get("config"), variables.get(CONFIG_VARIABLE)) {
        (Some(path), _) => Some((path, "--config")),
        (None, Some(path)) if !path.is_empty() => Some((path, CONFIG_VARIABLE)),
        (None, _) => None,
    };
    if let Some((path, named_by)) = file {
        let path = PathBuf::from(path);
        let text =
            read(&path).map_err(|source| ConfigError::File { path: path.clone(), named_by, source })?;
        load::read_file(&mut values, &path, &text)?;
    }
    load::read_environment(&mut values, &variables)?;
    for (name, value) in flags {
        if name != "config" {
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
