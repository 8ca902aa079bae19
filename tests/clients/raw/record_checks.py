"""Batches whose header is right and whose records are not, in every codec; what topics ask of records.

The codecs are written by hand, as frames that store their bytes: nothing else can be made to lie as precisely.
"""

from __future__ import annotations

import gzip
import struct
import time
from dataclasses import replace

from data import topic_name
from report import expect
from wire import (
    FETCH,
    LIST_OFFSETS,
    PRODUCE,
    Batch,
    Connection,
    array,
    batch,
    create_topic,
    fetch,
    i8,
    i16,
    i32,
    i64,
    produce,
    produce_body,
    record,
    string,
    varint,
)

UNKNOWN_SERVER_ERROR, MESSAGE_TOO_LARGE, INVALID_TIMESTAMP, INVALID_RECORD = -1, 10, 32, 87

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


def _xxh32(data: bytes) -> int:
    """xxHash of fewer than 16 bytes: what an LZ4 frame's header needs."""
    mask, p2, p3, p5 = 0xFFFFFFFF, 2246822519, 3266489917, 374761393
    value = (p5 + len(data)) & mask
    for byte in data:
        value = (value + byte * p5) & mask
        value = ((value << 11 | value >> 21) & mask) * 2654435761 & mask
    value = (value ^ value >> 15) * p2 & mask
    value = (value ^ value >> 13) * p3 & mask
    return value ^ value >> 16


def stored(codec: str, data: bytes) -> bytes:
    """The bytes as a stream of the codec."""
    if codec == "gzip":
        return gzip.compress(data, 1)
    if codec == "snappy":
        # One literal behind the length of it all, in a stream as snappy-java writes it.
        length, literal = b"", len(data)
        while literal >= 0x80:
            length += bytes([literal & 0x7F | 0x80])
            literal >>= 7
        block = length + bytes([literal])
        if data:
            block += bytes([62 << 2]) + struct.pack("<I", len(data) - 1)[:3] + data
        return b"\x82SNAPPY\x00" + struct.pack(">iii", 1, 1, len(block)) + block
    if codec == "lz4":
        descriptor = bytes([0x60, 0x70])
        check = bytes([_xxh32(descriptor) >> 8 & 0xFF])
        block = struct.pack("<I", len(data) | 0x80000000) + data
        return b"\x04\x22\x4d\x18" + descriptor + check + block + bytes(4)
    if codec == "zstd":
        # A single segment with its size in four bytes, then one raw block, the last.
        block = struct.pack("<I", len(data) << 3 | 1)[:3] + data
        return b"\x28\xb5\x2f\xfd\xa0" + struct.pack("<I", len(data)) + block
    return data


def packed(codec: str, records: bytes, count: int, **fields: int) -> bytes:
    """A batch of these records in this codec."""
    now_ms = int(time.time() * 1000)
    settings = {"base_timestamp_ms": now_ms, "max_timestamp_ms": now_ms, "attributes": CODECS[codec], **fields}
    return Batch(stored(codec, records), count, **settings).encode()


def produce_v8(connection: Connection, topic: str, records: bytes) -> tuple[int, list[int], bool]:
    """Error code, indexes of the records at fault, and whether there is a text."""
    reader = connection.ask(PRODUCE, 8, produce_body(topic, records))
    reader.i32(), reader.string(), reader.i32(), reader.i32()
    code = reader.i16()
    reader.i64(), reader.i64(), reader.i64()
    indexes = []
    for _ in range(reader.i32()):
        indexes.append(reader.i32())
        reader.string()
    return code, indexes, reader.string() is not None


def topic_with(connection: Connection, **configs: str) -> str:
    """A new topic of one partition that answers."""
    topic = topic_name("raw-records")
    settings = {name.replace("_", "."): value for name, value in configs.items()}
    expect("create", create_topic(connection, topic, configs=settings), 0)
    deadline = time.monotonic() + 30
    while fetch(connection, topic)[0] != 0:
        if time.monotonic() > deadline:
            raise AssertionError(f"{topic} has no leader")
        time.sleep(0.02)
    return topic


def body(delta: int = 0, key: bytes | None = b"k", value: bytes = b"v", stamp: int = 0, tail: bytes = b"\x00") -> bytes:
    """The fields of a record; the tail is its headers with their count."""
    fields = i8(0) + varint(stamp) + varint(delta)
    fields += varint(-1) if key is None else varint(len(key)) + key
    return fields + varint(len(value)) + value + tail


def sized(fields: bytes) -> bytes:
    return varint(len(fields)) + fields


def refused(connection: Connection, topic: str, what: str, records: bytes, code: int) -> None:
    """A produce that must be refused without naming a record, and must leave nothing in the log."""
    before = fetch(connection, topic)[1]
    expect(what, produce_v8(connection, topic, records)[:2], (code, []))
    expect(f"{what}: high watermark", fetch(connection, topic)[1], before)


GOOD = record(0, b"a") + record(1, b"b")


