"""What every Python client is put through; an adapter per client says how that client does each step."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from data import BASE_TIMESTAMP_MS, Record, plain, topic_name, varied
from report import Case, Skip, expect

ERROR_UNKNOWN_TOPIC_OR_PARTITION = 3
ERROR_MESSAGE_TOO_LARGE = 10
ERROR_INVALID_TOPIC = 17
ERROR_TOPIC_ALREADY_EXISTS = 36
ERROR_INVALID_PARTITIONS = 37
ERROR_INVALID_REPLICATION_FACTOR = 38
ERROR_INVALID_CONFIG = 40

MAX_MESSAGE_BYTES = 1_048_588
WAIT_S = 30.0


T = TypeVar("T")


class KafkaError(Exception):
    """A client's error, reduced to the protocol's code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Adapter(Protocol):
    """One client. Every method that the broker refuses raises `KafkaError`."""

    compressions: list[str]
    null_header: bool
    both_null: bool
    idempotent: bool

    def create_topic(self, topic: str, partitions: int, replication: int, configs: dict[str, str]) -> None: ...

    def delete_topic(self, topic: str) -> None: ...

    def grow_topic(self, topic: str, partitions: int) -> None: ...

    def topics(self) -> dict[str, int]:
        """Every topic with its number of partitions."""
        ...

    def topic_configs(self, topic: str) -> dict[str, str]: ...

    def delete_records(self, topic: str, partition: int, before_offset: int) -> None: ...

    def broker_count(self) -> int: ...

    def produce(
        self, topic: str, records: list[Record], compression: str = "none", acks: int = -1, idempotent: bool = False
    ) -> list[int]:
        """The offset that the broker answered for each record (-1 where it answers none)."""
        ...

    def consume(self, topic: str, partition: int, offset: int, count: int) -> list[tuple[int, Record]]:
        """`count` records from `offset` on, by assignment, with their offsets."""
        ...

    def offsets(self, topic: str, partition: int) -> tuple[int, int]:
        """The earliest and the latest offset."""
        ...

    def offset_for_time(self, topic: str, partition: int, timestamp_ms: int) -> int | None: ...


