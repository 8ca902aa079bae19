"""Clusters of three real nodes that lose leaders, followers and all of themselves under load.

replication.py --binary target/release/chronik-server [PART-OF-A-NAME]

A producer waits for all replicas in sync and notes what was acknowledged. Afterwards every acknowledged record must be
where it was acknowledged, once, and the segments of all replicas must be the same below the high watermark.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from followers import PACE_S, Follower, following, produce_answer, produce_body

import report
import wire
from cluster import Cluster, Node, await_same_segments, create_topics, eventually
from report import expect

WHAT = {"binary": Path("target/release/chronik-server")}
SETTINGS = {"CHRONIK_MIN_INSYNC_REPLICAS": "2"}
PARTITIONS = 3
KILL_ROUNDS = 5
# How long a producer may take to be served again after its leader was killed. The goal is a second; this bound is for
# machines that do other things too, and fails what hangs.
SERVED_AGAIN_S_MAX = 8.0
# Beyond the time after which a node that nobody answers leads nothing any more.
ALONE_S = 4.0
# A replica that has to be copied whole while others wait for records: about a gigabyte.
BULK_PARTITIONS, BULK_BATCHES, BULK_BATCH_BYTES = 60, 18, 950_000
# The longest that a producer may wait for an acknowledgement meanwhile, also on a machine that does other things too.
STARVED_S = 5.0
# How often each topic that is made meanwhile is written to.
FRESH_RECORDS = 20
# How long a node is written to that was asleep.
AWAKE_S = 2.0
# Values of records that are written beside a producer's own.
FIRST_OF_OTHERS = 1_000_000_000


class Load:
    """A producer with acks=all on a thread of its own, and what it was told."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self.kafka: Any = importlib.import_module("kafka")
        self.cluster, self.topic = cluster, topic
        self.bootstrap = [node.bootstrap for node in cluster.nodes]
        self.acknowledged: dict[tuple[int, int], int] = {}
        self.sent_count = 0
        self.failed_count = 0
        self.slowest_s = 0.0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Load:
        self.thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stopping.set()
        # Who gives up, maybe since the time is up, does not wait for what nobody may answer.
        if kind is None:
            self.stop()

    def stop(self) -> None:
        """Send no more, and wait until all that was sent has an outcome."""
        self.stopping.set()
        self.thread.join(120)

    def run(self) -> None:
        """Send records one after the other, a few at a time under way."""
        producer = self.kafka.KafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks="all",
            enable_idempotence=True,
            retries=1_000_000,
            delivery_timeout_ms=60_000,
            request_timeout_ms=5_000,
            retry_backoff_ms=20,
            reconnect_backoff_ms=20,
            reconnect_backoff_max_ms=100,
            metadata_max_age_ms=1_000,
            linger_ms=0,
        )
        waiting: list[tuple[int, float, Any]] = []
        while not self.stopping.is_set():
            number = self.sent_count
            self.sent_count += 1
            future = producer.send(self.topic, f"{number}".encode(), partition=number % PARTITIONS)
            waiting.append((number, time.monotonic(), future))
            if len(waiting) >= 30:
                self.settle(waiting)
            time.sleep(0.002)
        self.settle(waiting)
        producer.close()

    def settle(self, waiting: list[tuple[int, float, Any]]) -> None:
        """Note what became of records."""
        for number, began, future in waiting:
            try:
                told = future.get(90)
            except self.kafka.errors.KafkaError:
                self.failed_count += 1
                continue
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            with self.lock:
                self.acknowledged[told.partition, told.offset] = number
        waiting.clear()

    def count(self) -> int:
        """How many records were acknowledged so far."""
        with self.lock:
            return len(self.acknowledged)

    def wait_for_more(self, count: int = 60) -> float:
        """Wait until so many more are acknowledged; how long that took."""
        began, target = time.monotonic(), self.count() + count
        eventually("the producer is served", lambda: self.count() >= target, SERVED_AGAIN_S_MAX + 60)
        return time.monotonic() - began

    def check(self) -> None:
        """Everything that was acknowledged is there, where it was acknowledged, and nothing is there twice."""
        self.stop()
        consumer = self.kafka.KafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        partitions = [self.kafka.TopicPartition(self.topic, index) for index in range(PARTITIONS)]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found: dict[tuple[int, int], int] = {}
        deadline = time.monotonic() + 60
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            if time.monotonic() > deadline:
                raise AssertionError(f"only {len(found)} records could be read back, up to {ends}")
            for partition, records in consumer.poll(500).items():
                for record in records:
                    found[partition.partition, record.offset] = int(record.value)
        consumer.close()
        wrong = {
            place: (number, found.get(place))
            for place, number in self.acknowledged.items()
            if found.get(place) != number
        }
        # Producers try again for as long as any of this takes.
        expect("sends that have failed", self.failed_count, 0)
        expect("every acknowledged record is where it was", dict(list(wrong.items())[:5]), {})
        expect("and nothing is there twice", len(set(found.values())), len(found))
        expect("something was acknowledged", len(self.acknowledged) > 100, True)
        print(
            f"# {len(self.acknowledged)} acknowledged, {self.failed_count} failed, "
            f"slowest answer {self.slowest_s * 1000:.0f} ms",
            flush=True,
        )


