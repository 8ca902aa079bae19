//! This broker's own configs: what they are set to, which can be changed while it runs, and where a value is looked for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use chronik_raft::metadata::{ConfigResource, Delta, MetadataImage};
use chronik_types::NodeId;
use parking_lot::{Mutex, RwLock};

use super::{Allowed, BrokerValues, ConfigSource, ConfigType, Loggers, TOPIC_CONFIGS, TopicConfigDef};
use super::{TopicOverrides, effective};

/// One broker config as DescribeConfigs shows it. The process that reads flags, environment and file makes these.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerConfigEntry {
    /// Kafka's name.
    pub name: String,
    /// The value that was given at start or is built in, or `None` where it is unset or secret.
    pub value: Option<String>,
    /// The value where nothing sets it.
    pub default: Option<String>,
    /// Whether the value was given at start rather than built in.
    pub is_static: bool,
    /// Whether the value must not be shown.
    pub is_sensitive: bool,
    /// The kind of value.
    pub config_type: ConfigType,
    /// Which values it can be given at run time; `None` where it is read once, at start. The configs behind topic
    /// configs need not say: they can all be changed.
    pub dynamic: Option<Allowed>,
    /// What it does.
    pub documentation: String,
}

/// One place where a value was looked for and found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synonym {
    pub(crate) name: String,
    /// `None` for a secret.
    pub(crate) value: Option<String>,
    pub(crate) source: ConfigSource,
}

/// A config as it is described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) value: Option<String>,
    pub(crate) source: ConfigSource,
    /// All places that have a value, the one that counts first.
    pub(crate) synonyms: Vec<Synonym>,
}

/// Configs that say one thing in several units, the finest first. The finest that is set counts.
const UNITS: &[&[&str]] = &[
    &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
    &["log.roll.ms", "log.roll.hours"],
    &["log.roll.jitter.ms", "log.roll.jitter.hours"],
];

/// Broker configs that are unset by default although the topic configs that follow them have a default.
const WITHOUT_DEFAULT: &[&str] =
    &["log.flush.interval.ms", "log.retention.ms", "log.roll.jitter.ms", "log.roll.ms"];

/// Called with the values in force whenever they change.
pub type ValuesListener = Box<dyn Fn(&BrokerValues) + Send + Sync>;

/// The configs of a broker that runs.
pub(crate) struct BrokerConfigs {
    node_id: NodeId,
    /// By name. Every config behind a topic config is among them.
    entries: Vec<BrokerConfigEntry>,
    values: RwLock<BrokerValues>,
    /// `min.insync.replicas`, which every produce with `acks=all` asks for.
    min_insync_replicas: AtomicUsize,
    /// Held while the values change, so that they are told in their order.
    listener: Mutex<Option<ValuesListener>>,
    loggers: OnceLock<Box<dyn Loggers>>,
}

impl BrokerConfigs {
    pub(crate) fn new(
        node_id: NodeId,
        entries: Vec<BrokerConfigEntry>,
        given: &BrokerValues,
        image: &MetadataImage,
    ) -> Self {
        let configs = Self {
            node_id,
            entries: with_topic_defaults(entries, given),
            values: RwLock::default(),
            min_insync_replicas: AtomicUsize::new(1),
            listener: Mutex::new(None),
            loggers: OnceLock::new(),
        };
        configs.put(given.at(image, node_id));
        configs
    }

    fn put(&self, values: BrokerValues) {
        let min_insync_replicas = values.get("min.insync.replicas").and_then(|value| value.parse().ok());
        self.min_insync_replicas.store(min_insync_replicas.unwrap_or(1), Ordering::Relaxed);
        *self.values.write() = values;
    }

    /// Follows a change of the image; says whether anything is different.
    pub(crate) fn apply(&self, image: &MetadataImage, delta: &Delta) -> bool {
        let is_ours = |resource: &ConfigResource| match resource {
            ConfigResource::BrokerDefault => true,
            ConfigResource::Broker(node_id) => *node_id == self.node_id,
            ConfigResource::Topic(_) | ConfigResource::ClientMetrics(_) | ConfigResource::Group(_) => false,
        };
        if !delta.configs_changed.iter().any(is_ours) {
            return false;
        }
        let values = self.values().at(image, self.node_id);
        let listener = self.listener.lock();
        self.put(values.clone());
        if let Some(listener) = &*listener {
            listener(&values);
        }
        true
    }

    /// The values in force.
    pub(crate) fn values(&self) -> BrokerValues {
        self.values.read().clone()
    }

    /// Sets who hears of the values in force, and tells them at once. Only the first call counts.
    pub(crate) fn set_listener(&self, listener: ValuesListener) -> bool {
        let mut slot = self.listener.lock();
        if slot.is_some() {
            return false;
        }
        // Values that come meanwhile wait, and are told after these.
        listener(&self.values());
        *slot = Some(listener);
        true
    }

