"""Well-formed requests that ask for what cannot be: each has its own error code."""

from __future__ import annotations

import time
import uuid

from data import topic_name
from report import expect
from wire import (
    API_VERSIONS,
    CREATE_TOPICS,
    DELETE_TOPICS,
    FETCH,
    LIST_OFFSETS,
    METADATA,
    NO_TAGS,
    PRODUCE,
    Batch,
    Closed,
    Connection,
    Reader,
    array,
    batch,
    compact_array,
    compact_string,
    create_topic,
    delete_topic,
    fetch,
    i8,
    i16,
    i32,
    i64,
    new_topic,
    produce,
    produce_body,
    string,
    uvarint,
)

OFFSET_OUT_OF_RANGE, CORRUPT_MESSAGE, UNKNOWN_TOPIC_OR_PARTITION = 1, 2, 3
MESSAGE_TOO_LARGE, INVALID_TOPIC, INVALID_REQUIRED_ACKS = 10, 17, 21
INVALID_TIMESTAMP, UNSUPPORTED_VERSION, INVALID_PARTITIONS, INVALID_REQUEST = 32, 35, 37, 42
FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH = 70, 71
UNKNOWN_LEADER_EPOCH, UNSUPPORTED_COMPRESSION = 75, 76
INVALID_RECORD, UNKNOWN_TOPIC_ID = 87, 100

ILLEGAL_NAMES = ["", ".", "..", "a b", "a/b", "ä", "a\x00b", "x" * 250]


def refuses(connection: Connection, topic: str, what: str, records: bytes | None, code: int, **settings: int) -> None:
    """A produce that must be refused, and must leave nothing in the log."""
    before = fetch(connection, topic)[1]
    expect(what, produce(connection, topic, records, **settings)[0], code)
    expect(f"{what}: high watermark", fetch(connection, topic)[1], before)


def api_versions_of_the_future(bootstrap: str) -> None:
    with Connection(bootstrap) as connection:
        reader = connection.ask(API_VERSIONS, 99, compact_string("a") + compact_string("1") + NO_TAGS)
        expect("error", reader.i16(), UNSUPPORTED_VERSION)
        expect("number of keys", reader.i32(), 1)
        expect("key and versions", (reader.i16(), reader.i16(), reader.i16()), (API_VERSIONS, 0, 4))
        expect("bytes behind", len(reader.data) - reader.at, 0)
        # The connection lives on: this is how clients find a version that both speak.
        expect("ApiVersions v0", connection.ask(API_VERSIONS, 0, b"").i16(), 0)


def api_versions_with_a_bad_name(bootstrap: str) -> None:
    for name, version in [("", "1"), ("a b", "1"), ("ok", ""), ("ok", "1 2"), ("-a", "1"), ("a", "1-")]:
        with Connection(bootstrap) as connection:
            body = compact_string(name) + compact_string(version) + NO_TAGS
            expect(f"{name!r} {version!r}", connection.ask(API_VERSIONS, 3, body).i16(), INVALID_REQUEST)


def corrupt_batches(bootstrap: str) -> None:
    topic = topic_name("raw-corrupt")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        expect("good", produce(connection, topic, batch(b"good").encode()), (0, 0))
        good = batch(b"a", b"b")
        refuses(connection, topic, "wrong CRC", batch(b"a", crc=1).encode(), CORRUPT_MESSAGE)
        flipped = bytearray(good.encode())
        flipped[-2] ^= 1
        refuses(connection, topic, "a flipped bit", bytes(flipped), CORRUPT_MESSAGE)
        refuses(connection, topic, "more records than said", Batch(good.records, 1).encode(), INVALID_RECORD)
        refuses(connection, topic, "fewer records than said", Batch(good.records, 3).encode(), INVALID_RECORD)
        refuses(connection, topic, "no records", Batch(b"", 0).encode(), INVALID_RECORD)
        refuses(connection, topic, "a count of -1", Batch(b"", -1).encode(), INVALID_RECORD)
        delta = batch(b"a", b"b", last_offset_delta=5).encode()
        refuses(connection, topic, "a last offset delta that is not the count", delta, INVALID_RECORD)
        refuses(connection, topic, "two batches", good.encode() * 2, INVALID_RECORD)
        refuses(connection, topic, "a control batch", batch(b"a", attributes=0x20).encode(), INVALID_RECORD)
        refuses(connection, topic, "a base offset of 5", batch(b"a", base_offset=5).encode(), INVALID_RECORD)
        expect("good again", produce(connection, topic, good.encode()), (0, 1))


