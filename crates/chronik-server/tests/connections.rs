//! Connections over loopback, with a toy service behind them.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[expect(unreachable_pub, reason = "each test file uses a part of it")]
mod toy;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use chronik_server::net::{BindError, FIRST_FRAME_BYTES_MAX, Limits, SocketOptions, bind};
use proptest::prelude::{Rng as _, RngExt as _};
use proptest::test_runner::{RngAlgorithm, TestRng};
use toy::{
    CLOSE, Client, DROP, ECHO, LARGE, LATER, NOTHING, PANIC, PARK, RELEASE, SWALLOW, Server, eventually,
    frame, pattern, pause,
};

const MIB: usize = 1024 * 1024;

fn rng(seed: u8) -> TestRng {
    TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32])
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    let requests: Vec<u8> = (0..1_000).flat_map(|n: i32| frame(ECHO, n, &n.to_be_bytes())).collect();
    client.stream.write_all(&requests).unwrap();
    for n in 0..1_000_i32 {
        assert_eq!(client.receive(), (n, n.to_be_bytes().to_vec()));
    }
}

#[test]
fn answers_given_out_of_order_by_other_threads_leave_in_order() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    for n in 0..60_i32 {
        let delay_ms = (60 - n) % 7 * 5;
        let api_key = if n % 5 == 0 { ECHO } else { LATER };
        client.send(api_key, n, &delay_ms.to_be_bytes());
    }
    for n in 0..60 {
        assert_eq!(client.receive().0, n);
    }
}

#[test]
fn a_parked_request_holds_back_the_answers_behind_it_and_no_other_connection() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send(PARK, 1, b"parked");
    client.send(ECHO, 2, b"behind");
    eventually("both ran", || server.toy.handled() == 2);
    server.assert_alive();
    let mut other = server.connect();
    other.send(RELEASE, 9, b"");
    assert_eq!(client.receive(), (1, b"parked".to_vec()));
    assert_eq!(client.receive(), (2, b"behind".to_vec()));
    assert_eq!(other.receive().0, 9);
}

/// Frames of all lengths, cut into pieces of all lengths.
#[test]
fn frames_arrive_whole_however_they_are_cut() {
    let server = Server::start(Limits::default());
    for seed in 0..12 {
        let mut rng = rng(seed);
        let frames: Vec<Vec<u8>> = (0..60)
            .map(|n| {
                let len = match rng.random_range(0..10) {
                    0 => rng.random_range(0..300_000),
                    1..4 => rng.random_range(0..30_000),
                    _ => rng.random_range(0..200),
                };
                pattern(n, len)
            })
            .collect();
        let bytes: Vec<u8> = (0..).zip(&frames).flat_map(|(n, body)| frame(ECHO, n, body)).collect();
        let mut client = server.connect();
        let mut writer = client.stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let cut = match rng.random_range(0..3) {
                    0 => rng.random_range(1..10),
                    1 => rng.random_range(1..1_000),
                    _ => rng.random_range(1..100_000),
                };
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                writer.write_all(piece).unwrap();
                rest = tail;
            }
        });
        for (n, body) in (0..).zip(&frames) {
            let (correlation, echoed) = client.receive();
            assert_eq!(correlation, n, "seed {seed}");
            assert!(echoed == *body, "seed {seed}, frame {n} of {} bytes was changed", body.len());
        }
        writing.join().unwrap();
    }
    eventually("all memory given back", || server.listener().bytes_in_flight() == 0);
}

#[test]
fn impossible_lengths_end_their_own_connection_only() {
    let server = Server::start(Limits { frame_bytes_max: 1000, ..Limits::default() });
    let mut bystander = server.connect();
    for length in [-1, i32::MIN, 0, 7, 1001, i32::MAX, i32::from_be_bytes(*b"GET ")] {
        let mut client = server.connect();
        client.send(ECHO, 1, b"before");
        assert_eq!(client.receive().1, b"before");
        client.stream.write_all(&length.to_be_bytes()).unwrap();
        client.assert_closed();
    }
    bystander.send(SWALLOW, 5, &[0; 992]);
    assert_eq!(bystander.receive(), (5, 992_u32.to_be_bytes().to_vec()));
}

#[test]
fn a_large_first_frame_must_be_a_produce() {
    let server = Server::start(Limits::default());
    let large = vec![0; FIRST_FRAME_BYTES_MAX + 1];
    let mut client = server.connect();
    client.stream.write_all(&frame(ECHO, 1, &large)[..6]).unwrap();
    client.assert_closed();

    let mut producer = server.connect();
    producer.send(SWALLOW, 1, &large);
    assert_eq!(producer.receive().0, 1);
    producer.send(ECHO, 2, &large);
    assert!(producer.receive().1 == large, "a proved client may send what it likes");
}

