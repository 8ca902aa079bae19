"""A rolling restart of all three nodes under load: no application may notice more than a short wait.

rolling.py --binary target/release/chronik-server

Producers of librdkafka with the defaults for retries, one idempotent and one not, and a group of two consumers live
through the planned restart of every node, the controller among them. No error may reach the application, nothing that
was acknowledged may be missing, and with idempotence nothing may be there twice. Each change of a leader or an ISR
stands in the log of one node, once, with its cause.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import changes
import report
from cluster import Cluster, Node, create_topics, eventually
from report import expect

WHAT = {"binary": Path("target/release/chronik-server")}
SETTINGS = {"CHRONIK_MIN_INSYNC_REPLICAS": "2", "CHRONIK_OFFSETS_TOPIC_NUM_PARTITIONS": "3"}
PARTITIONS = 6
# The goal is 500 ms. This bound is for machines that do other things too, and fails what hangs.
SLOWEST_S_MAX = 1.5
PAUSE_S = 0.002


class Producer:
    """A producer of librdkafka on a thread of its own, and what it was told."""

    def __init__(self, bootstrap: str, topic: str, idempotent: bool) -> None:
        self.kafka: Any = importlib.import_module("confluent_kafka")
        self.topic, self.idempotent = topic, idempotent
        self.partitions = PARTITIONS
        self.settings = {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": idempotent,
            "linger.ms": 0,
            "error_cb": self.note_error,
        }
        self.acknowledged: dict[tuple[int, int], int] = {}
        self.errors: list[str] = []
        self.took_s: list[float] = []
        self.sent_count = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def note_error(self, error: Any) -> None:
        """Connections that close are no error that an application has to do anything about."""
        if error.fatal():
            self.errors.append(str(error))

    def run(self) -> None:
        """Send records one after the other, without waiting for the one before."""
        producer = self.kafka.Producer(self.settings)
        while not self.stopping.is_set():
            number, began = self.sent_count, time.monotonic()
            self.sent_count += 1

            def told(error: Any, message: Any, number: int = number, began: float = began) -> None:
                if error is not None:
                    self.errors.append(str(error))
                    return
                self.took_s.append(time.monotonic() - began)
                self.acknowledged[message.partition(), message.offset()] = number

            producer.produce(self.topic, f"{number}".encode(), partition=number % self.partitions, on_delivery=told)
            producer.poll(PAUSE_S)
        left = producer.flush(60)
        if left:
            self.errors.append(f"{left} records have no outcome")

    def missing_from(self, found: dict[tuple[int, int], bytes]) -> dict[tuple[int, int], int]:
        """Some of the acknowledged records that are not where they were."""
        wrong = [place for place, number in self.acknowledged.items() if found.get(place) != f"{number}".encode()]
        return {place: self.acknowledged[place] for place in wrong[:5]}


class Member:
    """A consumer of a group on a thread of its own."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        kafka: Any = importlib.import_module("confluent_kafka")
        self.consumer = kafka.Consumer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "group.id": f"readers-of-{topic}",
                "auto.offset.reset": "earliest",
                "auto.commit.interval.ms": 200,
            }
        )
        self.consumer.subscribe([topic])
        self.seen: Counter[int] = Counter()
        self.errors: list[str] = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        """Read until told to stop."""
        while not self.stopping.is_set():
            message = self.consumer.poll(0.2)
            if message is None:
                continue
            if message.error() is not None:
                self.errors.append(str(message.error()))
                continue
            self.seen[int(message.value())] += 1
        self.consumer.close()


def read_all(bootstrap: str, topic: str, partitions: int = PARTITIONS) -> dict[tuple[int, int], bytes]:
    """The values of all records of a topic by their place."""
    kafka: Any = importlib.import_module("confluent_kafka")
    consumer = kafka.Consumer({"bootstrap.servers": bootstrap, "group.id": "nobody", "enable.partition.eof": True})
    consumer.assign([kafka.TopicPartition(topic, index, 0) for index in range(partitions)])
    found: dict[tuple[int, int], bytes] = {}
    ended: set[int] = set()
    deadline = time.monotonic() + 60
    while len(ended) < partitions:
        if time.monotonic() > deadline:
            raise AssertionError(f"only {len(found)} records of {topic} could be read back")
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error() is not None:
            ended.add(message.partition())
            continue
        found[message.partition(), message.offset()] = message.value()
    consumer.close()
    return found


