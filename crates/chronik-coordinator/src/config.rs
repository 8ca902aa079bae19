//! The settings of the group coordinator, under Kafka's names and with Kafka's defaults.

/// Limits and delays of the group coordinator. Each field names the broker config that it carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`: a `JoinGroup` below it is refused with `INVALID_SESSION_TIMEOUT`.
    pub group_min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`: a `JoinGroup` above it is refused with `INVALID_SESSION_TIMEOUT`.
    pub group_max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long an empty group waits for more members after the first.
    pub group_initial_rebalance_delay_ms: u64,
    /// `group.max.size`: the most members of one group.
    pub group_max_size: usize,
    /// `offsets.commit.timeout.ms`: how long a reply waits for its records to be committed.
    pub offsets_commit_timeout_ms: u64,
    /// `offset.metadata.max.bytes`: the longest metadata of a committed offset. Kafka counts UTF-16 units.
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`, in milliseconds (KIP-211).
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`: how often expired offsets and empty groups are looked for.
    pub offsets_retention_check_interval_ms: u64,
    /// How long a new member may wait in its first rebalance before it is taken for gone. Kafka fixes it at
    /// five minutes: a client that gave up during a long rebalance must not hold its place for ever.
    pub new_member_join_timeout_ms: u64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            group_min_session_timeout_ms: 6_000,
            group_max_session_timeout_ms: 1_800_000,
            group_initial_rebalance_delay_ms: 3_000,
            group_max_size: 2_147_483_647,
            offsets_commit_timeout_ms: 5_000,
            offset_metadata_bytes_max: 4_096,
            offsets_retention_ms: 10_080 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            new_member_join_timeout_ms: 300_000,
        }
    }
}

/// The most member ids that one group hands out (KIP-394) without having seen them used. Each is a timer and a
/// string that any client can ask for, so there must be an end to it; 10,000 is far beyond any real group.
pub(crate) const PENDING_MEMBERS_MAX: usize = 10_000;

/// The most writes that may wait for their commit. A shard that reaches it has lost its replicas for seconds;
/// clients are told to try again rather than queue without end.
pub(crate) const PENDING_WRITES_MAX: usize = 20_000;

/// How long after a failed append the metadata of an emptied group is written again.
pub(crate) const EMPTY_METADATA_RETRY_MS: u64 = 5_000;

/// The longest client reason that is logged (KIP-800 has clients cut it there too).
pub(crate) const REASON_CHARS_MAX: usize = 255;