#[test]
fn a_frame_cut_short_by_the_client_is_forgotten() {
    let server = Server::start(Limits::default());
    let whole = frame(ECHO, 1, &vec![7; 100_000]);
    for len in [1, 3, 4, 5, 11, 12, 5_000, 70_000, whole.len() - 1] {
        let mut client = server.connect();
        client.stream.write_all(&whole[..len]).unwrap();
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.assert_closed();
    }
    assert_eq!(server.toy.handled(), 0);
    eventually("all memory given back", || server.listener().bytes_in_flight() == 0);
}

#[test]
fn random_bytes_harm_nobody() {
    let server = Server::start(Limits { slow_sender_ms_max: 50, ..Limits::default() });
    let mut rng = rng(42);
    for _ in 0..200 {
        let mut client = server.connect();
        let mut bytes = vec![0; rng.random_range(1..3_000)];
        rng.fill_bytes(&mut bytes);
        // The server may have hung up before all is written.
        drop(client.stream.write_all(&bytes));
    }
    server.assert_alive();
    eventually("all connections ended", || server.listener().connection_count() == 0);
    assert_eq!(server.listener().bytes_in_flight(), 0);
}

#[test]
fn a_panicking_handler_ends_its_own_connection_only() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send(PANIC, 1, b"");
    client.assert_closed();
    server.assert_alive();
    eventually("both closed", || server.toy.closed.load(Ordering::SeqCst) == 2);
    eventually("all memory given back", || server.listener().bytes_in_flight() == 0);
}

#[test]
fn no_answer_a_dropped_responder_and_a_close_each_do_what_they_say() {
    let server = Server::start(Limits::default());
    let mut client = server.connect();
    client.send(NOTHING, 1, b"");
    client.send(ECHO, 2, b"two");
    assert_eq!(client.receive(), (2, b"two".to_vec()));
    client.send(LATER, 3, &20_i32.to_be_bytes());
    client.send(CLOSE, 4, b"");
    assert_eq!(client.receive().0, 3, "what came before the close is sent");
    client.assert_closed();

    let mut client = server.connect();
    client.send(DROP, 1, b"");
    client.assert_closed();
}

#[test]
fn memory_in_flight_is_bounded_by_not_reading_and_small_requests_still_pass() {
    let server = Server::start(Limits { bytes_in_flight_max: 1024 * 1024, ..Limits::default() });
    let body = vec![1; 400 * 1024];
    let mut clients = [server.connect(), server.connect(), server.connect()];
    for client in &mut clients[..2] {
        client.send(PARK, 1, &body);
    }
    eventually("two are parked", || server.toy.handled() == 2);
    let mut writer = clients[2].stream.try_clone().unwrap();
    let request = frame(PARK, 1, &body);
    let writing = std::thread::spawn(move || writer.write_all(&request).unwrap());
    eventually("the third waits", || server.listener().waiting_count() == 1);
    assert_eq!(server.toy.handled(), 2);
    server.assert_alive();
    assert!(server.listener().bytes_in_flight() <= 1024 * 1024);
    server.toy.release();
    eventually("the third got its turn", || server.toy.parked.lock().len() == 1);
    server.toy.release();
    for client in &mut clients {
        assert!(client.receive().1 == body);
    }
    writing.join().unwrap();
    eventually("all memory given back", || server.listener().bytes_in_flight() == 0);
}

