//! One member of a group.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::messages::describe_groups_response::DescribedGroupMember;
use chronik_protocol::messages::join_group_request::JoinGroupRequestProtocol;

use crate::effects::Waiter;

/// A protocol (for consumers, an assignor) that a member can follow, with what it tells the others under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: String,
    pub(crate) metadata: Bytes,
}

impl Protocol {
    /// The protocols of a request, in the member's order of preference.
    pub(crate) fn from_request(protocols: &[JoinGroupRequestProtocol]) -> Vec<Self> {
        let protocol = |protocol: &JoinGroupRequestProtocol| Self {
            name: protocol.name.clone(),
            // The frame is let go: a member outlives its request by days.
            metadata: Bytes::copy_from_slice(&protocol.metadata),
        };
        protocols.iter().map(protocol).collect()
    }
}

/// A member that has joined. Ids that were handed out but not yet used are no members.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: Arc<str>,
    /// Set for static members (KIP-345).
    pub(crate) instance_id: Option<Arc<str>>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) session_timeout_ms: i32,
    /// In order of preference. After a replay, only the one that was chosen.
    pub(crate) protocols: Vec<Protocol>,
    /// Empty until the leader's assignment is committed.
    pub(crate) assignment: Bytes,
    /// A `JoinGroup` that waits for the join phase to end.
    pub(crate) awaiting_join: Option<Waiter>,
    /// A `SyncGroup` that waits for the leader's assignment.
    pub(crate) awaiting_sync: Option<Waiter>,
    /// It has joined and no rebalance has ended since. A new member that waits may still be taken for gone.
    pub(crate) is_new: bool,
}

impl Member {
    /// Whether it waits for the coordinator, and so owes it no heartbeat.
    pub(crate) fn is_excused(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    /// What it says under the protocol `name`; empty where it does not know it.
    pub(crate) fn metadata(&self, name: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|protocol| protocol.name == name)
            .map(|protocol| protocol.metadata.clone())
            .unwrap_or_default()
    }

    /// Its favourite among `candidates`.
    pub(crate) fn vote<'a>(&'a self, candidates: &BTreeSet<&str>) -> Option<&'a str> {
        self.protocols.iter().map(|protocol| protocol.name.as_str()).find(|name| candidates.contains(name))
    }

    /// How `DescribeGroups` shows it. `protocol_name` is given in the state Stable only, as in Kafka.
    pub(crate) fn describe(&self, protocol_name: Option<&str>) -> DescribedGroupMember {
        DescribedGroupMember {
            member_id: self.id.to_string(),
            group_instance_id: self.instance_id.as_deref().map(str::to_owned),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            member_metadata: protocol_name.map(|name| self.metadata(name)).unwrap_or_default(),
            member_assignment: self.assignment.clone(),
        }
    }
}
