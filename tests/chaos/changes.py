"""What the nodes' logs say of leaders: each change once, with a cause."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

LINE = re.compile(
    r"(?:Leader of (?P<led>\S+) is now \d+|(?P<unled>\S+) has no leader) \(leader epoch (?P<epoch>\d+)\): (?P<cause>.*)"
)
# Of a change that was under way when a controller failed, the next one says so: it cannot know how far that one came.
TOLD_AGAIN = "which may have told it"


def told_wrongly(directory: Path, nodes: list[int], topics: list[str]) -> list[str]:
    """Leader epochs that stand in the logs more than once, and partitions that nobody leads since somebody was elected.

    Only of topics that are never made anew: their epochs begin again.
    """
    told: Counter[tuple[str, int]] = Counter()
    found_any = False
    errors = []
    for node in nodes:
        with (directory / f"node-{node}.log").open(errors="replace") as log:
            for line in log:
                found = LINE.search(line)
                found_any = found_any or found is not None
                if found is None or TOLD_AGAIN in line:
                    continue
                name = found["led"] or found["unled"]
                if name.rpartition("-")[0] not in topics:
                    continue
                told[name, int(found["epoch"])] += 1
                if found["unled"] and found["cause"].startswith("it was elected"):
                    errors.append(f"node {node} tells that {name} has no leader, for somebody was elected")
    if not found_any:
        # All is well with lines that are not found.
        errors.append("no node tells of any leader")
    again = [key for key, count in told.items() if count > 1]
    return errors + [f"leader epoch {epoch} of {name} is told more than once" for name, epoch in sorted(again)]
