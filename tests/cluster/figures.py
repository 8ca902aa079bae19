"""How fast a cluster of three nodes on this machine starts, fails over, and carries many partitions.

    figures.py --binary target/release/chronik-server [--kafka DIRECTORY-OF-KAFKA-JARS]

With --kafka it measures what Apache Kafka needs for the same, with three combined nodes, where that can be compared.

Prints one line for each figure, with the goal beside it. A figure that misses its goal is told and is no failure:
what else runs on the machine decides about it too.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import wire
from cluster import Cluster, Node, create_topics, delete_topics, eventually
from kafka_cluster import KafkaCluster, KafkaNode
from report import unwind_when_terminated

ROUNDS = 5
IDLE_S = 10.0


def tell(what: str, values: list[float], unit: str, goal: float) -> None:
    """One line: the median and the worst of some values."""
    ordered = sorted(values)
    median, worst = ordered[len(ordered) // 2], ordered[-1]
    verdict = "met" if worst <= goal else "MISSED"
    print(
        f"{what}: median {median:.3f} {unit}, worst {worst:.3f} {unit} of {len(values)}; goal {goal} {unit}: {verdict}"
    )
    sys.stdout.flush()


def first_success(node: Node | KafkaNode, attempt: Callable[[wire.Connection], int], timeout_s: float = 30.0) -> float:
    """When an attempt first succeeds at a node, whatever happens before."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            with node.connect(5.0) as connection:
                while attempt(connection) != 0:
                    time.sleep(0.005)
                return time.monotonic()
        except (OSError, wire.Closed):
            time.sleep(0.005)
    raise AssertionError(f"no success at node {node.node_id} within {timeout_s:.0f} s")


def create(name: str, partitions: int = 3, factor: int = 3) -> Callable[[wire.Connection], int]:
    """An attempt to create a topic; one that exists counts as made."""

    def attempt(connection: wire.Connection) -> int:
        code = create_topics(connection, {name: (partitions, factor)})[name][0]
        return 0 if code == 36 else code

    return attempt


def cold_start(binary: Path) -> float:
    with Cluster(binary) as cluster:
        started = time.monotonic()
        for node in cluster.nodes:
            node.spawn()
        return first_success(cluster.nodes[0], create("first")) - started


def controller_killed(binary: Path) -> list[float]:
    times = []
    with Cluster(binary) as cluster:
        cluster.start()
        for number in range(ROUNDS):
            leader, other = cluster.leader(), cluster.followers()[0]
            leader.kill()
            killed = time.monotonic()
            times.append(first_success(other, create(f"after-{number}", 3, 2)) - killed)
            leader.spawn()
            cluster.wait_until_ready()
    return times


def large_topic(cluster: Cluster, name: str, count: int) -> float:
    """From the request to when every node tells all partitions with their leaders."""
    started = time.monotonic()
    with cluster.followers()[0].connect(60.0) as connection:
        code, text = create_topics(connection, {name: (count, 3)}, 60_000)[name]
        if code != 0:
            raise AssertionError(f"error {code}: {text}")
    for node in cluster.nodes:

        def is_whole(node: Node = node) -> bool:
            found = node.metadata([name]).topics[name]
            return len(found) == count and all(partition.leader > 0 for partition in found)

        eventually("all partitions", is_whole)
    return time.monotonic() - started


def restart_with_history(binary: Path, entries: int) -> tuple[float, list[float]]:
    with Cluster(binary) as cluster:
        cluster.start()
        made = large_topic(cluster, "large", 10_000)
        with cluster.nodes[0].connect(60.0) as connection:
            for part in range(entries // 200):
                names = {f"brief-{part}-{number}": (1, 1) for number in range(100)}
                create_topics(connection, names)
                delete_topics(connection, list(names))
        times = []
        for _ in range(ROUNDS):
            node = cluster.followers()[0]
            node.kill()
            started = time.monotonic()
            node.spawn()
            while not is_serving(node):
                time.sleep(0.005)
            times.append(time.monotonic() - started)
        return made, times


def is_serving(node: Node) -> bool:
    try:
        return len(node.metadata(["large"]).topics["large"]) == 10_000
    except (OSError, wire.Closed):
        return False


def idle(binary: Path) -> tuple[list[float], list[float]]:
    with Cluster(binary) as cluster:
        cluster.start()
        time.sleep(2)
        before = [cpu_s(node) for node in cluster.nodes]
        time.sleep(IDLE_S)
        cpu = [100 * (cpu_s(node) - old) / IDLE_S for node, old in zip(cluster.nodes, before, strict=True)]
        return [resident_mb(node) for node in cluster.nodes], cpu


def cpu_s(node: Node | KafkaNode) -> float:
    fields = Path(f"/proc/{node.pid()}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(node: Node | KafkaNode) -> float:
    status = Path(f"/proc/{node.pid()}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def beside_kafka(libs: Path) -> None:
    """The same of Apache Kafka."""
    with KafkaCluster(libs) as cluster:
        cluster.prepare()
        started = time.monotonic()
        for node in cluster.nodes:
            node.spawn()
        took_s = first_success(cluster.nodes[0], create("first"), 180.0) - started
        tell("Kafka: cold start to the first topic", [took_s], "s", 2.0)
        for node in cluster.nodes:
            node.wait_until_ready()
        time.sleep(20)
        before = [cpu_s(node) for node in cluster.nodes]
        time.sleep(IDLE_S)
        cpu = [100 * (cpu_s(node) - old) / IDLE_S for node, old in zip(cluster.nodes, before, strict=True)]
        tell("Kafka: idle memory", [resident_mb(node) for node in cluster.nodes], "MB", 30.0)
        tell("Kafka: idle processor", cpu, "% of a core", 1.0)
        started = time.monotonic()
        with cluster.nodes[0].connect(300.0) as connection:
            code, text = create_topics(connection, {"large": (10_000, 3)}, 300_000)["large"]
        if code == 0:
            tell("Kafka: 10,000 partitions, answered", [time.monotonic() - started], "s", 3.0)
        else:
            print(f"Kafka: 10,000 partitions in one request: error {code} {text}", flush=True)
    with KafkaCluster(libs) as cluster:
        cluster.start()
        first_success(cluster.nodes[0], create("first"), 180.0)
        leader = cluster.leader()
        other = next(node for node in cluster.nodes if node is not leader)
        leader.kill()
        killed = time.monotonic()
        took_s = first_success(other, create("after", 3, 2), 180.0) - killed
        tell("Kafka: controller killed to the next topic", [took_s], "s", 1.0)


def main() -> int:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/chronik-server")
    parser.add_argument("--entries", type=int, default=100_000, help="metadata entries behind a restart")
    parser.add_argument("--kafka", metavar="DIRECTORY", help="Kafka's jars, to measure Kafka instead")
    options = parser.parse_args()
    unwind_when_terminated()
    if options.kafka:
        beside_kafka(Path(options.kafka))
        return 0
    binary = Path(options.binary)
    tell("cold start to the first topic", [cold_start(binary) for _ in range(ROUNDS)], "s", 2.0)
    tell("controller killed to the next topic", controller_killed(binary), "s", 1.0)
    made, restarts = restart_with_history(binary, options.entries)
    tell("10,000 partitions, seen on all nodes", [made], "s", 3.0)
    tell(f"restart behind 10,000 partitions and {options.entries} entries", restarts, "s", 1.0)
    memory, cpu = idle(binary)
    tell("idle memory", memory, "MB", 30.0)
    tell("idle processor", cpu, "% of a core", 1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
