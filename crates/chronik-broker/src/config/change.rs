//! From "change these configs" to the commands that do it. Decides and proposes nothing.
//!
//! What may be changed, in which order it is checked and in which words it is refused follows Kafka 4.3.

use std::collections::{BTreeMap, BTreeSet};

use chronik_raft::metadata::{Command, ConfigMap, ConfigResource, MetadataImage, SetConfig};
use chronik_types::{ErrorCode, validate_topic_name};

use super::{LogLevel, ROOT_LOGGER, TopicConfigDef, check_together, is_kafka_broker_config, resource_type};
use crate::broker::Broker;
use crate::controller::CreationError;

/// How one config is changed, as `IncrementalAlterConfigs` numbers it (KIP-339).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Set,
    Delete,
    Append,
    Subtract,
}

impl Operation {
    /// The operation of Kafka's number.
    pub(crate) fn from_kafka(number: i8) -> Option<Self> {
        match number {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }
}

/// One config that is to be changed.
#[derive(Clone, Debug)]
pub(crate) struct ConfigChange {
    pub(crate) name: String,
    /// Kafka's number of the operation.
    pub(crate) operation: i8,
    pub(crate) value: Option<String>,
}

/// All that one request wants of one resource.
#[derive(Clone, Debug)]
pub(crate) enum WantedConfigs {
    /// These and no others (`AlterConfigs`).
    Replace(Vec<(String, Option<String>)>),
    /// What is set now, changed (`IncrementalAlterConfigs`).
    Change(Vec<ConfigChange>),
}

/// What there is to do.
#[derive(Debug)]
pub(crate) enum PlannedConfigs {
    /// To propose these, unless there are none.
    Commands(Vec<Command>),
    /// To set these log levels.
    LogLevels(Vec<(String, Option<LogLevel>)>),
}

/// Changes that have passed the checks that all resources share.
type Checked<'a> = Vec<(&'a str, Operation, &'a str)>;

fn invalid_request(message: impl Into<String>) -> CreationError {
    CreationError::new(ErrorCode::InvalidRequest, message)
}

fn invalid_config(message: impl Into<String>) -> CreationError {
    CreationError::new(ErrorCode::InvalidConfig, message)
}

impl WantedConfigs {
    fn names(&self) -> Vec<&str> {
        match self {
            Self::Replace(configs) => configs.iter().map(|(name, _)| name.as_str()).collect(),
            Self::Change(changes) => changes.iter().map(|change| change.name.as_str()).collect(),
        }
    }

    /// Each name once, and a value wherever one is needed.
    fn check(&self) -> Result<(), CreationError> {
        let mut seen = BTreeSet::new();
        if !self.names().into_iter().all(|name| seen.insert(name)) {
            return Err(invalid_request("Error due to duplicate config keys"));
        }
        let is_null = |operation: Option<Operation>, value: &Option<String>| {
            operation != Some(Operation::Delete) && value.is_none()
        };
        let nulls: Vec<&str> = match self {
            Self::Replace(configs) => configs
                .iter()
                .filter(|(_, value)| is_null(None, value))
                .map(|(name, _)| name.as_str())
                .collect(),
            Self::Change(changes) => changes
                .iter()
                .filter(|change| is_null(Operation::from_kafka(change.operation), &change.value))
                .map(|change| change.name.as_str())
                .collect(),
        };
        if nulls.is_empty() {
            Ok(())
        } else {
            Err(invalid_request(format!("Null value not supported for : {}", nulls.join(", "))))
        }
    }

    fn changes(&self) -> Result<Option<Checked<'_>>, CreationError> {
        let Self::Change(changes) = self else { return Ok(None) };
        let checked = changes.iter().map(|change| {
            let operation = Operation::from_kafka(change.operation)
                .ok_or_else(|| invalid_request(format!("Unknown operations type {}", change.operation)))?;
            Ok((change.name.as_str(), operation, change.value.as_deref().unwrap_or_default()))
        });
        checked.collect::<Result<_, _>>().map(Some)
    }

