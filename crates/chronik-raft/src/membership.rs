//! Changes of who belongs to the quorum, as they stand in the log.
//!
//! Raft writes them in Protocol Buffers; they are read here with prost, whose decoder bounds its recursion.

use prost::Message;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, EntryType};
use thiserror::Error;

/// Why an entry is no change of membership.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// It cannot be decoded.
    #[error("the entry cannot be decoded")]
    Undecodable(#[from] prost::DecodeError),
    /// It asks for something unheard of.
    #[error("{value} is no {what}")]
    UnknownValue {
        /// What it should have stood for.
        what: &'static str,
        /// The number.
        value: i32,
    },
}

/// `eraftpb.ConfChange`.
#[derive(Clone, PartialEq, Message)]
struct Change {
    #[prost(int32, tag = "2")]
    change_type: i32,
    #[prost(uint64, tag = "3")]
    node_id: u64,
}

/// `eraftpb.ConfChangeV2`.
#[derive(Clone, PartialEq, Message)]
struct Changes {
    #[prost(int32, tag = "1")]
    transition: i32,
    #[prost(message, repeated, tag = "2")]
    changes: Vec<SingleChange>,
}

/// `eraftpb.ConfChangeSingle`.
#[derive(Clone, PartialEq, Message)]
struct SingleChange {
    #[prost(int32, tag = "1")]
    change_type: i32,
    #[prost(uint64, tag = "2")]
    node_id: u64,
}

/// The change that an entry of one of the two types asks for.
pub(crate) fn decode(entry_type: EntryType, data: &[u8]) -> Result<ConfChangeV2, MembershipError> {
    let changes = match entry_type {
        EntryType::EntryConfChange => {
            let Change { change_type, node_id } = Change::decode(data)?;
            Changes { transition: 0, changes: vec![SingleChange { change_type, node_id }] }
        }
        EntryType::EntryNormal | EntryType::EntryConfChangeV2 => Changes::decode(data)?,
    };
    let mut change = ConfChangeV2::default();
    change.set_transition(match changes.transition {
        0 => ConfChangeTransition::Auto,
        1 => ConfChangeTransition::Implicit,
        2 => ConfChangeTransition::Explicit,
        value => return Err(MembershipError::UnknownValue { what: "way to change the quorum", value }),
    });
    let mut singles = Vec::with_capacity(changes.changes.len());
    for SingleChange { change_type, node_id } in changes.changes {
        let mut single = ConfChangeSingle::default();
        single.set_change_type(match change_type {
            0 => ConfChangeType::AddNode,
            1 => ConfChangeType::RemoveNode,
            2 => ConfChangeType::AddLearnerNode,
            value => return Err(MembershipError::UnknownValue { what: "change of the quorum", value }),
        });
        single.node_id = node_id;
        singles.push(single);
    }
    change.set_changes(singles.into());
    Ok(change)
}
