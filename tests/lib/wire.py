"""Just enough of Kafka's wire protocol to say wrong things on purpose: no client would."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from dataclasses import dataclass

PRODUCE, FETCH, LIST_OFFSETS, METADATA, FIND_COORDINATOR = 0, 1, 2, 3, 10
API_VERSIONS, CREATE_TOPICS, DELETE_TOPICS, INIT_PRODUCER_ID = 18, 19, 20, 22
DESCRIBE_TOPIC_PARTITIONS = 75

FIRST_FLEXIBLE = {PRODUCE: 9, FETCH: 12, LIST_OFFSETS: 6, METADATA: 9, API_VERSIONS: 3}
FIRST_FLEXIBLE |= {CREATE_TOPICS: 5, DELETE_TOPICS: 4, INIT_PRODUCER_ID: 2, DESCRIBE_TOPIC_PARTITIONS: 0}

TIMEOUT_S = 30.0


class Closed(Exception):
    """The broker closed the connection."""


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def i8(value: int) -> bytes:
    return struct.pack(">b", value)


def i16(value: int) -> bytes:
    return struct.pack(">h", value)


def i32(value: int) -> bytes:
    return struct.pack(">i", value)


def i64(value: int) -> bytes:
    return struct.pack(">q", value)


def uvarint(value: int) -> bytes:
    encoded = b""
    while value >= 0x80:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def varint(value: int) -> bytes:
    return uvarint((value << 1) ^ (value >> 63) if value < 0 else value << 1)


def string(text: str | None) -> bytes:
    if text is None:
        return i16(-1)
    return i16(len(text.encode())) + text.encode()


def compact_string(text: str | None) -> bytes:
    if text is None:
        return uvarint(0)
    return uvarint(len(text.encode()) + 1) + text.encode()


def array(*items: bytes) -> bytes:
    return i32(len(items)) + b"".join(items)


def compact_array(*items: bytes) -> bytes:
    return uvarint(len(items) + 1) + b"".join(items)


NO_TAGS = uvarint(0)


class Reader:
    """Takes an answer apart, from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) != count:
            raise AssertionError(f"the answer ends {count - len(part)} bytes too early: {self.data.hex()}")
        self.at += count
        return part

    def i8(self) -> int:
        return int(struct.unpack(">b", self.take(1))[0])

    def i16(self) -> int:
        return int(struct.unpack(">h", self.take(2))[0])

    def i32(self) -> int:
        return int(struct.unpack(">i", self.take(4))[0])

    def i64(self) -> int:
        return int(struct.unpack(">q", self.take(8))[0])

    def uvarint(self) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise AssertionError("a varint of more than 5 bytes")

    def string(self) -> str | None:
        length = self.i16()
        return None if length < 0 else self.take(length).decode()

    def tagged(self) -> dict[int, Reader]:
        """Tagged fields by their tags."""
        return {self.uvarint(): Reader(self.take(self.uvarint())) for _ in range(self.uvarint())}

    def compact_bytes(self) -> bytes | None:
        length = self.uvarint()
        return None if length == 0 else self.take(length - 1)

    def compact_i32s(self) -> list[int]:
        return [self.i32() for _ in range(self.uvarint() - 1)]


@dataclass
class Batch:
    """A record batch of version 2 in which every field can be wrong."""

    records: bytes
    count: int
    attributes: int = 0
    base_offset: int = 0
    magic: int = 2
    crc: int | None = None
    length: int | None = None
    last_offset_delta: int | None = None
    base_timestamp_ms: int = 0
    max_timestamp_ms: int = 0
    producer_id: int = -1
    producer_epoch: int = -1
    base_sequence: int = -1

    def encode(self) -> bytes:
        last = self.count - 1 if self.last_offset_delta is None else self.last_offset_delta
        body = i16(self.attributes) + i32(last) + i64(self.base_timestamp_ms) + i64(self.max_timestamp_ms)
        body += i64(self.producer_id) + i16(self.producer_epoch) + i32(self.base_sequence)
        body += i32(self.count) + self.records
        crc = crc32c(body) if self.crc is None else self.crc
        length = 9 + len(body) if self.length is None else self.length
        return i64(self.base_offset) + i32(length) + i32(0) + i8(self.magic) + struct.pack(">I", crc) + body


def record(delta: int, value: bytes, key: bytes | None = b"k") -> bytes:
    """One record of a batch."""
    body = i8(0) + varint(0) + varint(delta)
    body += varint(-1) if key is None else varint(len(key)) + key
    body += varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def batch(*values: bytes, **fields: int) -> Batch:
    """A good batch of these values, with a timestamp of now, but for the fields given."""
    now_ms = int(time.time() * 1000)
    records = b"".join(record(delta, value) for delta, value in enumerate(values))
    settings = {"count": len(values), "base_timestamp_ms": now_ms, "max_timestamp_ms": now_ms, **fields}
    return Batch(records, **settings)


