//! The commands of the metadata log, as they stand in its entries.
//!
//! They are Protocol Buffers messages: fields may be added and read by older nodes as absent. What an older node
//! would get wrong by ignoring it comes with a higher format version instead, which the older node refuses.

use chronik_types::{BrokerEpoch, NodeId, PartitionEpoch, PartitionIndex, TopicId};
use prost::{Message, Oneof};

use super::image::ConfigResource;

/// In [`UpdateIsr`], for a broker whose registration nobody knows.
const ANY_BROKER_EPOCH: i64 = -1;

/// The newest format of batches that this build reads and writes.
pub const FORMAT_VERSION_MAX: u32 = 1;

/// The most commands in one batch: a topic of 30,000 partitions takes three each and one more.
pub const COMMANDS_PER_BATCH_MAX: usize = 100_000;

/// One entry of the metadata log: commands that are applied together or not at all.
#[derive(Clone, PartialEq, Message)]
pub struct CommandBatch {
    /// The format of the batch; a node that does not know it stops rather than guess.
    #[prost(uint32, tag = "1")]
    pub format_version: u32,
    /// Names the request behind the batch, so that one sent twice is applied once.
    #[prost(message, optional, tag = "2")]
    pub request_id: Option<RequestId>,
    /// The commands, in order; each sees what those before it did.
    #[prost(message, repeated, tag = "3")]
    pub commands: Vec<Command>,
    /// Whoever sent the request waits for none of its own requests below this sequence number, so that what they
    /// gave may be forgotten.
    #[prost(uint64, tag = "4")]
    pub answered_below: u64,
}

impl CommandBatch {
    /// A batch in the current format, without a request id.
    pub fn new(commands: Vec<Command>) -> Self {
        Self { format_version: FORMAT_VERSION_MAX, request_id: None, commands, answered_below: 0 }
    }

    /// The same batch under a request id.
    #[must_use]
    pub fn with_request_id(mut self, request_id: RequestId) -> Self {
        self.request_id = Some(request_id);
        self
    }
}

/// Names one request of one process for good.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct RequestId {
    /// The node that took the request from its client.
    #[prost(int32, tag = "1")]
    pub node_id: i32,
    /// Drawn at random when that node's process started.
    #[prost(fixed64, tag = "2")]
    pub incarnation: u64,
    /// Counts that process's requests.
    #[prost(uint64, tag = "3")]
    pub sequence: u64,
}

/// One command.
#[derive(Clone, PartialEq, Message)]
pub struct Command {
    /// What to do; absent where a newer node wrote a command that this one does not know.
    #[prost(oneof = "CommandKind", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13")]
    pub kind: Option<CommandKind>,
}

/// What a command does.
#[derive(Clone, PartialEq, Oneof)]
pub enum CommandKind {
    /// Adds a broker, or gives a known one a new epoch.
    #[prost(message, tag = "1")]
    RegisterBroker(RegisterBroker),
    /// Takes a broker out of service.
    #[prost(message, tag = "2")]
    FenceBroker(FenceBroker),
    /// Puts a broker into service.
    #[prost(message, tag = "3")]
    UnfenceBroker(UnfenceBroker),
    /// Adds a topic without partitions.
    #[prost(message, tag = "4")]
    CreateTopic(CreateTopic),
    /// Adds the next partition of a topic.
    #[prost(message, tag = "5")]
    AssignPartition(AssignPartition),
    /// Gives a partition a leader, or none.
    #[prost(message, tag = "6")]
    SetPartitionLeader(SetPartitionLeader),
    /// Sets a partition's in-sync replicas.
    #[prost(message, tag = "7")]
    UpdateIsr(UpdateIsr),
    /// Removes a topic with its partitions and configs.
    #[prost(message, tag = "8")]
    DeleteTopic(DeleteTopic),
    /// Sets or removes one config.
    #[prost(message, tag = "9")]
    SetConfig(SetConfig),
    /// Hands a block of producer ids to a broker.
    #[prost(message, tag = "10")]
    AllocateProducerIds(AllocateProducerIds),
    /// Names the cluster, once.
    #[prost(message, tag = "11")]
    SetClusterId(SetClusterId),
    /// Raises the format that batches may be written in.
    #[prost(message, tag = "12")]
    SetFormatVersion(SetFormatVersion),
    /// Says that a broker is about to stop.
    #[prost(message, tag = "13")]
    BeginControlledShutdown(BeginControlledShutdown),
}

