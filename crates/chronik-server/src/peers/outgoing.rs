//! The connections that this node opens.
//!
//! | state | what happens | next |
//! |---|---|---|
//! | away | connecting fails | away, after a pause that doubles |
//! | away | connected, and the peer agrees | connected |
//! | away | connected, and the peer refuses | away, after the longest pause |
//! | connected | closed, or a write fails | away, and tried at once |
//!
//! A connection that is refused by the system says that the peer's process is gone.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::frame::write_frame;
use super::handshake::{self, HandshakeError, Hello, Refusal, Stream};
use super::link::Link;
use crate::config::Peer;
use crate::net::canonical;
use crate::race::{Either, race};

/// The pause after the first attempt that failed; it doubles up to [`PAUSE_MS_MAX`].
const PAUSE_MS_MIN: u64 = 20;
/// The longest pause between attempts. A peer that returns is found within this time.
const PAUSE_MS_MAX: u64 = 500;
/// How long connecting may take, handshake included, in milliseconds.
const CONNECT_MS_MAX: u64 = 2_000;
/// How long a peer's host may take to answer the first packet, in milliseconds. Where packets were lost another attempt
/// is made at once then, and not when the system would: it waits twice as long each time.
const DIAL_MS_MAX: u64 = 1_000;
/// The same for the first attempt after a connection was lost; it doubles up to [`DIAL_MS_MAX`]. Linux drops what comes to a
/// port in the instant in which its process ends, and would send the next packet, which is refused, a second later.
const DIAL_MS_MIN: u64 = 100;
/// How long one snapshot may take to be taken by its peer, in milliseconds.
const SNAPSHOT_MS_MAX: u64 = 60_000;
/// How long what was sent may stay without a sign of the peer's host, in milliseconds: about a session timeout. A connection
/// that has waited out a cut would send again only after as long as that has lasted; a new one works at once.
const SILENCE_MS_MAX: u32 = 2_000;
/// Messages smaller than this share a system call.
const WRITE_BUFFER_BYTES: usize = 64 << 10;
/// What a peer answers when it has taken a snapshot.
pub(super) const SNAPSHOT_TAKEN: u8 = 1;

/// Why there is no connection.
enum NotConnected {
    /// Nobody listens there.
    PortClosed,
    /// The peer does not speak with this node.
    Refused(Refusal),
    /// Anything else; it may pass.
    Other(HandshakeError),
}

/// Keeps a connection to one peer, for as long as the runtime runs.
pub(super) async fn keep_connected(shared: Arc<Shared>, link: Arc<Link>) {
    let (mut pause_ms, mut dial_ms) = (PAUSE_MS_MIN, DIAL_MS_MIN);
    loop {
        match connect(&shared, &link.peer, Stream::Messages, dial_ms).await {
            Ok(stream) => {
                (pause_ms, dial_ms) = (PAUSE_MS_MIN, DIAL_MS_MIN);
                shared.agreed(link.peer.id);
                link.connected();
                tracing::info!("Connected to node {} at {}", link.peer.id, address(&link.peer));
                let error = send_messages(&link, stream).await;
                link.disconnected();
                shared.raft.peer_unreachable(link.peer.id);
                tracing::info!("Lost the connection to node {}: {error}", link.peer.id);
                continue;
            }
            Err(NotConnected::PortClosed) => shared.gone(link.peer.id),
            Err(NotConnected::Refused(refusal)) => {
                shared.refused(link.peer.id, refusal);
                pause_ms = PAUSE_MS_MAX;
            }
            Err(NotConnected::Other(error)) => {
                tracing::debug!(
                    "Cannot connect to node {} at {}: {error}",
                    link.peer.id,
                    address(&link.peer)
                );
            }
        }
        sleep(Duration::from_millis(pause_ms)).await;
        pause_ms = pause_ms.saturating_mul(2).min(PAUSE_MS_MAX);
        dial_ms = dial_ms.saturating_mul(2).min(DIAL_MS_MAX);
    }
}