def records_that_lie(bootstrap: str) -> None:
    lies = [
        ("more records than there are", GOOD, 3),
        ("fewer records than there are", GOOD, 1),
        ("bytes behind the last record", GOOD + b"xx", 2),
        ("a negative length", varint(-5) + GOOD, 2),
        ("a record longer than its fields", sized(body() + b"zz"), 1),
        ("a record shorter than its fields", sized(body()[:-3]), 1),
        ("a negative number of headers", sized(body(tail=varint(-1))), 1),
        ("a header without a key", sized(body(tail=varint(1) + varint(-1) + varint(-1))), 1),
        ("headers that are not there", sized(body(tail=varint(5))), 1),
        ("a key longer than the record", sized(i8(0) + varint(0) + varint(0) + varint(100) + b"k"), 1),
        ("a record of no bytes", b"\x00", 1),
        ("no records where one is said", b"", 1),
    ]
    with Connection(bootstrap) as connection:
        topic = topic_with(connection)
        for codec in CODECS:
            expect(f"{codec}: good", produce_v8(connection, topic, packed(codec, GOOD, 2)), (0, [], False))
            for what, records, count in lies:
                refused(connection, topic, f"{codec}: {what}", packed(codec, records, count), INVALID_RECORD)
            for deltas in [(1,), (0, 0), (0, 2)]:
                # Kafka lets these pass where nothing is compressed.
                if codec != "none":
                    lie = b"".join(sized(body(delta)) for delta in deltas)
                    code, indexes, _ = produce_v8(connection, topic, packed(codec, lie, len(deltas)))
                    expect(f"{codec}: offsets {deltas}", (code != 0, indexes), (True, []))


