//! The broker around the coordinator: its log, whose appends fail, and the change of coordinators.

use chronik_coordinator::{Effects, GroupCoordinator, Record, WriteId};
use chronik_types::ErrorCode;

use super::world::{Sabotage, World};

/// What an append fails with.
const APPEND_ERRORS: [ErrorCode; 3] =
    [ErrorCode::NotEnoughReplicas, ErrorCode::KafkaStorageError, ErrorCode::NotLeaderOrFollower];

/// Whether the record says that a group is no more.
fn is_group_tombstone(record: &Record) -> bool {
    record.value.is_none() && record.key.starts_with(&[0, 2])
}

impl World {
    pub(super) fn carry_out(&mut self, effects: Effects) -> Result<(), String> {
        for completion in effects.completions {
            self.answer(completion)?;
        }
        for write in effects.writes {
            let id = write.id;
            if self.faults && self.rng.chance(4) {
                let error = APPEND_ERRORS[self.rng.index(APPEND_ERRORS.len())];
                self.trace.note(format_args!("write {} fails: {error}", id.0));
                let effects = self.coordinator.failed(self.clock.now(), id, error);
                self.carry_out(effects)?;
                continue;
            }
            self.trace.note(format_args!("write {} of {} records", id.0, write.records.len()));
            self.appended.push_back(write);
            if self.sabotage == Some(Sabotage::ReplyBeforeCommit) {
                let effects = self.coordinator.committed(self.clock.now(), id);
                self.carry_out(effects)?;
            }
        }
        Ok(())
    }

    /// Commits the first `count` writes that are appended: all at once, but for those that end a group. What is told of
    /// the group's life before such a write must not be taken for its next.
    pub(super) fn commit(&mut self, count: usize) -> Result<(), String> {
        let mut last = None;
        for write in self.appended.drain(..count).collect::<Vec<_>>() {
            let ends_group = write.records.iter().any(is_group_tombstone);
            if ends_group {
                self.tell_committed(last.take())?;
            }
            self.keep(write.records);
            last = Some(write.id);
            if ends_group {
                self.tell_committed(last.take())?;
            }
        }
        self.tell_committed(last)
    }

    fn tell_committed(&mut self, up_to: Option<WriteId>) -> Result<(), String> {
        let Some(up_to) = up_to else { return Ok(()) };
        self.trace.note(format_args!("writes up to {} are committed", up_to.0));
        let effects = self.coordinator.committed(self.clock.now(), up_to);
        self.carry_out(effects)
    }

    /// Commits everything that is appended, and what follows from that.
    pub(super) fn commit_all(&mut self) -> Result<(), String> {
        while !self.appended.is_empty() {
            self.commit(self.appended.len())?;
        }
        Ok(())
    }

    fn keep(&mut self, records: Vec<Record>) {
        for record in records {
            self.committed.add(&record);
            self.log.push(record);
        }
    }

    /// Another coordinator takes over. What was appended survives up to some point, whether it was committed or not.
    /// One that is deposed sends everyone away; one that crashes says nothing, and every connection to it breaks.
    pub(super) fn fail_over(&mut self, crashes: bool) -> Result<(), String> {
        if crashes {
            for client in &mut self.clients {
                if client.awaits().is_some_and(|id| !self.answers.contains_key(&id)) {
                    client.rejoin();
                }
            }
            self.asked.retain(|id, _| self.answers.contains_key(id));
        } else {
            let effects = self.coordinator.unload();
            self.carry_out(effects)?;
        }
        let survives = self.rng.index(self.appended.len() + 1);
        let how = if crashes { "crashes" } else { "is deposed" };
        let appended = self.appended.len();
        self.trace.note(format_args!("the coordinator {how}; {survives} of {appended} writes survive"));
        for write in self.appended.drain(..).take(survives).collect::<Vec<_>>() {
            self.keep(write.records);
        }
        self.appended.clear();
        if self.sabotage == Some(Sabotage::LoseCommittedOffsets) {
            let offset = self.log.iter().rposition(|record| record.key[1] == 1);
            offset.map(|at| self.log.remove(at));
        }
        self.incarnation += 1;
        self.coordinator = self.replayed(&self.log, self.incarnation)?;
        let effects = self.coordinator.loaded(self.clock.now());
        self.carry_out(effects)
    }

    /// The coordinator that `log` makes, not yet serving.
    pub(super) fn replayed(&self, log: &[Record], seed: u64) -> Result<GroupCoordinator, String> {
        // A coordinator that shared its seed with an earlier one would give out the same member ids.
        let mut coordinator = GroupCoordinator::new(self.config.clone(), seed.wrapping_add(1_000_003));
        for record in log {
            coordinator
                .replay(&record.key, record.value.as_ref())
                .map_err(|error| format!("REPLAY: the coordinator wrote what it cannot read: {error}"))?;
        }
        Ok(coordinator)
    }
}
