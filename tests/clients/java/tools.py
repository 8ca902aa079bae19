"""Starts the command line tools of Apache Kafka 4.3.1 as the scripts in its bin directory do."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile

from data import topic_name
from report import expect

# Generous: a machine with too much to do starts a JVM in a minute.
TIMEOUT_S = 240
TOOLS = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "kafka-log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "kafka-verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
    "kafka-verifiable-consumer": "org.apache.kafka.tools.VerifiableConsumer",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "kafka-consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "kafka-broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "kafka-cluster": "org.apache.kafka.tools.ClusterTool",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
}


class Tools:
    """Starts the tools against one broker."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        # An archive of loaded classes halves the CPU time of each later start.
        self.directory = tempfile.TemporaryDirectory(prefix="chronik-tools-")
        archive = f"{self.directory.name}/classes.jsa"
        self.archive_option = f"-XX:ArchiveClassesAtExit={archive}"
        self.ask("kafka-topics", "--list")
        self.archive_option = f"-XX:SharedArchiveFile={archive}"

    def command(self, tool: str, *arguments: str) -> list[str]:
        command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        # The JVM's own warnings would otherwise mix with what the tool prints.
        command += [self.archive_option, "-Xlog:disable", "-Xlog:all=error:stderr"]
        command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]
        command += ["-cp", f"{os.environ['KAFKA_LIBS']}/*", TOOLS[tool], *arguments]
        return command

    def start(self, tool: str, *arguments: str) -> subprocess.Popen[bytes]:
        """One tool that runs until it is told to end."""
        command = self.command(tool, "--bootstrap-server", self.bootstrap, *arguments)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def run(self, tool: str, *arguments: str, given: str = "", code: int | None = 0) -> str:
        """One tool; what it printed, both streams where the exit code is not to be 0. With `None` it may be any."""
        command = self.command(tool, *arguments)
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        said = f"{done.stdout}\n{done.stderr}"
        if code is not None:
            what = f"exit code of {tool} {' '.join(arguments)} ({' '.join(said.split())[-600:]})"
            expect(what, done.returncode, code)
        return done.stdout if code == 0 else said

    def ask(self, tool: str, *arguments: str, given: str = "", code: int | None = 0) -> str:
        """One tool that takes --bootstrap-server."""
        return self.run(tool, "--bootstrap-server", self.bootstrap, *arguments, given=given, code=code)

    def create(self, purpose: str, partitions: int = 1, *settings: str) -> str:
        topic = topic_name(purpose)
        configs = [word for setting in settings for word in ("--config", setting)]
        self.ask("kafka-topics", "--create", "--topic", topic, "--partitions", str(partitions), *configs)
        return topic

    def consume(self, topic: str, count: int, *arguments: str) -> list[str]:
        places = ["--partition", "0", "--offset", "earliest", "--max-messages", str(count), "--timeout-ms", "20000"]
        return self.ask("kafka-console-consumer", "--topic", topic, *places, *arguments).splitlines()


def has(what: str, text: str, pattern: str) -> None:
    if not re.search(pattern, text, re.MULTILINE):
        raise AssertionError(f"{what}: no {pattern!r} in {text[:800]!r}")
