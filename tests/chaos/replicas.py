"""What lies on all replicas' disks after a run, compared with what was acknowledged: pure, so that it can be tested.

The rules are those of an acknowledged record: it is there, at its offset, once, and behind what its producer sent
before. Nothing is there that was never sent, all replicas are the same, byte for byte, and who read along has seen what
is there. One partition is looked at at a time, and each value is one number (see `accounts`): there are millions.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

from accounts import NO_CODE, NUMBER_BITS, code_of, letter_of, number_of, shown

try:
    from crc32c import crc32c
except ImportError:
    # By the byte, in Python: enough for a run of minutes, and hundreds of times slower.
    from wire import crc32c

HEADER_BYTES = 61
# The checksum of a batch covers all behind itself.
CRC_AT, CRC_FROM = 17, 21
COMPRESSION_MASK, CONTROL_BIT = 0x07, 0x20
COMPLAINTS_MAX = 20
# A hole of more offsets than this is told and not gone through.
HOLE_MAX = 1_000_000
# A producer that has not said how much it sent may have sent anything.
ANY_NUMBER = 1 << NUMBER_BITS
# Between two acknowledgements of a partition that goes on well.
GAP_MS_MIN = 100

Entries = Iterable[tuple[int, int, int]]
"""Offset, code and time."""


@dataclass
class Verdict:
    """What was found wrong, by kind, and the first of the complaints in words."""

    lost: int = 0
    misplaced: int = 0
    doubled: int = 0
    reordered: int = 0
    unknown: int = 0
    damaged: int = 0
    unseen: int = 0
    different_bytes: int = 0
    record_count: int = 0
    acknowledged_count: int = 0
    byte_count: int = 0
    seen_count: int = 0
    # Of those acknowledged: as there already, and the broker does not remember where.
    unplaced_count: int = 0
    words: list[str] = field(default_factory=list)

    def complain(self, kind: str, words: str, count: int = 1) -> None:
        """Count, and keep the first in words."""
        setattr(self, kind, getattr(self, kind) + count)
        if len(self.words) < COMPLAINTS_MAX:
            self.words.append(f"{kind}: {words}")

    def add(self, other: Verdict) -> None:
        """What was found in another partition."""
        for part in fields(self):
            if part.name != "words":
                setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))
        self.words += other.words

    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        kinds = (self.lost, self.misplaced, self.doubled, self.reordered, self.unknown, self.damaged, self.unseen)
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


def values(data: bytes, at: int, end: int) -> Iterator[bytes]:
    """The value of each record of an uncompressed batch."""
    place = at + HEADER_BYTES
    while place < end:
        size, place = varint(data, place)
        following = place + size
        # Behind the attributes come the deltas of timestamp and offset, the key and the value.
        _, place = varint(data, place + 1)
        _, place = varint(data, place)
        key_size, place = varint(data, place)
        place += max(key_size, 0)
        value_size, place = varint(data, place)
        yield data[place : place + max(value_size, 0)]
        place = following


def codes(data: bytes, verdict: Verdict, what: str) -> array[int]:
    """The codes of all values of a partition, by offset."""
    found = array("q")
    covered = newest_epoch = 0
    for at, end, base_offset in batches(data):
        covered = end
        if base_offset != len(found):
            verdict.complain("damaged", f"{what}: a batch begins at {base_offset} and should at {len(found)}")
            if not len(found) < base_offset <= len(found) + HOLE_MAX:
                break
            found.extend([NO_CODE] * (base_offset - len(found)))
        epoch, attributes, last_delta = struct.unpack_from(">i5xhi", data, at + 12)
        if struct.unpack_from(">I", data, at + CRC_AT)[0] != crc32c(data[at + CRC_FROM : end]):
            verdict.complain("damaged", f"{what}: the batch at {base_offset} is not what its checksum is of")
        if epoch < newest_epoch:
            verdict.complain(
                "damaged", f"{what}: the batch at {base_offset} is of epoch {epoch}, behind {newest_epoch}"
            )
        newest_epoch = max(newest_epoch, epoch)
        if attributes & (COMPRESSION_MASK | CONTROL_BIT):
            verdict.complain("damaged", f"{what}: nobody sent a batch as the one at {base_offset}: {attributes:#x}")
            found.extend([NO_CODE] * (last_delta + 1))
            continue
        here = [code_of(value) for value in values(data, at, end)]
        if len(here) != last_delta + 1:
            verdict.complain(
                "damaged", f"{what}: {len(here)} records in the batch at {base_offset}, not {last_delta + 1}"
            )
        found.extend(here)
    if covered != len(data):
        verdict.complain("damaged", f"{what}: {len(data) - covered} bytes at the end are no batch")
    return found


def compare(copies: dict[str, bytes], verdict: Verdict, what: str) -> None:
    """All replicas of a partition are the same."""
    names = sorted(copies)
    first = copies[names[0]]
    for name in names[1:]:
        other = copies[name]
        if other == first:
            continue
        common = min(len(first), len(other))
        places = [at for at, pair in enumerate(zip(first, other, strict=False)) if pair[0] != pair[1]]
        differing = len(places) + max(len(first), len(other)) - common
        begin = places[0] if places else common
        words = f"{what}: {differing} bytes of {name} ({len(other)}) are not those of {names[0]} ({len(first)})"
        verdict.complain("different_bytes", f"{words}, the first at {begin}", differing)


def check_order(found: array[int], sent_below: dict[str, int], verdict: Verdict, what: str) -> None:
    """Each producer's values are there in its order, each once, and nothing else is."""
    newest: dict[str, int] = {}
    verdict.record_count += len(found)
    for offset, some in enumerate(found):
        letter, number = ("", 0) if some == NO_CODE else (letter_of(some), number_of(some))
        if some == NO_CODE or number >= sent_below.get(letter, 0):
            verdict.complain("unknown", f"{what} offset {offset} holds {shown(some)}, which nobody sent")
            continue
        last = newest.get(letter, -1)
        if number <= last:
            kind = "doubled" if number == last else "reordered"
            verdict.complain(kind, f"{what} offset {offset} holds {shown(some)} behind {shown(some - number + last)}")
        else:
            newest[letter] = number


