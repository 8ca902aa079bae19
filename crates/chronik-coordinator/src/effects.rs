//! What goes in beside a request, and what comes out of the coordinator.

use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::messages::delete_groups_response::DeletableGroupResult;
use chronik_protocol::messages::{
    HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, OffsetCommitResponse, OffsetDeleteResponse,
    SyncGroupResponse,
};
use chronik_types::{ErrorCode, TopicId};

/// Names one request of the broker, so that its answer can find the way back. The broker chooses it; the
/// coordinator answers each request exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What the coordinator needs to know about a request beside its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestContext {
    /// Where the answer goes.
    pub request_id: RequestId,
    /// The version of the request's message; it decides on the member-id handshake and on the answer's form.
    pub api_version: i16,
    /// The client id of the request header, empty where it is null.
    pub client_id: String,
    /// The client's address as Kafka shows it: a slash and the IP address.
    pub client_host: String,
}

impl RequestContext {
    pub(crate) fn waiter(&self) -> Waiter {
        Waiter { request_id: self.request_id, api_version: self.api_version }
    }
}

/// Who waits for an answer, and in which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) request_id: RequestId,
    pub(crate) api_version: i16,
}

/// Numbers the writes of one shard in the order in which they must stand in its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// One record for `__consumer_offsets`, in Kafka's own format. The broker stamps it with the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What compaction goes by.
    pub key: Bytes,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
}

/// Records that are appended as one batch: all of them, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What the broker calls it when it is decided.
    pub id: WriteId,
    /// At least one record.
    pub records: Vec<Record>,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The request.
    pub request_id: RequestId,
    /// Its answer, in the form that the request's version asks for.
    pub response: Response,
}

/// An answer, by API.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To `JoinGroup`.
    JoinGroup(JoinGroupResponse),
    /// To `SyncGroup`.
    SyncGroup(SyncGroupResponse),
    /// To Heartbeat.
    Heartbeat(HeartbeatResponse),
    /// To `LeaveGroup`.
    LeaveGroup(LeaveGroupResponse),
    /// To `OffsetCommit`.
    OffsetCommit(OffsetCommitResponse),
    /// To `OffsetDelete`.
    OffsetDelete(OffsetDeleteResponse),
    /// To this shard's share of a `DeleteGroups`.
    DeleteGroups(Vec<DeletableGroupResult>),
}

impl Response {
    /// This answer turned into a refusal, as when its records could not be written.
    pub(crate) fn refused(mut self, error: ErrorCode) -> Self {
        let code = error.code();
        match &mut self {
            Self::JoinGroup(response) => {
                *response = JoinGroupResponse {
                    error_code: code,
                    protocol_name: response.protocol_name.as_ref().map(|_| String::new()),
                    ..JoinGroupResponse::default()
                };
            }
            Self::SyncGroup(response) => {
                *response = SyncGroupResponse { error_code: code, ..SyncGroupResponse::default() };
            }
            Self::Heartbeat(response) => response.error_code = code,
            Self::LeaveGroup(response) => {
                *response = LeaveGroupResponse { error_code: code, ..LeaveGroupResponse::default() };
            }
            Self::OffsetCommit(response) => {
                let partitions = response.topics.iter_mut().flat_map(|topic| &mut topic.partitions);
                partitions
                    .filter(|partition| partition.error_code == 0)
                    .for_each(|partition| partition.error_code = code);
            }
            Self::OffsetDelete(response) => {
                *response = OffsetDeleteResponse { error_code: code, ..OffsetDeleteResponse::default() };
            }
            Self::DeleteGroups(results) => {
                let granted = results.iter_mut().filter(|result| result.error_code == 0);
                granted.for_each(|result| result.error_code = code);
            }
        }
        self
    }
}

/// What a call to the coordinator brings about. The broker appends the writes in their order, then sends the
/// completions; it calls [`committed`](crate::GroupCoordinator::committed) or
/// [`failed`](crate::GroupCoordinator::failed) for every write, each of which has effects of its own.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "writes must be appended and completions sent"]
pub struct Effects {
    /// Batches to append, in the order of their ids.
    pub writes: Vec<Write>,
    /// Answers to send.
    pub completions: Vec<Completion>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.completions.is_empty()
    }

    pub(crate) fn complete(&mut self, waiter: Waiter, response: Response) {
        self.completions.push(Completion { request_id: waiter.request_id, response });
    }
}

/// What the coordinator asks of the metadata image.
pub trait Topics {
    /// The name of the topic with this id, if it exists.
    fn name_of(&self, id: TopicId) -> Option<Arc<str>>;
    /// The id of the topic with this name, if it exists.
    fn id_of(&self, name: &str) -> Option<TopicId>;
    /// How many partitions the topic has; 0 where it does not exist.
    fn partition_count(&self, name: &str) -> i32;
}

/// What the client is told when its records could not be written, as Kafka translates it: an error that makes
/// it look for the coordinator again or try again, never one about a partition that it does not know of.
pub(crate) fn append_error(error: ErrorCode) -> ErrorCode {
    if matches!(
        error,
        ErrorCode::UnknownTopicOrPartition
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::RequestTimedOut
    ) {
        ErrorCode::CoordinatorNotAvailable
    } else if matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError) {
        ErrorCode::NotCoordinator
    } else if matches!(
        error,
        ErrorCode::None
            | ErrorCode::MessageTooLarge
            | ErrorCode::RecordListTooLarge
            | ErrorCode::InvalidFetchSize
    ) {
        ErrorCode::UnknownServerError
    } else {
        error
    }
}
