//! The port over a real socket, for a process whose node is not there yet.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::*;
use crate::clock::Clock;
use crate::health::Step;

struct Server {
    telemetry: Arc<Telemetry>,
    address: SocketAddr,
    _worker: Worker,
}

fn server() -> Server {
    let telemetry = Telemetry::new(Clock::start(), 1);
    let port = open("127.0.0.1", 0).expect("a port of its own");
    let address = port.addresses()[0];
    let on_panic: OnPanic = Arc::new(|name, text| panic!("{name}: {text}"));
    let worker = port.serve(Arc::clone(&telemetry), on_panic).expect("a thread");
    Server { telemetry, address, _worker: worker }
}

impl Server {
    /// What comes back for these bytes; nothing where the connection breaks.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        let mut answer = Vec::new();
        if stream.write_all(bytes).is_err() || stream.read_to_end(&mut answer).is_err() {
            return String::new();
        }
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn check(&self, path: &str) -> HealthCheck {
        let url: Url = format!("http://{}{path}", self.address).parse().expect("a URL");
        HealthCheck::run(&url).expect("an answer")
    }
}

#[test]
fn a_node_that_starts_is_live_and_not_ready_and_says_how_far_it_is() {
    let server = server();
    assert!(server.check("/health/live").is_healthy);
    let reason = || {
        let check = server.check("/health/ready");
        assert!(!check.is_healthy);
        let body: serde_json::Value = serde_json::from_str(&check.body).expect("JSON");
        (
            body["reason"].as_str().unwrap_or_default().to_owned(),
            body["recovery"]["partitions_recovered"].as_u64(),
        )
    };
    assert_eq!(reason(), ("starting".to_owned(), Some(0)));
    server.telemetry.health.recovering(3);
    server.telemetry.health.recovered_one();
    assert_eq!(reason(), ("recovering".to_owned(), Some(1)));
    server.telemetry.health.enter(Step::Stopping);
    server.telemetry.health.enter(Step::Serving);
    assert_eq!(reason().0, "stopping", "steps are not taken back");
}

#[test]
fn a_metadata_thread_that_turns_keeps_the_node_alive() {
    let server = server();
    let (health, clock) = (Arc::clone(&server.telemetry.health), *server.telemetry.clock());
    health.set_metadata_waker(Box::new({
        let health = Arc::clone(&health);
        move || health.metadata_turned(clock.monotonic())
    }));
    assert!(server.check("/health/live").is_healthy);
}

#[test]
fn a_metadata_thread_that_does_not_turn_is_told() {
    let server = server();
    server.telemetry.health.set_metadata_waker(Box::new(|| ()));
    let check = server.check("/health/live");
    assert!(!check.is_healthy && check.body.contains("metadata_thread"), "{}", check.body);
}

#[test]
fn the_process_is_told_before_there_is_a_node() {
    let body = server().check("/metrics").body;
    assert!(body.contains("\nchronik_serving 0\n"), "{body}");
    assert!(!body.contains("# EOF"), "only OpenMetrics ends so");
}

#[test]
fn hostile_bytes_are_refused_and_do_no_harm() {
    let server = server();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(2 * HEADER_BYTES_MAX));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: a\r\n".repeat(HEADERS_MAX + 1));
    let mut seed = 1_u64;
    let mut garbage = Vec::new();
    for _ in 0..4096 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        garbage.push(seed.to_be_bytes()[0]);
    }
    garbage.extend_from_slice(b"\r\n\r\n");
    for bytes in
        [long.as_bytes(), many.as_bytes(), &garbage, b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\n\r\n\r\n \r\n\r\n"]
    {
        assert!(!server.raw(bytes).contains(" 200 "), "{}", String::from_utf8_lossy(bytes));
    }
    let one = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(server.raw(one.repeat(3).as_bytes()).matches("HTTP/1.1 200").count(), 1);
    assert!(server.check("/").is_healthy);
}

#[test]
fn silent_connections_do_not_keep_others_out_for_ever() {
    let server = server();
    let silent: Vec<TcpStream> =
        (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(server.address).expect("it listens")).collect();
    // Served once the first of them have been cut off.
    assert!(server.check("/").is_healthy);
    drop(silent);
}