def check_acknowledged(found: array[int], entries: Entries, verdict: Verdict, what: str) -> list[tuple[int, int]]:
    """What a producer was told is so; gives the gaps between acknowledgements: when each began and ended."""
    gaps: list[tuple[int, int]] = []
    present: set[int] | None = None
    unplaced: set[int] = set()
    size, last_ms = len(found), None
    for offset, some, at_ms in entries:
        verdict.acknowledged_count += 1
        if last_ms is not None and at_ms - last_ms >= GAP_MS_MIN:
            gaps.append((last_ms, at_ms))
        last_ms = at_ms
        if 0 <= offset < size and found[offset] == some:
            continue
        if offset < 0:
            unplaced.add(some)
            continue
        present = set(found) if present is None else present
        other = shown(found[offset]) if 0 <= offset < size else "nothing"
        kind = "misplaced" if some in present else "lost"
        verdict.complain(kind, f"{what}: {shown(some)} was acknowledged at {offset}, where {other} is")
    verdict.unplaced_count += len(unplaced)
    for some in unplaced.difference(found):
        verdict.complain("lost", f"{what}: {shown(some)} was acknowledged as there already, and it is not")
    return gaps


def check_seen(found: array[int], entries: Entries, verdict: Verdict, what: str) -> None:
    """What a consumer saw while it all happened: what is there now, in order, without a gap, to the end."""
    expected, size = 0, len(found)
    for offset, some, _ in entries:
        verdict.seen_count += 1
        if offset != expected:
            verdict.complain("misplaced", f"{what}: a consumer went from {expected - 1} to {offset}")
        expected = offset + 1
        if not 0 <= offset < size or found[offset] != some:
            verdict.complain("lost", f"{what}: a consumer saw {shown(some)} at {offset}, and it is not there")
    if expected < size:
        verdict.complain("unseen", f"{what}: a consumer saw nothing from {expected} to {size}", size - expected)


def segments(directory: Path) -> bytes:
    """The records of a partition as they lie on a disk."""
    return b"".join(path.read_bytes() for path in sorted(directory.glob("*.log")))
