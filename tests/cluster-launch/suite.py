"""`scripts/cluster`: up twice, a node killed and started again, a roll under load, down; and what it refuses."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "cluster"))

import confluent_kafka as kafka
from rolling import Producer, read_all

import wire
from cluster import create_topics, eventually, metadata
from daemon import answers, free_port
from report import expect, run

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "cluster"
NODES = (1, 2, 3)
TOPIC, PARTITIONS = "rolled", 12
# Between two looks at the ISRs: a node is away for hundreds of milliseconds.
LOOK_S = 0.01
# What each node has to fetch, a batch of one record at a time: seconds, where a node is ready within tenths of one.
FILL_COUNT, RECORD_BYTES = 8_000, 1_000


def free_base() -> int:
    """The first of three ports in a row that nobody listens on."""
    while True:
        base = free_port()
        if base < 65_000 and not any(answers("127.0.0.1", base + i, 0.2) for i in range(3)):
            return base


class Launcher:
    """The script with a directory and ports of its own."""

    def __init__(self, binary: Path, directory: Path) -> None:
        self.directory = directory
        self.kafka, self.raft, self.http = free_base(), free_base(), free_base()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CHRONIK_")},
            "CHRONIK_BINARY": str(binary.resolve()),
            "CHRONIK_CLUSTER_DIR": str(directory),
            "KAFKA_BASE_PORT": str(self.kafka),
            "RAFT_BASE_PORT": str(self.raft),
            "HTTP_BASE_PORT": str(self.http),
            "CHRONIK_MIN_INSYNC_REPLICAS": "2",
            # Each answer has one batch.
            "CHRONIK_REPLICA_FETCH_RESPONSE_MAX_BYTES": "1",
        }
        self.bootstraps = [f"localhost:{self.kafka + node - 1}" for node in NODES]

    def call(self, *arguments: str, **settings: str) -> tuple[int, str]:
        """Exit code and what it says."""
        done = subprocess.run(
            [SCRIPT, *arguments],
            env={**self.environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    def ok(self, *arguments: str, **settings: str) -> str:
        """The same, for a call that must succeed."""
        code, said = self.call(*arguments, **settings)
        if code != 0:
            raise AssertionError(f"{arguments} ended with {code}: {said}")
        return said

    def pid(self, node: int) -> int:
        """The process of a node."""
        return int((self.directory / f"node-{node}.pid").read_text().split()[0])


def alive(pid: int) -> bool:
    """Whether a process of that number runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def roll(launcher: Launcher) -> None:
    """Every node is restarted, one by one, and only when all run."""
    before = [launcher.pid(node) for node in NODES]
    said = launcher.ok("roll")
    expect("told", said.splitlines()[-1], "all nodes are restarted, and all replicas in sync")
    after = [launcher.pid(node) for node in NODES]
    expect("every process is another", [old != new for old, new in zip(before, after, strict=True)], [True] * 3)
    expect("handed over", launcher.ok("logs", "1").count("Handed over everything") >= 1, True)
    launcher.ok("stop", "3")
    code, told = launcher.call("roll")
    expect("with one that is away", (code, "node 3 does not run" in told), (1, True))
    launcher.ok("start", "3")


class Watch:
    """Looks at the ISRs all the time, as every node that answers tells them."""

    def __init__(self, bootstraps: list[str]) -> None:
        self.bootstraps = bootstraps
        # How often so many replicas were missing from an ISR.
        self.missing: Counter[int] = Counter()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join(30)

    def run(self) -> None:
        while not self.stopping.wait(LOOK_S):
            for bootstrap in self.bootstraps:
                # One that is being restarted does not answer, or not to the end.
                with contextlib.suppress(OSError, wire.Closed), wire.Connection(bootstrap, 5.0) as connection:
                    for partition in metadata(connection).topics.get(TOPIC, []):
                        self.missing[len(NODES) - len(partition.isr)] += 1

    def sees_all_in_sync(self) -> bool:
        """Whether every node tells full ISRs, which is asked on the side."""
        for bootstrap in self.bootstraps:
            with wire.Connection(bootstrap, 5.0) as connection:
                told = metadata(connection).topics.get(TOPIC, [])
            if [len(partition.isr) for partition in told] != [len(NODES)] * PARTITIONS:
                return False
        return True


def forgetful(binary: str, directory: str) -> str:
    """A program that starts a node without its replicas of the topic, which it must fetch anew."""
    program = Path(directory) / "forgetful"
    # The script asks the same program for the health of nodes that run.
    forget = f'[ $# -gt 0 ] || rm -rf "$CHRONIK_DATA_DIR"/{TOPIC}-*'
    program.write_text(f'#!/bin/sh\n{forget}\nexec {binary} "$@"\n')
    program.chmod(0o755)
    return str(program)


