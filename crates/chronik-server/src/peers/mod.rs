//! How nodes of a cluster reach each other: the messages of the metadata log over TCP.
//!
//! Each node listens on its Raft port and keeps one outgoing connection to every peer; what it receives comes in on
//! the connections of the others. Snapshots go on connections of their own, so that heartbeats never wait behind
//! them. The tasks run on threads of their own, which write no records and so never wait for a disk; the Raft thread
//! puts messages into queues and is handed what arrives, and waits for neither.
//!
//! A connection that closes is tried again at once. If that is refused, the process at the other end is gone: a
//! follower of it need not wait for its election timeout, and a leader can fence it.

mod frame;
mod handshake;
mod incoming;
mod link;
mod outgoing;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chronik_raft::{Dropped, MetadataLog as _, PeerMessage, RaftHandle, Transport};
use chronik_types::{BrokerEpoch, NodeId};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::config::Peers;
use crate::net::{Service, canonical};
use handshake::{Refusal, Stream};
use link::Link;

/// After a peer has refused this node, how long others have to agree with it, in milliseconds. A node that a majority
/// agrees with is right, and goes on.
const DISAGREEMENT_GRACE_MS: u64 = 1_000;

/// How long the first of the followers waits with an election when the leader is gone, in milliseconds. The others hold
/// their votes back until they too have found out that it is, which takes them as long as it took this one.
const CAMPAIGN_DELAY_MS: u64 = 30;

/// The queues to all peers. They exist before the Raft thread does, which sends into them.
#[derive(Clone, Debug)]
pub struct PeerLinks {
    own_id: NodeId,
    links: Arc<BTreeMap<NodeId, Arc<Link>>>,
}

impl PeerLinks {
    /// Queues to all nodes of the list other than `own_id`.
    pub fn new(peers: &Peers, own_id: NodeId) -> Self {
        let others = peers.as_slice().iter().filter(|peer| peer.id != own_id);
        let links = others.map(|peer| (peer.id, Arc::new(Link::new(peer.clone())))).collect();
        Self { own_id, links: Arc::new(links) }
    }

    /// What the Raft thread sends through.
    pub fn transport(&self) -> PeerTransport {
        PeerTransport(Arc::clone(&self.links))
    }
}

/// The Raft thread's end of the queues.
#[derive(Debug)]
pub struct PeerTransport(Arc<BTreeMap<NodeId, Arc<Link>>>);

impl Transport for PeerTransport {
    fn send(&mut self, to: NodeId, message: PeerMessage) -> Result<(), Dropped> {
        self.0.get(&to).ok_or(Dropped)?.send(message)
    }
}

/// The connections to and from all peers.
pub struct PeerNetwork {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    disagreed: watch::Receiver<Option<String>>,
}

/// What the tasks share.
struct Shared {
    own_id: NodeId,
    /// The list of peers in its one form; all nodes must have the same.
    peers: String,
    node_count: usize,
    links: Arc<BTreeMap<NodeId, Arc<Link>>>,
    raft: RaftHandle,
    /// The newest incoming connection of each peer and kind; notified when a newer one takes its place.
    incoming: Mutex<BTreeMap<(NodeId, Stream), Arc<Notify>>>,
    /// How many connections each peer's messages are being read from.
    receiving: Mutex<BTreeMap<NodeId, isize>>,
    /// Peers that have agreed to speak with this node.
    agreed: Mutex<BTreeSet<NodeId>>,
    /// What peers have said when they refused, so that each is logged once.
    refusals: Mutex<BTreeSet<(NodeId, String)>>,
    disagreement: watch::Sender<Option<String>>,
    /// This end of each connection that introduces itself now: one that comes in from there is this node's own.
    introducing: Mutex<BTreeSet<SocketAddr>>,
    /// What answers the requests that peers pass on, once there is a broker.
    service: OnceLock<Arc<dyn Service>>,
    clock: Clock,
}

impl PeerNetwork {
    /// Starts to listen and to connect, on the current tokio runtime.
    pub fn start(
        sockets: Vec<TcpListener>,
        links: &PeerLinks,
        peers: &Peers,
        raft: RaftHandle,
        clock: Clock,
    ) -> Self {
        let (disagreement, disagreed) = watch::channel(None);
        let shared = Arc::new(Shared {
            own_id: links.own_id,
            peers: peers.to_string(),
            node_count: peers.as_slice().len(),
            links: Arc::clone(&links.links),
            raft,
            incoming: Mutex::default(),
            receiving: Mutex::default(),
            agreed: Mutex::default(),
            refusals: Mutex::default(),
            disagreement,
            introducing: Mutex::default(),
            service: OnceLock::new(),
            clock,
        });
        for socket in incoming::sockets(sockets, &shared) {
            tokio::spawn(socket.accept());
        }
        for link in links.links.values() {
            tokio::spawn(outgoing::keep_connected(Arc::clone(&shared), Arc::clone(link)));
            tokio::spawn(outgoing::send_snapshots(Arc::clone(&shared), Arc::clone(link)));
        }
        Self { shared, runtime: tokio::runtime::Handle::current(), disagreed }
    }

    /// Sets what answers the requests that peers pass on. Only the first call counts.
    pub fn serve(&self, service: Arc<dyn Service>) {
        if self.shared.service.set(service).is_err() {
            tracing::debug!("requests of peers are answered already");
        }
    }

