//! Topics: creation and deletion.

use std::sync::Arc;

use chronik_types::validate_topic_name;
use rpds::VectorSync;

use super::{CommandOutput, Draft};
use crate::metadata::command::{CreateTopic, DeleteTopic};
use crate::metadata::error::CommandError;
use crate::metadata::image::{ConfigMap, ConfigResource, TopicImage};

impl Draft<'_> {
    pub(super) fn create_topic(&mut self, command: &CreateTopic) -> Result<CommandOutput, CommandError> {
        validate_topic_name(&command.name).map_err(CommandError::InvalidTopicName)?;
        if self.topic_id_of(&command.name).is_some() {
            return Err(CommandError::TopicExists { name: command.name.clone() });
        }
        let id = command.topic_id();
        // An id is never given twice, not even to a topic that this batch has deleted.
        if self.topics.contains_key(&id) || self.base.topic_by_id(id).is_some() {
            return Err(CommandError::TopicIdExists { topic_id: id });
        }
        if command.configs.keys().any(String::is_empty) {
            return Err(CommandError::EmptyConfigKey);
        }
        let name: Arc<str> = command.name.as_str().into();
        let topic = TopicImage {
            name: Arc::clone(&name),
            id,
            requested_partition_count: command.requested_partition_count,
            requested_replication_factor: command.requested_replication_factor,
            partitions: VectorSync::new_sync(),
        };
        self.names.insert(Arc::clone(&name), Some(id));
        self.topics.insert(id, Some(topic));
        self.touched.topics.insert(id);
        if !command.configs.is_empty() {
            self.put_configs(ConfigResource::Topic(name), command.configs.clone());
        }
        Ok(CommandOutput::Done)
    }

    pub(super) fn delete_topic(&mut self, command: &DeleteTopic) -> Result<CommandOutput, CommandError> {
        let topic_id = command.topic_id();
        let name = Arc::clone(&self.topic_mut(topic_id)?.name);
        self.names.insert(Arc::clone(&name), None);
        self.topics.insert(topic_id, None);
        self.touched.topics.insert(topic_id);
        self.put_configs(ConfigResource::Topic(name), ConfigMap::new());
        Ok(CommandOutput::Done)
    }
}
