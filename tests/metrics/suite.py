"""The HTTP port of one node: health, and metrics as the parsers of Prometheus' own client read them."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from daemon import Chronik, free_port
from report import expect, run

NAME = re.compile(r"^[a-z][a-z0-9_]*$")
GROUP = 'a "group" \\ of\nlines'
# What dashboards for Kafka ask for.
KNOWN = [
    "kafka_server_brokertopicmetrics_messagesin_total",
    "kafka_server_brokertopicmetrics_bytesin_total",
    "kafka_server_brokertopicmetrics_bytesout_total",
    "kafka_server_replicamanager_underreplicatedpartitions",
    "kafka_server_replicamanager_partitioncount",
    "kafka_server_replicamanager_leadercount",
    "kafka_controller_kafkacontroller_activecontrollercount",
    "kafka_controller_kafkacontroller_offlinepartitionscount",
    "kafka_network_requestmetrics_requests_total",
    "kafka_log_log_size",
    "kafka_brokers",
    "kafka_topic_partitions",
    "kafka_topic_partition_current_offset",
    "kafka_topic_partition_oldest_offset",
    "kafka_topic_partition_leader",
    "kafka_topic_partition_replicas",
    "kafka_topic_partition_in_sync_replica",
    "kafka_topic_partition_under_replicated_partition",
    "kafka_consumergroup_members",
    "kafka_consumergroup_current_offset",
    "kafka_consumergroup_lag",
    "kafka_consumergroup_lag_sum",
]

Sample = tuple[str, tuple[tuple[str, str], ...]]


class Port:
    """The HTTP port under test."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, accept: str = "*/*", method: str = "GET") -> tuple[int, str, str]:
        """Status, content type and body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", headers={"Accept": accept}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.headers["Content-Type"], refused.read().decode()

    def samples(self) -> dict[Sample, float]:
        """All samples, by name and labels."""
        text = self.get("/metrics")[2]
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in parse_plain(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: object) -> float | None:
        """One sample."""
        wanted = tuple(sorted((key, str(value)) for key, value in labels.items()))
        return self.samples().get((name, wanted))

    def raw(self, *parts: bytes, pause_s: float = 0.0) -> bytes:
        """What comes back for these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause_s)
                got = b""
                while chunk := connection.recv(65536):
                    got += chunk
            except (ConnectionError, BrokenPipeError):
                return b""
            return got


def families(text: str) -> Iterator[tuple[str, str, str]]:
    """Name, help and type of each family of the older format, which must stand before its samples."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if line.startswith("# HELP "):
            _, _, name, help_text = line.split(" ", 3)
            kind = lines[at + 1].split(" ")
            expect(f"line behind the help of {name}", kind[:3], ["#", "TYPE", name])
            yield name, help_text, kind[3]


class Suite:
    """What is tested, of one node."""

    def __init__(self, port: Port, bootstrap: str) -> None:
        self.port = port
        self.bootstrap = bootstrap

    def cases(self) -> list[tuple[str, Callable[[], None]]]:
        """All cases, in order."""
        return [
            ("health", self.health),
            ("traffic counts", self.traffic_counts),
            ("lag follows commits", self.lag_follows_commits),
            ("both formats parse", self.both_formats_parse),
            ("every family is well formed", self.every_family_is_well_formed),
            ("many topics are bounded", self.many_topics_are_bounded),
            ("hostile bytes do no harm", self.hostile_bytes_do_no_harm),
            ("silent clients are cut off", self.silent_clients_are_cut_off),
        ]

    def health(self) -> None:
        """Health answers as it should."""
        status, kind, body = self.port.get("/health/live")
        expect("live", (status, kind, json.loads(body)), (200, "application/json", {"status": "live"}))
        status, _, body = self.port.get("/health/ready")
        told = json.loads(body)
        expect("ready", (status, told["status"], told["node_id"]), (200, "ready", 1))
        expect("head", self.port.get("/health/ready", method="HEAD")[::2], (200, ""))
        expect("post", self.port.get("/health/ready", method="POST")[0], 405)
        expect("missing", self.port.get("/nothing")[0], 404)

    def traffic_counts(self) -> None:
        """Counters grow by what clients do."""
        topic = "orders"
        before = self.port.samples()
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.create_topics([NewTopic(topic, 2, 1)])
        admin.close()
        producer = KafkaProducer(bootstrap_servers=self.bootstrap)
        for i in range(30):
            producer.send(topic, b"value", partition=i % 3 // 2)
        producer.close()
        after = self.port.samples()

        def grown(name: str, **labels: str) -> float:
            key = (name, tuple(sorted(labels.items())))
            return after[key] - before.get(key, 0.0)

        messages = "kafka_server_brokertopicmetrics_messagesin_total"
        expect("messages of the topic", grown(messages, topic=topic), 30)
        expect("messages of all", grown(messages), 30)
        expect("bytes in", grown("kafka_server_brokertopicmetrics_bytesin_total", topic=topic) > 150, True)
        expect("produce requests", grown("kafka_network_requestmetrics_requests_total", request="Produce") > 0, True)
        offsets = [self.port.value("kafka_topic_partition_current_offset", topic=topic, partition=p) for p in range(2)]
        expect("ends", offsets, [20, 10])
        expect("start", self.port.value("kafka_topic_partition_oldest_offset", topic=topic, partition=0), 0)
        expect("leader", self.port.value("kafka_topic_partition_leader", topic=topic, partition=1), 1)
        expect("partitions", self.port.value("kafka_topic_partitions", topic=topic), 2)
        expect("size", (self.port.value("kafka_log_log_size", topic=topic, partition=0) or 0) > 0, True)
        count = self.port.value("chronik_request_duration_seconds_count", request="Produce")
        requests = self.port.value("kafka_network_requestmetrics_requests_total", request="Produce")
        expect("latencies", count, requests)

    def lag_follows_commits(self) -> None:
        """Lag is what a group has not committed."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=GROUP, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        partition = TopicPartition("orders", 0)
        consumer.subscribe(["orders"])
        deadline = time.monotonic() + 30
        while not consumer.assignment() and time.monotonic() < deadline:
            consumer.poll(timeout_ms=200)
        expect("members", self.port.value("kafka_consumergroup_members", consumergroup=GROUP), 1)
        consumer.seek(partition, 5)
        consumer.poll(timeout_ms=3000, max_records=1)
        consumer.seek(partition, 5)
        consumer.commit()
        labels = {"consumergroup": GROUP, "topic": "orders"}
        expect("offset", self.port.value("kafka_consumergroup_current_offset", partition=0, **labels), 5)
        expect("lag", self.port.value("kafka_consumergroup_lag", partition=0, **labels), 15)
        lags = [self.port.value("kafka_consumergroup_lag", partition=p, **labels) or 0 for p in range(2)]
        expect("sum", self.port.value("kafka_consumergroup_lag_sum", **labels), sum(lags))
        expect(
            "read", (self.port.value("kafka_server_brokertopicmetrics_bytesout_total", topic="orders") or 0) > 0, True
        )
        consumer.close()
        expect("nobody left", self.port.value("kafka_consumergroup_members", consumergroup=GROUP), 0)

    def both_formats_parse(self) -> None:
        """Both parsers read the same."""
        status, kind, text = self.port.get("/metrics")
        expect("plain", (status, kind), (200, "text/plain; version=0.0.4; charset=utf-8"))
        plain = {sample.name for family in parse_plain(text) for sample in family.samples}
        _, kind, text = self.port.get("/metrics", accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
        expect("openmetrics", kind, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        found = {sample.name for family in parse_openmetrics(text) for sample in family.samples}
        expect("the same samples", found ^ plain, set())
        expect("known names", [name for name in KNOWN if name not in plain], [])

    def every_family_is_well_formed(self) -> None:
        """Names, helps and types are as they should be."""
        told = list(families(self.port.get("/metrics")[2]))
        names = [name for name, _, _ in told]
        expect("named once", sorted(set(names)), sorted(names))
        for name, help_text, kind in told:
            expect(f"name {name}", bool(NAME.match(name)), True)
            expect(f"help of {name}", help_text.strip() != "" and help_text.endswith("."), True)
            expect(f"_total of {name}", name.endswith("_total"), kind == "counter")
            expect(f"type of {name}", kind in ("counter", "gauge", "histogram"), True)

    def many_topics_are_bounded(self) -> None:
        """More partitions than are told are counted."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.create_topics([NewTopic(f"many-{i}", 1000, 1) for i in range(6)], timeout_ms=60_000)
        samples = self.port.samples()
        leaders = sum(1 for name, _ in samples if name == "kafka_topic_partition_leader")
        expect("series", leaders, 5000)
        omitted = samples[("chronik_metrics_omitted", (("kind", "topic_partition"),))]
        total = samples[("kafka_controller_kafkacontroller_globalpartitioncount", ())]
        expect("left out", omitted, total - 5000)
        admin.delete_topics([f"many-{i}" for i in range(6)], timeout_ms=60_000)
        admin.close()

    def hostile_bytes_do_no_harm(self) -> None:
        """Whatever is sent, the port goes on."""
        expect("no HTTP", b" 200 " in self.port.raw(b"\x00\x01\x02\xff" * 100 + b"\r\n\r\n"), False)
        long = b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"
        expect("long header", b" 200 " in self.port.raw(long), False)
        many = b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(1000)) + b"\r\n"
        expect("many headers", b" 200 " in self.port.raw(many), False)
        two = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
        expect("one request a connection", self.port.raw(two + two).count(b"HTTP/1.1 200"), 1)
        expect(
            "a body",
            b" 405 " in self.port.raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\nabc"),
            True,
        )
        expect("still there", self.port.get("/health/live")[0], 200)

    def silent_clients_are_cut_off(self) -> None:
        """Connections that say nothing make room for others."""
        began = time.monotonic()
        silent = [threading.Thread(target=self.port.raw, args=(b"GET / HT",)) for _ in range(80)]
        for thread in silent:
            thread.start()
        for thread in silent:
            thread.join(60)
        expect("all are gone", any(thread.is_alive() for thread in silent), False)
        expect("not at once, and not late", 4 < time.monotonic() - began < 25, True)
        expect("still there", self.port.get("/health/live")[0], 200)


def main() -> int:
    """Run all cases against a node of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="chronik-metrics-"))
    node = Chronik(Path(options.binary), directory / "data")
    port = Port(free_port())
    node.settings = {"CHRONIK_HTTP_PORT": str(port.port), "CHRONIK_BIND": "127.0.0.1"}
    node.settings["CHRONIK_GROUP_INITIAL_REBALANCE_DELAY_MS"] = "0"
    node.settings["CHRONIK_OFFSETS_TOPIC_NUM_PARTITIONS"] = "5"
    try:
        node.start()
        code = run(Suite(port, node.bootstrap).cases())
        expect("alive", node.alive(), True)
        expect("exit code", node.stop(), 0)
        return code
    finally:
        node.kill()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