def streams_that_are_none(bootstrap: str) -> None:
    now_ms = int(time.time() * 1000)
    with Connection(bootstrap) as connection:
        topic = topic_with(connection)
        for codec in [codec for codec in CODECS if codec != "none"]:
            stream = stored(codec, GOOD)
            half = stream[: len(stream) // 2]
            for what, data in [("garbage", b"garbage garbage"), ("cut", stream[:-3]), ("half", half)]:
                good = Batch(data, 2, CODECS[codec], base_timestamp_ms=now_ms, max_timestamp_ms=now_ms)
                refused(connection, topic, f"{codec}: {what}", good.encode(), UNKNOWN_SERVER_ERROR)
        for number in (5, 7):
            unknown = replace(batch(b"a"), attributes=number).encode()
            refused(connection, topic, f"codec {number}", unknown, UNKNOWN_SERVER_ERROR)


def a_maximum_that_lies(bootstrap: str) -> None:
    with Connection(bootstrap) as connection:
        topic = topic_with(connection)
        now_ms = int(time.time() * 1000)
        for offset, codec in enumerate(CODECS):
            # The header's largest timestamp is put right: lookups by time rely on it.
            lie = packed(codec, record(0, b"a"), 1, base_timestamp_ms=now_ms + offset, max_timestamp_ms=1)
            expect(f"{codec}: produce", produce(connection, topic, lie), (0, offset))
            asked = i32(-1) + array(string(topic) + array(i32(0) + i64(now_ms + offset)))
            reader = connection.ask(LIST_OFFSETS, 1, asked)
            reader.i32(), reader.string(), reader.i32(), reader.i32()
            expect(f"{codec}: lookup", (reader.i16(), reader.i64(), reader.i64()), (0, now_ms + offset, offset))


def timestamps_of_single_records(bootstrap: str) -> None:
    now_ms = int(time.time() * 1000)
    week_ms = 7 * 86_400_000
    with Connection(bootstrap) as connection:
        topic = topic_with(connection, message_timestamp_before_max_ms=str(week_ms))
        late = sized(body()) + sized(body(1, stamp=week_ms)) + sized(body(2)) + sized(body(3, stamp=-2 * week_ms))
        for codec, number in CODECS.items():
            answer = produce_v8(connection, topic, packed(codec, late, 4))
            expect(f"{codec}: next week and the week before last", answer, (INVALID_TIMESTAMP, [1, 3], True))
            answer = produce_v8(connection, topic, packed(codec, GOOD, 2, base_timestamp_ms=-1, max_timestamp_ms=-1))
            expect(f"{codec}: no timestamps", answer, (0, [], False))
            answer = produce_v8(connection, topic, packed(codec, GOOD, 2, attributes=number | 8))
            expect(f"{codec}: the broker's type", answer, (0, [], False))
        topic = topic_with(connection, message_timestamp_type="LogAppendTime", message_timestamp_before_max_ms="1")
        for codec, number in CODECS.items():
            old = packed(codec, GOOD, 2, base_timestamp_ms=5, max_timestamp_ms=5)
            reader = connection.ask(PRODUCE, 7, produce_body(topic, old))
            reader.i32(), reader.string(), reader.i32(), reader.i32()
            code, _, stamp = reader.i16(), reader.i64(), reader.i64()
            expect(f"{codec}: log append time", (code, now_ms - 5000 <= stamp), (0, True))
            answer = produce_v8(connection, topic, packed(codec, GOOD, 2, attributes=number | 8))
            expect(f"{codec}: log append time of the producer", answer, (INVALID_TIMESTAMP, [0, 1], True))


def compacted_topics_want_keys(bootstrap: str) -> None:
    mixed = sized(body()) + sized(body(1, key=None)) + sized(body(2, key=b"")) + sized(body(3, key=None))
    with Connection(bootstrap) as connection:
        for policy in ("compact", "compact,delete"):
            topic = topic_with(connection, cleanup_policy=policy)
            for codec in CODECS:
                answer = produce_v8(connection, topic, packed(codec, mixed, 4))
                expect(f"{policy}, {codec}: no key", answer, (INVALID_RECORD, [1, 3], True))
                expect(f"{policy}, {codec}: keys", produce(connection, topic, packed(codec, GOOD, 2))[0], 0)
            expect(f"{policy}: high watermark", fetch(connection, topic)[1], 2 * len(CODECS))


def topics_have_a_codec(bootstrap: str) -> None:
    with Connection(bootstrap) as connection:
        for name, number in {**CODECS, "producer": -1}.items():
            topic = topic_with(connection, compression_type="uncompressed" if name == "none" else name)
            for offset, codec in enumerate(CODECS):
                sent = packed(codec, GOOD, 2)
                expect(f"{codec} to {name}", produce(connection, topic, sent), (0, 2 * offset))
                code, _, kept = fetch(connection, topic, offset=2 * offset)
                expect(f"{codec} to {name}: fetch", code, 0)
                codec_kept = struct.unpack_from(">h", kept, 21)[0] & 7
                expect(f"{codec} to {name}: codec", codec_kept, CODECS[codec] if number < 0 else number)
                if codec_kept == CODECS[codec]:
                    expect(f"{codec} to {name}: as it came", kept[16:], sent[16:])
                elif codec_kept == 0:
                    expect(f"{codec} to {name}: records", kept[61:], GOOD)


def sizes_count_before_and_behind(bootstrap: str) -> None:
    large = sized(body(value=b"x" * 50_000))
    tight = gzip.compress(large)
    with Connection(bootstrap) as connection:
        for compression, code in [("producer", 0), ("gzip", 0), ("uncompressed", MESSAGE_TOO_LARGE)]:
            topic = topic_with(connection, compression_type=compression, max_message_bytes="20000")
            now_ms = int(time.time() * 1000)
            small = Batch(tight, 1, 1, base_timestamp_ms=now_ms, max_timestamp_ms=now_ms).encode()
            expect(f"{compression}: compressed", produce(connection, topic, small)[0], code)
            answer = produce(connection, topic, packed("none", large, 1))[0]
            expect(f"{compression}: not compressed", answer, MESSAGE_TOO_LARGE)


def a_partition_named_twice(bootstrap: str) -> None:
    def entry(topic: str, *places: bytes) -> bytes:
        return string(topic) + array(*places)

    def records(data: bytes) -> bytes:
        return i32(0) + i32(len(data)) + data

    def place(offset: int) -> bytes:
        return i32(0) + i32(-1) + i64(offset) + i64(0) + i32(1 << 20)

    first, last = packed("none", GOOD, 2), batch(b"the last one").encode()
    with Connection(bootstrap) as connection:
        one, other = topic_with(connection), topic_with(connection)
        for topics, end in [
            ([entry(one, records(first), records(last))], 1),
            ([entry(one, records(first)), entry(other, records(first)), entry(one, records(last))], 2),
        ]:
            reader = connection.ask(PRODUCE, 7, string(None) + i16(-1) + i32(10_000) + array(*topics))
            answered = 0
            for _ in range(reader.i32()):
                reader.string()
                for _ in range(reader.i32()):
                    expect("index and error", (reader.i32(), reader.i16()), (0, 0))
                    reader.take(24)
                    answered += 1
            expect("number of answers", answered, min(len(topics), 2))
            code, high_watermark, kept = fetch(connection, one)
            expect("what is kept", (code, high_watermark, kept.count(b"the last one")), (0, end, end))
        head = i32(-1) + i32(0) + i32(1) + i32(1 << 20) + i8(0) + i32(0) + i32(-1)
        asked = array(entry(one, place(0), place(1)), entry(one, place(2)))
        reader = connection.ask(FETCH, 10, head + asked + array())
        reader.i32(), reader.i16(), reader.i32()
        expect("topics of a fetch", (reader.i32(), reader.string(), reader.i32()), (1, one, 1))
        reader.take(4 + 2 + 8 + 8 + 8 + 4)
        expect("bytes from the last offset", reader.i32(), 0)


ATTACKS = [
    records_that_lie,
    streams_that_are_none,
    a_maximum_that_lies,
    timestamps_of_single_records,
    compacted_topics_want_keys,
    topics_have_a_codec,
    sizes_count_before_and_behind,
    a_partition_named_twice,
]
