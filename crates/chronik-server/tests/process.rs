//! Whole processes: this test's own executable runs again as a node with a toy service.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[expect(unreachable_pub, dead_code, reason = "each test file uses a part of it")]
mod toy;

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;

use chronik_server::process::{Context, Node, run};
use chronik_server::system::DataDirError;
use chronik_server::threads::{Waker, Worker, start_timers};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, setrlimit};
use toy::{Client, ECHO, PARK, RELEASE, Toy, eventually, frame};

/// Set in a process that is to be a node.
const AS_NODE: &str = "TOY_NODE";

/// The node's file that says that it has shut down in good order.
const CHECKPOINT: &str = "checkpoint";

/// Not a test of its own: what the others start.
#[test]
fn toy_node() {
    let Ok(mode) = std::env::var(AS_NODE) else { return };
    let code = run(["chronik-server".into()], std::env::vars_os(), |context| open(&mode, &context));
    // `ExitCode` does not tell its number, and this process must end with it.
    let code = if code == std::process::ExitCode::SUCCESS {
        0
    } else if code == std::process::ExitCode::from(2) {
        2
    } else {
        1
    };
    std::process::exit(code);
}

#[expect(clippy::disallowed_methods, reason = "the toy keeps its state in a plain file")]
fn open(mode: &str, context: &Context) -> Result<Node, Box<dyn Error>> {
    let data_dir = std::path::absolute(&context.config.data_dir)?;
    if mode == "locked" {
        return Err(DataDirError::Locked { path: data_dir }.into());
    }
    if mode == "few files" {
        // Only now, so that the limit on connections does not come before the one on files.
        setrlimit(Resource::Nofile, Rlimit { current: Some(40), maximum: Some(40) })?;
    }
    let fails = mode == "failing thread";
    let timers: Worker = start_timers(
        context.clock,
        Waker::new(),
        move |now| {
            assert!(!fails || now.monotonic.0 < 300, "told to fail");
            Some(now.monotonic.plus_ms(50))
        },
        Arc::clone(&context.on_panic),
    )?;
    Ok(Node {
        ready: Box::pin(std::future::ready(Ok(()))),
        leaving: Box::pin(std::future::ready(())),
        service: Arc::new(Toy::default()),
        workers: vec![timers],
        listening: Box::new(|_limits| ()),
        shut_down: Box::new(move |_now| Ok(std::fs::write(data_dir.join(CHECKPOINT), "clean")?)),
    })
}

struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    seen: String,
}

