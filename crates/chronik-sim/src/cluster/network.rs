//! The network: who reaches whom, how long messages take, and the connections that requests go over.
//!
//! A connection keeps its messages in order. Where its two ends do not reach each other, what is on its way waits, as
//! TCP would send it again: a request may so arrive long after its client has given it up and asked again on another
//! connection. A client that waits in vain closes the connection.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use chronik_broker::{Answered, Connection, ConnectionId, Lane, PeerAnswer};
use chronik_raft::metadata::MetadataImage;

use super::effects::Life;
use super::plan::NetworkPlan;
use crate::rng::Rng;

/// One end of a way through the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Endpoint {
    Node(usize),
    Client(usize),
}

/// Which of a node's ports a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// Clients and followers.
    Kafka,
    /// Requests that another node passes on.
    Raft,
}

/// Who hears the answer to a request.
pub(super) enum Asker {
    Client { client: usize, token: u64 },
    Follower { life: Life, to: usize, lane: Lane, done: PeerAnswer },
    Node { life: Life, done: Answered },
}

/// A request that its asker waits for.
pub(super) struct Pending {
    pub(super) stream: u64,
    pub(super) asker: Asker,
}

/// An answer, and the image that its node had when it gave it.
#[derive(Clone)]
pub(super) struct Answer {
    /// The frame with its length; empty where a request has no answer.
    pub(super) frame: Bytes,
    pub(super) image: Arc<MetadataImage>,
    pub(super) node: usize,
}

/// A connection.
pub(super) struct Stream {
    pub(super) from: Endpoint,
    pub(super) to: usize,
    pub(super) port: Port,
    /// The process at the other end; `None` where the connection never opened.
    pub(super) life: Option<Life>,
    pub(super) server: Arc<Connection>,
    /// Nothing overtakes what was sent before, in either direction.
    pub(super) up_at_ms: u64,
    pub(super) down_at_ms: u64,
    /// Requests at the server, in their order, and the answers of those that have one already.
    pub(super) waiting: VecDeque<(u64, Option<Option<Answer>>)>,
}

/// All of it.
pub(super) struct Network {
    pub(super) plan: NetworkPlan,
    /// Whether anything may go wrong.
    pub(super) is_faulty: bool,
    node_count: usize,
    /// Until when nothing gets from one end to another.
    blocked_until_ms: Vec<Vec<u64>>,
    pub(super) streams: BTreeMap<u64, Stream>,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// The stream of each request that its server has and has not answered.
    pub(super) served: BTreeMap<u64, u64>,
    pub(super) client_streams: BTreeMap<(usize, usize), u64>,
    pub(super) follower_streams: BTreeMap<(usize, usize, Lane), u64>,
    next_id: u64,
}

/// A cut that only healing ends.
pub(super) const FOR_EVER_MS: u64 = u64::MAX / 2;

impl Network {
    pub(super) fn new(plan: NetworkPlan, node_count: usize, client_count: usize) -> Self {
        let end_count = node_count + client_count;
        Self {
            plan,
            is_faulty: false,
            node_count,
            blocked_until_ms: vec![vec![0; end_count]; end_count],
            streams: BTreeMap::new(),
            pending: BTreeMap::new(),
            served: BTreeMap::new(),
            client_streams: BTreeMap::new(),
            follower_streams: BTreeMap::new(),
            next_id: 1,
        }
    }

    fn index(&self, end: Endpoint) -> usize {
        match end {
            Endpoint::Node(node) => node,
            Endpoint::Client(client) => self.node_count + client,
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Lets nothing get from one end to another for a while.
    pub(super) fn block(&mut self, from: Endpoint, to: Endpoint, until_ms: u64) {
        let (from, to) = (self.index(from), self.index(to));
        let until = &mut self.blocked_until_ms[from][to];
        *until = until_ms.max(*until);
    }

    /// Everybody reaches everybody.
    pub(super) fn heal(&mut self) {
        self.blocked_until_ms.iter_mut().for_each(|row| row.fill(0));
        self.is_faulty = false;
    }

    pub(super) fn blocked_until_ms(&self, from: Endpoint, to: Endpoint) -> u64 {
        self.blocked_until_ms[self.index(from)][self.index(to)]
    }

    pub(super) fn is_blocked(&self, now_ms: u64, from: Endpoint, to: Endpoint) -> bool {
        now_ms < self.blocked_until_ms(from, to)
    }

    /// When what is sent now arrives, on a connection where it waits for its way to be free.
    pub(super) fn arrival_ms(&self, rng: &mut Rng, now_ms: u64, from: Endpoint, to: Endpoint) -> u64 {
        let delay_ms = if rng.chance(90) { rng.below(self.plan.delay_ms_max) } else { rng.below(30) };
        now_ms.max(self.blocked_until_ms(from, to).min(FOR_EVER_MS)) + delay_ms
    }

    /// How long a request holds up its connection.
    pub(super) fn stall_ms(&self, rng: &mut Rng) -> u64 {
        let strikes = self.is_faulty && rng.below(1_000) < self.plan.stalled_per_mille;
        if strikes { 300 + rng.below(4_000) } else { 0 }
    }

    /// A connection to a process, or to nobody.
    pub(super) fn open(
        &mut self,
        now_ms: u64,
        from: Endpoint,
        to: usize,
        port: Port,
        life: Option<Life>,
    ) -> u64 {
        let id = self.next_id();
        let address = |last: usize, port| {
            let last = u8::try_from(last).unwrap_or(u8::MAX);
            SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port)
        };
        let peer = address(self.index(from).saturating_add(1), 40_000);
        let server = Arc::new(Connection::new(ConnectionId(id), address(to.saturating_add(1), 9_092), peer));
        let stream = Stream {
            from,
            to,
            port,
            life,
            server,
            up_at_ms: now_ms,
            down_at_ms: now_ms,
            waiting: VecDeque::new(),
        };
        self.streams.insert(id, stream);
        id
    }

    /// The requests that wait for an answer on a connection; they are nobody's any more.
    pub(super) fn give_up(&mut self, stream: u64) -> Vec<Asker> {
        let ids: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.stream == stream).map(|(id, _)| *id).collect();
        self.client_streams.retain(|_, known| *known != stream);
        self.follower_streams.retain(|_, known| *known != stream);
        ids.into_iter().filter_map(|id| Some(self.pending.remove(&id)?.asker)).collect()
    }

    /// The connections that lead to a process.
    pub(super) fn streams_to(&self, life: Life) -> Vec<u64> {
        self.streams.iter().filter(|(_, stream)| stream.life == Some(life)).map(|(id, _)| *id).collect()
    }

    /// The connections that a node has opened.
    pub(super) fn streams_of(&self, from: Endpoint) -> Vec<u64> {
        self.streams.iter().filter(|(_, stream)| stream.from == from).map(|(id, _)| *id).collect()
    }
}
