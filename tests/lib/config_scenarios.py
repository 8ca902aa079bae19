"""Configs that are changed while the broker runs, as every Python client that can change them is put through it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import scenarios
from data import Record, topic_name
from report import Case, Skip, expect
from scenarios import ERROR_INVALID_CONFIG, ERROR_MESSAGE_TOO_LARGE, ERROR_UNKNOWN_TOPIC_OR_PARTITION, refused

ERROR_INVALID_REQUEST = 42
SOURCE_TOPIC = 1
SOURCE_BROKER = 2
SOURCE_DEFAULT = 5
# The only broker of a suite, as its configuration numbers it.
BROKER_ID = "1"

# How a config is changed, its name, and the value where one is needed.
Change = tuple[str, str, str | None]


class ConfigAdapter(scenarios.Adapter, Protocol):
    """One client that changes configs. What the broker refuses raises `KafkaError`."""

    incremental: bool

    def alter(self, kind: str, name: str, changes: list[Change]) -> None:
        """Change configs of a `topic` or a `broker`: SET, DELETE, APPEND or SUBTRACT."""
        ...

    def replace(self, topic: str, configs: dict[str, str]) -> None:
        """Set these configs of a topic, and no others."""
        ...

    def described(self, kind: str, name: str) -> dict[str, tuple[str | None, int]]:
        """Each config's value and Kafka's number of where it comes from."""
        ...


def shown(client: ConfigAdapter, kind: str, name: str, key: str, wanted: tuple[str | None, int]) -> None:
    """Changes reach the broker that is asked a moment after they are made."""
    scenarios.eventually(
        f"{key} of {kind} {name} as {wanted}",
        lambda: client.described(kind, name).get(key),
        lambda found: found == wanted,
    )


def topic_configs_change(client: ConfigAdapter) -> None:
    topic = scenarios.create(client, "change")
    large = [Record(b"x" * 3000)]
    client.produce(topic, large)
    client.alter("topic", topic, [("SET", "max.message.bytes", "2000"), ("SET", "retention.ms", " +77777777 ")])
    shown(client, "topic", topic, "max.message.bytes", ("2000", SOURCE_TOPIC))
    shown(client, "topic", topic, "retention.ms", ("77777777", SOURCE_TOPIC))
    refused("a record over the new limit", ERROR_MESSAGE_TOO_LARGE, lambda: client.produce(topic, large))
    client.alter("topic", topic, [("DELETE", "max.message.bytes", None)])
    shown(client, "topic", topic, "max.message.bytes", (str(scenarios.MAX_MESSAGE_BYTES), SOURCE_DEFAULT))
    shown(client, "topic", topic, "retention.ms", ("77777777", SOURCE_TOPIC))
    expect("offsets", client.produce(topic, large), [1])


def lists_change(client: ConfigAdapter) -> None:
    topic = scenarios.create(client, "lists")
    client.alter("topic", topic, [("APPEND", "cleanup.policy", "compact")])
    shown(client, "topic", topic, "cleanup.policy", ("delete,compact", SOURCE_TOPIC))
    client.alter("topic", topic, [("SUBTRACT", "cleanup.policy", "delete")])
    shown(client, "topic", topic, "cleanup.policy", ("compact", SOURCE_TOPIC))
    client.alter("topic", topic, [("DELETE", "cleanup.policy", None)])
    shown(client, "topic", topic, "cleanup.policy", ("delete", SOURCE_DEFAULT))
    refused(
        "an item added to what is no list",
        ERROR_INVALID_CONFIG,
        lambda: client.alter("topic", topic, [("APPEND", "retention.ms", "1")]),
    )


def broker_configs_change(client: ConfigAdapter) -> None:
    topic = scenarios.create(client, "follows")
    client.alter("broker", BROKER_ID, [("SET", "log.index.interval.bytes", "5000")])
    shown(client, "broker", BROKER_ID, "log.index.interval.bytes", ("5000", SOURCE_BROKER))
    shown(client, "topic", topic, "index.interval.bytes", ("5000", SOURCE_BROKER))
    client.alter("topic", topic, [("SET", "index.interval.bytes", "6000")])
    shown(client, "topic", topic, "index.interval.bytes", ("6000", SOURCE_TOPIC))
    client.alter("broker", BROKER_ID, [("DELETE", "log.index.interval.bytes", None)])
    shown(client, "broker", BROKER_ID, "log.index.interval.bytes", ("4096", SOURCE_DEFAULT))
    refused(
        "a config that is read at start",
        ERROR_INVALID_REQUEST,
        lambda: client.alter("broker", BROKER_ID, [("SET", "num.partitions", "5")]),
    )
    refused(
        "a wrong value",
        ERROR_INVALID_REQUEST,
        lambda: client.alter("broker", BROKER_ID, [("SET", "log.retention.ms", "soon")]),
    )


def replaced_whole(client: ConfigAdapter) -> None:
    topic = scenarios.create(client, "replace", retention_ms="1234567", segment_ms="7654321")
    client.replace(topic, {"retention.ms": "88888888"})
    shown(client, "topic", topic, "retention.ms", ("88888888", SOURCE_TOPIC))
    if client.incremental:
        shown(client, "topic", topic, "segment.ms", ("604800000", SOURCE_DEFAULT))


def change_refusals(client: ConfigAdapter) -> None:
    topic = scenarios.create(client, "refusals")
    changes: list[tuple[str, int, Change]] = [
        ("an unknown config", ERROR_INVALID_CONFIG, ("SET", "no.such.config", "1")),
        ("a wrong value", ERROR_INVALID_CONFIG, ("SET", "retention.ms", "soon")),
        ("a value out of bounds", ERROR_INVALID_CONFIG, ("SET", "retention.ms", "-2")),
    ]
    for what, code, change in changes:
        refused(what, code, partial(client.alter, "topic", topic, [change]))
    refused(
        "an unknown topic",
        ERROR_UNKNOWN_TOPIC_OR_PARTITION,
        lambda: client.alter("topic", topic_name("never-there"), [("SET", "retention.ms", "5")]),
    )
    expect("what was refused is not set", client.described("topic", topic)["retention.ms"][1], SOURCE_DEFAULT)


def cases(client: ConfigAdapter) -> list[tuple[str, Case]]:
    """All scenarios, bound to one client."""

    def needs_increments(scenario: Callable[[ConfigAdapter], None]) -> None:
        if not client.incremental:
            raise Skip("this version changes configs as a whole only")
        scenario(client)

    incremental = [topic_configs_change, lists_change, broker_configs_change, change_refusals]
    named: list[tuple[str, Case]] = [
        (scenario.__name__, partial(needs_increments, scenario)) for scenario in incremental
    ]
    return [*named, ("replaced_whole", partial(replaced_whole, client))]
