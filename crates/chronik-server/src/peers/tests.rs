//! The Raft port as others see it: real sockets, one node, and this test in the place of its peers.

use std::path::Path;

use chronik_disk::SimDisk;
use chronik_raft::{NoPeers, RaftConfig, RaftDriver};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::frame::{FrameError, read_frame, write_frame};
use super::handshake::{Hello, RefusalKind, introduce};
use super::*;
use crate::net::{SocketOptions, bind};

/// How long a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

struct Fixture {
    network: PeerNetwork,
    port: u16,
    // Kept, because its handle is of no use without it.
    _driver: RaftDriver,
}

const PEERS: &str = "localhost:1:2,localhost:3:4,localhost:5:6";

/// Node 1 of three, of which the others are away.
async fn node() -> Fixture {
    node_of(PEERS).await
}

async fn node_of(peers: &str) -> Fixture {
    let peers: Peers = peers.parse().unwrap();
    let voters = peers.as_slice().iter().map(|peer| peer.id).collect();
    let raft = RaftConfig::new(NodeId(1), voters, 7);
    let driver =
        RaftDriver::open(raft, Arc::new(SimDisk::new()), Path::new("/raft"), Box::new(NoPeers)).unwrap();
    let sockets = bind("127.0.0.1", 0, SocketOptions::default()).await.unwrap();
    let port = sockets[0].local_addr().unwrap().port();
    let links = PeerLinks::new(&peers, NodeId(1));
    let network = PeerNetwork::start(sockets, &links, &peers, driver.handle(), Clock::start());
    Fixture { network, port, _driver: driver }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, test).await.expect("in time");
    });
    runtime.shutdown_background();
}

impl Fixture {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// Says hello as node 2 would, changed by `change`.
    async fn greet(&self, change: impl FnOnce(&mut Hello)) -> (TcpStream, Result<(), Refusal>) {
        let peers: Peers = PEERS.parse().unwrap();
        let mut hello = Hello {
            stream: Stream::Messages,
            from: NodeId(2),
            to: NodeId(1),
            cluster_id: None,
            peers: peers.to_string(),
        };
        change(&mut hello);
        let mut stream = self.connect().await;
        let verdict = introduce(&mut stream, &hello).await.unwrap();
        (stream, verdict)
    }

    async fn is_refused(&self, kind: RefusalKind, part: &str, change: impl FnOnce(&mut Hello)) {
        let (mut stream, verdict) = self.greet(change).await;
        let refusal = verdict.unwrap_err();
        assert_eq!(refusal.kind, kind, "{refusal:?}");
        assert!(refusal.text.contains(part), "{refusal:?}");
        is_closed(&mut stream).await;
    }
}

async fn is_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    drop(stream.read_to_end(&mut rest).await);
    assert_eq!(rest, b"");
}

#[test]
fn those_that_contradict_are_told_what_to_write() {
    run(async {
        let node = node().await;
        node.is_refused(RefusalKind::Peers, "write the same list on every node", |hello| {
            hello.peers = "1@localhost:1:2,2@localhost:3:4".to_owned();
        })
        .await;
        node.is_refused(RefusalKind::Node, "CHRONIK_NODE_ID=1", |hello| hello.to = NodeId(3)).await;
        node.is_refused(RefusalKind::Node, "CHRONIK_NODE_ID is 1", |hello| hello.from = NodeId(1)).await;
        node.is_refused(RefusalKind::Node, "CHRONIK_NODE_ID is 9", |hello| hello.from = NodeId(9)).await;
        let (_, verdict) = node.greet(|_| ()).await;
        assert_eq!(verdict, Ok(()));
    });
}

