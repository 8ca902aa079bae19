//! `ListGroups` (16), versions 0–5: this shard's groups, by state (KIP-518) and type (KIP-848).

use chronik_protocol::messages::list_groups_response::ListedGroup;
use chronik_types::ErrorCode;

use crate::coordinator::GroupCoordinator;

/// The type of every group of this coordinator.
const CLASSIC: &str = "classic";

impl GroupCoordinator {
    /// Lists the groups that are in one of `states` and of one of `types`; an empty filter lets all pass. Names
    /// are compared without regard to case, and unknown ones match nothing.
    pub fn list_groups(&self, states: &[String], types: &[String]) -> Result<Vec<ListedGroup>, ErrorCode> {
        self.check_serving()?;
        if !types.is_empty() && !types.iter().any(|name| name.trim().eq_ignore_ascii_case(CLASSIC)) {
            return Ok(Vec::new());
        }
        let in_states = |state: &str| {
            states.is_empty() || states.iter().any(|name| name.trim().eq_ignore_ascii_case(state))
        };
        let groups = self.groups.values().filter(|group| group.is_visible());
        let listed = groups.filter(|group| in_states(group.state().name())).map(|group| ListedGroup {
            group_id: group.id.to_string(),
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            group_state: group.state().name().to_owned(),
            group_type: CLASSIC.to_owned(),
        });
        Ok(listed.collect())
    }
}
