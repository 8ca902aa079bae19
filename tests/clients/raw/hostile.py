"""Frames that lie about themselves: noise, lengths, counts, slow and silent peers."""

from __future__ import annotations

import contextlib
import gzip
import random
import time

from data import topic_name
from report import expect
from wire import (
    API_VERSIONS,
    CREATE_TOPICS,
    FETCH,
    LIST_OFFSETS,
    METADATA,
    NO_TAGS,
    PRODUCE,
    Batch,
    Closed,
    Connection,
    array,
    batch,
    compact_string,
    delete_topic,
    fetch,
    fetch_body,
    i8,
    i16,
    i32,
    new_topic,
    produce,
    produce_body,
    string,
    uvarint,
    varint,
)

INT32_MAX = 0x7FFF_FFFF


def expect_closed(what: str, connection: Connection) -> None:
    """Nothing but the end of the connection may come."""
    try:
        answer = connection.answer()
    except Closed:
        return
    except TimeoutError:
        raise AssertionError(f"{what}: the connection is still open") from None
    raise AssertionError(f"{what}: answered {answer.data[:100].hex()}, want a closed connection")


def closes(bootstrap: str, what: str, key: int, version: int, body: bytes) -> None:
    """A request with a good header whose body must cost it the connection."""
    with Connection(bootstrap) as connection:
        connection.send(key, version, body)
        expect_closed(what, connection)


def random_bytes(bootstrap: str) -> None:
    noise = random.Random(4)
    for _ in range(200):
        with Connection(bootstrap) as connection:
            connection.raw(noise.randbytes(noise.randrange(1, 3000)))


def random_frames(bootstrap: str) -> None:
    noise = random.Random(5)
    for _ in range(300):
        with Connection(bootstrap, timeout_s=0.02) as connection, contextlib.suppress(Closed, TimeoutError):
            connection.frame(noise.randbytes(noise.randrange(0, 400)))
            connection.answer()


def random_bodies(bootstrap: str) -> None:
    # A good header with a known key, so that the noise reaches the decoder of each message.
    noise = random.Random(6)
    keys = [PRODUCE, FETCH, LIST_OFFSETS, METADATA, API_VERSIONS, 21, 22, 23, 32, 35, 37, 60, 61, 75]
    for _ in range(400):
        with Connection(bootstrap, timeout_s=0.02) as connection, contextlib.suppress(Closed, TimeoutError):
            connection.send(noise.choice(keys), noise.randrange(0, 14), noise.randbytes(noise.randrange(0, 200)))
            connection.answer()


def changed_bytes(bootstrap: str) -> None:
    # Good requests with one byte changed at every place.
    noise = random.Random(7)
    topic = topic_name("raw-changed")
    for key, version, body in [
        (PRODUCE, 7, produce_body(topic, batch(b"x").encode())),
        (FETCH, 10, fetch_body(topic, 0, 0)),
        (METADATA, 4, array(string(topic)) + i8(0)),
    ]:
        for place in range(len(body)):
            changed = bytearray(body)
            changed[place] ^= noise.randrange(1, 256)
            with Connection(bootstrap, timeout_s=0.02) as connection, contextlib.suppress(Closed, TimeoutError):
                connection.send(key, version, bytes(changed))
                connection.answer()


def frame_lengths(bootstrap: str) -> None:
    for length in [-1, -0x8000_0000, INT32_MAX, 200_000_000]:
        with Connection(bootstrap) as connection:
            connection.raw(i32(length))
            expect_closed(f"a frame of {length} bytes", connection)


def short_frames(bootstrap: str) -> None:
    # Nothing shorter than a header can be a request.
    good = i16(METADATA) + i16(1) + i32(7)
    for length in range(len(good) + 1):
        with Connection(bootstrap) as connection:
            connection.frame(good[:length])
            expect_closed(f"a frame of {length} bytes", connection)


def truncated_frames(bootstrap: str) -> None:
    whole = i16(PRODUCE) + i16(7) + i32(1) + string("x") + produce_body("t", batch(b"x").encode())
    for length in range(len(whole)):
        with Connection(bootstrap) as connection:
            connection.raw(i32(len(whole)) + whole[:length])