def started(cluster: Cluster, topic: str) -> None:
    """A cluster with a topic on all of its nodes."""
    cluster.start()
    with cluster.nodes[0].connect() as connection:
        expect("a topic is made", create_topics(connection, {topic: (PARTITIONS, 3)})[topic][0], 0)


def leader_of(cluster: Cluster, topic: str, index: int) -> Node:
    """The node that leads a partition."""
    node = next(cluster.running())
    wanted = node.metadata([topic]).topics[topic][index].leader
    return next(node for node in cluster.nodes if node.node_id == wanted)


def all_in_sync(cluster: Cluster, topic: str) -> None:
    """Wait until every replica of every partition is in sync, as every node sees it."""
    for node in cluster.running():

        def is_so(node: Node = node) -> bool:
            partitions = node.metadata([topic]).topics[topic]
            return len(partitions) == PARTITIONS and all(len(found.isr) == 3 for found in partitions)

        eventually(f"node {node.node_id} sees all in sync", is_so, 60)


def replicas_are_the_same(cluster: Cluster, topic: str) -> None:
    """REPL-3, with nothing under way."""
    for index in range(PARTITIONS):
        await_same_segments(cluster.nodes, topic, index)


def acknowledged_records_are_on_every_replica() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        started(cluster, "quiet")
        with Load(cluster, "quiet") as load:
            load.wait_for_more(300)
            load.check()
        all_in_sync(cluster, "quiet")
        replicas_are_the_same(cluster, "quiet")


def leaders_that_are_killed_are_replaced_and_nothing_is_lost() -> None:
    slowest = 0.0
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        started(cluster, "killed")
        with Load(cluster, "killed") as load:
            load.wait_for_more()
            for number in range(KILL_ROUNDS):
                victim = leader_of(cluster, "killed", number % PARTITIONS)
                victim.kill()
                took_s = load.wait_for_more()
                slowest = max(slowest, took_s)
                expect(f"served again in round {number}", took_s < SERVED_AGAIN_S_MAX, True)
                victim.spawn()
                victim.wait_until_ready()
                all_in_sync(cluster, "killed")
            load.check()
        replicas_are_the_same(cluster, "killed")
    print(f"# 60 more records acknowledged within {slowest * 1000:.0f} ms of each kill", flush=True)


