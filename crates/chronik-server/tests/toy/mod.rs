//! A toy service and a toy client that share a small protocol: the API key says what the service does.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use chronik_broker::{Connection, Reply, Responder, Response, ResponsePart};
use chronik_disk::DiskFile;
use chronik_server::clock::Clock;
use chronik_server::metrics::RequestStats;
use chronik_server::net::{Limits, Listener, Service, SocketOptions, bind};
use chronik_types::Now;
use parking_lot::Mutex;
use tokio::runtime::Runtime;

/// Takes the frame and answers with its length.
pub const SWALLOW: i16 = 0;
/// Answers with the frame's body.
pub const ECHO: i16 = 1;
/// Keeps the frame and the responder until a [`RELEASE`].
pub const PARK: i16 = 2;
/// Answers all parked requests, last first, then itself.
pub const RELEASE: i16 = 3;
/// Panics.
pub const PANIC: i16 = 4;
/// Drops the responder.
pub const DROP: i16 = 5;
/// Answers with nothing.
pub const NOTHING: i16 = 6;
/// Asks for the connection to be closed.
pub const CLOSE: i16 = 7;
/// Answers with as many bytes as the body's i32 says.
pub const LARGE: i16 = 8;
/// Answers with a region of the file: the body is position i64, length i64.
pub const REGION: i16 = 9;
/// Echoes from another thread after as many milliseconds as the body's i32 says.
pub const LATER: i16 = 10;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub struct Toy {
    pub handled: AtomicUsize,
    pub closed: AtomicUsize,
    pub parked: Mutex<VecDeque<(i32, BytesMut, Responder)>>,
    pub connections: Mutex<Vec<Arc<Connection>>>,
    pub file: Mutex<Option<Arc<dyn DiskFile>>>,
    /// The bodies of [`LARGE`] answers by their length, made once.
    pub large: Mutex<BTreeMap<usize, Bytes>>,
}

impl Toy {
    pub fn release(&self) {
        let parked = std::mem::take(&mut *self.parked.lock());
        for (correlation, frame, responder) in parked.into_iter().rev() {
            responder(answer(correlation, &frame));
        }
    }

    pub fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }
}

fn answer(correlation: i32, body: &[u8]) -> Reply {
    let mut bytes = BytesMut::new();
    bytes.put_i32(i32::try_from(body.len() + 4).unwrap());
    bytes.put_i32(correlation);
    bytes.put_slice(body);
    Reply::Response(bytes.freeze().into())
}

impl Service for Toy {
    fn handle(&self, _now: Now, connection: &Arc<Connection>, mut frame: BytesMut, responder: Responder) {
        self.handled.fetch_add(1, Ordering::SeqCst);
        {
            let mut connections = self.connections.lock();
            if !connections.iter().any(|known| known.id == connection.id) {
                connections.push(Arc::clone(connection));
            }
        }
        let api_key = frame.get_i16();
        let _version = frame.get_i16();
        let correlation = frame.get_i32();
        match api_key {
            SWALLOW => responder(answer(correlation, &u32::try_from(frame.len()).unwrap().to_be_bytes())),
            ECHO => responder(answer(correlation, &frame)),
            PARK => self.parked.lock().push_back((correlation, frame, responder)),
            RELEASE => {
                self.release();
                responder(answer(correlation, &frame));
            }
            PANIC => panic!("asked to"),
            DROP => drop(responder),
            NOTHING => responder(Reply::Nothing),
            CLOSE => responder(Reply::Close("the client asked for it".to_owned())),
            LARGE => {
                let len = usize::try_from(frame.get_i32()).unwrap();
                let mut head = BytesMut::new();
                head.put_i32(i32::try_from(len + 4).unwrap());
                head.put_i32(correlation);
                let body = self.large.lock().entry(len).or_insert_with(|| pattern(0, len).into()).clone();
                let parts = vec![ResponsePart::Bytes(head.freeze()), ResponsePart::Bytes(body)];
                responder(Reply::Response(Response { parts }));
            }
            REGION => {
                let (position, len) = (frame.get_i64(), frame.get_i64());
                let mut head = BytesMut::new();
                head.put_i32(i32::try_from(len + 4 + 3).unwrap());
                head.put_i32(correlation);
                let file = self.file.lock().clone().expect("the test has set a file");
                let (position, len_bytes) = (u64::try_from(position).unwrap(), u64::try_from(len).unwrap());
                let parts = vec![
                    ResponsePart::Bytes(head.freeze()),
                    ResponsePart::Bytes(Bytes::new()),
                    ResponsePart::File { file, position, len_bytes },
                    ResponsePart::Bytes(Bytes::from_static(b"end")),
                ];
                responder(Reply::Response(Response { parts }));
            }
            LATER => {
                let delay_ms = u64::try_from(frame.get_i32()).unwrap();
                std::thread::spawn(move || {
                    pause(delay_ms);
                    responder(answer(correlation, &frame));
                });
            }
            other => panic!("unknown command {other}"),
        }
    }