macro_rules! commands {
    ($($name:ident),* $(,)?) => {
        $(impl From<$name> for Command {
            fn from(command: $name) -> Self {
                Self { kind: Some(CommandKind::$name(command)) }
            }
        })*

        impl Command {
            /// The command's name, for logs and errors.
            pub fn name(&self) -> &'static str {
                match &self.kind {
                    $(Some(CommandKind::$name(_)) => stringify!($name),)*
                    None => "unknown command",
                }
            }
        }
    };
}

commands!(
    RegisterBroker,
    FenceBroker,
    UnfenceBroker,
    CreateTopic,
    AssignPartition,
    SetPartitionLeader,
    UpdateIsr,
    DeleteTopic,
    SetConfig,
    AllocateProducerIds,
    SetClusterId,
    SetFormatVersion,
    BeginControlledShutdown,
);

macro_rules! topic_id_field {
    ($($name:ident),*) => {
        $(impl $name {
            /// The topic meant.
            pub fn topic_id(&self) -> TopicId {
                join_topic_id(self.topic_id_high, self.topic_id_low)
            }
        })*
    };
}

topic_id_field!(CreateTopic, AssignPartition, SetPartitionLeader, UpdateIsr, DeleteTopic);

/// Where a broker listens.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Endpoint {
    /// The listener's name, such as `PLAINTEXT`.
    #[prost(string, tag = "1")]
    pub listener: String,
    /// The host name or address that clients are told.
    #[prost(string, tag = "2")]
    pub host: String,
    /// The port that clients are told, 1 to 65535.
    #[prost(uint32, tag = "3")]
    pub port: u32,
    /// Kafka's number of the security protocol; 0 is `PLAINTEXT`.
    #[prost(int32, tag = "4")]
    pub security_protocol: i32,
}

/// Adds a broker, fenced, under a new epoch: the index of the entry. A registration of the incarnation that is
/// registered already changes nothing and gives the same epoch (KIP-631).
#[derive(Clone, PartialEq, Message)]
pub struct RegisterBroker {
    /// The broker's node id.
    #[prost(int32, tag = "1")]
    pub broker_id: i32,
    /// Drawn at random when the broker's process started; the upper half.
    #[prost(fixed64, tag = "2")]
    pub incarnation_high: u64,
    /// The lower half.
    #[prost(fixed64, tag = "3")]
    pub incarnation_low: u64,
    /// Where the broker listens.
    #[prost(message, repeated, tag = "4")]
    pub endpoints: Vec<Endpoint>,
    /// The rack that the broker stands in (KIP-36).
    #[prost(string, optional, tag = "5")]
    pub rack: Option<String>,
    /// The epoch under which the broker last wrote what its log directories hold, if nothing of it can have been lost
    /// since; −1 for none, absent where nobody looked. Where it is not the epoch of the present registration, the broker
    /// may lack records that it has acknowledged, and leaves every ISR and ELR in which it is not the last (KIP-966).
    #[prost(int64, optional, tag = "6")]
    pub previous_broker_epoch: Option<i64>,
    /// The processes that have begun since with these log directories and ended without hearing of a registration of
    /// theirs. Where one was registered all the same, what it wrote is there too.
    #[prost(message, repeated, tag = "7")]
    pub previous_incarnations: Vec<Incarnation>,
}