def two_of_three_are_killed_and_writes_wait() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        started(cluster, "pair")
        with Load(cluster, "pair") as load:
            load.wait_for_more()
            victims = [leader_of(cluster, "pair", 0), leader_of(cluster, "pair", 1)]
            survivor, own = leader_of(cluster, "pair", 2), 2
            for victim in victims:
                victim.kill()
            acknowledges_nothing(survivor, "pair", ALONE_S)
            with survivor.connect() as connection:
                code, _, records = wire.fetch(connection, "pair", own)
            expect("what is committed is read as before", (code, len(records) > 0), (0, True))
            for victim in victims:
                victim.spawn()
                victim.wait_until_ready()
                # The first one back is enough: the minimum is two.
                load.wait_for_more()
            all_in_sync(cluster, "pair")
            load.check()
        replicas_are_the_same(cluster, "pair")


def acknowledges_nothing(node: Node, topic: str, lasts_s: float) -> None:
    """For a while, a node that is alone takes no record with acks=all, whatever it led before."""
    end, number = time.monotonic() + lasts_s, FIRST_OF_OTHERS
    with node.connect() as connection:
        while time.monotonic() < end:
            for index in range(PARTITIONS):
                number += 1
                records = wire.batch(f"{number}".encode()).encode()
                code, _ = wire.produce(connection, topic, records, partition=index, timeout_ms=500)
                expect(f"{topic}-{index} is written to", code == 0, False)


def all_three_are_killed_at_once() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        started(cluster, "all")
        with Load(cluster, "all") as load:
            for _ in range(2):
                load.wait_for_more()
                for node in cluster.nodes:
                    node.kill()
                for node in cluster.nodes:
                    node.spawn()
                cluster.wait_until_ready()
            load.wait_for_more()
            all_in_sync(cluster, "all")
            load.check()
        replicas_are_the_same(cluster, "all")


def all_three_are_killed_and_the_machine_of_one_has_lost_power() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        started(cluster, "tail")
        with Load(cluster, "tail") as load:
            load.wait_for_more(300)
            victim = leader_of(cluster, "tail", 0)
            for node in cluster.nodes:
                node.kill()
            lose_power(victim, "tail")
            for node in cluster.nodes:
                node.spawn()
            cluster.wait_until_ready()
            load.wait_for_more()
            all_in_sync(cluster, "tail")
            load.check()
        replicas_are_the_same(cluster, "tail")


def lose_power(node: Node, topic: str) -> None:
    """What a killed node's disk holds when the machine has started again: the tail of a log was never synced."""
    registration = node.data_dir / "registration"
    told = registration.read_text()
    expect("the boot is noted", "boot.id=" in told, True)
    registration.write_text(re.sub("boot.id=.*", "boot.id=the-one-before", told))
    newest = node.segment_files(topic, 0)[-1]
    with newest.open("r+b") as segment:
        segment.truncate(newest.stat().st_size // 2)


def a_replica_that_lacks_records_before_its_end_gets_them_again() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS | {"CHRONIK_LOG_ROLL_MS": "1000"}) as cluster:
        started(cluster, "holes")
        with Load(cluster, "holes") as load:
            load.wait_for_more(1_500)
            # The oldest segments are in the checkpoint by then, which is what tells that one is gone.
            time.sleep(7)
            victim = next(node for node in cluster.nodes if node is not leader_of(cluster, "holes", 0))
            victim.kill()
            gone, short = closed_segments(victim, "holes", 0)[1], closed_segments(victim, "holes", 1)[0]
            gone.unlink()
            with short.open("r+b") as segment:
                segment.truncate(short.stat().st_size - 3)
            position = victim.log_size()
            victim.spawn()
            victim.wait_until_ready()
            all_in_sync(cluster, "holes")
            expect("it says so", victim.log_since(position).count("records are missing from there"), 2)
            load.check()
        replicas_are_the_same(cluster, "holes")


def closed_segments(node: Node, topic: str, index: int) -> list[Path]:
    """The segments of a partition that nothing is appended to any more, the oldest first."""
    found = node.segment_files(topic, index)[:-1]
    expect("there are some", len(found) >= 2, True)
    return found


