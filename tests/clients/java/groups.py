"""Kafka's tools for groups: console and verifiable consumers, kafka-consumer-groups with its resets."""

from __future__ import annotations

import json
import re
import sys
import time
from functools import partial

from tools import Tools, has

import report
from report import Case, expect


def filled(tools: Tools, purpose: str, count: int) -> str:
    """A topic of one partition with numbered lines."""
    topic = tools.create(purpose)
    tools.ask("kafka-console-producer", "--topic", topic, given="".join(f"{number}\n" for number in range(count)))
    return topic


def consume_in_group(tools: Tools, topic: str, group: str, count: int) -> list[str]:
    settings = ["--topic", topic, "--group", group, "--from-beginning", "--max-messages", str(count)]
    return tools.ask("kafka-console-consumer", *settings, "--timeout-ms", "40000").split()


def committed(tools: Tools, group: str) -> tuple[int, int, int]:
    """Committed offset, end and lag of the only partition."""
    said = tools.ask("kafka-consumer-groups", "--describe", "--group", group)
    (line,) = [line.split() for line in said.splitlines() if line.startswith(group)]
    return int(line[3]), int(line[4]), int(line[5])


def console_consumer_goes_on(tools: Tools) -> None:
    topic = filled(tools, "java-group", 100)
    expect("first 40", consume_in_group(tools, topic, topic, 40), [str(number) for number in range(40)])
    expect("committed, end, lag", committed(tools, topic), (40, 100, 60))
    expect("the rest", consume_in_group(tools, topic, topic, 60), [str(number) for number in range(40, 100)])
    expect("committed, end, lag", committed(tools, topic), (100, 100, 0))
    has("list", tools.ask("kafka-consumer-groups", "--list"), f"^{topic}$")
    state = tools.ask("kafka-consumer-groups", "--describe", "--state", "--group", topic)
    has("state", state, rf"^{topic}\s+\S+\s+\(\d+\)\s+.*Empty\s+0|^{topic}\s+.*Empty")


def resets(tools: Tools) -> None:
    topic = filled(tools, "java-reset", 50)
    consume_in_group(tools, topic, topic, 50)

    def reset(*how: str, mode: str = "--execute") -> int:
        settings = ["--reset-offsets", "--group", topic, "--topic", topic, *how, mode]
        said = tools.ask("kafka-consumer-groups", *settings)
        (line,) = [line.split() for line in said.splitlines() if line.startswith(topic)]
        return int(line[3])

    expect("--to-earliest, dry", reset("--to-earliest", mode="--dry-run"), 0)
    expect("committed after a dry run", committed(tools, topic)[0], 50)
    expect("--to-earliest", reset("--to-earliest"), 0)
    expect("--shift-by 7", reset("--shift-by", "7"), 7)
    expect("--to-offset 30", reset("--to-offset", "30"), 30)
    expect("--shift-by -10", reset("--shift-by", "-10"), 20)
    expect("--to-latest", reset("--to-latest"), 50)
    expect("committed", committed(tools, topic)[0], 50)
    expect("--to-datetime of long ago", reset("--to-datetime", "2020-01-01T00:00:00.000"), 0)
    expect("from there", consume_in_group(tools, topic, topic, 1), ["0"])


def deletes(tools: Tools) -> None:
    topic = filled(tools, "java-delete", 5)
    consume_in_group(tools, topic, topic, 5)
    said = tools.ask("kafka-consumer-groups", "--delete-offsets", "--group", topic, "--topic", topic)
    has("delete-offsets", said, rf"{topic}\s+0\s+Successful")
    consume_in_group(tools, topic, topic, 5)
    tools.ask("kafka-consumer-groups", "--delete", "--group", topic)
    expect("still listed", topic in tools.ask("kafka-consumer-groups", "--list").split(), False)
    # The tool's exit code is 0 all the same.
    has("an unknown group", tools.ask("kafka-consumer-groups", "--delete", "--group", topic), "GroupIdNotFound")


def verifiable_consumer(tools: Tools) -> None:
    topic = filled(tools, "java-verifiable-consumer", 2000)
    settings = ["--topic", topic, "--group-id", topic, "--max-messages", "2000", "--reset-policy", "earliest"]
    said = tools.ask("kafka-verifiable-consumer", *settings)
    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    expect("consumed", sum(event["count"] for event in events if event["name"] == "records_consumed"), 2000)
    offsets = [
        place["offset"] for event in events if event["name"] == "offsets_committed" for place in event["offsets"]
    ]
    expect("committed offsets in order", offsets, sorted(offsets))
    expect("the last", offsets[-1], 2000)


def consumer_perf(tools: Tools) -> None:
    topic = filled(tools, "java-consumer-perf", 5000)
    said = tools.ask("kafka-consumer-perf-test", "--topic", topic, "--num-records", "5000")
    (numbers,) = [line.split(", ") for line in said.splitlines() if re.match(r"\d{4}-\d\d-\d\d", line)]
    expect("records", int(numbers[4]), 5000)


def offsets_topic(tools: Tools) -> None:
    # The stock formatter reads the offsets topic: its records are in Kafka's own format.
    topic = filled(tools, "java-offsets-topic", 5)
    consume_in_group(tools, topic, topic, 5)
    time.sleep(1)
    formatter = ["--formatter", "org.apache.kafka.tools.consumer.OffsetsMessageFormatter"]
    settings = ["--topic", "__consumer_offsets", "--from-beginning", "--timeout-ms", "8000", *formatter]
    said = tools.ask("kafka-console-consumer", *settings)
    has("a commit of this group", said, rf'"group":"{topic}".*"topic":"{topic}".*"offset":5')


def cases(tools: Tools) -> list[tuple[str, Case]]:
    named = [
        ("console_consumer_goes_on", console_consumer_goes_on),
        ("resets", resets),
        ("deletes", deletes),
        ("verifiable_consumer", verifiable_consumer),
        ("consumer_perf", consumer_perf),
        ("offsets_topic", offsets_topic),
    ]
    return [(name, partial(case, tools)) for name, case in named]


if __name__ == "__main__":
    sys.exit(report.run(cases(Tools(sys.argv[1])), *sys.argv[2:], at_once=2))
