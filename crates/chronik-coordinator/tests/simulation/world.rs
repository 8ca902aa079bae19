//! The broker, its log, the network and the faults of one history.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chronik_coordinator::{
    Completion, Effects, GroupConfig, GroupCoordinator, Record, RequestContext, RequestId, Response, Write,
};
use chronik_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use chronik_types::{ErrorCode, MonotonicMs, Now, TimestampMs};

use crate::checkers::{CommittedLog, Generations, Owners, Seen};
use crate::client::{Client, Stage};
use crate::common::{Commit, Join, START_MS, TestTopics, error, replayed};
use crate::rng::Rng;

/// Partitions of the one topic that every group consumes.
const PARTITION_COUNT: u8 = 6;

/// What is broken on purpose, so that a checker bites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// The broker calls a write committed before it is.
    ReplyBeforeCommit,
    /// A failover loses the last committed offset.
    LoseCommittedOffsets,
    /// Leaders give a partition to two members.
    AssignTwice,
    /// A follower is told another leader.
    NameAnotherLeader,
    /// A record is left out when the log is replayed for comparison.
    SkipReplayedRecord,
    /// An answer is sent twice.
    AnswerTwice,
    /// Answers to syncs never arrive.
    LoseAnswers,
}

/// What a request was about, for the checkers of its answer.
#[derive(Clone, Debug)]
enum Asked {
    Join { group: String, is_replacement: bool },
    Sync { group: String, generation: i32, member: String, owner: String },
    Commit { group: String, generation: i32, offsets: Vec<(i32, i64)>, client: usize },
    Heartbeat { client: usize, generation: i32 },
    Leave,
    Delete { group: String },
}