def a_leader_that_sleeps_is_fenced_and_acknowledges_nothing() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        started(cluster, "asleep")
        with Load(cluster, "asleep") as load:
            load.wait_for_more()
            sleeper = leader_of(cluster, "asleep", 0)
            assert sleeper.process is not None
            with sleeper.connect() as connection:
                sleeper.process.send_signal(signal.SIGSTOP)
                load.wait_for_more()
                # What waits for it is the first that it meets, before it hears that others lead.
                told = written_to_sleeper(connection, "asleep", lambda: sleeper.process.send_signal(signal.SIGCONT))  # type: ignore[union-attr]
            with load.lock:
                load.acknowledged |= told
            all_in_sync(cluster, "asleep")
            load.wait_for_more()
            load.check()
        replicas_are_the_same(cluster, "asleep")


def written_to_sleeper(connection: wire.Connection, topic: str, wake: Callable[[], None]) -> dict[tuple[int, int], int]:
    """Write to a node that sleeps and then is woken, for a while: what it acknowledges, which is to be there."""
    numbers = itertools.count(FIRST_OF_OTHERS)
    acknowledged: dict[tuple[int, int], int] = {}
    refused: Counter[int] = Counter()

    def send() -> list[int]:
        sent = []
        for index in range(PARTITIONS):
            sent.append(next(numbers))
            records = wire.batch(f"{sent[-1]}".encode()).encode()
            connection.send(wire.PRODUCE, 7, wire.produce_body(topic, records, index, timeout_ms=1_000))
        return sent

    waiting = send()
    wake()
    end = time.monotonic() + AWAKE_S
    while waiting:
        for index, number in enumerate(waiting):
            reader = connection.answer()
            # Behind the correlation id are the topic and the partition, one of each.
            reader.i32(), reader.i32(), reader.string(), reader.i32(), reader.i32()
            code, offset = reader.i16(), reader.i64()
            if code == 0:
                acknowledged[index, offset] = number
            else:
                refused[code] += 1
        waiting = send() if time.monotonic() < end else []
    print(f"# a sleeper that wakes acknowledges {len(acknowledged)} and refuses {dict(refused)}", flush=True)
    expect("something was refused: it leads nothing for a while", refused.total() > 0, True)
    return acknowledged


def nodes_that_are_stopped_one_by_one_lose_nothing() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        started(cluster, "rolled")
        with Load(cluster, "rolled") as load:
            load.wait_for_more()
            for node in cluster.nodes:
                node.stop()
                node.spawn()
                node.wait_until_ready()
                all_in_sync(cluster, "rolled")
            load.wait_for_more()
            load.check()
        replicas_are_the_same(cluster, "rolled")


def nodes_that_have_lost_all_but_their_metadata_are_filled_again() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        started(cluster, "blank")
        with Load(cluster, "blank") as load:
            for node in cluster.nodes:
                load.wait_for_more(300)
                node.kill()
                for path in node.data_dir.iterdir():
                    if path.is_file():
                        path.unlink()
                    elif path.name != "raft":
                        shutil.rmtree(path)
                node.spawn()
                node.wait_until_ready()
                all_in_sync(cluster, "blank")
            load.wait_for_more()
            load.check()
        replicas_are_the_same(cluster, "blank")