def hostile_arrays(bootstrap: str) -> None:
    huge = i32(INT32_MAX)
    vast = uvarint(0xFFFF_FFFF)
    closes(bootstrap, "Metadata v1 of 2^31-1 topics", METADATA, 1, huge)
    closes(bootstrap, "Metadata v9 of 2^32-2 topics", METADATA, 9, vast)
    closes(bootstrap, "Metadata v4, more topics than bytes", METADATA, 4, i32(1000) + string("t") + i8(0))
    closes(bootstrap, "Produce v3 of 2^31-1 topics", PRODUCE, 3, string(None) + i16(1) + i32(1000) + huge)
    partitions = string(None) + i16(1) + i32(1000) + i32(1) + string("t") + huge
    closes(bootstrap, "Produce v7 of 2^31-1 partitions", PRODUCE, 7, partitions)
    flexible = uvarint(0) + i16(1) + i32(1000) + vast
    closes(bootstrap, "Produce v9 of 2^32-2 topics", PRODUCE, 9, flexible)
    closes(bootstrap, "Fetch v4 of 2^31-1 topics", FETCH, 4, i32(-1) + i32(0) + i32(0) + i32(0) + i8(0) + huge)
    closes(bootstrap, "CreateTopics v2 of 2^31-1 topics", CREATE_TOPICS, 2, huge)
    nested = i32(1) + string("t") + i32(1) + i16(1) + huge
    closes(bootstrap, "CreateTopics v2 of 2^31-1 assignments", CREATE_TOPICS, 2, nested)
    closes(bootstrap, "ListOffsets v1 of 2^31-1 topics", LIST_OFFSETS, 1, i32(-1) + huge)
    closes(bootstrap, "ApiVersions v3 of 2^31-1 tags", API_VERSIONS, 3, b"\x02a\x021" + uvarint(INT32_MAX))


def hostile_strings(bootstrap: str) -> None:
    closes(bootstrap, "a name longer than the frame", METADATA, 1, i32(1) + i16(0x7FFF) + b"abc")
    closes(bootstrap, "a name of length -2", METADATA, 1, i32(1) + i16(-2))
    closes(bootstrap, "a compact name longer than the frame", METADATA, 9, uvarint(2) + uvarint(INT32_MAX) + b"abc")
    closes(bootstrap, "a varint of 6 bytes", METADATA, 9, b"\xff\xff\xff\xff\xff\x01")
    closes(
        bootstrap,
        "a tag longer than the frame",
        API_VERSIONS,
        3,
        b"\x02a\x021" + uvarint(1) + uvarint(9) + uvarint(INT32_MAX),
    )
    records = produce_body("t", b"")[:-4] + i32(INT32_MAX) + b"abc"
    closes(bootstrap, "records longer than the frame", PRODUCE, 7, records)


def unknown_tag_is_skipped(bootstrap: str) -> None:
    with Connection(bootstrap) as connection:
        tagged = uvarint(1) + uvarint(77) + uvarint(3) + b"abc"
        reader = connection.ask(API_VERSIONS, 3, compact_string("raw-suite") + compact_string("1.0") + tagged)
        expect("error", reader.i16(), 0)


def unknown_apis(bootstrap: str) -> None:
    for key in [-1, 999, 0x7FFF]:
        closes(bootstrap, f"api key {key}", key, 0, b"")
    for key, version in [(METADATA, 99), (METADATA, -1), (PRODUCE, 99), (FETCH, 3), (CREATE_TOPICS, 1)]:
        closes(bootstrap, f"version {version} of api {key}", key, version, i32(0))


def produce_before_v3(bootstrap: str) -> None:
    # The range of ApiVersions begins at 0 for the sake of old librdkafka; the versions are gone all the same.
    for version in (0, 1, 2):
        body = i16(1) + i32(1000) + array(string("t") + array(i32(0) + i32(0)))
        closes(bootstrap, f"Produce v{version}", PRODUCE, version, body)


def byte_by_byte(bootstrap: str) -> None:
    frame = i16(METADATA) + i16(1) + i32(9) + string("slow") + array()
    with Connection(bootstrap) as connection:
        for byte in i32(len(frame)) + frame:
            connection.raw(bytes([byte]))
            time.sleep(0.005)
        expect("correlation id", connection.answer().i32(), 9)


