//! `DescribeGroups` (15), versions 0–6. A request may name groups of several shards.

use chronik_protocol::messages::describe_groups_response::DescribedGroup;
use chronik_types::ErrorCode;

use crate::coordinator::GroupCoordinator;
use crate::group::{Group, Member, State};

/// The first version that says that a group does not exist (KIP-1043); older ones show it as Dead.
const GROUP_NOT_FOUND_VERSION: i16 = 6;

impl GroupCoordinator {
    /// Describes one group. Who may do what with it is for the broker to add.
    pub fn describe_group(&self, api_version: i16, group_id: &str) -> DescribedGroup {
        if let Err(error) = self.check_serving() {
            return DescribedGroup {
                group_id: group_id.to_owned(),
                error_code: error.code(),
                ..Default::default()
            };
        }
        match self.groups.get(group_id) {
            Some(group) if group.is_visible() => describe(group),
            _ if api_version >= GROUP_NOT_FOUND_VERSION => DescribedGroup {
                group_id: group_id.to_owned(),
                group_state: "Dead".to_owned(),
                error_code: ErrorCode::GroupIdNotFound.code(),
                error_message: Some(format!("Group {group_id} not found.")),
                ..Default::default()
            },
            _ => DescribedGroup {
                group_id: group_id.to_owned(),
                group_state: "Dead".to_owned(),
                ..Default::default()
            },
        }
    }
}

fn describe(group: &Group) -> DescribedGroup {
    // What the members say under the protocol means something once the group has settled on it.
    let protocol_name = group.protocol_name.as_deref().filter(|_| group.is(State::Stable));
    let member = |member: &Member| member.describe(protocol_name);
    DescribedGroup {
        group_id: group.id.to_string(),
        group_state: group.state().name().to_owned(),
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        protocol_data: protocol_name.unwrap_or_default().to_owned(),
        members: group.members().map(member).collect(),
        ..Default::default()
    }
}
