//! Listening, accepting, and ending in good order.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::budget::Budget;
use super::connection::{self, Shared};
use super::limits::Limits;
use super::live::LiveLimits;
use super::log_gate::LogGate;
use super::registry::{Phase, Registry};
use super::service::Service;
use crate::clock::Clock;
use crate::metrics::RequestStats;

/// The first pause after a failed accept; it doubles up to [`ACCEPT_PAUSE_MS_MAX`].
const ACCEPT_PAUSE_MS_MIN: u64 = 10;
/// The longest pause after a failed accept.
const ACCEPT_PAUSE_MS_MAX: u64 = 1_000;

/// After this long without a word, the kernel asks whether the client's host is still there.
const KEEPALIVE_IDLE_S: u64 = 60;
/// How often it asks again, and how many times before it gives the connection up.
const KEEPALIVE_INTERVAL_S: u64 = 10;
/// See [`KEEPALIVE_INTERVAL_S`].
const KEEPALIVE_COUNT: u32 = 6;

/// What sets the port for Kafka clients.
const KAFKA_PORT: &str = "CHRONIK_KAFKA_PORT";

/// How sockets are set up.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// `socket.listen.backlog.size`.
    pub backlog: u32,
    /// `socket.send.buffer.bytes`; `None` leaves it to the operating system, which adapts it.
    pub send_buffer_bytes: Option<u32>,
    /// `socket.receive.buffer.bytes`; `None` leaves it to the operating system, which adapts it.
    pub receive_buffer_bytes: Option<u32>,
    /// What sets the port, for whoever has to choose another.
    pub port_variable: &'static str,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self { backlog: 1024, send_buffer_bytes: None, receive_buffer_bytes: None, port_variable: KAFKA_PORT }
    }
}

/// Why a port cannot be listened on.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error(
        "cannot listen on {address}: another process uses that port. Stop it, or choose another port with \
         {variable}"
    )]
    InUse {
        /// What sets the port.
        variable: &'static str,
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// A port below 1024.
    #[error(
        "cannot listen on {address}: this user may not use ports below 1024. Choose another port with \
         {variable}"
    )]
    NotAllowed {
        /// What sets the port.
        variable: &'static str,
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// An address of another machine.
    #[error(
        "cannot listen on {address}: this machine has no such address. Set CHRONIK_BIND to one that it has, or \
         leave it out to listen on all"
    )]
    NotLocal {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// A name that leads nowhere.
    #[error("cannot listen on '{host}' (CHRONIK_BIND): the name leads to no address")]
    UnknownHost {
        /// The name that was asked for.
        host: String,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
}

impl BindError {
    fn of(address: SocketAddr, variable: &'static str, source: io::Error) -> Self {
        let kind = source.kind();
        if kind == io::ErrorKind::AddrInUse {
            Self::InUse { variable, address }
        } else if kind == io::ErrorKind::PermissionDenied {
            Self::NotAllowed { variable, address }
        } else if kind == io::ErrorKind::AddrNotAvailable {
            Self::NotLocal { address }
        } else {
            Self::Other { address, source }
        }
    }
}

/// Opens a listening socket on every address that `host` stands for. Port 0 lets the system choose one port for
/// all of them. `::` stands for all addresses of both families, also where there is no IPv6.
/// An error names the Kafka port's variable, unless `options` has another.
pub async fn bind(host: &str, port: u16, options: SocketOptions) -> Result<Vec<TcpListener>, BindError> {
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => match tokio::net::lookup_host((host, port)).await {
            Ok(addresses) => addresses.collect(),
            Err(_) => Vec::new(),
        },
    };
    if addresses.is_empty() {
        return Err(BindError::UnknownHost { host: host.to_owned() });
    }
    let mut listeners: Vec<TcpListener> = Vec::new();
    let mut port = port;
    for mut address in addresses {
        address.set_port(port);
        let bound = match listen(address, options) {
            Err(error)
                if address.ip() == Ipv6Addr::UNSPECIFIED
                    && !matches!(
                        error.kind(),
                        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
                    ) =>
            {
                address = SocketAddr::new([0, 0, 0, 0].into(), port);
                listen(address, options)
            }
            bound => bound,
        };
        match bound {
            Ok(listener) => {
                port = listener.local_addr().map_or(port, |address| address.port());
                listeners.push(listener);
            }
            // A name such as localhost may stand for an IPv6 address on a machine without IPv6.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && !listeners.is_empty() => {
                tracing::debug!("Not listening on {address}: {error}");
            }
            Err(source) => {
                return Err(BindError::of(address, options.port_variable, source));
            }
        }
    }
    Ok(listeners)
}

fn listen(address: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() {
        let socket = TcpSocket::new_v6()?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, address.ip() != Ipv6Addr::UNSPECIFIED)?;
        socket
    } else {
        TcpSocket::new_v4()?
    };
    socket.set_reuseaddr(true)?;
    // Accepted sockets inherit the buffers' sizes, and the receive window's scale is fixed at the handshake.
    if let Some(bytes) = options.send_buffer_bytes {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(address)?;
    socket.listen(options.backlog)
}

/// A socket that listens, and whose clients it is for.
#[derive(Debug)]
pub struct Socket {
    /// The listener's name; `None` for the one that every node has.
    pub name: Option<Arc<str>>,
    /// The socket.
    pub socket: TcpListener,
}

impl From<TcpListener> for Socket {
    fn from(socket: TcpListener) -> Self {
        Self { name: None, socket }
    }
}

/// How the sockets are doing at any moment.
#[derive(Clone, Debug)]
pub struct Gauges {
    registry: Arc<Registry>,
    budget: Arc<Budget>,
}