    /// What is set once the change is done. `default_of` knows lists and their defaults; `not_a_list` says what is
    /// wrong with adding to anything else.
    fn apply_to(
        &self,
        current: &ConfigMap,
        default_of: impl Fn(&str) -> Option<String>,
        not_a_list: impl Fn(Operation, &str) -> String,
    ) -> Result<ConfigMap, CreationError> {
        let Some(changes) = self.changes()? else {
            let Self::Replace(configs) = self else { return Ok(current.clone()) };
            let given = configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
            return Ok(given.collect());
        };
        let mut next = current.clone();
        for (name, operation, value) in changes {
            let value = match operation {
                Operation::Set => value.to_owned(),
                Operation::Delete => {
                    next.remove(name);
                    continue;
                }
                Operation::Append | Operation::Subtract => {
                    let default =
                        default_of(name).ok_or_else(|| invalid_config(not_a_list(operation, name)))?;
                    let present = next.get(name).unwrap_or(&default);
                    change_list(operation, present, value)
                }
            };
            next.insert(name.to_owned(), value);
        }
        Ok(next)
    }
}

/// Adds items to a list or takes them out.
fn change_list(operation: Operation, present: &str, change: &str) -> String {
    let split = |text: &str| -> Vec<String> {
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    };
    let mut items = split(present);
    for item in split(change) {
        let at = items.iter().position(|present| *present == item);
        match (operation, at) {
            (Operation::Append, None) => items.push(item),
            (Operation::Subtract, Some(at)) => {
                items.remove(at);
            }
            _ => {}
        }
    }
    items.join(",")
}

/// The commands that lead from one set of configs to another.
fn commands(resource: &ConfigResource, current: &ConfigMap, next: &ConfigMap) -> Vec<Command> {
    let removed = current.keys().filter(|name| !next.contains_key(*name));
    let removed = removed.map(|name| SetConfig::new(resource, name.clone(), None).into());
    let set = next.iter().filter(|(name, value)| current.get(*name) != Some(value));
    let set = set.map(|(name, value)| SetConfig::new(resource, name.clone(), Some(value.clone())).into());
    removed.chain(set).collect()
}

impl Broker {
    /// Decides what a change of one resource's configs comes to, or why it is refused.
    pub(crate) fn plan_configs(
        &self,
        image: &MetadataImage,
        kind: i8,
        name: &str,
        wanted: &WantedConfigs,
    ) -> Result<PlannedConfigs, CreationError> {
        wanted.check()?;
        match kind {
            resource_type::TOPIC => self.plan_topic_configs(image, name, wanted),
            resource_type::BROKER => self.plan_broker_configs(image, name, wanted),
            resource_type::BROKER_LOGGER if matches!(wanted, WantedConfigs::Change(_)) => {
                self.plan_log_levels(name, wanted)
            }
            resource_type::CLIENT_METRICS if name.is_empty() => {
                Err(invalid_request("Subscription name can't be empty"))
            }
            resource_type::CLIENT_METRICS => Err(invalid_request(
                "This broker collects no metrics of clients, so a subscription to them could not work",
            )),
            resource_type::GROUP if name.is_empty() => {
                Err(invalid_request("Default group resources are not allowed."))
            }
            resource_type::GROUP => match wanted.names().first() {
                Some(name) => Err(invalid_config(format!("Unknown group config name: {name}"))),
                None => Ok(PlannedConfigs::Commands(Vec::new())),
            },
            _ => Err(invalid_request(format!("Unknown resource type {kind}"))),
        }
    }