impl Process {
    fn start(mode: &str, data_dir: &Path, variables: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "toy_node", "--nocapture", "--quiet"])
            .env(AS_NODE, mode)
            .env("CHRONIK_BIND", "127.0.0.1")
            .env("CHRONIK_KAFKA_PORT", "0")
            .env("CHRONIK_DATA_DIR", data_dir)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout, seen: String::new() }
    }

    /// Reads standard output up to a line that holds `text`, which it returns.
    fn read_to(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "no '{text}' in:\n{}", self.seen);
            self.seen.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    fn address(&mut self) -> SocketAddr {
        let line = self.read_to("Address ");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; returns the status and standard error.
    fn end(mut self) -> (ExitStatus, String) {
        let mut status = None;
        eventually("the process ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let mut errors = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (status.unwrap(), errors)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Checks that the process ends by itself with this code and one line.
fn complains(mode: &str, data_dir: &Path, variables: &[(&str, &str)], code: i32, parts: &[&str]) {
    let (status, errors) = Process::start(mode, data_dir, variables).end();
    assert_eq!(status.code(), Some(code), "{errors}");
    assert_eq!(errors.matches('\n').count(), 1, "{errors}");
    for part in parts {
        assert!(errors.contains(part), "'{errors}' lacks '{part}'");
    }
}

#[test]
fn says_where_it_is_and_ends_in_good_order_on_sigterm_and_sigint() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start("", dir.path(), &[("CHRONIK_NODE_ID", "7")]);
        process.read_to("node 7, is ready");
        let address = process.address();
        assert!(process.read_to("Data ").contains(dir.path().to_str().unwrap()));
        assert!(process.read_to("kcat -b ").contains(&address.to_string()));
        let line = process.read_to("Transitioning from RECOVERY to RUNNING");
        assert!(line.starts_with("[2") && line.contains("] INFO [BrokerLifecycleManager id=7]"), "{line}");

        let mut client = Client::connect(address);
        client.send(PARK, 1, b"finish me");
        let mut other = Client::connect(address);
        other.send(ECHO, 2, b"");
        other.receive();
        process.signal(Signal::HUP);
        process.signal(signal);
        process.read_to("Shutting down");
        // The parked request is cut off after a while; its connection ends and the process does.
        client.assert_closed();
        let (status, errors) = process.end();
        assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
        assert!(dir.path().join(CHECKPOINT).exists());
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start("", dir.path(), &[]);
    let mut client = Client::connect(process.address());
    client.send(PARK, 1, b"hold it up");
    client.send(ECHO, 1, b"");
    process.read_to("RUNNING");
    let mut other = Client::connect(client.stream.peer_addr().unwrap());
    other.send(ECHO, 1, b"");
    other.receive();
    process.signal(Signal::TERM);
    process.read_to("Shutting down");
    process.signal(Signal::TERM);
    let (status, _) = process.end();
    assert_eq!(status.code(), Some(128 + 15));
    assert!(!dir.path().join(CHECKPOINT).exists());
}

#[test]
fn a_thread_that_panics_ends_the_process_in_good_order_and_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start("failing thread", dir.path(), &[]);
    process.read_to("Thread 'timers' panicked and this node cannot go on");
    let (status, _) = process.end();
    assert_eq!(status.code(), Some(1));
    assert!(dir.path().join(CHECKPOINT).exists());
}

#[test]
fn what_keeps_it_from_starting_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    complains(
        "",
        dir.path(),
        &[("CHRONIK_KAFKA_PORT", &port)],
        1,
        &["another process uses that port", &port],
    );
    complains("locked", dir.path(), &[], 1, &["in use by another process", "CHRONIK_DATA_DIR"]);
    complains("", Path::new("/proc/nothing/here"), &[], 1, &["/proc/nothing/here", "CHRONIK_DATA_DIR"]);
    complains(
        "",
        dir.path(),
        &[("CHRONIK_NUM_PARTITION", "1")],
        2,
        &["did you mean CHRONIK_NUM_PARTITIONS?"],
    );
    complains(
        "",
        dir.path(),
        &[("CHRONIK_CLUSTER_ENABLED", "true")],
        2,
        &["CHRONIK_CLUSTER_PEERS is not set"],
    );
    complains("", dir.path(), &[("CHRONIK_BIND", "192.0.2.1")], 1, &["192.0.2.1", "CHRONIK_BIND"]);
}

#[test]
fn json_logs_are_json_from_the_first_line_to_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start("", dir.path(), &[("CHRONIK_LOG_FORMAT", "json")]);
    process.read_to("Transitioning from RECOVERY to RUNNING");
    process.signal(Signal::TERM);
    process.stdout.read_to_string(&mut process.seen).unwrap();
    let mut messages = 0;
    for line in process.seen.lines().filter(|line| !line.is_empty() && !line.starts_with("running ")) {
        let value: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(value["level"], "INFO");
        messages += 1;
    }
    assert!(messages >= 4, "{}", process.seen);
}

/// More clients than the process may have open files: those who are in go on, and others follow when they leave.
#[test]
fn running_out_of_open_files_does_not_end_the_listener() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start("few files", dir.path(), &[]);
    let address = process.address();
    process.read_to("RUNNING");
    let mut clients: Vec<Client> = (0..60).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        std::io::Write::write_all(&mut client.stream, &frame(ECHO, 1, b"")).unwrap();
    }
    process.read_to("Accepting a connection failed");
    clients[5].receive();
    for n in 0..30 {
        clients[5].send(ECHO, n, b"");
        assert_eq!(clients[5].receive().0, n);
    }
    let mut last = clients.pop().unwrap();
    drop(clients);
    assert_eq!(last.receive().0, 1, "it is served once others have left");
    last.send(RELEASE, 2, b"");
    last.receive();
}