    /// Waits until it is clear that this node's configuration is not that of its peers, and says what to write. A
    /// node that serves already goes on all the same; one that is starting should stop.
    pub async fn disagreement(&self) -> String {
        let mut disagreed = self.disagreed.clone();
        match disagreed.wait_for(Option::is_some).await.map(|text| text.clone()) {
            Ok(Some(text)) => text,
            // The network has ended, and has nothing to say any more.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// The peers that are connected now, ascending.
    pub fn connected(&self) -> Vec<NodeId> {
        let links = self.shared.links.values();
        links.filter(|link| link.is_connected()).map(|link| link.peer.id).collect()
    }

    /// The peers that are not connected now, as the list has them, ascending.
    pub fn missing(&self) -> Vec<String> {
        let links = self.shared.links.values();
        links.filter(|link| !link.is_connected()).map(|link| link.peer.to_string()).collect()
    }
}

/// Ends of connections that are remembered while they introduce themselves: one for each peer and kind is usual.
const INTRODUCING_MAX: usize = 256;

impl Shared {
    /// Notes this end of a connection that is about to introduce itself.
    fn introduces(&self, own_end: SocketAddr) {
        let mut introducing = self.introducing.lock();
        if introducing.len() == INTRODUCING_MAX {
            // Those that were given up half way are still in it.
            introducing.clear();
        }
        introducing.insert(canonical(own_end));
    }

    /// Whether a connection from this address is this node's own.
    fn is_own_end(&self, address: SocketAddr) -> bool {
        self.introducing.lock().contains(&canonical(address))
    }

    fn cluster_id(&self) -> Option<String> {
        self.raft.cluster_id().map(|id| id.to_string())
    }

    /// A peer speaks with this node.
    fn agreed(&self, peer: NodeId) {
        self.agreed.lock().insert(peer);
    }

    /// A peer does not speak with this node.
    fn refused(self: &Arc<Self>, peer: NodeId, refusal: Refusal) {
        self.note_refusal(peer, &refusal);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(DISAGREEMENT_GRACE_MS)).await;
            let agreed_count = shared.agreed.lock().len() + 1;
            if agreed_count <= shared.node_count / 2 {
                shared.disagreement.send_replace(Some(refusal.text));
            }
        });
    }

    /// This node has reached itself at the address of another: whatever its peers say, it must not go on under this id.
    fn reached_itself_as(&self, other: NodeId) {
        let own_id = self.own_id;
        self.disagreement.send_replace(Some(format!(
            "CHRONIK_NODE_ID is '{own_id}' here, but CHRONIK_CLUSTER_PEERS gives this node's address to node {other}; \
             set CHRONIK_NODE_ID={other}, or correct the list"
        )));
    }

    /// Logs a refusal, given or received, the first time.
    fn note_refusal(&self, peer: NodeId, refusal: &Refusal) {
        let mut refusals = self.refusals.lock();
        // As many as there are nodes and settings to get wrong; more are the same over again.
        let is_new =
            refusals.len() < REFUSALS_REMEMBERED_MAX && refusals.insert((peer, refusal.text.clone()));
        if is_new {
            tracing::warn!("Nodes {} and {peer} do not speak: {}", self.own_id, refusal.text);
        }
    }

    /// Notes that a connection with a peer's messages is read from now on, or no longer.
    fn receiving_from(&self, peer: NodeId, change: isize) {
        let mut receiving = self.receiving.lock();
        let count = receiving.entry(peer).or_default();
        *count = count.saturating_add(change);
    }

    fn registered_epoch(&self, peer: NodeId) -> Option<BrokerEpoch> {
        self.raft.image().broker(peer).map(|broker| broker.epoch)
    }

    /// A peer's process is gone: its port refuses connections.
    fn gone(self: &Arc<Self>, peer: NodeId) {
        // A follower is told as well: it may be the next leader, and knows then whom to fence.
        let registered = self.registered_epoch(peer);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            // What it sent before it ended is heard first: it must not sound like a return.
            for _ in 0..LAST_WORDS_CHECKS_MAX {
                if shared.receiving.lock().get(&peer).is_none_or(|count| *count <= 0) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(LAST_WORDS_CHECK_MS)).await;
            }
            // One that has registered anew meanwhile is another process.
            if shared.registered_epoch(peer) == registered {
                shared.raft.peer_gone(peer);
            }
        });
        let quorum = self.raft.quorum();
        if quorum.leader != Some(peer) {
            return;
        }
        let is_first = quorum.voters.iter().find(|voter| **voter != peer) == Some(&self.own_id);
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            if is_first {
                tokio::time::sleep(Duration::from_millis(CAMPAIGN_DELAY_MS)).await;
            }
            if shared.raft.quorum().leader == Some(peer) {
                shared.raft.leader_gone();
            }
        });
    }
}

/// How often to look whether the last words of a peer that is gone have been read, in milliseconds. The system has closed
/// its end already, so that this takes no longer than reading them.
const LAST_WORDS_CHECK_MS: u64 = 5;
/// How many times to look at most: half a second.
const LAST_WORDS_CHECKS_MAX: u64 = 100;

/// Distinct refusals that are remembered.
const REFUSALS_REMEMBERED_MAX: usize = 256;

#[cfg(test)]
mod tests;
