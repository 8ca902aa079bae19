//! Requests of clients that another node has to answer: one connection each, because they are rare.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chronik_broker::{Answered, Connection, ConnectionId, ControllerLink, Reply, ResponsePart};
use chronik_raft::MetadataLog as _;
use chronik_types::NodeId;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::frame::{FrameError, read_frame, write_frame};
use super::handshake::Stream;
use super::outgoing::connect_or_fail;
use super::{PeerNetwork, Shared};

/// How long an answer may take, in milliseconds. What is asked is known to the other node.
const ANSWER_MS_MAX: u64 = 5_000;
/// The largest request and the largest answer.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// The number of the connections that peers ask on; they are no clients of this node.
const PEER_CONNECTION: ConnectionId = ConnectionId(u64::MAX);

impl ControllerLink for PeerNetwork {
    fn ask(&self, to: NodeId, frame: Bytes, done: Answered) {
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn(async move {
            let asking = ask(&shared, to, &frame);
            let answer = match timeout(Duration::from_millis(ANSWER_MS_MAX), asking).await {
                Ok(Ok(answer)) => Some(answer),
                Ok(Err(error)) => {
                    tracing::debug!("Node {to} did not answer: {error}");
                    None
                }
                Err(_) => {
                    tracing::debug!("Node {to} did not answer in time");
                    None
                }
            };
            done(answer);
        });
    }
}

async fn ask(shared: &Shared, to: NodeId, frame: &Bytes) -> Result<Bytes, FrameError> {
    let link = shared.links.get(&to).ok_or(FrameError::Closed)?;
    let mut stream = connect_or_fail(shared, &link.peer, Stream::Request).await?;
    write_frame(&mut stream, frame).await?;
    stream.flush().await?;
    read_frame(&mut stream, FRAME_BYTES_MAX).await
}

/// Answers one request of a peer, if this node leads the metadata log.
pub(super) async fn answer(shared: &Shared, mut stream: TcpStream) -> Result<(), FrameError> {
    let answering = async {
        let frame = read_frame(&mut stream, FRAME_BYTES_MAX).await?;
        // A node that leads no more must not ask the next one in turn.
        let Some(service) = shared.service.get().filter(|_| shared.raft.is_leader()) else {
            return Ok(());
        };
        let connection =
            Arc::new(Connection::new(PEER_CONNECTION, stream.local_addr()?, stream.peer_addr()?));
        let (sender, answered) = oneshot::channel();
        let responder = Box::new(move |reply| {
            // The receiver is gone only when its time is over.
            drop(sender.send(reply));
        });
        service.handle(shared.clock.now(), &connection, BytesMut::from(frame.as_ref()), responder);
        let bytes = match answered.await {
            Ok(Reply::Response(response)) => joined(response.parts)?,
            Ok(Reply::Nothing | Reply::Close(_)) | Err(_) => return Ok(()),
        };
        write_frame(&mut stream, &bytes).await?;
        stream.flush().await?;
        Ok(())
    };
    match timeout(Duration::from_millis(ANSWER_MS_MAX), answering).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

fn joined(parts: Vec<ResponsePart>) -> io::Result<BytesMut> {
    let mut bytes = BytesMut::new();
    for part in parts {
        match part {
            ResponsePart::Bytes(part) => bytes.extend_from_slice(&part),
            ResponsePart::File { .. } => {
                return Err(io::Error::other("records are not read through another node"));
            }
        }
    }
    Ok(bytes)
}
