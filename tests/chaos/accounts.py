"""What clients write down while they run, one file for each partition: short, since it is about millions of records.

A producer's values are a letter of its own, a colon and a number that it counts up; those of Kafka's VerifiableProducer
are the number alone. Either is written down as one number, its code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Offset, code, and when, in milliseconds of the monotonic clock.
ENTRY = struct.Struct("<qqq")
NUMBER_BITS = 48
# More are no run to be judged.
HEIRS_MAX = 7
# No producer sends this.
NO_CODE = -1


def code_of(value: bytes) -> int:
    """The code of a value, or `NO_CODE`."""
    letter, digits = (value[0], value[2:]) if value[1:2] == b":" else (0, value)
    # The form in which it was sent, and no other that means the same number.
    if not digits.isdigit() or (digits[0] == 0x30 and len(digits) > 1) or len(digits) > 14:
        return NO_CODE
    return letter << NUMBER_BITS | int(digits)


def heirs(letter: str) -> list[str]:
    """A producer's letter, and those of the producers that take its place should it end by an error.

    They go on with its numbers. A request of the old one may arrive behind those of the new one, so each has an order
    of its own.
    """
    return [chr(ord(letter) + count) for count in range(HEIRS_MAX + 1)]


def code(letter: str, number: int) -> int:
    """The code of a producer's number."""
    return (ord(letter) if letter else 0) << NUMBER_BITS | number


def number_of(some: int) -> int:
    """A producer's number."""
    return some & ((1 << NUMBER_BITS) - 1)


def letter_of(some: int) -> str:
    """Who sent it."""
    return chr(some >> NUMBER_BITS) if some >> NUMBER_BITS else ""


def shown(some: int) -> str:
    """A value, as it was sent."""
    if some == NO_CODE:
        return "something strange"
    letter = letter_of(some)
    return f"{letter}:{number_of(some)}" if letter else f"{number_of(some)}"


def of_reader(topic: str) -> str:
    """The name under which the reader writes about a topic."""
    return f"reader-of-{topic}"


def path(directory: Path, name: str, partition: int) -> Path:
    """Where a client writes about a partition."""
    return directory / f"{name}-{partition}.account"


def count(directory: Path, name: str, partitions: int) -> int:
    """How many records a client has written down."""
    places = (path(directory, name, index) for index in range(partitions))
    return sum(place.stat().st_size // ENTRY.size for place in places if place.exists())


class Accounts:
    """The files of one client."""

    def __init__(self, directory: Path, name: str, partitions: int) -> None:
        self.files: list[BinaryIO] = [path(directory, name, index).open("wb") for index in range(partitions)]

    @classmethod
    def of_heir(cls, directory: Path, name: str, partitions: int) -> tuple[Accounts, list[int]]:
        """The files of who goes on where another one ended, or begins, and the next offset of each partition."""
        heir, offsets = cls(directory, name, 0), []
        for place in (path(directory, name, index) for index in range(partitions)):
            file = place.open("a+b")
            heir.files.append(file)
            # An entry that was being written is read again.
            whole_bytes = file.tell() // ENTRY.size * ENTRY.size
            file.truncate(whole_bytes)
            file.seek(max(whole_bytes - ENTRY.size, 0))
            last = file.read(ENTRY.size)
            offsets.append(ENTRY.unpack(last)[0] + 1 if last else 0)
        return heir, offsets

    def write(self, partition: int, offset: int, some: int, at_ms: int) -> None:
        """One record."""
        self.files[partition].write(ENTRY.pack(offset, some, at_ms))

    def close(self) -> None:
        """Nothing is left to be written."""
        for file in self.files:
            file.close()


def read(place: Path) -> Iterator[tuple[int, int, int]]:
    """Offset, code and time of each record; an entry that was being written is left out."""
    if not place.exists():
        return
    with place.open("rb") as file:
        while data := file.read(ENTRY.size * 65_536):
            yield from ENTRY.iter_unpack(data[: len(data) // ENTRY.size * ENTRY.size])
