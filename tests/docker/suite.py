"""The image and the compose file with a real Docker engine: clients on the host and in a container, a node that dies.

It uses the engine that answers, or starts one for itself where it may. Exit code 77 says that there can be none here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic

from daemon import free_port
from report import expect, run

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker-compose.cluster.yml"
PROJECT = "chronik-test"
BASE_IMAGE = "chronik-test-base"
NODE_IMAGE = "chronik-test-node"
NODES = (1, 2, 3)
SKIPPED = 77
ENGINE_WAIT_S = 45
HEALTHY_WAIT_S = 60
DEBIAN = "bookworm"


class NoEngine(Exception):
    """There is no Docker engine here, and none can be started."""


class Engine:
    """A Docker engine: the one that runs, or one of our own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = dict(os.environ)

    def start(self) -> None:
        """Find an engine that answers, or start one."""
        for program in ("docker", "docker-compose"):
            if shutil.which(program) is None:
                raise NoEngine(f"{program} is not installed")
        if self.answers():
            return
        if os.geteuid() != 0:
            raise NoEngine("no Docker engine answers, and only root can start one")
        if shutil.which("dockerd") is None:
            raise NoEngine("no Docker engine answers, and dockerd is not installed")
        socket = self.directory / "docker.sock"
        self.environment["DOCKER_HOST"] = f"unix://{socket}"
        log = (self.directory / "dockerd.log").open("wb")
        self.process = subprocess.Popen(
            [
                "dockerd",
                f"--data-root={self.directory / 'data'}",
                f"--exec-root={self.directory / 'exec'}",
                f"--pidfile={self.directory / 'dockerd.pid'}",
                f"--host=unix://{socket}",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        deadline = time.monotonic() + ENGINE_WAIT_S
        while time.monotonic() < deadline:
            if self.answers():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.3)
        tail = (self.directory / "dockerd.log").read_text(errors="replace").splitlines()[-3:]
        self.stop()
        raise NoEngine("dockerd does not run here: " + " | ".join(tail))

    def answers(self) -> bool:
        """Whether an engine answers."""
        asked = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],
            env=self.environment,
            capture_output=True,
            timeout=30,
            check=False,
        )
        return asked.returncode == 0 and asked.stdout.strip() != b""

    def run(self, *command: str, check: bool = True, timeout_s: float = 300) -> str:
        """Run a command with this engine; what it prints."""
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed with {done.returncode}:\n{done.stdout[-3000:]}")
        return done.stdout

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Run docker-compose on the file under test."""
        return self.run("docker-compose", "-p", PROJECT, "-f", str(COMPOSE_FILE), *arguments, check=check)

    def stop(self) -> None:
        """End the engine, if it is our own."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def make_base(engine: Engine, archive: Path) -> None:
    """A small Debian with Python, made once and kept as an archive."""
    if not archive.exists():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="chronik-base-", dir=archive.parent) as made:
            root = Path(made) / "root"
            engine.run(
                "debootstrap", "--variant=minbase", "--include=python3-minimal,libpython3-stdlib", DEBIAN, str(root)
            )
            partial = archive.with_suffix(".partial")
            engine.run("tar", "-C", str(root), "--exclude=./var/cache/apt/archives", "-cf", str(partial), ".")
            partial.rename(archive)
    engine.run("docker", "import", str(archive), BASE_IMAGE)