def eventually(what: str, attempt: Callable[[], T], good: Callable[[T], bool]) -> T:
    """Metadata is only eventually what an admin call made it, on Kafka as elsewhere."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            result = attempt()
            if good(result):
                return result
            seen = repr(result)
        except KafkaError as error:
            seen = repr(error)
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: still {seen} after {WAIT_S:.0f} s")
        time.sleep(0.1)


def refused(what: str, code: int, attempt: Callable[[], object]) -> None:
    """The broker must answer with this error code."""
    try:
        attempt()
    except KafkaError as error:
        expect(f"{what}: error code", error.code, code)
    else:
        raise AssertionError(f"{what}: accepted, want error {code}")


def create(client: Adapter, purpose: str, partitions: int = 1, **configs: str) -> str:
    """A new topic that the client already sees."""
    topic = topic_name(purpose)
    client.create_topic(topic, partitions, 1, {name.replace("_", "."): value for name, value in configs.items()})
    eventually("the new topic", client.topics, lambda topics: topics.get(topic) == partitions)
    return topic


def compare(consumed: list[tuple[int, Record]], wanted: list[Record], first_offset: int = 0) -> None:
    """Every field of every record, and offsets without a gap."""
    expect("number of records", len(consumed), len(wanted))
    for index, ((offset, got), want) in enumerate(zip(consumed, wanted, strict=True)):
        expect("offset", offset, first_offset + index)
        expect(f"record at offset {offset}", got, want)


def carries_everything(client: Adapter, compression: str) -> None:
    topic = create(client, f"codec-{compression}")
    records = varied(500, len(compression), client.null_header, client.both_null)
    expect("offsets", client.produce(topic, records, compression), list(range(len(records))))
    compare(client.consume(topic, 0, 0, len(records)), records)


def idempotent(client: Adapter) -> None:
    if not client.idempotent:
        raise Skip("this client has no idempotent producer")
    topic = create(client, "idempotent", partitions=2)
    for first in (0, 1000):
        records = plain(2000)[first : first + 1000]
        for partition in (0, 1):
            placed = [Record(r.value, timestamp_ms=r.timestamp_ms, partition=partition) for r in records]
            expect("offsets", client.produce(topic, placed, "lz4", idempotent=True), list(range(first, first + 1000)))
    for partition in (0, 1):
        values = [record.value for _, record in client.consume(topic, partition, 0, 2000)]
        expect("values", values, [record.value for record in plain(2000)])


def every_acks(client: Adapter) -> None:
    topic = create(client, "acks")
    records = plain(30)
    client.produce(topic, records[:10], acks=0)
    eventually("records of acks=0", lambda: client.offsets(topic, 0), lambda ends: ends == (0, 10))
    expect("offsets with acks=1", client.produce(topic, records[10:20], acks=1), list(range(10, 20)))
    expect("offsets with acks=all", client.produce(topic, records[20:], acks=-1), list(range(20, 30)))
    compare(client.consume(topic, 0, 0, 30), records)


def many_partitions(client: Adapter) -> None:
    topic = create(client, "many", partitions=24)
    records = plain(2400)
    for index, record in enumerate(records):
        record.partition = index % 24
    client.produce(topic, records)
    for partition in range(24):
        wanted = [record for record in records if record.partition == partition]
        compare(client.consume(topic, partition, 0, 100), wanted)
        expect("ends", client.offsets(topic, partition), (0, 100))


def thousands_in_order(client: Adapter) -> None:
    topic = create(client, "thousands")
    records = plain(20_000, size_bytes=100)
    expect("offsets", client.produce(topic, records, "gzip"), list(range(20_000)))
    compare(client.consume(topic, 0, 0, 20_000), records)
    compare(client.consume(topic, 0, 12_345, 1000), records[12_345:13_345], first_offset=12_345)


def large_records(client: Adapter) -> None:
    topic = create(client, "large")
    fits = Record(value=bytes(range(256)) * 4090, key=b"large")
    expect("offsets", client.produce(topic, [fits]), [0])
    too_large = Record(value=b"x" * MAX_MESSAGE_BYTES)
    refused("a record over max.message.bytes", ERROR_MESSAGE_TOO_LARGE, lambda: client.produce(topic, [too_large]))
    expect("offsets", client.produce(topic, [fits]), [1])
    compare(client.consume(topic, 0, 0, 2), [fits, fits])


def topic_limit(client: Adapter) -> None:
    topic = create(client, "limit", max_message_bytes="2000")
    refused("a record over 2000 bytes", ERROR_MESSAGE_TOO_LARGE, lambda: client.produce(topic, [Record(b"x" * 2000)]))
    expect("offsets", client.produce(topic, [Record(b"x" * 1800)]), [0])


def times(client: Adapter) -> None:
    topic = create(client, "times")
    records = plain(100)
    for index, record in enumerate(records):
        record.timestamp_ms = BASE_TIMESTAMP_MS + index * 1000
    for start in range(0, 100, 10):
        client.produce(topic, records[start : start + 10])
    for moment, offset in [(0, 0), (1, 1), (41_000, 41), (41_001, 42), (99_000, 99)]:
        expect(f"offset for +{moment} ms", client.offset_for_time(topic, 0, BASE_TIMESTAMP_MS + moment), offset)
    expect("offset after the last", client.offset_for_time(topic, 0, BASE_TIMESTAMP_MS + 99_001), None)


def log_append_time(client: Adapter) -> None:
    topic = create(client, "append-time", message_timestamp_type="LogAppendTime")
    client.produce(topic, plain(10))
    stamps = {record.timestamp_ms for _, record in client.consume(topic, 0, 0, 10)}
    if min(stamps) <= BASE_TIMESTAMP_MS + 60_000:
        raise AssertionError(f"timestamps {stamps} are the producer's, not the broker's")


def auto_creation(client: Adapter) -> None:
    topic = topic_name("auto")
    records = plain(10)
    client.produce(topic, records)
    compare(client.consume(topic, 0, 0, 10), records)
    expect("partitions of an auto-created topic", client.topics().get(topic), 3)


def delete_and_recreate(client: Adapter) -> None:
    topic = create(client, "again")
    client.produce(topic, plain(50))
    client.delete_topic(topic)
    eventually("the deleted topic", client.topics, lambda topics: topic not in topics)
    client.create_topic(topic, 2, 1, {})
    eventually("the recreated topic", client.topics, lambda topics: topics.get(topic) == 2)
    eventually("an empty log", lambda: client.offsets(topic, 0), lambda ends: ends == (0, 0))
    again = varied(5, 9, client.null_header, client.both_null)
    expect("offsets", client.produce(topic, again), list(range(5)))
    compare(client.consume(topic, 0, 0, 5), again)


def delete_records(client: Adapter) -> None:
    topic = create(client, "trim")
    records = plain(100)
    client.produce(topic, records)
    client.delete_records(topic, 0, 40)
    expect("ends", client.offsets(topic, 0), (40, 100))
    compare(client.consume(topic, 0, 40, 60), records[40:], first_offset=40)


def admin_refusals(client: Adapter) -> None:
    topic = create(client, "admin")
    refused("an existing topic", ERROR_TOPIC_ALREADY_EXISTS, lambda: client.create_topic(topic, 1, 1, {}))
    refused("an illegal name", ERROR_INVALID_TOPIC, lambda: client.create_topic("no spaces", 1, 1, {}))
    refused("a name of dots", ERROR_INVALID_TOPIC, lambda: client.create_topic("..", 1, 1, {}))
    refused("a name of 250 letters", ERROR_INVALID_TOPIC, lambda: client.create_topic("x" * 250, 1, 1, {}))
    refused(
        "more replicas than brokers",
        ERROR_INVALID_REPLICATION_FACTOR,
        lambda: client.create_topic(topic_name("rf"), 1, 3, {}),
    )
    refused("no partitions", ERROR_INVALID_PARTITIONS, lambda: client.create_topic(topic_name("p0"), 0, 1, {}))
    refused(
        "an unknown config",
        ERROR_INVALID_CONFIG,
        lambda: client.create_topic(topic_name("config"), 1, 1, {"no.such.config": "1"}),
    )
    refused(
        "a wrong value",
        ERROR_INVALID_CONFIG,
        lambda: client.create_topic(topic_name("config"), 1, 1, {"retention.ms": "soon"}),
    )
    refused(
        "an unknown topic",
        ERROR_UNKNOWN_TOPIC_OR_PARTITION,
        lambda: client.delete_topic(topic_name("never-there")),
    )
    refused("fewer partitions", ERROR_INVALID_PARTITIONS, lambda: client.grow_topic(topic, 1))


def admin(client: Adapter) -> None:
    expect("brokers", client.broker_count(), 1)
    topic = create(client, "grow", partitions=2, retention_ms="123456789", cleanup_policy="delete")
    configs = client.topic_configs(topic)
    expect("retention.ms", configs.get("retention.ms"), "123456789")
    expect("max.message.bytes", configs.get("max.message.bytes"), str(MAX_MESSAGE_BYTES))
    client.produce(topic, plain(5))
    client.grow_topic(topic, 5)
    eventually("the new partitions", client.topics, lambda topics: topics.get(topic) == 5)
    last = [Record(b"last", partition=4)]
    expect("offsets", eventually("a produce", lambda: client.produce(topic, last), lambda _: True), [0])
    compare(client.consume(topic, 4, 0, 1), last)
    compare(client.consume(topic, 0, 0, 5), plain(5))


def cases(client: Adapter) -> list[tuple[str, Case]]:
    """All scenarios, bound to one client."""
    named: list[tuple[str, Callable[[Adapter], None]]] = [
        *[(f"carries_everything_{c}", partial(carries_everything, compression=c)) for c in client.compressions],
        ("idempotent", idempotent),
        ("every_acks", every_acks),
        ("many_partitions", many_partitions),
        ("thousands_in_order", thousands_in_order),
        ("large_records", large_records),
        ("topic_limit", topic_limit),
        ("times", times),
        ("log_append_time", log_append_time),
        ("auto_creation", auto_creation),
        ("delete_and_recreate", delete_and_recreate),
        ("delete_records", delete_records),
        ("admin", admin),
        ("admin_refusals", admin_refusals),
    ]
    return [(name, partial(scenario, client)) for name, scenario in named]
