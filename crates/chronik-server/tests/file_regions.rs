//! Regions of files on their way to clients, by copy and by sendfile.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[expect(unreachable_pub, dead_code, reason = "each test file uses a part of it")]
mod toy;

use std::io::{self, IoSlice, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use chronik_disk::DiskFile;
use chronik_server::net::{FileSend, Limits};
use toy::{ECHO, REGION, Server, eventually, frame, pattern};

/// A real file, or one that hides its descriptor.
struct TestFile {
    file: std::fs::File,
    shows_descriptor: bool,
}

impl DiskFile for TestFile {
    fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset_bytes)
    }
    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset_bytes)
    }
    fn write_all_vectored_at(&self, _slices: &mut [IoSlice<'_>], _offset_bytes: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
    fn raw_fd(&self) -> Option<i32> {
        self.shows_descriptor.then(|| self.file.as_raw_fd())
    }
}

const FILE_BYTES: usize = 3_000_000;

fn region(position: usize, len: usize) -> Vec<u8> {
    let numbers = [position, len].map(|number| i64::try_from(number).unwrap().to_be_bytes());
    numbers.concat()
}

fn each_way(check: impl Fn(&Server, &Arc<TestFile>)) {
    for (file_send, shows_descriptor) in [
        (FileSend::Copy, true),
        (FileSend::Copy, false),
        (FileSend::Sendfile, true),
        (FileSend::Sendfile, false),
    ] {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&pattern(0, FILE_BYTES), 0).unwrap();
        let file = Arc::new(TestFile { file, shows_descriptor });
        let server = Server::start(Limits { file_send, ..Limits::default() });
        *server.toy.file.lock() = Some(Arc::clone(&file) as Arc<dyn DiskFile>);
        check(&server, &file);
        eventually("all memory given back", || server.listener().bytes_in_flight() == 0);
    }
}

#[test]
fn regions_arrive_as_they_are_between_the_parts_around_them() {
    each_way(|server, _| {
        let mut client = server.connect();
        let regions =
            [(0, 1), (0, FILE_BYTES), (17, 16_384), (1, 16_385), (2_999_999, 1), (5, 300_000), (0, 0)];
        let mut requests = Vec::new();
        for (n, (position, len)) in (0..).zip(regions) {
            requests.extend(frame(REGION, n * 2, &region(position, len)));
            requests.extend(frame(ECHO, n * 2 + 1, b"between"));
        }
        client.stream.write_all(&requests).unwrap();
        for (n, (position, len)) in (0..).zip(regions) {
            let (correlation, body) = client.receive();
            let mut expected = pattern(position, len);
            expected.extend(b"end");
            assert!(correlation == n * 2 && body == expected, "region {position}+{len}");
            assert_eq!(client.receive(), (n * 2 + 1, b"between".to_vec()));
        }
    });
}

#[test]
fn a_file_that_is_shorter_than_its_region_ends_the_connection_and_nothing_else() {
    each_way(|server, file| {
        file.truncate(1000).unwrap();
        let mut client = server.connect();
        client.send(REGION, 1, &region(0, 300_000));
        assert!(client.try_receive().is_err());
        server.assert_alive();
    });
}

#[test]
fn slow_readers_of_large_regions_get_all_of_them() {
    each_way(|server, _| {
        let mut client = server.connect();
        for n in 0..10 {
            client.send(REGION, n, &region(0, FILE_BYTES));
        }
        toy::pause(50);
        let mut expected = pattern(0, FILE_BYTES);
        expected.extend(b"end");
        for n in 0..10 {
            assert!(client.receive() == (n, expected.clone()), "answer {n}");
        }
    });
}