/// A process of a broker.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Incarnation {
    /// The upper half of the number that it drew at random.
    #[prost(fixed64, tag = "1")]
    pub high: u64,
    /// The lower half.
    #[prost(fixed64, tag = "2")]
    pub low: u64,
}

impl From<u128> for Incarnation {
    fn from(incarnation: u128) -> Self {
        let (high, low) = split(incarnation);
        Self { high, low }
    }
}

impl RegisterBroker {
    /// A registration of this incarnation of a broker, without a rack.
    pub fn new(broker_id: NodeId, incarnation: u128, endpoints: Vec<Endpoint>) -> Self {
        let (incarnation_high, incarnation_low) = split(incarnation);
        Self {
            broker_id: broker_id.get(),
            incarnation_high,
            incarnation_low,
            endpoints,
            rack: None,
            previous_broker_epoch: None,
            previous_incarnations: Vec::new(),
        }
    }

    /// The incarnation as one number.
    pub fn incarnation(&self) -> u128 {
        join(self.incarnation_high, self.incarnation_low)
    }
}

/// Takes a broker out of service. Leaders that it had are moved by further commands of the same batch.
#[derive(Clone, PartialEq, Message)]
pub struct FenceBroker {
    /// The broker's node id.
    #[prost(int32, tag = "1")]
    pub broker_id: i32,
    /// Only under this epoch; absent for whichever it has.
    #[prost(int64, optional, tag = "2")]
    pub broker_epoch: Option<i64>,
}

/// Puts a broker into service.
#[derive(Clone, PartialEq, Message)]
pub struct UnfenceBroker {
    /// The broker's node id.
    #[prost(int32, tag = "1")]
    pub broker_id: i32,
    /// Only under this epoch; absent for whichever it has.
    #[prost(int64, optional, tag = "2")]
    pub broker_epoch: Option<i64>,
}

/// Says that a broker is about to stop (KIP-841). Until it registers anew it neither enters an ISR nor is elected, and
/// gets no new replicas; what it leads is moved by further commands of the same batch. It stays in service for what
/// nobody else can lead, until it is fenced.
#[derive(Clone, PartialEq, Message)]
pub struct BeginControlledShutdown {
    /// The broker's node id.
    #[prost(int32, tag = "1")]
    pub broker_id: i32,
    /// Only under this epoch: whoever registers anew meanwhile is another process.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
}

impl BeginControlledShutdown {
    /// This registration of the broker is about to stop.
    pub fn new(broker_id: NodeId, broker_epoch: BrokerEpoch) -> Self {
        Self { broker_id: broker_id.get(), broker_epoch: broker_epoch.get() }
    }
}

impl FenceBroker {
    /// Fences the broker under this epoch only, or under any.
    pub fn new(broker_id: NodeId, broker_epoch: Option<BrokerEpoch>) -> Self {
        Self { broker_id: broker_id.get(), broker_epoch: broker_epoch.map(BrokerEpoch::get) }
    }
}

impl UnfenceBroker {
    /// Unfences the broker under this epoch only, or under any.
    pub fn new(broker_id: NodeId, broker_epoch: Option<BrokerEpoch>) -> Self {
        Self { broker_id: broker_id.get(), broker_epoch: broker_epoch.map(BrokerEpoch::get) }
    }
}

/// Adds a topic without partitions; [`AssignPartition`] adds them, in the same batch or later.
#[derive(Clone, PartialEq, Message)]
pub struct CreateTopic {
    /// The topic's name, legal by Kafka's rules and in no use.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The upper half of the topic's id.
    #[prost(fixed64, tag = "2")]
    pub topic_id_high: u64,
    /// The lower half.
    #[prost(fixed64, tag = "3")]
    pub topic_id_low: u64,
    /// How many partitions were asked for, for a topic whose assignment comes later.
    #[prost(int32, tag = "4")]
    pub requested_partition_count: i32,
    /// How many replicas of each were asked for.
    #[prost(int32, tag = "5")]
    pub requested_replication_factor: i32,
    /// Configs that differ from the defaults: names and values, a name once.
    #[prost(btree_map = "string, string", tag = "6")]
    pub configs: std::collections::BTreeMap<String, String>,
}