    fn connection_closed(&self, _now: Now, connection: &Arc<Connection>) {
        assert!(connection.is_closed());
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

/// Bytes that tell their position.
pub fn pattern(position: usize, len: usize) -> Vec<u8> {
    (position..position + len)
        .map(|place| u8::try_from((place ^ place >> 8 ^ place >> 16) & 0xff).unwrap())
        .collect()
}

#[expect(clippy::disallowed_methods, reason = "tests of real sockets wait for real")]
pub fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Waits until `holds`.
#[expect(clippy::disallowed_methods, reason = "tests of real sockets wait for real")]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never came true: {what}");
        pause(2);
    }
}

/// A listener with its service, on a port of its own.
pub struct Server {
    pub runtime: Runtime,
    pub toy: Arc<Toy>,
    pub listener: Option<Listener>,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(limits: Limits) -> Self {
        Self::start_on("127.0.0.1", limits)
    }

    pub fn start_on(host: &str, limits: Limits) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let toy = Arc::new(Toy::default());
        let service: Arc<dyn Service> = Arc::clone(&toy) as Arc<dyn Service>;
        let listener = runtime.block_on(async {
            let sockets = bind(host, 0, SocketOptions::default()).await.unwrap();
            Listener::start(sockets, limits, service, Arc::new(RequestStats::new(2)), Clock::start())
        });
        let address = listener.addresses().first().copied().unwrap();
        Self { runtime, toy, listener: Some(listener), address }
    }

    pub fn listener(&self) -> &Listener {
        self.listener.as_ref().expect("it runs")
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Checks that a new client is served.
    pub fn assert_alive(&self) {
        let mut client = self.connect();
        client.send(ECHO, 77, b"alive");
        assert_eq!(client.receive(), (77, b"alive".to_vec()));
    }
}

/// A client that writes and reads frames.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    pub fn send(&mut self, api_key: i16, correlation: i32, body: &[u8]) {
        self.stream.write_all(&frame(api_key, correlation, body)).unwrap();
    }

    pub fn receive(&mut self) -> (i32, Vec<u8>) {
        self.try_receive().unwrap()
    }

    pub fn try_receive(&mut self) -> io::Result<(i32, Vec<u8>)> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head)?;
        let (mut length, mut correlation) = head.split_at(4);
        let mut body = vec![0; usize::try_from(length.get_i32() - 4).unwrap()];
        self.stream.read_exact(&mut body)?;
        Ok((correlation.get_i32(), body))
    }

    /// Checks that the server ends this connection, without another byte.
    pub fn assert_closed(&mut self) {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => {}
            Ok(_) => panic!("got another byte"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
    }
}

pub fn frame(api_key: i16, correlation: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_i32(i32::try_from(body.len() + 8).unwrap());
    bytes.put_i16(api_key);
    bytes.put_i16(0);
    bytes.put_i32(correlation);
    bytes.put_slice(body);
    bytes.to_vec()
}