#[test]
fn frames_larger_than_all_the_memory_make_progress() {
    let server = Server::start(Limits { bytes_in_flight_max: 64 * 1024, ..Limits::default() });
    let body = pattern(0, 300_000);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (address, body) = (server.address, body.clone());
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for n in 0..10 {
                    client.send(ECHO, n, &body);
                    assert!(client.receive() == (n, body.clone()));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    eventually("all memory given back", || server.listener().bytes_in_flight() == 0);
}

#[test]
fn a_connection_has_so_many_requests_in_flight_and_no_more() {
    let server = Server::start(Limits { requests_in_flight_max: 4, ..Limits::default() });
    let mut client = server.connect();
    for n in 0..10 {
        client.send(PARK, n, b"x");
    }
    eventually("four ran", || server.toy.handled() == 4);
    server.assert_alive();
    assert_eq!(server.toy.parked.lock().len(), 4);
    for n in [8, 10] {
        server.toy.release();
        eventually("more got their turn", || server.toy.handled() == n + 1);
    }
    server.toy.release();
    for n in 0..10 {
        assert_eq!(client.receive().0, n);
    }
}

#[test]
fn a_client_that_reads_nothing_is_not_read_either_and_loses_nothing() {
    let server = Server::start(Limits { unsent_bytes_max: 2 * 1024 * 1024, ..Limits::default() });
    let mut client = server.connect();
    for n in 0..100 {
        client.send(LARGE, n, &i32::try_from(MIB).unwrap().to_be_bytes());
    }
    // What the two kernels' buffers take depends on the machine; a hundred answers they do not hold.
    let mut before = usize::MAX;
    eventually("it came to a halt", || {
        pause(50);
        let after = server.toy.handled();
        std::mem::replace(&mut before, after) == after
    });
    assert!(before < 30, "{before} requests ran");
    assert!(server.listener().bytes_in_flight() < 5 * MIB as u64);
    let expected = pattern(0, MIB);
    for n in 0..100 {
        assert!(client.receive() == (n, expected.clone()), "answer {n}");
    }
}

#[test]
fn a_client_that_goes_on_reading_nothing_is_cut_off() {
    let server = Server::start(Limits { slow_reader_ms_max: 100, ..Limits::default() });
    let mut client = server.connect();
    client.send(LARGE, 1, &50_000_000_i32.to_be_bytes());
    eventually("it is cut off", || server.toy.closed.load(Ordering::SeqCst) == 1);
    eventually("all memory given back", || server.listener().bytes_in_flight() == 0);
    server.assert_alive();
}

#[test]
fn a_client_that_reads_nothing_while_others_wait_for_its_memory_is_cut_off_sooner() {
    let server = Server::start(Limits {
        bytes_in_flight_max: 1024 * 1024,
        slow_reader_contended_ms_max: 100,
        ..Limits::default()
    });
    let mut sleeper = server.connect();
    sleeper.send(LARGE, 1, &50_000_000_i32.to_be_bytes());
    eventually("its answer fills the memory", || server.listener().bytes_in_flight() > 1024 * 1024);
    let mut client = server.connect();
    client.send(SWALLOW, 1, &vec![0; 400_000]);
    assert_eq!(client.receive().0, 1);
    assert_eq!(server.toy.closed.load(Ordering::SeqCst), 1);
}

#[test]
fn a_frame_that_dribbles_is_cut_off() {
    let server = Server::start(Limits { slow_sender_ms_max: 100, ..Limits::default() });
    let whole = frame(ECHO, 1, &[0; 200]);
    for begun in [2, 20] {
        let mut client = server.connect();
        client.stream.write_all(&whole[..begun]).unwrap();
        client.assert_closed();
    }
}

#[test]
fn idle_connections_are_closed_and_parked_ones_are_not() {
    let server = Server::start(Limits { idle_ms_max: 200, ..Limits::default() });
    let mut parked = server.connect();
    parked.send(PARK, 1, b"p");
    eventually("it is parked", || server.toy.handled() == 1);
    let mut silent = server.connect();
    let mut idle = server.connect();
    idle.send(ECHO, 1, b"i");
    assert_eq!(idle.receive().0, 1);
    silent.assert_closed();
    idle.assert_closed();
    pause(400);
    server.toy.release();
    assert_eq!(parked.receive().0, 1);
    parked.assert_closed();
}

#[test]
fn connections_over_the_limit_wait_until_one_ends() {
    let server = Server::start(Limits { connections_max: 2, ..Limits::default() });
    let mut first = server.connect();
    let mut second = server.connect();
    for client in [&mut first, &mut second] {
        client.send(ECHO, 1, b"");
        client.receive();
    }
    let mut third = server.connect();
    third.send(ECHO, 3, b"third");
    second.send(ECHO, 2, b"");
    second.receive();
    assert_eq!((server.toy.handled(), server.listener().connection_count()), (3, 2));
    drop(first);
    assert_eq!(third.receive(), (3, b"third".to_vec()));
}

#[test]
fn an_address_over_its_limit_is_refused() {
    let server = Server::start(Limits { connections_per_ip_max: 2, ..Limits::default() });
    let [_first, second] = std::array::from_fn(|_| {
        let mut client = server.connect();
        client.send(ECHO, 1, b"");
        client.receive();
        client
    });
    server.connect().assert_closed();
    drop(second);
    eventually("its place is free", || server.listener().connection_count() == 1);
    server.assert_alive();
}

#[test]
fn a_closed_connection_is_told_of_once_and_its_parked_requests_hold_nothing_up() {
    let server = Server::start(Limits::default());
    for n in 1..=20 {
        let mut client = server.connect();
        client.send(PARK, 1, b"x");
        eventually("it is parked", || server.toy.handled() == n);
        if n % 2 == 0 {
            client.send(ECHO, 2, b"behind");
            eventually("it ran", || server.toy.handled() > n || n % 2 == 0);
        }
        drop(client);
        server.toy.handled.store(n, Ordering::SeqCst);
        eventually("it is closed", || server.toy.closed.load(Ordering::SeqCst) == n);
        server.toy.handled.store(n, Ordering::SeqCst);
    }
    server.toy.release();
    eventually("all memory given back", || server.listener().bytes_in_flight() == 0);
    assert_eq!(server.toy.closed.load(Ordering::SeqCst), 20);
}

#[test]
fn shutting_down_finishes_what_has_been_read_and_takes_nothing_more() {
    let mut server = Server::start(Limits::default());
    let mut parked = server.connect();
    parked.send(PARK, 1, b"finish me");
    let mut half = server.connect();
    half.stream.write_all(&frame(ECHO, 1, b"never finished")[..10]).unwrap();
    eventually("it is parked", || server.toy.handled() == 1);
    let listener = server.listener.take().unwrap();
    let ended = server.runtime.spawn(listener.shut_down(Duration::from_secs(20)));
    half.assert_closed();
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
    parked.send(ECHO, 2, b"too late");
    server.toy.release();
    assert_eq!(parked.receive(), (1, b"finish me".to_vec()));
    parked.assert_closed();
    assert_eq!(server.runtime.block_on(ended).unwrap(), 0);
    assert_eq!(server.toy.handled(), 1);
}

#[test]
fn shutting_down_cuts_off_what_does_not_finish() {
    let mut server = Server::start(Limits::default());
    let mut parked = server.connect();
    parked.send(PARK, 1, b"nobody releases me");
    eventually("it is parked", || server.toy.handled() == 1);
    let listener = server.listener.take().unwrap();
    assert_eq!(server.runtime.block_on(listener.shut_down(Duration::from_millis(50))), 1);
    parked.assert_closed();
    assert_eq!(server.toy.closed.load(Ordering::SeqCst), 1);
}

#[test]
fn the_broker_learns_the_address_that_was_dialled() {
    let server = Server::start_on("::", Limits::default());
    for host in ["127.0.0.1", "127.0.0.2", "[::1]"] {
        let address: SocketAddr = format!("{host}:{}", server.address.port()).parse().unwrap();
        let Ok(stream) = TcpStream::connect(address) else {
            assert_eq!(host, "[::1]", "a machine may lack IPv6");
            continue;
        };
        let mut client = Client { stream };
        client.send(ECHO, 1, b"");
        client.receive();
        let connections = server.toy.connections.lock();
        let connection = connections.last().unwrap();
        assert_eq!(connection.local, address);
        assert_eq!(connection.peer, client.stream.local_addr().unwrap());
    }
}

#[test]
fn a_port_in_use_a_foreign_address_and_an_unknown_name_are_told_apart() {
    let server = Server::start(Limits::default());
    let port = server.address.port();
    let error =
        |host: &str, port| server.runtime.block_on(bind(host, port, SocketOptions::default())).unwrap_err();
    assert!(matches!(error("127.0.0.1", port), BindError::InUse { .. }));
    assert!(matches!(error("::", port), BindError::InUse { .. }));
    assert!(matches!(error("192.0.2.1", 0), BindError::NotLocal { .. }));
    assert!(matches!(error("no.such.host.invalid", 0), BindError::UnknownHost { .. }));
    let text = error("127.0.0.1", port).to_string();
    assert!(text.contains("CHRONIK_KAFKA_PORT") && !text.contains('\n'), "{text}");
}

#[test]
fn localhost_listens_on_the_same_port_of_each_of_its_addresses() {
    let server = Server::start_on("localhost", Limits::default());
    let addresses = server.listener().addresses();
    assert!(addresses.iter().any(|address| address.ip() == Ipv4Addr::LOCALHOST), "{addresses:?}");
    assert!(addresses.iter().all(|address| address.port() == server.address.port()), "{addresses:?}");
    server.assert_alive();
}

/// Many clients, each with requests of all kinds on their way, for the races that a single one cannot show.
#[test]
fn many_clients_at_once_each_get_their_own_answers() {
    let server = Server::start(Limits { bytes_in_flight_max: 512 * 1024, ..Limits::default() });
    let clients: Vec<_> = (0..8)
        .map(|seed| {
            let address = server.address;
            std::thread::spawn(move || {
                let mut rng = rng(seed);
                let mut client = Client::connect(address);
                for round in 0..40 {
                    let mut expected = Vec::new();
                    for n in 0..rng.random_range(1..20) {
                        let mut body = rng.random_range(0..3_i32).to_be_bytes().to_vec();
                        let len = rng.random_range(0..20) * rng.random_range(0..1_000);
                        body.extend(pattern(usize::from(seed), len));
                        let later = rng.random_range(0..4) == 0;
                        client.send(if later { LATER } else { ECHO }, n, &body);
                        expected.push((n, if later { body.split_off(4) } else { body }));
                    }
                    for answer in expected {
                        assert!(client.receive() == answer, "client {seed}, round {round}");
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    eventually("all memory given back", || server.listener().bytes_in_flight() == 0);
    let mut rest = Vec::new();
    let mut client = server.connect();
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.stream.read_to_end(&mut rest).unwrap(), 0);
}
