"""The command line tools of Apache Kafka 4.3.1, unmodified, as the scripts in its bin directory start them."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from functools import partial
from pathlib import Path

from tools import Tools, has

import report
from data import topic_name
from report import Case, expect


def topics(tools: Tools) -> None:
    topic = tools.create("java-topics", 2, "retention.ms=7200000")
    has("list", tools.ask("kafka-topics", "--list"), f"^{topic}$")
    described = tools.ask("kafka-topics", "--describe", "--topic", topic)
    has(
        "describe",
        described,
        rf"Topic: {topic}\s+TopicId: \S{{22}}\s+PartitionCount: 2\s+ReplicationFactor: 1\s+Configs:.*retention.ms=72",
    )
    for partition in (0, 1):
        has("describe", described, rf"Partition: {partition}\s+Leader: (\d+)\s+Replicas: \1\s+Isr: \1")
    tools.ask("kafka-topics", "--alter", "--topic", topic, "--partitions", "5")
    has("after alter", tools.ask("kafka-topics", "--describe", "--topic", topic), "PartitionCount: 5")
    fewer = tools.ask("kafka-topics", "--alter", "--topic", topic, "--partitions", "3", code=1)
    has("fewer partitions", fewer, "InvalidPartitionsException")
    again = tools.ask("kafka-topics", "--create", "--topic", topic, code=1)
    has("an existing topic", again, "already exists")
    replicas = tools.ask("kafka-topics", "--create", "--topic", topic_name("rf"), "--replication-factor", "3", code=1)
    has("3 replicas", replicas, "InvalidReplicationFactorException")
    tools.ask("kafka-topics", "--create", "--if-not-exists", "--topic", topic)
    tools.ask("kafka-topics", "--delete", "--topic", topic)
    expect("still listed", topic in tools.ask("kafka-topics", "--list").split(), False)
    tools.ask("kafka-topics", "--describe", "--topic", topic, code=1)


def manual_assignment(tools: Tools) -> None:
    leader = re.search(r"id: (\d+)", tools.ask("kafka-broker-api-versions"))
    node = leader.group(1) if leader else "?"
    topic = topic_name("java-manual")
    tools.ask("kafka-topics", "--create", "--topic", topic, "--replica-assignment", f"{node},{node}")
    has("describe", tools.ask("kafka-topics", "--describe", "--topic", topic), "PartitionCount: 2")


def console(tools: Tools, codec: str) -> None:
    topic = tools.create(f"java-console-{codec}")
    lines = [f"h1:{index},h1:again\tkey{index}\tvalue {index}" for index in range(500)]
    tools.ask(
        "kafka-console-producer",
        *["--topic", topic, "--compression-codec", codec],
        *["--reader-property", "parse.key=true", "--reader-property", "parse.headers=true"],
        given="\n".join(lines) + "\n",
    )
    shown = [word for name in ("key", "headers", "offset") for word in ("--formatter-property", f"print.{name}=true")]
    got = tools.consume(topic, 500, *shown)
    wanted = []
    for index, line in enumerate(lines):
        headers, key, value = line.split("\t")
        wanted.append(f"Offset:{index}\t{headers}\t{key}\t{value}")
    expect("lines", got, wanted)


def get_offsets(tools: Tools) -> None:
    topic = tools.create("java-offsets", 2, "message.timestamp.type=CreateTime")
    tools.ask("kafka-console-producer", "--topic", topic, given="".join(f"{i}\n" for i in range(100)))
    for time, low, high in [
        ("earliest", 0, 0),
        ("latest", 100, 100),
        ("max-timestamp", 1, 100),
        ("-1", 100, 100),
        ("-2", 0, 0),
        ("0", 0, 0),
    ]:
        said = tools.ask("kafka-get-offsets", "--topic", topic, "--time", time)
        offsets = [int(line.split(":")[2] or -1) for line in said.split()]
        # The sticky partitioner chooses where the records go; what counts is their sum.
        if time == "max-timestamp":
            offsets = [offset + 1 for offset in offsets]
        if not low <= sum(offsets) <= high:
            raise AssertionError(f"--time {time}: {said!r} does not sum up to {low}–{high}")


def earliest_local_and_tiered(tools: Tools) -> None:
    topic = tools.create("java-local")
    tools.ask("kafka-console-producer", "--topic", topic, given="a\nb\n")
    said = tools.ask("kafka-get-offsets", "--topic", topic, "--time", "earliest-local").strip()
    expect("earliest-local", said, f"{topic}:0:0")
    said = tools.ask("kafka-get-offsets", "--topic", topic, "--time", "latest-tiered").strip()
    expect("latest-tiered, where nothing is tiered", said, "")


def delete_records(tools: Tools) -> None:
    topic = tools.create("java-delete-records")
    tools.ask("kafka-console-producer", "--topic", topic, given="".join(f"{i}\n" for i in range(100)))
    with tempfile.TemporaryDirectory() as directory:
        plan = Path(directory) / "offsets.json"
        plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 30}]}))
        said = tools.ask("kafka-delete-records", "--offset-json-file", str(plan))
        has("delete-records", said, rf"partition: {topic}-0\s+low_watermark: 30")
        plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 500}]}))
        said = tools.ask("kafka-delete-records", "--offset-json-file", str(plan))
        has("past the end", said, "OffsetOutOfRangeException")
    expect("first lines", tools.consume(topic, 3), ["30", "31", "32"])


def log_dirs(tools: Tools) -> None:
    topic = tools.create("java-log-dirs")
    tools.ask("kafka-console-producer", "--topic", topic, given="x" * 1000 + "\n")
    said = tools.ask("kafka-log-dirs", "--describe", "--topic-list", topic)
    (described,) = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    (directory,) = described["brokers"][0]["logDirs"]
    expect("error", directory["error"], None)
    (partition,) = directory["partitions"]
    expect(
        "partition", [partition["partition"], partition["offsetLag"], partition["isFuture"]], [f"{topic}-0", 0, False]
    )
    if partition["size"] < 1000:
        raise AssertionError(f"size {partition['size']}, want at least the 1000 bytes of the record")


def verifiable_producer(tools: Tools) -> None:
    topic = tools.create("java-verifiable", 3)
    said = tools.ask("kafka-verifiable-producer", "--topic", topic, "--max-messages", "5000", "--acks", "-1")
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    expect("acknowledged", sum(event["name"] == "producer_send_success" for event in events), 5000)
    (summary,) = [event for event in events if event["name"] == "tool_data"]
    expect("summary", [summary["sent"], summary["acked"]], [5000, 5000])
    offsets = {(event["partition"], event["offset"]) for event in events if event["name"] == "producer_send_success"}
    expect("different places", len(offsets), 5000)


def producer_perf(tools: Tools, codec: str) -> None:
    topic = tools.create(f"java-perf-{codec}", 6)
    said = tools.run(
        "kafka-producer-perf-test",
        *["--topic", topic, "--num-records", "100000", "--record-size", "200", "--throughput", "-1"],
        *["--producer-props", f"bootstrap.servers={tools.bootstrap}", f"compression.type={codec}", "acks=all"],
    )
    has("summary", said, r"^100000 records sent")
    ends = tools.ask("kafka-get-offsets", "--topic", topic).split()
    expect("records in the log", sum(int(line.split(":")[2]) for line in ends), 100_000)


def large_records(tools: Tools) -> None:
    topic = tools.create("java-large")
    settings = ["--command-property", "max.request.size=4000000", "--command-property", "buffer.memory=33554432"]
    tools.ask("kafka-console-producer", "--topic", topic, *settings, given="x" * 1_048_000 + "\n")
    (line,) = tools.consume(topic, 1)
    expect("length", len(line), 1_048_000)
    said = tools.ask(
        "kafka-console-producer", "--topic", topic, "--sync", *settings, given="x" * 1_100_000 + "\n", code=1
    )
    has("over the limit", said, "RecordTooLargeException")


def api_versions(tools: Tools) -> None:
    said = tools.ask("kafka-broker-api-versions")
    # Old librdkafka compresses only where this range begins at 0 (KAFKA-18659).
    has("Produce", said, r"Produce\(0\): 0 to \d+")
    for name, key in [("Fetch", 1), ("ListOffsets", 2), ("Metadata", 3), ("CreateTopics", 19), ("InitProducerId", 22)]:
        has(name, said, rf"{name}\({key}\): \d")


def cluster(tools: Tools) -> None:
    has(
        "cluster-id",
        tools.run("kafka-cluster", "cluster-id", "--bootstrap-server", tools.bootstrap),
        r"Cluster ID: \S{22}$",
    )
    said = tools.run("kafka-cluster", "list-endpoints", "--bootstrap-server", tools.bootstrap)
    host, port = tools.bootstrap.split(":")
    has("list-endpoints", said, rf"{re.escape(host)}\s+{port}")


def configs(tools: Tools) -> None:
    topic = tools.create("java-configs", 1, "segment.bytes=2000000", "compression.type=producer")
    said = tools.ask("kafka-configs", "--describe", "--all", "--entity-type", "topics", "--entity-name", topic)
    has(
        "segment.bytes",
        said,
        r"segment.bytes=2000000 sensitive=false synonyms=\{DYNAMIC_TOPIC_CONFIG:segment.bytes=2000000",
    )
    has("max.message.bytes", said, r"max.message.bytes=1048588 ")
    only_set = tools.ask("kafka-configs", "--describe", "--entity-type", "topics", "--entity-name", topic)
    expect("retention.ms is not set", "retention.ms" in only_set, False)
    of_broker = ("--entity-type", "brokers", "--entity-name", broker_id(tools))
    broker = tools.ask("kafka-configs", "--describe", "--all", *of_broker)
    has("a broker's configs", broker, r"message.max.bytes=1048588 ")


def alter_topic(tools: Tools) -> None:
    topic = tools.create("java-alter")
    of_topic = ("--entity-type", "topics", "--entity-name", topic)
    policy = "cleanup.policy=[compact,delete]"
    tools.ask("kafka-configs", "--alter", *of_topic, "--add-config", f"retention.ms=77777777,{policy}")
    said = tools.ask("kafka-configs", "--describe", *of_topic)
    has(
        "retention.ms",
        said,
        r"retention.ms=77777777 sensitive=false synonyms=\{DYNAMIC_TOPIC_CONFIG:retention.ms=77777777",
    )
    has(
        "cleanup.policy",
        said,
        r"cleanup.policy=compact,delete sensitive=false synonyms=\{DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, "
        r"DEFAULT_CONFIG:log.cleanup.policy=delete\}",
    )
    tools.ask("kafka-configs", "--alter", *of_topic, "--delete-config", "retention.ms")
    said = tools.ask("kafka-configs", "--describe", *of_topic)
    expect("retention.ms is not set", "retention.ms" in said, False)
    has("cleanup.policy stays", said, r"cleanup.policy=compact,delete ")
    said = tools.ask("kafka-configs", "--alter", *of_topic, "--add-config", "no.such=1", code=1)
    has("an unknown config", said, "Unknown topic config name: no.such")
    said = tools.ask("kafka-configs", "--alter", *of_topic, "--add-config", "retention.ms=soon", code=1)
    has("a wrong value", said, "Invalid value soon for configuration retention.ms: Not a number of type LONG")


def alter_brokers(tools: Tools) -> None:
    topic = tools.create("java-follows")
    one = ("--entity-type", "brokers", "--entity-name", broker_id(tools))
    every = ("--entity-type", "brokers", "--entity-default")
    tools.ask("kafka-configs", "--alter", *every, "--add-config", "log.index.interval.bytes=5000")
    tools.ask("kafka-configs", "--alter", *one, "--add-config", "log.index.interval.bytes=6000")
    dynamic = r"DYNAMIC_BROKER_CONFIG:log.index.interval.bytes=6000, "
    default = r"DYNAMIC_DEFAULT_BROKER_CONFIG:log.index.interval.bytes=5000"
    built_in = r"DEFAULT_CONFIG:log.index.interval.bytes=4096\}"
    said = tools.ask("kafka-configs", "--describe", *one)
    has(
        "one broker", said, rf"log.index.interval.bytes=6000 sensitive=false synonyms=\{{{dynamic}{default}, {built_in}"
    )
    said = tools.ask("kafka-configs", "--describe", *every)
    has("all brokers", said, rf"log.index.interval.bytes=5000 sensitive=false synonyms=\{{{default}\}}")
    of_topic = ("--entity-type", "topics", "--entity-name", topic)
    said = tools.ask("kafka-configs", "--describe", "--all", *of_topic)
    has("a topic", said, rf" index.interval.bytes=6000 sensitive=false synonyms=\{{{dynamic}{default}, {built_in}")
    tools.ask("kafka-configs", "--alter", *one, "--delete-config", "log.index.interval.bytes")
    tools.ask("kafka-configs", "--alter", *every, "--delete-config", "log.index.interval.bytes")
    said = tools.ask("kafka-configs", "--describe", "--all", *of_topic)
    has("a topic again", said, rf" index.interval.bytes=4096 sensitive=false synonyms=\{{{built_in}")
    said = tools.ask("kafka-configs", "--alter", *one, "--add-config", "num.partitions=5", code=1)
    has("what is read at start", said, r"Cannot update these configs dynamically: \[num.partitions\]")


def alter_loggers(tools: Tools) -> None:
    loggers = ("--entity-type", "broker-loggers", "--entity-name", broker_id(tools))
    before = re.search(r"root=([A-Z]+) ", tools.ask("kafka-configs", "--describe", *loggers))
    tools.ask("kafka-configs", "--alter", *loggers, "--add-config", "root=ERROR")
    has("the root logger", tools.ask("kafka-configs", "--describe", *loggers), r"root=ERROR ")
    level = before.group(1) if before else "?"
    tools.ask("kafka-configs", "--alter", *loggers, "--add-config", f"root={level}")
    has("the root logger again", tools.ask("kafka-configs", "--describe", *loggers), rf"root={level} ")
    said = tools.ask("kafka-configs", "--alter", *loggers, "--add-config", "no.such=INFO", code=1)
    has("an unknown logger", said, r"Invalid broker logger\(s\): no.such")


def broker_id(tools: Tools) -> str:
    node = re.search(r"id: (\d+)", tools.ask("kafka-broker-api-versions"))
    return node.group(1) if node else "?"


def cases(tools: Tools) -> list[tuple[str, Case]]:
    codecs = ["none", "gzip", "snappy", "lz4", "zstd"]
    named = [
        ("topics", topics),
        ("manual_assignment", manual_assignment),
        *[(f"console_{codec}", partial(console, codec=codec)) for codec in codecs],
        ("get_offsets", get_offsets),
        ("earliest_local_and_tiered", earliest_local_and_tiered),
        ("delete_records", delete_records),
        ("log_dirs", log_dirs),
        ("verifiable_producer", verifiable_producer),
        *[(f"producer_perf_{codec}", partial(producer_perf, codec=codec)) for codec in ("none", "lz4")],
        ("large_records", large_records),
        ("api_versions", api_versions),
        ("cluster", cluster),
        ("configs", configs),
        ("alter_topic", alter_topic),
        ("alter_brokers", alter_brokers),
        ("alter_loggers", alter_loggers),
    ]
    return [(name, partial(case, tools)) for name, case in named]


if __name__ == "__main__":
    # Most of a tool's time is its JVM's start, on one core.
    sys.exit(report.run(cases(Tools(sys.argv[1])), *sys.argv[2:], at_once=2))