def pipelined(bootstrap: str) -> None:
    # Answers come in the order of the requests, also behind one that waits.
    topic = topic_name("raw-pipeline")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        sent = []
        for index in range(300):
            if index % 100 == 50:
                sent.append(connection.send(FETCH, 10, fetch_body(topic, 0, 0, wait_ms=300)))
            elif index % 3 == 0:
                sent.append(connection.send(METADATA, 1, array(string(topic))))
            elif index % 3 == 1:
                sent.append(connection.send(API_VERSIONS, 0, b""))
            else:
                sent.append(connection.send(API_VERSIONS, 3, compact_string("a") + compact_string("1") + NO_TAGS))
        expect("correlation ids", [connection.answer().i32() for _ in sent], sent)


def deaf_peer(bootstrap: str) -> None:
    # Asks for much and reads nothing: its own problem, not that of the next connection.
    with Connection(bootstrap) as setup:
        topic = topic_name("raw-deaf")
        new_topic(setup, topic)
        for _ in range(20):
            produce(setup, topic, batch(b"x" * 500_000).encode())
    with Connection(bootstrap, timeout_s=2.0) as connection, contextlib.suppress(TimeoutError):
        for _ in range(300):
            connection.send(FETCH, 10, fetch_body(topic, 0, 0))
        time.sleep(1.0)


def many_connections(bootstrap: str) -> None:
    connections = [Connection(bootstrap) for _ in range(500)]
    try:
        for connection in connections[::50]:
            expect("error", connection.ask(API_VERSIONS, 0, b"").i16(), 0)
    finally:
        for connection in connections:
            connection.socket.close()


def decompression_bomb(bootstrap: str) -> None:
    # 1 GB of zeros in 1 MB of gzip, as one record. Kafka takes it: it never holds the whole.
    # Whatever the answer, it comes in time, and the broker keeps its memory.
    topic = topic_name("raw-bomb")
    size = 1_000_000_000
    head = i8(0) + varint(0) + varint(0) + varint(-1) + varint(size)
    record = varint(len(head) + size + 1) + head
    compressed = bytearray(gzip.compress(record, 9))
    for _ in range(size // 10_000_000):
        compressed += _ZEROS
    compressed += gzip.compress(varint(0))
    bomb = Batch(bytes(compressed), 1, attributes=1, base_timestamp_ms=int(time.time() * 1000))
    bomb.max_timestamp_ms = bomb.base_timestamp_ms
    with Connection(bootstrap, timeout_s=60.0) as connection:
        new_topic(connection, topic)
        started = time.monotonic()
        code, _ = produce(connection, topic, bomb.encode())
        if code not in (0, 2, 87):
            raise AssertionError(f"error {code}, want one of 0, CORRUPT_MESSAGE, INVALID_RECORD")
        if time.monotonic() - started > 45:
            raise AssertionError("the bomb held its connection for more than 45 s")
        expect("high watermark", fetch(connection, topic)[1], 1 if code == 0 else 0)
        # Tools that look into the log afterwards do unpack it whole.
        expect("delete", delete_topic(connection, topic), 0)


# One member of a gzip stream with 10 MB of zeros: members may follow one another.
_ZEROS = gzip.compress(bytes(10_000_000), 9)


def garbage_in_a_compressed_batch(bootstrap: str) -> None:
    # Kafka unpacks every batch and refuses this one with UNKNOWN_SERVER_ERROR (-1). A broker that does not
    # unpack takes it, as bytes whose CRC is right. Either way it is answered, and what is in the log can
    # be fetched.
    topic = topic_name("raw-garbage")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        for codec in (1, 2, 3, 4):
            code, _ = produce(connection, topic, Batch(b"\x00garbage", 1, attributes=codec).encode())
            if code not in (0, -1, 2, 87):
                raise AssertionError(f"codec {codec}: error {code}")
        for codec in (5, 6, 7):
            code, _ = produce(connection, topic, Batch(b"\x00garbage", 1, attributes=codec).encode())
            if code not in (-1, 2, 76, 87):
                raise AssertionError(f"codec {codec}, which does not exist: error {code}")
        expect("fetch", fetch(connection, topic)[0], 0)
        expect("delete", delete_topic(connection, topic), 0)


ATTACKS = [
    random_bytes,
    random_frames,
    random_bodies,
    changed_bytes,
    frame_lengths,
    short_frames,
    truncated_frames,
    hostile_arrays,
    hostile_strings,
    unknown_tag_is_skipped,
    unknown_apis,
    produce_before_v3,
    byte_by_byte,
    pipelined,
    deaf_peer,
    many_connections,
    decompression_bomb,
    garbage_in_a_compressed_batch,
]