#[test]
fn frames_that_lie_end_their_connection_and_nothing_else() {
    run(async {
        let node = node().await;
        let (mut good, _) = node.greet(|_| ()).await;
        let (mut other, _) = node.greet(|hello| hello.from = NodeId(3)).await;
        other.write_all(&[0xff; 8]).await.unwrap();
        is_closed(&mut other).await;
        let (mut corrupt, _) = node.greet(|hello| hello.from = NodeId(3)).await;
        corrupt.write_all(&[0, 0, 0, 1, 0, 0, 0, 0, 7]).await.unwrap();
        is_closed(&mut corrupt).await;
        for nonsense in
            [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0; 100], b"CHRONIKR\x00\x01\xff\xff\xff\xff1234"]
        {
            let mut stream = node.connect().await;
            stream.write_all(nonsense).await.unwrap();
            is_closed(&mut stream).await;
        }
        // The Raft thread looks at what is in a good frame; here it only arrives.
        write_frame(&mut good, b"not a message of Raft").await.unwrap();
        let mut byte = [0];
        let quiet = tokio::time::timeout(Duration::from_millis(100), good.read(&mut byte)).await;
        assert!(quiet.is_err(), "the connection stays");
    });
}

#[test]
fn a_newer_connection_takes_the_place_of_an_older() {
    run(async {
        let node = node().await;
        let (mut older, _) = node.greet(|_| ()).await;
        let (_newer, verdict) = node.greet(|_| ()).await;
        assert_eq!(verdict, Ok(()));
        is_closed(&mut older).await;
    });
}

#[test]
fn snapshots_are_acknowledged() {
    run(async {
        let node = node().await;
        let (mut stream, _) = node.greet(|hello| hello.stream = Stream::Snapshot).await;
        write_frame(&mut stream, &vec![7; 3 << 20]).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), outgoing::SNAPSHOT_TAKEN);
    });
}

#[test]
fn requests_are_answered_by_a_leader_only() {
    run(async {
        let node = node().await;
        let (mut stream, _) = node.greet(|hello| hello.stream = Stream::Request).await;
        write_frame(&mut stream, &[0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff]).await.unwrap();
        let answer = read_frame(&mut stream, 100).await;
        assert!(matches!(answer, Err(FrameError::Closed | FrameError::Io(_))), "{answer:?}");
    });
}

#[test]
fn strangers_wait_for_each_other_and_are_sent_away_in_time() {
    run(async {
        let node = node().await;
        let mut silent = Vec::new();
        for _ in 0..200 {
            silent.push(node.connect().await);
        }
        let (_stream, verdict) = node.greet(|_| ()).await;
        assert_eq!(verdict, Ok(()), "a peer gets its turn");
    });
}

#[test]
fn a_node_that_a_majority_refuses_gives_up() {
    run(async {
        let peers: Peers = PEERS.parse().unwrap();
        let node = node().await;
        let refusal = |text: &str| Refusal { kind: RefusalKind::Peers, text: text.to_owned() };
        node.network.shared.refused(NodeId(2), refusal("write this"));
        assert_eq!(node.network.disagreement().await, "write this");
        assert_eq!(node.network.missing(), ["2@localhost:3:4", "3@localhost:5:6"]);
        assert_eq!((node.network.connected(), peers.as_slice().len()), (Vec::new(), 3));
    });
    run(async {
        let node = node().await;
        node.network.shared.agreed(NodeId(3));
        let refusal = Refusal { kind: RefusalKind::Peers, text: "write this".to_owned() };
        node.network.shared.refused(NodeId(2), refusal);
        let wait = Duration::from_millis(2 * DISAGREEMENT_GRACE_MS);
        let gave_up = tokio::time::timeout(wait, node.network.disagreement()).await;
        assert!(gave_up.is_err(), "with node 3 it is the majority");
    });
}

/// A system drops what comes to a port in the instant in which its process ends, and sends a first packet again only after a
/// second.
#[test]
fn a_peer_that_does_not_answer_the_first_packet_is_asked_again_before_the_system_does() {
    run(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        // One may wait, and what others send is dropped.
        rustix::net::listen(&listener, 0).unwrap();
        let waiting = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let _node = node_of(&format!("localhost:1:2,127.0.0.1:3:{port},localhost:5:6")).await;
        let by_the_system = tokio::spawn(TcpStream::connect(("127.0.0.1", port)));
        tokio::time::sleep(Duration::from_millis(50)).await;
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let (first, _) = listener.accept().await.unwrap();
        drop((first, waiting));
        // Whoever comes next is the node, which says who it is.
        let (mut next, _) = listener.accept().await.unwrap();
        let mut said = [0; 4];
        next.read_exact(&mut said).await.unwrap();
        assert!(!by_the_system.is_finished());
    });
}