impl CreateTopic {
    /// A topic without configs of its own.
    pub fn new(
        name: impl Into<String>,
        topic_id: TopicId,
        partition_count: i32,
        replication_factor: i32,
    ) -> Self {
        let (topic_id_high, topic_id_low) = split(topic_id.0);
        Self {
            name: name.into(),
            topic_id_high,
            topic_id_low,
            requested_partition_count: partition_count,
            requested_replication_factor: replication_factor,
            configs: std::collections::BTreeMap::new(),
        }
    }
}

/// Adds partition number `partition` of a topic, which must be its next one, without a leader and with an empty
/// ISR. It gets partition epoch 0.
#[derive(Clone, PartialEq, Message)]
pub struct AssignPartition {
    /// The upper half of the topic's id.
    #[prost(fixed64, tag = "1")]
    pub topic_id_high: u64,
    /// The lower half.
    #[prost(fixed64, tag = "2")]
    pub topic_id_low: u64,
    /// The partition's number, the count of those before it.
    #[prost(int32, tag = "3")]
    pub partition: i32,
    /// The nodes that hold it, the preferred leader first, each once.
    #[prost(int32, repeated, tag = "4")]
    pub replicas: Vec<i32>,
}

impl AssignPartition {
    /// Places a partition on these nodes, the preferred leader first.
    pub fn new(topic_id: TopicId, partition: PartitionIndex, replicas: &[NodeId]) -> Self {
        let (topic_id_high, topic_id_low) = split(topic_id.0);
        Self {
            topic_id_high,
            topic_id_low,
            partition: partition.get(),
            replicas: replicas.iter().map(|node| node.get()).collect(),
        }
    }
}

/// Gives a partition a leader, or none, and with it a new leader epoch. The leader comes from the ISR or the ELR; where the
/// ISR is still empty, or `unclean` says that it may, from the other replicas. Unless it was in the ISR it is then the ISR
/// alone; where it comes from the ELR, those who were in the ISR are in the ELR with the others.
#[derive(Clone, PartialEq, Message)]
pub struct SetPartitionLeader {
    /// The upper half of the topic's id.
    #[prost(fixed64, tag = "1")]
    pub topic_id_high: u64,
    /// The lower half.
    #[prost(fixed64, tag = "2")]
    pub topic_id_low: u64,
    /// The partition's number.
    #[prost(int32, tag = "3")]
    pub partition: i32,
    /// The leader; absent for none.
    #[prost(int32, optional, tag = "4")]
    pub leader: Option<i32>,
    /// Only at this partition epoch; absent for any.
    #[prost(int32, optional, tag = "5")]
    pub partition_epoch: Option<i32>,
    /// Whether a leader from outside the ISR is taken, at the price of records (KIP-106). The partition is recovering then,
    /// until an [`UpdateIsr`] says that it has recovered (KIP-704).
    #[prost(bool, tag = "6")]
    pub unclean: bool,
    /// Whether a new leader epoch starts even where the leader stays who it is, as after an unclean restart.
    #[prost(bool, tag = "7")]
    pub always_new_epoch: bool,
}

impl SetPartitionLeader {
    /// A clean election, at whatever partition epoch.
    pub fn new(topic_id: TopicId, partition: PartitionIndex, leader: Option<NodeId>) -> Self {
        let (topic_id_high, topic_id_low) = split(topic_id.0);
        Self {
            topic_id_high,
            topic_id_low,
            partition: partition.get(),
            leader: leader.map(NodeId::get),
            partition_epoch: None,
            unclean: false,
            always_new_epoch: false,
        }
    }
}

