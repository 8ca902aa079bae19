"""Looks at all that a run has left behind: the clients' accounts and the disks of all nodes."""

from __future__ import annotations

import contextlib
import json
from bisect import bisect
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import accounts
import faults
import replicas

import changes

TOPIC, JAVA_TOPIC, PARTITIONS = "chaos", "chaos-java", 6
# The producers of the topic, by the letter of their values; what the reader and the Java producer's files are called.
PRODUCERS, READER, JAVA = ("c", "k"), "reader", "java"
# At the same time; each holds the copies of one partition.
PROCESSES = 2
# An acknowledgement that was under way when a fault began may come this much later.
UNDER_WAY_S = 0.3


@dataclass
class Record:
    """What the run itself writes down, again after each fault, so that a run that was cut can be judged."""

    seed: int
    nodes: list[int] = field(default_factory=list)
    # Kind, begin and end by the monotonic clock.
    happened: list[tuple[str, float, float]] = field(default_factory=list)
    # How many readers had locked themselves up, and were replaced.
    locked_up_count: int = 0

    def write(self, directory: Path) -> None:
        """Leave it among the rest."""
        passing = directory / "run.json.new"
        passing.write_text(json.dumps(vars(self)))
        passing.rename(directory / "run.json")

    @classmethod
    def read(cls, directory: Path) -> Record:
        """What an earlier run left."""
        return cls(**json.loads((directory / "run.json").read_text()))


@dataclass
class Task:
    """One partition to be judged."""

    directory: Path
    nodes: list[int]
    topic: str
    partition: int
    # How far each producer has counted, by its letter, and in which files its accounts are.
    sent_below: dict[str, int]
    names: list[str]


@dataclass
class Outcome:
    """What was found."""

    verdict: replicas.Verdict = field(default_factory=replicas.Verdict)
    errors: list[str] = field(default_factory=list)
    # Of the first producer: when acknowledgements of a partition stopped and went on, in milliseconds.
    gaps: list[tuple[int, int]] = field(default_factory=list)


def judge_partition(task: Task) -> tuple[replicas.Verdict, list[tuple[int, int]]]:
    """Compare the copies of a partition with each other and with what clients were told."""
    verdict = replicas.Verdict()
    what = f"{task.topic}-{task.partition}"
    copies = {str(node): replicas.segments(task.directory / f"chronik-data-{node}" / what) for node in task.nodes}
    verdict.byte_count = sum(map(len, copies.values()))
    replicas.compare(copies, verdict, what)
    gaps: list[tuple[int, int]] = []
    # The others are the same, or that is told already.
    found = replicas.codes(copies[str(task.nodes[0])], verdict, what)
    copies.clear()
    if task.names:
        replicas.check_order(found, task.sent_below, verdict, what)
        for name in task.names:
            told = accounts.read(accounts.path(task.directory, name, task.partition))
            found_gaps = replicas.check_acknowledged(found, told, verdict, what)
            gaps += found_gaps if name == PRODUCERS[0] else []
        seen = accounts.read(accounts.path(task.directory, accounts.of_reader(task.topic), task.partition))
        replicas.check_seen(found, seen, verdict, what)
    return verdict, gaps


def account_of_java(directory: Path) -> tuple[int, list[str]]:
    """Write down what the Java producer has printed as the others do; how far it has counted, and its errors."""
    account = accounts.Accounts(directory, JAVA, PARTITIONS)
    told_count, errors = 0, []
    # How much it has sent and was acknowledged: printed last, and not by one that was killed.
    counted: tuple[int, int] | None = None
    with (directory / f"{JAVA}.out").open() as out:
        for line in out:
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if event.get("name") == "producer_send_success":
                    told_count += 1
                    account.write(event["partition"], event["offset"], accounts.code("", int(event["value"])), 0)
                elif event.get("name") == "producer_send_error":
                    errors.append(f"{JAVA}: {event.get('exception')}: {event.get('message')}")
                elif event.get("name") == "tool_data":
                    counted = int(event["sent"]), int(event["acked"])
    account.close()
    if counted is None:
        return replicas.ANY_NUMBER, [*errors, f"{JAVA}: it has not come to its end"]
    if counted != (told_count, told_count):
        errors.append(f"{JAVA}: {counted[0]} sent, {counted[1]} acknowledged, {told_count} told one by one")
    return counted[0], errors


def said(directory: Path, name: str) -> tuple[int | None, list[str]]:
    """What a client of ours printed: how far it has counted, if it came to its end, and its errors."""
    sent, errors = None, []
    for line in (directory / f"{name}.out").read_text(errors="replace").splitlines():
        if line.startswith("# "):
            sent = int(line.split()[2]) if line.startswith("# sent ") else 0
        else:
            errors.append(f"{name}: {line}")
    if sent is None:
        errors.append(f"{name}: it has not come to its end")
    return sent, errors


def judge(directory: Path, record: Record) -> Outcome:
    """All of it."""
    outcome = Outcome()
    logs = {node: directory / f"node-{node}.log" for node in record.nodes}
    outcome.errors += changes.told_wrongly(logs, [TOPIC, JAVA_TOPIC])
    sent_below: dict[str, int] = {}
    sent_sum = 0
    for name in PRODUCERS:
        sent, errors = said(directory, name)
        sent_below |= dict.fromkeys(accounts.heirs(name), replicas.ANY_NUMBER if sent is None else sent)
        sent_sum += sent or 0
        outcome.errors += errors
    outcome.errors += said(directory, READER)[1]
    java_below, errors = account_of_java(directory)
    outcome.errors += errors
    tasks = [Task(directory, record.nodes, TOPIC, index, sent_below, list(PRODUCERS)) for index in range(PARTITIONS)]
    tasks += [Task(directory, record.nodes, JAVA_TOPIC, index, {"": java_below}, [JAVA]) for index in range(PARTITIONS)]
    tasks += [Task(directory, record.nodes, faults.BESIDE, index, {}, []) for index in range(faults.BESIDE_PARTITIONS)]
    acknowledged: Counter[str] = Counter()
    with ProcessPoolExecutor(PROCESSES) as pool:
        for task, (verdict, gaps) in zip(tasks, pool.map(judge_partition, tasks), strict=True):
            outcome.gaps += gaps
            acknowledged[task.topic] += verdict.acknowledged_count
            outcome.verdict.add(verdict)
    # A run in which a producer did nothing shows nothing.
    outcome.errors += [
        f"nothing in {topic} was acknowledged" for topic in (TOPIC, JAVA_TOPIC) if not acknowledged[topic]
    ]
    # Who was told of no error was told of every record.
    if not outcome.errors and acknowledged[TOPIC] != sent_sum:
        outcome.errors.append(f"{sent_sum} records were sent and {acknowledged[TOPIC]} answered")
    return outcome


def gaps_by_kind(record: Record, gaps: list[tuple[int, int]]) -> dict[str, list[float]]:
    """The longest gap in seconds that each fault has made: one that began with it or after it."""
    longest = [0.0] * len(record.happened)
    begins_ms = [(began - UNDER_WAY_S) * 1000 for _, began, _ in record.happened]
    for began_ms, ended_ms in gaps:
        number = bisect(begins_ms, began_ms) - 1
        if number >= 0:
            longest[number] = max(longest[number], (ended_ms - began_ms) / 1000)
    kinds: dict[str, list[float]] = {}
    for (name, _, _), gap_s in zip(record.happened, longest, strict=True):
        kinds.setdefault(name, []).append(gap_s)
    return kinds