def a_replica_that_is_copied_whole_makes_nobody_wait() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            made = create_topics(connection, {"bulk": (BULK_PARTITIONS, 3), "steady": (1, 3)})
            expect("topics are made", [made["bulk"][0], made["steady"][0]], [0, 0])
        fill(cluster)
        victim = cluster.nodes[2]
        victim.stop()
        for directory in (victim.directory / f"chronik-data-{victim.node_id}").glob("bulk-*"):
            shutil.rmtree(directory)
        brokers = {node.node_id: node.bootstrap for node in cluster.nodes}
        with following([Follower(brokers, "steady", 0, STARVED_S)]) as (steady,):
            victim.spawn()
            victim.wait_until_ready()
            eventually("it is in sync where it lacked nothing", lambda: lacking(cluster.nodes[0], "steady") == 0)
            began, from_count = time.monotonic(), len(steady.acknowledged_s)
            waits_s, rounds = [], 0
            while (count := lacking(cluster.nodes[0], "bulk")) > 0:
                expect("the copy ends", time.monotonic() - began < 120, True)
                print(f"# {count} partitions lack a replica", flush=True)
                name = f"fresh-{rounds}"
                rounds += 1
                with cluster.nodes[0].connect() as connection:
                    expect(f"{name} is made", create_topics(connection, {name: (1, 3)})[name][0], 0)
                with following([Follower(brokers, name, 0, STARVED_S)]) as (fresh,):
                    enough = lambda fresh=fresh: len(fresh.acknowledged_s) > FRESH_RECORDS  # noqa: E731
                    eventually(f"{name} is written to", enough, FRESH_RECORDS * STARVED_S)
                waits_s += waits(fresh, 1)
            expect("the copy took long enough to make others wait", rounds >= 2, True)
        report_waits("a partition in sync", steady_s := waits(steady, from_count))
        report_waits("topics made meanwhile", waits_s)
        print(f"# the copy took {time.monotonic() - began:.1f} s", flush=True)
        expect("nobody waits for long", max(waits_s + steady_s) < STARVED_S, True)


def fill(cluster: Cluster) -> None:
    """Write a lot to every partition of `bulk`."""
    # The same batch again and again: its sum covers neither offset nor epoch.
    records = wire.batch(bytes(BULK_BATCH_BYTES)).encode()
    places = cluster.nodes[0].metadata(["bulk"]).topics["bulk"]
    for node in cluster.nodes:
        with node.connect() as connection:
            for index in [index for index, place in enumerate(places) if place.leader == node.node_id]:
                body = produce_body("bulk", index, 30_000, records)
                for _ in range(BULK_BATCHES):
                    expect("bulk is written", produce_answer(connection.ask(wire.PRODUCE, 10, body)).code, 0)


def lacking(node: Node, topic: str) -> int:
    """How many partitions have a replica that is not in sync."""
    return sum(len(found.isr) < len(found.replicas) for found in node.metadata([topic]).topics[topic])


def waits(follower: Follower, from_count: int) -> list[float]:
    """How long each acknowledgement took, but for so many at the beginning."""
    moments = follower.acknowledged_s[from_count - 1 :]
    return [later - earlier - PACE_S for earlier, later in pairwise(moments)]


def report_waits(whose: str, waits_s: list[float]) -> None:
    """Say how long acknowledgements took."""
    ordered = sorted(waits_s)
    p50, p99 = (ordered[int(len(ordered) * part)] * 1000 for part in (0.5, 0.99))
    print(f"# {whose}: {len(ordered)} waits, p50 {p50:.0f}, p99 {p99:.0f}, max {ordered[-1] * 1000:.0f} ms", flush=True)


CASES: list[Callable[[], None]] = [
    acknowledged_records_are_on_every_replica,
    leaders_that_are_killed_are_replaced_and_nothing_is_lost,
    two_of_three_are_killed_and_writes_wait,
    all_three_are_killed_at_once,
    all_three_are_killed_and_the_machine_of_one_has_lost_power,
    a_replica_that_lacks_records_before_its_end_gets_them_again,
    a_leader_that_sleeps_is_fenced_and_acknowledges_nothing,
    nodes_that_are_stopped_one_by_one_lose_nothing,
    nodes_that_have_lost_all_but_their_metadata_are_filled_again,
    a_replica_that_is_copied_whole_makes_nobody_wait,
]


def main() -> int:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(WHAT["binary"]))
    parser.add_argument("only", nargs="?", default="")
    options = parser.parse_args()
    WHAT["binary"] = Path(options.binary)
    return report.run([(case.__name__.replace("_", " "), case) for case in CASES], options.only.replace("_", " "))


if __name__ == "__main__":
    sys.exit(main())
