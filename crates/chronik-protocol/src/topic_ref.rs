//! What Produce and Fetch have in common: how a topic is named, and where a client is told to go instead.

use chronik_types::{LeaderEpoch, NodeId, TopicId};

use crate::wire::{EncodeError, Writer};

/// How a request names a topic and its answer names it back: by name up to version 12, by id from version 13, for
/// Produce and Fetch alike (KIP-516).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicRef {
    /// By name. Nothing says yet that the name is legal.
    Name(String),
    /// By id.
    Id(TopicId),
}

/// The first version of Produce and of Fetch that names topics by id.
pub(crate) const TOPIC_ID_VERSION: i16 = 13;

impl TopicRef {
    pub(crate) fn write(
        &self,
        writer: &mut Writer,
        flexible: bool,
        version: i16,
        field: &'static str,
    ) -> Result<(), EncodeError> {
        match self {
            Self::Name(name) if version < TOPIC_ID_VERSION => writer.string(name, flexible, field),
            Self::Id(id) if version >= TOPIC_ID_VERSION => {
                writer.uuid(*id);
                Ok(())
            }
            Self::Name(_) | Self::Id(_) => Err(EncodeError::Unsupported { field, version }),
        }
    }
}

/// The leader of a partition and its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    /// The leader, or −1 where there is none.
    pub leader_id: NodeId,
    /// Its epoch, or −1 where unknown.
    pub leader_epoch: LeaderEpoch,
}

impl LeaderIdAndEpoch {
    /// What the protocol leaves out.
    pub(crate) const UNKNOWN: Self = Self { leader_id: NodeId(-1), leader_epoch: LeaderEpoch::NONE };

    pub(crate) fn write(self, writer: &mut Writer) {
        writer.i32(self.leader_id.get());
        writer.i32(self.leader_epoch.get());
        writer.no_tags();
    }
}

/// Where to reach a node that a [`LeaderIdAndEpoch`] of the same answer names (KIP-951).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// The node.
    pub node_id: NodeId,
    /// Its advertised host.
    pub host: String,
    /// Its advertised port.
    pub port: i32,
    /// Its rack, if it has one.
    pub rack: Option<String>,
}

impl NodeEndpoint {
    /// The endpoints as a response's only tagged field, from the version that has them.
    pub(crate) fn write_all(endpoints: &[Self], writer: &mut Writer, known: bool) -> Result<(), EncodeError> {
        if !known || endpoints.is_empty() {
            writer.no_tags();
            return Ok(());
        }
        let mut tags = writer.begin_tags();
        writer.tag(&mut tags, 0, |writer| {
            writer.array(endpoints, true, "NodeEndpoints", |writer, endpoint| {
                writer.i32(endpoint.node_id.get());
                writer.string(&endpoint.host, true, "NodeEndpoint.host")?;
                writer.i32(endpoint.port);
                writer.string_opt(endpoint.rack.as_deref(), true, true, "NodeEndpoint.rack")?;
                writer.no_tags();
                Ok(())
            })
        })?;
        writer.end_tags(&tags);
        Ok(())
    }
}

/// The frame's length and the header of a response; [`finish_frame`] puts the length right.
pub(crate) fn begin_frame(capacity_bytes: usize, correlation_id: i32, flexible: bool) -> Writer {
    let mut writer = Writer::with_capacity(capacity_bytes);
    writer.i32(0);
    writer.i32(correlation_id);
    if flexible {
        writer.no_tags();
    }
    writer
}

/// Writes the length of a frame that has `payload_bytes` more bytes than are in the writer.
pub(crate) fn finish_frame(writer: &mut Writer, payload_bytes: usize) -> Result<(), EncodeError> {
    let length = writer.len().saturating_sub(crate::frame::FRAME_LENGTH_BYTES).saturating_add(payload_bytes);
    let length = i32::try_from(length).map_err(|_| EncodeError::TooLong {
        field: "frame",
        length,
        length_max: 0x7fff_ffff,
    })?;
    writer.patch_i32(0, length);
    Ok(())
}
