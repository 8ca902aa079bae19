//! Connections to other brokers, over which this one fetches what it follows.
//!
//! Each leader is reached over as many connections as there are lanes, each with a task of its own that lives as long
//! as the process. A request goes out when the one before it has been answered, so that nothing queues up here. Any
//! failure closes the connection, and the next request opens another: the broker paces them.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use chronik_broker::{Lane, PeerAnswer, PeerClient, PeerError};
use chronik_types::NodeId;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a connection may take to open. A leader on the same network answers within milliseconds.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a leader may be silent beyond what it was allowed to hold a request for. A host that has gone without a word
/// is given up after this, and a connection that has waited out a cut is replaced by one that works at once.
const SILENCE_EXTRA: Duration = Duration::from_secs(2);
/// The bytes of the length before each frame.
const LENGTH_BYTES: usize = 4;
/// What is read at a time into an answer's buffer, so that a length alone allocates nothing.
const READ_BYTES: usize = 1 << 20;
/// What is read of an answer before its length is known: all of it, where producers send small batches.
const FIRST_READ_BYTES: usize = 64 << 10;
/// The memory of a longer answer is given back, so that a replica that was far behind once does not hold it for ever.
const REUSED_BYTES_MAX: usize = 1 << 20;
/// Requests that wait for one connection. The broker has one under way; more are a mistake.
const WAITING_MAX: usize = 2;

struct Call {
    address: (String, u16),
    frame: Bytes,
    done: PeerAnswer,
}

/// What bounds an answer.
#[derive(Clone, Copy)]
struct Bounds {
    response_bytes_max: usize,
    silence_max: Duration,
}

/// The connections to all leaders.
pub(crate) struct ReplicaClient {
    runtime: Handle,
    bounds: Bounds,
    connections: Mutex<BTreeMap<(NodeId, Lane), mpsc::Sender<Call>>>,
}

impl ReplicaClient {
    /// No connections yet. An answer is at most `response_bytes_max` long; one that claims to be longer is refused.
    /// Leaders may hold requests for `held_max`.
    pub(crate) fn new(runtime: Handle, response_bytes_max: usize, held_max: Duration) -> Self {
        let bounds = Bounds { response_bytes_max, silence_max: held_max.saturating_add(SILENCE_EXTRA) };
        Self { runtime, bounds, connections: Mutex::default() }
    }
}

impl PeerClient for ReplicaClient {
    fn call(&self, to: NodeId, lane: Lane, address: (String, u16), frame: Bytes, done: PeerAnswer) {
        let sender = self
            .connections
            .lock()
            .entry((to, lane))
            .or_insert_with(|| {
                let (sender, calls) = mpsc::channel(WAITING_MAX);
                self.runtime.spawn(serve(calls, self.bounds));
                sender
            })
            .clone();
        if let Err(refused) = sender.try_send(Call { address, frame, done }) {
            let (mpsc::error::TrySendError::Full(call) | mpsc::error::TrySendError::Closed(call)) = refused;
            // The broker is told on another thread, as it is of everything else.
            self.runtime.spawn(async move {
                (call.done)(Err(PeerError("too many requests wait for its connection".to_owned())));
            });
        }
    }
}

/// A connection and the memory for what comes from it.
struct Connection {
    address: (String, u16),
    stream: TcpStream,
    /// Empty between two answers. The memory of an answer is used again for the next one where nobody holds on to it.
    received: BytesMut,
}

/// Sends one request after the other.
async fn serve(mut calls: mpsc::Receiver<Call>, bounds: Bounds) {
    let mut connection: Option<Connection> = None;
    while let Some(Call { address, frame, done }) = calls.recv().await {
        let open = connection.take().filter(|open| open.address == address);
        match exchange(open, &address, &frame, bounds).await {
            Ok((open, answer)) => {
                connection = Some(open);
                done(Ok(answer));
            }
            Err(error) => {
                let (host, port) = &address;
                done(Err(PeerError(format!("{host}:{port}: {error}"))));
            }
        }
    }
}

