"""What lies on all replicas' disks after a run, compared with what was acknowledged: pure, so that it can be tested.

The rules are those of an acknowledged record: it is there, at its offset, once, and behind what its producer sent
before. Nothing is there that was never sent, and all replicas are the same, byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HEADER_BYTES = 61
COMPRESSION_MASK, CONTROL_BIT = 0x07, 0x20
COMPLAINTS_MAX = 20
# Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, two timestamps, producer id and epoch,
# base sequence, number of records.
HEADER = struct.Struct(">qiibIhiqqqhii")


@dataclass
class Acknowledged:
    """What one producer was told: values are its name, a colon and a number that it counts up; or the number alone."""

    producer: str
    # By partition: offsets and numbers, in the order of the acknowledgements.
    places: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    # Numbers that were sent, acknowledged or not, are below this in all partitions.
    sent_below: int = 0

    def count(self) -> int:
        """How many records."""
        return sum(len(places) for places in self.places.values())


@dataclass
class Verdict:
    """What was found wrong, by kind, and the first of the complaints in words."""

    lost: int = 0
    misplaced: int = 0
    doubled: int = 0
    reordered: int = 0
    unknown: int = 0
    damaged: int = 0
    different_bytes: int = 0
    record_count: int = 0
    acknowledged_count: int = 0
    words: list[str] = field(default_factory=list)

    def complain(self, kind: str, words: str) -> None:
        """Count one, and keep the first in words."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.words) < COMPLAINTS_MAX:
            self.words.append(f"{kind}: {words}")

    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        kinds = (self.lost, self.misplaced, self.doubled, self.reordered, self.unknown, self.damaged)
        return not any(kinds) and self.different_bytes == 0


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A zigzag number, and where it ends."""
    shift = result = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (result >> 1) ^ -(result & 1), at
        shift += 7


def batches(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Where each batch begins and ends, and its base offset. What is no batch ends the walk."""
    at, size = 0, len(data)
    while at + HEADER_BYTES <= size:
        base_offset, length = struct.unpack_from(">qi", data, at)
        end = at + 12 + length
        if length < HEADER_BYTES - 12 or end > size:
            return
        yield at, end, base_offset
        at = end


def values(data: bytes, at: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Offset and value of each record of an uncompressed batch."""
    base_offset = struct.unpack_from(">q", data, at)[0]
    place = at + HEADER_BYTES
    while place < end:
        size, place = varint(data, place)
        following = place + size
        _, place = varint(data, place + 1)
        delta, place = varint(data, place)
        key_size, place = varint(data, place)
        place += max(key_size, 0)
        value_size, place = varint(data, place)
        yield base_offset + delta, data[place : place + max(value_size, 0)]
        place = following


def records(data: bytes, verdict: Verdict, what: str) -> Iterator[tuple[int, bytes]]:
    """Offset and value of every record of a partition, in order."""
    covered, next_offset = 0, None
    for at, end, base_offset in batches(data):
        attributes = struct.unpack_from(">h", data, at + 21)[0]
        covered = end
        if next_offset is not None and base_offset != next_offset:
            verdict.complain("damaged", f"{what}: a batch begins at {base_offset} and should at {next_offset}")
        next_offset = base_offset + struct.unpack_from(">i", data, at + 23)[0] + 1
        if attributes & CONTROL_BIT:
            continue
        if attributes & COMPRESSION_MASK:
            verdict.complain("damaged", f"{what}: the batch at {base_offset} is compressed, and nobody sent such")
            continue
        yield from values(data, at, end)
    if covered != len(data):
        verdict.complain("damaged", f"{what}: {len(data) - covered} bytes at the end are no batch")


def name_and_number(value: bytes) -> tuple[str, str]:
    """Who sent a value, and its number; a producer without a name sends numbers alone."""
    name, colon, text = value.decode(errors="replace").partition(":")
    return (name, text) if colon else ("", name)


def compare(copies: dict[str, bytes], verdict: Verdict, what: str) -> None:
    """All replicas of a partition are the same."""
    names = sorted(copies)
    first = copies[names[0]]
    for name in names[1:]:
        other = copies[name]
        if other == first:
            continue
        common = min(len(first), len(other))
        differing = sum(1 for one, two in zip(first[:common], other[:common], strict=True) if one != two)
        differing += max(len(first), len(other)) - common
        verdict.different_bytes += differing
        verdict.words.append(
            f"{what}: {differing} bytes of {name} ({len(other)}) are not those of {names[0]} ({len(first)})"
        )


def check(
    logs: dict[int, bytes], acknowledged: list[Acknowledged], verdict: Verdict, topic: str
) -> dict[int, dict[int, bytes]]:
    """Compare what lies in each partition with what was acknowledged; gives the values by partition and offset."""
    by_name = {producer.producer: producer for producer in acknowledged}
    found: dict[int, dict[int, bytes]] = {}
    for partition, data in logs.items():
        what = f"{topic}-{partition}"
        here: dict[int, bytes] = {}
        newest: dict[str, int] = {}
        for offset, value in records(data, verdict, what):
            here[offset] = value
            verdict.record_count += 1
            name, text = name_and_number(value)
            known = by_name.get(name)
            if known is None or not text.isdigit() or int(text) >= known.sent_below:
                verdict.complain("unknown", f"{what} offset {offset} holds {value[:40]!r}, which nobody sent")
                continue
            number, last = int(text), newest.get(name, -1)
            if number == last:
                verdict.complain("doubled", f"{what} offset {offset} holds {value[:40]!r} again")
            elif number < last:
                verdict.complain("reordered", f"{what} offset {offset} holds {value[:40]!r} behind {name}:{last}")
            newest[name] = max(number, last)
        found[partition] = here
    everything = {partition: set(here.values()) for partition, here in found.items()}
    for producer in acknowledged:
        for partition, places in producer.places.items():
            here, present = found.get(partition, {}), everything.get(partition, set())
            verdict.acknowledged_count += len(places)
            for offset, number in places:
                value = (f"{producer.producer}:{number}" if producer.producer else f"{number}").encode()
                if here.get(offset) == value:
                    continue
                kind = "misplaced" if value in present else "lost"
                other = here.get(offset)
                words = f"{topic}-{partition}: {value!r} was acknowledged at {offset}, where {other!r} is"
                verdict.complain(kind, words)
    return found


def check_reader(seen: list[tuple[int, int, bytes]], found: dict[int, dict[int, bytes]], verdict: Verdict) -> None:
    """What a consumer saw while it all happened: what is there now, in order, without a gap."""
    positions: dict[int, int] = {}
    for partition, offset, value in seen:
        expected = positions.get(partition)
        if expected is not None and offset != expected:
            verdict.complain("misplaced", f"a consumer of partition {partition} went from {expected - 1} to {offset}")
        positions[partition] = offset + 1
        if found.get(partition, {}).get(offset) != value:
            verdict.complain(
                "lost", f"a consumer saw {value[:40]!r} in partition {partition} at {offset}, and it is not there"
            )


def segments(directory: Path) -> bytes:
    """The records of a partition as they lie on a disk."""
    return b"".join(path.read_bytes() for path in sorted(directory.glob("*.log")))
