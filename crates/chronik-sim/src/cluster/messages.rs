//! What nodes and clients say to each other: connections, requests and their answers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_broker::{PeerError, Reply, ResponsePart};
use chronik_raft::MetadataLog as _;

use super::effects::{Duty, node_id};
use super::event::Event;
use super::network::{Answer, Asker, Endpoint, Pending, Port};
use super::sabotage::Sabotage;
use super::world::World;

/// How long a connection may take to open, as on the server.
const CONNECT_PATIENCE_MS: u64 = 2_000;
/// How often a node that waits for a peer's port tries it at the most.
pub(super) const RECONNECT_MS: u64 = 100;
/// How much later each further follower campaigns when the leader is gone, as the server does.
const CAMPAIGN_STAGGER_MS: u64 = 150;
/// The bytes of a frame's length.
pub(super) const LENGTH_BYTES: usize = 4;

impl World {
    pub(super) fn lose_peer(&mut self, at: usize, peer: usize) {
        self.up.set(at, peer, false);
        if let Some(process) = &self.nodes[at].process {
            process.handle.peer_unreachable(node_id(peer));
            self.effects.due(process.life, Duty::Raft, 0);
        }
        self.at(self.now_ms + 20, Event::PeerTried { at, peer });
    }

    /// A node connects to a peer's port for the metadata log, or learns that nobody is there.
    pub(super) fn try_peer(&mut self, at: usize, peer: usize) {
        let (here, there) = (Endpoint::Node(at), Endpoint::Node(peer));
        let Some(process) = &self.nodes[at].process else { return };
        if self.up.is_up(at, peer) && self.nodes[peer].process.is_some() {
            return;
        }
        let is_cut = self.network.is_blocked(self.now_ms, here, there)
            || self.network.is_blocked(self.now_ms, there, here)
            || self.nodes[peer].is_off;
        if self.nodes[peer].process.is_some() && !is_cut {
            self.up.set(at, peer, true);
            return;
        }
        if !is_cut {
            let (handle, life, id) = (process.handle.clone(), process.life, node_id(peer));
            let quorum = handle.quorum();
            if quorum.is_leader {
                handle.peer_gone(id);
                self.effects.due(life, Duty::Raft, 0);
            }
            if quorum.leader == Some(id) {
                let others = quorum.voters.iter().filter(|voter| **voter != id);
                let rank = others.take_while(|voter| **voter < node_id(at)).count();
                let wait_ms = CAMPAIGN_STAGGER_MS * u64::try_from(rank).unwrap_or(0);
                self.at(self.now_ms + wait_ms, Event::Campaign { at, peer });
            }
        }
        let pause_ms = 20 + self.rng.below(RECONNECT_MS * 3);
        self.at(self.now_ms + pause_ms, Event::PeerTried { at, peer });
    }