    fn plan_topic_configs(
        &self,
        image: &MetadataImage,
        name: &str,
        wanted: &WantedConfigs,
    ) -> Result<PlannedConfigs, CreationError> {
        if name.is_empty() {
            return Err(invalid_request("Default topic resources are not allowed."));
        }
        validate_topic_name(name).map_err(|error| {
            CreationError::new(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {error}"))
        })?;
        let resource = ConfigResource::Topic(name.into());
        let none = ConfigMap::new();
        let current = image.configs(&resource).map_or(&none, |configs| configs);
        let changed = wanted.apply_to(
            current,
            |key| {
                TopicConfigDef::find(key)
                    .filter(|def| def.allowed.is_list())
                    .map(|def| def.default.to_owned())
            },
            |operation, key| {
                let verb = if operation == Operation::Append { "APPEND" } else { "SUBTRACT" };
                format!("Can't {verb} to key {key} because its type is not LIST.")
            },
        )?;
        let mut next = ConfigMap::new();
        for (key, value) in changed {
            let def = TopicConfigDef::find(&key)
                .ok_or_else(|| invalid_config(format!("Unknown topic config name: {key}")))?;
            next.insert(key, def.normalize(&value).map_err(invalid_config)?);
        }
        check_together(&next, &self.configs.values()).map_err(invalid_config)?;
        if image.topic(name).is_none() {
            let message = format!("The topic '{name}' does not exist.");
            return Err(CreationError::new(ErrorCode::UnknownTopicOrPartition, message));
        }
        Ok(PlannedConfigs::Commands(commands(&resource, current, &next)))
    }

    fn plan_broker_configs(
        &self,
        image: &MetadataImage,
        name: &str,
        wanted: &WantedConfigs,
    ) -> Result<PlannedConfigs, CreationError> {
        let resource = if name.is_empty() {
            ConfigResource::BrokerDefault
        } else {
            self.check_own_id(name)?;
            ConfigResource::Broker(self.node_id())
        };
        let none = ConfigMap::new();
        let current = image.configs(&resource).map_or(&none, |configs| configs);
        let changed = wanted.apply_to(
            current,
            |key| {
                let entry = self.configs.entry(key)?;
                entry
                    .dynamic
                    .is_some_and(super::Allowed::is_list)
                    .then(|| entry.default.clone().unwrap_or_default())
            },
            |operation, key| {
                let verb = if operation == Operation::Append { "append" } else { "subtract" };
                format!("Config value {verb} is not allowed for config key: {key}")
            },
        )?;
        let mut next = ConfigMap::new();
        let mut fixed = Vec::new();
        for (key, value) in changed {
            match self.configs.entry(&key).map(|entry| entry.dynamic) {
                Some(Some(allowed)) => {
                    let value = allowed.normalize(&key, &value).map_err(invalid_request)?;
                    next.insert(key, value);
                }
                Some(None) => fixed.push(key),
                None if is_kafka_broker_config(&key) => fixed.push(key),
                None => return Err(invalid_config(format!("Unknown broker config name: {key}"))),
            }
        }
        if !fixed.is_empty() {
            let names = fixed.join(", ");
            return Err(invalid_request(format!("Cannot update these configs dynamically: [{names}]")));
        }
        Ok(PlannedConfigs::Commands(commands(&resource, current, &next)))
    }

    fn plan_log_levels(&self, name: &str, wanted: &WantedConfigs) -> Result<PlannedConfigs, CreationError> {
        self.check_own_id(name)?;
        let mut levels = BTreeMap::new();
        for (logger, operation, value) in wanted.changes()?.unwrap_or_default() {
            let unknown = || Err(invalid_config(format!("Logger {logger} does not exist!")));
            let exists = self.configs.loggers().is_some_and(|loggers| loggers.exists(logger));
            let level = match operation {
                Operation::Append | Operation::Subtract => {
                    let verb = if operation == Operation::Append { "APPEND" } else { "SUBTRACT" };
                    return Err(invalid_request(format!(
                        "{verb} operation is not allowed for the BROKER_LOGGER resource"
                    )));
                }
                Operation::Delete if logger == ROOT_LOGGER => {
                    return Err(invalid_request("Removing the log level of the root logger is not allowed"));
                }
                _ if !exists => return unknown(),
                Operation::Delete => None,
                Operation::Set => Some(LogLevel::from_name(value).ok_or_else(|| {
                    let names: Vec<&str> = LogLevel::ALL.iter().rev().map(|level| level.name()).collect();
                    invalid_config(format!(
                        "Cannot set the log level of {logger} to {value} as it is not a supported log level. Valid \
                         log levels are {}",
                        names.join(", ")
                    ))
                })?),
            };
            levels.insert(logger.to_owned(), level);
        }
        Ok(PlannedConfigs::LogLevels(levels.into_iter().collect()))
    }

    /// A broker changes its own configs only.
    fn check_own_id(&self, name: &str) -> Result<(), CreationError> {
        let id: i32 = name
            .parse()
            .map_err(|_| invalid_request(format!("Node id must be an integer, but it is: {name}")))?;
        let own_id = self.node_id();
        if id == own_id.get() {
            Ok(())
        } else {
            Err(invalid_request(format!("Unexpected broker id, expected {own_id}, but received {name}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_grow_and_shrink() {
        for (operation, present, change, expected) in [
            (Operation::Append, "delete", "compact", "delete,compact"),
            (Operation::Append, "delete", "delete", "delete"),
            (Operation::Append, "", "a, b,,a", "a,b"),
            (Operation::Subtract, "delete,compact", "compact", "delete"),
            (Operation::Subtract, "a,b,c", "c,a,x", "b"),
            (Operation::Subtract, "a", "a", ""),
            (Operation::Subtract, "", "a", ""),
        ] {
            assert_eq!(change_list(operation, present, change), expected, "{operation:?} {present} {change}");
        }
    }
}
