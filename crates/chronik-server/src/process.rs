//! The life of the process: start, run, end.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use chronik_types::Now;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::config::{self, Command, Config, ExternalListeners, LogFormat};
use crate::health::Step;
use crate::http::{self, HealthCheck};
use crate::loggers::ProcessLoggers;
use crate::metrics::Telemetry;
use crate::net::{self, Listener, LiveLimits, Service, Socket, SocketOptions};
use crate::race::{Either, race};
use crate::signals::{self, Stop};
use crate::threads::{OnPanic, Worker};
use crate::{logging, system};

/// How long requests that have been read may take to finish once the process is to end. Kafka clients' fetches
/// wait for half a second by default.
pub const DRAIN_MS_MAX: u64 = 3_000;

/// What sets the ports of further listeners.
const EXTERNAL_LISTENERS: &str = "CHRONIK_EXTERNAL_LISTENERS";
/// What sets the port of the metadata log: all nodes must know of another.
const RAFT_PORT: &str = "CHRONIK_CLUSTER_PEERS on every node";

/// The exit code when the process cannot start or go on.
const EXIT_FAILURE: u8 = 1;
/// The exit code when the settings cannot be used.
const EXIT_USAGE: u8 = 2;

/// What a node is opened with.
pub struct Context {
    /// The settings.
    pub config: Config,
    /// The port that clients connect to.
    pub kafka_port: u16,
    /// What tells the time.
    pub clock: Clock,
    /// How many files the process may have open.
    pub open_files_max: Option<u64>,
    /// For the threads that the node starts.
    pub on_panic: OnPanic,
    /// Ends the process in good order, because the node cannot do its work any more.
    pub on_failure: OnFailure,
    /// What is told of the node; it hears of the node's parts as they come.
    pub telemetry: Arc<Telemetry>,
    /// How to reach the other nodes; `None` for a single node.
    pub cluster: Option<ClusterContext>,
    /// What changes the log levels, where the process has logging.
    pub loggers: Option<ProcessLoggers>,
}

/// Called when a node cannot do its work any more.
pub type OnFailure = Arc<dyn Fn() + Send + Sync>;

/// What a node of a cluster is opened with beside the rest.
pub struct ClusterContext {
    /// The Raft port, listening already.
    pub sockets: Vec<TcpListener>,
    /// What runs the connections over which records are replicated.
    pub runtime: tokio::runtime::Handle,
    /// What runs the connections of the Raft port.
    pub peer_runtime: tokio::runtime::Handle,
}

/// Ends when a node may serve its first request, or when it is clear that it never will.
pub type Ready = Pin<Box<dyn Future<Output = Result<(), Box<dyn Error>>>>>;

/// What a node that serves does before it stops serving.
pub type Leaving = Pin<Box<dyn Future<Output = ()>>>;

/// The last thing that a node does.
pub type ShutDown = Box<dyn FnOnce(Now) -> Result<(), Box<dyn Error>> + Send>;

/// What a node does with the limits that can be changed at run time.
pub type Listening = Box<dyn FnOnce(Arc<LiveLimits>) + Send>;

/// A node that runs.
pub struct Node {
    /// What answers requests, once the node is ready for them.
    pub service: Arc<dyn Service>,
    /// Waits for that. It is polled on a tokio runtime.
    pub ready: Ready,
    /// Hands over to other nodes what this one leads, while it still serves. It is polled on a tokio runtime, and only
    /// where the node has served.
    pub leaving: Leaving,
    /// Its threads, which are stopped in this order once no request is left.
    pub workers: Vec<Worker>,
    /// Told of the limits that can be changed at run time, once clients can connect.
    pub listening: Listening,
    /// Syncs, writes the checkpoint, and closes what is open. Runs last.
    pub shut_down: ShutDown,
}

