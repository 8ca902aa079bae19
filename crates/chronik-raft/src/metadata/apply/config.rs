//! Configs of topics, brokers and what else has them. What a value means is not the state machine's business.

use std::sync::Arc;

use super::{CommandOutput, Draft};
use crate::metadata::command::SetConfig;
use crate::metadata::error::CommandError;
use crate::metadata::image::{ConfigMap, ConfigResource};

impl Draft<'_> {
    pub(super) fn set_config(&mut self, command: &SetConfig) -> Result<CommandOutput, CommandError> {
        if command.key.is_empty() {
            return Err(CommandError::EmptyConfigKey);
        }
        let resource = i8::try_from(command.resource_type)
            .ok()
            .and_then(|resource_type| ConfigResource::from_kafka(resource_type, &command.resource_name))
            .ok_or_else(|| CommandError::UnknownConfigResource {
                resource_type: command.resource_type,
                resource_name: command.resource_name.clone(),
            })?;
        if let ConfigResource::Topic(name) = &resource
            && self.topic_id_of(name).is_none()
        {
            return Err(CommandError::UnknownTopic { name: name.to_string() });
        }
        let mut configs =
            self.next.configs.get(&resource).map(|configs| ConfigMap::clone(configs)).unwrap_or_default();
        if let Some(expected) = &command.expected
            && configs.get(&command.key) != expected.value.as_ref()
        {
            return Err(CommandError::ConfigChanged {
                resource: resource.to_string(),
                key: command.key.clone(),
            });
        }
        match &command.value {
            Some(value) => configs.insert(command.key.clone(), value.clone()),
            None => configs.remove(&command.key),
        };
        self.put_configs(resource, configs);
        Ok(CommandOutput::Done)
    }

    /// Sets all configs of a resource at once.
    pub(super) fn put_configs(&mut self, resource: ConfigResource, configs: ConfigMap) {
        if configs.is_empty() {
            self.next.configs.remove_mut(&resource);
        } else {
            self.next.configs.insert_mut(resource.clone(), Arc::new(configs));
        }
        self.touched.configs.insert(resource);
    }
}