class Cluster:
    """The three containers, on ports of their own."""

    def __init__(self, engine: Engine, binary: Path) -> None:
        self.engine = engine
        self.binary = binary
        self.kafka_ports = {node: free_port() for node in NODES}
        self.http_ports = {node: free_port() for node in NODES}
        staged = ROOT / "target" / "image" / "chronik-server"
        engine.environment.update(
            {
                "CHRONIK_IMAGE": NODE_IMAGE,
                "CHRONIK_BASE": BASE_IMAGE,
                "CHRONIK_BUILD_BASE": BASE_IMAGE,
                "CHRONIK_IMAGE_BINARY": str(staged.relative_to(ROOT)),
                **{f"KAFKA_PORT_{node}": str(port) for node, port in self.kafka_ports.items()},
                **{f"HTTP_PORT_{node}": str(port) for node, port in self.http_ports.items()},
            }
        )
        self.staged = staged

    def build(self) -> None:
        """Build the image from a binary that is there already."""
        self.staged.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.binary, self.staged)
        # Symbols are of no use in the image, and most of a debug build.
        self.engine.run("strip", str(self.staged), check=False)
        self.engine.compose("build")

    def address(self, node: int) -> str:
        """Where a client on the host finds a node."""
        return f"localhost:{self.kafka_ports[node]}"

    def state(self, node: int) -> str:
        """What Docker's health check says of a container."""
        said = self.engine.run("docker", "inspect", "--format", "{{.State.Health.Status}}", f"chronik-node-{node}")
        return said.strip()

    def await_healthy(self, *nodes: int) -> None:
        """Wait until Docker finds the containers healthy."""
        deadline = time.monotonic() + HEALTHY_WAIT_S
        while any(self.state(node) != "healthy" for node in nodes):
            if time.monotonic() > deadline:
                logs = self.engine.compose("logs", "--tail=20", check=False)
                raise RuntimeError(f"not healthy after {HEALTHY_WAIT_S} s\n{logs}")
            time.sleep(0.3)

    def metrics(self, node: int) -> str:
        """The metrics of a node."""
        with urllib.request.urlopen(f"http://localhost:{self.http_ports[node]}/metrics", timeout=10) as answer:
            return answer.read().decode()