/// Runs a node until it is told to end. `open` makes it of what lies in the data directory.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    open: impl FnOnce(Context) -> Result<Node, Box<dyn Error>>,
) -> ExitCode {
    let config = match config::load(arguments, environment, system::read_text_file) {
        Ok(Command::Run(config)) => *config,
        Ok(Command::Print(text)) => {
            return match io::stdout().lock().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(EXIT_FAILURE),
            };
        }
        Ok(Command::Health(url)) => return check_health(&url),
        Err(error) => {
            complain(&error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match start_and_wait(config, open) {
        Ok(code) => code,
        Err(error) => {
            complain(error.as_ref());
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Prints what a node says of itself.
fn check_health(url: &http::Url) -> ExitCode {
    match HealthCheck::run(url) {
        Ok(check) => {
            // Whoever runs this looks at the exit code; nobody may be reading.
            drop(writeln!(io::stdout().lock(), "{}", check.body));
            if check.is_healthy { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) }
        }
        Err(error) => {
            complain(&error);
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// One line on standard error, with all causes that the error's own text leaves out.
fn complain(error: &dyn Error) {
    let mut line = format!("chronik-server: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line.push_str(": ");
            line.push_str(&cause_text);
        }
        source = cause.source();
    }
    let line = line.replace('\n', " ") + "\n";
    // With standard error gone there is nobody left to tell.
    drop(io::stderr().lock().write_all(line.as_bytes()));
}

fn start_and_wait(
    config: Config,
    open: impl FnOnce(Context) -> Result<Node, Box<dyn Error>>,
) -> Result<ExitCode, Box<dyn Error>> {
    let clock = Clock::start();
    let loggers = Some(logging::start(&config.log, config.log_format, clock));
    for warning in config.values.warnings() {
        tracing::warn!("{warning}");
    }
    let (stops, mut stopped) = mpsc::unbounded_channel();
    signals::start(stops.clone())?;
    let open_files_max = system::raise_open_files_limit();

    let threads = config.num_network_threads.unwrap_or_else(system::core_count);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("network")
        .enable_all()
        .build()?;
    let sockets = runtime.block_on(net::bind(&config.bind.0, config.kafka_port, config.socket_options()))?;
    let addresses: Vec<SocketAddr> = sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect();
    let kafka_port = addresses.first().map_or(config.kafka_port, SocketAddr::port);
    let cluster = match config.own_peer() {
        None => None,
        Some(own) => {
            let options = SocketOptions { port_variable: RAFT_PORT, ..SocketOptions::default() };
            let peer_runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(PEER_THREADS)
                .thread_name("peers")
                .enable_all()
                .build()?;
            let sockets = peer_runtime.block_on(net::bind(&config.bind.0, own.raft_port, options))?;
            let runtime = runtime.handle().clone();
            Some((
                ClusterContext { sockets, runtime, peer_runtime: peer_runtime.handle().clone() },
                peer_runtime,
            ))
        }
    };
    let (cluster, peer_runtime) = cluster.unzip();
    let mut sockets: Vec<Socket> = sockets.into_iter().map(Socket::from).collect();
    for external in config.external_listeners.iter().flat_map(ExternalListeners::as_slice) {
        let options = SocketOptions { port_variable: EXTERNAL_LISTENERS, ..config.socket_options() };
        let name: Arc<str> = external.name.as_str().into();
        let bound = runtime.block_on(net::bind(&config.bind.0, external.port, options))?;
        sockets.extend(bound.into_iter().map(|socket| Socket { name: Some(Arc::clone(&name)), socket }));
    }
    let http = match config.http_port {
        None => None,
        Some(port) => Some(http::open(&config.http_bind.as_ref().unwrap_or(&config.bind).0, port)?),
    };
    let data_dir = system::prepare_data_dir(&config.data_dir)?;

    let on_failure: OnFailure = Arc::new(move || {
        if stops.send(Stop::Failed).is_err() {
            tracing::debug!("The process is ending already");
        }
    });
    let failed = Arc::clone(&on_failure);
    let on_panic: OnPanic = Arc::new(move |name, text| {
        tracing::error!("Thread '{name}' panicked and this node cannot go on without it: {text}");
        failed();
    });
    let telemetry = Telemetry::new(clock, threads);
    let http_worker = match http {
        None => None,
        Some(http) => {
            let addresses: Vec<String> = http.addresses().iter().map(ToString::to_string).collect();
            let worker = http.serve(Arc::clone(&telemetry), Arc::clone(&on_panic))?;
            tracing::info!("Health and metrics over HTTP on {}", addresses.join(", "));
            Some(worker)
        }
    };
    let limits = config.limits(open_files_max);
    let start_up = StartUp::of(&config, &addresses, data_dir);
    let node = open(Context {
        config,
        kafka_port,
        clock,
        open_files_max,
        on_panic,
        on_failure,
        telemetry: Arc::clone(&telemetry),
        cluster,
        loggers,
    })?;
    // A node of a cluster waits for the others as long as it takes; it can be told to end meanwhile.
    let (listener, reason) = match runtime.block_on(race(node.ready, stopped.recv())) {
        Either::First(Ok(())) => {
            let listener = {
                let _runtime = runtime.enter();
                let stats = Arc::clone(&telemetry.requests);
                Listener::start(sockets, limits, Arc::clone(&node.service), stats, clock)
            };
            (node.listening)(Arc::clone(listener.live_limits()));
            telemetry.set_sockets(listener.gauges());
            telemetry.health.enter(Step::Serving);
            start_up.tell();
            (Some(listener), runtime.block_on(stopped.recv()).unwrap_or(Stop::Failed))
        }
        Either::First(Err(error)) => {
            complain(error.as_ref());
            (None, Stop::Failed)
        }
        Either::Second(reason) => (None, reason.unwrap_or(Stop::Failed)),
    };
    telemetry.health.enter(Step::Stopping);
    tracing::info!("Shutting down: {reason}");
    if listener.is_some() {
        // Told to end once more, it ends at once.
        runtime.block_on(race(node.leaving, stopped.recv()));
    }
    node.service.stopping(clock.now());
    if let Some(listener) = listener {
        let cut_off = runtime.block_on(listener.shut_down(Duration::from_millis(DRAIN_MS_MAX)));
        if cut_off > 0 {
            tracing::info!(
                "Closed {cut_off} connections with requests that did not finish in {DRAIN_MS_MAX} ms"
            );
        }
    }
    for worker in node.workers {
        worker.stop();
    }
    (node.shut_down)(clock.now())?;
    // Up to here it says that this node is stopping.
    drop(http_worker);
    runtime.shutdown_background();
    if let Some(peer_runtime) = peer_runtime {
        peer_runtime.shutdown_background();
    }
    tracing::info!("Shut down");
    Ok(match reason {
        Stop::Signal(_) => ExitCode::SUCCESS,
        Stop::Failed => ExitCode::from(EXIT_FAILURE),
    })
}

/// Threads for what the nodes of a cluster say to each other. The network's threads write to the disk, and stand still
/// for as long as the kernel makes them wait when it is full of data to be written; heartbeats must not stand still with
/// them. There are two, because one may be busy with a request that a peer has passed on.
const PEER_THREADS: usize = 2;

/// Threads that read cold chunks of files. More than a disk takes at once would only wait for each other.
const BLOCKING_THREADS_MAX: usize = 16;

/// What a user is told when the node is ready.
struct StartUp {
    node_id: i32,
    format: LogFormat,
    listening: String,
    /// An address that a client on this machine can use.
    address: String,
    data_dir: PathBuf,
}

impl StartUp {
    fn of(config: &Config, addresses: &[SocketAddr], data_dir: PathBuf) -> Self {
        let everywhere = addresses.iter().any(|address| address.ip().is_unspecified());
        let port = addresses.first().map_or(config.kafka_port, SocketAddr::port);
        let first = addresses.first().map(ToString::to_string).unwrap_or_default();
        let address = match &config.advertise {
            Some(advertise) if advertise.port.is_some() => advertise.to_string(),
            Some(advertise) => format!("{advertise}:{port}"),
            None if everywhere => format!("localhost:{port}"),
            None => first,
        };
        let listening = if everywhere {
            format!("{address} (port {port} of all addresses of this machine)")
        } else {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        Self { node_id: config.node_id.0, format: config.log_format, listening, address, data_dir }
    }

    fn tell(&self) {
        let Self { node_id, listening, address, data_dir, .. } = self;
        match self.format {
            LogFormat::Text => {
                let block = format!(
                    "\nChronik {version}, node {node_id}, is ready for Kafka clients.\n  \
                     Address  {listening}\n  \
                     Data     {data}\n  \
                     Try      kcat -b {address} -L\n           \
                     kafka-topics.sh --bootstrap-server {address} --create --topic hello\n\n",
                    version = env!("CARGO_PKG_VERSION"),
                    data = data_dir.display(),
                );
                let mut stdout = io::stdout().lock();
                // A closed standard output is no reason not to serve.
                drop(stdout.write_all(block.as_bytes()).and_then(|()| stdout.flush()));
            }
            LogFormat::Json => tracing::info!(
                node_id,
                address = listening.as_str(),
                data_dir = %data_dir.display(),
                "Ready for Kafka clients"
            ),
        }
        // The words that Testcontainers and others wait for.
        tracing::info!(
            "[BrokerLifecycleManager id={node_id}] The broker has been unfenced. Transitioning from RECOVERY to \
             RUNNING."
        );
    }
}
