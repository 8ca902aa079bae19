"""What members of every Python client share: their arguments, their words, and how they end."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterable
from types import FrameType


class Member:
    """The arguments of a member, and what it says on its standard output, a JSON object a line."""

    def __init__(self) -> None:
        self.bootstrap, self.topic, self.group, self.assignor, self.name, session, instance = sys.argv[1:8]
        self.session_timeout_ms = int(session)
        self.instance = instance or None
        self.leaves = False
        signal.signal(signal.SIGTERM, self._leave)

    def _leave(self, _number: int, _frame: FrameType | None) -> None:
        self.leaves = True

    def say(self, name: str, **fields: object) -> None:
        print(json.dumps({"name": name, "time_ns": time.time_ns(), **fields}), flush=True)

    def consumed(self, places: Iterable[tuple[int, int]]) -> None:
        """Say which records came; they may have gaps."""
        ranges: list[list[int]] = []
        for partition, offset in sorted(places):
            if ranges and ranges[-1][0] == partition and ranges[-1][2] == offset - 1:
                ranges[-1][2] = offset
            else:
                ranges.append([partition, offset, offset])
        if ranges:
            self.say("consumed", ranges=ranges)

    def committed(self, places: Iterable[tuple[int, int]]) -> None:
        """Say which offsets the coordinator has acknowledged; a negative one stands for none."""
        if offsets := [[partition, offset] for partition, offset in places if offset >= 0]:
            self.say("committed", offsets=offsets)