def batches_that_end_too_early(bootstrap: str) -> None:
    topic = topic_name("raw-short")
    whole = batch(b"some value").encode()
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        for length in range(len(whole)):
            refuses(connection, topic, f"the first {length} bytes of a batch", whole[:length], INVALID_RECORD)


def other_magic(bootstrap: str) -> None:
    topic = topic_name("raw-magic")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        for magic, code in [(0, INVALID_RECORD), (1, INVALID_RECORD), (3, CORRUPT_MESSAGE), (-1, CORRUPT_MESSAGE)]:
            refuses(connection, topic, f"magic {magic}", batch(b"a", magic=magic).encode(), code)


def produce_errors(bootstrap: str) -> None:
    topic = topic_name("raw-produce")
    good = batch(b"a").encode()
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        expect("acks=2", produce(connection, topic, good, acks=2)[0], INVALID_REQUIRED_ACKS)
        expect("acks=-2", produce(connection, topic, good, acks=-2)[0], INVALID_REQUIRED_ACKS)
        expect("an unknown topic", produce(connection, topic_name("none"), good)[0], UNKNOWN_TOPIC_OR_PARTITION)
        expect("partition 9", produce(connection, topic, good, partition=9)[0], UNKNOWN_TOPIC_OR_PARTITION)
        expect("partition -1", produce(connection, topic, good, partition=-1)[0], UNKNOWN_TOPIC_OR_PARTITION)
        refuses(connection, topic, "over the limit", batch(b"x" * 1_048_600).encode(), MESSAGE_TOO_LARGE)
        refuses(
            connection, topic, "zstd before v7", batch(b"a", attributes=4).encode(), UNSUPPORTED_COMPRESSION, version=6
        )
        future = int(time.time() * 1000) + 7 * 86_400_000
        late = batch(b"a", base_timestamp_ms=future, max_timestamp_ms=future).encode()
        refuses(connection, topic, "a timestamp of next week", late, INVALID_TIMESTAMP)


def acks_0(bootstrap: str) -> None:
    topic = topic_name("raw-acks0")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        fetch(connection, topic)
        connection.send(PRODUCE, 7, produce_body(topic, batch(b"a").encode(), acks=0))
        # No answer may come in between: the next one belongs to this request.
        expect("high watermark", fetch(connection, topic, wait_ms=5000)[1], 1)
        connection.send(PRODUCE, 7, produce_body(topic, batch(b"a", crc=1).encode(), acks=0))
        try:
            answer = connection.answer()
        except Closed:
            return
        raise AssertionError(f"answered {answer.data.hex()}, want a closed connection")


def names(bootstrap: str) -> None:
    with Connection(bootstrap) as connection:
        for name in ILLEGAL_NAMES:
            expect(f"create {name[:20]!r}", create_topic(connection, name), INVALID_TOPIC)
            reader = connection.ask(METADATA, 4, array(string(name)) + i8(1))
            expect(f"metadata of {name[:20]!r}", metadata_error(reader), INVALID_TOPIC)


def metadata_error(reader: Reader) -> int:
    """The error code of the only topic of a Metadata v3 to v8 answer."""
    reader.i32()
    for _ in range(reader.i32()):
        reader.i32(), reader.string(), reader.i32(), reader.string()
    reader.string(), reader.i32()
    expect("number of topics", reader.i32(), 1)
    return reader.i16()


def topics_that_are_not_there(bootstrap: str) -> None:
    name = topic_name("raw-none")
    with Connection(bootstrap) as connection:
        reader = connection.ask(METADATA, 4, array(string(name)) + i8(0))
        expect("metadata without auto-creation", metadata_error(reader), UNKNOWN_TOPIC_OR_PARTITION)
        expect("fetch", fetch(connection, name)[0], UNKNOWN_TOPIC_OR_PARTITION)
        reader = connection.ask(LIST_OFFSETS, 1, i32(-1) + array(string(name) + array(i32(0) + i64(-1))))
        reader.i32(), reader.string(), reader.i32(), reader.i32()
        expect("list offsets", reader.i16(), UNKNOWN_TOPIC_OR_PARTITION)
        expect("delete", delete_topic(connection, name), UNKNOWN_TOPIC_OR_PARTITION)