class Connection:
    """One TCP connection to the broker."""

    def __init__(self, bootstrap: str, timeout_s: float = TIMEOUT_S) -> None:
        host, port = bootstrap.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.correlation_id = 0

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def raw(self, data: bytes) -> None:
        """Bytes as they are; a broker that closes in between is met at the next read."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def frame(self, data: bytes) -> None:
        self.raw(i32(len(data)) + data)

    def send(self, key: int, version: int, body: bytes) -> int:
        """A request with a good header; the result is its correlation id."""
        self.correlation_id += 1
        header = i16(key) + i16(version) + i32(self.correlation_id) + string("raw-suite")
        if version >= FIRST_FLEXIBLE.get(key, 1 << 15):
            header += NO_TAGS
        self.frame(header + body)
        return self.correlation_id

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                part = self.socket.recv(count - len(data))
            except ConnectionError:
                part = b""
            if not part:
                raise Closed
            data += part
        return data

    def answer(self) -> Reader:
        """The next frame."""
        return Reader(self._exactly(struct.unpack(">i", self._exactly(4))[0]))

    def ask(self, key: int, version: int, body: bytes) -> Reader:
        """One request and its answer, behind the response header."""
        wanted = self.send(key, version, body)
        reader = self.answer()
        if (got := reader.i32()) != wanted:
            raise AssertionError(f"correlation id {got}, want {wanted}")
        if key != API_VERSIONS and version >= FIRST_FLEXIBLE.get(key, 1 << 15):
            reader.uvarint()
        return reader


def produce_body(
    topic: str, records: bytes | None, partition: int = 0, acks: int = -1, timeout_ms: int = 10_000
) -> bytes:
    """The body of Produce v3 to v8."""
    data = i32(-1) if records is None else i32(len(records)) + records
    return string(None) + i16(acks) + i32(timeout_ms) + array(string(topic) + array(i32(partition) + data))


def fetch_body(topic: str, partition: int, offset: int, wait_ms: int = 0, session: int = 0, epoch: int = -1) -> bytes:
    """The body of Fetch v10: the first version that may carry zstd, without a leader epoch to check."""
    head = i32(-1) + i32(wait_ms) + i32(1) + i32(50_000_000) + i8(0) + i32(session) + i32(epoch)
    place = i32(partition) + i32(-1) + i64(offset) + i64(0) + i32(10_000_000)
    return head + array(string(topic) + array(place)) + array()


def produce(
    connection: Connection, topic: str, records: bytes | None, version: int = 7, **settings: int
) -> tuple[int, int]:
    """Produce to one partition; its error code and base offset."""
    reader = connection.ask(PRODUCE, version, produce_body(topic, records, **settings))
    reader.i32(), reader.string(), reader.i32(), reader.i32()
    return reader.i16(), reader.i64()


def fetch(
    connection: Connection, topic: str, partition: int = 0, offset: int = 0, **settings: int
) -> tuple[int, int, bytes]:
    """Fetch v10 of one partition; error code, high watermark and records.

    An error of the whole request stands in the place of the partition's.
    """
    reader = connection.ask(FETCH, 10, fetch_body(topic, partition, offset, **settings))
    reader.i32()
    error = reader.i16()
    reader.i32()
    if reader.i32() == 0:
        return error, -1, b""
    reader.string(), reader.i32(), reader.i32()
    code, high_watermark = reader.i16(), reader.i64()
    reader.i64(), reader.i64()
    aborted_count = reader.i32()
    if aborted_count > 0:
        reader.take(16 * aborted_count)
    length = reader.i32()
    return error or code, high_watermark, reader.take(length) if length > 0 else b""


def create_topic(connection: Connection, topic: str, partitions: int = 1, configs: dict[str, str] | None = None) -> int:
    """CreateTopics v2; the error code of the topic."""
    settings = array(*[string(name) + string(value) for name, value in (configs or {}).items()])
    wanted = string(topic) + i32(partitions) + i16(1) + array() + settings
    reader = connection.ask(CREATE_TOPICS, 2, array(wanted) + i32(10_000) + i8(0))
    reader.i32(), reader.i32(), reader.string()
    return reader.i16()


def delete_topic(connection: Connection, topic: str) -> int:
    """DeleteTopics v1; the error code of the topic."""
    reader = connection.ask(DELETE_TOPICS, 1, array(string(topic)) + i32(10_000))
    reader.i32(), reader.i32(), reader.string()
    return reader.i16()


def new_topic(connection: Connection, topic: str, partitions: int = 1) -> None:
    """Create a topic and wait until each of its partitions has a leader that answers."""
    if (code := create_topic(connection, topic, partitions)) != 0:
        raise AssertionError(f"create {topic}: error {code}")
    deadline = time.monotonic() + TIMEOUT_S
    for partition in range(partitions):
        while (answer := fetch(connection, topic, partition))[0] != 0:
            if time.monotonic() > deadline:
                raise AssertionError(f"{topic}-{partition} has no leader: error {answer[0]}")
            time.sleep(0.02)


def advertised_keys(bootstrap: str) -> set[int]:
    """The API keys that the broker says it answers."""
    with Connection(bootstrap) as connection:
        reader = connection.ask(API_VERSIONS, 0, b"")
        code = reader.i16()
        if code != 0:
            raise AssertionError(f"ApiVersions v0: error {code}")
        keys = set()
        for _ in range(reader.i32()):
            keys.add(reader.i16())
            reader.take(4)
        return keys


def codecs_of_batches(bootstrap: str, topic: str, partition: int = 0) -> set[int]:
    """The compressions that the stored batches really have: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."""
    with Connection(bootstrap) as connection:
        code, _, records = fetch(connection, topic, partition)
    if code != 0:
        raise AssertionError(f"fetch of {topic}-{partition}: error {code}")
    codecs = set()
    at = 0
    while at + 61 <= len(records):
        codecs.add(int(struct.unpack_from(">h", records, at + 21)[0]) & 7)
        at += 12 + int(struct.unpack_from(">i", records, at + 8)[0])
    return codecs
