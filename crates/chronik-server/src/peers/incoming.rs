//! The connections that peers open to this node.
//!
//! Whoever connects has to say within a short time which node it is; what does not speak the protocol, or not by the
//! same list of peers, is sent away. Only then are frames read.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use chronik_raft::{MESSAGE_BYTES_MAX, PROPOSAL_BYTES_MAX};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::frame::{FrameError, read_frame};
use super::handshake::{self, Hello, Refusal, RefusalKind, Stream};
use super::outgoing::{SNAPSHOT_TAKEN, set_up};
use super::{Shared, requests};
use crate::race::{Either, race};

/// How long whoever connects may take to say who it is, in milliseconds.
const HELLO_MS_MAX: u64 = 2_000;
/// Connections for each peer: its messages, a snapshot, a few requests, and as many that are about to be replaced.
const CONNECTIONS_PER_PEER_MAX: usize = 16;
/// Connections beside those, for whoever has not said yet who it is.
const STRANGERS_MAX: usize = 32;
/// The largest message beside a snapshot: one entry of the greatest size, and its surroundings.
const FRAME_BYTES_MAX: usize = 2 * PROPOSAL_BYTES_MAX;
/// Messages smaller than this share a system call.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE_MS: u64 = 100;

/// One listening socket.
pub(super) struct Socket {
    listener: TcpListener,
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
}

/// The listening sockets, which share one bound on their connections.
pub(super) fn sockets(listeners: Vec<TcpListener>, shared: &Arc<Shared>) -> Vec<Socket> {
    let connections_max = shared.links.len() * CONNECTIONS_PER_PEER_MAX + STRANGERS_MAX;
    let permits = Arc::new(Semaphore::new(connections_max));
    let socket = |listener| Socket { listener, shared: Arc::clone(shared), permits: Arc::clone(&permits) };
    listeners.into_iter().map(socket).collect()
}

impl Socket {
    /// Accepts connections for as long as the runtime runs.
    pub(super) async fn accept(self) {
        let Self { listener, shared, permits } = self;
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(run(Arc::clone(&shared), stream, permit));
                }
                Err(error) => {
                    tracing::debug!("Accepting a connection of a peer failed: {error}");
                    sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            }
        }
    }
}

async fn run(shared: Arc<Shared>, mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    let from = stream.peer_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
    if let Err(error) = set_up(&stream) {
        tracing::debug!("Setting up the connection from {from} failed: {error}");
    }
    let meeting = async {
        let hello = handshake::hear(&mut stream).await?;
        if hello.from == shared.own_id && stream.peer_addr().is_ok_and(|end| shared.is_own_end(end)) {
            shared.reached_itself_as(hello.to);
        }
        let verdict = judge(&shared, &hello);
        handshake::answer(&mut stream, &verdict).await?;
        Ok::<_, handshake::HandshakeError>((hello, verdict))
    };
    let (hello, verdict) = match timeout(Duration::from_millis(HELLO_MS_MAX), meeting).await {
        Ok(Ok(met)) => met,
        Ok(Err(error)) => {
            tracing::debug!("A connection from {from} to the Raft port ended: {error}");
            return;
        }
        Err(_) => {
            tracing::debug!("A connection from {from} to the Raft port did not say who it is");
            return;
        }
    };
    if let Err(refusal) = verdict {
        shared.note_refusal(hello.from, &refusal);
        return;
    }
    if hello.stream == Stream::Request {
        if let Err(error) = requests::answer(&shared, stream).await {
            tracing::debug!("A request that node {} passed on was not answered: {error}", hello.from);
        }
        return;
    }
    let replaced = Arc::new(Notify::new());
    let key = (hello.from, hello.stream);
    if let Some(older) = shared.incoming.lock().insert(key, Arc::clone(&replaced)) {
        older.notify_one();
    }
    let ended = if hello.stream == Stream::Snapshot {
        race(receive_snapshot(&shared, &hello, stream), replaced.notified()).await
    } else {
        shared.receiving_from(hello.from, 1);
        let ended = race(receive_messages(&shared, &hello, stream), replaced.notified()).await;
        shared.receiving_from(hello.from, -1);
        ended
    };
    match ended {
        Either::First(FrameError::Closed) => {}
        Either::First(error) => {
            tracing::warn!("The connection of node {} was closed: {error}", hello.from);
        }
        Either::Second(()) => return,
    }
    let mut incoming = shared.incoming.lock();
    if incoming.get(&key).is_some_and(|newest| Arc::ptr_eq(newest, &replaced)) {
        incoming.remove(&key);
    }
    drop(permit);
}

/// Whether this node speaks with the one that has said hello.
fn judge(shared: &Shared, hello: &Hello) -> Result<(), Refusal> {
    let own_id = shared.own_id;
    let refuse = |kind, text| Err(Refusal { kind, text });
    if hello.peers != shared.peers {
        return refuse(
            RefusalKind::Peers,
            format!(
                "CHRONIK_CLUSTER_PEERS is '{}' on node {}, and '{}' on node {own_id}; write the same list on every node",
                hello.peers, hello.from, shared.peers
            ),
        );
    }
    if let (Some(theirs), Some(ours)) = (&hello.cluster_id, shared.cluster_id())
        && *theirs != ours
    {
        return refuse(
            RefusalKind::Cluster,
            format!(
                "the data directory of node {} belongs to cluster {theirs}, and that of node {own_id} to cluster \
                 {ours}; set CHRONIK_DATA_DIR on one of them to the directory of the other's cluster, or to an empty one",
                hello.from
            ),
        );
    }
    if hello.to != own_id {
        return refuse(
            RefusalKind::Node,
            format!(
                "the address that CHRONIK_CLUSTER_PEERS gives node {} leads to a node with CHRONIK_NODE_ID={own_id}; \
                 set it to {} there, or correct the list",
                hello.to, hello.to
            ),
        );
    }
    if !shared.links.contains_key(&hello.from) {
        return refuse(
            RefusalKind::Node,
            format!(
                "CHRONIK_NODE_ID is {} on two nodes, or none of the list; give each node its own id",
                hello.from
            ),
        );
    }
    Ok(())
}

/// Hands messages to the Raft thread until the connection ends.
async fn receive_messages(shared: &Shared, hello: &Hello, stream: TcpStream) -> FrameError {
    let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, stream);
    loop {
        match read_frame(&mut reader, FRAME_BYTES_MAX).await {
            Ok(bytes) => shared.raft.receive(hello.from, bytes),
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                return FrameError::Closed;
            }
            Err(error) => return error,
        }
    }
}

/// Hands one snapshot to the Raft thread.
async fn receive_snapshot(shared: &Shared, hello: &Hello, mut stream: TcpStream) -> FrameError {
    match read_frame(&mut stream, MESSAGE_BYTES_MAX).await {
        Ok(bytes) => {
            shared.raft.receive(hello.from, bytes);
            match stream.write_u8(SNAPSHOT_TAKEN).await {
                Ok(()) => FrameError::Closed,
                Err(error) => error.into(),
            }
        }
        Err(error) => error,
    }
}