    pub(super) fn send_raft_message(&mut self, from: usize, to: usize, message: &chronik_raft::PeerMessage) {
        let (here, there) = (Endpoint::Node(from), Endpoint::Node(to));
        let plan = self.network.plan;
        let is_faulty = self.network.is_faulty;
        let is_cut = self.network.is_blocked(self.now_ms, here, there);
        // What is lost in a cut is most of it; the rest waits in the sender's system.
        let is_lost = is_faulty && self.rng.chance(plan.lost_percent) || is_cut && self.rng.chance(80);
        if is_lost {
            self.counts.messages.lost += 1;
            if message.is_snapshot
                && let Some(process) = &self.nodes[from].process
            {
                process.handle.snapshot_finished(node_id(to), false);
            }
            return;
        }
        let copies = if is_faulty && self.rng.chance(plan.doubled_percent) { 2_u64 } else { 1 };
        self.counts.messages.doubled += copies - 1;
        for _ in 0..copies {
            let mut at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, here, there);
            if is_faulty && self.rng.chance(plan.late_percent) {
                at_ms += 20 + self.rng.below(800);
                self.counts.messages.late += 1;
            }
            let mut bytes = message.bytes.clone();
            if let Some(sabotage) = self.sabotage {
                bytes = sabotage.raft_message(bytes, &mut self.rng);
            }
            self.at(at_ms, Event::Raft { from, to, bytes, is_snapshot: message.is_snapshot });
        }
    }

    pub(super) fn take_raft_message(&mut self, from: usize, to: usize, bytes: Bytes, is_snapshot: bool) {
        let arrived = self.nodes[to].process.as_ref();
        if let Some(process) = arrived {
            process.handle.receive(node_id(from), bytes);
            self.effects.due(process.life, Duty::Raft, 0);
        }
        if is_snapshot && let Some(sender) = &self.nodes[from].process {
            sender.handle.snapshot_finished(node_id(to), self.nodes[to].process.is_some());
            self.effects.due(sender.life, Duty::Raft, 0);
        }
    }

    /// Opens a connection; `None` where it is refused.
    pub(super) fn connect(&mut self, from: Endpoint, to: usize, port: Port) -> Option<u64> {
        let node = &self.nodes[to];
        let there = Endpoint::Node(to);
        let is_cut = self.network.is_blocked(self.now_ms, from, there)
            || self.network.is_blocked(self.now_ms, there, from)
            || node.is_off;
        let process = match port {
            Port::Kafka => node.serving(),
            Port::Raft => node.process.as_ref(),
        };
        let life = process.filter(|_| !is_cut).map(|process| process.life);
        if life.is_none() && !is_cut {
            return None;
        }
        Some(self.network.open(self.now_ms, from, to, port, life))
    }

    /// Sends a request over a connection; without one it fails soon.
    pub(super) fn send_request(&mut self, stream: Option<u64>, asker: Asker, frame: Bytes, patience_ms: u64) {
        let request = self.network.next_id();
        let Some(id) = stream else {
            self.network.pending.insert(request, Pending { stream: 0, asker });
            let pause_ms = 1 + self.rng.below(3);
            self.at(self.now_ms + pause_ms, Event::Refused { request });
            return;
        };
        self.network.pending.insert(request, Pending { stream: id, asker });
        let stream = self.network.streams.get(&id);
        let Some((from, to, up_at_ms)) = stream
            .filter(|stream| stream.life.is_some())
            .map(|stream| (stream.from, stream.to, stream.up_at_ms))
        else {
            self.at(self.now_ms + patience_ms.min(CONNECT_PATIENCE_MS), Event::Timeout { request });
            return;
        };
        self.at(self.now_ms + patience_ms, Event::Timeout { request });
        let stall_ms = self.network.stall_ms(&mut self.rng);
        let slow_ms = self.sabotage.map_or(0, Sabotage::delay_ms);
        let at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, from, Endpoint::Node(to));
        let at_ms = (at_ms + stall_ms + slow_ms).max(up_at_ms);
        if let Some(stream) = self.network.streams.get_mut(&id) {
            stream.up_at_ms = at_ms;
        }
        self.at(at_ms, Event::Request { stream: id, request, frame });
    }

    pub(super) fn take_request(&mut self, id: u64, request: u64, frame: &Bytes) {
        let Some(stream) = self.network.streams.get_mut(&id) else { return };
        let Some(life) = stream.life else { return };
        let node = &self.nodes[life.node];
        let Some(process) = node.process.as_ref().filter(|process| process.life == life) else {
            // Whoever comes too late finds the port closed, or the machine without memory of the connection.
            return;
        };
        if stream.port == Port::Raft && !process.handle.is_leader() {
            self.at(self.now_ms + 1, Event::Broken { stream: id });
            return;
        }
        stream.waiting.push_back((request, None));
        let connection = Arc::clone(&stream.server);
        self.counts.messages.late_requests += u64::from(!self.network.pending.contains_key(&request));
        self.network.served.insert(request, id);
        let now = chronik_broker::Clock::now(&node.clock);
        let body = BytesMut::from(frame.get(LENGTH_BYTES..).unwrap_or_default());
        process.broker.handle(now, &connection, body, self.effects.responder(request));
    }

    pub(super) fn take_reply(&mut self, request: u64, reply: Reply) {
        let Some(id) = self.network.served.remove(&request) else { return };
        let Some(stream) = self.network.streams.get_mut(&id) else { return };
        let Some(process) = stream
            .life
            .and_then(|life| self.nodes[life.node].process.as_ref().filter(|process| process.life == life))
        else {
            return;
        };
        let frame = match reply {
            Reply::Response(response) => joined(&response.parts),
            Reply::Nothing => Some(Bytes::new()),
            Reply::Close(reason) => {
                self.trace.note(format_args!("{} connection {id} is closed: {reason}", self.now_ms));
                None
            }
        };
        let answer = frame.map(|frame| Answer { frame, image: process.handle.image(), node: stream.to });
        if let Some(slot) = stream.waiting.iter_mut().find(|(waiting, _)| *waiting == request) {
            slot.1 = Some(answer);
        }
        let (from, to) = (stream.from, stream.to);
        while let Some((request, answer)) =
            self.network.streams.get_mut(&id).and_then(|stream| match stream.waiting.front() {
                Some((_, Some(_))) => stream.waiting.pop_front(),
                Some((_, None)) | None => None,
            })
        {
            let at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, Endpoint::Node(to), from);
            let Some(stream) = self.network.streams.get_mut(&id) else { return };
            let at_ms = at_ms.max(stream.down_at_ms);
            stream.down_at_ms = at_ms;
            match answer.flatten() {
                Some(answer) => self.at(at_ms, Event::Response { stream: id, request, answer }),
                None => self.at(at_ms, Event::Broken { stream: id }),
            }
        }
    }

    /// The asker's end of a connection closes: whoever waits for an answer on it has none. What was sent may still
    /// arrive.
    pub(super) fn close(&mut self, id: u64) {
        let Some(stream) = self.network.streams.get(&id) else { return };
        let (from, to, up_at_ms) = (stream.from, stream.to, stream.up_at_ms);
        let at_ms = self.network.arrival_ms(&mut self.rng, self.now_ms, from, Endpoint::Node(to));
        self.at(at_ms.max(up_at_ms), Event::Closed { stream: id });
        for asker in self.network.give_up(id) {
            self.answered(asker, None);
        }
    }

    pub(super) fn answered(&mut self, asker: Asker, answer: Option<Answer>) {
        match asker {
            Asker::Client { client, token } => {
                self.with_client(client, |client, context| client.answered(context, token, answer));
            }
            Asker::Follower { life, to, lane, done } => {
                if self.process(Some(life)).is_none() {
                    return;
                }
                if answer.is_none() {
                    self.network.follower_streams.remove(&(life.node, to, lane));
                }
                let frame = answer.map(|answer| answer.frame.slice(LENGTH_BYTES.min(answer.frame.len())..));
                let frame = match self.sabotage {
                    Some(sabotage) => frame.map(|frame| sabotage.follower_answer(frame, &mut self.rng)),
                    None => frame,
                };
                done(frame.ok_or_else(|| PeerError("the connection has ended".to_owned())));
            }
            Asker::Node { life, done } => {
                if self.process(Some(life)).is_some() {
                    done(answer.map(|answer| answer.frame));
                }
            }
        }
    }
}

/// All parts of a response, read from disk where they lie there.
fn joined(parts: &[ResponsePart]) -> Option<Bytes> {
    if let [ResponsePart::Bytes(only)] = parts {
        return Some(only.clone());
    }
    let mut whole = BytesMut::new();
    for part in parts {
        match part {
            ResponsePart::Bytes(bytes) => whole.extend_from_slice(bytes),
            ResponsePart::File { file, position, len_bytes } => {
                let mut region = vec![0; usize::try_from(*len_bytes).ok()?];
                // A region that cannot be read closes the connection, as it does on the server.
                let read = file.read_at(&mut region, *position).ok()?;
                if read < region.len() {
                    return None;
                }
                whole.extend_from_slice(&region);
            }
        }
    }
    Some(whole.freeze())
}