def broker_addresses(bootstrap: str) -> list[tuple[int, str, int]]:
    """Who the brokers are, as one of them tells."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        brokers = admin.describe_cluster()["brokers"]
        return sorted((broker["broker_id"], broker["host"], broker["port"]) for broker in brokers)
    finally:
        admin.close()


class Suite:
    """What is tested, of one cluster."""

    def __init__(self, cluster: Cluster, site_packages: Path) -> None:
        self.cluster = cluster
        self.engine = cluster.engine
        self.site_packages = site_packages

    def cases(self) -> list[tuple[str, Callable[[], None]]]:
        """All cases, in order."""
        return [
            ("build", self.cluster.build),
            ("up", self.up),
            ("runs as a user of its own", self.runs_as_a_user_of_its_own),
            ("client on the host", self.host_client),
            ("client in a container", self.container_client),
            ("one node dies and comes back", self.one_dies_and_comes_back),
            ("again with the same data", self.again_with_the_same_data),
            ("down leaves nothing", self.down_leaves_nothing),
            ("docker compose reads the file", self.second_compose_reads_it),
        ]

    def up(self) -> None:
        """All nodes come up."""
        self.engine.compose("up", "-d")
        self.cluster.await_healthy(*NODES)

    def runs_as_a_user_of_its_own(self) -> None:
        """The node is not root."""
        expect("user", self.engine.run("docker", "exec", "chronik-node-1", "id", "-u").strip(), "10001")

    def host_client(self) -> None:
        """A client on the host is told ports of the host."""
        wanted = [(node, "localhost", self.cluster.kafka_ports[node]) for node in NODES]
        for node in NODES:
            expect(f"brokers by node {node}", broker_addresses(self.cluster.address(node)), wanted)
        admin = KafkaAdminClient(bootstrap_servers=self.cluster.address(2))
        admin.create_topics([NewTopic("orders", 9, 3)])
        partitions = admin.describe_topics(["orders"])[0]["partitions"]
        admin.close()
        found = sorted((part["partition_index"], part["leader_id"], part["replica_nodes"]) for part in partitions)
        want = [(i, i % 3 + 1, [(i + r) % 3 + 1 for r in range(3)]) for i in range(9)]
        expect("placement", found, want)
        producer = KafkaProducer(bootstrap_servers=self.cluster.address(1), acks="all")
        sent = [producer.send("orders", f"{i}".encode(), partition=i % 9) for i in range(90)]
        for future in sent:
            future.get(20)
        producer.close()
        consumer = KafkaConsumer(
            "orders",
            bootstrap_servers=self.cluster.address(3),
            auto_offset_reset="earliest",
            consumer_timeout_ms=15_000,
        )
        values = {next(consumer).value for _ in range(90)}
        consumer.close()
        expect("records", len(values), 90)

    def container_client(self) -> None:
        """A client in a container is told the containers' names."""
        program = (
            "import json; from kafka import KafkaAdminClient, KafkaProducer\n"
            "admin = KafkaAdminClient(bootstrap_servers='chronik-node-2:9092')\n"
            "brokers = admin.describe_cluster()['brokers']\n"
            "producer = KafkaProducer(bootstrap_servers='chronik-node-3:9092')\n"
            "[producer.send('orders', b'x', partition=i).get(20) for i in range(9)]\n"
            "print(json.dumps(sorted((b['broker_id'], b['host'], b['port']) for b in brokers)))\n"
        )
        said = self.engine.run(
            *("docker", "run", "--rm", "--network=chronik", f"--volume={self.site_packages}:/site:ro"),
            *("--env=PYTHONPATH=/site", BASE_IMAGE, "python3", "-W", "ignore", "-c", program),
        )
        wanted = [[node, f"chronik-node-{node}", 9092] for node in NODES]
        expect("brokers inside", json.loads(said.splitlines()[-1]), wanted)

    def one_dies_and_comes_back(self) -> None:
        """A container is killed and started again."""
        self.engine.run("docker", "kill", "chronik-node-2")
        deadline = time.monotonic() + 20
        while "chronik_brokers_fenced 1" not in self.cluster.metrics(1):
            if time.monotonic() > deadline:
                raise AssertionError("node 1 does not tell that a broker is out of service")
            time.sleep(0.2)
        admin = KafkaAdminClient(bootstrap_servers=[self.cluster.address(1), self.cluster.address(3)])
        admin.create_topics([NewTopic("meanwhile", 2, 2)])
        admin.close()
        self.engine.run("docker", "start", "chronik-node-2")
        self.cluster.await_healthy(2)
        admin = KafkaAdminClient(bootstrap_servers=self.cluster.address(2))
        expect("topics", {"orders", "meanwhile"} <= set(admin.list_topics()), True)
        admin.close()

    def again_with_the_same_data(self) -> None:
        """The volumes keep everything."""
        self.engine.compose("down")
        self.up()
        admin = KafkaAdminClient(bootstrap_servers=self.cluster.address(1))
        expect("topics", {"orders", "meanwhile"} <= set(admin.list_topics()), True)
        admin.close()

    def down_leaves_nothing(self) -> None:
        """All is gone after down -v."""
        self.engine.compose("down", "-v")
        for kind, *listing in (("containers", "ps", "-a"), ("volumes", "volume", "ls"), ("networks", "network", "ls")):
            left = self.engine.run("docker", *listing, "-q", "--filter", f"label=com.docker.compose.project={PROJECT}")
            expect(kind, left.split(), [])

    def second_compose_reads_it(self) -> None:
        """The file is in the newer tool's form too."""
        has_it = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
        if not has_it:
            print("docker compose (v2) is not installed; only docker-compose has read the file", flush=True)
            return
        self.engine.run("docker", "compose", "-f", str(COMPOSE_FILE), "config", "--quiet")


def main() -> int:
    """Run all cases with an engine, and leave nothing behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, help="the chronik-server to put into the image")
    parser.add_argument("--cache", required=True, help="where the base image is kept")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="chronik-docker-"))
    engine = Engine(directory)
    try:
        engine.start()
    except NoEngine as reason:
        shutil.rmtree(directory, ignore_errors=True)
        print(f"skip docker: {reason}", flush=True)
        return SKIPPED
    cluster = Cluster(engine, Path(options.binary))
    try:
        make_base(engine, Path(options.cache) / f"{DEBIAN}.tar")
        return run(Suite(cluster, Path(kafka.__file__).parents[1]).cases())
    finally:
        with contextlib.suppress(Exception):
            engine.compose("down", "-v", check=False)
        with contextlib.suppress(Exception):
            engine.run("docker", "rmi", "-f", NODE_IMAGE, BASE_IMAGE, check=False)
        cluster.staged.unlink(missing_ok=True)
        engine.stop()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
