"""Three nodes, real clients, faults, and a look at every replica's disk afterwards.

    run.py --binary target/release/chronik-server --venvs .cache/venv --libs .cache/kafka/libs
           [--faults 34] [--records-per-second 2000] [--seed N] [--only PART-OF-A-FAULT'S-NAME]

Producers of librdkafka, kafka-python and Java (Kafka's VerifiableProducer), all idempotent with acks=all, write all the
time, and a consumer reads along. Faults come one after the other, each healed, and the cluster whole again before the
next. At the end all nodes are stopped and the segments of all replicas compared with each other and with what was
acknowledged. With network namespaces each node has one of its own; without them the faults of the network are left out,
and the run says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import faults
import replicas
from network import Network, Unavailable

from cluster import Cluster, Node, create_topics, eventually

TOPIC, PARTITIONS = "chaos", 6
KAFKA_PORT, RAFT_PORT = 9092, 9192
SETTINGS = {
    "CHRONIK_MIN_INSYNC_REPLICAS": "2",
    # A replica that is cut off leaves the ISR while the fault lasts.
    "CHRONIK_REPLICA_LAG_TIME_MAX_MS": "2000",
}
# How long the cluster may take to be whole again after a fault.
WHOLE_S_MAX = 60.0
# Java's producer costs the most of the machine, and kafka-python the most of a core.
JAVA_SHARE, KAFKA_PYTHON_SHARE = 0.1, 0.1


class HostNode(Node):
    """A node on a host of its own."""

    def __init__(self, binary: Path, directory: Path, node_id: int, network: Network, peers: str) -> None:
        super().__init__(binary, directory, node_id, KAFKA_PORT, peers)
        self.network = network
        self.host = network.address(node_id)

    def command(self) -> list[str]:
        """The same program, inside."""
        binary = [str(Path(part).resolve()) if number == 0 else part for number, part in enumerate(super().command())]
        return ["ip", "netns", "exec", self.network.space(self.node_id), *binary]


class HostCluster(Cluster):
    """Nodes on hosts of their own."""

    def __init__(self, binary: Path, network: Network, settings: dict[str, str]) -> None:
        super().__init__(binary, settings=settings)
        peers = ",".join(f"{network.address(node)}:{KAFKA_PORT}:{RAFT_PORT}" for node in network.nodes)
        self.nodes = [HostNode(binary, self.directory, node, network, peers) for node in network.nodes]
        for node in self.nodes:
            node.settings |= settings


class Client:
    """A client process that writes what it was told into a file."""

    def __init__(self, name: str, command: list[str], directory: Path) -> None:
        self.name, self.path = name, directory / f"{name}.out"
        with self.path.open("wb") as out, (directory / f"{name}.err").open("wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def stop(self) -> None:
        """SIGTERM; clients send no more and wait for what is under way."""
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        """Until it has ended."""
        try:
            self.process.wait(150)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} does not end") from None

    def lines(self) -> list[str]:
        """What it has said, the line that it is writing left out."""
        return self.path.read_text(errors="replace").rpartition("\n")[0].splitlines()


def java(libs: Path, bootstrap: str, rate: int, directory: Path) -> list[str]:
    """Kafka's own producer for tests, made idempotent; its values are a prefix, a dot and a number."""
    config = directory / "java.properties"
    lines = ["enable.idempotence=true", "retries=2147483647", "delivery.timeout.ms=120000", "request.timeout.ms=5000"]
    lines += ["reconnect.backoff.max.ms=200", "retry.backoff.ms=50", "metadata.max.age.ms=2000"]
    config.write_text("\n".join(lines))
    command = ["java", "-Xmx192m", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off"]
    command += ["-cp", f"{libs}/*", "org.apache.kafka.tools.VerifiableProducer", "--bootstrap-server", bootstrap]
    return [
        *command,
        "--topic",
        f"{TOPIC}-java",
        "--throughput",
        str(rate),
        "--acks",
        "-1",
        "--command-config",
        str(config),
    ]


def told_java(lines: list[str]) -> tuple[replicas.Acknowledged, list[str]]:
    """What the Java producer was told, in the form of the others'."""
    told, errors = replicas.Acknowledged(""), []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            if event.get("name") == "producer_send_success":
                place = (int(event["offset"]), int(event["value"]))
                told.places.setdefault(int(event["partition"]), []).append(place)
                told.sent_below = max(told.sent_below, place[1] + 100_000)
            elif event.get("name") == "producer_send_error":
                errors.append(f"{event.get('exception')}: {event.get('message')}")
    return told, errors


def told_by(client: Client) -> tuple[replicas.Acknowledged, list[str], list[tuple[float, int]]]:
    """What a producer was told, its errors, and when what partition acknowledged something."""
    told, errors, times = replicas.Acknowledged(client.name), [], []
    for line in client.lines():
        if line.startswith("# sent "):
            told.sent_below = int(line.split()[2])
        elif line.startswith("#"):
            errors.append(line[2:])
        else:
            at_ms, partition, offset, number = line.split()
            told.places.setdefault(int(partition), []).append((int(offset), int(number)))
            times.append((float(at_ms) / 1000, int(partition)))
    return told, errors, times


def longest_gap_s(times: list[tuple[float, int]], began_s: float, ended_s: float) -> float:
    """The longest that any partition acknowledged nothing, from just before a fault until the cluster was whole."""
    longest = 0.0
    for wanted in range(PARTITIONS):
        moments = [at for at, partition in times if partition == wanted and began_s - 1 <= at <= ended_s + 1]
        # Before and after there is a second in which everything goes on.
        edges = moments or [began_s, ended_s]
        longest = max([longest, *(later - earlier for earlier, later in pairwise(edges))])
    return longest


class Run:
    """One cluster, its clients, and what happened."""

    def __init__(self, options: argparse.Namespace, cluster: Cluster, network: Network | None) -> None:
        self.options, self.cluster, self.network = options, cluster, network
        self.random = random.Random(options.seed)
        self.happened: list[tuple[str, float, float]] = []
        self.topics = [TOPIC, f"{TOPIC}-java"]

    def chosen(self) -> list[str]:
        """The faults of this run in their order: all kinds as evenly as their number allows."""
        kinds = list(faults.PROCESS_FAULTS)
        if self.network:
            kinds += faults.NETWORK_FAULTS
            if self.network.has_netem:
                kinds += faults.LINK_FAULTS
            else:
                print("# this kernel has no netem: slow and corrupting links are left out", flush=True)
        names = [kind.__name__ for kind in kinds if self.options.only in kind.__name__]
        order: list[str] = []
        while len(order) < self.options.faults:
            self.random.shuffle(names)
            order += names
        return order[: self.options.faults]

    def start(self) -> list[Client]:
        """The cluster, its topics, and the clients."""
        self.cluster.start()
        node = self.cluster.nodes[0]
        with node.connect() as connection:
            outcome = create_topics(connection, {topic: (PARTITIONS, 3) for topic in self.topics})
            if any(code != 0 for code, _ in outcome.values()):
                raise AssertionError(f"topics: {outcome}")
        bootstrap = ",".join(node.bootstrap for node in self.cluster.nodes)
        venvs, rate = Path(self.options.venvs).absolute(), self.options.records_per_second
        here, directory = Path(__file__).parent, self.cluster.directory
        confluent, kafka_python = (str(venvs / name / "bin/python") for name in ("confluent-kafka", "kafka-python"))
        others = int(rate * JAVA_SHARE), int(rate * KAFKA_PYTHON_SHARE)
        arguments = [bootstrap, TOPIC, str(PARTITIONS)]
        return [
            Client(
                "c",
                [confluent, str(here / "producer_confluent.py"), "c", *arguments, str(rate - sum(others))],
                directory,
            ),
            Client(
                "k", [kafka_python, str(here / "producer_kafka_python.py"), "k", *arguments, str(others[1])], directory
            ),
            Client("java", java(Path(self.options.libs).absolute(), bootstrap, others[0], directory), directory),
            Client("reader", [confluent, str(here / "reader_confluent.py"), *arguments], directory),
        ]

    def leader(self) -> Node:
        """Who leads partition 0, as some node sees it."""
        for node in self.cluster.running():
            with contextlib.suppress(OSError, AssertionError):
                wanted = node.metadata([TOPIC]).topics[TOPIC][0].leader
                return next(node for node in self.cluster.nodes if node.node_id == wanted)
        raise AssertionError("nobody says who leads")

    def await_whole(self) -> None:
        """All nodes run, and all see all replicas in sync."""
        for node in self.cluster.nodes:
            if not node.alive():
                node.spawn()
        for node in self.cluster.nodes:
            node.wait_until_ready()

            def is_whole(node: Node = node) -> bool:
                told = node.metadata(self.topics).topics
                return all(
                    len(partition.isr) == 3 and partition.leader > 0
                    for topic in self.topics
                    for partition in told[topic]
                )

            eventually(f"node {node.node_id} sees all replicas in sync", is_whole, WHOLE_S_MAX)

    def fault(self, number: int, name: str) -> None:
        """One fault, from a whole cluster to a whole cluster."""
        world = faults.World(self.cluster.nodes, self.network, self.random, self.leader(), self.cluster.leader())
        began = time.monotonic()
        try:
            getattr(faults, name)(world)
        finally:
            if self.network:
                self.network.heal()
        self.await_whole()
        ended = time.monotonic()
        self.happened.append((name, began, ended))
        print(f"# {number:4} {name}: whole again after {ended - began:.1f} s", flush=True)
        time.sleep(0.5)

    def judge(self, clients: list[Client]) -> bool:
        """Stop everything and look at what is there."""
        producers, reader = clients[:3], clients[3]
        for client in producers:
            client.stop()
        for client in producers:
            client.wait()
        self.await_whole()
        time.sleep(1)
        reader.stop()
        reader.wait()
        self.cluster.stop()
        verdict = replicas.Verdict()
        errors: list[str] = []
        acknowledged: list[replicas.Acknowledged] = []
        times: list[tuple[float, int]] = []
        for client in producers[:2]:
            told, said, moments = told_by(client)
            acknowledged.append(told)
            errors += [f"{client.name}: {line}" for line in said]
            times = times or moments
        from_java, said = told_java(producers[2].lines())
        errors += [f"java: {line}" for line in said]
        for topic, wanted in ((TOPIC, acknowledged), (f"{TOPIC}-java", [from_java])):
            logs: dict[int, bytes] = {}
            for index in range(PARTITIONS):
                copies = {
                    str(node.node_id): replicas.segments(
                        node.directory / f"chronik-data-{node.node_id}" / f"{topic}-{index}"
                    )
                    for node in self.cluster.nodes
                }
                replicas.compare(copies, verdict, f"{topic}-{index}")
                logs[index] = copies["1"]
            found = replicas.check(logs, wanted, verdict, topic)
            if topic == TOPIC:
                lines = [line.split(" ", 2) for line in reader.lines() if not line.startswith("#")]
                seen = [(int(partition), int(offset), value.encode()) for partition, offset, value in lines]
                replicas.check_reader(seen, found, verdict)
                errors += [f"reader: {line[2:]}" for line in reader.lines() if line.startswith("#")]
        self.summarize(verdict, errors, times)
        return verdict.is_good() and verdict.acknowledged_count > 0 and not errors

    def summarize(self, verdict: replicas.Verdict, errors: list[str], times: list[tuple[float, int]]) -> None:
        """Tell what was done and found."""
        gaps: dict[str, list[float]] = {}
        for name, began, ended in self.happened:
            gaps.setdefault(name, []).append(longest_gap_s(times, began, ended))
        print("fault | times | median gap s | worst gap s")
        for name, found in sorted(gaps.items()):
            ordered = sorted(found)
            print(f"{name} | {len(found)} | {ordered[len(ordered) // 2]:.2f} | {ordered[-1]:.2f}")
        print(
            f"seed {self.options.seed}: {len(self.happened)} faults, "
            f"{verdict.acknowledged_count} records acknowledged, {verdict.record_count} found; "
            f"{verdict.lost} lost, {verdict.misplaced} at another place, "
            f"{verdict.doubled} doubled, {verdict.reordered} reordered, {verdict.unknown} unknown, "
            f"{verdict.damaged} damaged, {verdict.different_bytes} bytes differ between replicas, "
            f"{len(errors)} errors told to applications"
        )
        for words in verdict.words:
            print(f"  {words}")
        for words, count in Counter(errors).most_common(10):
            print(f"  {count} × {words}")
        sys.stdout.flush()

    def go(self) -> bool:
        """All of it."""
        clients = self.start()
        try:
            time.sleep(3)
            for number, name in enumerate(self.chosen(), 1):
                self.fault(number, name)
            good = self.judge(clients)
            self.cluster.check_logs()
            return good
        finally:
            for client in clients:
                if client.process.poll() is None:
                    client.process.kill()
                    client.process.wait()


def main() -> int:
    """Run, and say by the exit code whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/chronik-server")
    parser.add_argument("--venvs", default=".cache/venv")
    parser.add_argument("--libs", default=".cache/kafka/libs")
    parser.add_argument("--faults", type=int, default=34)
    parser.add_argument("--records-per-second", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    binary = Path(options.binary).absolute()
    with contextlib.ExitStack() as stack:
        network: Network | None = None
        try:
            network = stack.enter_context(Network([1, 2, 3]))
            cluster: Cluster = HostCluster(binary, network, SETTINGS)
        except Unavailable as error:
            count = len(faults.NETWORK_FAULTS) + len(faults.LINK_FAULTS)
            print(f"# no network namespaces ({error}): {count} kinds of faults are left out", flush=True)
            cluster = Cluster(binary, settings=SETTINGS)
        stack.enter_context(cluster)
        good = Run(options, cluster, network).go()
        if not good:
            raise AssertionError(
                "something that was acknowledged is not as it should be, or an application heard of it"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