def roll_under_load(launcher: Launcher) -> None:
    """A node is taken away only when the one before it is in sync again, and no application hears of it.

    A node that was away for a moment is in sync as soon as it is ready, and nothing would show whether anybody waits.
    So each comes back without its records here, and is ready long before it has them.
    """
    watch = Watch(launcher.bootstraps)

    def topic_is_made() -> bool:
        with wire.Connection(launcher.bootstraps[0]) as connection:
            expect("a topic is made", create_topics(connection, {TOPIC: (PARTITIONS, 3)})[TOPIC], (0, None))
        return True

    eventually("a topic is made", topic_is_made)
    eventually("all replicas are in sync", watch.sees_all_in_sync)
    fill(launcher.bootstraps[0])
    producer = Producer(",".join(launcher.bootstraps), TOPIC, True)
    producer.partitions = PARTITIONS
    producer.thread.start()
    eventually("records are acknowledged", lambda: len(producer.acknowledged) > 100)
    with tempfile.TemporaryDirectory(prefix="chronik-forgetful-") as directory, watch:
        began = time.monotonic()
        launcher.ok("roll", CHRONIK_BINARY=forgetful(launcher.environment["CHRONIK_BINARY"], directory))
        took_s = time.monotonic() - began
        eventually("all replicas are in sync when it ends", watch.sees_all_in_sync, 5)
    producer.stopping.set()
    producer.thread.join(90)
    print(
        f"# {len(producer.acknowledged)} acknowledged in {took_s:.1f} s; replicas missing and how often: "
        f"{dict(watch.missing)}",
        flush=True,
    )
    expect("one node was missed", watch.missing[1] > 0, True)
    expect("never two at once", max(watch.missing), 1)
    expect("no error reaches the application", producer.errors, [])
    expect("every record is acknowledged", len(producer.acknowledged), producer.sent_count)
    missing = producer.missing_from(read_all(launcher.bootstraps[0], TOPIC, PARTITIONS))
    expect("every acknowledged record is where it was", missing, {})


def fill(bootstrap: str) -> None:
    """Write what nodes need some time to fetch."""
    producer = kafka.Producer({"bootstrap.servers": bootstrap, "acks": "all", "batch.num.messages": 1})
    for number in range(FILL_COUNT):
        producer.produce(TOPIC, bytes(RECORD_BYTES), partition=number % PARTITIONS)
        producer.poll(0)
    expect("records without an outcome", producer.flush(60), 0)


def cases(launcher: Launcher) -> list[tuple[str, Callable[[], None]]]:
    """What is tested, in order."""

    def up() -> None:
        said = launcher.ok("up")
        for node in NODES:
            expect(f"node {node} is told", f"node {node} is ready: localhost:{launcher.kafka + node - 1}" in said, True)
            expect(f"node {node} answers", answers("127.0.0.1", launcher.kafka + node - 1), True)
            with urllib.request.urlopen(f"http://127.0.0.1:{launcher.http + node - 1}/metrics", timeout=10) as told:
                text = told.read().decode()
            expect(f"brokers by node {node}", "\nchronik_brokers_registered 3\n" in text, True)

    def up_again_changes_nothing() -> None:
        before = [launcher.pid(node) for node in NODES]
        expect("told", launcher.ok("up").count("runs already"), 3)
        expect("processes", [launcher.pid(node) for node in NODES], before)
        expect("status", launcher.ok("status").count(": ready"), 3)

    def kill_and_start() -> None:
        pid = launcher.pid(2)
        launcher.ok("kill", "2")
        expect("gone", alive(pid), False)
        code, said = launcher.call("status")
        expect("status", (code, "node 2: does not run" in said), (1, True))
        expect("killed twice", launcher.call("kill", "2")[0], 1)
        expect("back", "node 2 is ready" in launcher.ok("start", "2"), True)
        expect("log", "has been unfenced" in launcher.ok("logs", "2"), True)
        expect("tail", len(launcher.ok("logs", "2", "-n", "1").splitlines()), 1)

    def a_number_that_is_somebody_elses_is_left_alone() -> None:
        with subprocess.Popen(["sleep", "60"]) as other:
            file = launcher.directory / "node-3.pid"
            own = file.read_text()
            file.write_text(f"{other.pid}\nThu Jan 1 00:00:00 1970\n")
            expect("refused", launcher.call("kill", "3")[0], 1)
            expect("lives", other.poll(), None)
            file.write_text(own)
            other.send_signal(signal.SIGTERM)

    def mistakes_are_named() -> None:
        for arguments, settings, part in (
            (("kill", "4"), {}, "Say 1, 2 or 3"),
            (("start",), {}, "Say 1, 2 or 3"),
            (("nonsense",), {}, "scripts/cluster up"),
            (("up",), {"KAFKA_BASE_PORT": "x"}, "'x' is no port"),
            (("up",), {"CHRONIK_BINARY": "/nonexistent"}, "CHRONIK_BINARY is '/nonexistent'"),
            (("down", "--now"), {}, "-v or nothing"),
        ):
            code, said = launcher.call(*arguments, **settings)
            expect(f"{arguments}", (code != 0, part in said), (True, True))

    def a_taken_port_is_told() -> None:
        launcher.ok("stop", "1")
        code, said = launcher.call("start", "1", KAFKA_BASE_PORT=str(launcher.kafka + 1))
        expect("told", (code, "another process uses that port" in said), (1, True))
        launcher.ok("start", "1")

    def down() -> None:
        pids = [launcher.pid(node) for node in NODES]
        launcher.ok("down")
        expect("gone", [alive(pid) for pid in pids], [False] * 3)
        expect("data", (launcher.directory / "node-1").is_dir(), True)
        launcher.ok("up")
        launcher.ok("down", "-v")
        expect("no data", list(launcher.directory.iterdir()), [])
        expect("twice", launcher.ok("down").count("does not run"), 3)

    return [
        ("up", up),
        ("up again changes nothing", up_again_changes_nothing),
        ("kill and start", kill_and_start),
        ("roll", lambda: roll(launcher)),
        ("roll under load", lambda: roll_under_load(launcher)),
        ("a number that is somebody else's is left alone", a_number_that_is_somebody_elses_is_left_alone),
        ("mistakes are named", mistakes_are_named),
        ("a taken port is told", a_taken_port_is_told),
        ("down", down),
    ]


def main() -> int:
    """Run all cases, and leave no process behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chronik-launch-") as directory:
        launcher = Launcher(Path(options.binary), Path(directory))
        try:
            return run(cases(launcher))
        finally:
            launcher.call("down", "-v")


if __name__ == "__main__":
    sys.exit(main())