/// Sends the snapshots that wait for one peer, each on a connection of its own.
pub(super) async fn send_snapshots(shared: Arc<Shared>, link: Arc<Link>) {
    loop {
        link.snapshot_queued.notified().await;
        let Some(bytes) = link.next_snapshot() else { continue };
        let len_bytes = bytes.len();
        let sending = send_snapshot(&shared, &link.peer, bytes);
        let arrived = match timeout(Duration::from_millis(SNAPSHOT_MS_MAX), sending).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!("A metadata snapshot did not reach node {}: {error}", link.peer.id);
                false
            }
            Err(_) => {
                tracing::warn!("A metadata snapshot did not reach node {} in time", link.peer.id);
                false
            }
        };
        link.snapshot_ended();
        shared.raft.snapshot_finished(link.peer.id, arrived);
        if arrived {
            tracing::info!("Sent a metadata snapshot of {len_bytes} bytes to node {}", link.peer.id);
        }
    }
}

fn address(peer: &Peer) -> String {
    format!("{}:{}", peer.host, peer.raft_port)
}

async fn connect(
    shared: &Shared,
    peer: &Peer,
    stream: Stream,
    dial_ms: u64,
) -> Result<TcpStream, NotConnected> {
    let connecting = async {
        let dialing = TcpStream::connect((peer.host.as_str(), peer.raft_port));
        let dialed = timeout(Duration::from_millis(dial_ms), dialing).await;
        let mut socket = match dialed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(NotConnected::PortClosed);
            }
            Err(error) => return Err(NotConnected::Other(error.into())),
        };
        if let Err(error) = set_up(&socket) {
            tracing::debug!("Setting up the connection to node {} failed: {error}", peer.id);
        }
        let hello = Hello {
            stream,
            from: shared.own_id,
            to: peer.id,
            cluster_id: shared.cluster_id(),
            peers: shared.peers.clone(),
        };
        let own_end = socket.local_addr().ok();
        if let Some(own_end) = own_end {
            shared.introduces(own_end);
        }
        let introduced = handshake::introduce(&mut socket, &hello).await;
        if let Some(own_end) = own_end {
            shared.introducing.lock().remove(&canonical(own_end));
        }
        match introduced {
            Ok(Ok(())) => Ok(socket),
            Ok(Err(refusal)) => Err(NotConnected::Refused(refusal)),
            Err(error) => Err(NotConnected::Other(error)),
        }
    };
    match timeout(Duration::from_millis(CONNECT_MS_MAX), connecting).await {
        Ok(outcome) => outcome,
        Err(_) => Err(NotConnected::Other(io::Error::from(io::ErrorKind::TimedOut).into())),
    }
}

pub(super) fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(stream, SILENCE_MS_MAX)?;
    Ok(())
}

/// Sends what is queued until the connection ends, and says why it did.
async fn send_messages(link: &Link, stream: TcpStream) -> io::Error {
    let (mut reader, writer) = stream.into_split();
    let mut writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, writer);
    let send = async {
        loop {
            while let Some(bytes) = link.next_message() {
                write_frame(&mut writer, &bytes).await?;
            }
            writer.flush().await?;
            link.message_queued.notified().await;
        }
    };
    // A peer says nothing on this connection; what can be read is its end.
    let watch = async {
        let mut byte = [0];
        reader.read(&mut byte).await
    };
    let ended: Either<io::Result<()>, io::Result<usize>> = race(send, watch).await;
    match ended {
        Either::First(Err(error)) | Either::Second(Err(error)) => error,
        Either::First(Ok(())) | Either::Second(Ok(0)) => io::Error::from(io::ErrorKind::ConnectionReset),
        Either::Second(Ok(_)) => io::Error::new(io::ErrorKind::InvalidData, "the peer spoke out of turn"),
    }
}

/// Connects for one purpose, once.
pub(super) async fn connect_or_fail(shared: &Shared, peer: &Peer, stream: Stream) -> io::Result<TcpStream> {
    connect(shared, peer, stream, DIAL_MS_MAX).await.map_err(|error| match error {
        NotConnected::PortClosed => io::Error::from(io::ErrorKind::ConnectionRefused),
        NotConnected::Refused(refusal) => io::Error::other(refusal.text),
        NotConnected::Other(error) => io::Error::other(error),
    })
}

async fn send_snapshot(shared: &Shared, peer: &Peer, bytes: Bytes) -> io::Result<()> {
    let mut stream = connect_or_fail(shared, peer, Stream::Snapshot).await?;
    write_frame(&mut stream, &bytes).await?;
    stream.flush().await?;
    match stream.read_u8().await? {
        SNAPSHOT_TAKEN => Ok(()),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("the peer answered with {other}"))),
    }
}
