"""What was acknowledged, what was read back, and whether the two agree: pure, so that it can be tested.

Each rule is one of the promises of an acknowledged record: it is there, unchanged, at its offset, once,
and in the order in which its producer sent it. Records that were sent and never acknowledged may be
there or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

Place = tuple[str, int, int]
"""Topic, partition, offset."""


@dataclass
class History:
    """Everything sent in all rounds so far. Every value is unique: `producer:number:payload`."""

    acknowledged: dict[Place, bytes] = field(default_factory=dict)
    sent: set[bytes] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)

    def send(self, value: bytes) -> None:
        """A value was handed to a producer."""
        self.sent.add(value)

    def acknowledge(self, place: Place, value: bytes) -> None:
        """The broker acknowledged a value; one place may be given once only."""
        earlier = self.acknowledged.get(place)
        if earlier is not None and earlier != value:
            self.complaints.append(f"{place} was acknowledged for {short(earlier)} and for {short(value)}")
        self.acknowledged[place] = value


def short(value: bytes | None) -> str:
    """A value, short enough for a line."""
    return repr(value[:40]) if value is not None else "nothing"


def producer_and_number(value: bytes) -> tuple[bytes, int]:
    """The producer of a value and the value's number in that producer's order."""
    producer, number, _ = value.split(b":", 2)
    return producer, int(number)


def check(history: History, log: dict[tuple[str, int], list[tuple[int, bytes]]], once: set[str]) -> list[str]:
    """Complaints about `log`, which holds (offset, value) as read from each partition.

    `once` names the topics of idempotent producers: there also a record that was never acknowledged
    occurs at most once. A plain producer may repeat itself when an answer was lost, but never a record
    whose acknowledgement it has.
    """
    complaints = list(history.complaints)
    found: dict[Place, bytes] = {}
    for (topic, partition), records in log.items():
        offsets = [offset for offset, _ in records]
        if any(later <= earlier for earlier, later in pairwise(offsets)):
            complaints.append(f"{topic}-{partition}: offsets do not increase")
        found.update({(topic, partition, offset): value for offset, value in records})
        complaints += [
            f"{topic}-{partition} at {offset}: {short(value)} was never sent"
            for offset, value in records
            if value not in history.sent
        ]
        if topic in once:
            complaints += doubled(topic, partition, records)
            complaints += disordered(topic, partition, records)
    for place, value in history.acknowledged.items():
        got = found.get(place)
        if got is None:
            complaints.append(f"missing: {short(value)} was acknowledged at {place}")
        elif got != value:
            complaints.append(f"changed: {place} was acknowledged for {short(value)} and holds {short(got)}")
    complaints += acknowledged_twice(history)
    return complaints


def doubled(topic: str, partition: int, records: list[tuple[int, bytes]]) -> list[str]:
    """Values that a partition holds more than once."""
    places: dict[bytes, int] = {}
    complaints = []
    for offset, value in records:
        if value in places:
            complaints.append(f"doubled: {topic}-{partition} holds {short(value)} at {places[value]} and {offset}")
        places[value] = offset
    return complaints


def disordered(topic: str, partition: int, records: list[tuple[int, bytes]]) -> list[str]:
    """Values that stand behind a later one of the same producer."""
    last: dict[bytes, int] = {}
    complaints = []
    for offset, value in records:
        producer, number = producer_and_number(value)
        if number < last.get(producer, -1):
            complaints.append(f"disordered: {topic}-{partition} at {offset}: {short(value)} behind {last[producer]}")
        last[producer] = number
    return complaints


def acknowledged_twice(history: History) -> list[str]:
    """Values that were acknowledged at two places."""
    places: dict[bytes, Place] = {}
    complaints = []
    for place, value in history.acknowledged.items():
        if value in places:
            complaints.append(f"doubled: {short(value)} was acknowledged at {places[value]} and {place}")
        places[value] = place
    return complaints