async fn exchange(
    open: Option<Connection>,
    address: &(String, u16),
    frame: &Bytes,
    Bounds { response_bytes_max, silence_max }: Bounds,
) -> io::Result<(Connection, Bytes)> {
    let mut connection = if let Some(open) = open {
        open
    } else {
        let stream = limited(CONNECT_MAX, TcpStream::connect((address.0.as_str(), address.1))).await?;
        stream.set_nodelay(true)?;
        Connection { address: address.clone(), stream, received: BytesMut::new() }
    };
    let Connection { stream, received, .. } = &mut connection;
    limited(silence_max, stream.write_all(frame)).await?;
    // The length comes with what follows it: most answers take one system call.
    while received.len() < LENGTH_BYTES {
        received.reserve(FIRST_READ_BYTES);
        if limited(silence_max, stream.read_buf(received)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let len_bytes = usize::try_from(received.get_u32()).unwrap_or(usize::MAX);
    if len_bytes > response_bytes_max {
        let text = format!("an answer of {len_bytes} bytes is longer than {response_bytes_max}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    while received.len() < len_bytes {
        let missing = len_bytes - received.len();
        received.reserve(missing.min(READ_BYTES));
        let mut part = (&mut *stream).take(u64::try_from(missing).unwrap_or(u64::MAX));
        if limited(silence_max, part.read_buf(received)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    if received.len() > len_bytes {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to nothing follows the answer"));
    }
    let answer = received.split().freeze();
    if len_bytes > REUSED_BYTES_MAX {
        *received = BytesMut::new();
    }
    Ok((connection, answer))
}

async fn limited<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.map_err(|_| {
        io::Error::new(io::ErrorKind::TimedOut, format!("nothing happened for {} s", limit.as_secs()))
    })?
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use tokio::net::TcpListener;

    use super::*;

    const NODE: NodeId = NodeId(2);

    fn frame(text: &str) -> Bytes {
        let mut frame = u32::try_from(text.len()).expect("short").to_be_bytes().to_vec();
        frame.extend_from_slice(text.as_bytes());
        frame.into()
    }

    /// Answers each request on each connection with itself; closes the connection at "close", claims far too much at
    /// "huge".
    async fn echo(listener: TcpListener) {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut length = [0; 4];
                while stream.read_exact(&mut length).await.is_ok() {
                    let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("fits")];
                    stream.read_exact(&mut body).await.expect("a whole request");
                    match body.as_slice() {
                        b"close" => return,
                        b"huge" => stream.write_all(&[0x7f, 0xff, 0xff, 0xff]).await.expect("is written"),
                        _ => {
                            stream.write_all(&[length.as_slice(), &body].concat()).await.expect("is written");
                        }
                    }
                }
            });
        }
    }

    #[test]
    fn requests_are_answered_and_failures_are_told() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        runtime.spawn(echo(listener));
        let client = ReplicaClient::new(runtime.handle().clone(), 1 << 20, Duration::ZERO);
        let ask = |text: &str, port: u16| {
            let (sender, answer) = channel();
            let done = Box::new(move |outcome: Result<Bytes, PeerError>| {
                sender.send(outcome.map_err(|error| error.0)).expect("somebody waits");
            });
            client.call(NODE, Lane::Main, ("127.0.0.1".to_owned(), port), frame(text), done);
            answer.recv_timeout(Duration::from_secs(30)).expect("an answer")
        };
        assert_eq!(ask("one", port), Ok(Bytes::from_static(b"one")));
        assert_eq!(ask("two", port), Ok(Bytes::from_static(b"two")));
        assert!(ask("close", port).is_err());
        assert!(ask("huge", port).is_err_and(|error| error.contains("longer than")));
        assert_eq!(ask("three", port), Ok(Bytes::from_static(b"three")), "another connection is opened");
        assert!(ask("nobody", 1).is_err());
    }
}
