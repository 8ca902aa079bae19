"""Bytes that no client sends. After each attack the broker must still serve a good request.

The expected answers are those of Apache Kafka 4.3.1: run the suite against it to see them hold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import hostile
import idempotence
import protocol_errors
import record_checks

import report
from data import topic_name
from report import Case, expect
from wire import Connection, batch, fetch, new_topic, produce


def still_serves(bootstrap: str) -> None:
    """Create, produce, fetch: each on a connection that the attack never touched."""
    topic = topic_name("raw-good")
    with Connection(bootstrap) as connection:
        new_topic(connection, topic)
        good = batch(b"good")
        expect("produce after the attack", produce(connection, topic, good.encode()), (0, 0))
        code, high_watermark, records = fetch(connection, topic)
        expect("fetch after the attack", (code, high_watermark, records[61:]), (0, 1, good.records))


def guarded(attack: Callable[[str], None], bootstrap: str) -> None:
    attack(bootstrap)
    still_serves(bootstrap)


def cases(bootstrap: str) -> list[tuple[str, Case]]:
    attacks = [*hostile.ATTACKS, *protocol_errors.ATTACKS, *idempotence.ATTACKS, *record_checks.ATTACKS]
    return [(attack.__name__, partial(guarded, attack, bootstrap)) for attack in attacks]


if __name__ == "__main__":
    sys.exit(report.run(cases(sys.argv[1]), *sys.argv[2:]))
