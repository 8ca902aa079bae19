"""Kafka's own tools on clusters that lack nodes: what they say is true on every node that runs.

tools.py --binary target/release/chronik-server --libs .cache/kafka/libs
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import report
import wire
from cluster import Cluster, Node, create_topics, eventually
from report import expect

WHAT = {"binary": Path("target/release/chronik-server"), "libs": Path(".cache/kafka/libs")}
SETTINGS = {"CHRONIK_MIN_INSYNC_REPLICAS": "2"}
TOPIC = "told"
PARTITIONS = 3
FILTERS = ("under-replicated", "unavailable", "under-min-isr", "at-min-isr")


def tool(node: Node, name: str, *arguments: str, code: int = 0) -> str:
    """Run one of Kafka's tools against one node."""
    done = subprocess.run(
        [
            "java",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
            "-cp",
            f"{WHAT['libs']}/*",
            f"org.apache.kafka.tools.{name}",
            "--bootstrap-server",
            node.bootstrap,
            *arguments,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode != code:
        raise AssertionError(f"{name} {arguments} at node {node.node_id} ended with {done.returncode}: {done.stdout}")
    return done.stdout


def described(node: Node, which: str, topic: str = TOPIC) -> list[int]:
    """The partitions of a topic that kafka-topics names under a filter."""
    said = tool(node, "TopicCommand", "--describe", "--topic", topic, f"--{which}-partitions")
    return sorted(int(found) for found in re.findall(rf"Topic: {topic}\s+Partition: (\d+)", said))


def make_topic(node: Node, topic: str, factor: int, *configs: str) -> None:
    """Make a topic of three partitions with configs of its own."""
    asked = ["--partitions", str(PARTITIONS), "--replication-factor", str(factor)]
    for config in configs:
        asked += ["--config", config]
    tool(node, "TopicCommand", "--create", "--topic", topic, *asked)


def leaders(node: Node, topic: str = TOPIC) -> list[int]:
    """The leader of each partition as a node sees it."""
    return [partition.leader for partition in node.metadata([topic]).topics[topic]]


def in_sync(node: Node) -> list[int]:
    """How many replicas of each partition are in sync as a node sees it."""
    return [len(partition.isr) for partition in node.metadata([TOPIC]).topics[TOPIC]]


def await_in_sync(node: Node, count: int) -> None:
    """Wait until a node sees so many replicas of each partition in sync."""
    eventually(f"node {node.node_id} sees {count} in sync", lambda: in_sync(node) == [count] * PARTITIONS)


def what_is_missing_is_told_on_every_node() -> None:
    everything, nothing = list(range(PARTITIONS)), list[int]()
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        with one.connect() as connection:
            expect("a topic is made", create_topics(connection, {TOPIC: (PARTITIONS, 3)})[TOPIC][0], 0)

        def check(what: str, expected: dict[str, list[int]]) -> None:
            for node in cluster.running():
                found = {which: described(node, which) for which in FILTERS}
                expect(
                    f"{what}, at node {node.node_id}", found, {which: expected.get(which, nothing) for which in FILTERS}
                )

        check("with all three", {})
        three.kill()
        for node in (one, two):
            await_in_sync(node, 2)
        check("without one", {"under-replicated": everything, "at-min-isr": everything})
        three.spawn()
        three.wait_until_ready()
        for node in cluster.nodes:
            await_in_sync(node, 3)
        check("with all three again", {})


def led_by(node: Node, topic: str, wanted: list[int]) -> Callable[[], bool]:
    """Whether a node sees these leaders."""
    return lambda: leaders(node, topic) == wanted


def leaderless(node: Node, topic: str, index: int) -> Callable[[], bool]:
    """Whether a node sees a partition without a leader."""
    return lambda: leaders(node, topic)[index] == -1


def partitions_without_enough_or_any_are_told_on_every_node() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        make_topic(one, "alone", 1, "min.insync.replicas=1")
        make_topic(one, "paired", 2)
        # Replicas are [1], [2], [3] and [1, 2], [2, 3], [3, 1].
        three.kill()
        for node in (one, two):
            eventually(f"node {node.node_id} sees no leader", led_by(node, "alone", [1, 2, -1]))
            eventually(f"node {node.node_id} sees leaders", led_by(node, "paired", [1, 2, 1]))
            for topic, expected in (
                # Kafka's tool counts what has no leader as below its minimum.
                ("alone", {"unavailable": [2], "under-min-isr": [2], "at-min-isr": [0, 1, 2]}),
                ("paired", {"under-replicated": [1, 2], "under-min-isr": [1, 2], "at-min-isr": [0]}),
            ):
                found = {which: described(node, which, topic) for which in FILTERS}
                wanted = {which: expected.get(which, []) for which in FILTERS}
                expect(f"{topic} without node 3, at node {node.node_id}", found, wanted)


def an_operator_takes_a_leader_that_lacks_records() -> None:
    """Replication point 10."""
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        one, two, three = cluster.nodes
        make_topic(one, "risky", 2, "min.insync.replicas=1")
        # Partition 1 is on nodes 2 and 3; node 2 alone is in sync when it dies.
        three.kill()
        eventually("node 3 leaves the ISR", lambda: len(two.metadata(["risky"]).topics["risky"][1].isr) == 1)
        two.kill()
        three.spawn()
        eventually("two nodes are there", lambda: leaders(one, "risky")[1] == -1)
        three.wait_until_ready()
        for node in (one, three):
            eventually("it waits for node 2", leaderless(node, "risky", 1))
            expect(f"unavailable, at node {node.node_id}", described(node, "unavailable", "risky"), [1])
        asked = ["--topic", "risky", "--partition", "1"]
        said = tool(one, "LeaderElectionCommand", "--election-type", "preferred", *asked, code=1)
        expect("not by a clean election", "PreferredLeaderNotAvailableException" in said, True)
        tool(three, "LeaderElectionCommand", "--election-type", "unclean", *asked)
        for node in (one, three):
            expect(f"node 3 leads, at node {node.node_id}", leaders(node, "risky")[1], 3)
            expect("and all are served", described(node, "unavailable", "risky"), [])
        logged = [line for node in (one, three) for line in node.log().splitlines()]
        lines = [line for line in logged if "Leader of risky-1 is now 3" in line]
        expect("it is told once", len(lines), 1)
        expect("with its cause", "unclean election, records may be lost" in lines[0], True)
        two.spawn()
        two.wait_until_ready()
        eventually("node 2 is in sync again", lambda: len(one.metadata(["risky"]).topics["risky"][1].isr) == 2)


def an_operator_elects_leaders() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            expect("a topic is made", create_topics(connection, {TOPIC: (PARTITIONS, 3)})[TOPIC][0], 0)
        last = cluster.nodes[2]
        expect("preferred", leaders(last), [1, 2, 3])
        said = tool(last, "LeaderElectionCommand", "--election-type", "preferred", "--topic", TOPIC, "--partition", "0")
        expect("nothing to do", "Valid replica already elected for partitions" in said, True)
        for number, node in enumerate(cluster.nodes):
            victim = cluster.nodes[(number + 1) % 3]
            victim.stop()
            expect("it leads nothing", victim.node_id in leaders(node), False)
            victim.spawn()
            victim.wait_until_ready()
            await_in_sync(node, 3)
            path = cluster.directory / "elect.json"
            partitions = [{"topic": TOPIC, "partition": index} for index in range(PARTITIONS)]
            path.write_text(json.dumps({"partitions": partitions}))
            tool(node, "LeaderElectionCommand", "--election-type", "preferred", "--path-to-json-file", str(path))
            expect("its partitions are its own again", leaders(node), [1, 2, 3])
        tool(cluster.nodes[0], "LeaderElectionCommand", "--election-type", "preferred", "--all-topic-partitions")
        said = tool(last, "LeaderElectionCommand", "--election-type", "unclean", "--topic", TOPIC, "--partition", "1")
        expect("it has a leader", "Valid replica already elected for partitions" in said, True)
        said = tool(
            last,
            "LeaderElectionCommand",
            "--election-type",
            "preferred",
            "--topic",
            "missing",
            "--partition",
            "0",
            code=1,
        )
        expect("no such topic", "UnknownTopicOrPartitionException" in said, True)


def records_are_deleted_on_every_replica() -> None:
    with Cluster(WHAT["binary"], settings=SETTINGS) as cluster:
        cluster.start()
        with cluster.nodes[0].connect() as connection:
            expect("a topic is made", create_topics(connection, {TOPIC: (PARTITIONS, 3)})[TOPIC][0], 0)
        leader = cluster.nodes[0]
        with leader.connect() as connection:
            for _ in range(10):
                expect("written", wire.produce(connection, TOPIC, wire.batch(b"value").encode())[0], 0)
        path = cluster.directory / "delete.json"
        wanted = {"partitions": [{"topic": TOPIC, "partition": 0, "offset": 7}], "version": 1}
        path.write_text(json.dumps(wanted))
        said = tool(leader, "DeleteRecordsCommand", "--offset-json-file", str(path))
        expect("deleted", f"partition: {TOPIC}-0\tlow_watermark: 7" in said, True)
        leader.stop()
        said = tool(cluster.nodes[1], "GetOffsetShell", "--topic", TOPIC, "--partitions", "0", "--time", "earliest")
        expect("the next leader's log starts there", said.strip(), f"{TOPIC}:0:7")


CASES = [
    what_is_missing_is_told_on_every_node,
    partitions_without_enough_or_any_are_told_on_every_node,
    an_operator_takes_a_leader_that_lacks_records,
    an_operator_elects_leaders,
    records_are_deleted_on_every_replica,
]


def main() -> int:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(WHAT["binary"]))
    parser.add_argument("--libs", default=str(WHAT["libs"]))
    parser.add_argument("only", nargs="?", default="")
    options = parser.parse_args()
    WHAT["binary"], WHAT["libs"] = Path(options.binary), Path(options.libs)
    return report.run([(case.__name__.replace("_", " "), case) for case in CASES], options.only.replace("_", " "))


if __name__ == "__main__":
    sys.exit(main())
