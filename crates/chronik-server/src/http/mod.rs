//! The port for operators: is the node alive, is it ready, and how is it doing.
//!
//! It has a thread of its own, so that it answers however busy the network threads are, and so that writing down many
//! series keeps no client waiting. One connection carries one request. Everything that a client may cost is bounded:
//! connections, header bytes and the time of the whole exchange.

mod client;
mod routes;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore};

use crate::metrics::Telemetry;
use crate::net::{self, BindError, SocketOptions};
use crate::threads::{OnPanic, Worker};

pub use client::{CheckError, HealthCheck, Url};

/// Connections that are served at once; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's line and headers.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;
/// Headers of a request.
pub const HEADERS_MAX: usize = 64;
/// How long the headers of a request may take to arrive.
pub const HEADER_MS_MAX: u64 = 5_000;
/// How long a request may take, from its connection to the last byte of the answer.
pub const EXCHANGE_MS_MAX: u64 = 30_000;
/// The pause after a failed accept.
const ACCEPT_PAUSE_MS: u64 = 100;
/// What sets the port.
const HTTP_PORT: &str = "CHRONIK_HTTP_PORT";

/// The port, listening and not yet answered on.
#[derive(Debug)]
pub struct HttpPort {
    runtime: Runtime,
    sockets: Vec<TcpListener>,
}

/// Opens the port. 0 has the system choose one.
pub fn open(host: &str, port: u16) -> Result<HttpPort, Box<dyn std::error::Error>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let options = SocketOptions { port_variable: HTTP_PORT, ..SocketOptions::default() };
    let sockets =
        runtime.block_on(net::bind(host, port, options)).map_err(|error: BindError| Box::new(error))?;
    Ok(HttpPort { runtime, sockets })
}

impl HttpPort {
    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Answers from now on, on a thread of its own, until the worker is stopped.
    pub fn serve(self, telemetry: Arc<Telemetry>, on_panic: OnPanic) -> io::Result<Worker> {
        let Self { runtime, sockets } = self;
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let body = move || {
            runtime.block_on(async move {
                let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
                for socket in sockets {
                    tokio::spawn(accept(socket, Arc::clone(&telemetry), Arc::clone(&permits)));
                }
                stopped.notified().await;
            });
            runtime.shutdown_background();
            Ok(())
        };
        Worker::run("http", body, move || stop.notify_one(), on_panic)
    }
}

async fn accept(socket: TcpListener, telemetry: Arc<Telemetry>, permits: Arc<Semaphore>) {
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match socket.accept().await {
            Ok((stream, peer)) => {
                let telemetry = Arc::clone(&telemetry);
                tokio::spawn(async move {
                    exchange(stream, peer, telemetry).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!("Accepting on the HTTP port failed: {error}");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

async fn exchange(stream: TcpStream, peer: SocketAddr, telemetry: Arc<Telemetry>) {
    let service = service_fn(move |request| {
        let telemetry = Arc::clone(&telemetry);
        async move { Ok::<_, Infallible>(routes::answer(&telemetry, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEADER_MS_MAX))
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(Duration::from_millis(EXCHANGE_MS_MAX), connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("A request from {peer} on the HTTP port failed: {error}"),
        Err(_) => {
            tracing::debug!("A request from {peer} on the HTTP port took more than {EXCHANGE_MS_MAX} ms");
        }
    }
}

#[cfg(test)]
mod tests;
