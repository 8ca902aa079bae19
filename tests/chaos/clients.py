"""The real clients: how each is started, and how far they are."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import accounts
from judge import JAVA, JAVA_TOPIC, PARTITIONS, PRODUCERS, READER, TOPIC

# These cost the most of the machine for a record, and are there for what they do in a fault.
OTHERS_SHARE, OTHERS_RATE_MAX = 0.1, 150
# All producers give up within this time, and the consumer has read what is there.
END_S_MAX = 150


class Client:
    """A client process that writes what it was told into files."""

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
            self.process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            # Python and Java write down on their way where they are.
            self.process.send_signal(signal.SIGABRT)
            time.sleep(1)
            self.kill()
            raise AssertionError(f"{self.name} does not end") from None

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def java(libs: Path, bootstrap: str, rate: int, directory: Path) -> list[str]:
    """Kafka's own producer for tests, made idempotent; its values are numbers."""
    config = directory / f"{JAVA}.properties"
    lines = ["enable.idempotence=true", "retries=2147483647", "delivery.timeout.ms=120000", "request.timeout.ms=5000"]
    lines += ["reconnect.backoff.max.ms=200", "retry.backoff.ms=50", "metadata.max.age.ms=2000"]
    config.write_text("\n".join(lines))
    command = ["java", "-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=off", "-cp", f"{libs}/*"]
    command += ["org.apache.kafka.tools.VerifiableProducer", "--bootstrap-server", bootstrap, "--topic", JAVA_TOPIC]
    return [*command, "--throughput", str(rate), "--acks", "-1", "--command-config", str(config)]


def start(venvs: Path, libs: Path, bootstrap: str, records_per_second: int, directory: Path) -> dict[str, Client]:
    """All of them, by their names."""
    here = Path(__file__).parent
    confluent, kafka_python = (str(venvs / name / "bin/python") for name in ("confluent-kafka", "kafka-python"))
    other_rate = min(int(records_per_second * OTHERS_SHARE), OTHERS_RATE_MAX)
    rates = {"c": records_per_second - 2 * other_rate, "k": other_rate}
    programs = {"c": (confluent, "producer_confluent.py"), "k": (kafka_python, "producer_kafka_python.py")}
    where = [str(directory), bootstrap, TOPIC, str(PARTITIONS)]
    commands = {
        name: [python, str(here / program), name, *where, str(rates[name])]
        for name, (python, program) in programs.items()
    }
    topics = ",".join((TOPIC, JAVA_TOPIC))
    commands[READER] = [
        confluent,
        str(here / "reader_confluent.py"),
        str(directory),
        bootstrap,
        topics,
        str(PARTITIONS),
    ]
    commands[JAVA] = java(libs, bootstrap, other_rate, directory)
    return {name: Client(name, command, directory) for name, command in commands.items()}


class Tally:
    """How many records have been acknowledged so far; a moment late, since clients write in blocks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.java_count = self.java_read_bytes = 0

    def count(self) -> int:
        """Of all producers."""
        with (self.directory / f"{JAVA}.out").open("rb") as out:
            out.seek(self.java_read_bytes)
            # The last line may be half there; each is looked at once.
            whole, _, _ = out.read().rpartition(b"\n")
        self.java_count += whole.count(b'"producer_send_success"')
        self.java_read_bytes += len(whole)
        return self.java_count + sum(accounts.count(self.directory, name, PARTITIONS) for name in PRODUCERS)


def stop(producers: Iterable[Client]) -> None:
    """End producers together."""
    ending = list(producers)
    for client in ending:
        client.stop()
    for client in ending:
        client.wait()
