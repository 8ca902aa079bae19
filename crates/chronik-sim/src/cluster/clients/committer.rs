//! A consumer's other half: it commits ever larger offsets to its group, and asks what is committed.
//!
//! It is the only one of its group and commits without membership, so that what it is told must be the last that was
//! acknowledged to it, or one whose fate it does not know: a request that was late may take effect at any time.

use std::collections::BTreeSet;

use chronik_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use chronik_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
};
use chronik_types::ErrorCode;

use super::Context;
use crate::cluster::checkers::Rule;
use crate::cluster::network::Answer;
use crate::cluster::plan::Plan;
use crate::cluster::sabotage::Sabotage;

const COMMIT_VERSION: i16 = 8;
const FETCH_VERSION: i16 = 8;
/// A topic that is never deleted: its offsets would go with it.
const TOPIC: &str = "kept";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Coordinator,
    Commit(i64),
    Fetch,
}

pub(in crate::cluster) struct Committer {
    group: String,
    pause_ms: u64,
    coordinator: Option<usize>,
    under_way: Option<(u64, Asked)>,
    next_token: u64,
    next_offset: i64,
    /// The last offset that was acknowledged.
    acknowledged: Option<i64>,
    /// Offsets whose fate is not known.
    unknown: BTreeSet<i64>,
    /// A commit was acknowledged, so that its topic is there.
    knows_topic: bool,
    is_finishing: bool,
    /// What was committed last was read back after everything was mended.
    is_confirmed: bool,
}

impl Committer {
    pub(super) fn new(number: usize, plan: &Plan) -> Self {
        Self {
            group: format!("g{number}"),
            pause_ms: plan.produce_pause_ms,
            coordinator: None,
            under_way: None,
            next_token: 1,
            next_offset: 1,
            acknowledged: None,
            unknown: BTreeSet::new(),
            knows_topic: false,
            is_finishing: false,
            is_confirmed: false,
        }
    }

    pub(super) fn finish(&mut self) {
        self.is_finishing = true;
    }

    pub(in crate::cluster) fn is_idle(&self) -> bool {
        self.is_finishing && self.is_confirmed
    }

    pub(super) fn wake(&mut self, context: &mut Context<'_>) {
        if self.under_way.is_none() && !self.is_idle() {
            self.act(context);
        }
        if !self.is_idle() {
            let pause_ms = 5 + context.rng.below(self.pause_ms * 3);
            context.wake_in(pause_ms);
        }
    }

    fn act(&mut self, context: &mut Context<'_>) {
        let token = self.next_token;
        self.next_token += 1;
        let Some(coordinator) = self.coordinator else {
            context.find_coordinator(&self.group, token);
            self.under_way = Some((token, Asked::Coordinator));
            return;
        };
        if self.is_finishing || context.rng.chance(30) {
            let request = OffsetFetchRequest {
                groups: vec![OffsetFetchRequestGroup {
                    group_id: self.group.clone(),
                    topics: Some(vec![OffsetFetchRequestTopics {
                        name: TOPIC.to_owned(),
                        partition_indexes: vec![0],
                        ..OffsetFetchRequestTopics::default()
                    }]),
                    ..OffsetFetchRequestGroup::default()
                }],
                require_stable: true,
                ..OffsetFetchRequest::default()
            };
            context.call(coordinator, FETCH_VERSION, &request, token);
            self.under_way = Some((token, Asked::Fetch));
            return;
        }
        let offset = self.next_offset;
        self.next_offset += 1;
        let request = OffsetCommitRequest {
            group_id: self.group.clone(),
            generation_id_or_member_epoch: -1,
            topics: vec![OffsetCommitRequestTopic {
                name: TOPIC.to_owned(),
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: 0,
                    committed_offset: offset,
                    ..OffsetCommitRequestPartition::default()
                }],
                ..OffsetCommitRequestTopic::default()
            }],
            ..OffsetCommitRequest::default()
        };
        self.unknown.insert(offset);
        // Coordinators hold a commit for up to five seconds.
        context.call_patiently(coordinator, COMMIT_VERSION, &request, token, 2_500);
        self.under_way = Some((token, Asked::Commit(offset)));
    }

    pub(super) fn answered(&mut self, context: &mut Context<'_>, token: u64, answer: Option<&Answer>) {
        let Some((_, asked)) = self.under_way.take_if(|(under_way, _)| *under_way == token) else { return };
        if answer.is_none() {
            self.coordinator = None;
            return;
        }
        match asked {
            Asked::Coordinator => self.coordinator = context.coordinator_found(answer),
            Asked::Commit(offset) => {
                let response = context.read::<OffsetCommitResponse>(answer, COMMIT_VERSION);
                let part = response.as_ref().and_then(|response| response.topics.first()?.partitions.first());
                let code = part.map(|part| context.told_error(part.error_code));
                match code.map(ErrorCode::from_code) {
                    Some(Some(ErrorCode::None)) => {
                        self.knows_topic = true;
                        context
                            .trace
                            .note(format_args!("{} {} committed {offset}", context.now_ms, self.group));
                        self.acknowledged = Some(offset);
                        self.unknown.remove(&offset);
                    }
                    error => {
                        context.trace.note(format_args!(
                            "{} {} commit of {offset}: {error:?}",
                            context.now_ms, self.group
                        ));
                        self.take_error(context, code.unwrap_or(0));
                    }
                }
            }
            Asked::Fetch => self.take_committed(context, answer),
        }
    }

    /// It looks for its coordinator again, whatever has gone wrong.
    fn take_error(&mut self, context: &mut Context<'_>, code: i16) {
        self.coordinator = None;
        match ErrorCode::from_code(code) {
            Some(
                ErrorCode::NotCoordinator
                | ErrorCode::CoordinatorNotAvailable
                | ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::UnstableOffsetCommit,
            ) => {}
            // The admin has not made the topic yet.
            Some(ErrorCode::UnknownTopicOrPartition) if !self.knows_topic => {}
            // A client tells its application of others.
            _ => {
                let text = format!("the committer of {} is answered {code}", self.group);
                context.checkers.report(Rule::Errors, text);
            }
        }
    }

    fn take_committed(&mut self, context: &mut Context<'_>, answer: Option<&Answer>) {
        let Some(response) = context.read::<OffsetFetchResponse>(answer, FETCH_VERSION) else { return };
        let group = response.groups.first();
        let part = group.and_then(|group| group.topics.first()?.partitions.first());
        let group_code = group.map_or(0, |group| group.error_code);
        let code = if group_code == 0 { part.map_or(0, |part| part.error_code) } else { group_code };
        let Some(part) = part.filter(|_| code == 0) else {
            self.take_error(context, code);
            return;
        };
        let mut committed = part.committed_offset;
        if context.sabotage == Some(Sabotage::ForgetCommits) && committed > 3 {
            committed -= 3;
        }
        let is_last = committed == self.acknowledged.unwrap_or(-1);
        if !is_last && !self.unknown.contains(&committed) {
            let text = format!(
                "group {} has committed {:?}, and is told {committed}",
                self.group, self.acknowledged
            );
            context.checkers.report(Rule::Commits, text);
        }
        self.is_confirmed = self.is_finishing;
    }
}
