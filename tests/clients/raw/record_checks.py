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

UNKNOWN_SERVER_ERROR, CORRUPT_MESSAGE, MESSAGE_TOO_LARGE = -1, 2, 10
INVALID_TIMESTAMP, UNSUPPORTED_COMPRESSION, INVALID_RECORD = 32, 76, 87

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


def end_of(connection: Connection, topic: str) -> int:
    return fetch(connection, topic)[1]