    /// Sets whose log levels are shown and changed. Only the first call counts.
    pub(crate) fn set_loggers(&self, loggers: Box<dyn Loggers>) -> bool {
        self.loggers.set(loggers).is_ok()
    }

    pub(crate) fn loggers(&self) -> Option<&dyn Loggers> {
        self.loggers.get().map(|loggers| &**loggers)
    }

    /// How many replicas must be in sync where a topic does not say it.
    pub(crate) fn min_insync_replicas(&self) -> usize {
        self.min_insync_replicas.load(Ordering::Relaxed)
    }

    /// All configs, by name.
    pub(crate) fn entries(&self) -> &[BrokerConfigEntry] {
        &self.entries
    }

    /// The config of this name.
    pub(crate) fn entry(&self, name: &str) -> Option<&BrokerConfigEntry> {
        let at = self.entries.binary_search_by(|entry| entry.name.as_str().cmp(name)).ok()?;
        self.entries.get(at)
    }

    /// A broker config's value and where it comes from.
    pub(crate) fn describe(&self, entry: &BrokerConfigEntry, values: &BrokerValues) -> Described {
        let set = values
            .layers()
            .filter(|(source, _)| *source != ConfigSource::StaticBroker)
            .find_map(|(_, layer)| layer.get(&entry.name));
        let value = set.or(entry.value.as_ref()).filter(|_| !entry.is_sensitive);
        let synonyms = self.synonyms(&entry.name, values);
        Described { value: value.cloned(), source: source_of(&synonyms), synonyms }
    }

    /// A topic config's value and where it comes from.
    pub(crate) fn describe_topic(
        &self,
        def: &TopicConfigDef,
        overrides: &TopicOverrides,
        values: &BrokerValues,
    ) -> Described {
        let (value, _) = effective(def, overrides, values);
        let mut synonyms = Vec::new();
        if let Some(own) = overrides.get(def.name) {
            let value = Some(own.clone());
            synonyms.push(Synonym { name: def.name.to_owned(), value, source: ConfigSource::DynamicTopic });
        }
        if let Some(name) = def.broker_synonym {
            synonyms.extend(self.synonyms(name, values));
        }
        Described { value: Some(value.to_owned()), source: source_of(&synonyms), synonyms }
    }

    /// Where a broker config is looked for: its own name and coarser units of the same, layer by layer. What lies
    /// before the first mention of its own name is left out, as on Kafka.
    fn synonyms(&self, name: &str, values: &BrokerValues) -> Vec<Synonym> {
        let own = [name];
        let names = UNITS.iter().find(|units| units.contains(&name)).map_or(&own[..], |units| units);
        let mut found = Vec::new();
        let mut put = |name: &str, value: &str, source| {
            let is_sensitive = self.entry(name).is_some_and(|entry| entry.is_sensitive);
            let value = (!is_sensitive).then(|| value.to_owned());
            found.push(Synonym { name: name.to_owned(), value, source });
        };
        for (source, layer) in values.layers().filter(|(source, _)| *source != ConfigSource::StaticBroker) {
            for name in names {
                if let Some(value) = layer.get(*name) {
                    put(name, value, source);
                }
            }
        }
        let entries = || names.iter().filter_map(|name| self.entry(name));
        for entry in entries().filter(|entry| entry.is_static) {
            put(&entry.name, entry.value.as_deref().unwrap_or_default(), ConfigSource::StaticBroker);
        }
        for entry in entries() {
            if let Some(default) = &entry.default {
                put(&entry.name, default, ConfigSource::Default);
            }
        }
        found.into_iter().skip_while(|synonym| synonym.name != name).collect()
    }
}

fn source_of(synonyms: &[Synonym]) -> ConfigSource {
    synonyms.first().map_or(ConfigSource::Default, |synonym| synonym.source)
}

/// The entries by name, with those behind topic configs that the process does not list.
fn with_topic_defaults(mut entries: Vec<BrokerConfigEntry>, given: &BrokerValues) -> Vec<BrokerConfigEntry> {
    for def in TOPIC_CONFIGS {
        let Some(name) = def.broker_synonym else { continue };
        if let Some(entry) = entries.iter_mut().find(|entry| entry.name == name) {
            entry.dynamic = Some(def.allowed);
            continue;
        }
        let default = (!WITHOUT_DEFAULT.contains(&name)).then(|| def.default.to_owned());
        let value = given.get(name);
        entries.push(BrokerConfigEntry {
            name: name.to_owned(),
            is_static: value.is_some(),
            value: value.map(str::to_owned).or_else(|| default.clone()),
            default,
            is_sensitive: false,
            config_type: def.config_type(),
            dynamic: Some(def.allowed),
            documentation: def.documentation.to_owned(),
        });
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    entries
}