def all_in_sync(cluster: Cluster, topics: list[str]) -> None:
    """Wait until every replica of every partition is in sync, as every node sees it."""
    for node in cluster.running():

        def is_so(node: Node = node) -> bool:
            told = node.metadata(topics).topics
            return all(len(partition.isr) == 3 for topic in topics for partition in told[topic])

        eventually(f"node {node.node_id} sees all in sync", is_so, 60)


def led_by(cluster: Cluster, topics: list[str]) -> Counter[int]:
    """How many partitions each node leads."""
    told = next(cluster.running()).metadata(topics).topics
    return Counter(partition.leader for topic in topics for partition in told[topic])


def a_rolling_restart_is_noticed_by_no_application() -> None:
    topics = ["careful", "default"]
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            made = create_topics(connection, {topic: (PARTITIONS, 3) for topic in topics})
            expect("the topics are made", [made[topic][0] for topic in topics], [0, 0])
        producers = [Producer(cluster.bootstrap, "careful", True), Producer(cluster.bootstrap, "default", False)]
        members = [Member(cluster, "careful") for _ in range(2)]
        for thread in [*(producer.thread for producer in producers), *(member.thread for member in members)]:
            thread.start()
        eventually("the group reads", lambda: all(member.seen for member in members), 60)
        for producer in producers:
            # A client asks for its producer id every 500 ms until it has a connection; its first records wait for that.
            producer.took_s.clear()
        for node in cluster.nodes:
            position = node.log_size()
            node.stop()
            told = re.search(r"Handed over everything that this node led in (\d+) ms", node.log_since(position))
            expect("it has handed over", told is not None, True)
            print(f"# node {node.node_id} handed over in {told.group(1) if told else '?'} ms", flush=True)
            expect("it leads nothing", led_by(cluster, topics)[node.node_id], 0)
            node.spawn()
            node.wait_until_ready()
            all_in_sync(cluster, [*topics, "__consumer_offsets"])
        eventually(
            "leaders are where they are preferred",
            lambda: sorted(led_by(cluster, topics).values()) == [4, 4, 4],
            60,
        )
        time.sleep(1)
        for producer in producers:
            producer.stopping.set()
            producer.thread.join(90)
        sent = producers[0].sent_count
        eventually("the group has read everything", lambda: len(set().union(*[m.seen for m in members])) == sent, 60)
        for member in members:
            member.stopping.set()
            member.thread.join(30)
        for producer in producers:
            what = "with idempotence" if producer.idempotent else "without"
            worst = sorted(producer.took_s)[-3:]
            print(
                f"# {what}: {len(producer.acknowledged)} acknowledged, slowest "
                + ", ".join(f"{took * 1000:.0f}" for took in worst)
                + " ms",
                flush=True,
            )
            expect(f"no error {what}", producer.errors, [])
            expect(f"every record is acknowledged {what}", len(producer.acknowledged), producer.sent_count)
            expect(f"within {SLOWEST_S_MAX} s {what}", worst[-1] < SLOWEST_S_MAX, True)
            found = read_all(cluster.nodes[0].bootstrap, producer.topic)
            expect(f"every acknowledged record is where it was {what}", producer.missing_from(found), {})
            if producer.idempotent:
                expect("and nothing is there twice", len(set(found.values())), len(found))
        expect("no error reaches the group", [error for member in members for error in member.errors], [])
        logs = {node.node_id: node.log_path for node in cluster.nodes}
        expect("each change is told once", changes.told_wrongly(logs), [])
        found_leaders = {
            f"{topic}-{index}": partition.leader
            for topic, partitions in cluster.nodes[0].metadata(topics).topics.items()
            for index, partition in enumerate(partitions)
        }
        expect("and none is missing", changes.untold(logs, found_leaders), [])
        lines = list(changes.told(logs))
        expect("of leaders and of ISRs", {line.is_leaders for line in lines}, {True, False})
        causes = {line.cause for line in lines if line.what.startswith("Leader of")}
        planned = {f"broker {node.node_id} is stopping" for node in cluster.nodes} | {"it is the preferred leader"}
        expect("with its cause", sorted(causes - planned), [])


def main() -> int:
    """Run the case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(WHAT["binary"]))
    WHAT["binary"] = Path(parser.parse_args().binary)
    case = a_rolling_restart_is_noticed_by_no_application
    return report.run([(case.__name__.replace("_", " "), case)], "")


if __name__ == "__main__":
    sys.exit(main())
