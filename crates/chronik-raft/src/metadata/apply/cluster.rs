//! The cluster as a whole: its name, and the format of its log.

use super::{CommandOutput, Draft};
use crate::metadata::command::{SetClusterId, SetFormatVersion};
use crate::metadata::error::CommandError;

impl Draft<'_> {
    pub(super) fn set_cluster_id(&mut self, command: &SetClusterId) -> Result<CommandOutput, CommandError> {
        if command.cluster_id.is_empty() {
            return Err(CommandError::EmptyClusterId);
        }
        match &self.next.cluster_id {
            Some(current) if **current != *command.cluster_id => Err(CommandError::ClusterIdSet {
                current: current.to_string(),
                proposed: command.cluster_id.clone(),
            }),
            Some(_) => Ok(CommandOutput::Done),
            None => {
                self.next.cluster_id = Some(command.cluster_id.as_str().into());
                Ok(CommandOutput::Done)
            }
        }
    }

    pub(super) fn set_format_version(
        &mut self,
        command: &SetFormatVersion,
    ) -> Result<CommandOutput, CommandError> {
        let (current, proposed) = (self.next.format_version, command.format_version);
        if proposed < current {
            return Err(CommandError::FormatDowngrade { current, proposed });
        }
        self.next.format_version = proposed;
        Ok(CommandOutput::Done)
    }
}
