//! One history: its actors, its time, and what may happen next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chronik_coordinator::{GroupConfig, GroupCoordinator, Record, RequestId, Response, Write};
use chronik_types::MonotonicMs;

use super::checkers::{CommittedLog, Generations, Growth, Owners, Seen};
use super::client::{Client, Stage};
use super::requests::Asked;
use crate::clock::VirtualClock;
use crate::rng::Rng;
use crate::trace::Trace;

/// Partitions of the one topic that every group consumes.
pub(super) const PARTITION_COUNT: u8 = 6;

/// What is broken on purpose, so that a checker bites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The broker calls a write committed before it is.
    ReplyBeforeCommit,
    /// A failover loses the last committed offset.
    LoseCommittedOffsets,
    /// Leaders give a partition to two members.
    AssignTwice,
    /// A follower is told another leader.
    NameAnotherLeader,
    /// Members are told a generation of long ago.
    TellAnOldGeneration,
    /// A record is left out when the log is replayed for comparison.
    SkipReplayedRecord,
    /// An answer is sent twice.
    AnswerTwice,
    /// Heartbeats are not answered.
    ForgetHeartbeats,
    /// Answers carry what their version has no place for.
    AnswerInAnotherVersion,
    /// Answers to syncs never arrive.
    LoseAnswers,
}

/// One history.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) config: GroupConfig,
    pub(super) coordinator: GroupCoordinator,
    /// Counts the coordinators that have led.
    pub(super) incarnation: u64,
    pub(super) clock: VirtualClock,
    /// What is committed.
    pub(super) log: Vec<Record>,
    /// What is appended and not yet committed.
    pub(super) appended: VecDeque<Write>,
    pub(super) clients: Vec<Client>,
    pub(super) groups: BTreeSet<String>,
    pub(super) next_request: u64,
    pub(super) asked: BTreeMap<RequestId, (i16, Asked)>,
    pub(super) answers: BTreeMap<RequestId, Response>,
    pub(super) faults: bool,
    pub(super) committed: CommittedLog,
    pub(super) owners: Owners,
    pub(super) generations: Generations,
    pub(super) growth: Growth,
    pub(super) seen: Seen,
    pub(super) trace: Trace,
}

impl World {
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>, is_traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let config = GroupConfig {
            group_initial_rebalance_delay_ms: [0, 500, 3_000][rng.index(3)],
            group_max_size: if rng.chance(10) { 3 } else { 100 },
            ..GroupConfig::default()
        };
        let mut clients = Vec::new();
        for group in 0..=rng.below(2) {
            for number in 0..2 + rng.below(3) {
                let instance = rng.chance(30).then(|| format!("instance-{number}"));
                clients.push(Client::new(format!("g{group}"), instance));
            }
        }
        let mut world = Self {
            coordinator: GroupCoordinator::new(config.clone(), seed),
            rng,
            sabotage,
            config,
            incarnation: 0,
            clock: VirtualClock::default(),
            log: Vec::new(),
            appended: VecDeque::new(),
            groups: clients.iter().map(|client| client.group.clone()).collect(),
            clients,
            next_request: 0,
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            faults: true,
            committed: CommittedLog::default(),
            owners: Owners::default(),
            generations: Generations::default(),
            growth: Growth::default(),
            seen: Seen::default(),
            trace: Trace::new(is_traced),
        };
        let effects = world.coordinator.loaded(world.clock.now());
        world.carry_out(effects).expect("nothing happens when an empty log is loaded");
        world
    }

    /// Does whatever the seed has next.
    pub(super) fn step(&mut self) -> Result<(), String> {
        match self.rng.below(200) {
            0..154 => self.tick_someone()?,
            154..172 => {
                let ms = [10, 200, 1_500, 4_000][self.rng.index(4)];
                self.advance(ms)?;
            }
            172..188 => {
                let count = self.rng.index(self.appended.len() + 1);
                self.commit(count)?;
            }
            188..190 => {
                let index = self.rng.index(self.clients.len());
                let away_ms = self.rng.below(25_000);
                self.trace.note(format_args!("client {index} crashes, and is back in {away_ms} ms"));
                let client = &mut self.clients[index];
                client.away_until = self.clock.now().monotonic.plus_ms(away_ms);
                client.crash();
            }
            190..194 => {
                let index = self.rng.index(self.clients.len());
                let away_ms = self.rng.below(40_000);
                self.trace.note(format_args!("client {index} stalls for {away_ms} ms"));
                self.clients[index].away_until = self.clock.now().monotonic.plus_ms(away_ms);
            }
            194 => self.fail_over(false)?,
            195 => self.fail_over(true)?,
            196..198 => self.delete_a_group()?,
            _ => self.check_replay()?,
        }
        self.check_offsets()
    }

    fn tick_someone(&mut self) -> Result<(), String> {
        let index = self.rng.index(self.clients.len());
        if self.clients[index].away_until > self.clock.now().monotonic {
            return Ok(());
        }
        self.tick(index)
    }

    /// A client does what it has to do next.
    pub(super) fn tick(&mut self, index: usize) -> Result<(), String> {
        if let Some(awaited) = self.clients[index].awaits() {
            if let Some(response) = self.answers.get(&awaited) {
                let lost = self.sabotage == Some(Sabotage::LoseAnswers)
                    && matches!(response, Response::SyncGroup(_));
                if lost {
                    return Ok(());
                }
                self.clients[index].take(response);
            } else {
                if self.faults && self.rng.chance(2) {
                    self.trace.note(format_args!("client {index} loses its connection"));
                    self.clients[index].rejoin();
                }
                return Ok(());
            }
        }
        match self.clients[index].stage.clone() {
            Stage::Out => self.send_join(index),
            Stage::Joined { members, assigns } => self.send_sync(index, &members, assigns),
            Stage::Member => match self.rng.below(100) {
                0..60 => self.send_commit(index),
                60..61 if self.faults => self.send_leave(index),
                61..62 if self.faults => {
                    self.clients[index].metadata = self.clients[index].metadata.wrapping_add(1);
                    self.clients[index].rejoin();
                    Ok(())
                }
                _ => self.send_heartbeat(index),
            },
            Stage::Joining(_) | Stage::Syncing(_) => Ok(()),
        }
    }

    /// Lets time pass, with every timer of the coordinator at its time.
    pub(super) fn advance(&mut self, ms: u64) -> Result<(), String> {
        let end = self.clock.now().monotonic.plus_ms(ms);
        while let Some(deadline) = self.coordinator.next_deadline()
            && deadline <= end
        {
            self.set_time(deadline);
            let effects = self.coordinator.poll(self.clock.now());
            self.carry_out(effects)?;
        }
        self.set_time(end);
        Ok(())
    }

    fn set_time(&mut self, to: MonotonicMs) {
        self.clock.advance_to(to);
        self.trace.note(format_args!("it is {} ms", self.clock.now().monotonic.0));
    }
}
