//! What a group may reach beside itself, and the writes that are on their way.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chronik_types::{ErrorCode, Now};

use crate::GroupConfig;
use crate::effects::{Completion, Effects, Record, Response, Waiter, Write, WriteId};
use crate::group::Member;
use crate::offsets::OffsetKey;
use crate::timers::{Timer, Timers};

/// What is to happen to a group once a write is decided.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The group exists from now on. `member_id` is the one whose `JoinGroup` made it.
    Created { group: Arc<str>, member_id: Option<Arc<str>> },
    /// The group has no members any more.
    Emptied { group: Arc<str> },
    /// The group is gone.
    Deleted { group: Arc<str> },
    /// The leader's assignment for a generation.
    Assigned { group: Arc<str>, generation: i32, assignments: BTreeMap<Arc<str>, Bytes> },
    /// A static member has a new id; `before` is what it was and `leader` who led the group then.
    Replaced { group: Arc<str>, generation: i32, new_id: Arc<str>, before: Box<Member>, leader: String },
}

/// A write that is neither committed nor failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct PendingWrite {
    /// Answers that are given once it is committed.
    pub(crate) held: Vec<Completion>,
    /// Slots in which it has staged a value.
    pub(crate) offsets: Vec<OffsetKey>,
    pub(crate) changes: Vec<Change>,
    /// What everyone is told who waits for it from now on: it has taken too long already.
    pub(crate) refusal: Option<ErrorCode>,
}

/// The writes of a shard that are on their way, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes {
    next: u64,
    pub(crate) pending: BTreeMap<WriteId, PendingWrite>,
}

/// The surroundings of a group during one call: the time, the settings, the timers, the log, the answers.
pub(crate) struct Env<'a> {
    pub(crate) now: Now,
    pub(crate) config: &'a GroupConfig,
    pub(crate) timers: &'a mut Timers,
    pub(crate) writes: &'a mut Writes,
    pub(crate) fx: &'a mut Effects,
}

impl Env<'_> {
    /// Sends records to the log; `changes` take place when they are committed.
    pub(crate) fn write(&mut self, records: Vec<Record>, changes: Vec<Change>) -> WriteId {
        let id = WriteId(self.writes.next);
        self.writes.next += 1;
        self.writes.pending.insert(id, PendingWrite { changes, ..PendingWrite::default() });
        let deadline = self.now.monotonic.plus_ms(self.config.offsets_commit_timeout_ms);
        self.timers.schedule(Timer::Write(id), deadline);
        self.fx.writes.push(Write { id, records });
        id
    }

    /// Gives an answer, once `write` is committed if there is one (GROUP-1).
    pub(crate) fn reply_after(&mut self, write: Option<WriteId>, waiter: Waiter, response: Response) {
        let answer = Completion { request_id: waiter.request_id, response };
        match write {
            Some(write) => self.hold(write, answer),
            None => self.fx.completions.push(answer),
        }
    }

    /// Keeps an answer until `write` is committed; one that is already decided keeps nothing. Nobody begins to wait for
    /// a write that others have waited for in vain.
    pub(crate) fn hold(&mut self, write: WriteId, answer: Completion) {
        let Some(pending) = self.writes.pending.get_mut(&write) else {
            self.fx.completions.push(answer);
            return;
        };
        match pending.refusal {
            None => pending.held.push(answer),
            Some(error) => {
                let response = answer.response.refused(error);
                self.fx.completions.push(Completion { response, ..answer });
            }
        }
    }

    /// Refuses every answer that waits for `pending`.
    pub(crate) fn refuse_held(&mut self, pending: &mut PendingWrite, error: ErrorCode) {
        for answer in pending.held.drain(..) {
            let response = answer.response.refused(error);
            self.fx.completions.push(Completion { response, ..answer });
        }
    }
}
