"""Kafka's tools for groups: console and verifiable consumers, kafka-consumer-groups with its resets."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

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


def reset(tools: Tools, group: str, *how: str, mode: str = "--execute") -> dict[tuple[str, int], int]:
    """Reset a group's offsets; the new ones, as the tool shows them, by topic and partition."""
    said = tools.ask("kafka-consumer-groups", "--reset-offsets", "--group", group, *how, mode)
    lines = [line.split() for line in said.splitlines() if line.startswith(group)]
    return {(line[1], int(line[2])): int(line[3]) for line in lines}


def resets(tools: Tools) -> None:
    topic = filled(tools, "java-reset", 50)
    consume_in_group(tools, topic, topic, 50)
    of_topic = ["--topic", topic]

    def to(*how: str, mode: str = "--execute") -> int:
        (offset,) = reset(tools, topic, *of_topic, *how, mode=mode).values()
        return offset

    expect("--to-earliest, dry", to("--to-earliest", mode="--dry-run"), 0)
    expect("committed after a dry run", committed(tools, topic)[0], 50)
    expect("--to-earliest", to("--to-earliest"), 0)
    expect("--shift-by 7", to("--shift-by", "7"), 7)
    expect("--to-offset 30", to("--to-offset", "30"), 30)
    expect("--shift-by -10", to("--shift-by", "-10"), 20)
    expect("--shift-by beyond the end", to("--shift-by", "1000"), 50)
    expect("--to-latest", to("--to-latest"), 50)
    expect("committed", committed(tools, topic)[0], 50)
    expect("--to-datetime of long ago", to("--to-datetime", "2020-01-01T00:00:00.000"), 0)
    expect("from there", consume_in_group(tools, topic, topic, 1), ["0"])


def more_resets(tools: Tools) -> None:
    topic = filled(tools, "java-reset-more", 50)
    consume_in_group(tools, topic, topic, 50)
    expect("--by-duration of a day", reset(tools, topic, "--all-topics", "--by-duration", "P1D"), {(topic, 0): 0})
    exported = tools.ask(
        *["kafka-consumer-groups", "--reset-offsets", "--group", topic, "--all-topics"],
        *["--to-current", "--dry-run", "--export"],
    )
    expect("--to-current, exported", exported.split(), [f'"{topic}",0,0'])
    with tempfile.TemporaryDirectory() as directory:
        plan = Path(directory) / "plan.csv"
        plan.write_text(exported.strip().replace(",0,0", ",0,33") + "\n")
        expect("--from-file", reset(tools, topic, "--from-file", str(plan)), {(topic, 0): 33})
    expect("committed", committed(tools, topic), (33, 50, 17))
    expect(
        "--topic with partitions", reset(tools, topic, "--topic", f"{topic}:0", "--to-offset", "99"), {(topic, 0): 50}
    )


def shown(tools: Tools) -> None:
    """What --describe shows of a group in use, and what is refused meanwhile."""
    topic = filled(tools, "java-shown", 10)
    member = tools.start("kafka-console-consumer", "--topic", topic, "--group", topic, "--from-beginning")
    try:
        deadline = time.monotonic() + 60
        while not re.search(rf"^{topic}.*Stable\s+1$", state(tools, topic), re.MULTILINE):
            if time.monotonic() > deadline:
                raise AssertionError(f"the group is not Stable: {state(tools, topic)}")
        said = tools.ask("kafka-consumer-groups", "--describe", "--members", "--verbose", "--group", topic)
        has("members", said, rf"^{topic}\s+console-consumer-\S+\s+/127.0.0.1\s+console-consumer\s+1\s+.*{topic}.*0")
        said = tools.ask("kafka-consumer-groups", "--describe", "--offsets", "--verbose", "--group", topic)
        has("offsets", said, rf"^{topic}\s+{topic}\s+0\s+.*console-consumer-\S+\s+/127.0.0.1")
        said = tools.ask("kafka-consumer-groups", "--list", "--state")
        has("list with states", said, rf"^{topic}\s+.*Stable")
        said = tools.ask("kafka-consumer-groups", "--list", "--state", "stable")
        has("list of Stable ones", said, rf"^{topic}\b")
        if topic in tools.ask("kafka-consumer-groups", "--list", "--state", "empty"):
            raise AssertionError("a group in use is listed as empty")
        said = tools.ask("kafka-consumer-groups", "--delete", "--group", topic)
        has("delete of a group in use", said, "GroupNotEmptyException|not empty")
        said = tools.ask("kafka-consumer-groups", "--delete-offsets", "--group", topic, "--topic", topic)
        has("delete of offsets in use", said, "subscribed to")
        refused = ["--reset-offsets", "--group", topic, "--topic", topic, "--to-earliest", "--execute"]
        # The tool says why and ends with 0 or 1, by version.
        said = tools.ask("kafka-consumer-groups", *refused, code=None)
        has("reset of a group in use", said, "inactive")
    finally:
        member.terminate()
        member.wait()
    expect("described at the end", committed(tools, topic), (10, 10, 0))


def state(tools: Tools, group: str) -> str:
    return tools.ask("kafka-consumer-groups", "--describe", "--state", "--group", group)


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
    settings[-1] = "org.apache.kafka.tools.consumer.GroupMetadataMessageFormatter"
    said = tools.ask("kafka-console-consumer", *settings)
    has("a generation of this group", said, rf'"group":"{topic}".*"protocolType":"consumer","generation":1,')


def cases(tools: Tools) -> list[tuple[str, Case]]:
    named = [
        ("console_consumer_goes_on", console_consumer_goes_on),
        ("resets", resets),
        ("more_resets", more_resets),
        ("shown", shown),
        ("deletes", deletes),
        ("verifiable_consumer", verifiable_consumer),
        ("consumer_perf", consumer_perf),
        ("offsets_topic", offsets_topic),
    ]
    return [(name, partial(case, tools)) for name, case in named]


if __name__ == "__main__":
    sys.exit(report.run(cases(Tools(sys.argv[1])), *sys.argv[2:], at_once=2))
