//! Which APIs exist, by key and name, and which versions of them this codec speaks.
//!
//! What the codec speaks is not what a broker offers: the broker advertises the APIs that it has handlers for.

use std::fmt;

use crate::messages::API_TABLE;

macro_rules! api_keys {
    ($($name:ident = $key:literal;)*) => {
        /// An API of the Kafka protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[expect(missing_docs, reason = "the names are Kafka's")]
        pub enum ApiKey {
            $($name = $key,)*
        }

        impl ApiKey {
            /// Every API that Kafka 4.3.1 still has a number for, in the order of their keys.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The API with that key, or `None` where there is none or Kafka 4.0 dropped it.
            pub const fn from_key(key: i16) -> Option<Self> {
                match key {
                    $($key => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Kafka's name, such as `ListOffsets`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

api_keys! {
    Produce = 0;
    Fetch = 1;
    ListOffsets = 2;
    Metadata = 3;
    OffsetCommit = 8;
    OffsetFetch = 9;
    FindCoordinator = 10;
    JoinGroup = 11;
    Heartbeat = 12;
    LeaveGroup = 13;
    SyncGroup = 14;
    DescribeGroups = 15;
    ListGroups = 16;
    SaslHandshake = 17;
    ApiVersions = 18;
    CreateTopics = 19;
    DeleteTopics = 20;
    DeleteRecords = 21;
    InitProducerId = 22;
    OffsetForLeaderEpoch = 23;
    AddPartitionsToTxn = 24;
    AddOffsetsToTxn = 25;
    EndTxn = 26;
    WriteTxnMarkers = 27;
    TxnOffsetCommit = 28;
    DescribeAcls = 29;
    CreateAcls = 30;
    DeleteAcls = 31;
    DescribeConfigs = 32;
    AlterConfigs = 33;
    AlterReplicaLogDirs = 34;
    DescribeLogDirs = 35;
    SaslAuthenticate = 36;
    CreatePartitions = 37;
    CreateDelegationToken = 38;
    RenewDelegationToken = 39;
    ExpireDelegationToken = 40;
    DescribeDelegationToken = 41;
    DeleteGroups = 42;
    ElectLeaders = 43;
    IncrementalAlterConfigs = 44;
    AlterPartitionReassignments = 45;
    ListPartitionReassignments = 46;
    OffsetDelete = 47;
    DescribeClientQuotas = 48;
    AlterClientQuotas = 49;
    DescribeUserScramCredentials = 50;
    AlterUserScramCredentials = 51;
    Vote = 52;
    BeginQuorumEpoch = 53;
    EndQuorumEpoch = 54;
    DescribeQuorum = 55;
    AlterPartition = 56;
    UpdateFeatures = 57;
    Envelope = 58;
    FetchSnapshot = 59;
    DescribeCluster = 60;
    DescribeProducers = 61;
    BrokerRegistration = 62;
    BrokerHeartbeat = 63;
    UnregisterBroker = 64;
    DescribeTransactions = 65;
    ListTransactions = 66;
    AllocateProducerIds = 67;
    ConsumerGroupHeartbeat = 68;
    ConsumerGroupDescribe = 69;
    ControllerRegistration = 70;
    GetTelemetrySubscriptions = 71;
    PushTelemetry = 72;
    AssignReplicasToDirs = 73;
    ListConfigResources = 74;
    DescribeTopicPartitions = 75;
    ShareGroupHeartbeat = 76;
    ShareGroupDescribe = 77;
    ShareFetch = 78;
    ShareAcknowledge = 79;
    AddRaftVoter = 80;
    RemoveRaftVoter = 81;
    UpdateRaftVoter = 82;
    InitializeShareGroupState = 83;
    ReadShareGroupState = 84;
    WriteShareGroupState = 85;
    DeleteShareGroupState = 86;
    ReadShareGroupStateSummary = 87;
    StreamsGroupHeartbeat = 88;
    StreamsGroupDescribe = 89;
    DescribeShareGroupOffsets = 90;
    AlterShareGroupOffsets = 91;
    DeleteShareGroupOffsets = 92;
}

/// The versions of one API that the codec speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiVersions {
    /// The API.
    pub api_key: ApiKey,
    /// The first version.
    pub min_version: i16,
    /// The last version, settled or not.
    pub max_version: i16,
    /// The last version that Kafka calls stable, which is the last one to advertise.
    pub latest_stable_version: i16,
    /// The first version with compact lengths and tagged fields (KIP-482).
    pub flexible_from: Option<i16>,
}

impl ApiVersions {
    /// Whether the codec speaks that version.
    pub const fn contains(&self, version: i16) -> bool {
        self.min_version <= version && version <= self.max_version
    }

    /// Whether that version is flexible.
    pub const fn is_flexible(&self, version: i16) -> bool {
        matches!(self.flexible_from, Some(first) if first <= version)
    }

    /// The version of the header before a request of that version.
    pub const fn request_header_version(&self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// The version of the header before a response of that version. A client that asks for the versions does not
    /// know yet what its broker speaks, so that answer never has tagged fields in its header (KIP-511).
    pub const fn response_header_version(&self, version: i16) -> i16 {
        if self.is_flexible(version) && !matches!(self.api_key, ApiKey::ApiVersions) { 1 } else { 0 }
    }
}

impl ApiKey {
    /// The number on the wire.
    pub const fn key(self) -> i16 {
        self as i16
    }

    /// The versions that the codec speaks, or `None` for an API of Kafka's own controllers that it leaves out.
    pub fn versions(self) -> Option<ApiVersions> {
        let row = API_TABLE.binary_search_by_key(&self.key(), |&(key, ..)| key).ok()?;
        let &(_, min_version, max_version, latest_stable_version, flexible_from) = API_TABLE.get(row)?;
        Some(ApiVersions { api_key: self, min_version, max_version, latest_stable_version, flexible_from })
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_goes_there_and_back() {
        for &api in ApiKey::ALL {
            assert_eq!(ApiKey::from_key(api.key()), Some(api));
        }
        for dropped in [-1, 4, 5, 6, 7, 93] {
            assert_eq!(ApiKey::from_key(dropped), None, "{dropped}");
        }
    }

    #[test]
    fn every_generated_api_has_a_name() {
        let missing: Vec<_> =
            API_TABLE.iter().filter(|&&(key, ..)| ApiKey::from_key(key).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(ApiKey::Vote.versions(), None, "Kafka's own quorum is left out");
    }

    #[test]
    fn header_versions_follow_flexibility() {
        let versions = |api: ApiKey| api.versions().expect("the codec speaks it");
        let metadata = versions(ApiKey::Metadata);
        assert_eq!((metadata.request_header_version(8), metadata.response_header_version(8)), (1, 0));
        assert_eq!((metadata.request_header_version(9), metadata.response_header_version(9)), (2, 1));
        let api_versions = versions(ApiKey::ApiVersions);
        assert_eq!((api_versions.request_header_version(3), api_versions.response_header_version(3)), (2, 0));
        let handshake = versions(ApiKey::SaslHandshake);
        assert_eq!((handshake.request_header_version(1), handshake.response_header_version(1)), (1, 0));
        assert_eq!(versions(ApiKey::InitProducerId).latest_stable_version, 5);
        assert_eq!(versions(ApiKey::InitProducerId).max_version, 6);
    }
}