impl Gauges {
    /// How many clients are connected.
    pub fn connection_count(&self) -> usize {
        self.registry.connection_count()
    }

    /// Bytes of requests and unsent answers of all connections.
    pub fn bytes_in_flight(&self) -> u64 {
        self.budget.used_bytes()
    }

    /// What those bytes may come to.
    pub fn bytes_in_flight_max(&self) -> u64 {
        self.budget.capacity_bytes()
    }

    /// How many connections wait for memory.
    pub fn waiting_count(&self) -> usize {
        self.budget.waiting_count()
    }
}

/// Accepts clients on some sockets and runs their connections.
#[derive(Debug)]
pub struct Listener {
    addresses: Vec<SocketAddr>,
    registry: Arc<Registry>,
    budget: Arc<Budget>,
    live: Arc<LiveLimits>,
    accepting: Vec<JoinHandle<()>>,
}

impl Listener {
    /// Begins to accept. Called within a tokio runtime, which then runs the connections.
    pub fn start(
        sockets: impl IntoIterator<Item = impl Into<Socket>>,
        limits: Limits,
        service: Arc<dyn Service>,
        stats: Arc<RequestStats>,
        clock: Clock,
    ) -> Self {
        let live = LiveLimits::new(&limits);
        let registry = Registry::new(Arc::clone(&live));
        let budget = Budget::new(limits.bytes_in_flight_max);
        let shared = Arc::new(Shared {
            service,
            limits,
            budget: Arc::clone(&budget),
            clock,
            stats,
            client_faults: LogGate::default(),
        });
        let sockets: Vec<Socket> = sockets.into_iter().map(Into::into).collect();
        let addresses = sockets.iter().filter_map(|socket| socket.socket.local_addr().ok()).collect();
        let accepting = sockets
            .into_iter()
            .map(|socket| {
                let (registry, shared) = (Arc::clone(&registry), Arc::clone(&shared));
                tokio::spawn(accept(socket, registry, shared, Arc::clone(&live)))
            })
            .collect();
        Self { addresses, registry, budget, live, accepting }
    }

    /// The limits that can be changed from now on.
    pub fn live_limits(&self) -> &Arc<LiveLimits> {
        &self.live
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What shows how the sockets are doing, also once the listener is shut down.
    pub fn gauges(&self) -> Gauges {
        Gauges { registry: Arc::clone(&self.registry), budget: Arc::clone(&self.budget) }
    }

    /// How many clients are connected.
    pub fn connection_count(&self) -> usize {
        self.registry.connection_count()
    }

    /// Bytes of requests and unsent answers of all connections.
    pub fn bytes_in_flight(&self) -> u64 {
        self.budget.used_bytes()
    }

    /// How many connections wait for memory.
    pub fn waiting_count(&self) -> usize {
        self.budget.waiting_count()
    }

    /// Stops accepting and reading, lets the requests that have been read finish for up to `drain`, and ends all
    /// connections. Returns how many had to be cut off.
    pub async fn shut_down(mut self, drain: Duration) -> usize {
        for task in self.accepting.drain(..) {
            task.abort();
            // Its socket is closed once the task is gone, and new clients are refused from then on.
            drop(task.await);
        }
        self.registry.enter(Phase::Draining);
        if tokio::time::timeout(drain, self.registry.emptied()).await.is_ok() {
            return 0;
        }
        let cut_off = self.registry.connection_count();
        self.registry.enter(Phase::Aborting);
        self.registry.emptied().await;
        cut_off
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        for task in &self.accepting {
            task.abort();
        }
        self.registry.enter(Phase::Aborting);
    }
}

async fn accept(socket: Socket, registry: Arc<Registry>, shared: Arc<Shared>, limits: Arc<LiveLimits>) {
    let Socket { name, socket } = socket;
    let mut pause_ms = ACCEPT_PAUSE_MS_MIN;
    loop {
        // Held before accepting: clients over the limit wait in the backlog, as in Kafka (KIP-402).
        let Some(permit) = limits.acquire().await else { return };
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            // The client was gone before it was accepted: its own affair.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::Interrupted
                ) =>
            {
                limits.release(permit);
                continue;
            }
            Err(error) => {
                limits.release(permit);
                // Out of descriptors or memory. What is connected goes on, and may end and make room.
                tracing::error!("Accepting a connection failed, next try in {pause_ms} ms: {error}");
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                pause_ms = (pause_ms * 2).min(ACCEPT_PAUSE_MS_MAX);
                continue;
            }
        };
        pause_ms = ACCEPT_PAUSE_MS_MIN;
        let peer = canonical(peer);
        let Ok(local) = stream.local_addr().map(canonical) else {
            limits.release(permit);
            continue;
        };
        let Some(place) = registry.admit(peer.ip()) else {
            limits.release(permit);
            shared.stats.refused();
            shared.client_faults.log(shared.clock.monotonic(), || {
                tracing::warn!(
                    "Refused a connection from {}: it has as many as one address may have \
                     (max.connections.per.ip)",
                    peer.ip()
                );
            });
            continue;
        };
        if let Err(error) = set_up(&stream) {
            tracing::debug!("Setting up the connection from {peer} failed: {error}");
        }
        shared.stats.accepted();
        let (shared, limits, name) = (Arc::clone(&shared), Arc::clone(&limits), name.clone());
        tokio::spawn(async move {
            connection::run(shared, place, stream, local, peer, name).await;
            limits.release(permit);
        });
    }
}

/// The IPv4 address that a client of a socket for both families really has.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(KEEPALIVE_IDLE_S))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(KEEPALIVE_INTERVAL_S))?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    Ok(())
}