/// One history.
pub(crate) struct World {
    rng: Rng,
    sabotage: Option<Sabotage>,
    config: GroupConfig,
    coordinator: GroupCoordinator,
    /// Counts the coordinators that have led.
    incarnation: u64,
    now: Now,
    log: Vec<Record>,
    appended: VecDeque<Write>,
    clients: Vec<Client>,
    groups: BTreeSet<String>,
    next_request: u64,
    asked: BTreeMap<RequestId, Asked>,
    answers: BTreeMap<RequestId, Response>,
    faults: bool,
    committed: CommittedLog,
    owners: Owners,
    generations: Generations,
    seen: Seen,
    /// Kept where two runs are to be compared.
    history: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
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
            now: Now { monotonic: MonotonicMs(0), wall: TimestampMs(START_MS) },
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
            seen: Seen::default(),
            history: None,
        };
        let effects = world.coordinator.loaded(world.now);
        world.carry_out(effects).expect("nothing happens when an empty log is loaded");
        world
    }

    /// Everything that was answered, in order.
    pub(crate) fn history(self) -> Vec<String> {
        self.history.unwrap_or_default()
    }

    /// Keeps everything that is answered from now on.
    pub(crate) fn keep_history(&mut self) {
        self.history = Some(Vec::new());
    }

    // --- a step -----------------------------------------------------------------------------------------------

    pub(crate) fn step(&mut self) -> Result<(), String> {
        match self.rng.below(100) {
            0..77 => self.tick_someone()?,
            77..86 => {
                let ms = [10, 200, 1_500, 4_000][self.rng.index(4)];
                self.advance(ms)?;
            }
            86..94 => {
                let count = self.rng.index(self.appended.len() + 1);
                self.commit(count)?;
            }
            94 => {
                let index = self.rng.index(self.clients.len());
                let away_ms = self.rng.below(25_000);
                let client = &mut self.clients[index];
                client.away_until = self.now.monotonic.plus_ms(away_ms);
                client.crash();
            }
            95..97 => {
                let index = self.rng.index(self.clients.len());
                let away_ms = self.rng.below(40_000);
                self.clients[index].away_until = self.now.monotonic.plus_ms(away_ms);
            }
            97 => self.fail_over()?,
            98 => self.delete_a_group()?,
            _ => self.check_replay()?,
        }
        self.check_offsets()
    }

    fn tick_someone(&mut self) -> Result<(), String> {
        let index = self.rng.index(self.clients.len());
        if self.clients[index].away_until > self.now.monotonic {
            return Ok(());
        }
        self.tick(index)
    }

    fn tick(&mut self, index: usize) -> Result<(), String> {
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
                    // Its connection breaks; it will ask again.
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

    // --- requests ---------------------------------------------------------------------------------------------

    fn ask(&mut self, api_version: i16, asked: Asked) -> RequestContext {
        self.next_request += 1;
        let request_id = RequestId(self.next_request);
        self.asked.insert(request_id, asked);
        RequestContext {
            request_id,
            api_version,
            client_id: "client".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
        }
    }

    fn send_join(&mut self, index: usize) -> Result<(), String> {
        let client = self.clients[index].clone();
        let metadata = [client.metadata];
        let join = Join {
            group: &client.group,
            member_id: &client.member_id,
            instance: client.instance.as_deref(),
            protocol_type: "consumer",
            protocols: &[("range", &metadata), ("sticky", &metadata)],
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 20_000,
        };
        let is_replacement = client.instance.is_some() && client.member_id.is_empty();
        let api_version = if client.instance.is_none() && self.rng.chance(20) { 3 } else { 9 };
        let context = self.ask(api_version, Asked::Join { group: client.group.clone(), is_replacement });
        self.clients[index].stage = Stage::Joining(context.request_id);
        let effects = self.coordinator.join_group(self.now, &context, &join.request());
        self.carry_out(effects)
    }

    fn send_sync(&mut self, index: usize, members: &[String], assigns: bool) -> Result<(), String> {
        let client = self.clients[index].clone();
        let mut parts: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        if assigns && !members.is_empty() {
            for (partition, owner) in (0..PARTITION_COUNT).zip(members.iter().cycle()) {
                parts.entry(owner).or_default().push(partition);
            }
            if self.sabotage == Some(Sabotage::AssignTwice) {
                for member in members {
                    parts.entry(member).or_default().push(0);
                }
            }
        }
        let request = chronik_protocol::messages::SyncGroupRequest {
            group_id: client.group.clone(),
            generation_id: client.generation,
            member_id: client.member_id.clone(),
            group_instance_id: client.instance.clone(),
            assignments: parts
                .into_iter()
                .map(|(member, part)| {
                    chronik_protocol::messages::sync_group_request::SyncGroupRequestAssignment {
                        member_id: member.to_owned(),
                        assignment: part.into(),
                    }
                })
                .collect(),
            ..Default::default()
        };
        let asked = Asked::Sync {
            group: client.group,
            generation: client.generation,
            owner: client.instance.unwrap_or_else(|| client.member_id.clone()),
            member: client.member_id,
        };
        let context = self.ask(3, asked);
        self.clients[index].stage = Stage::Syncing(context.request_id);
        let effects = self.coordinator.sync_group(self.now, &context, &request);
        self.carry_out(effects)
    }

    fn send_heartbeat(&mut self, index: usize) -> Result<(), String> {
        let client = &self.clients[index];
        let request = chronik_protocol::messages::HeartbeatRequest {
            group_id: client.group.clone(),
            generation_id: client.generation,
            member_id: client.member_id.clone(),
            group_instance_id: client.instance.clone(),
        };
        let asked = Asked::Heartbeat { client: index, generation: client.generation };
        let context = self.ask(4, asked);
        let effects = self.coordinator.heartbeat(self.now, &context, &request);
        self.carry_out(effects)
    }

    /// Consumes some more of one partition and commits it. The committed offset is fetched before.
    fn send_commit(&mut self, index: usize) -> Result<(), String> {
        let owned: Vec<i32> = self.clients[index].positions.keys().copied().collect();
        if owned.is_empty() {
            return self.send_heartbeat(index);
        }
        let partition = owned[self.rng.index(owned.len())];
        let client = self.clients[index].clone();
        let known = client.positions.get(&partition).copied().flatten();
        let position = match known.or_else(|| self.fetch(&client.group, partition)) {
            Some(position) => position.max(0),
            // Another offset is on its way; it asks again later.
            None => return Ok(()),
        };
        let offset = position + i64::try_from(self.rng.below(5)).expect("it is below 5");
        self.clients[index].positions.insert(partition, Some(offset));
        let commit = Commit {
            group: &client.group,
            generation: client.generation,
            member_id: &client.member_id,
            instance: client.instance.as_deref(),
            partition,
            offset,
            ..Commit::default()
        };
        let asked = Asked::Commit {
            group: client.group.clone(),
            generation: client.generation,
            offsets: vec![(partition, offset)],
            client: index,
        };
        let context = self.ask(8, asked);
        let effects = self.coordinator.offset_commit(self.now, &context, &commit.request(), &TestTopics);
        self.carry_out(effects)
    }

    fn send_leave(&mut self, index: usize) -> Result<(), String> {
        let client = &self.clients[index];
        let request = chronik_protocol::messages::LeaveGroupRequest {
            group_id: client.group.clone(),
            members: vec![chronik_protocol::messages::leave_group_request::MemberIdentity {
                member_id: client.member_id.clone(),
                group_instance_id: client.instance.clone(),
                reason: None,
            }],
            ..Default::default()
        };
        let context = self.ask(5, Asked::Leave);
        self.clients[index].reset();
        let effects = self.coordinator.leave_group(self.now, &context, &request);
        self.carry_out(effects)
    }

    fn delete_a_group(&mut self) -> Result<(), String> {
        let group = format!("g{}", self.rng.below(2));
        let context = self.ask(2, Asked::Delete { group: group.clone() });
        // If it is granted its offsets go, now or when the tombstones turn out to have survived.
        if self.coordinator.describe_group(5, &group).group_state == "Empty" {
            self.seen.forget(&group);
        }
        let effects = self.coordinator.delete_groups(self.now, &context, &[group]);
        self.carry_out(effects)
    }

    // --- the broker -------------------------------------------------------------------------------------------

    fn carry_out(&mut self, effects: Effects) -> Result<(), String> {
        for completion in effects.completions {
            self.answer(completion)?;
        }
        for write in effects.writes {
            if self.faults && self.rng.chance(4) {
                let errors = [
                    ErrorCode::NotEnoughReplicas,
                    ErrorCode::KafkaStorageError,
                    ErrorCode::NotLeaderOrFollower,
                ];
                let error = errors[self.rng.index(errors.len())];
                let effects = self.coordinator.failed(self.now, write.id, error);
                self.carry_out(effects)?;
                continue;
            }
            let id = write.id;
            self.appended.push_back(write);
            if self.sabotage == Some(Sabotage::ReplyBeforeCommit) {
                let effects = self.coordinator.committed(self.now, id);
                self.carry_out(effects)?;
            }
        }
        Ok(())
    }

    fn commit(&mut self, count: usize) -> Result<(), String> {
        let mut last = None;
        for write in self.appended.drain(..count) {
            for record in write.records {
                self.committed.add(&record);
                self.log.push(record);
            }
            last = Some(write.id);
        }
        let Some(last) = last else { return Ok(()) };
        let effects = self.coordinator.committed(self.now, last);
        self.carry_out(effects)
    }

    fn advance(&mut self, ms: u64) -> Result<(), String> {
        let end = self.now.monotonic.plus_ms(ms);
        while let Some(deadline) = self.coordinator.next_deadline()
            && deadline <= end
        {
            self.set_time(deadline.max(self.now.monotonic));
            let effects = self.coordinator.poll(self.now);
            self.carry_out(effects)?;
        }
        self.set_time(end);
        Ok(())
    }

    fn set_time(&mut self, to: MonotonicMs) {
        let passed =
            i64::try_from(to.since_ms(self.now.monotonic)).expect("a history does not last for ages");
        self.now = Now { monotonic: to, wall: TimestampMs(self.now.wall.get() + passed) };
    }

    /// Another broker takes over. What was appended survives up to some point, whether it was committed or not.
    fn fail_over(&mut self) -> Result<(), String> {
        let effects = self.coordinator.unload();
        self.carry_out(effects)?;
        let survives = self.rng.index(self.appended.len() + 1);
        for write in self.appended.drain(..).take(survives).collect::<Vec<_>>() {
            for record in write.records {
                self.committed.add(&record);
                self.log.push(record);
            }
        }
        self.appended.clear();
        if self.sabotage == Some(Sabotage::LoseCommittedOffsets) {
            let offset = self.log.iter().rposition(|record| record.key[1] == 1);
            offset.map(|at| self.log.remove(at));
        }
        self.incarnation += 1;
        self.coordinator = replayed(&self.log, &self.config, self.incarnation);
        let effects = self.coordinator.loaded(self.now);
        self.carry_out(effects)
    }

    // --- answers ----------------------------------------------------------------------------------------------

    fn answer(&mut self, completion: Completion) -> Result<(), String> {
        let Completion { request_id, mut response } = completion;
        let asked = self.asked.get(&request_id).cloned().expect("only what was asked is answered");
        if let Response::JoinGroup(join) = &mut response
            && self.sabotage == Some(Sabotage::NameAnotherLeader)
            && join.leader != join.member_id
        {
            join.leader.push('x');
        }
        let times = if self.sabotage == Some(Sabotage::AnswerTwice) { 2 } else { 1 };
        for _ in 0..times {
            if self.answers.insert(request_id, response.clone()).is_some() {
                return Err(format!("ANSWERS: {request_id:?} is answered twice: {asked:?}"));
            }
        }
        if let Some(history) = &mut self.history {
            history.push(format!("{:?} {request_id:?} {response:?}", self.now.monotonic));
        }
        self.check_answer(&asked, &response)
    }

    fn check_answer(&mut self, asked: &Asked, response: &Response) -> Result<(), String> {
        match (asked, response) {
            (Asked::Join { group, is_replacement }, Response::JoinGroup(response)) => {
                if *is_replacement {
                    self.generations.replaced(group);
                }
                if response.error_code != 0 {
                    return Ok(());
                }
                let deletions = self.committed.deletions(group);
                self.generations.check(self.incarnation, deletions, group, response)
            }
            (Asked::Sync { group, generation, member, owner }, Response::SyncGroup(response)) => {
                if response.error_code != 0 {
                    return Ok(());
                }
                self.committed.check_assignment(group, *generation, member, &response.assignment)?;
                let deletions = self.committed.deletions(group);
                self.owners.check(group, deletions, *generation, owner, &response.assignment)
            }
            (Asked::Commit { group, generation, offsets, client }, Response::OffsetCommit(response)) => {
                let error = error(response.topics[0].partitions[0].error_code);
                if error == ErrorCode::None {
                    return offsets.iter().try_for_each(|(partition, offset)| {
                        self.committed.check_offset(group, *partition, *offset)
                    });
                }
                let client = &mut self.clients[*client];
                let is_current = client.stage == Stage::Member && client.generation == *generation;
                // A commit that could not be written is made again with the next position.
                if is_current
                    && !matches!(error, ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator)
                {
                    client.take_error(error);
                }
                Ok(())
            }
            (Asked::Heartbeat { client, generation }, Response::Heartbeat(response)) => {
                let error = error(response.error_code);
                let client = &mut self.clients[*client];
                let is_current = client.stage == Stage::Member && client.generation == *generation;
                if is_current && !matches!(error, ErrorCode::None | ErrorCode::NotCoordinator) {
                    client.take_error(error);
                }
                Ok(())
            }
            (Asked::Leave, Response::LeaveGroup(_)) => Ok(()),
            (Asked::Delete { group }, Response::DeleteGroups(results)) => {
                if results[0].error_code == 0 && self.committed.deletions(group) == 0 {
                    return Err(format!("GROUP-1: {group} is deleted and the log does not say so"));
                }
                Ok(())
            }
            (asked, response) => Err(format!("ANSWERS: {asked:?} is answered with {response:?}")),
        }
    }

    // --- what must hold at any time ---------------------------------------------------------------------------

    /// The stable offset of a partition, −1 where there is none; nothing while one is on its way.
    fn fetch(&self, group: &str, partition: i32) -> Option<i64> {
        let request = OffsetFetchRequestGroup {
            group_id: group.to_owned(),
            topics: Some(vec![OffsetFetchRequestTopics {
                name: "t0".to_owned(),
                partition_indexes: vec![partition],
                ..Default::default()
            }]),
            ..Default::default()
        };
        let answer = self.coordinator.offset_fetch(8, &request, true, &TestTopics);
        let partition = &answer.topics[0].partitions[0];
        (partition.error_code == 0).then_some(partition.committed_offset)
    }

    fn check_offsets(&mut self) -> Result<(), String> {
        for group in &self.groups {
            let request =
                OffsetFetchRequestGroup { group_id: group.clone(), topics: None, ..Default::default() };
            let answer = self.coordinator.offset_fetch(8, &request, false, &TestTopics);
            let found = answer.topics.first().map_or(&[][..], |topic| &topic.partitions);
            for index in 0..i32::from(PARTITION_COUNT) {
                let partition = found.iter().find(|partition| partition.partition_index == index);
                let offset = partition.map_or(-1, |partition| partition.committed_offset);
                // A tombstone that was staged before may still delete what a client commits after it.
                if offset == -1 && self.committed.deletions(group) > 0 {
                    self.seen.forget(group);
                }
                self.seen.check(group, index, offset)?;
            }
        }
        Ok(())
    }

    /// Commits what is on its way, and compares with a coordinator that has read the log.
    fn check_replay(&mut self) -> Result<(), String> {
        self.commit(self.appended.len())?;
        while !self.appended.is_empty() {
            self.commit(self.appended.len())?;
        }
        let mut log = self.log.clone();
        if self.sabotage == Some(Sabotage::SkipReplayedRecord) {
            log.pop();
        }
        let mut replica = replayed(&log, &self.config, 0);
        drop(replica.loaded(self.now));
        let everything = |coordinator: &GroupCoordinator, group: &str| {
            let request =
                OffsetFetchRequestGroup { group_id: group.to_owned(), topics: None, ..Default::default() };
            coordinator.offset_fetch(8, &request, false, &TestTopics)
        };
        for group in self.groups.clone() {
            let (ours, theirs) = (everything(&self.coordinator, &group), everything(&replica, &group));
            if ours != theirs {
                return Err(format!("REPLAY: {group}: offsets {ours:?} are replayed as {theirs:?}"));
            }
            let ours = self.coordinator.describe_group(5, &group);
            let theirs = replica.describe_group(5, &group);
            if ours.group_state == "Stable" && ours != theirs {
                return Err(format!("REPLAY: {group} {ours:?} is replayed as {theirs:?}"));
            }
        }
        Ok(())
    }

    // --- the end ----------------------------------------------------------------------------------------------

    /// Ends the faults, gives everyone the time to find together, and checks that they have.
    pub(crate) fn heal_and_check(&mut self) -> Result<(), String> {
        self.faults = false;
        for client in &mut self.clients {
            client.away_until = MonotonicMs(0);
        }
        // Two rebalance timeouts and the sessions of members that are gone, in steps shorter than a session.
        for _ in 0..120 {
            for _ in 0..2 {
                for index in 0..self.clients.len() {
                    self.tick(index)?;
                }
                while !self.appended.is_empty() {
                    self.commit(self.appended.len())?;
                }
            }
            self.advance(1_000)?;
            self.check_offsets()?;
            if self.groups.iter().all(|group| self.check_group_is_whole(group).is_ok()) {
                break;
            }
        }
        while !self.appended.is_empty() {
            self.commit(self.appended.len())?;
        }
        for (id, asked) in &self.asked {
            let is_awaited = self.clients.iter().any(|client| client.awaits() == Some(*id));
            if !self.answers.contains_key(id) && !is_awaited {
                return Err(format!("ANSWERS: {id:?} is never answered: {asked:?}"));
            }
        }
        for group in self.groups.clone() {
            self.check_group_is_whole(&group)?;
        }
        self.check_replay()
    }

    fn check_group_is_whole(&self, group: &str) -> Result<(), String> {
        let of_group: Vec<&Client> = self.clients.iter().filter(|client| client.group == group).collect();
        let members: Vec<&&Client> = of_group.iter().filter(|client| client.stage == Stage::Member).collect();
        let expected = of_group.len().min(self.config.group_max_size);
        let state = self.coordinator.describe_group(5, group).group_state;
        if state != "Stable" || members.len() != expected {
            let stages: Vec<_> = of_group.iter().map(|client| &client.stage).collect();
            return Err(format!(
                "LIVENESS: {group} is {state} with {} of {expected} members: {stages:?}",
                members.len()
            ));
        }
        let mut owned: Vec<i32> =
            members.iter().flat_map(|client| client.positions.keys().copied()).collect();
        owned.sort_unstable();
        if owned != (0..i32::from(PARTITION_COUNT)).collect::<Vec<_>>() {
            return Err(format!("LIVENESS: {group}: partitions {owned:?} are owned"));
        }
        Ok(())
    }
}