def unknown_topic_ids(bootstrap: str) -> None:
    unknown = uuid.uuid4().bytes
    with Connection(bootstrap) as connection:
        place = i32(0) + i32(-1) + i64(0) + i32(-1) + i64(-1) + i32(1000) + NO_TAGS
        head = i32(0) + i32(1) + i32(1000) + i8(0) + i32(0) + i32(-1)
        body = head + compact_array(unknown + compact_array(place) + NO_TAGS) + compact_array() + compact_string("")
        reader = connection.ask(FETCH, 13, i32(-1) + body + NO_TAGS)
        reader.i32()
        expect("Fetch v13", reader.i16(), 0)
        reader.i32(), reader.uvarint(), reader.take(16), reader.uvarint(), reader.i32()
        expect("Fetch v13, the partition", reader.i16(), UNKNOWN_TOPIC_ID)

        records = batch(b"a").encode()
        data = i32(0) + uvarint(len(records) + 1) + records + NO_TAGS
        body = uvarint(0) + i16(-1) + i32(1000) + compact_array(unknown + compact_array(data) + NO_TAGS) + NO_TAGS
        reader = connection.ask(PRODUCE, 13, body)
        reader.uvarint(), reader.take(16), reader.uvarint(), reader.i32()
        expect("Produce v13", reader.i16(), UNKNOWN_TOPIC_ID)

        body = compact_array(unknown + uvarint(0) + NO_TAGS) + i8(0) + i8(0) + NO_TAGS
        reader = connection.ask(METADATA, 12, body)
        reader.i32()
        for _ in range(reader.uvarint() - 1):
            reader.i32(), reader.take(reader.uvarint() - 1), reader.i32(), reader.compact_bytes(), reader.uvarint()
        reader.compact_bytes(), reader.i32(), reader.uvarint()
        expect("Metadata v12", reader.i16(), UNKNOWN_TOPIC_ID)

        body = compact_array(uvarint(0) + unknown + NO_TAGS) + i32(1000) + NO_TAGS
        reader = connection.ask(DELETE_TOPICS, 6, body)
        reader.i32(), reader.uvarint(), reader.compact_bytes(), reader.take(16)
        expect("DeleteTopics v6", reader.i16(), UNKNOWN_TOPIC_ID)


def fetch_errors(bootstrap: str) -> None:
    topic = topic_name("raw-fetch")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        produce(connection, topic, batch(b"a").encode())
        expect("offset 2", fetch(connection, topic, offset=2)[0], OFFSET_OUT_OF_RANGE)
        expect("offset -1", fetch(connection, topic, offset=-1)[0], OFFSET_OUT_OF_RANGE)
        expect("offset 1", fetch(connection, topic, offset=1), (0, 1, b""))
        expect("partition 7", fetch(connection, topic, 7)[0], UNKNOWN_TOPIC_OR_PARTITION)
        unknown = fetch(connection, topic, session=12345, epoch=1)
        expect("an unknown session", unknown[0], FETCH_SESSION_ID_NOT_FOUND)
        none = fetch(connection, topic, session=0, epoch=5)
        expect("epoch 5 of no session", none[0], FETCH_SESSION_ID_NOT_FOUND)
        for leader_epoch, code in [(0, 0), (1, UNKNOWN_LEADER_EPOCH), (-1, 0)]:
            head = i32(-1) + i32(0) + i32(1) + i32(1000) + i8(0) + i32(0) + i32(-1)
            place = i32(0) + i32(leader_epoch) + i64(0) + i64(0) + i32(1000)
            reader = connection.ask(FETCH, 10, head + array(string(topic) + array(place)) + array())
            reader.i32(), reader.i16(), reader.i32(), reader.i32(), reader.string(), reader.i32(), reader.i32()
            expect(f"leader epoch {leader_epoch}", reader.i16(), code)