/// Sets a partition's in-sync replicas (KIP-497): replicas all, not empty, the leader among them, and that alone while
/// the partition is recovering.
#[derive(Clone, PartialEq, Message)]
pub struct UpdateIsr {
    /// The upper half of the topic's id.
    #[prost(fixed64, tag = "1")]
    pub topic_id_high: u64,
    /// The lower half.
    #[prost(fixed64, tag = "2")]
    pub topic_id_low: u64,
    /// The partition's number.
    #[prost(int32, tag = "3")]
    pub partition: i32,
    /// The in-sync replicas, each once.
    #[prost(int32, repeated, tag = "4")]
    pub isr: Vec<i32>,
    /// Only at this partition epoch; absent for any.
    #[prost(int32, optional, tag = "5")]
    pub partition_epoch: Option<i32>,
    /// Only at this leader epoch; absent for any.
    #[prost(int32, optional, tag = "6")]
    pub leader_epoch: Option<i32>,
    /// The registrations of the brokers in `isr`, in their order, −1 for one that is not known; empty where nobody
    /// looked. None of them may have been fenced or have registered anew since (KIP-841, KIP-903).
    #[prost(sint64, repeated, tag = "7")]
    pub broker_epochs: Vec<i64>,
    /// The eligible leader replicas from now on (KIP-966), none of them in the ISR.
    #[prost(int32, repeated, tag = "8")]
    pub elr: Vec<i32>,
    /// Whether the leader has made do with what there is, after an election that may have lost records (KIP-704).
    #[prost(bool, tag = "9")]
    pub has_recovered: bool,
}

impl UpdateIsr {
    /// A new ISR; `partition_epoch` is what the proposer last saw, or `None` for any.
    pub fn new(
        topic_id: TopicId,
        partition: PartitionIndex,
        isr: &[NodeId],
        partition_epoch: Option<PartitionEpoch>,
    ) -> Self {
        let (topic_id_high, topic_id_low) = split(topic_id.0);
        Self {
            topic_id_high,
            topic_id_low,
            partition: partition.get(),
            isr: isr.iter().map(|node| node.get()).collect(),
            partition_epoch: partition_epoch.map(PartitionEpoch::get),
            leader_epoch: None,
            broker_epochs: Vec::new(),
            elr: Vec::new(),
            has_recovered: false,
        }
    }

    /// The same, which ends the recovery of the partition if `has_recovered`.
    #[must_use]
    pub fn with_recovery(mut self, has_recovered: bool) -> Self {
        self.has_recovered = has_recovered;
        self
    }

    /// The same, with these eligible leader replicas.
    #[must_use]
    pub fn with_elr(mut self, elr: &[NodeId]) -> Self {
        self.elr = elr.iter().map(|node| node.get()).collect();
        self
    }

    /// The same, refused unless each broker of the ISR, in its order, is in service under this registration, or under
    /// any where there is none.
    #[must_use]
    pub fn with_broker_epochs(
        mut self,
        broker_epochs: impl IntoIterator<Item = Option<BrokerEpoch>>,
    ) -> Self {
        self.broker_epochs =
            broker_epochs.into_iter().map(|epoch| epoch.map_or(ANY_BROKER_EPOCH, BrokerEpoch::get)).collect();
        self
    }

    /// The brokers of the ISR that somebody looked at, each with the registration that it must have, if one in particular.
    pub fn eligibility(&self) -> impl Iterator<Item = (NodeId, Option<BrokerEpoch>)> {
        let epochs = self
            .broker_epochs
            .iter()
            .map(|epoch| (*epoch != ANY_BROKER_EPOCH).then_some(BrokerEpoch(*epoch)));
        self.isr.iter().copied().map(NodeId).zip(epochs)
    }
}

/// Removes a topic with its partitions and configs.
#[derive(Clone, PartialEq, Message)]
pub struct DeleteTopic {
    /// The upper half of the topic's id.
    #[prost(fixed64, tag = "1")]
    pub topic_id_high: u64,
    /// The lower half.
    #[prost(fixed64, tag = "2")]
    pub topic_id_low: u64,
}

