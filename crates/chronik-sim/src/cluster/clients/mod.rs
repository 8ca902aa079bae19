//! Clients that speak Kafka's protocol to the brokers, and hold what they are told against what they know.

mod admin;
mod committer;
mod consumer;
mod member;
mod producer;
mod routing;

use bytes::Bytes;
use chronik_protocol::frame::{decode_response, encode_request};
use chronik_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse, Message};

use super::checkers::Checkers;
use super::counts::Counts;
use super::network::Answer;
use super::plan::Plan;
use super::sabotage::Sabotage;
use crate::rng::Rng;
use crate::trace::Trace;

pub(super) use admin::Admin;
pub(super) use committer::Committer;
pub(super) use consumer::Consumer;
pub(super) use member::{GROUP, Member, OWNED_PARTITIONS, SESSION_TIMEOUT_MS};
pub(super) use producer::Producer;

/// How long a client waits for an answer before it closes the connection.
const PATIENCE_MS: u64 = 1_500;
/// The version in which members and committers ask for their coordinator.
const FIND_VERSION: i16 = 4;

/// What a client wants of the world.
pub(super) enum Action {
    /// Sends a request to a node, over the one connection that leads there.
    Call { node: usize, frame: Bytes, token: u64, patience_ms: u64 },
    /// Acts again at this time.
    Wake { at_ms: u64 },
}

/// What a client acts with.
pub(super) struct Context<'a> {
    pub(super) now_ms: u64,
    pub(super) node_count: usize,
    pub(super) rng: &'a mut Rng,
    pub(super) checkers: &'a mut Checkers,
    pub(super) trace: &'a mut Trace,
    pub(super) counts: &'a mut Counts,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) actions: &'a mut Vec<Action>,
}

impl Context<'_> {
    /// Sends a request; its answer comes with the token.
    pub(super) fn call<M: Message>(&mut self, node: usize, version: i16, request: &M, token: u64) {
        self.call_patiently(node, version, request, token, PATIENCE_MS);
    }

    pub(super) fn call_patiently<M: Message>(
        &mut self,
        node: usize,
        version: i16,
        request: &M,
        token: u64,
        patience_ms: u64,
    ) {
        let correlation_id = i32::try_from(token & 0x7fff_ffff).unwrap_or(0);
        match encode_request(correlation_id, Some("simulated"), request, version) {
            Ok(frame) => self.actions.push(Action::Call { node, frame, token, patience_ms }),
            Err(error) => self.checkers.defect(&format!("{} v{version} cannot be written: {error}", M::NAME)),
        }
    }

    pub(super) fn wake_in(&mut self, pause_ms: u64) {
        self.actions.push(Action::Wake { at_ms: self.now_ms + pause_ms });
    }

    /// Reads an answer; `None` where there is none.
    pub(super) fn read<M: Message>(&mut self, answer: Option<&Answer>, version: i16) -> Option<M> {
        match decode_response::<M>(&answer?.frame.slice(4.min(answer?.frame.len())..), version) {
            Ok((_, message)) => Some(message),
            Err(error) => {
                self.checkers.defect(&format!("{} v{version} cannot be read: {error}", M::NAME));
                None
            }
        }
    }

    /// Which error a client is told of.
    pub(super) fn told_error(&mut self, code: i16) -> i16 {
        self.sabotage.map_or(code, |sabotage| sabotage.told_error(code, self.rng))
    }

    /// Asks some node which one coordinates a group.
    pub(super) fn find_coordinator(&mut self, group: &str, token: u64) {
        let request = FindCoordinatorRequest {
            coordinator_keys: vec![group.to_owned()],
            ..FindCoordinatorRequest::default()
        };
        let node = self.any_node();
        self.call(node, FIND_VERSION, &request, token);
    }

    /// What that node has said.
    pub(super) fn coordinator_found(&mut self, answer: Option<&Answer>) -> Option<usize> {
        let response = self.read::<FindCoordinatorResponse>(answer, FIND_VERSION)?;
        let found = response.coordinators.first().filter(|found| found.error_code == 0)?;
        usize::try_from(found.node_id - 1).ok()
    }

    pub(super) fn any_node(&mut self) -> usize {
        self.rng.index(self.node_count)
    }
}

/// One client.
pub(super) enum Client {
    Admin(Admin),
    Producer(Producer),
    Consumer(Consumer),
    Committer(Committer),
    Member(Member),
}

impl Client {
    /// The clients of a history, the admin first.
    pub(super) fn all(plan: &Plan, sabotage: Option<Sabotage>) -> Vec<Self> {
        let mut clients = vec![Self::Admin(Admin::new(plan))];
        for number in 0..plan.producer_count {
            clients.push(Self::Producer(Producer::new(number, plan, true, sabotage)));
        }
        // One that is content with the leader's word.
        clients.push(Self::Producer(Producer::new(plan.producer_count, plan, false, sabotage)));
        for _ in 0..plan.consumer_count {
            clients.push(Self::Consumer(Consumer::new(plan, false)));
        }
        clients.push(Self::Consumer(Consumer::new(plan, true)));
        for number in 0..plan.group_count {
            clients.push(Self::Committer(Committer::new(number, plan)));
        }
        for _ in 0..plan.member_count {
            clients.push(Self::Member(Member::new(plan.produce_pause_ms)));
        }
        clients
    }

    pub(super) fn wake(&mut self, context: &mut Context<'_>) {
        match self {
            Self::Admin(admin) => admin.wake(context),
            Self::Producer(producer) => producer.wake(context),
            Self::Consumer(consumer) => consumer.wake(context),
            Self::Committer(committer) => committer.wake(context),
            Self::Member(member) => member.wake(context),
        }
    }

    /// A request is answered, or never will be.
    pub(super) fn answered(&mut self, context: &mut Context<'_>, token: u64, answer: Option<Answer>) {
        let answer = answer.as_ref();
        match self {
            Self::Admin(admin) => admin.answered(context, token, answer),
            Self::Producer(producer) => producer.answered(context, token, answer),
            Self::Consumer(consumer) => consumer.answered(context, token, answer),
            Self::Committer(committer) => committer.answered(context, token, answer),
            Self::Member(member) => member.answered(context, token, answer),
        }
    }

    /// Nothing new is begun from now on; what is under way comes to its end.
    pub(super) fn finish(&mut self) {
        match self {
            Self::Admin(admin) => admin.finish(),
            Self::Producer(producer) => producer.finish(),
            Self::Consumer(consumer) => consumer.finish(),
            Self::Committer(committer) => committer.finish(),
            Self::Member(member) => member.finish(),
        }
    }
}