def fetch_sessions(bootstrap: str) -> None:
    topic = topic_name("raw-session")

    def ask(connection: Connection, session: int, epoch: int, offset: int | None) -> tuple[int, int, int]:
        """Error, session id and number of partitions in the answer."""
        head = i32(-1) + i32(100) + i32(1) + i32(1 << 20) + i8(0) + i32(session) + i32(epoch)
        places = (
            [] if offset is None else [string(topic) + array(i32(0) + i32(-1) + i64(offset) + i64(0) + i32(1 << 20))]
        )
        reader = connection.ask(FETCH, 10, head + array(*places) + array())
        reader.i32()
        code, given = reader.i16(), reader.i32()
        return code, given, reader.i32()

    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        produce(connection, topic, batch(b"a").encode())
        code, session, count = ask(connection, 0, 0, 0)
        expect("a new session", (code, count), (0, 1))
        if session == 0:
            # A broker may decline sessions; then every fetch is a full one.
            return
        expect("from offset 1", ask(connection, session, 1, 1), (0, session, 0))
        expect("nothing new", ask(connection, session, 2, None), (0, session, 0))
        produce(connection, topic, batch(b"b").encode())
        expect("something new", ask(connection, session, 3, None), (0, session, 1))
        expect("a wrong epoch", ask(connection, session, 9, None)[0], INVALID_FETCH_SESSION_EPOCH)
        ask(connection, session, -1, None)
        expect("a closed session", ask(connection, session, 4, None)[0], FETCH_SESSION_ID_NOT_FOUND)


def create_topics_errors(bootstrap: str) -> None:
    def create(topic: bytes) -> int:
        with Connection(bootstrap) as connection:
            reader = connection.ask(CREATE_TOPICS, 4, array(topic) + i32(10_000) + i8(0))
            reader.i32(), reader.i32(), reader.string()
            return reader.i16()

    fresh = string(topic_name("raw-create"))
    nothing = array() + array()
    expect("partitions -1", create(string(topic_name("raw-create")) + i32(-1) + i16(-1) + nothing), 0)
    expect("partitions -2", create(fresh + i32(-2) + i16(1) + nothing), INVALID_PARTITIONS)
    expect("replication 0", create(fresh + i32(1) + i16(0) + nothing), 38)
    manual = array(i32(0) + array(i32(1)))
    expect("assignment with partitions", create(fresh + i32(1) + i16(-1) + manual + array()), INVALID_REQUEST)
    gap = array(i32(1) + array(i32(1)))
    expect("assignment that begins at 1", create(fresh + i32(-1) + i16(-1) + gap + array()), 39)
    stranger = array(i32(0) + array(i32(4321)))
    expect("assignment to an unknown broker", create(fresh + i32(-1) + i16(-1) + stranger + array()), 39)
    twice = array(i32(0) + array(i32(1), i32(1)))
    expect("assignment with one broker twice", create(fresh + i32(-1) + i16(-1) + twice + array()), 39)
    with Connection(bootstrap) as connection:
        same = fresh + i32(1) + i16(1) + nothing
        reader = connection.ask(CREATE_TOPICS, 4, array(same, same) + i32(10_000) + i8(0))
        reader.i32(), reader.i32(), reader.string()
        expect("one name twice", reader.i16(), INVALID_REQUEST)


def list_offsets_specials(bootstrap: str) -> None:
    topic = topic_name("raw-list")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        for stamp, value in [(1000, b"a"), (5000, b"b"), (2000, b"c")]:
            produce(connection, topic, batch(value, base_timestamp_ms=stamp, max_timestamp_ms=stamp).encode())
        for asked, answered in [
            (-2, (0, -1, 0)),
            (-1, (0, -1, 3)),
            (0, (0, 1000, 0)),
            (1500, (0, 5000, 1)),
            (6000, (0, -1, -1)),
        ]:
            reader = connection.ask(LIST_OFFSETS, 1, i32(-1) + array(string(topic) + array(i32(0) + i64(asked))))
            reader.i32(), reader.string(), reader.i32(), reader.i32()
            expect(f"timestamp {asked}", (reader.i16(), reader.i64(), reader.i64()), answered)


ATTACKS = [
    api_versions_of_the_future,
    api_versions_with_a_bad_name,
    corrupt_batches,
    batches_that_end_too_early,
    other_magic,
    produce_errors,
    acks_0,
    names,
    topics_that_are_not_there,
    unknown_topic_ids,
    fetch_errors,
    fetch_sessions,
    create_topics_errors,
    list_offsets_specials,
]
