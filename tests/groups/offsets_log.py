"""Reads `__consumer_offsets` as Kafka's format has it: what was committed, and which generations there were."""

from __future__ import annotations

import struct
import time
from collections import defaultdict
from dataclasses import dataclass, field

from confluent_kafka import Consumer, TopicPartition

TOPIC = "__consumer_offsets"
READ_S_MAX = 30.0


@dataclass
class GroupLog:
    """What the log says of one group, in its order."""

    commits: list[tuple[str, int, int]] = field(default_factory=list)
    """Topic, partition, offset."""
    generations: list[tuple[int, int, dict[str, bytes]]] = field(default_factory=list)
    """Generation; when it was written, in milliseconds; member id and assignment."""


class Reader:
    """Takes a record apart, from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(f">{form}", self.data, self.at)
        self.at += struct.calcsize(f">{form}")
        return int(value)

    def bytes(self, length: int) -> bytes:
        if length < 0:
            return b""
        part = self.data[self.at : self.at + length]
        self.at += length
        return part

    def string(self) -> str:
        return self.bytes(self.number("h")).decode()


def assigned_partitions(assignment: bytes, topic: str) -> list[int]:
    """The partitions of a topic in a consumer's assignment."""
    if not assignment:
        return []
    reader = Reader(assignment)
    reader.number("h")
    found = []
    for _ in range(reader.number("i")):
        name = reader.string()
        partitions = [reader.number("i") for _ in range(reader.number("i"))]
        if name == topic:
            found += partitions
    return found


def add(log: GroupLog, topic_key: Reader, value: bytes | None) -> None:
    topic, partition = topic_key.string(), topic_key.number("i")
    if value is not None:
        reader = Reader(value)
        reader.number("h")
        log.commits.append((topic, partition, reader.number("q")))


def add_metadata(log: GroupLog, time_ms: int, value: bytes | None) -> None:
    if value is None:
        return
    reader = Reader(value)
    version = reader.number("h")
    reader.string()
    generation = reader.number("i")
    reader.string(), reader.string()
    if version >= 2:
        reader.number("q")
    members = {}
    for _ in range(reader.number("i")):
        member_id = reader.string()
        if version >= 3:
            reader.string()
        reader.string(), reader.string()
        if version >= 1:
            reader.number("i")
        reader.number("i")
        reader.bytes(reader.number("i"))
        members[member_id] = reader.bytes(reader.number("i"))
    log.generations.append((generation, time_ms, members))


def read(bootstrap: str) -> dict[str, GroupLog]:
    """Every group that the log tells of."""
    groups: dict[str, GroupLog] = defaultdict(GroupLog)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reads-offsets", "enable.auto.commit": False})
    try:
        count = len(consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions)
        ends = {p: consumer.get_watermark_offsets(TopicPartition(TOPIC, p), timeout=10)[1] for p in range(count)}
        consumer.assign([TopicPartition(TOPIC, p, 0) for p in range(count)])
        missing = {p: end for p, end in ends.items() if end > 0}
        deadline = time.monotonic() + READ_S_MAX
        while missing:
            if time.monotonic() > deadline:
                raise AssertionError(f"{TOPIC} was not read within {READ_S_MAX:.0f} s; partitions {sorted(missing)}")
            for message in consumer.consume(1000, timeout=0.5):
                if message.error():
                    continue
                key = Reader(message.key())
                kind, group = key.number("h"), key.string()
                if kind in (0, 1):
                    add(groups[group], key, message.value())
                elif kind == 2:
                    add_metadata(groups[group], message.timestamp()[1], message.value())
                if message.offset() + 1 >= missing.get(message.partition(), 1 << 62):
                    del missing[message.partition()]
    finally:
        consumer.close()
    return groups
