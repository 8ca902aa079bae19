//! What a seed decides before its history begins: the cluster, its clients, and which faults it has to live with.
//!
//! Each history has a few kinds of fault, at rates of its own, so that different seeds stress different things.

use crate::rng::Rng;

/// What can go wrong, beside what the network does to each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process is killed; the machine goes on.
    Crash,
    /// All processes are killed at once.
    CrashAll,
    /// A process is killed in the middle of an operation on its disk.
    CrashInWrite,
    /// A machine loses power: a part of what was not synced is lost.
    PowerLoss,
    /// A machine loses power, and when it is back, one of its files of records is gone, synced or not.
    PowerLossAndFile,
    /// All machines lose power at once. Only where every record is synced before it counts.
    PowerLossAll,
    /// A process is told to end, and does so in good order.
    Shutdown,
    /// A process stands still.
    Pause,
    /// Two nodes do not reach each other.
    CutPair,
    /// One node does not reach another, which reaches it.
    CutOneWay,
    /// A node reaches nobody, clients included, or all but those.
    CutNode,
    /// Two halves that only one node reaches both of.
    Bridge,
    /// Two halves reach nobody in each other.
    Split,
    /// Each node hears one other only, all around.
    Ring,
    /// A node hears nobody, or nobody hears it, clients included.
    Deafen,
    /// A client and a node do not reach each other.
    CutClient,
    /// Connections break.
    Reset,
    /// A sync of a log fails.
    SyncError,
    /// A disk is full for a while.
    DiskFull,
    /// What is read from a disk is not what was written, once.
    FlipRead,
    /// A bit of a record rots on a disk, for a while, or until it is written over.
    Rot,
    /// A wall clock jumps, by up to an hour in either direction.
    ClockJump,
    /// A node tries to lead the metadata log.
    Campaign,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Crash,
        Self::CrashAll,
        Self::CrashInWrite,
        Self::PowerLoss,
        Self::PowerLossAndFile,
        Self::PowerLossAll,
        Self::Shutdown,
        Self::Pause,
        Self::CutPair,
        Self::CutOneWay,
        Self::CutNode,
        Self::Bridge,
        Self::Split,
        Self::Ring,
        Self::Deafen,
        Self::CutClient,
        Self::Reset,
        Self::SyncError,
        Self::DiskFull,
        Self::FlipRead,
        Self::Rot,
        Self::ClockJump,
        Self::Campaign,
    ];
}

/// What the network does to messages, in percent and milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetworkPlan {
    /// Messages of the metadata log that are lost,
    pub(super) lost_percent: u64,
    /// come twice,
    pub(super) doubled_percent: u64,
    /// or come so late that others overtake them.
    pub(super) late_percent: u64,
    /// Requests that hold up their connection, for longer than their client waits.
    pub(super) stalled_per_mille: u64,
    /// The longest usual delay.
    pub(super) delay_ms_max: u64,
}

/// What admins do while records flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdminPlan {
    /// Topics are deleted and created again by the same name.
    pub(super) recreates: bool,
    /// The first records of partitions are deleted.
    pub(super) deletes_records: bool,
    /// `min.insync.replicas` changes.
    pub(super) alters_min_insync: bool,
}

/// A history before it begins.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) node_count: usize,
    pub(super) replication_factor: i16,
    pub(super) min_insync: i16,
    /// Whether every record is synced before it counts (`flush.messages=1`).
    pub(super) is_flushed: bool,
    pub(super) topic_count: usize,
    pub(super) partition_count: i32,
    pub(super) segment_bytes: u64,
    pub(super) tail_ring_bytes: u64,
    pub(super) checkpoint_ms: u64,
    pub(super) replica_lag_ms: u64,
    pub(super) replica_wait_ms: i32,
    /// How long a sync takes at the most.
    pub(super) sync_ms_max: u64,
    /// How long records flow and things go wrong.
    pub(super) load_ms: u64,
    pub(super) faults: Vec<Fault>,
    /// The mean time between two faults.
    pub(super) fault_pause_ms: u64,
    pub(super) network: NetworkPlan,
    pub(super) admin: AdminPlan,
    pub(super) producer_count: usize,
    pub(super) produce_pause_ms: u64,
    pub(super) consumer_count: usize,
    pub(super) group_count: usize,
    /// The members of one more group.
    pub(super) member_count: usize,
}

impl Plan {
    pub(super) fn draw(rng: &mut Rng, nodes: Option<usize>, chosen: &[Fault]) -> Self {
        let five = rng.chance(20);
        let node_count = nodes.unwrap_or(if five { 5 } else { 3 });
        let wide = rng.chance(30);
        let replication_factor = if node_count >= 5 && wide { 5 } else { 3 };
        let min_insync = if replication_factor == 5 { 3 } else { 2 };
        let mut faults = Vec::new();
        if !rng.chance(4) {
            let count = 1 + rng.below(4);
            for _ in 0..count {
                let fault = Fault::ALL[rng.index(Fault::ALL.len())];
                if !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
        }
        if !chosen.is_empty() {
            faults = chosen.to_vec();
        }
        // No copy is left where all machines lose power and one disk does not give back what it holds.
        if faults.contains(&Fault::PowerLossAll) {
            faults.retain(|fault| !fault.takes_synced());
        }
        let all_lose_power = faults.contains(&Fault::PowerLossAll);
        let is_flushed = rng.chance(10) || all_lose_power;
        let sometimes =
            |rng: &mut Rng, percent, below| if rng.chance(percent) { 1 + rng.below(below) } else { 0 };
        let network = NetworkPlan {
            lost_percent: sometimes(rng, 30, 15),
            doubled_percent: sometimes(rng, 30, 10),
            late_percent: sometimes(rng, 30, 10),
            stalled_per_mille: sometimes(rng, 30, 20),
            delay_ms_max: [2, 5, 20][rng.index(3)],
        };
        let admin = AdminPlan {
            recreates: rng.chance(25),
            deletes_records: rng.chance(20),
            // Where one copy is enough, one machine without power is too many.
            alters_min_insync: rng.chance(15) && !faults.iter().any(|fault| fault.loses_records()),
        };
        Self {
            node_count,
            replication_factor,
            min_insync,
            is_flushed,
            topic_count: 1 + rng.index(2),
            partition_count: 1 + i32::from(rng.chance(60)),
            segment_bytes: [4_096, 16_384, 1 << 20][rng.index(3)],
            tail_ring_bytes: [0, 2_048, 4 << 20][rng.index(3)],
            checkpoint_ms: [500, 2_000, 5_000][rng.index(3)],
            replica_lag_ms: 600 + rng.below(2_000),
            replica_wait_ms: 50 + i32::try_from(rng.below(450)).unwrap_or(0),
            sync_ms_max: [1, 3, 15][rng.index(3)],
            load_ms: 3_000 + rng.below(4_000),
            faults,
            fault_pause_ms: 150 + rng.below(1_200),
            network,
            admin,
            producer_count: 1 + rng.index(2),
            produce_pause_ms: 20 + rng.below(60),
            consumer_count: 1,
            group_count: rng.index(2),
            member_count: if rng.chance(40) { 1 + rng.index(3) } else { 0 },
        }
    }
}

impl Fault {
    /// Whether a copy of a record can be lost by it.
    pub(super) fn loses_records(self) -> bool {
        matches!(self, Self::PowerLoss | Self::PowerLossAll | Self::SyncError) || self.takes_synced()
    }

    /// Whether a disk may not give back what was synced.
    pub(super) fn takes_synced(self) -> bool {
        matches!(self, Self::FlipRead | Self::Rot | Self::PowerLossAndFile)
    }
}
