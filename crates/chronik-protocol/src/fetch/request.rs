//! The Fetch request, versions 4 to 18.

use chronik_types::{LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId};

use crate::messages::{self, Message};
use crate::topic_ref::{TOPIC_ID_VERSION, TopicRef};
use crate::wire::{DecodeError, Reader};

/// A Fetch request.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchRequest {
    /// The cluster that the client means, if it says so; from version 12.
    pub cluster_id: Option<String>,
    /// The follower that fetches, −1 for a consumer. It stands in a tagged field from version 15 (KIP-903).
    pub replica_id: NodeId,
    /// The follower's broker epoch, −1 for a consumer and before version 15.
    pub replica_epoch: i64,
    /// How long the answer may wait for `min_bytes`, in milliseconds.
    pub max_wait_ms: i32,
    /// The answer waits for this many bytes of record data.
    pub min_bytes: i32,
    /// The answer should hold no more record data than this, in bytes.
    pub max_bytes: i32,
    /// 0 reads up to the high watermark, 1 up to the last stable offset.
    pub isolation_level: i8,
    /// The fetch session, 0 for none; from version 7 (KIP-227).
    pub session_id: i32,
    /// The request's number in its session; −1 for none, and before version 7.
    pub session_epoch: i32,
    /// The topics; in a session, only those that changed.
    pub topics: Vec<FetchTopic>,
    /// What the session is to forget.
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// Where the consumer is, so that a replica near it may serve it; from version 11 (KIP-392).
    pub rack_id: String,
}

/// One topic of a Fetch request.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchTopic {
    /// The topic.
    pub topic: TopicRef,
    /// What is wanted of its partitions.
    pub partitions: Vec<FetchPartition>,
}

/// What is wanted of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// The partition.
    pub index: PartitionIndex,
    /// The leader epoch that the client knows, −1 for none; from version 9 (KIP-320).
    pub current_leader_epoch: LeaderEpoch,
    /// The first offset that is wanted.
    pub fetch_offset: Offset,
    /// The epoch of the last batch that was fetched, −1 for none; from version 12 (KIP-595).
    pub last_fetched_epoch: LeaderEpoch,
    /// The follower's log start offset, −1 for a consumer; from version 5.
    pub log_start_offset: Offset,
    /// The answer should hold no more record data of this partition than this, in bytes.
    pub max_bytes: i32,
    /// The follower's log directory, zero where unknown; from version 17 (KIP-853).
    pub replica_directory_id: TopicId,
    /// The high watermark that the follower knows, the largest number where unknown; from version 18 (KIP-1166).
    pub high_watermark: Offset,
}

/// Partitions that a session is to forget.
#[derive(Clone, Debug, PartialEq)]
pub struct ForgottenTopic {
    /// The topic.
    pub topic: TopicRef,
    /// The partitions.
    pub partitions: Vec<PartitionIndex>,
}

impl FetchRequest {
    /// Reads the body of a request; bytes after it are an error.
    pub fn parse(reader: &mut Reader<'_>, version: i16) -> Result<Self, DecodeError> {
        if !messages::FetchRequest::has_version(version) {
            return Err(DecodeError::Version { message: <messages::FetchRequest as Message>::NAME, version });
        }
        let flexible = messages::FetchRequest::is_flexible(version);
        let mut request = Self {
            cluster_id: None,
            replica_id: NodeId(if version <= 14 { reader.i32()? } else { -1 }),
            replica_epoch: -1,
            max_wait_ms: reader.i32()?,
            min_bytes: reader.i32()?,
            max_bytes: reader.i32()?,
            isolation_level: reader.i8()?,
            session_id: if version >= 7 { reader.i32()? } else { 0 },
            session_epoch: if version >= 7 { reader.i32()? } else { -1 },
            topics: Vec::new(),
            forgotten_topics: Vec::new(),
            rack_id: String::new(),
        };
        let topic_bytes_min = match (version >= TOPIC_ID_VERSION, flexible) {
            (true, _) => 18,
            (false, true) => 3,
            (false, false) => 6,
        };
        request.topics =
            reader.array(flexible, topic_bytes_min, |reader| FetchTopic::parse(reader, version, flexible))?;
        if version >= 7 {
            request.forgotten_topics = reader.array(flexible, topic_bytes_min, |reader| {
                ForgottenTopic::parse(reader, version, flexible)
            })?;
        }
        if version >= 11 {
            request.rack_id = reader.string(flexible)?;
        }
        if flexible {
            reader.tags(|reader, tag| {
                match tag {
                    0 => request.cluster_id = reader.string_opt(true, true)?,
                    1 if version >= 15 => {
                        request.replica_id = NodeId(reader.i32()?);
                        request.replica_epoch = reader.i64()?;
                        reader.skip_tags()?;
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
        }
        reader.finish()?;
        Ok(request)
    }
}

fn parse_topic_ref(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<TopicRef, DecodeError> {
    if version >= TOPIC_ID_VERSION {
        reader.uuid().map(TopicRef::Id)
    } else {
        reader.string(flexible).map(TopicRef::Name)
    }
}

impl FetchTopic {
    fn parse(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<Self, DecodeError> {
        let topic = parse_topic_ref(reader, version, flexible)?;
        let partition_bytes_min = match version {
            ..=4 => 16,
            5..=8 => 24,
            9..=11 => 28,
            12.. => 33,
        };
        let partitions = reader.array(flexible, partition_bytes_min, |reader| {
            FetchPartition::parse(reader, version, flexible)
        })?;
        if flexible {
            reader.skip_tags()?;
        }
        Ok(Self { topic, partitions })
    }
}

impl FetchPartition {
    fn parse(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<Self, DecodeError> {
        let mut partition = Self {
            index: PartitionIndex(reader.i32()?),
            current_leader_epoch: LeaderEpoch(if version >= 9 { reader.i32()? } else { -1 }),
            fetch_offset: Offset(reader.i64()?),
            last_fetched_epoch: LeaderEpoch(if version >= 12 { reader.i32()? } else { -1 }),
            log_start_offset: Offset(if version >= 5 { reader.i64()? } else { -1 }),
            max_bytes: reader.i32()?,
            replica_directory_id: TopicId::ZERO,
            high_watermark: Offset(i64::MAX),
        };
        if flexible {
            reader.tags(|reader, tag| {
                match tag {
                    0 if version >= 17 => partition.replica_directory_id = reader.uuid()?,
                    1 if version >= 18 => partition.high_watermark = Offset(reader.i64()?),
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
        }
        Ok(partition)
    }
}

impl ForgottenTopic {
    fn parse(reader: &mut Reader<'_>, version: i16, flexible: bool) -> Result<Self, DecodeError> {
        let topic = parse_topic_ref(reader, version, flexible)?;
        let partitions = reader.array(flexible, 4, |reader| reader.i32().map(PartitionIndex))?;
        if flexible {
            reader.skip_tags()?;
        }
        Ok(Self { topic, partitions })
    }
}