impl DeleteTopic {
    /// Deletes the topic of this id.
    pub fn new(topic_id: TopicId) -> Self {
        let (topic_id_high, topic_id_low) = split(topic_id.0);
        Self { topic_id_high, topic_id_low }
    }
}

/// Sets or removes one config of one resource.
#[derive(Clone, PartialEq, Message)]
pub struct SetConfig {
    /// Kafka's number of the resource's type: 2 a topic, 4 a broker, 16 client metrics, 32 a group.
    #[prost(int32, tag = "1")]
    pub resource_type: i32,
    /// The resource's name; the empty name of a broker means all brokers.
    #[prost(string, tag = "2")]
    pub resource_name: String,
    /// The config's name.
    #[prost(string, tag = "3")]
    pub key: String,
    /// Its value; absent to go back to the default.
    #[prost(string, optional, tag = "4")]
    pub value: Option<String>,
    /// What the proposer last saw; absent where that does not matter.
    #[prost(message, optional, tag = "5")]
    pub expected: Option<ExpectedConfig>,
}

/// What a config must be for a change of it to be applied.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ExpectedConfig {
    /// Its value; absent where it must not be set.
    #[prost(string, optional, tag = "1")]
    pub value: Option<String>,
}

impl SetConfig {
    /// Sets a config, or removes it where there is no value.
    pub fn new(resource: &ConfigResource, key: impl Into<String>, value: Option<String>) -> Self {
        let (resource_type, resource_name) = resource.to_kafka();
        Self {
            resource_type: i32::from(resource_type),
            resource_name,
            key: key.into(),
            value,
            expected: None,
        }
    }

    /// The same change, only where the config is what the proposer last saw.
    #[must_use]
    pub fn expecting(mut self, value: Option<&String>) -> Self {
        self.expected = Some(ExpectedConfig { value: value.cloned() });
        self
    }
}

/// Hands the next producer ids to a broker, which gives them out one by one (KIP-730).
#[derive(Clone, PartialEq, Message)]
pub struct AllocateProducerIds {
    /// The broker's node id.
    #[prost(int32, tag = "1")]
    pub broker_id: i32,
    /// The broker's epoch.
    #[prost(int64, tag = "2")]
    pub broker_epoch: i64,
    /// How many ids, at least one.
    #[prost(int32, tag = "3")]
    pub count: i32,
}

impl AllocateProducerIds {
    /// A block of `count` ids for this registration of a broker.
    pub fn new(broker_id: NodeId, broker_epoch: BrokerEpoch, count: i32) -> Self {
        Self { broker_id: broker_id.get(), broker_epoch: broker_epoch.get(), count }
    }
}

/// Names the cluster. A name stays: the same one again changes nothing, another is refused.
#[derive(Clone, PartialEq, Message)]
pub struct SetClusterId {
    /// The cluster id, as clients see it.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
}

impl SetClusterId {
    /// Names the cluster.
    pub fn new(cluster_id: impl Into<String>) -> Self {
        Self { cluster_id: cluster_id.into() }
    }
}

/// Raises the format that batches may be written in, once every node knows it.
#[derive(Clone, PartialEq, Message)]
pub struct SetFormatVersion {
    /// The new format.
    #[prost(uint32, tag = "1")]
    pub format_version: u32,
}

pub(super) fn split(id: u128) -> (u64, u64) {
    #[expect(clippy::cast_possible_truncation, reason = "the halves are what is meant")]
    ((id >> 64) as u64, id as u64)
}

pub(super) fn join(high: u64, low: u64) -> u128 {
    (u128::from(high) << 64) | u128::from(low)
}

fn join_topic_id(high: u64, low: u64) -> TopicId {
    TopicId(join(high, low))
}
