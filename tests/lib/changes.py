"""What the nodes' logs say of leaders and ISRs: each change once, with a cause."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LINE = re.compile(
    r"(?P<what>(?:Leader of (?P<led>\S+) is now \d+|(?P<unled>\S+) has no leader)"
    r" \(leader epoch (?P<leader_epoch>\d+)\)"
    r"|ISR of (?P<in_sync>\S+) is now \[[\d, ]+\] \(partition epoch (?P<partition_epoch>\d+)\)): (?P<cause>.*?)"
    # Of a change that was under way when a controller failed, the next one says so: it cannot know how far that came.
    r"(?P<again> \(written by the controller of term \d+, which may have told it\))?"
    # The module that says so.
    r"(?: \([\w:]+\))?\s*$"
)


@dataclass
class Line:
    """A change as one node tells it."""

    node: int
    # What its epoch makes one of a kind: "leader epoch 7 of orders-0".
    change: str
    # The partition.
    name: str
    what: str
    cause: str
    is_told_again: bool
    is_leaders: bool
    # The leader epoch or the partition epoch.
    epoch: int


def told(logs: dict[int, Path]) -> Iterator[Line]:
    """All that the nodes tell."""
    for node, path in logs.items():
        with path.open(errors="replace") as log:
            for line in log:
                found = LINE.search(line)
                if found is None:
                    continue
                is_leaders = found["in_sync"] is None
                name = found["led"] or found["unled"] or found["in_sync"]
                epoch = (
                    f"leader epoch {found['leader_epoch']}"
                    if is_leaders
                    else f"partition epoch {found['partition_epoch']}"
                )
                yield Line(
                    node,
                    f"{epoch} of {name}",
                    name,
                    found["what"],
                    found["cause"],
                    found["again"] is not None,
                    is_leaders,
                    int(found["leader_epoch"] if is_leaders else found["partition_epoch"]),
                )


def told_wrongly(logs: dict[int, Path], topics: list[str] | None = None) -> list[str]:
    """Changes that stand in the logs more than once, and partitions that nobody leads since somebody was elected.

    A controller may tell again what an earlier one has written, if it says so and says the same. Only of topics that
    are never made anew: their epochs begin again.
    """
    changes: defaultdict[str, list[Line]] = defaultdict(list)
    errors = []
    for line in told(logs):
        if topics is not None and line.name.rpartition("-")[0] not in topics:
            continue
        changes[line.change].append(line)
        if "has no leader" in line.what and line.cause.startswith("it was elected"):
            errors.append(f"node {line.node} tells that {line.name} has no leader, for somebody was elected")
    if not any(line.is_leaders for lines in changes.values() for line in lines):
        # All is well with lines that are not found.
        errors.append("no node tells of any leader")
    for change, lines in sorted(changes.items()):
        nodes = [line.node for line in lines]
        if sum(not line.is_told_again for line in lines) > 1:
            errors.append(f"{change} is told more than once")
        elif len(set(nodes)) < len(nodes):
            errors.append(f"{change} is told more than once by one node")
        if len({(line.what, line.cause) for line in lines}) > 1:
            errors.append(f"{change} is told in more than one way")
    return errors


def untold(logs: dict[int, Path], leaders: dict[str, int]) -> list[str]:
    """Changes of leaders that nobody tells of, though there is one before and one behind, or though others lead now.

    Only where all nodes never ended at once, and of topics that are never made anew. `leaders` are those that metadata
    tell, by partition.
    """
    seen: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for line in told(logs):
        if line.is_leaders:
            seen[line.name][line.epoch] = line.what
    errors = []
    for name, lines in sorted(seen.items()):
        missing = sorted(set(range(min(lines), max(lines))) - lines.keys())
        if missing:
            errors.append(f"nobody tells of the leader epochs {missing} of {name}")
        last = lines[max(lines)]
        if name in leaders and not last.startswith(f"Leader of {name} is now {leaders[name]} "):
            errors.append(f"broker {leaders[name]} leads {name}, and what is told last is: {last}")
    return errors
