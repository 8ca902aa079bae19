//! What must hold at any time, and what must come about once the faults have ended.

use chronik_coordinator::GroupCoordinator;
use chronik_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use chronik_protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use chronik_types::MonotonicMs;

use super::client::{Client, Stage};
use super::requests::OneTopic;
use super::world::{PARTITION_COUNT, Sabotage, World};

/// How many seconds a group may need to find together: two rebalance timeouts and the sessions of members that are
/// gone.
const SECONDS_MAX: u32 = 120;

fn all_offsets(coordinator: &GroupCoordinator, api_version: i16, group: &str) -> OffsetFetchResponseGroup {
    let request = OffsetFetchRequestGroup { group_id: group.to_owned(), topics: None, ..Default::default() };
    coordinator.offset_fetch(api_version, &request, false, &OneTopic)
}

impl World {
    pub(super) fn check_offsets(&mut self) -> Result<(), String> {
        let api_version = self.rng.version(2, 10);
        for group in &self.groups {
            let answer = all_offsets(&self.coordinator, api_version, group);
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
    pub(super) fn check_replay(&mut self) -> Result<(), String> {
        self.commit_all()?;
        let mut log = self.log.clone();
        if self.sabotage == Some(Sabotage::SkipReplayedRecord) {
            log.pop();
        }
        let mut replica = self.replayed(&log, 0)?;
        drop(replica.loaded(self.clock.now()));
        for group in &self.groups {
            let (ours, theirs) = (all_offsets(&self.coordinator, 8, group), all_offsets(&replica, 8, group));
            if ours != theirs {
                return Err(format!("REPLAY: {group}: offsets {ours:?} are replayed as {theirs:?}"));
            }
            let ours = self.coordinator.describe_group(5, group);
            let theirs = replica.describe_group(5, group);
            if ours.group_state == "Stable" && ours != theirs {
                return Err(format!("REPLAY: {group} {ours:?} is replayed as {theirs:?}"));
            }
        }
        Ok(())
    }

    /// Ends the faults, gives everyone the time to find together, and checks that they have.
    pub(super) fn heal_and_check(&mut self) -> Result<(), String> {
        self.faults = false;
        self.trace.note(format_args!("the faults end"));
        for client in &mut self.clients {
            client.away_until = MonotonicMs(0);
        }
        for _ in 0..SECONDS_MAX {
            for _ in 0..2 {
                for index in 0..self.clients.len() {
                    self.tick(index)?;
                }
                self.commit_all()?;
            }
            self.advance(1_000)?;
            self.check_offsets()?;
            if self.groups.iter().all(|group| self.check_group_is_whole(group).is_ok()) {
                break;
            }
        }
        self.commit_all()?;
        for (id, (_, asked)) in &self.asked {
            let is_awaited = self.clients.iter().any(|client| client.awaits() == Some(*id));
            if !self.answers.contains_key(id) && !is_awaited {
                return Err(format!("ANSWERS: {id:?} is never answered: {asked:?}"));
            }
        }
        for group in &self.groups {
            self.check_group_is_whole(group)?;
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
