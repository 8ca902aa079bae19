//! What this broker gives to topics that set nothing themselves, layer by layer.

use std::collections::BTreeMap;
use std::sync::Arc;

use chronik_raft::metadata::{ConfigMap, ConfigResource, MetadataImage};
use chronik_types::NodeId;

use super::ConfigSource;

/// Broker configs by name: set on this broker at run time, set for all brokers at run time, given at start. The first
/// that has a name counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerValues {
    dynamic: Arc<ConfigMap>,
    dynamic_default: Arc<ConfigMap>,
    given: Arc<ConfigMap>,
}

impl BrokerValues {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a value at start.
    pub fn insert(&mut self, name: String, value: String) {
        Arc::make_mut(&mut self.given).insert(name, value);
    }

    /// The same values at start, with what the image says was set at run time.
    #[must_use]
    pub fn at(&self, image: &MetadataImage, node_id: NodeId) -> Self {
        let set_on = |resource| image.configs(&resource).cloned().unwrap_or_default();
        Self {
            dynamic: set_on(ConfigResource::Broker(node_id)),
            dynamic_default: set_on(ConfigResource::BrokerDefault),
            given: Arc::clone(&self.given),
        }
    }

    /// The value that counts, and where it comes from.
    pub fn find(&self, name: &str) -> Option<(&str, ConfigSource)> {
        self.layers().find_map(|(source, layer)| layer.get(name).map(|value| (value.as_str(), source)))
    }

    /// The value that counts.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|(value, _)| value)
    }

    /// The layers, the first to look into first.
    pub fn layers(&self) -> impl Iterator<Item = (ConfigSource, &BTreeMap<String, String>)> {
        [
            (ConfigSource::DynamicBroker, &*self.dynamic),
            (ConfigSource::DynamicDefaultBroker, &*self.dynamic_default),
            (ConfigSource::StaticBroker, &*self.given),
        ]
        .into_iter()
    }
}

impl FromIterator<(String, String)> for BrokerValues {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(given: I) -> Self {
        Self { given: Arc::new(given.into_iter().collect()), ..Self::default() }
    }
}
