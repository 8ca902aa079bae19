//! Who leads a partition that a client has asked the wrong broker for, so that it need not look (KIP-951).

use std::collections::BTreeMap;

use chronik_protocol::produce::{LeaderIdAndEpoch, NodeEndpoint};
use chronik_raft::metadata::{MetadataImage, TopicImage};
use chronik_types::{ErrorCode, NodeId, PartitionIndex};

use crate::broker::Broker;
use crate::connection::Connection;

/// The leaders that one answer names, and where they are.
#[derive(Debug, Default)]
pub(super) struct LeaderHints(BTreeMap<NodeId, NodeEndpoint>);

impl LeaderHints {
    /// The leader of a partition, where `error` says that this broker is not, or that the client knows another.
    pub(super) fn hint(
        &mut self,
        broker: &Broker,
        connection: &Connection,
        image: &MetadataImage,
        (topic, index): (Option<&TopicImage>, PartitionIndex),
        error: ErrorCode,
    ) -> Option<LeaderIdAndEpoch> {
        if !matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch) {
            return None;
        }
        let partition = topic?.partition(index)?;
        // A broker that has just said that it does not lead must not send the client to itself, whatever its image says:
        // that may be old, or news that the partition has not taken up yet.
        let is_other = |leader: &NodeId| *leader != broker.node_id() || error == ErrorCode::FencedLeaderEpoch;
        let leader = partition.leader.filter(is_other)?;
        let registered = image.broker(leader).filter(|leader| !leader.fenced)?;
        let (host, port) = broker.endpoint_for(registered, connection)?;
        let node_id = registered.id;
        self.0.insert(node_id, NodeEndpoint { node_id, host, port, rack: registered.rack.clone() });
        Some(LeaderIdAndEpoch { leader_id: node_id, leader_epoch: partition.leader_epoch })
    }

    /// Where the leaders are, each once.
    pub(super) fn endpoints(self) -> Vec<NodeEndpoint> {
        self.0.into_values().collect()
    }
}
